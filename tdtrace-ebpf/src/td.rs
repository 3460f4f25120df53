//! What an exit of a TD was, read from the registers with which it came out of TDH.VP.ENTER.
//!
//! They are read where `kvm_exit` fires, with interrupts off: KVM's own reason folds TDVMCALLs into
//! others, and the tracepoints of single accesses come later. Each is a load, or, where the kernel does not
//! allow that, all of them are read in one window, because every call takes as long as a window.

use core::mem::MaybeUninit;

use tdtrace_common::{
    constant::Sum,
    counters::{Class, REASON_OTHER, vmx_reason_index},
    ledger::Direction,
    td::{
        ANSWERED, Access, Instruction, REASON_TD, Register, TDCALL, TdExit, TdRegisters, TdWindow,
    },
};

use crate::{
    constant::{constant, is_direct},
    kernel::{ABSENT, Object, number, offset, read, read_into},
    ledger,
    maps::TD_WINDOW,
    slot::Slot,
};

/// Whether this kernel has all that is read here.
#[inline(always)]
pub(crate) fn is_known() -> bool {
    let offsets = [
        offset!(tdx_vt),
        offset!(vt_exit_reason),
        offset!(vt_exit_intr_info),
        offset!(tdx_ext_exit_qualification),
        offset!(tdx_exit_gpa),
        offset!(tdx_vp_enter_args),
        offset!(tdx_vp_enter_ret),
        offset!(tdx_args_r10),
        offset!(tdx_args_r11),
        offset!(tdx_args_r12),
        offset!(tdx_args_r13),
        offset!(tdx_args_r14),
        offset!(kvm_gfn_direct_bits),
    ];
    offsets.iter().all(|offset| *offset != ABSENT)
}

/// The words from the exit reason of `vcpu` on; `None` if they cannot be read. In a map: with them on the
/// stack `kvm_exit` and what it calls have more than the 512 bytes that kernels before 6.13 allow.
#[inline(always)]
fn window<'a>(vcpu: u64) -> Option<&'a TdWindow> {
    let room = TD_WINDOW.get_ptr_mut(0)?.cast::<MaybeUninit<TdWindow>>();
    // SAFETY: this CPU's value, and `kvm_exit` runs with interrupts off.
    read_into(vcpu, constant::<{ Sum::TdxExitReason.number() }>(), unsafe { &mut *room })
}

/// What `$read` makes of the number of the field in which a register of a TD's exit is.
macro_rules! field_of {
    ($register:expr, $read:ident) => {
        match $register {
            Register::Ret => $read!({ number!(tdx_vp_enter_ret) }),
            Register::R10 => $read!({ Sum::TdxR10.number() }),
            Register::R11 => $read!({ Sum::TdxR11.number() }),
            Register::R12 => $read!({ Sum::TdxR12.number() }),
            Register::R13 => $read!({ Sum::TdxR13.number() }),
            Register::R14 => $read!({ Sum::TdxR14.number() }),
            Register::ExtQualification => $read!({ number!(tdx_ext_exit_qualification) }),
            Register::Gpa => $read!({ number!(tdx_exit_gpa) }),
            Register::IntrInfo => $read!({ Sum::TdxIntrInfo.number() }),
        }
    };
}

/// Reads a register from the window; by itself where it lies elsewhere. Only one of the two is left when the
/// verifier has put the offsets in.
#[inline(always)]
fn within(vcpu: u64, window: &TdWindow, register: Register) -> u64 {
    let word = |offset: u64| {
        let delta = offset.wrapping_sub(constant::<{ Sum::TdxExitReason.number() }>()) as usize;
        if delta < size_of::<TdWindow>() && delta.is_multiple_of(8) {
            window[delta / 8]
        } else {
            read(vcpu, offset).unwrap_or(0)
        }
    };
    macro_rules! word {
        ($number:block) => {{
            let offset = constant::<$number>();
            // Half of a word may be wanted.
            word(offset & !7) >> (8 * (offset & 7))
        }};
    }
    field_of!(register, word)
}

/// VMX exit reason: an interrupt of the host.
const EXTERNAL_INTERRUPT: u32 = 1;

/// Counts the exit of a TD's vCPU by what it was, with its place. Its index of `VcpuSlot::reasons`.
#[inline(always)]
pub(crate) fn exits(slot: &mut Slot, vcpu: u64) -> usize {
    let index = if is_direct() {
        count_exit(slot, vcpu, loaded(vcpu))
    } else {
        exits_by_window(slot.index(), vcpu) as usize
    };
    slot.get().td_exit = index as u16 + 1;
    index
}

/// Reads the registers one by one.
#[inline(always)]
fn loaded(vcpu: u64) -> impl Fn(Register) -> u64 + Copy {
    let object = Object::at(vcpu);
    macro_rules! load {
        ($number:block) => {
            object.load_known::<u64, $number>()
        };
    }
    move |register| field_of!(register, load)
}

