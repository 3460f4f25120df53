//! The maps and the read-only globals. Maps whose size depends on the machine have one entry here; a
//! load that uses them says how many.

use core::{
    arch::asm,
    ptr::{self, NonNull},
};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    cty::c_void,
    helpers::bpf_map_lookup_elem,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, Queue, RingBuf},
};
use tdtrace_common::{
    counters::{
        COUNTS, Class, CpuMemo, HotspotKey, HotspotValue, KvmObject, Loss, VcpuSlot, VmEntry,
    },
    latency::LatencyRow,
    ledger::{VmLedger, VmmCall},
    synthetic::{SyntheticCpu, SyntheticPage},
    td::TdWindow,
};

use crate::constant::sends_slow;

/// Durations of more nanoseconds than that are sent one by one; 0: none.
#[unsafe(no_mangle)]
static SLOWER_THAN: u64 = 0;

/// Above how many nanoseconds a duration is sent; 0: none.
#[inline(always)]
pub(crate) fn slower_than() -> u64 {
    if !sends_slow() {
        return 0;
    }
    // SAFETY: a plain static; volatile, because the user side overrides its value at load.
    unsafe { ptr::read_volatile(&raw const SLOWER_THAN) }
}

#[map]
pub(crate) static VCPUS: Array<VcpuSlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub(crate) static VMS: Array<VmEntry> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Indices of [`VCPUS`] that may be taken; the user side fills it.
#[map]
pub(crate) static FREE_VCPUS: Queue<u32> = Queue::with_max_entries(1, 0);

/// Indices of [`VMS`] that may be taken; the user side fills it.
#[map]
pub(crate) static FREE_VMS: Queue<u32> = Queue::with_max_entries(1, 0);

/// A `kvm_vcpu` to its index in [`VCPUS`].
#[map]
pub(crate) static VCPU_INDEX: HashMap<KvmObject, u32> = HashMap::with_max_entries(1, 0);

/// Address to the slot that a vCPU there took last: it ends when another vCPU takes the address.
#[map]
pub(crate) static SLOT_AT: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);

/// Durations by class of single vCPUs. The first is nobody's.
#[map]
static LATENCY_ROWS: Array<LatencyRow> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Indices of [`LATENCY_ROWS`] that vCPUs had and gave back; they come before rows that nobody had.
#[map]
pub(crate) static FREE_ROWS: Queue<u32> = Queue::with_max_entries(1, 0);

/// Durations that are sent: a page unless a load wants them.
#[map]
pub(crate) static SLOW: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Those that found no room, in the order of CPUs.
#[map]
pub(crate) static SLOW_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// How many of [`LATENCY_ROWS`] were taken for the first time.
#[map]
static ROWS_TAKEN: Array<u64> = Array::with_max_entries(1, 0);

/// A row that nobody had, while there are any.
#[inline(always)]
pub(crate) fn fresh_row() -> Option<u32> {
    let taken = ROWS_TAKEN.get_ptr_mut(0)?;
    let mut index = 1_u64;
    // SAFETY: 8-byte aligned. vCPUs on other CPUs take rows at the same time; as assembly, because the
    // target has no `AtomicU64::fetch_add`.
    unsafe {
        asm!(
            "{index} = atomic_fetch_add((u64 *)({taken} + 0), {index})",
            index = inout(reg) index,
            taken = in(reg) taken,
        );
    }
    u32::try_from(index + 1).ok()
}

/// What the programs are told instead of what the kernel says. One CPU unless there are synthetic TDs.
#[map]
pub(crate) static SYNTHETIC_CPUS: Array<SyntheticCpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The structures of synthetic TDs.
#[map]
pub(crate) static SYNTHETIC_MEMORY: Array<SyntheticPage> =
    Array::with_max_entries(1, BPF_F_MMAPABLE);

/// A `kvm` to its index in [`VMS`].
#[map]
pub(crate) static VM_INDEX: HashMap<KvmObject, u32> = HashMap::with_max_entries(1, 0);

