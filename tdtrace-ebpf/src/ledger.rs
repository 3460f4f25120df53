//! What becomes of a VM's memory: conversions that the guest asks for and how KVM answers them, attributes
//! that the VMM sets, faults that nobody can serve, private pages that are mapped.
//!
//! A request and its answer meet in the slot of the vCPU; what was converted is added to the VM's ledger,
//! atomically, because the vCPUs of a VM share it.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_probe_read_user,
    macros::raw_tracepoint,
    programs::RawTracePointContext,
};
use tdtrace_common::{
    counters::{Class, Loss},
    ledger::{
        LedgerCount, PAGE_SHIFT, PRIVATE, REGION_PROBES, REGION_SHIFT, REGIONS, Region, SEVERAL,
        VmLedger,
    },
    td::TdExit,
};

use crate::{
    constant::opaque,
    context,
    kernel::{offset, read},
    maps::{LEDGERS, SLOT_BY_THREAD, VM_BY_PROCESS, VMS, add, lose},
    slot::Slot,
};

const PAGE: u64 = 1 << PAGE_SHIFT;
const BLOCK: u64 = 1 << REGION_SHIFT;

/// Puts a new value into a word that others write as well: the old one.
#[inline(always)]
fn exchange(word: *mut u64, new: u64) -> u64 {
    let mut value = new;
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "{value} = xchg_64({word} + 0, {value})",
            value = inout(reg) value,
            word = in(reg) word,
        );
    }
    value
}

/// Puts `new` into a word that is 0: what it was.
#[inline(always)]
fn claim(word: *mut u64, new: u64) -> u64 {
    let mut value = 0_u64;
    // SAFETY: as above; the instruction takes and leaves what is compared in r0.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            inout("r0") value,
            word = in(reg) word,
            new = in(reg) new,
        );
    }
    value
}

/// Adds to a number of a ledger; `index` is below its length.
#[inline(always)]
fn count(ledger: *mut VmLedger, index: usize, by: u64) {
    // SAFETY: only the address is made; all callers name a number that there is.
    add(unsafe { (&raw mut (*ledger).counts).cast::<u64>().add(index) }, by);
}

/// Zeroes the ledger of a VM that begins. Nobody else has its index yet.
#[inline(always)]
pub(crate) fn clear(vm: u32) {
    let Some(ledger) = LEDGERS.get_ptr_mut(vm) else { return };
    // SAFETY: a value of the map, and no other writer has it.
    let ledger = unsafe { &mut *ledger };
    for word in &mut ledger.counts {
        *word = 0;
    }
    (ledger.memory_pages, ledger.fault, ledger.fault_at) = (0, 0, 0);
    for index in 0..REGIONS {
        ledger.regions[index] = Region::default();
    }
}

/// How much memory VM `vm` has, as far as its VMM has told KVM by now.
#[inline(always)]
pub(crate) fn sees_memory(vm: u32, kvm: u64) {
    if let (Some(pages), Some(ledger)) =
        (read::<u64>(kvm, offset!(kvm_memslot_pages)), LEDGERS.get_ptr_mut(vm))
    {
        // SAFETY: a word of the map; whoever writes it writes what KVM says.
        unsafe { (*ledger).memory_pages = pages };
    }
}

/// [`SEVERAL`], where a map can take it from.
static SEVERAL_VMS: u32 = SEVERAL;

/// Process `tgid` runs VM `vm`, perhaps not it alone. By reference: what makes a slot has no more room on the
/// stack, of which `kvm_fpu` and it together have all that the verifier of Linux 6.12 allows.
#[inline(always)]
pub(crate) fn runs_in(tgid: &u32, vm: &u32) {
    if VM_BY_PROCESS.insert(tgid, vm, u64::from(BPF_NOEXIST)).is_err() {
        // Without room there is no entry, and what the process does is counted as lost.
        let several: &u32 = &SEVERAL_VMS;
        let _ = VM_BY_PROCESS.insert(tgid, several, u64::from(BPF_ANY));
    }
}

