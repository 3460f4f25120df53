//! SEAMCALL statuses: what the TDX module, or the kernel in its place, returned in RAX.

use serde::Serialize;
use tdtrace_common::tdx;

use super::{
    bits::Hex,
    exit::{self, VmxExit},
};

/// What a status says at first glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Bits 63:32 are 0.
    Success,
    /// Neither error bit is set, yet there is something to tell.
    Information,
    /// Bit 63 is set and bit 62 is not: it may work later.
    Error,
    /// Bit 62 is set: trying again does not help.
    NonRecoverable,
    /// Made by the kernel: the SEAMCALL never reached the module.
    Software,
}

impl Class {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Information => "information",
            Self::Error => "error",
            Self::NonRecoverable => "non-recoverable",
            Self::Software => "software",
        }
    }
}

/// A number, and its name if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The number.
    pub number: u32,
    /// Its name.
    pub name: Option<&'static str>,
}

/// A SEAMCALL leaf as it stands in RAX.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Leaf {
    /// Bits 15:0.
    pub number: u32,
    /// Bits 23:16: the version of the call.
    pub version: u8,
    /// The leaf's name.
    pub name: Option<&'static str>,
    /// Set bits above 23.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

/// State and level of the S-EPT entry that a SEAMCALL failed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sept {
    /// The word as given.
    pub value: Hex,
    /// Bits 2:0: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB and so on.
    pub level: u8,
    /// Bits 15:8.
    pub state: Named,
    /// Set bits without a meaning.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

/// A SEAMCALL status taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The status as given.
    pub value: Hex,
    /// What it says at first glance.
    pub class: Class,
    /// Bit 63.
    pub error: bool,
    /// Bit 62.
    pub non_recoverable: bool,
    /// Name of bits 63:32; of the whole word for those that the kernel made.
    pub name: Option<&'static str>,
    /// The SEAMCALL leaf that returned it, if told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leaf: Option<Leaf>,
    /// Bits 31:0 as the exit reason that VP.ENTER returns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<VmxExit>,
    /// Bits 31:0 as the operand that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operand: Option<Named>,
    /// Bits 31:0 as the exception that SEAMCALL raised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vector: Option<u32>,
    /// Set bits without a meaning. Without a name, bits 47:40 (class) and 39:32 (number in it) are
    /// the only ones of the upper half, beside the error bits, that have one.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
    /// What KVM does about it.
    pub kvm: Option<&'static str>,
}

/// Takes a SEAMCALL status apart. `leaf` (RAX of the call, version included) settles what bits 31:0
/// are; without it VP.ENTER is assumed where it alone can have returned them.
#[must_use]
pub fn decode(value: u64, leaf: Option<u32>) -> Status {
    let leaf = leaf.map(|rax| {
        let number = rax & 0xffff;
        Leaf {
            number,
            version: (rax >> 16) as u8,
            name: tdx::seamcall_leaf(number),
            unknown_bits: Hex((rax & 0xff00_0000).into()),
        }
    });
    let mut status = Status {
        value: Hex(value),
        class: class(value),
        error: value & tdx::ERROR != 0,
        non_recoverable: value & tdx::NON_RECOVERABLE != 0,
        name: None,
        leaf,
        exit: None,
        operand: None,
        vector: None,
        unknown_bits: Hex(0),
        kvm: None,
    };
    if status.class == Class::Software {
        of_kernel(&mut status);
    } else {
        of_module(&mut status, leaf.is_none_or(|leaf| leaf.number == tdx::VP_ENTER));
    }
    status
}

fn class(value: u64) -> Class {
    if value & tdx::SW_ERROR == tdx::SW_ERROR {
        Class::Software
    } else if value & tdx::NON_RECOVERABLE != 0 {
        Class::NonRecoverable
    } else if value & tdx::ERROR != 0 {
        Class::Error
    } else if value >> 32 != 0 {
        Class::Information
    } else {
        Class::Success
    }
}

