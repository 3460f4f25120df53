//! Broken memory of the host: what a source delivers of it.

use std::sync::Arc;

use tdtrace_common::poison::{NO_PFN, PoisonKey, PoisonSource, RESULTS};

/// What was said about broken memory, since attaching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoisonSample {
    /// Sources that are not seen, with the reason.
    pub missing: Vec<(PoisonSource, Arc<str>)>,
    /// Events by page, ascending.
    pub pages: Vec<(PoisonKey, u64)>,
    /// Events that found no room.
    pub lost: u64,
}

impl PoisonSample {
    /// Events, those without room included.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.pages.iter().fold(self.lost, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// Adds what an earlier load saw.
    pub fn add(&mut self, before: &Self) {
        for (key, count) in &before.pages {
            match self.pages.binary_search_by_key(key, |(key, _)| *key) {
                Ok(at) => self.pages[at].1 = self.pages[at].1.saturating_add(*count),
                Err(at) => self.pages.insert(at, (*key, *count)),
            }
        }
        self.lost = self.lost.saturating_add(before.lost);
    }

    /// What it has more than `base`.
    #[must_use]
    pub fn since(&self, base: &Self) -> Self {
        let earlier = |key: &PoisonKey| {
            let found = base.pages.binary_search_by_key(key, |(key, _)| *key);
            found.map_or(0, |at| base.pages[at].1)
        };
        let since = self.pages.iter().map(|(key, n)| (*key, n.saturating_sub(earlier(key))));
        Self {
            missing: self.missing.clone(),
            pages: since.filter(|(_, count)| *count > 0).collect(),
            lost: self.lost.saturating_sub(base.lost),
        }
    }
}

/// Who spoke of the page of `key`; `None` for a number that no source has.
#[must_use]
pub fn source(key: &PoisonKey) -> Option<PoisonSource> {
    PoisonSource::ALL.into_iter().find(|source| *source as u16 == key.source)
}

/// The frame of `key`, if it is told.
#[must_use]
pub fn pfn(key: &PoisonKey) -> Option<u64> {
    (key.pfn != NO_PFN).then_some(key.pfn)
}

/// What the kernel did about the page of `key`, if it says.
#[must_use]
pub fn result(key: &PoisonKey) -> Option<&'static str> {
    let said = key.source == PoisonSource::MemoryFailure as u16;
    RESULTS.get(usize::from(key.result)).copied().filter(|_| said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pfn: u64, result: u16) -> PoisonKey {
        let source = PoisonSource::MemoryFailure as u16;
        PoisonKey { pfn, source, kind: 7, result, reserved: 0 }
    }

    #[test]
    fn differences_and_sums_are_by_page() {
        let base = PoisonSample { pages: vec![(key(1, 3), 2)], lost: 1, ..Default::default() };
        let later = PoisonSample {
            pages: vec![(key(1, 3), 2), (key(2, 1), 4)],
            lost: 4,
            ..Default::default()
        };
        let since = later.since(&base);
        assert_eq!(
            (since.pages.as_slice(), since.lost, since.total()),
            (&[(key(2, 1), 4)][..], 3, 7)
        );
        let mut sum = since;
        sum.add(&base);
        assert_eq!(sum, later);
    }

    #[test]
    fn results_are_of_memory_failures_and_machine_checks_may_name_no_page() {
        assert_eq!((result(&key(1, 3)), result(&key(1, 9))), (Some("recovered"), None));
        let check = PoisonKey { pfn: NO_PFN, source: 0, ..key(0, 1) };
        assert_eq!(
            (source(&check), pfn(&check), result(&check)),
            (Some(PoisonSource::MachineCheck), None, None)
        );
        assert_eq!(source(&PoisonKey { source: 9, ..check }), None);
    }
}
