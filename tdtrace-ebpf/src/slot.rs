//! Finding the slot of a vCPU, making one, and telling a vCPU from its successor at the same
//! address. All of it runs on the vCPU's own thread.

use core::{
    mem::offset_of,
    ptr::NonNull,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_ANY, BPF_NOEXIST},
    cty::c_void,
    programs::RawTracePointContext,
};
use aya_log_ebpf::debug as log_debug;
use tdtrace_common::counters::{
    COUNTS, Class, Hotspot, HotspotKey, HotspotValue, KvmObject, KvmStat, Loss, Place, REASONS,
    SLOT_HOTSPOTS, STATE_EXIT_SHIFT, USERSPACE, VcpuSlot, place_start,
};
use tdtrace_common::{
    kvm,
    latency::{SLOT_ROWS, Timing},
    ledger::Conversion,
};

use crate::{
    constant::{debug, is_direct, opaque, opaque_pointer},
    context::{self, Task},
    kernel::{self, offset, read},
    ledger,
    maps::{
        FREE_VCPUS, FREE_VMS, HOTSPOTS, SLOT_AT, VCPU_INDEX, VM_INDEX, VMS, lose, lose_index, memo,
        slot_at,
    },
    td,
};

/// The slot of a vCPU.
pub(crate) struct Slot(NonNull<VcpuSlot>);

impl Slot {
    /// The slot at `index`, whoever has it.
    #[inline(always)]
    pub(crate) fn at(index: u32) -> Option<Self> {
        Self::named_at(&index)
    }

    /// The slot whose index stands at `index`, in a value of a map or on the stack.
    #[inline(always)]
    pub(crate) fn named_at(index: *const u32) -> Option<Self> {
        slot_at(index).map(Self)
    }

    #[inline(always)]
    pub(crate) fn index(&mut self) -> u32 {
        self.get().index
    }

    #[inline(always)]
    pub(crate) fn get(&mut self) -> &mut VcpuSlot {
        // SAFETY: a value of the array map, written only by the thread that runs this vCPU.
        unsafe { self.0.as_mut() }
    }

    #[inline(always)]
    pub(crate) fn count(&mut self, class: Class) -> u64 {
        let count = &mut self.get().counts[class as usize];
        *count += 1;
        *count
    }

    /// The same for a class that is not a constant.
    #[inline(always)]
    pub(crate) fn count_index(&mut self, class: usize) {
        self.get().counts[opaque(class) & (COUNTS - 1)] += 1;
    }

    /// Counts index `reason` of `VcpuSlot::reasons`.
    #[inline(always)]
    pub(crate) fn count_reason(&mut self, reason: usize) {
        self.get().reasons[opaque(reason) & (REASONS - 1)] += 1;
    }

    /// Counts a place: in the slot while there is room near its hash, else in the map.
    #[inline(always)]
    pub(crate) fn count_place(&mut self, class: Class, address: u64, size: u32) {
        self.count_place_of(class as u64, address, size.into());
    }

    /// The same for a class that is not a constant. Only places that are known are looked for here.
    #[inline(always)]
    pub(crate) fn count_place_of(&mut self, class: u64, address: u64, size: u64) {
        let kind = Place::kind(class, size);
        let start = place_start(address, kind);
        for probe in 0..PLACE_PROBES {
            let hotspot = self.hotspot(start + probe);
            if is_place(&hotspot.place, address, kind) {
                hotspot.count += 1;
                return;
            }
        }
        count_new_place(self.get().index, address, kind);
    }

    /// Hotspot `index`, which may be any number.
    #[inline(always)]
    fn hotspot(&mut self, index: usize) -> &mut Hotspot {
        let hotspot = &raw mut self.get().hotspots[index & (SLOT_HOTSPOTS - 1)];
        // The compiler would rather compute it twice.
        // SAFETY: the same pointer.
        unsafe { &mut *opaque_pointer(hotspot) }
    }

