//! Typed reads of kernel memory at offsets that the user side resolved, and what they tell: KVM's own
//! counters, the exit reason, which VM it is.

use core::{arch::asm, mem::MaybeUninit, ptr};

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_get_current_task, bpf_probe_read_kernel, generated},
};
use tdtrace_common::{
    constant::{CAST, Sum},
    counters::{KvmStat, REASON_OTHER, VM_BUGGED, VM_DEAD, svm_reason_index, vmx_reason_index},
    vmx,
};

use crate::constant::{constant, has, is_direct};

/// The offset in field `$field` of the layout. A full register, so that no upper half has to be cleared
/// before it is added to an address.
macro_rules! offset {
    ($field:ident) => {
        $crate::constant::constant::<{ $crate::kernel::number!($field) }>()
    };
}
pub(crate) use offset;

/// The number that stands for that offset.
macro_rules! number {
    ($field:ident) => {
        tdtrace_common::constant::of_field(core::mem::offset_of!(
            tdtrace_common::layout::KernelLayout,
            $field
        ))
    };
}
pub(crate) use number;

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

    /// Its field at the offset for which `NUMBER` stands, an integer of `T`'s size; `None` when the kernel has no
    /// such field. Where that is allowed it is a load, which takes a tenth of the time of [`read`], and 0 if the
    /// address is bad after all.
    #[inline(always)]
    pub(crate) fn load<T, const NUMBER: i32>(self) -> Option<u64> {
        if !has::<NUMBER>() {
            return None;
        }
        if !is_direct() {
            return read_integer::<T>(self.address, constant::<NUMBER>());
        }
        // SAFETY: the kernel makes a load of this kind one that cannot fault.
        Some(unsafe { load::<T, NUMBER>(self.pointer) })
    }

    /// The same for a field that the kernel is known to have; 0 if it has not, or the address is bad.
    #[inline(always)]
    pub(crate) fn load_known<T, const NUMBER: i32>(self) -> u64 {
        if !is_direct() {
            return read_integer::<T>(self.address, constant::<NUMBER>()).unwrap_or(0);
        }
        // SAFETY: as above.
        unsafe { load::<T, NUMBER>(self.pointer) }
    }
}

/// [`read`] of an integer of `T`'s size, 1, 4 or 8 bytes.
#[inline(always)]
fn read_integer<T>(base: u64, offset: u64) -> Option<u64> {
    match size_of::<T>() {
        1 => read::<u8>(base, offset).map(u64::from),
        4 => read::<u32>(base, offset).map(u64::from),
        _ => read(base, offset),
    }
}

/// Loads an integer of `T`'s size, 1, 4 or 8 bytes, from the offset for which `NUMBER` stands. The user side
/// makes the three instructions one: the load where the offset fits into it, and 0 where there is no such field.
///
/// # Safety
/// The verifier takes loads from there.
#[inline(always)]
pub(crate) unsafe fn load<T, const NUMBER: i32>(pointer: *const u8) -> u64 {
    macro_rules! load {
        ($load:literal) => {{
            let value: u64;
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    "{value} = {number}",
                    "{value} += {pointer}",
                    $load,
                    value = out(reg) value,
                    pointer = in(reg) pointer,
                    number = const NUMBER,
                    options(readonly, nostack),
                );
            }
            value
        }};
    }
    const { assert!(matches!(size_of::<T>(), 1 | 4 | 8)) };
    match size_of::<T>() {
        1 => load!("{value} = *(u8 *)({value} + 0)"),
        4 => load!("{value} = *(u32 *)({value} + 0)"),
        _ => load!("{value} = *(u64 *)({value} + 0)"),
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
    Object::at(vcpu).load::<u64, { number!(stat_exits) }>()
}

/// Counters behind `kvm_vcpu.stat.exits`, itself included, that are read at once: all that are
/// wanted lie there on Linux 6.12, 6.18 and 7.3.
const STAT_WINDOW: usize = 16;

/// KVM's own counters into a `KvmStat`, each by what `$counter` makes of its field's name.
macro_rules! take_kvm_stat {
    ($stat:ident, $counter:ident) => {
        $stat.exits = $counter!(stat_exits);
        $stat.fpu_reload = $counter!(stat_fpu_reload);
        $stat.io_exits = $counter!(stat_io_exits);
        $stat.mmio_exits = $counter!(stat_mmio_exits);
        $stat.irq_exits = $counter!(stat_irq_exits);
        $stat.signal_exits = $counter!(stat_signal_exits);
        $stat.hypercalls = $counter!(stat_hypercalls);
    };
}

/// Loads KVM's own counters of a vCPU into `stat`; 0 for those that this kernel does not have.
#[inline(always)]
pub(crate) fn load_kvm_stat(vcpu: u64, stat: &mut KvmStat) {
    let vcpu = Object::at(vcpu);
    macro_rules! counter {
        ($field:ident) => {
            vcpu.load::<u64, { number!($field) }>().unwrap_or(0)
        };
    }
    take_kvm_stat!(stat, counter);
}

/// The same by as few calls as possible.
#[inline(always)]
pub(crate) fn read_kvm_stat(vcpu: u64, stat: &mut KvmStat) {
    let begin = offset!(stat_exits);
    let window: [u64; STAT_WINDOW] = read(vcpu, begin).unwrap_or_default();
    // One that lies elsewhere is read by itself. Only one of the two is left when the verifier has put the
    // offsets in.
    let word = |offset: u64| {
        let delta = offset.wrapping_sub(begin) as usize;
        if offset != ABSENT && delta < 8 * STAT_WINDOW && delta.is_multiple_of(8) {
            window[delta / 8]
        } else {
            read(vcpu, offset).unwrap_or(0)
        }
    };
    macro_rules! counter {
        ($field:ident) => {
            word(offset!($field))
        };
    }
    take_kvm_stat!(stat, counter);
}

/// Whether KVM has given the VM at `kvm` up: `VM_BUGGED` and `VM_DEAD`.
#[inline(always)]
pub(crate) fn given_up(kvm: u64) -> u64 {
    let kvm = Object::at(kvm);
    let bugged = kvm.load::<u8, { number!(kvm_vm_bugged) }>().unwrap_or(0);
    let dead = kvm.load::<u8, { number!(kvm_vm_dead) }>().unwrap_or(0);
    ((bugged & 1) * VM_BUGGED) | ((dead & 1) * VM_DEAD)
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
            .load::<u64, { number!(svm_vmcb) }>()
            .and_then(|vmcb| Object::at(vmcb).load::<u32, { number!(vmcb_exit_code) }>())
            .map(|code| svm_reason_index(code as u32)),
        _ => None,
    };
    index.unwrap_or(REASON_OTHER)
}

#[inline(always)]
fn vmx_reason(vcpu: u64) -> Option<u32> {
    let vcpu = Object::at(vcpu);
    let reason = if has::<{ number!(vmx_vt) }>() {
        vcpu.load::<u32, { Sum::VmxExitReason.number() }>()
    } else {
        vcpu.load::<u32, { number!(vmx_exit_reason) }>()
    };
    reason.map(|reason| reason as u32)
}
