//! KVM's page fault error codes.

use serde::Serialize;

use super::bits::{self, Flag, Hex};

/// `PFERR_*` (`arch/x86/include/asm/kvm_host.h`, Linux 7.3).
pub const FLAGS: &[Flag] = &[
    (0, "present"),
    (1, "write"),
    (2, "user"),
    (3, "reserved"),
    (4, "fetch"),
    (5, "protection-key"),
    (6, "shadow-stack"),
    (15, "sgx"),
    (31, "rmp"),
    (32, "guest-final"),
    (33, "guest-page"),
    (34, "encrypted"),
    (35, "size-mismatch"),
    (36, "vmpl"),
    (48, "implicit-access"),
    (49, "private-access"),
];

/// An error code taken apart: `flags` and `unknown_bits` make up `value`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageFault {
    /// The error code as given.
    pub value: Hex,
    /// Names of the set bits of [`FLAGS`].
    pub flags: Vec<&'static str>,
    /// Set bits without a name.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

/// Takes the error code of `kvm_mmu_page_fault()` apart.
///
/// What the tracepoint `kvm_page_fault` shows on Intel is an EPT violation's qualification instead:
/// [`super::qualification::ept`].
#[must_use]
pub fn decode(value: u64) -> PageFault {
    let (flags, unknown_bits) = bits::split(value, FLAGS);
    PageFault { value: Hex(value), flags, unknown_bits }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_private_write_is_recognised() {
        let fault = decode(1 << 49 | 1 << 33 | 0x2 | 1 << 20);
        assert_eq!(fault.flags, ["write", "guest-page", "private-access"]);
        assert_eq!(fault.unknown_bits, Hex(1 << 20));
    }

    proptest! {
        #[test]
        fn every_bit_is_accounted_for(value: u64) {
            let fault = decode(value);
            let known = bits::join(&fault.flags, FLAGS);
            prop_assert_eq!(known & fault.unknown_bits.0, 0);
            prop_assert_eq!(known | fault.unknown_bits.0, value);
        }
    }
}
