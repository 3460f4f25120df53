//! What the guest can be told to do, and counts of it. Pure.

use serde::{Serialize, Serializer, ser::SerializeMap as _};
use tdtrace_common::counters::Class;

/// A kind of access. The number is the place of its loop in the guest's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Kind {
    /// OUT to a port that only the VMM serves.
    PioOut = 0,
    /// IN from such a port.
    PioIn = 1,
    /// A store to a GPA without memory.
    MmioWrite = 2,
    /// A load from a GPA without memory.
    MmioRead = 3,
    /// A store to a GPA that an ioeventfd of any length listens on.
    FastMmio = 4,
    /// CPUID.
    Cpuid = 5,
    /// RDMSR of an MSR that KVM emulates.
    MsrRead = 6,
    /// WRMSR of such an MSR.
    MsrWrite = 7,
    /// HLT; without an interrupt controller in the kernel it goes to the VMM.
    Hlt = 8,
    /// HLT that the kernel serves, because it has the local APIC; an interrupt ends it.
    Halt = 9,
}

impl Kind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 10] = [
        Self::PioOut,
        Self::PioIn,
        Self::MmioWrite,
        Self::MmioRead,
        Self::FastMmio,
        Self::Cpuid,
        Self::MsrRead,
        Self::MsrWrite,
        Self::Hlt,
        Self::Halt,
    ];

    /// Those that a plan can have together: all but [`Kind::Halt`], which excludes [`Kind::Hlt`].
    pub const WITHOUT_HALT: [Self; 9] = {
        let [kinds @ .., _] = Self::ALL;
        kinds
    };

    /// The class that counts it. HLT has none: it is seen as a return of KVM_RUN, or as an exit.
    #[must_use]
    pub const fn class(self) -> Option<Class> {
        match self {
            Self::PioOut => Some(Class::PioOut),
            Self::PioIn => Some(Class::PioIn),
            Self::MmioWrite => Some(Class::MmioWrite),
            Self::MmioRead => Some(Class::MmioRead),
            Self::FastMmio => Some(Class::FastMmio),
            Self::Cpuid => Some(Class::Cpuid),
            Self::MsrRead => Some(Class::MsrRead),
            Self::MsrWrite => Some(Class::MsrWrite),
            Self::Hlt | Self::Halt => None,
        }
    }

    /// The name in JSON: that of the class.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.class(), self) {
            (Some(class), _) => class.name(),
            (None, Self::Halt) => "halt",
            (None, _) => "hlt",
        }
    }

    /// Whether every access makes KVM_RUN return to the VMM.
    #[must_use]
    pub const fn returns(self) -> bool {
        matches!(self, Self::PioOut | Self::PioIn | Self::MmioWrite | Self::MmioRead | Self::Hlt)
    }
}

/// A number for each [`Kind`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; Kind::ALL.len()]);

impl Counts {
    /// The number of `kind`.
    #[must_use]
    pub const fn get(&self, kind: Kind) -> u64 {
        self.0[kind as usize]
    }

    /// Sets the number of `kind`.
    pub const fn set(&mut self, kind: Kind, count: u64) {
        self.0[kind as usize] = count;
    }

    /// Adds to the number of `kind`.
    pub const fn add(&mut self, kind: Kind, count: u64) {
        self.0[kind as usize] = self.0[kind as usize].saturating_add(count);
    }

    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Each kind with its number, in the order of [`Kind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + Clone + '_ {
        Kind::ALL.iter().map(|kind| (*kind, self.get(*kind)))
    }
}

impl FromIterator<(Kind, u64)> for Counts {
    fn from_iter<I: IntoIterator<Item = (Kind, u64)>>(counts: I) -> Self {
        let mut sum = Self::default();
        for (kind, count) in counts {
            sum.add(kind, count);
        }
        sum
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Kind::ALL.len()))?;
        for (kind, count) in self.iter() {
            map.serialize_entry(kind.name(), &count)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_its_number() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
        }
    }

    #[test]
    fn all_kinds_but_halts_go_together() {
        assert!(!Kind::WITHOUT_HALT.contains(&Kind::Halt));
        assert_eq!(Kind::WITHOUT_HALT.len() + 1, Kind::ALL.len());
    }

    #[test]
    fn json_names_are_those_of_the_classes() {
        let counts = Counts::from_iter([
            (Kind::MsrRead, 7),
            (Kind::Hlt, 1),
            (Kind::Hlt, 2),
            (Kind::Halt, 4),
        ]);
        let json = serde_json::to_value(counts).unwrap();
        assert_eq!(json[Class::MsrRead.name()], 7);
        assert_eq!((&json["hlt"], &json["halt"]), (&3.into(), &4.into()));
        assert_eq!(json.as_object().unwrap().len(), Kind::ALL.len());
    }
}
