//! Typed reads of kernel memory at offsets that the user side resolved, and what they tell: KVM's own
//! counters, the exit reason, which VM it is.

use core::{arch::asm, mem::MaybeUninit, ptr};

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_current_task, bpf_probe_read_kernel, generated},
};
use tdtrace_common::{
    constant::CAST,
    counters::{KvmStat, REASON_OTHER, VM_BUGGED, VM_DEAD, svm_reason_index, vmx_reason_index},
    vmx,
};

use crate::maps::is_direct;

/// The offset in field `$field` of the layout. A full register, so that no upper half has to be cleared
/// before it is added to an address.
macro_rules! offset {
    ($field:ident) => {
        $crate::maps::constant::<
            {
                tdtrace_common::constant::of_field(core::mem::offset_of!(
                    tdtrace_common::layout::KernelLayout,
                    $field
                ))
            },
        >()
    };
}
pub(crate) use offset;

/// [`tdtrace_common::layout::ABSENT`] as an instruction has it, with its sign extended.
pub(crate) const ABSENT: u64 = u64::MAX;

/// Reads a `T` at `base + offset`; `None` when the kernel has no such field or the address is bad.
#[inline(always)]
pub(crate) fn read<T: Copy>(base: u64, offset: u64) -> Option<T> {
    if offset == ABSENT {
        return None;
    }
    let address = base.wrapping_add(offset) as *const T;
    // SAFETY: the call checks the address and fails on a bad one.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// A pointer from which the kernel lets a program load: `bpf_rdonly_cast(address, 0)`
/// (`kernel/bpf/helpers.c`), which the verifier turns into a move. The call has a number in its place that
/// the user side replaces; without [`is_direct`] it is dead code, which the verifier does not look at.
#[inline(always)]
fn cast(address: u64) -> *const u8 {
    let pointer: *const u8;
    // SAFETY: a call as the kernel defines it: arguments in r1 and r2, r0 to r5 are lost.
    unsafe {
        asm!(
            "call {cast}",
            cast = const CAST,
            inlateout("r1") address => _,
            inlateout("r2") 0_u64 => _,
            lateout("r0") pointer,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
    pointer
}

/// An object of the kernel that is there while the program runs, because the kernel hands it to the tracepoint
/// or holds it.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    address: u64,
    /// Null where programs may not load.
    pointer: *const u8,
}

impl Object {
    #[inline(always)]
    pub(crate) fn at(address: u64) -> Self {
        let pointer = if is_direct() { cast(address) } else { ptr::null() };
        Self { address, pointer }
    }

    /// Its field at `offset`, an integer; `None` when the kernel has no such field. Where that is allowed it is
    /// a load, which takes a tenth of the time of [`read`], and 0 if the address is bad after all.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u64) -> Option<T> {
        if !is_direct() {
            return read(self.address, offset);
        }
        if offset == ABSENT {
            return None;
        }
        let address = self.pointer.wrapping_add(offset as usize).cast::<T>();
        // SAFETY: the kernel makes a load of this kind one that cannot fault.
        Some(unsafe { ptr::read_volatile(address) })
    }
}

/// Reads a `T` at `base + offset` into `room`, for a `T` that is too large to be handed on by value.
#[inline(always)]
pub(crate) fn read_into<T: Copy>(base: u64, offset: u64, room: &mut MaybeUninit<T>) -> Option<&T> {
    let address = base.wrapping_add(offset) as *const c_void;
    // SAFETY: the call checks the address, fails on a bad one and writes as much as a `T` is long.
    let result = unsafe {
        generated::bpf_probe_read_kernel(room.as_mut_ptr().cast(), size_of::<T>() as u32, address)
    };
    // SAFETY: the call has written all of it.
    (result == 0).then(|| unsafe { room.assume_init_ref() })
}

/// The name of the current process, empty where it cannot be read: a VM may be gone before the
/// collector looks.
#[inline(always)]
pub(crate) fn process_name() -> [u8; 16] {
    // SAFETY: no preconditions.
    let task = unsafe { bpf_get_current_task() };
    read::<u64>(task, offset!(task_group_leader))
        .and_then(|leader| read(leader, offset!(task_comm)))
        .unwrap_or_default()
}

/// What no other VM has that is, was or will be at address `kvm`, see `VmEntry::identity`; 0 if this
/// kernel tells nothing.
#[inline(always)]
pub(crate) fn vm_identity(kvm: u64) -> u64 {
    read::<u64>(kvm, offset!(kvm_debugfs_dentry))
        .and_then(|dentry| read::<u64>(dentry, offset!(dentry_inode)))
        .and_then(|inode| read(inode, offset!(inode_number)))
        .or_else(|| read(kvm, offset!(kvm_clock_offset)))
        .unwrap_or(0)
}

/// `kvm_vcpu.stat.exits` alone.
#[inline(always)]
pub(crate) fn stat_exits(vcpu: u64) -> Option<u64> {
    Object::at(vcpu).load(offset!(stat_exits))
}

/// Counters behind `kvm_vcpu.stat.exits`, itself included, that are read at once: all that are
/// wanted lie there on Linux 6.12, 6.18 and 7.3.
const STAT_WINDOW: usize = 16;

/// Loads KVM's own counters of a vCPU into `stat`; 0 for those that this kernel does not have.
#[inline(always)]
pub(crate) fn load_kvm_stat(vcpu: u64, stat: &mut KvmStat) {
    let vcpu = Object::at(vcpu);
    take_kvm_stat(stat, |offset| vcpu.load(offset).unwrap_or(0));
}

/// The same by as few calls as possible.
#[inline(always)]
pub(crate) fn read_kvm_stat(vcpu: u64, stat: &mut KvmStat) {
    let begin = offset!(stat_exits);
    let window: [u64; STAT_WINDOW] = read(vcpu, begin).unwrap_or_default();
    // One that lies elsewhere is read by itself. Only one of the two is left when the verifier has put the
    // offsets in.
    take_kvm_stat(stat, |offset| {
        let delta = offset.wrapping_sub(begin) as usize;
        if offset != ABSENT && delta < 8 * STAT_WINDOW && delta.is_multiple_of(8) {
            window[delta / 8]
        } else {
            read(vcpu, offset).unwrap_or(0)
        }
    });
}

#[inline(always)]
fn take_kvm_stat(stat: &mut KvmStat, counter: impl Fn(u64) -> u64) {
    stat.exits = counter(offset!(stat_exits));
    stat.fpu_reload = counter(offset!(stat_fpu_reload));
    stat.io_exits = counter(offset!(stat_io_exits));
    stat.mmio_exits = counter(offset!(stat_mmio_exits));
    stat.irq_exits = counter(offset!(stat_irq_exits));
    stat.signal_exits = counter(offset!(stat_signal_exits));
    stat.hypercalls = counter(offset!(stat_hypercalls));
}

/// Whether KVM has given the VM at `kvm` up: `VM_BUGGED` and `VM_DEAD`.
#[inline(always)]
pub(crate) fn given_up(kvm: u64) -> u64 {
    let kvm = Object::at(kvm);
    let bugged = kvm.load::<u8>(offset!(kvm_vm_bugged)).unwrap_or(0);
    let dead = kvm.load::<u8>(offset!(kvm_vm_dead)).unwrap_or(0);
    (u64::from(bugged & 1) * VM_BUGGED) | (u64::from(dead & 1) * VM_DEAD)
}

/// `kvm_exit`'s second argument: which kind of reason the vCPU has (`KVM_ISA_VMX`).
const ISA_VMX: u32 = 1;
/// `KVM_ISA_SVM`.
const ISA_SVM: u32 = 2;

/// The index in `VcpuSlot::reasons` of the exit that `vcpu` just had.
///
/// `vcpu_vmx`, `vcpu_tdx` and `vcpu_svm` all begin with their `kvm_vcpu` (asserted in
/// `vmx/main.c`, `svm/svm.c`).
#[inline(always)]
pub(crate) fn exit_reason_index(vcpu: u64, isa: u32) -> usize {
    let index = match isa {
        ISA_VMX => vmx_reason(vcpu).map(|reason| vmx_reason_index(reason & vmx::BASIC_MASK)),
        ISA_SVM => Object::at(vcpu)
            .load::<u64>(offset!(svm_vmcb))
            .and_then(|vmcb| Object::at(vmcb).load::<u32>(offset!(vmcb_exit_code)))
            .map(svm_reason_index),
        _ => None,
    };
    index.unwrap_or(REASON_OTHER)
}

#[inline(always)]
fn vmx_reason(vcpu: u64) -> Option<u32> {
    let vt = offset!(vmx_vt);
    if vt == ABSENT {
        return Object::at(vcpu).load(offset!(vmx_exit_reason));
    }
    Object::at(vcpu.wrapping_add(vt)).load(offset!(vt_exit_reason))
}