/// MapGPA: the guest asks for `size` bytes from `start` on.
#[inline(always)]
pub(crate) fn asks(slot: &mut Slot, start: u64, size: u64) {
    let conversion = &mut slot.get().conversion;
    conversion.start = start;
    conversion.size = size;
}

/// `TDVMCALL_STATUS_SUCCESS`.
pub(crate) const SUCCESS: u64 = 0;
/// `TDVMCALL_STATUS_RETRY`.
const RETRY: u64 = 1;

/// KVM answers the MapGPA of slot `index` with `status`. Of one that is not done it leaves in R11, `next`,
/// where it stopped (`arch/x86/kvm/vmx/tdx.c:tdx_complete_vmcall_map_gpa`); of one that it did not begin
/// R11 is still the leaf, which is no address of a page. Out of line for the verifier's limit of the stack.
#[cold]
#[inline(never)]
pub(crate) fn answered(index: u32, direction: u32, status: u64, next: u64) -> u32 {
    let direction = (direction & 1) as usize;
    let Some(mut slot) = Slot::at(index) else { return 0 };
    let shared_bit = slot.get().shared_bit;
    let Some(ledger) = LEDGERS.get_ptr_mut(slot.get().vm) else { return 0 };
    let conversion = &mut slot.get().conversion;
    let (start, size) = (conversion.start, conversion.size);
    let done = next.wrapping_sub(start);
    let converted = if status == SUCCESS {
        size
    } else if next & (PAGE - 1) == 0 && done < size {
        done
    } else {
        0
    };
    let continued = conversion.next == start | 1;
    if continued {
        count(ledger, LedgerCount::Continued as usize + direction, 1);
    }
    let goes_on = status == RETRY && (converted > 0 || continued);
    conversion.next = if goes_on { start.wrapping_add(converted) | 1 } else { 0 };
    if status == RETRY {
        count(ledger, LedgerCount::Retried as usize + direction, 1);
    } else if status != SUCCESS {
        count(ledger, LedgerCount::Refused as usize + direction, 1);
    }
    if converted == 0 {
        return 0;
    }
    count(ledger, LedgerCount::Bytes as usize + direction, converted);
    if !continued {
        if size == PAGE {
            count(ledger, LedgerCount::Pages as usize + direction, 1);
        } else if (start & !shared_bit | size) & (BLOCK - 1) == 0 {
            count(ledger, LedgerCount::Blocks as usize + direction, 1);
        }
        conversion.region = (start & !shared_bit) >> REGION_SHIFT;
    }
    let Some(region) = region(ledger, conversion.region) else {
        if !continued {
            count(ledger, LedgerCount::WithoutRegion as usize, 1);
        }
        return 0;
    };
    book(region, direction, converted, continued);
    0
}

/// The place of region `number` in a ledger, taken if it has none; `None` if there is no room near its hash.
#[inline(always)]
fn region(ledger: *mut VmLedger, number: u64) -> Option<*mut Region> {
    let key = number + 1;
    let start = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as usize;
    for probe in 0..REGION_PROBES {
        let index = opaque(start + probe) & (REGIONS - 1);
        // SAFETY: within the array.
        let region = unsafe { (&raw mut (*ledger).regions).cast::<Region>().add(index) };
        // SAFETY: the first word of the region.
        let known = unsafe { core::ptr::read_volatile(region.cast::<u64>()) };
        if known == key {
            return Some(region);
        }
        if known == 0 {
            let before = claim(region.cast(), key);
            if before == 0 || before == key {
                return Some(region);
            }
        }
    }
    None
}

