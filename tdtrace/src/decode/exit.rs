//! VMX exit reasons and SVM exit codes, and what KVM means by them for a TD.

use serde::Serialize;
use tdtrace_common::{svm, vmx};

use super::bits::{self, Flag, Hex};

/// Bits above the basic reason (`union vmx_exit_reason`, `arch/x86/kvm/vmx`, Linux 7.3).
pub const FLAGS: &[Flag] = &[
    (26, "bus-lock"),
    (27, "enclave"),
    (28, "smi-pending-mtf"),
    (29, "smi-from-vmx-root"),
    (31, "failed-entry"),
];

/// What KVM up to 6.16 puts where 7.3 has [`vmx::UNDEFINED`].
const UNDEFINED_BEFORE: u32 = u32::MAX;

/// A VMX exit reason taken apart: `basic`, `flags` and `unknown_bits` make up `value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VmxExit {
    /// The reason as given.
    pub value: Hex,
    /// Bits 15:0; all 32 bits of the reason that stands for none.
    pub basic: u32,
    /// Name of the basic reason.
    pub name: Option<&'static str>,
    /// Names of the set bits of [`FLAGS`].
    pub flags: Vec<&'static str>,
    /// Set bits without a name.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
    /// What KVM does or means when a TD exits with this number.
    pub td: Option<&'static str>,
}

/// An SVM exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SvmExit {
    /// The code as given.
    pub value: Hex,
    /// Its name.
    pub name: Option<&'static str>,
}

/// Takes a VMX exit reason apart.
#[must_use]
pub fn vmx(value: u32) -> VmxExit {
    if value == UNDEFINED_BEFORE {
        return VmxExit {
            value: Hex(value.into()),
            basic: value,
            name: Some("UNDEFINED"),
            flags: Vec::new(),
            unknown_bits: Hex(0),
            td: of_td(vmx::UNDEFINED),
        };
    }
    let basic = value & vmx::BASIC_MASK;
    let (flags, unknown_bits) = bits::split((value & !vmx::BASIC_MASK).into(), FLAGS);
    let td = if value >> 31 == 1 {
        Some("the entry failed; the VMM gets KVM_EXIT_FAIL_ENTRY")
    } else {
        of_td(basic)
    };
    let name = vmx::exit_reason(basic);
    VmxExit { value: Hex(value.into()), basic, name, flags, unknown_bits, td }
}

/// Names an SVM exit code. -1 (32 or 64 bits wide) is `SVM_EXIT_ERR`.
#[must_use]
pub fn svm(value: u64) -> SvmExit {
    let name = match u32::try_from(value) {
        Ok(u32::MAX) => Some("ERR"),
        Ok(code) => svm::exit_code(code),
        Err(_) => (value == u64::MAX).then_some("ERR"),
    };
    SvmExit { value: Hex(value), name }
}

/// Source: `__tdx_handle_exit`, `tdx_handle_exit`, `tdcall_to_vmx_exit_reason`
/// (`arch/x86/kvm/vmx/tdx.c`, Linux 7.3).
fn of_td(basic: u32) -> Option<&'static str> {
    Some(match basic {
        0 => "an NMI or a machine check, handled by the host; else KVM_EXIT_EXCEPTION",
        1 => "an interrupt of the host; its vector is in the interruption information",
        2 => "the TD is gone; the VMM gets KVM_EXIT_SHUTDOWN",
        6 => "an SMI or a machine check inside SEAM; the vCPU runs on",
        10 => "TDVMCALL CPUID, answered in the kernel",
        12 => "TDVMCALL HLT: the vCPU waits in the kernel",
        18 => "KVM hypercall: TDVMCALL with R10 not 0, number in R10, arguments in R11 to R14",
        30 => "TDVMCALL IO; KVM_EXIT_IO if no device in the kernel answers",
        31 => "TDVMCALL RDMSR, answered in the kernel unless the VMM filters the MSR",
        32 => "TDVMCALL WRMSR, answered in the kernel unless the VMM filters the MSR",
        48 => {
            "EPT violation seen by the module, no TDVMCALL: KVM maps the page, or the VMM gets \
             KVM_EXIT_MEMORY_FAULT"
        }
        49 => {
            "TDVMCALL MMIO, shown under this number; KVM_EXIT_MMIO if no device in the kernel \
             answers"
        }
        74 => "bus lock; the VMM gets KVM_EXIT_X86_BUS_LOCK",
        75 => "the vCPU took no interrupts for too long; KVM_EXIT_NOTIFY if the VMM asked for it",
        77 => "TDVMCALL whose leaf the reason does not show: it is in R11",
        vmx::UNDEFINED => {
            "VP.ENTER never ran the vCPU, for example OPERAND_BUSY; 0xdead in Linux 7.3, \
             0xffffffff in 6.16"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_mmio_tdvmcall_is_told_from_an_ept_violation() {
        assert_eq!(vmx(49).name, Some("EPT_MISCONFIG"));
        assert!(vmx(49).td.is_some_and(|td| td.contains("TDVMCALL MMIO")));
        assert!(vmx(48).td.is_some_and(|td| td.contains("no TDVMCALL")));
        assert_eq!(vmx(11).td, None);
    }

    #[test]
    fn flags_and_unknown_bits_are_listed() {
        let exit = vmx(0x8401_001b);
        assert_eq!((exit.basic, exit.name), (27, Some("VMON")));
        assert_eq!(exit.flags, ["bus-lock", "failed-entry"]);
        assert_eq!(exit.unknown_bits, Hex(0x1_0000));
        assert!(exit.td.is_some_and(|td| td.contains("FAIL_ENTRY")));
    }

    #[test]
    fn both_numbers_for_a_vcpu_that_never_ran_say_so() {
        for value in [0xdead, u32::MAX] {
            assert_eq!(vmx(value).name, Some("UNDEFINED"));
            assert!(vmx(value).td.is_some_and(|td| td.contains("never ran")));
        }
    }

    #[test]
    fn svm_codes_have_names_up_to_minus_one() {
        assert_eq!(svm(0x400).name, Some("NPF"));
        assert_eq!((svm(u64::MAX).name, svm(u32::MAX.into()).name), (Some("ERR"), Some("ERR")));
        assert_eq!((svm(0x3ff).name, svm(1 << 40 | 0x400).name), (None, None));
    }

    proptest! {
        #[test]
        fn every_bit_of_an_exit_reason_is_accounted_for(value: u32) {
            let exit = vmx(value);
            let known = u64::from(exit.basic) | bits::join(&exit.flags, FLAGS);
            prop_assert_eq!(known & exit.unknown_bits.0, 0);
            prop_assert_eq!(known | exit.unknown_bits.0, u64::from(value));
        }
    }
}
