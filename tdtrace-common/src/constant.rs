//! Constants of the programs that the user side puts into their instructions before they are loaded.
//!
//! The verifier knows a read-only global too, but leaves the load where it is: memory that every event
//! would touch for nothing. So a program sets a register to a number that stands for the constant, and the
//! user side replaces the number.

use core::mem::offset_of;

use crate::layout::KernelLayout;

/// The first of these numbers, "td" in ASCII in its upper half.
pub const FIRST: i32 = 0x7464_0000;

/// Offsets of [`KernelLayout`], in its order: as many numbers from [`FIRST`] on.
pub const OFFSETS: usize = KernelLayout::FIELDS.len();

/// The number that stands for the field at byte `at` of [`KernelLayout`].
#[must_use]
pub const fn of_field(at: usize) -> i32 {
    FIRST + (at / size_of::<u32>()) as i32
}

/// The place of a field of a structure that is part of another: the sum of two offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    /// The VMX exit reason of a `vcpu_vmx` since 6.16.
    VmxExitReason,
    /// The same of a `vcpu_tdx`.
    TdxExitReason,
    /// The interruption information of a `vcpu_tdx`.
    TdxIntrInfo,
    /// R10 with which a TD came out of TDH.VP.ENTER.
    TdxR10,
    /// R11 of these.
    TdxR11,
    /// R12 of these.
    TdxR12,
    /// R13 of these.
    TdxR13,
    /// R14 of these.
    TdxR14,
}

impl Sum {
    /// Every sum, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::VmxExitReason,
        Self::TdxExitReason,
        Self::TdxIntrInfo,
        Self::TdxR10,
        Self::TdxR11,
        Self::TdxR12,
        Self::TdxR13,
        Self::TdxR14,
    ];

    /// The number that stands for it.
    #[must_use]
    pub const fn number(self) -> i32 {
        FIRST + (OFFSETS + self as usize) as i32
    }

    /// Which two fields of [`KernelLayout`] it is the sum of, by their number there.
    #[must_use]
    pub const fn fields(self) -> [usize; 2] {
        let [part, field] = match self {
            Self::VmxExitReason => {
                [offset_of!(KernelLayout, vmx_vt), offset_of!(KernelLayout, vt_exit_reason)]
            }
            Self::TdxExitReason => {
                [offset_of!(KernelLayout, tdx_vt), offset_of!(KernelLayout, vt_exit_reason)]
            }
            Self::TdxIntrInfo => {
                [offset_of!(KernelLayout, tdx_vt), offset_of!(KernelLayout, vt_exit_intr_info)]
            }
            Self::TdxR10 => argument(offset_of!(KernelLayout, tdx_args_r10)),
            Self::TdxR11 => argument(offset_of!(KernelLayout, tdx_args_r11)),
            Self::TdxR12 => argument(offset_of!(KernelLayout, tdx_args_r12)),
            Self::TdxR13 => argument(offset_of!(KernelLayout, tdx_args_r13)),
            Self::TdxR14 => argument(offset_of!(KernelLayout, tdx_args_r14)),
        };
        [part / size_of::<u32>(), field / size_of::<u32>()]
    }
}

const fn argument(at: usize) -> [usize; 2] {
    [offset_of!(KernelLayout, tdx_vp_enter_args), at]
}

/// What a load is besides its layout; each is 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// The programs take the time.
    Timed,
    /// Long durations are sent one by one.
    SendsSlow,
    /// The kernel lets programs load from its memory without a call.
    Direct,
    /// The load is for synthetic TDs, and the programs are told the time, the thread and the vCPU.
    Synthetic,
    /// The programs log.
    Debug,
}

impl Switch {
    /// Every switch, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Timed, Self::SendsSlow, Self::Direct, Self::Synthetic, Self::Debug];

    /// The number that stands for it.
    #[must_use]
    pub const fn number(self) -> i32 {
        FIRST + (OFFSETS + Sum::ALL.len() + self as usize) as i32
    }
}

/// What is added to the number of a constant to ask whether it is missing: 1 if the kernel has no such field or
/// the switch is off, else 0. It usually is 0, and a register is set to that by two bytes.
const MISSING: i32 = 1 << 15;

/// The number that stands for whether the constant of `number` is missing.
#[must_use]
pub const fn missing(number: i32) -> i32 {
    number + MISSING
}

/// Which constant is asked for with the number that is `index` after [`FIRST`], and whether the question is
/// only if it is [`missing`].
#[must_use]
pub const fn asked(index: usize) -> (usize, bool) {
    (index & !(MISSING as usize), index & MISSING as usize != 0)
}

/// The number of a helper that no kernel has, "tdtr" in ASCII: the programs call it where they mean
/// `bpf_rdonly_cast`.
pub const CAST: i32 = 0x7464_7472;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_stands_for_one_thing() {
        let fields = (0..OFFSETS).map(|index| of_field(4 * index));
        let sums = Sum::ALL.map(Sum::number);
        let switches = Switch::ALL.map(Switch::number);
        let numbers = fields.chain(sums).chain(switches);
        for (index, number) in numbers.enumerate() {
            assert_eq!(number, FIRST + index as i32);
            assert!(number < CAST);
            assert_eq!(asked(index), (index, false));
            assert_eq!(asked((missing(number) - FIRST) as usize), (index, true));
        }
    }
}