fn of_kernel(status: &mut Status) {
    let value = status.value.0;
    let low = value as u32;
    let mut known = tdx::SW_ERROR | u64::from(low);
    let exact = value & !u64::from(u32::MAX) == tdx::SW_ERROR;
    status.name = Some(match low {
        tdx::VMFAILINVALID if exact => "SEAMCALL_VMFAILINVALID",
        0x0d if exact => "SEAMCALL_GP",
        0x06 if exact => "SEAMCALL_UD",
        _ => "SW_ERROR",
    });
    if low <= 0xff {
        status.vector = Some(low);
    } else if low != tdx::VMFAILINVALID {
        known = tdx::SW_ERROR;
    }
    known |= value & tdx::NON_RECOVERABLE;
    status.unknown_bits = Hex(value & !known);
    status.kvm = Some(match status.name {
        Some("SEAMCALL_UD") => "the CPU is not in VMX operation",
        Some("SEAMCALL_GP") => "the CPU has no SEAM, or the firmware left it off",
        Some("SEAMCALL_VMFAILINVALID") => "no TDX module is loaded",
        _ => "from VP.ENTER: KVM_BUG_ON and KVM_EXIT_INTERNAL_ERROR, unless the host reboots",
    });
}

fn of_module(status: &mut Status, vp_enter: bool) {
    let value = status.value.0;
    let (high, low) = ((value >> 32) as u32, value as u32);
    status.name = tdx::seamcall_status(high);
    let known = match status.name {
        Some(_) => u32::MAX,
        None => 0xc000_ffff,
    };
    let mut unknown = u64::from(high & !known) << 32;
    if vp_enter && has_exit_reason(high) {
        let exit = exit::vmx(low);
        unknown |= exit.unknown_bits.0;
        status.exit = Some(exit);
    } else if high == 0 {
        unknown |= u64::from(low);
    } else if low != 0 {
        status.operand = Some(Named { number: low, name: tdx::operand(low) });
    }
    status.unknown_bits = Hex(unknown);
    let triple_fault = status.exit.as_ref().is_some_and(|exit| exit.basic == 2);
    status.kvm = match (high, status.class) {
        (0x8000_0200, _) => Some(
            "from VP.ENTER: KVM enters again; from the steps that remove a page: it kicks the \
             vCPUs and tries once more; from PAGE.AUG and SEPT.ADD: the fault is retried",
        ),
        (0x8000_0203, _) => Some("the kernel tries again a few times"),
        (_, Class::NonRecoverable) if triple_fault => Some("the VMM gets KVM_EXIT_SHUTDOWN"),
        (_, Class::Error | Class::NonRecoverable) if vp_enter => Some(
            "from VP.ENTER: KVM_EXIT_INTERNAL_ERROR, suberror 4 (unexpected exit reason), this \
             status in data[0]",
        ),
        _ => None,
    };
}

/// Whether VP.ENTER returns an exit reason below these bits 63:32 (`tdx_to_vmx_exit_reason`,
/// `arch/x86/kvm/vmx/tdx.c`, Linux 7.3).
const fn has_exit_reason(high: u32) -> bool {
    matches!(high, 0 | 0x4000_0001 | 0x4000_0002 | 0x6000_0005 | 0x6000_0007)
}

