//! Words of flag bits: names for the known ones, and the unknown ones kept.

use std::fmt;

use serde::{Serialize, Serializer};

/// A 64-bit word that shows and serializes as `0x…`: JSON readers lose numbers beyond 2^53.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hex(pub u64);

impl Hex {
    /// Whether no bit is set; JSON leaves such words of unknown bits out.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Number of a bit (0 to 63) and its name.
pub type Flag = (u32, &'static str);

/// The names of the bits of `value` that `flags` knows, lowest first as listed, and the word of
/// those that it does not know.
#[must_use]
pub fn split(value: u64, flags: &[Flag]) -> (Vec<&'static str>, Hex) {
    let set: Vec<_> = flags.iter().filter(|(bit, _)| value >> bit & 1 == 1).collect();
    let unknown = set.iter().fold(value, |rest, (bit, _)| rest & !(1 << bit));
    (set.into_iter().map(|(_, name)| *name).collect(), Hex(unknown))
}

/// The word in which just these names are set: [`split`] turned round.
#[must_use]
pub fn join(names: &[&str], flags: &[Flag]) -> u64 {
    flags.iter().filter(|(_, name)| names.contains(name)).fold(0, |word, (bit, _)| word | 1 << bit)
}
