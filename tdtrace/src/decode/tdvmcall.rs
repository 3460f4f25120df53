//! TDVMCALLs: what a TD asks of its host, from the registers that it exposes.

mod parameter;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, mem};

use serde::Serialize;
use tdtrace_common::{kvm, tdx};

use super::{
    bits::Hex,
    gpa::{SharedBit, Sharing},
};

/// Names of the registers of a TDVMCALL, in the order of [`Registers`]: after R15 those that only
/// ReportFatalError uses, in the order of its message.
pub const REGISTERS: [&str; 12] =
    ["r10", "r11", "r12", "r13", "r14", "r15", "rbx", "rdi", "rsi", "r8", "r9", "rdx"];

/// Place of R11 in [`REGISTERS`].
const R11: usize = 1;
const R14: usize = 4;

/// The registers of a TDVMCALL as far as they are known, in the order of [`REGISTERS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Registers(pub [Option<u64>; REGISTERS.len()]);

/// Which calling convention R10 chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// R10 is 0: the leaf is in R11 (Intel GHCI).
    Standard,
    /// R10 is the number of a KVM hypercall, its arguments in R11 to R14.
    KvmHypercall,
}

/// One register and what the leaf takes it for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Argument {
    /// Name of the parameter.
    pub name: &'static str,
    /// The register that holds it.
    pub register: &'static str,
    /// The whole register.
    pub value: Hex,
    /// What the value says, if that is more than the number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<String>,
    /// For guest physical addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sharing: Option<Sharing>,
    /// Set bits that this parameter does not have.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

/// A register without a part in the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unused {
    /// Its name.
    pub register: &'static str,
    /// What it holds.
    pub value: Hex,
}

/// What the host returned in R10.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// R10.
    pub value: Hex,
    /// Name of the status, or of the error of a KVM hypercall.
    pub name: Option<&'static str>,
    /// What the guest does about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meaning: Option<&'static str>,
}

/// A TDVMCALL taken apart: every register that was given is R10, R11, an argument, part of the
/// message, unused, or 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tdvmcall {
    /// The calling convention.
    pub kind: Kind,
    /// R11, or R10 for a KVM hypercall.
    pub leaf: Hex,
    /// Name of the leaf or hypercall.
    pub name: Option<&'static str>,
    /// What the leaf takes, from the registers that were given.
    pub arguments: Vec<Argument>,
    /// Registers with a part in the call that were not given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<&'static str>,
    /// Registers given, not 0, and without a part in the call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<Unused>,
    /// The message of ReportFatalError up to its end, control characters and what is not ASCII
    /// escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the host does.
    pub host: Option<&'static str>,
    /// What it returned, if told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Outcome>,
}

/// Takes a TDVMCALL apart. `status` is R10 on return.
#[must_use]
pub fn decode(registers: &Registers, shared: Option<SharedBit>, status: Option<u64>) -> Tdvmcall {
    let [r10, r11, ..] = registers.0.map(Option::unwrap_or_default);
    let kind = if r10 == 0 { Kind::Standard } else { Kind::KvmHypercall };
    let number = if r10 == 0 { r11 } else { r10 };
    let leaf = u32::try_from(number).ok();
    let (name, parameters, host) = match kind {
        Kind::Standard => (
            leaf.and_then(tdx::tdvmcall_leaf),
            leaf.map_or(&[][..], parameter::of_leaf),
            Some(of_host(leaf)),
        ),
        Kind::KvmHypercall => (leaf.and_then(kvm::hypercall), parameter::OF_HYPERCALL, None),
    };
    let mut call = Tdvmcall {
        kind,
        leaf: Hex(number),
        name,
        arguments: Vec::new(),
        missing: Vec::new(),
        unused: Vec::new(),
        message: None,
        host,
        status: status.map(|value| outcome(kind, value)),
    };
    let mut left = registers.0;
    left[0] = None;
    if kind == Kind::Standard {
        left[R11] = None;
    }
    let is_read = matches!(leaf, Some(30 | 48)) && left[parameter::DIRECTION] == Some(0);
    for parameter in parameters {
        // What is to be written is in a register that a read does not use.
        if parameter.is_written() && is_read {
            continue;
        }
        match left[parameter.register].take() {
            Some(value) => call.arguments.push(parameter.argument(value, shared)),
            None => call.missing.push(REGISTERS[parameter.register]),
        }
    }
    if kind == Kind::Standard && leaf == Some(tdx::REPORT_FATAL_ERROR) {
        call.message = message(&mut left[R14..]);
    }
    call.unused = REGISTERS
        .into_iter()
        .zip(left)
        .filter_map(|(register, value)| Some((register, value.filter(|value| *value != 0)?)))
        .map(|(register, value)| Unused { register, value: Hex(value) })
        .collect();
    call
}

