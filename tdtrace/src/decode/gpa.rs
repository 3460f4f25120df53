//! Guest physical addresses of a TD: private or shared.

use serde::Serialize;

use super::bits::Hex;

/// Where a TD has its shared bit: the highest bit of its guest physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedBit {
    /// Bit 47: guest physical addresses are 48 bits wide.
    Bit47,
    /// Bit 51: guest physical addresses are 52 bits wide.
    Bit51,
}

impl SharedBit {
    const fn number(self) -> u32 {
        match self {
            Self::Bit47 => 47,
            Self::Bit51 => 51,
        }
    }
}

/// Whose memory an address lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// The TD's own, encrypted.
    Private,
    /// Seen by the host.
    Shared,
    /// Bit 47 is set and bit 51 is not: shared if addresses are 48 bits wide, private if 52.
    Unknown,
}

impl Sharing {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Shared => "shared",
            Self::Unknown => {
                "shared if guest physical addresses are 48 bits wide, private if 52 bits"
            }
        }
    }
}

/// A guest physical address taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Gpa {
    /// The address as given, with its shared bit.
    pub value: Hex,
    /// Private or shared.
    pub sharing: Sharing,
    /// Bits that no guest physical address of this width has.
    #[serde(skip_serializing_if = "Hex::is_zero")]
    pub unknown_bits: Hex,
}

/// Tells whether `value` is private or shared. Without a known shared bit, bit 51 or none of the
/// two decides; bit 47 alone does not.
#[must_use]
pub fn gpa(value: u64, shared_bit: Option<SharedBit>) -> Gpa {
    let is_set = |bit: SharedBit| value >> bit.number() & 1 == 1;
    let sharing = match shared_bit {
        Some(bit) if is_set(bit) => Sharing::Shared,
        None if is_set(SharedBit::Bit51) => Sharing::Shared,
        None if is_set(SharedBit::Bit47) => Sharing::Unknown,
        _ => Sharing::Private,
    };
    let width = shared_bit.unwrap_or(SharedBit::Bit51).number() + 1;
    Gpa { value: Hex(value), sharing, unknown_bits: Hex(value >> width << width) }
}

/// The address without its shared bit; where that may be either bit, the one that is set.
#[must_use]
pub fn without_shared_bit(value: u64, shared_bit: Option<SharedBit>) -> u64 {
    let bit = shared_bit.unwrap_or(if value >> SharedBit::Bit51.number() & 1 == 1 {
        SharedBit::Bit51
    } else {
        SharedBit::Bit47
    });
    value & !(1 << bit.number())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_47_alone_tells_nothing_unless_the_width_is_known() {
        let mmio = 1 << 47 | 0xfee0_0000;
        assert_eq!(gpa(mmio, None).sharing, Sharing::Unknown);
        assert_eq!(gpa(mmio, Some(SharedBit::Bit47)).sharing, Sharing::Shared);
        assert_eq!(gpa(mmio, Some(SharedBit::Bit51)).sharing, Sharing::Private);
        assert_eq!(gpa(1 << 51, None).sharing, Sharing::Shared);
        assert_eq!(gpa(0xfee0_0000, None).sharing, Sharing::Private);
    }

    #[test]
    fn the_shared_bit_can_be_taken_off() {
        assert_eq!(without_shared_bit(1 << 51 | 0xfee0_0000, None), 0xfee0_0000);
        assert_eq!(without_shared_bit(1 << 47 | 0xfee0_0000, None), 0xfee0_0000);
        let wide = 1 << 47 | 1 << 51 | 0x1000;
        assert_eq!(without_shared_bit(wide, Some(SharedBit::Bit51)), 1 << 47 | 0x1000);
        assert_eq!(without_shared_bit(0x1000, None), 0x1000);
    }

    #[test]
    fn bits_beyond_the_width_are_unknown() {
        assert_eq!(gpa(1 << 63 | 1 << 51, None).unknown_bits, Hex(1 << 63));
        assert_eq!(gpa(1 << 51, Some(SharedBit::Bit47)).unknown_bits, Hex(1 << 51));
    }
}
