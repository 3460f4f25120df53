//! Typed reads of kernel memory at offsets that the user side resolved, and what they tell: KVM's own
//! counters, the exit reason, which VM it is.

use core::mem::MaybeUninit;

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_current_task, bpf_probe_read_kernel, generated},
};
use tdtrace_common::{
    counters::{KvmStat, REASON_OTHER, VM_BUGGED, VM_DEAD, svm_reason_index, vmx_reason_index},
    layout::ABSENT,
    vmx,
};

/// The offset in `LAYOUT.$field`, as the verifier's constant.
macro_rules! offset {
    ($field:ident) => {{
        // SAFETY: a plain static; volatile, because the user side overrides its value at load.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::LAYOUT.$field) }
    }};
}
pub(crate) use offset;

/// Reads a `T` at `base + offset`; `None` when the kernel has no such field or the address is bad.
#[inline(always)]
pub(crate) fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    if offset == ABSENT {
        return None;
    }
    let address = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the call checks the address and fails on a bad one.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// Reads a `T` at `base + offset` into `room`, for a `T` that is too large to be handed on by value.
#[inline(always)]
pub(crate) fn read_into<T: Copy>(base: u64, offset: u32, room: &mut MaybeUninit<T>) -> Option<&T> {
    let address = base.wrapping_add(u64::from(offset)) as *const c_void;
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
    read(vcpu, offset!(stat_exits))
}

/// Counters behind `kvm_vcpu.stat.exits`, itself included, that are read at once: all that are
/// wanted lie there on Linux 6.12, 6.18 and 7.3.
const STAT_WINDOW: usize = 16;

/// The counter at `$field` from the window that begins with `exits`; read by itself where it lies
/// elsewhere. Only one of the two is left when the verifier has put the offsets in.
macro_rules! counter {
    ($vcpu:expr, $window:expr, $field:ident) => {{
        let offset = offset!($field);
        let delta = offset.wrapping_sub(offset!(stat_exits)) as usize;
        if offset == ABSENT {
            0
        } else if delta < 8 * STAT_WINDOW && delta % 8 == 0 {
            $window[delta / 8]
        } else {
            read($vcpu, offset).unwrap_or(0)
        }
    }};
}

/// KVM's own counters of a vCPU; 0 for those that this kernel does not have.
#[inline(always)]
pub(crate) fn kvm_stat(vcpu: u64) -> KvmStat {
    let window: [u64; STAT_WINDOW] = read(vcpu, offset!(stat_exits)).unwrap_or_default();
    KvmStat {
        exits: window[0],
        fpu_reload: counter!(vcpu, window, stat_fpu_reload),
        io_exits: counter!(vcpu, window, stat_io_exits),
        mmio_exits: counter!(vcpu, window, stat_mmio_exits),
        irq_exits: counter!(vcpu, window, stat_irq_exits),
        signal_exits: counter!(vcpu, window, stat_signal_exits),
        hypercalls: counter!(vcpu, window, stat_hypercalls),
        ..KvmStat::default()
    }
}

/// Whether KVM has given the VM at `kvm` up: `VM_BUGGED` and `VM_DEAD`.
#[inline(always)]
pub(crate) fn given_up(kvm: u64) -> u64 {
    let (bugged, dead) = (offset!(kvm_vm_bugged), offset!(kvm_vm_dead));
    // Side by side in every known kernel; only one of the two ways is left when the offsets are in.
    let [bugged, dead] = if bugged != ABSENT && dead == bugged.wrapping_add(1) {
        read::<[u8; 2]>(kvm, bugged).unwrap_or_default()
    } else {
        [bugged, dead].map(|offset| read::<u8>(kvm, offset).unwrap_or(0))
    };
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
        ISA_SVM => read::<u64>(vcpu, offset!(svm_vmcb))
            .and_then(|vmcb| read::<u32>(vmcb, offset!(vmcb_exit_code)))
            .map(svm_reason_index),
        _ => None,
    };
    index.unwrap_or(REASON_OTHER)
}

#[inline(always)]
fn vmx_reason(vcpu: u64) -> Option<u32> {
    let vt = offset!(vmx_vt);
    if vt == ABSENT {
        return read(vcpu, offset!(vmx_exit_reason));
    }
    read(vcpu.wrapping_add(u64::from(vt)), offset!(vt_exit_reason))
}
