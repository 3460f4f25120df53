//! The rows of one subject: what changed from one sample to the next, and how it is put back.
//!
//! The rows of a subject (the machine, the losses, a VM, a vCPU) are a list ordered by [`Key`]. Where
//! both lists are in order and nothing went, only rows that are new or differ are written; else a
//! row that clears comes first and then all of them, in whatever order they have.

use std::{cmp::Ordering, sync::Arc};

use super::kind::Kind;

/// What a row is about, within its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) index: u32,
    /// Of a place its address, of a bucket of durations its beginning in ns.
    pub(super) address: u64,
    pub(super) size: u32,
}

impl Key {
    fn order(&self) -> (Kind, u32, Kind, u64, u32) {
        (self.kind.group(), self.index, self.kind, self.address, self.size)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

/// One thing that a subject says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Key,
    pub(super) value: u64,
    /// `None` is the empty text.
    pub(super) text: Option<Arc<str>>,
}

impl Row {
    /// A number.
    pub(super) fn number(kind: Kind, index: u32, value: u64) -> Self {
        Self { key: Key { kind, index, address: 0, size: 0 }, value, text: None }
    }

    /// A text.
    pub(super) fn text(kind: Kind, index: u32, text: &str) -> Self {
        let text = (!text.is_empty()).then(|| text.into());
        Self { key: Key { kind, index, address: 0, size: 0 }, value: 0, text }
    }

    /// The text, empty or not.
    pub(super) fn as_text(&self) -> &str {
        self.text.as_deref().unwrap_or_default()
    }

    /// The value as something smaller.
    pub(super) fn small(&self) -> Result<u32, Malformed> {
        u32::try_from(self.value).map_err(|_| Malformed("a number that is too large"))
    }

    /// Bytes that a reader keeps for it at most, what is made of it included.
    pub(super) fn weight(&self) -> usize {
        let made = match self.key.kind {
            Kind::DurationMax => 1024,
            Kind::SeamFunction => 2048,
            _ => 64,
        };
        size_of::<Self>() + made + 2 * self.as_text().len()
    }
}

/// What is wrong with rows that cannot be a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

fn in_order(rows: &[Row]) -> bool {
    rows.is_sorted_by(|one, two| one.key < two.key)
}

/// What of `new` has to be written after `old`; `None` if only clearing and writing all of it will do.
pub(super) fn delta<'a>(old: &[Row], new: &'a [Row]) -> Option<Vec<&'a Row>> {
    if !in_order(old) || !in_order(new) {
        return None;
    }
    let mut old = old.iter().peekable();
    let mut changed = Vec::new();
    for row in new {
        match old.peek().map(|old| old.key.cmp(&row.key)) {
            Some(Ordering::Less) => return None,
            Some(Ordering::Equal) => {
                if old.next() != Some(row) {
                    changed.push(row);
                }
            }
            Some(Ordering::Greater) | None => changed.push(row),
        }
    }
    old.next().is_none().then_some(changed)
}

/// `old` with `changed` put in; the other way of [`delta`].
pub(super) fn merge(old: Vec<Row>, changed: Vec<Row>) -> Result<Vec<Row>, Malformed> {
    if !in_order(&changed) {
        return Err(Malformed("rows that are not in order"));
    }
    if old.is_empty() {
        return Ok(changed);
    }
    let mut merged = Vec::with_capacity(old.len().max(changed.len()));
    let mut changed = changed.into_iter().peekable();
    for row in old {
        while let Some(earlier) = changed.next_if(|next| next.key < row.key) {
            merged.push(earlier);
        }
        merged.push(changed.next_if(|next| next.key == row.key).unwrap_or(row));
    }
    merged.extend(changed);
    Ok(merged)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn count(index: u32, value: u64) -> Row {
        Row::number(Kind::Count, index, value)
    }

    #[test]
    fn only_what_moved_is_written() {
        let old = [count(0, 1), count(2, 5)];
        let new = [count(0, 1), count(1, 9), count(2, 6)];
        assert_eq!(delta(&old, &new).unwrap(), [&new[1], &new[2]]);
        assert_eq!(delta(&old, &old).unwrap(), Vec::<&Row>::new());
    }

    #[test]
    fn what_went_or_is_out_of_order_takes_a_clean_start() {
        let rows = [count(0, 1), count(2, 5)];
        assert_eq!(delta(&rows, &rows[1..]), None);
        assert_eq!(delta(&rows, &rows[..1]), None);
        assert_eq!(delta(&[], &[count(2, 5), count(0, 1)]), None);
        assert_eq!(delta(&[], &[count(2, 5), count(2, 5)]), None);
        assert!(merge(Vec::new(), vec![count(2, 5), count(0, 1)]).is_err());
    }

    #[test]
    fn rows_of_a_latency_class_stand_together() {
        let row = |kind, index| Row::number(kind, index, 1).key;
        assert!(row(Kind::DurationCount, 3) < row(Kind::DurationMax, 4));
        assert!(row(Kind::DurationMax, 3) < row(Kind::DurationKernel, 3));
        assert!(row(Kind::ProbeHides, 0) < row(Kind::Probe, 1));
    }

    proptest! {
        #[test]
        fn merging_the_difference_gives_the_new_rows(
            old in prop::collection::btree_map(0_u32..40, 0_u64..3, 0..30),
            new in prop::collection::btree_map(0_u32..40, 0_u64..3, 0..30),
        ) {
            let rows = |map: &std::collections::BTreeMap<u32, u64>| -> Vec<Row> {
                map.iter().map(|(index, value)| count(*index, *value)).collect()
            };
            let (old, new) = (rows(&old), rows(&new));
            if let Some(changed) = delta(&old, &new) {
                let changed = changed.into_iter().cloned().collect();
                prop_assert_eq!(merge(old, changed).unwrap(), new);
            }
        }
    }
}
