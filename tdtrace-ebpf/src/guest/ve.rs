//! A #VE from its beginning to its end, and how it is counted by reason.

use aya_ebpf::{EbpfContext, helpers::bpf_get_smp_processor_id, programs::tracing::StackIdContext};
use tdtrace_common::{
    guest::{
        Context, Entry, EntryKey, GuestControl, GuestLoss, NO_ADDRESS, VE_ERRNO, VE_HANDLED,
        VE_OWN, VE_TIMED, VE_UNPAIRED, VE_UNREAD, VE_USER, VeEvent, VeInfo, ve_reason_index,
    },
    latency::{BUCKETS, bucket},
};

use super::{
    frame::{self, Registers},
    maps::{
        VE_ENTRIES, VE_EVENTS, VE_SCRATCH, VE_STATS, addresses, control, is_streaming, lose, next,
        now, own_process, state, thread,
    },
    place::{EPT_VIOLATION, count_place, describe},
};
use crate::{constant::opaque, kernel::read};

/// A #VE begins: `regs` and `ve` are the handler's arguments, `frame` says which handler it is.
#[inline(always)]
pub(super) fn begin(frame: u64, regs: u64, ve: u64) {
    let (Some(control), Some(state)) = (control(), state()) else {
        return;
    };
    let (Some(ve), Some(regs)) = (frame::ve_info(ve), frame::registers(regs)) else {
        return lose(GuestLoss::Unread);
    };
    let (preempt_count, context) = frame::context();
    let entry = Entry {
        // SAFETY: the map's element.
        sequence: next(unsafe { &raw mut (*state).sequence }),
        at: now(control, Some(&ve)),
        ve,
        ip: regs.ip,
        ax: regs.ax,
        cx: regs.cx,
        flags: regs.flags | context,
        preempt_count,
        errno: 0,
        reserved: 0,
    };
    let key = EntryKey { thread: thread(), frame };
    if VE_ENTRIES.insert(&key, &entry, 0).is_err() {
        lose(GuestLoss::Entries);
    }
}

/// `handle_mmio` returned `errno` to the handler `frame`.
#[inline(always)]
pub(super) fn mmio_returned(frame: u64, errno: i32) {
    if control().is_none() {
        return;
    }
    let key = EntryKey { thread: thread(), frame };
    if let Some(entry) = VE_ENTRIES.get_ptr_mut(&key) {
        // SAFETY: the value of a preallocated map; nobody else has this handler's.
        unsafe {
            (*entry).errno = errno;
            (*entry).flags |= VE_ERRNO;
        }
    }
}