/// Thread to the slot of the vCPU that it ran last, for `kvm_userspace_exit`, which comes when no
/// vCPU is loaded any more.
#[map]
pub(crate) static SLOT_BY_THREAD: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// The conversions of each VM, by index of [`VMS`].
#[map]
pub(crate) static LEDGERS: Array<VmLedger> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Process to the index in [`VMS`] of the VM that it runs, or `ledger::SEVERAL`: for what the VMM does in a
/// thread that runs no vCPU.
#[map]
pub(crate) static VM_BY_PROCESS: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);

/// Thread to what it asked a function of KVM for. One entry unless the probes on these functions are kprobes.
#[map]
pub(crate) static VMM_CALLS: HashMap<u64, VmmCall> = HashMap::with_max_entries(1, 0);

/// Hotspots that found no place in their slot.
#[map]
pub(crate) static HOTSPOTS: HashMap<HotspotKey, HotspotValue> = HashMap::with_max_entries(1, 0);

#[map]
static MEMO: PerCpuArray<CpuMemo> = PerCpuArray::with_max_entries(1, 0);

/// What this CPU remembers.
#[inline(always)]
pub(crate) fn memo() -> Option<*mut CpuMemo> {
    MEMO.get_ptr_mut(0)
}

/// The slot whose index stands at `index`; `None` beyond the last one. The map reads it from there: to put it
/// on the stack first takes as long as the rest of the search.
#[inline(always)]
pub(crate) fn slot_at(index: *const u32) -> Option<NonNull<VcpuSlot>> {
    value_at(&VCPUS, index)
}

/// The same for rows of durations.
#[inline(always)]
pub(crate) fn latency_row_at(index: *const u32) -> Option<NonNull<LatencyRow>> {
    value_at(&LATENCY_ROWS, index)
}

#[inline(always)]
fn value_at<T>(map: &'static Array<T>, index: *const u32) -> Option<NonNull<T>> {
    let map = ptr::from_ref(map).cast_mut().cast::<c_void>();
    // SAFETY: the map, and a key of its size that all callers have in a value of a map or on the stack.
    NonNull::new(unsafe { bpf_map_lookup_elem(map, index.cast()) }.cast())
}

/// Where `kvm_exit` reads the words of a TD's exit to.
#[map]
pub(crate) static TD_WINDOW: PerCpuArray<TdWindow> = PerCpuArray::with_max_entries(1, 0);

#[map]
static LOSSES: PerCpuArray<u64> =
    PerCpuArray::with_max_entries((Loss::ALL.len() * COUNTS) as u32, 0);

/// Counts an event of `class` that no slot gets.
#[inline(always)]
pub(crate) fn lose(loss: Loss, class: Class) {
    lose_index(loss.index(class));
}

/// The same by index of the map.
#[inline(always)]
pub(crate) fn lose_index(index: u32) {
    if let Some(count) = LOSSES.get_ptr_mut(index) {
        add(count, 1);
    }
}

/// The value of `key`, which is `new` if there was none; `None` if there is no room. For maps whose elements
/// are never removed: another CPU may have been faster, and what is there then counts.
#[inline(always)]
pub(crate) fn entry<K, V>(map: &HashMap<K, V>, key: &K, new: &V) -> Option<*mut V> {
    if let Some(value) = map.get_ptr_mut(key) {
        return Some(value);
    }
    let _ = map.insert(key, new, u64::from(BPF_NOEXIST));
    map.get_ptr_mut(key)
}

/// Adds to a word that others, or a preempted program of this CPU, may be adding to as well.
#[inline(always)]
pub(crate) fn add(word: *mut u64, number: u64) {
    // SAFETY: an 8-byte aligned word of a map's value. As assembly, because the target has no
    // `AtomicU64::fetch_add`.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) word, number = in(reg) number);
    }
}