#[inline(always)]
fn book(region: *mut Region, direction: usize, bytes: u64, continued: bool) {
    // SAFETY: words of a value of the map; only their addresses are made, but for the time, of which any
    // one is right.
    unsafe {
        add((&raw mut (*region).bytes).cast::<u64>().add(direction), bytes);
        (*region).last_at = context::now();
        if continued {
            return;
        }
        add((&raw mut (*region).calls).cast::<u64>().add(direction), 1);
        let last = direction as u64 + 1;
        let before = exchange(&raw mut (*region).last, last);
        if before != 0 && before != last {
            add(&raw mut (*region).turns, 1);
        }
    }
}

/// A fault on private memory. One on a page that the vCPU faulted on just before says that mapping it did
/// not help.
#[inline(always)]
pub(crate) fn faults(slot: &mut Slot, gpa: u64) {
    let page = gpa & !(PAGE - 1) | 1;
    let [newest, older] = slot.get().conversion.pages;
    if page == newest || page == older {
        slot.count(Class::TdFaultAgain);
        slot.count_place(Class::TdFaultAgain, page & !1, 0);
    }
    if page != newest {
        slot.get().conversion.pages = [page, newest];
    }
}

/// An entry of the page table that KVM can use (`arch/x86/kvm/mmu/spte.h:SPTE_MMU_PRESENT_MASK`, the same
/// since Linux 5.13).
const SPTE_PRESENT: u64 = 1 << 11;
/// An entry that maps a large page (Intel SDM volume 3C, EPT paging-structure entries, bit 7).
const SPTE_LARGE: u64 = 1 << 7;

/// A page table entry of `level` changed in the thread of this vCPU. It says neither VM nor whether the page
/// is private, but the exit that is being served does.
#[inline(always)]
pub(crate) fn maps(slot: &mut Slot, level: u32, old: u64, new: u64) {
    let current = slot.get();
    let fault = TdExit::EptPrivate.reason_index() as u16 + 1;
    if current.td_exit != fault || old & SPTE_PRESENT != 0 || new & SPTE_PRESENT == 0 {
        return;
    }
    match level {
        1 => current.conversion.mapped[0] += 1,
        2 if new & SPTE_LARGE != 0 => current.conversion.mapped[1] += 1,
        _ => {}
    }
}

/// `KVM_EXIT_MEMORY_FAULT` with `errno`, which is negative, of the vCPU in slot `index`. Out of line: it is
/// rare, and the way around it long.
#[cold]
#[inline(never)]
pub(crate) fn fails(index: u32, errno: i32) -> u32 {
    if let Some(mut slot) = Slot::at(index) {
        book_fault(&mut slot, errno);
    }
    0
}

#[inline(always)]
fn book_fault(slot: &mut Slot, errno: i32) {
    let vcpu = slot.get().vcpu;
    slot.count(Class::MemoryFault);
    let Some(run) = read::<u64>(vcpu, offset!(vcpu_run)) else { return };
    let Some(flags) = read::<u64>(run, offset!(run_fault_flags)) else { return };
    let private = u64::from(flags & PRIVATE != 0);
    slot.count_place(Class::MemoryFault, private, errno.unsigned_abs());
    if let (Some(gpa), Some(ledger)) =
        (read::<u64>(run, offset!(run_fault_gpa)), LEDGERS.get_ptr_mut(slot.get().vm))
    {
        // SAFETY: words of a value of the map; whichever vCPU comes last is right.
        unsafe {
            (*ledger).fault = gpa & !1 | private;
            (*ledger).fault_at = context::now();
        }
    }
}

/// `kvm_vm_set_mem_attributes(start, end, attributes)`, first and last frame but one. In the thread that
/// made the system call; carries no VM.
#[raw_tracepoint]
fn kvm_vm_set_mem_attributes(ctx: RawTracePointContext) -> u32 {
    let frames = ctx.arg::<u64>(1).wrapping_sub(ctx.arg(0));
    sets_attributes(frames << PAGE_SHIFT, ctx.arg(2));
    0
}

/// Number of the system call `ioctl`.
const IOCTL: u64 = 16;
/// `KVM_SET_MEMORY_ATTRIBUTES` (`include/uapi/linux/kvm.h`).
pub(crate) const SET_MEMORY_ATTRIBUTES: u32 = 0x4020_aed2;