/// A #VE ends. `ve` and `regs` as the handler left them, where the probe knows them.
#[inline(always)]
pub(super) fn end<C: EbpfContext + StackIdContext>(
    ctx: &C,
    frame: u64,
    ve: Option<VeInfo>,
    regs: Option<Registers>,
    handled: bool,
) {
    let (Some(control), Some(scratch)) = (control(), VE_SCRATCH.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: this CPU's value, see there.
    let (event, value) = unsafe { (&mut (*scratch).0, &mut (*scratch).1) };
    *event = VeEvent::default();
    event.thread = thread();
    // SAFETY: no preconditions.
    event.cpu = unsafe { bpf_get_smp_processor_id() };
    event.flags = if handled { VE_HANDLED } else { 0 };
    if !take_entry(event, frame, ve.as_ref(), control) {
        guess(event, ve, regs, handled);
        lose(GuestLoss::Unpaired);
    }
    if (event.thread >> 32) as u32 == own_process()
        && matches!(Context::of_flags(event.flags), Context::Unknown | Context::Task)
    {
        event.flags |= VE_OWN;
    }
    note_shared_bit(event);
    count(event);
    count_place(ctx, event, value);
    if is_streaming() {
        describe(ctx, event);
        // The collector comes by itself: waking it up may be an IPI, and that a #VE.
        const NO_WAKEUP: u64 = 1;
        if VE_EVENTS.output::<VeEvent>(&*event, NO_WAKEUP).is_err() {
            lose(GuestLoss::Events);
        }
    }
}

/// Takes what the beginning of this #VE left; false if there is nothing, or something of another.
#[inline(always)]
fn take_entry(
    event: &mut VeEvent,
    frame: u64,
    ve: Option<&VeInfo>,
    control: *mut GuestControl,
) -> bool {
    let key = EntryKey { thread: event.thread, frame };
    let Some(entry) = VE_ENTRIES.get_ptr_mut(&key) else {
        return false;
    };
    // SAFETY: the value of a preallocated map; nobody else has this handler's.
    let entry = unsafe { &mut *entry };
    let is_same = ve.is_none_or(|ve| {
        ve.reason == entry.ve.reason
            && ve.qualification == entry.ve.qualification
            && ve.gpa == entry.ve.gpa
    });
    let is_whole = entry.sequence != 0 && is_same;
    if is_whole {
        event.sequence = entry.sequence;
        event.at = entry.at;
        event.ve = entry.ve;
        event.ip = entry.ip;
        event.ax = entry.ax;
        event.cx = entry.cx;
        event.flags |= entry.flags;
        event.preempt_count = entry.preempt_count;
        event.errno = entry.errno;
        if entry.at != 0 {
            let now = now(control, Some(&event.ve));
            if now >= entry.at {
                event.ns = now - entry.at;
                event.flags |= VE_TIMED;
            }
        }
    }
    // Should it stay, because the map is locked where this interrupted, then as nobody's.
    entry.sequence = 0;
    let _ = VE_ENTRIES.remove(&key);
    is_whole
}

/// What can be told from the end alone: the handler has moved RIP on if it succeeded, by a length that
/// is known unless it was an EPT violation.
#[inline(always)]
fn guess(event: &mut VeEvent, ve: Option<VeInfo>, regs: Option<Registers>, handled: bool) {
    event.flags |= VE_UNPAIRED;
    let (count, context) = frame::context();
    event.preempt_count = count;
    event.flags |= context;
    let (Some(ve), Some(regs)) = (ve, regs) else {
        event.flags |= VE_UNREAD;
        event.ve.reason = u64::MAX;
        return;
    };
    event.ve = ve;
    event.flags |= regs.flags;
    if !handled {
        event.ip = regs.ip;
    } else if ve.reason != EPT_VIOLATION {
        event.ip = regs.ip.wrapping_sub(u64::from(ve.length));
    }
    // An MSR's index is still there; CPUID has put its answer over its leaf.
    event.cx = regs.cx;
}

/// Reads the shared bit once there is something that has it.
#[inline(always)]
fn note_shared_bit(event: &VeEvent) {
    if event.ve.reason != EPT_VIOLATION {
        return;
    }
    let address = addresses().cc_mask;
    if address == NO_ADDRESS {
        return;
    }
    let Some(state) = state() else {
        return;
    };
    // SAFETY: the map's element. All that write it write the same.
    unsafe {
        if (*state).cc_mask == 0
            && let Some(mask) = read::<u64>(address, 0)
        {
            (*state).cc_mask = mask;
        }
    }
}

/// Counts it by its reason, on this CPU.
#[inline(always)]
fn count(event: &VeEvent) {
    let Some(stats) = VE_STATS.get_ptr_mut(ve_reason_index(event.ve.reason) as u32) else {
        return;
    };
    let bit = |flag: u32| u64::from(event.flags & flag != 0);
    // SAFETY: this CPU's value; a program does not run within itself on one CPU.
    let stats = unsafe { &mut *stats };
    stats.count += 1;
    stats.failed += 1 - bit(VE_HANDLED);
    stats.user += bit(VE_USER);
    stats.own += bit(VE_OWN);
    stats.unpaired += bit(VE_UNPAIRED);
    if event.flags & VE_TIMED != 0 {
        stats.ns += event.ns;
        if event.ns > stats.max_ns {
            stats.max_ns = event.ns;
        }
        let index = opaque(bucket(event.ns));
        if index < BUCKETS {
            stats.buckets[index] += 1;
        }
    }
}