    /// Counts an event and its place, unless the exits of a TD tell of it.
    #[inline(always)]
    fn count_told(&mut self, class: u64, address: u64, size: u64) -> u32 {
        if self.get().td != 0 && Class::TOLD_BY_TD_EXITS >> class & 1 != 0 {
            return 0;
        }
        self.count_index(class as usize);
        self.count_place_of(class, address, size);
        0
    }

    /// Reads KVM's own counters beside ours; both stand between two exits here.
    #[inline(always)]
    pub(crate) fn sync(&mut self, vcpu: u64) {
        let slot = self.get();
        slot.synced += 1;
        // The x86 CPU stores in order; this keeps the compiler from moving stores across.
        compiler_fence(Ordering::Release);
        if is_direct() {
            kernel::load_kvm_stat(vcpu, &mut slot.last);
        } else {
            read_kvm_stat(slot.index, vcpu);
        }
        let stat = &mut slot.last;
        stat.seen_exits = slot.counts[Class::Exit as usize];
        stat.seen_runs = slot.counts[Class::RunEnd as usize];
        stat.seen_hypercalls = slot.counts[Class::Hypercall as usize];
        stat.state = 0;
        if slot.td != 0
            && let Some(vm) = VMS.get_ptr(slot.vm)
        {
            // SAFETY: the entry of this vCPU's VM, written before the slot got it.
            let given_up = kernel::given_up(unsafe { (*vm).kvm });
            if given_up != 0 {
                stat.state = given_up | u64::from(slot.td_exit) << STATE_EXIT_SHIFT;
            }
        }
        if slot.synced == 1 {
            slot.first = slot.last;
        }
        compiler_fence(Ordering::Release);
        slot.synced += 1;
    }
}

/// Hotspots of a slot that a place may have.
const PLACE_PROBES: usize = 2;

/// Whether `place` is that of `address` and `kind`, by one jump for two words.
#[inline(always)]
fn is_place(place: &Place, address: u64, kind: u64) -> bool {
    const _: () = assert!(offset_of!(Place, size) == 8 && offset_of!(Place, class) == 12);
    const _: () = assert!(size_of::<Place>() == 16);
    // SAFETY: the second word is `size` and `class`, and as aligned as the first.
    let its_kind = unsafe { *(&raw const place.size).cast::<u64>() };
    opaque(((place.address ^ address) | (its_kind ^ kind)) as usize) == 0
}

/// Counts a place that slot `index` does not know: in the slot while there is room near its hash, else in the
/// map. Out of line: every program has it, and few events are the first at their place.
#[cold]
#[inline(never)]
fn count_new_place(index: u32, address: u64, kind: u64) -> u32 {
    let Some(mut slot) = Slot::at(index) else { return 0 };
    let place = Place { address, size: kind as u32, class: (kind >> 32) as u32 };
    for probe in 0..PLACE_PROBES {
        let hotspot = slot.hotspot(place_start(address, kind) + probe);
        if hotspot.place.class == 0 {
            *hotspot = Hotspot { place, count: 1 };
            return 0;
        }
    }
    let life = slot.get().life;
    if !count_in_map(&HotspotKey { place, slot: index, life }) {
        slot.get().hotspots_lost += 1;
    }
    0
}

/// [`Slot::sync`] of slot `index`. Out of line, for programs that seldom do it: the rest of their way is shorter
/// without it.
#[cold]
#[inline(never)]
pub(crate) fn sync_seldom(index: u32, vcpu: u64) -> u32 {
    if let Some(mut slot) = Slot::at(index) {
        slot.sync(vcpu);
    }
    0
}

/// KVM's own counters, in [`VcpuSlot::last`] of slot `index`. Out of line: what is read at once would take
/// `kvm_fpu` beyond the 512 bytes of stack that kernels before 6.13 allow.
#[cold]
#[inline(never)]
fn read_kvm_stat(index: u32, vcpu: u64) -> u32 {
    if let Some(mut slot) = Slot::at(index) {
        kernel::read_kvm_stat(vcpu, &mut slot.get().last);
    }
    0
}

