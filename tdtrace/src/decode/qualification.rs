//! Exit qualifications: port I/O, EPT violation, control register access.

use serde::Serialize;

use super::bits::{self, Flag, Hex};

/// Bits of an EPT violation's qualification (`EPT_VIOLATION_*`, `arch/x86/include/asm/vmx.h`,
/// Linux 7.3; bit 12 as `handle_ept_violation` in `arch/x86/kvm/vmx/vmx.c` tests it).
pub const EPT_FLAGS: &[Flag] = &[
    (0, "read"),
    (1, "write"),
    (2, "fetch"),
    (3, "readable"),
    (4, "writable"),
    (5, "executable"),
    (6, "user-executable"),
    (7, "gla-valid"),
    (8, "gla-translated"),
    (9, "gla-user"),
    (10, "gla-writable"),
    (11, "gla-no-execute"),
    (12, "nmi-unblocked"),
];

/// Port I/O. Bits 5 (REP) and 6 (immediate) are from the Intel SDM, the others as in `VE_*` of
/// `arch/x86/coco/tdx/tdx.c`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Io {
    /// The qualification as given.
    pub value: Hex,
    /// Bytes a transfer: 1, 2 or 4; none if bits 2:0 hold anything else.
    pub size: Option<u8>,
    /// `in` or `out`, as the guest sees it.
    pub direction: &'static str,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
    /// The port is in the instruction, not in DX.
    pub immediate: bool,
    /// The port.
    pub port: u16,
    /// Set bits without a meaning, bits 2:0 among them if they are no size.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

/// EPT violation: `flags` and `unknown_bits` make up `value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ept {
    /// The qualification as given.
    pub value: Hex,
    /// Names of the set bits of [`EPT_FLAGS`].
    pub flags: Vec<&'static str>,
    /// Set bits without a name.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

/// Access to a control register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cr {
    /// The qualification as given.
    pub value: Hex,
    /// Number of the control register.
    pub cr: u8,
    /// `mov-to`, `mov-from`, `clts` or `lmsw`; the last three numbers are from the Intel SDM.
    pub access: &'static str,
    /// General-purpose register of a MOV.
    pub register: Option<&'static str>,
    /// What LMSW loads.
    pub source: Option<u16>,
    /// Set bits without a meaning for this access.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

const GPRS: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

const fn bit(value: u64, bit: u32) -> bool {
    value >> bit & 1 == 1
}

/// Takes the qualification of a port access (exit reason 30) apart.
#[must_use]
pub fn io(value: u64) -> Io {
    let size = match value & 7 {
        0 => Some(1),
        1 => Some(2),
        3 => Some(4),
        _ => None,
    };
    let known = 0xffff_0078 | if size.is_some() { 7 } else { 0 };
    Io {
        value: Hex(value),
        size,
        direction: if bit(value, 3) { "in" } else { "out" },
        string: bit(value, 4),
        rep: bit(value, 5),
        immediate: bit(value, 6),
        port: (value >> 16) as u16,
        unknown_bits: Hex(value & !known),
    }
}

/// Takes the qualification of an EPT violation (exit reason 48) apart.
#[must_use]
pub fn ept(value: u64) -> Ept {
    let (flags, unknown_bits) = bits::split(value, EPT_FLAGS);
    Ept { value: Hex(value), flags, unknown_bits }
}

/// Takes the qualification of a control register access (exit reason 28) apart.
#[must_use]
pub fn cr(value: u64) -> Cr {
    let (access, operands) = match value >> 4 & 3 {
        0 => ("mov-to", 0xf00),
        1 => ("mov-from", 0xf00),
        2 => ("clts", 0),
        _ => ("lmsw", 0xffff_0000),
    };
    Cr {
        value: Hex(value),
        cr: (value & 0xf) as u8,
        access,
        register: (operands == 0xf00).then(|| GPRS[(value >> 8 & 0xf) as usize]),
        source: (operands == 0xffff_0000).then_some((value >> 16) as u16),
        unknown_bits: Hex(value & !(0x3f | operands)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_port_access_is_taken_apart() {
        let out = io(0x3f8_0000);
        assert_eq!((out.size, out.direction, out.port), (Some(1), "out", 0x3f8));
        let rep_ins = io(0x60_003b);
        assert_eq!((rep_ins.size, rep_ins.direction, rep_ins.port), (Some(4), "in", 0x60));
        assert!(rep_ins.string && rep_ins.rep && !rep_ins.immediate);
        assert_eq!((io(0x82).size, io(0x82).unknown_bits), (None, Hex(0x82)));
    }

    #[test]
    fn an_ept_violation_is_taken_apart() {
        assert_eq!(ept(0x2).flags, ["write"]);
        let fetch = ept(0x8184);
        assert_eq!(fetch.flags, ["fetch", "gla-valid", "gla-translated"]);
        assert_eq!(fetch.unknown_bits, Hex(0x8000));
    }

    #[test]
    fn a_control_register_access_has_the_operands_of_its_kind() {
        let mov = cr(0xf14);
        assert_eq!((mov.cr, mov.access, mov.register), (4, "mov-from", Some("r15")));
        assert_eq!((cr(0x103).cr, cr(0x103).register), (3, Some("rcx")));
        let lmsw = cr(0x1234_0030);
        assert_eq!((lmsw.access, lmsw.source, lmsw.register), ("lmsw", Some(0x1234), None));
        assert_eq!((cr(0x120).access, cr(0x120).unknown_bits), ("clts", Hex(0x100)));
    }

    proptest! {
        #[test]
        fn every_bit_of_a_port_access_is_accounted_for(value: u64) {
            let io = io(value);
            let flag = |set: bool, bit: u32| u64::from(set) << bit;
            let known = io.size.map_or(0, |size| u64::from(size) - 1)
                | flag(io.direction == "in", 3)
                | flag(io.string, 4)
                | flag(io.rep, 5)
                | flag(io.immediate, 6)
                | u64::from(io.port) << 16;
            prop_assert_eq!(known & io.unknown_bits.0, 0);
            prop_assert_eq!(known | io.unknown_bits.0, value);
        }

        #[test]
        fn every_bit_of_an_ept_violation_is_accounted_for(value: u64) {
            let ept = ept(value);
            let known = bits::join(&ept.flags, EPT_FLAGS);
            prop_assert_eq!(known & ept.unknown_bits.0, 0);
            prop_assert_eq!(known | ept.unknown_bits.0, value);
        }

        #[test]
        fn every_bit_of_a_control_register_access_is_accounted_for(value: u64) {
            let cr = cr(value);
            let kind = ["mov-to", "mov-from", "clts", "lmsw"].iter().position(|k| *k == cr.access);
            let register = cr.register.and_then(|name| GPRS.iter().position(|gpr| *gpr == name));
            let known = u64::from(cr.cr)
                | (kind.unwrap() as u64) << 4
                | (register.unwrap_or(0) as u64) << 8
                | u64::from(cr.source.unwrap_or(0)) << 16;
            prop_assert_eq!(known & cr.unknown_bits.0, 0);
            prop_assert_eq!(known | cr.unknown_bits.0, value);
        }
    }
}
