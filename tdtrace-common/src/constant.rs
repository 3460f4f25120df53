//! Constants of the programs that the user side puts into their instructions before they are loaded.
//!
//! The verifier knows a read-only global too, but leaves the load where it is: memory that every event
//! would touch for nothing. So a program sets a register to a number that stands for the constant, and the
//! user side replaces the number.

use crate::layout::KernelLayout;

/// The first of these numbers, "td" in ASCII in its upper half.
pub const FIRST: i32 = 0x7464_0000;

/// Offsets of [`KernelLayout`], in its order: as many numbers from [`FIRST`] on.
pub const OFFSETS: usize = KernelLayout::FIELDS.len();

/// The number that stands for the field at byte `at` of [`KernelLayout`].
#[must_use]
pub const fn of_field(at: usize) -> i32 {
    FIRST + (at / size_of::<u32>()) as i32
}

/// What a load is besides its layout; each is 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// The programs take the time.
    Timed,
    /// Long durations are sent one by one.
    SendsSlow,
    /// The kernel lets programs load from its memory without a call.
    Direct,
    /// The load is for synthetic TDs, and the programs are told the time, the thread and the vCPU.
    Synthetic,
    /// The programs log.
    Debug,
}

impl Switch {
    /// Every switch, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Timed, Self::SendsSlow, Self::Direct, Self::Synthetic, Self::Debug];

    /// The number that stands for it.
    #[must_use]
    pub const fn number(self) -> i32 {
        FIRST + (OFFSETS + self as usize) as i32
    }
}

/// The number of a helper that no kernel has, "tdtr" in ASCII: the programs call it where they mean
/// `bpf_rdonly_cast`.
pub const CAST: i32 = 0x7464_7472;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_stands_for_one_thing() {
        let fields = (0..OFFSETS).map(|index| of_field(4 * index));
        for (index, number) in fields.chain(Switch::ALL.map(Switch::number)).enumerate() {
            assert_eq!(number, FIRST + index as i32);
            assert!(number < CAST);
        }
    }
}
