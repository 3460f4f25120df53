//! Counters by class, and what they say about exits.

use std::ops::{AddAssign, Index};

use tdtrace_common::counters::{COUNTS, Class};

/// Adds up. What a recording says may be anything.
pub(crate) const fn add(sum: &mut u64, count: u64) {
    *sum = sum.saturating_add(count);
}

/// All of `counts` together, as [`add`] does.
pub(crate) fn sum(counts: impl IntoIterator<Item = u64>) -> u64 {
    counts.into_iter().fold(0, u64::saturating_add)
}

/// Events by [`Class`] since tdtrace attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; COUNTS]);

impl Counts {
    /// The counters as a slot has them.
    #[must_use]
    pub const fn new(counts: [u64; COUNTS]) -> Self {
        Self(counts)
    }

    /// The counters as a slot has them.
    #[must_use]
    pub const fn as_array(&self) -> &[u64; COUNTS] {
        &self.0
    }

    /// Class and count, of the classes that have any.
    pub fn iter(&self) -> impl Iterator<Item = (Class, u64)> {
        Class::ALL.into_iter().map(|class| (class, self[class])).filter(|(_, count)| *count > 0)
    }

    /// What was added since `earlier`; 0 for a class that went back.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut difference = *self;
        for (count, before) in difference.0.iter_mut().zip(earlier.0) {
            *count = count.saturating_sub(before);
        }
        difference
    }
}

impl Index<Class> for Counts {
    type Output = u64;

    fn index(&self, class: Class) -> &u64 {
        &self.0[class as usize]
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            add(count, more);
        }
    }
}
