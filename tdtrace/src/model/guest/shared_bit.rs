//! Which bit of a guest physical address says that the page is shared with the VMM.
//!
//! It is the highest bit of the TD's address width, which only the TD knows: bit 47 or 51 on today's
//! modules. Addresses are kept as they came; the bit is taken off
//! for display where its place is known.

use std::fmt;

use crate::decode::gpa::{self, Sharing};

/// Where the bit is, and how that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedBit {
    /// The kernel's own `cc_mask` says so.
    Kernel(u32),
    /// The user says so.
    Given(u32),
    /// Nobody says. An address with bit 51 set is shared, since no private one reaches that far.
    #[default]
    Unknown,
}

impl SharedBit {
    /// The bit in `cc_mask` (`arch/x86/coco/core.c`), which a kernel outside of a TD leaves empty. Above
    /// bit 51 there are no physical addresses.
    #[must_use]
    pub const fn from_mask(mask: u64) -> Self {
        if mask.is_power_of_two() && mask <= 1 << 51 {
            Self::Kernel(mask.trailing_zeros())
        } else {
            Self::Unknown
        }
    }

    /// Its number, if known.
    #[must_use]
    pub const fn number(self) -> Option<u32> {
        match self {
            Self::Kernel(bit) | Self::Given(bit) => Some(bit),
            Self::Unknown => None,
        }
    }

    /// `address` without the bit, and whether it was set; `None` for an address of which nobody can
    /// say.
    #[must_use]
    pub fn split(self, address: u64) -> (u64, Option<bool>) {
        match self.number() {
            Some(bit) => {
                let mask = 1_u64.checked_shl(bit).unwrap_or(0);
                (address & !mask, Some(address & mask != 0))
            }
            None => match gpa::gpa(address, None).sharing {
                Sharing::Shared => (address & !(1 << 51), Some(true)),
                Sharing::Private => (address, Some(false)),
                Sharing::Unknown => (address, None),
            },
        }
    }
}

impl fmt::Display for SharedBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(bit) => write!(f, "{bit}"),
            Self::Given(bit) => write!(f, "{bit} (given)"),
            Self::Unknown => f.write_str("unknown (51 if set)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_is_taken_off_where_its_place_is_known_and_only_there() {
        let hpet = 0xfed0_0000;
        for bit in [47, 51] {
            let shared = SharedBit::from_mask(1 << bit);
            assert_eq!(shared.split(1 << bit | hpet), (hpet, Some(true)), "{bit}");
            assert_eq!(shared.split(hpet), (hpet, Some(false)), "{bit}");
        }
        assert_eq!(SharedBit::Given(47).split(1 << 51 | hpet), (1 << 51 | hpet, Some(false)));
    }

    #[test]
    fn without_a_known_place_bit_51_is_shared_and_bit_47_is_left_alone() {
        for mask in [0, 3 << 47, 1 << 52] {
            assert_eq!(SharedBit::from_mask(mask), SharedBit::Unknown);
        }
        let unknown = SharedBit::Unknown;
        assert_eq!(unknown.split(1 << 51 | 0x1000), (0x1000, Some(true)));
        assert_eq!(unknown.split(1 << 47 | 0x1000), (1 << 47 | 0x1000, None));
        assert_eq!(unknown.split(0x1000), (0x1000, Some(false)));
        assert_eq!(SharedBit::Given(64).split(7), (7, Some(false)));
    }
}