/// `sys_exit(regs, ret)`: the same for a kernel without that tracepoint, on request, because every system
/// call of the machine pays for it. Counts what KVM has done, as the caller's structure says: address, size,
/// attributes, flags.
#[raw_tracepoint]
fn sys_exit_set_attributes(ctx: RawTracePointContext) -> u32 {
    let regs: u64 = ctx.arg(0);
    if ctx.arg::<u64>(1) != 0
        || read::<u64>(regs, offset!(regs_orig_ax)) != Some(IOCTL)
        || read::<u32>(regs, offset!(regs_si)) != Some(SET_MEMORY_ATTRIBUTES)
    {
        return 0;
    }
    let Some(argument) = read::<u64>(regs, offset!(regs_dx)) else { return 0 };
    match attributes_at(argument) {
        Some((bytes, attributes)) => sets_attributes(bytes, attributes),
        None => lose(Loss::Unattributed, Class::MemoryAttributes),
    }
    0
}

/// Size and attributes in the `struct kvm_memory_attributes` at an address of the VMM.
#[inline(always)]
pub(crate) fn attributes_at(address: u64) -> Option<(u64, u64)> {
    // SAFETY: the call checks the address and fails on a bad one.
    let read = unsafe { bpf_probe_read_user::<[u64; 4]>(address as *const [u64; 4]) };
    read.ok().map(|[_, bytes, attributes, _]| (bytes, attributes))
}

/// The VMM that this thread belongs to makes `bytes` private or shared.
#[inline(always)]
fn sets_attributes(bytes: u64, attributes: u64) {
    let Some(vm) = vm_of_thread() else {
        lose(Loss::Unattributed, Class::MemoryAttributes);
        return;
    };
    set_attributes(vm, bytes, attributes);
}

/// The VMM of VM `vm` made `bytes` private or shared.
#[inline(always)]
pub(crate) fn set_attributes(vm: u32, bytes: u64, attributes: u64) {
    let Some(ledger) = LEDGERS.get_ptr_mut(vm) else { return };
    let direction = usize::from(attributes & PRIVATE != 0);
    count(ledger, LedgerCount::AttributeCalls as usize + direction, 1);
    count(ledger, LedgerCount::AttributeBytes as usize + direction, bytes);
    // SAFETY: a word of the entry of a VM that is there.
    if let Some(kvm) = VMS.get_ptr(vm).map(|vm| unsafe { (*vm).kvm }) {
        sees_memory(vm, kvm);
    }
}

/// The VMM of VM `vm` gave `bytes` of its guest_memfd back.
#[inline(always)]
pub(crate) fn punched(vm: u32, bytes: u64) {
    let Some(ledger) = LEDGERS.get_ptr_mut(vm) else { return };
    count(ledger, LedgerCount::PunchedCalls as usize, 1);
    count(ledger, LedgerCount::PunchedBytes as usize, bytes);
}

/// A page of VM `vm` broke.
#[inline(always)]
pub(crate) fn breaks(vm: u32) {
    let Some(ledger) = LEDGERS.get_ptr_mut(vm) else { return };
    count(ledger, LedgerCount::BrokenPages as usize, 1);
}

/// The VM that this thread speaks of: the only one of its process, else that of the vCPU which it ran last.
#[inline(always)]
fn vm_of_thread() -> Option<u32> {
    let tgid = context::tgid();
    // SAFETY: the value is a number that is only used as an index.
    let of_process = *unsafe { VM_BY_PROCESS.get(tgid) }?;
    if of_process != SEVERAL {
        return Some(of_process);
    }
    let tid = context::tid();
    // SAFETY: as above.
    let mut slot = Slot::at(*unsafe { SLOT_BY_THREAD.get(tid) }?)?;
    let slot = slot.get();
    (slot.vcpu != 0 && slot.tid == tid && slot.tgid == tgid).then_some(slot.vm)
}
