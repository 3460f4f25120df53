//! The maps and globals of a guest. Sizes are the least that a map can have, because a load for a host
//! makes these maps, too; the collector in a guest sets others before loading.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf, StackTrace},
    programs::tracing::StackIdContext,
};
use tdtrace_common::{
    guest::{
        CallEntry, CallEntryKey, CallKey, CallValue, Entry, EntryKey, GuestAddresses, GuestControl,
        GuestLoss, GuestState, NO_ADDRESS, OPERATIONS, STACK_BESIDE, VE_REASONS, VeEvent, VeInfo,
        VeKey, VeStats, VeValue,
    },
    layout::GuestLayout,
};

use crate::maps::add;

/// Offsets of the running kernel.
#[unsafe(no_mangle)]
pub(crate) static GUEST_LAYOUT: GuestLayout = GuestLayout::EMPTY;

/// Addresses of the running kernel.
#[unsafe(no_mangle)]
static GUEST_ADDRESSES: GuestAddresses = GuestAddresses::UNKNOWN;

/// Whether each #VE is streamed.
#[unsafe(no_mangle)]
static GUEST_STREAM: u8 = 0;

/// The collector's process.
#[unsafe(no_mangle)]
static GUEST_SELF: u32 = 0;

/// How the function of each operation says that it failed, a [`tdtrace_common::guest::Returns`].
#[unsafe(no_mangle)]
static GUEST_RETURNS: [u8; OPERATIONS] = [0; OPERATIONS];

/// Addresses of kernel variables.
#[inline(always)]
pub(crate) fn addresses() -> GuestAddresses {
    // SAFETY: a plain static; volatile, because the user side overrides its value at load.
    unsafe { core::ptr::read_volatile(&raw const GUEST_ADDRESSES) }
}

/// Whether each #VE is streamed.
#[inline(always)]
pub(crate) fn is_streaming() -> bool {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const GUEST_STREAM) != 0 }
}

/// The collector's process.
#[inline(always)]
pub(crate) fn own_process() -> u32 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const GUEST_SELF) }
}

/// How the function of an operation says that it failed.
#[inline(always)]
pub(crate) fn returns(operation: u32) -> u8 {
    let returns = &raw const GUEST_RETURNS;
    if operation as usize >= OPERATIONS {
        return 0;
    }
    // SAFETY: as above, and within the array.
    unsafe { core::ptr::read_volatile(returns.cast::<u8>().add(operation as usize)) }
}

#[map]
static GUEST_CONTROL: Array<GuestControl> = Array::with_max_entries(1, 0);

#[map]
static GUEST_STATE: Array<GuestState> = Array::with_max_entries(1, 0);

/// #VE handlers that run.
#[map]
pub(crate) static VE_ENTRIES: HashMap<EntryKey, Entry> = HashMap::with_max_entries(1, 0);

#[map]
pub(crate) static VE_PLACES: HashMap<VeKey, VeValue> = HashMap::with_max_entries(1, 0);

#[map]
pub(crate) static VE_STATS: PerCpuArray<VeStats> =
    PerCpuArray::with_max_entries(VE_REASONS as u32, 0);

/// What is put together at the end of a #VE: too much for the stack. On one CPU only one program at a
/// time has it, since a program does not run within itself.
#[map]
pub(crate) static VE_SCRATCH: PerCpuArray<(VeEvent, VeValue)> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static VE_EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

#[map]
static GUEST_STACKS: StackTrace = StackTrace::with_max_entries(1, 0);

/// Stacks whose place in [`GUEST_STACKS`] another one has.
#[map]
static GUEST_STACKS_BESIDE: StackTrace = StackTrace::with_max_entries(1, 0);

#[map]
pub(crate) static CALLS: HashMap<CallKey, CallValue> = HashMap::with_max_entries(1, 0);

#[map]
pub(crate) static CALL_ENTRIES: HashMap<CallEntryKey, CallEntry> = HashMap::with_max_entries(1, 0);

#[map]
static GUEST_LOSSES: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(GuestLoss::ALL.len() as u32, 0);