#[inline(always)]
fn count_in_map(key: &HotspotKey) -> bool {
    if let Some(value) = HOTSPOTS.get_ptr_mut(key) {
        // SAFETY: the key names the vCPU, whose thread is the only writer.
        unsafe { (*value).count += 1 };
        return true;
    }
    let value = HotspotValue { count: 1, reserved: [0; 6] };
    HOTSPOTS.insert(key, value, u64::from(BPF_NOEXIST)).is_ok()
}

/// The slot of the vCPU that this thread has loaded.
#[inline(always)]
pub(crate) fn running<C: EbpfContext>(ctx: &C, class: Class) -> Option<Slot> {
    match Task::current().running_vcpu() {
        Some(vcpu) => of(ctx, vcpu, class),
        None => {
            lose(Loss::Unattributed, class);
            None
        }
    }
}

/// Counts an event of the vCPU that this thread has loaded, and its place. The class is a number: what
/// tells reads from writes in a tracepoint's arguments is added to it. The program's result.
#[inline(always)]
pub(crate) fn count_running<C: EbpfContext>(ctx: &C, class: u64, address: u64, size: u64) -> u32 {
    let Some(vcpu) = Task::current().running_vcpu() else {
        lose_index(Loss::Unattributed.first() + class as u32);
        return 0;
    };
    match remembered(vcpu) {
        Some(mut slot) => slot.count_told(class, address, size),
        None => count_unremembered(ctx.as_ptr(), vcpu, class, address, size),
    }
}

/// The rest of [`count_running`] where this CPU remembers another vCPU. Out of line and to its end: no jump leads
/// around it.
#[cold]
#[inline(never)]
fn count_unremembered(ctx: *mut c_void, vcpu: u64, class: u64, address: u64, size: u64) -> u32 {
    match find_or_make(ctx, vcpu, class as u32) {
        Some(mut slot) => slot.count_told(class, address, size),
        None => 0,
    }
}

/// The slot of `vcpu`, made if it has none.
#[inline(always)]
pub(crate) fn of<C: EbpfContext>(ctx: &C, vcpu: u64, class: Class) -> Option<Slot> {
    remembered(vcpu).or_else(|| find_or_make(ctx.as_ptr(), vcpu, class as u32))
}

/// The slot of `vcpu`, if it is the one that this CPU remembers.
#[inline(always)]
fn remembered(vcpu: u64) -> Option<Slot> {
    // SAFETY: only the address is made. The lower half of the word; a torn or stale guess is caught by the
    // comparison below.
    let guess = unsafe { &raw const (*memo()?).slot }.cast::<u32>();
    let mut slot = Slot::named_at(guess)?;
    (slot.get().vcpu == vcpu).then_some(slot)
}

/// The slot of `vcpu`, found or made, which this CPU remembers from now on; `None` if it gets none, which is
/// counted as a loss of `class`. Out of line: what the CPU remembers is right nearly always.
#[cold]
#[inline(never)]
fn find_or_make(ctx: *mut c_void, vcpu: u64, class: u32) -> Option<Slot> {
    let index = match find(vcpu) {
        Some(index) => index,
        None => u32::try_from(make(ctx, vcpu, class)).ok()?,
    };
    if let Some(memo) = memo() {
        // SAFETY: this CPU's value, written as one word.
        unsafe { (*memo).slot = u64::from(index) };
    }
    Slot::at(index)
}

/// The slot of the vCPU at the beginning of a KVM_RUN, where a vCPU that took over the address of a
/// dead one shows: it has had no exit, or fewer, or runs in another process.
#[inline(always)]
pub(crate) fn of_run<C: EbpfContext>(ctx: &C, vcpu: u64, task: Task) -> Option<Slot> {
    let mut slot = of(ctx, vcpu, Class::RunBegin)?;
    let exits = kernel::stat_exits(vcpu).unwrap_or(0);
    let current = slot.get();
    if current.tgid == task.tgid() && exits > 0 && exits >= current.last.exits {
        return Some(slot);
    }
    of_doubtful_run(ctx.as_ptr(), vcpu, slot.index())
}