/// Takes the message's registers as far as they are given without a gap. Bytes behind its end
/// count as part of it and are shown if they are not 0.
fn message(registers: &mut [Option<u64>]) -> Option<String> {
    let words: Vec<u64> = registers.iter_mut().map_while(mem::take).collect();
    if words.is_empty() {
        return None;
    }
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    Some(bytes[..end].escape_ascii().to_string())
}

/// Source: `handle_tdvmcall` and what it calls (`arch/x86/kvm/vmx/tdx.c`, Linux 7.3).
const fn of_host(leaf: Option<u32>) -> &'static str {
    match leaf {
        Some(10) => "KVM answers in the kernel; kvm_exit shows reason 10",
        Some(12) => "the vCPU waits in the kernel; kvm_exit shows reason 12",
        Some(30) => "a device in the kernel answers, or KVM_EXIT_IO; kvm_exit shows reason 30",
        Some(31) => "KVM answers, or KVM_EXIT_X86_RDMSR; kvm_exit shows reason 31",
        Some(32) => "KVM answers, or KVM_EXIT_X86_WRMSR; kvm_exit shows reason 32",
        Some(48) => {
            "a device in the kernel answers, or KVM_EXIT_MMIO; kvm_exit shows reason 49 \
             (EPT_MISCONFIG)"
        }
        Some(tdx::GET_TD_VM_CALL_INFO) => {
            "KVM answers leaf 0; KVM_EXIT_TDX for leaf 1; kvm_exit shows reason 77"
        }
        Some(tdx::MAP_GPA) => {
            "KVM_EXIT_HYPERCALL 12 (MAP_GPA_RANGE), 2 MiB at a time; kvm_exit shows reason 77"
        }
        Some(tdx::GET_QUOTE | tdx::SETUP_EVENT_NOTIFY) => "KVM_EXIT_TDX; kvm_exit shows reason 77",
        Some(tdx::REPORT_FATAL_ERROR) => {
            "KVM_EXIT_SYSTEM_EVENT 7 (TDX_FATAL) with the registers; kvm_exit shows reason 77"
        }
        _ => "KVM 7.3 does not know this leaf: SUBFUNC_UNSUPPORTED; kvm_exit shows reason 77",
    }
}

fn outcome(kind: Kind, value: u64) -> Outcome {
    let (name, meaning) = match kind {
        Kind::Standard => (
            tdx::tdvmcall_status(value),
            (value == 1).then_some("MapGPA: the guest goes on from the address in R11"),
        ),
        Kind::KvmHypercall => (hypercall_error(value.cast_signed()), None),
    };
    Outcome { value: Hex(value), name, meaning }
}

/// Errors of KVM hypercalls (`include/uapi/linux/kvm_para.h`).
const fn hypercall_error(value: i64) -> Option<&'static str> {
    Some(match value {
        0 => "SUCCESS",
        -1 => "-EPERM",
        -7 => "-E2BIG",
        -14 => "-EFAULT",
        -22 => "-EINVAL",
        -95 => "-EOPNOTSUPP",
        -1000 => "-ENOSYS",
        _ => return None,
    })
}

/// `a, b or c`
fn alternatives(words: &[u64]) -> String {
    let mut text = String::new();
    for (index, word) in words.iter().enumerate() {
        let glue = match index {
            0 => "",
            _ if index + 1 == words.len() => " or ",
            _ => ", ",
        };
        // Writing to a string does not fail.
        let _ = write!(text, "{glue}{word}");
    }
    text
}