/// Takes the second word of details of a failed S-EPT operation apart, the one that KVM prints as
/// `level_state` (`arch/x86/kvm/vmx/tdx_arch.h`, Linux 7.3).
#[must_use]
pub fn sept(value: u64) -> Sept {
    let state = (value >> 8 & 0xff) as u32;
    Sept {
        value: Hex(value),
        level: (value & 7) as u8,
        state: Named { number: state, name: tdx::sept_state(state) },
        unknown_bits: Hex(value & !0xff07),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decode::bits;

    #[test]
    fn a_busy_operand_is_named() {
        let status = decode(0x8000_0200_0000_0092, None);
        assert_eq!((status.class, status.name), (Class::Error, Some("OPERAND_BUSY")));
        assert_eq!(status.operand, Some(Named { number: 0x92, name: Some("SEPT") }));
        assert!(status.error && !status.non_recoverable && status.exit.is_none());
        assert!(status.kvm.is_some_and(|kvm| kvm.contains("enters again")));
    }

    #[test]
    fn success_is_an_exit_reason_of_vp_enter_and_of_no_other_leaf() {
        for leaf in [None, Some(0)] {
            let exit = decode(77, leaf).exit.unwrap();
            assert_eq!(exit.name, Some("TDCALL"));
        }
        let status = decode(77, Some(1 << 16 | 6));
        assert_eq!((status.exit, status.unknown_bits), (None, Hex(77)));
        let leaf = status.leaf.unwrap();
        assert_eq!((leaf.name, leaf.version), (Some("TDH.MEM.PAGE.AUG"), 1));
        let odd = decode(0, Some(0x8100_0005)).leaf.unwrap();
        assert_eq!((odd.name, odd.unknown_bits), (None, Hex(0x8100_0000)));
    }

    #[test]
    fn a_triple_fault_is_no_internal_error() {
        let status = decode(0x4000_0002_0000_0002, None);
        assert_eq!(status.name, Some("NON_RECOVERABLE_TD"));
        assert_eq!(status.exit.unwrap().name, Some("TRIPLE_FAULT"));
        assert!(status.kvm.is_some_and(|kvm| kvm.contains("SHUTDOWN")));
        let other = decode(0x4000_0001_0000_0030, None);
        assert!(other.kvm.is_some_and(|kvm| kvm.contains("INTERNAL_ERROR")));
    }

    #[test]
    fn the_kernels_own_statuses_are_named() {
        for (value, name, vector) in [
            (0x8000_ff00_0000_000d, "SEAMCALL_GP", Some(13)),
            (0x8000_ff00_0000_0006, "SEAMCALL_UD", Some(6)),
            (0x8000_ff00_ffff_0000, "SEAMCALL_VMFAILINVALID", None),
            (0x8000_ff00_0000_0014, "SW_ERROR", Some(20)),
        ] {
            let status = decode(value, None);
            assert_eq!((status.class, status.name), (Class::Software, Some(name)));
            assert_eq!((status.vector, status.unknown_bits), (vector, Hex(0)));
        }
        assert!(decode(0x8000_ff00_ffff_0000, None).kvm.is_some_and(|kvm| kvm.contains("module")));
        assert_eq!(decode(0x8001_ff00_0001_0000, None).unknown_bits, Hex(0x1_0000_0001_0000));
    }

    #[test]
    fn information_and_unnamed_statuses_keep_their_bits() {
        let status = decode(0x0000_0815_0000_0000, None);
        assert_eq!((status.class, status.name), (Class::Information, Some("KEY_CONFIGURED")));
        let status = decode(0x8001_1234_0000_0005, None);
        assert_eq!((status.name, status.unknown_bits), (None, Hex(1 << 48)));
        assert_eq!(status.operand, Some(Named { number: 5, name: None }));
    }

    #[test]
    fn sept_details_have_level_and_state() {
        let sept = sept(0x1_0301);
        assert_eq!((sept.level, sept.state.name), (1, Some("PENDING_BLOCKED")));
        assert_eq!(sept.unknown_bits, Hex(0x1_0000));
        assert_eq!(super::sept(0x900).state, Named { number: 9, name: None });
    }

    proptest! {
        #[test]
        fn every_bit_is_accounted_for(
            value: u64,
            high in prop::sample::select(tdx::SEAMCALL_STATUSES),
            pick in 0..3,
            leaf in prop::option::of(0_u32..4),
        ) {
            let value = match pick {
                0 => value,
                1 => u64::from(high.0) << 32 | value >> 32,
                _ => value | tdx::SW_ERROR,
            };
            let status = decode(value, leaf);
            let high = match (status.class, status.name) {
                (Class::Software, _) => tdx::SW_ERROR,
                (_, Some(name)) => {
                    let row = tdx::SEAMCALL_STATUSES.iter().find(|row| row.1 == name).unwrap();
                    u64::from(row.0) << 32
                }
                (_, None) => value & 0xffff << 32,
            };
            let mut known = high
                | u64::from(status.error) << 63
                | u64::from(status.non_recoverable) << 62
                | u64::from(status.operand.map_or(0, |operand| operand.number))
                | u64::from(status.vector.unwrap_or(0));
            if let Some(exit) = &status.exit {
                known |= u64::from(exit.basic) | bits::join(&exit.flags, exit::FLAGS);
            }
            if status.class == Class::Software && value as u32 == tdx::VMFAILINVALID {
                known |= u64::from(tdx::VMFAILINVALID);
            }
            prop_assert_eq!(known & status.unknown_bits.0, 0);
            prop_assert_eq!(known | status.unknown_bits.0, value);
        }

        #[test]
        fn every_bit_of_sept_details_is_accounted_for(value: u64) {
            let sept = sept(value);
            let known = u64::from(sept.level) | u64::from(sept.state.number) << 8;
            prop_assert_eq!(known | sept.unknown_bits.0, value);
        }
    }
}