/// The rest of [`of_run`] for slot `index`, which may be that of a dead vCPU.
#[cold]
#[inline(never)]
fn of_doubtful_run(ctx: *mut c_void, vcpu: u64, index: u32) -> Option<Slot> {
    let mut slot = Slot::at(index)?;
    let current = slot.get();
    if object(vcpu)? == current.object {
        current.tgid = context::tgid();
        return Some(slot);
    }
    current.vcpu = 0;
    find_or_make(ctx, vcpu, Class::RunBegin as u32)
}

/// Which vCPU is at `vcpu` now.
#[inline(always)]
fn object(vcpu: u64) -> Option<KvmObject> {
    let kvm = read::<u64>(vcpu, offset!(vcpu_kvm))?;
    Some(KvmObject { address: vcpu, identity: kernel::vm_identity(kvm) })
}

#[inline(always)]
fn find(vcpu: u64) -> Option<u32> {
    // SAFETY: the value is a number that is only used as an index.
    let index = *unsafe { VCPU_INDEX.get(object(vcpu)?) }?;
    (Slot::at(index)?.get().vcpu == vcpu).then_some(index)
}

/// Gives `vcpu` a free slot.
#[inline(always)]
fn make(ctx: *mut c_void, vcpu: u64, class: u32) -> i64 {
    // Even if there is no slot for this one.
    end_predecessor(vcpu);
    let made = make_slot(vcpu);
    if made < 0 {
        let loss = match made {
            UNATTRIBUTED => Loss::Unattributed,
            MAP_FULL => Loss::MapFull,
            _ => Loss::SlotsFull,
        };
        lose_index(loss.first() + class);
    } else if debug() {
        log_debug!(&RawTracePointContext::new(ctx), "vcpu {:x} takes slot {}", vcpu, made);
    }
    made
}

/// A frame is 4 KiB.
pub(crate) const PAGE_SHIFT: u32 = 12;

/// What [`make_slot`] returns instead of an index.
const UNATTRIBUTED: i64 = -1;
const SLOTS_FULL: i64 = -2;
const MAP_FULL: i64 = -3;

/// The index of the new slot, or a reason.
#[inline(always)]
fn make_slot(vcpu: u64) -> i64 {
    let Some(kvm) = read::<u64>(vcpu, offset!(vcpu_kvm)) else {
        return UNATTRIBUTED;
    };
    let Ok(Some(index)) = FREE_VCPUS.pop() else {
        return SLOTS_FULL;
    };
    match fill_slot(index, vcpu, kvm) {
        Ok(()) => i64::from(index),
        Err(reason) => {
            // Nobody has seen it, so it can go back; if that fails too, one slot is out of use.
            let _ = FREE_VCPUS.push(index, 0);
            reason
        }
    }
}

/// Makes free slot `index` that of `vcpu`. Its life goes on last: until then it is nobody's.
#[inline(always)]
fn fill_slot(index: u32, vcpu: u64, kvm: u64) -> Result<(), i64> {
    let identity = kernel::vm_identity(kvm);
    let vm = vm_of(KvmObject { address: kvm, identity })?;
    let Some(mut slot) = Slot::at(index) else {
        return Err(SLOTS_FULL);
    };
    // Taken from the queue of free slots, so no other writer has it.
    let slot = slot.get();
    clear(slot);
    slot.index = index;
    slot.object = KvmObject { address: vcpu, identity };
    slot.vm = vm;
    slot.vcpu_id = read(vcpu, offset!(vcpu_id)).unwrap_or(u32::MAX);
    slot.tgid = context::tgid();
    slot.tid = 0;
    (slot.td, slot.shared_bit) = td_of(vm, kvm);
    ledger::sees_memory(vm, kvm);
    if VCPU_INDEX.insert(slot.object, index, u64::from(BPF_ANY)).is_err() {
        return Err(MAP_FULL);
    }
    // If there is no room, a stale guess of another CPU is not caught before the next KVM_RUN begins.
    let _ = SLOT_AT.insert(vcpu, index, u64::from(BPF_ANY));
    slot.vcpu = vcpu;
    slot.life += 1;
    Ok(())
}