/// The same where the kernel allows no loads. Out of line: the way of others is shorter without it.
#[cold]
#[inline(never)]
fn exits_by_window(index: u32, vcpu: u64) -> u32 {
    let (Some(mut slot), Some(window)) = (Slot::at(index), window(vcpu)) else {
        // Zeroes would be an exit of another kind.
        return REASON_OTHER as u32;
    };
    count_exit(&mut slot, vcpu, |register| within(vcpu, window, register)) as u32
}

#[inline(always)]
fn registers<F: Fn(Register) -> u64>(slot: &mut Slot, read: F) -> TdRegisters<F> {
    TdRegisters { read, shared_bit: slot.get().shared_bit }
}

/// Counts the exits that are frequent, and has the others counted.
#[inline(always)]
fn count_exit(slot: &mut Slot, vcpu: u64, read: impl Fn(Register) -> u64) -> usize {
    let registers = registers(slot, read);
    let (index, access) = match registers.exit_reason() {
        Some(TDCALL) => match Instruction::called(&registers) {
            Some(instruction) => instruction.access(&registers),
            None => return count_rest(slot.index(), vcpu) as usize,
        },
        Some(EXTERNAL_INTERRUPT) => {
            let vector = registers.get(Register::IntrInfo) & 0xff;
            (EXTERNAL_INTERRUPT as usize, access(Class::HostInterrupt, vector))
        }
        _ => return count_rest(slot.index(), vcpu) as usize,
    };
    if access.is_counted() {
        count_access(slot, &access);
    }
    index
}

#[inline(always)]
fn access(class: Class, address: u64) -> Access {
    Access { class: class as u64, address, size: 0 }
}

/// The access that the guest asked for, under the class that it has with other VMs.
#[inline(always)]
fn count_access(slot: &mut Slot, access: &Access) {
    slot.count_index(access.class as usize);
    slot.count_place_of(access.class, access.address, access.size);
}

/// Counts an exit of the vCPU in slot `index` that is neither an instruction nor an interrupt. Out of line: the
/// rest of the way is shorter without it.
#[cold]
#[inline(never)]
fn count_rest(index: u32, vcpu: u64) -> u32 {
    let Some(mut slot) = Slot::at(index) else {
        return REASON_OTHER as u32;
    };
    let registers = registers(&mut slot, loaded(vcpu));
    let Some(kind) = registers.kind() else {
        return vmx_reason_index(registers.exit_reason().unwrap_or(0)) as u32;
    };
    let get = |register| registers.get(register);
    match kind {
        TdExit::KvmHypercall => {
            count_access(&mut slot, &access(Class::Hypercall, get(Register::R10)));
        }
        TdExit::UnknownLeaf => {
            count_access(&mut slot, &access(Class::TdUnknownLeaf, get(Register::R11)));
        }
        TdExit::MapShared | TdExit::MapPrivate => {
            ledger::asks(&mut slot, get(Register::R12), get(Register::R13));
        }
        TdExit::EptPrivate | TdExit::EptPending => {
            ledger::faults(&mut slot, get(Register::Gpa));
        }
        _ => {}
    }
    kind.reason_index() as u32
}

const MAP_SHARED: u32 = TdExit::MapShared as u32;
const MAP_PRIVATE: u32 = TdExit::MapPrivate as u32;

/// Before the next entry of a TD's vCPU: with which status KVM answers a TDVMCALL.
#[inline(always)]
pub(crate) fn enters(slot: &mut Slot, vcpu: u64) {
    let pending = core::mem::take(&mut slot.get().td_exit);
    let kind = u32::from(pending).wrapping_sub(REASON_TD as u32 + 1);
    if kind >= TdExit::KvmHypercall as u32 {
        return;
    }
    let vcpu = Object::at(vcpu);
    let Some(status) = vcpu.load::<u64, { Sum::TdxR10.number() }>() else {
        return;
    };
    slot.count(Class::TdAnswer);
    if status == ledger::SUCCESS {
        slot.count_reason(ANSWERED + kind as usize);
    } else {
        slot.count_place(Class::TdAnswer, status, kind);
    }
    let direction = match kind {
        MAP_SHARED => Direction::ToShared,
        MAP_PRIVATE => Direction::ToPrivate,
        _ => return,
    };
    let next = vcpu.load_known::<u64, { Sum::TdxR11.number() }>();
    ledger::answered(slot.index(), direction as u32, status, next);
}

/// `kvm_userspace_exit` of a TD's vCPU: what its exit became for the VMM.
#[inline(always)]
pub(crate) fn returns(slot: &mut Slot, reason: usize) {
    let pending = slot.get().td_exit;
    if pending != 0 {
        slot.count(Class::TdReturn);
        slot.count_place(Class::TdReturn, reason as u64, u32::from(pending) - 1);
    }
}
