//! The text of a tracefs histogram, which several scenarios hold numbers against. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, ensure};

/// Numbers by name.
pub(super) type Numbers<'a> = BTreeMap<&'a str, u64>;

/// An entry, a line like `{ common_pid: 154, rw: 1 } hitcount: 2001  size: 8004`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// The keys.
    pub(super) keys: Numbers<'a>,
    /// How often the event had them.
    pub(super) hits: u64,
    /// The sums of its values.
    pub(super) values: Numbers<'a>,
}

/// The entries of a `hist` file.
///
/// # Errors
/// When a line cannot be read, events were dropped, or the entries do not add up to the hits.
pub(super) fn entries(text: &str) -> Result<Vec<Entry<'_>>> {
    let (mut entries, mut totals) = (Vec::new(), Numbers::new());
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix('{') {
            entries.push(entry(rest).ok_or_else(|| anyhow!("a histogram has the line {line:?}"))?);
        } else if let Some((name, value)) = line.split_once(": ")
            && let Ok(value) = value.parse()
        {
            totals.insert(name, value);
        }
    }
    ensure!(totals.get("Dropped") == Some(&0), "a histogram is not complete: {totals:?}");
    let sum = entries.iter().fold(0_u64, |sum, entry| sum.saturating_add(entry.hits));
    ensure!(totals.get("Hits") == Some(&sum), "a histogram's entries have {sum} hits: {totals:?}");
    Ok(entries)
}

fn entry(line: &str) -> Option<Entry<'_>> {
    let (keys, rest) = line.split_once("} hitcount:")?;
    let keys = keys.split(',').map(|pair| {
        let (name, value) = pair.split_once(':')?;
        Some((name.trim(), value.trim().parse().ok()?))
    });
    let mut words = rest.split_whitespace();
    let hits = words.next()?.parse().ok()?;
    let mut values = Numbers::new();
    while let Some(name) = words.next() {
        values.insert(name.strip_suffix(':')?, words.next()?.parse().ok()?);
    }
    Some(Entry { keys: keys.collect::<Option<_>>()?, hits, values })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIST: &str = "# event histogram\n#\n\
        # trigger info: hist:keys=common_pid,rw:vals=hitcount,size:sort=hitcount:size=4096 [active]\n#\n\n\
        { common_pid:        155, rw:          0 } hitcount:          3  size:         12\n\
        { common_pid:        154, rw:          1 } hitcount:       2001  size:       8004\n\n\
        Totals:\n    Hits: 2004\n    Entries: 2\n    Dropped: 0\n";

    #[test]
    fn an_entry_has_its_keys_hits_and_values() {
        let first = Entry {
            keys: [("common_pid", 155), ("rw", 0)].into(),
            hits: 3,
            values: [("size", 12)].into(),
        };
        let entries = entries(HIST).unwrap();
        assert_eq!((&entries[0], entries.len()), (&first, 2));
    }

    #[test]
    fn a_histogram_that_lost_or_hides_events_is_refused() {
        for (part, other) in [
            ("Dropped: 0", "Dropped: 1"),
            ("Hits: 2004", "Hits: 2005"),
            ("hitcount:          3", "hitcount:"),
            ("rw:          0", "rw"),
            ("size:         12", "size:"),
        ] {
            assert!(entries(&HIST.replace(part, other)).is_err(), "{other}");
        }
        assert!(entries("").is_err());
    }
}