/// The vCPU that was at this address before is no more. Were it left in its slot, a CPU that remembers
/// that slot would count the new vCPU's events there.
#[inline(always)]
fn end_predecessor(vcpu: u64) {
    // SAFETY: the value is a number that is only used as an index.
    let before = unsafe { SLOT_AT.get(vcpu) }.and_then(|index| Slot::at(*index));
    if let Some(mut before) = before
        && before.get().vcpu == vcpu
    {
        before.get().vcpu = 0;
    }
}

/// Whether the VM with entry `index`, at `kvm`, is a TD whose registers can be read, and its shared bit. KVM sets
/// that with KVM_TDX_INIT_VM, before there are vCPUs, but perhaps after the entry was made.
#[inline(always)]
fn td_of(index: u32, kvm: u64) -> (u8, u64) {
    let Some(vm) = VMS.get_ptr(index) else { return (0, 0) };
    // SAFETY: the entry of a VM that is there, written before its index was known.
    let vm_type = unsafe { (*vm).vm_type };
    let direct_bits = read::<u64>(kvm, offset!(kvm_gfn_direct_bits)).unwrap_or(0);
    ((vm_type == kvm::TDX_VM && td::is_known()).into(), direct_bits << PAGE_SHIFT)
}

/// Zeroes what the slot's last vCPU left; loops, because a block of this size does not fit the stack.
#[inline(always)]
fn clear(slot: &mut VcpuSlot) {
    slot.leaving = 0;
    slot.td = 0;
    slot.td_exit = 0;
    slot.hotspots_lost = 0;
    slot.synced = 0;
    slot.timing = Timing::default();
    slot.conversion = Conversion::default();
    for index in 0..SLOT_ROWS {
        slot.rows[index] = 0;
    }
    slot.first = KvmStat::default();
    slot.last = KvmStat::default();
    for index in 0..COUNTS {
        slot.counts[index] = 0;
    }
    for index in 0..REASONS {
        slot.reasons[index] = 0;
    }
    for index in 0..USERSPACE {
        slot.userspace[index] = 0;
    }
    for index in 0..SLOT_HOTSPOTS {
        slot.hotspots[index] = Hotspot::default();
    }
}

/// The entry of `kvm`, made if it has none.
#[inline(always)]
pub(crate) fn vm_of(kvm: KvmObject) -> Result<u32, i64> {
    // SAFETY: the value is a number that is only used as an index.
    if let Some(index) = unsafe { VM_INDEX.get(kvm) } {
        return Ok(*index);
    }
    let Ok(Some(index)) = FREE_VMS.pop() else {
        return Err(SLOTS_FULL);
    };
    let Some(vm) = VMS.get_ptr_mut(index) else {
        return Err(SLOTS_FULL);
    };
    // SAFETY: taken from the queue of free entries, so no other writer has it.
    let vm = unsafe { &mut *vm };
    vm.kvm = kvm.address;
    vm.identity = kvm.identity;
    vm.seen_at = context::now();
    vm.tgid = context::tgid();
    vm.userspace_pid = read(kvm.address, offset!(kvm_userspace_pid)).unwrap_or(0);
    vm.vm_type = read::<u8>(kvm.address, offset!(kvm_vm_type)).map_or(u32::MAX, u32::from);
    vm.comm = kernel::process_name();
    ledger::clear(index);
    // The vCPUs of a new VM begin at the same time: one of them makes the entry.
    if VM_INDEX.insert(kvm, index, u64::from(BPF_NOEXIST)).is_ok() {
        vm.life += 1;
        ledger::runs_in(&vm.tgid, &index);
        return Ok(index);
    }
    let _ = FREE_VMS.push(index, 0);
    // SAFETY: as above.
    unsafe { VM_INDEX.get(kvm) }.copied().ok_or(MAP_FULL)
}