/// The control element, if the counting is on.
#[inline(always)]
pub(crate) fn control() -> Option<*mut GuestControl> {
    let control = GUEST_CONTROL.get_ptr_mut(0)?;
    // SAFETY: the map's element.
    let on = unsafe { core::ptr::read_volatile(&raw const (*control).on) };
    (on != 0).then_some(control)
}

/// What the programs tell the collector.
#[inline(always)]
pub(crate) fn state() -> Option<*mut GuestState> {
    GUEST_STATE.get_ptr_mut(0)
}

/// The time, if it may be read; 0 otherwise. `ve` is the #VE within which it is read, if any.
#[inline(always)]
pub(crate) fn now(control: *mut GuestControl, ve: Option<&VeInfo>) -> u64 {
    // SAFETY: the map's element; written as whole words.
    let (clock, hpet) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*control).clock),
            core::ptr::read_volatile(&raw const (*control).hpet),
        )
    };
    if clock == 0 {
        return 0;
    }
    if let Some(ve) = ve
        && ve.reason == 48
        && hpet != NO_ADDRESS
        // The HPET lies below the lowest place that the shared bit can have.
        && ve.gpa & ((1 << 47) - 1) & !0xfff == hpet
    {
        return 0;
    }
    // SAFETY: no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// `tgid << 32 | pid`, and for the idle tasks, all of which have 0, something of their own.
#[inline(always)]
pub(crate) fn thread() -> u64 {
    match bpf_get_current_pid_tgid() {
        // SAFETY: no preconditions.
        0 => 1 << 63 | u64::from(unsafe { bpf_get_smp_processor_id() }),
        thread => thread,
    }
}

/// The kernel's stack, or the error that becomes its number. Nothing is evicted for it.
#[inline(always)]
pub(crate) fn stack(ctx: &impl StackIdContext) -> i32 {
    // Frames are compared, not hashes alone, which two stacks may share.
    const EXACT: u64 = 0;
    if let Ok(stack) = ctx.get_stackid(&GUEST_STACKS, EXACT) {
        return stack as i32;
    }
    // A stack has one place, which its hash names, and where another one is the kernel does not keep it
    // (kernel/bpf/stackmap.c:stackid_fastpath). Few meet there, so that fewer meet again beside.
    match ctx.get_stackid(&GUEST_STACKS_BESIDE, EXACT) {
        Ok(stack) => stack as i32 | STACK_BESIDE,
        Err(error) => {
            lose(GuestLoss::Stacks);
            error
        }
    }
}

/// The next number of a word that all CPUs write, from 1 on.
#[inline(always)]
pub(crate) fn next(word: *mut u64) -> u64 {
    let mut number = 1_u64;
    // SAFETY: as above; afterwards the register holds what the word was.
    unsafe {
        core::arch::asm!("{number} = atomic_fetch_add((u64 *)({word} + 0), {number})", word = in(reg) word, number = inout(reg) number);
    }
    number.wrapping_add(1)
}

/// Raises a word that all CPUs write to `number`, if it is less.
#[inline(always)]
pub(crate) fn raise(word: *mut u64, number: u64) {
    // Whoever takes a greater number out of the word puts it back, so none is lost; that another CPU
    // gets in between that often does not happen.
    const ATTEMPTS: u32 = 4;
    let mut held = number;
    for _ in 0..ATTEMPTS {
        // SAFETY: as above; volatile, because other CPUs write it.
        if unsafe { core::ptr::read_volatile(word) } >= held {
            return;
        }
        let mut found = held;
        // SAFETY: as above; afterwards the register holds what the word was.
        unsafe {
            core::arch::asm!("{found} = xchg_64({word} + 0, {found})", word = in(reg) word, found = inout(reg) found);
        }
        if found <= held {
            return;
        }
        held = found;
    }
}

/// Counts something that was not counted, or only in part.
#[inline(always)]
pub(crate) fn lose(loss: GuestLoss) {
    if let Some(count) = GUEST_LOSSES.get_ptr_mut(loss as u32) {
        // Several programs write it, and one may interrupt another.
        add(count, 1);
    }
}
