//! The parameters of the TDVMCALL leaves: which register holds what.
//!
//! Source: `arch/x86/coco/tdx/tdx.c` and `arch/x86/kvm/vmx/tdx.c` (Linux 7.3); bits 31:0 and bit 63
//! of ReportFatalError's R12 and its R13 from the GHCI specification only.

use tdtrace_common::tdx;

use super::{Argument, REGISTERS, alternatives};
use crate::decode::{
    bits::Hex,
    gpa::{self, SharedBit, Sharing},
};

const R12: usize = 2;
const R13: usize = 3;
const R14: usize = 4;
const R15: usize = 5;

/// The register with the direction of IO and MMIO.
pub(super) const DIRECTION: usize = R13;

const PAGE: u64 = 4096;

#[derive(Debug, Clone, Copy)]
pub(super) struct Parameter {
    name: &'static str,
    pub(super) register: usize,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// A number of so many bits.
    Number(u32),
    /// What a write writes.
    Written,
    /// One of these numbers of bytes.
    Size(&'static [u64]),
    Direction,
    /// 1 if interrupts are off.
    Blocked,
    CpuidLeaf,
    /// An address that must be shared.
    SharedGpa,
    /// The first address of a conversion: its shared bit is the direction.
    Start,
    /// Bytes of a conversion.
    Length,
    InfoLeaf,
    Vector,
    FatalCode,
}

const fn parameter(name: &'static str, register: usize, form: Form) -> Parameter {
    Parameter { name, register, form }
}

const CPUID: &[Parameter] =
    &[parameter("leaf", R12, Form::CpuidLeaf), parameter("subleaf", R13, Form::Number(32))];
const HLT: &[Parameter] = &[parameter("interrupts-blocked", R12, Form::Blocked)];
const IO: &[Parameter] = &[
    parameter("size", R12, Form::Size(&[1, 2, 4])),
    parameter("direction", R13, Form::Direction),
    parameter("port", R14, Form::Number(16)),
    parameter("value", R15, Form::Written),
];
const RDMSR: &[Parameter] = &[parameter("msr", R12, Form::Number(32))];
const WRMSR: &[Parameter] =
    &[parameter("msr", R12, Form::Number(32)), parameter("value", R13, Form::Number(64))];
const MMIO: &[Parameter] = &[
    parameter("size", R12, Form::Size(&[1, 2, 4, 8])),
    parameter("direction", R13, Form::Direction),
    parameter("gpa", R14, Form::SharedGpa),
    parameter("value", R15, Form::Written),
];
const INFO: &[Parameter] = &[parameter("leaf", R12, Form::InfoLeaf)];
const MAP_GPA: &[Parameter] =
    &[parameter("start", R12, Form::Start), parameter("size", R13, Form::Length)];
const GET_QUOTE: &[Parameter] =
    &[parameter("buffer", R12, Form::SharedGpa), parameter("size", R13, Form::Number(64))];
const FATAL: &[Parameter] =
    &[parameter("code", R12, Form::FatalCode), parameter("gpa", R13, Form::Number(64))];
const NOTIFY: &[Parameter] = &[parameter("vector", R12, Form::Vector)];

/// The parameters of every KVM hypercall.
pub(super) const OF_HYPERCALL: &[Parameter] = &[
    parameter("a0", super::R11, Form::Number(64)),
    parameter("a1", R12, Form::Number(64)),
    parameter("a2", R13, Form::Number(64)),
    parameter("a3", R14, Form::Number(64)),
];

/// The parameters of a leaf; none for leaves that nothing is known of.
pub(super) const fn of_leaf(leaf: u32) -> &'static [Parameter] {
    match leaf {
        10 => CPUID,
        12 => HLT,
        30 => IO,
        31 => RDMSR,
        32 => WRMSR,
        48 => MMIO,
        tdx::GET_TD_VM_CALL_INFO => INFO,
        tdx::MAP_GPA => MAP_GPA,
        tdx::GET_QUOTE => GET_QUOTE,
        tdx::REPORT_FATAL_ERROR => FATAL,
        tdx::SETUP_EVENT_NOTIFY => NOTIFY,
        _ => &[],
    }
}

impl Parameter {
    /// Whether only a write has this parameter.
    pub(super) const fn is_written(&self) -> bool {
        matches!(self.form, Form::Written)
    }

    /// Says what `value` means for this parameter.
    pub(super) fn argument(&self, value: u64, shared_bit: Option<SharedBit>) -> Argument {
        let mut argument = Argument {
            name: self.name,
            register: REGISTERS[self.register],
            value: Hex(value),
            meaning: None,
            sharing: None,
            unknown_bits: Hex(0),
        };
        match self.form {
            Form::SharedGpa | Form::Start => self.address(value, shared_bit, &mut argument),
            _ => {
                argument.meaning = self.meaning(value);
                argument.unknown_bits = Hex(value & !self.mask());
            }
        }
        argument
    }

    /// The bits that this parameter may have. Numbers that are no choice at all are said to be so
    /// in words instead.
    const fn mask(&self) -> u64 {
        match self.form {
            Form::Number(bits) if bits < 64 => (1 << bits) - 1,
            Form::CpuidLeaf => u32::MAX as u64,
            Form::Blocked => 1,
            Form::FatalCode => 1 << 63 | u32::MAX as u64,
            _ => u64::MAX,
        }
    }

    fn meaning(&self, value: u64) -> Option<String> {
        Some(match self.form {
            Form::Size(sizes) if sizes.contains(&value) => format!("{value} bytes"),
            Form::Size(sizes) => format!("not {}: INVALID_OPERAND", alternatives(sizes)),
            Form::Direction => match value {
                0 => "read".into(),
                1 => "write".into(),
                _ => "neither read (0) nor write (1): INVALID_OPERAND".into(),
            },
            Form::Blocked => if value & 1 == 1 { "yes" } else { "no" }.into(),
            Form::CpuidLeaf if value >> 28 == 4 => "a hypervisor's leaf".into(),
            Form::CpuidLeaf => "no hypervisor's leaf: Linux answers zeros and does not ask".into(),
            Form::Length if value == 0 => "empty".into(),
            Form::Length if value.is_multiple_of(PAGE) => {
                format!("{} pages of 4 KiB", value / PAGE)
            }
            Form::Length => "not a multiple of 4096: ALIGN_ERROR".into(),
            Form::InfoLeaf => match value {
                0 => "which leaves there are: zeros, the basic ones".into(),
                1 => "which further leaves there are: the VMM answers".into(),
                _ => "neither 0 nor 1: INVALID_OPERAND".into(),
            },
            Form::Vector if (32..=255).contains(&value) => format!("vector {value}"),
            Form::Vector => "not 32 to 255: INVALID_OPERAND".into(),
            Form::FatalCode if value >> 63 == 1 => {
                format!("code {}, more at the address in R13", value as u32)
            }
            Form::FatalCode => format!("code {}", value as u32),
            _ => return None,
        })
    }

    fn address(&self, value: u64, shared_bit: Option<SharedBit>, argument: &mut Argument) {
        let address = gpa::gpa(value, shared_bit);
        argument.sharing = Some(address.sharing);
        argument.unknown_bits = address.unknown_bits;
        let sharing = address.sharing.name();
        argument.meaning = Some(match (self.form, address.sharing) {
            (Form::Start, _) if !value.is_multiple_of(PAGE) => {
                format!("to {sharing}, but not a multiple of 4096: ALIGN_ERROR")
            }
            (Form::Start, _) => format!("to {sharing}"),
            (_, Sharing::Private) => "private: INVALID_OPERAND".into(),
            _ => sharing.into(),
        });
    }
}
