//! What tracefs saw of the same #VEs: the lines of a kprobe event, histograms, and how many hits each
//! probe missed. Pure.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, bail};

use super::truth::Event;
use crate::lab::hist::entries;

/// Events of a trace, in its order.
///
/// # Errors
/// When a line cannot be read, or when the buffer has lost events.
pub(super) fn events(trace: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let mut written = None;
    for line in trace.lines() {
        if let Some((_, counts)) = line.split_once("entries-in-buffer/entries-written: ") {
            let counts = counts.split_whitespace().next().and_then(|both| both.split_once('/'));
            written = counts;
        } else if !line.starts_with('#') && !line.is_empty() {
            events.push(event(line).ok_or_else(|| anyhow!("the trace has the line {line:?}"))?);
        }
    }
    let (kept, all) = written.ok_or_else(|| anyhow!("the trace does not say what it lost"))?;
    if kept != all || kept.parse() != Ok(events.len()) {
        bail!("the trace holds {} of {all} events", events.len());
    }
    Ok(events)
}

/// A line like `sh-123 [000] d..1. 1.5: ve: (f+0x0/0x9) reason=48 qual=0x181 … ip=0xffff`.
fn event(line: &str) -> Option<Event> {
    let (head, fields) = line.split_once(": ve: (")?;
    let (thread, _) = head.rsplit_once(" [")?;
    let (_, tid) = thread.trim_end().rsplit_once('-')?;
    let fields: BTreeMap<_, _> =
        fields.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    let number = |name| match fields.get(name)?.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => fields.get(name)?.parse().ok(),
    };
    Some(Event {
        tid: tid.parse().ok()?,
        reason: number("reason")?,
        qual: number("qual")?,
        gla: number("gla")?,
        gpa: number("gpa")?,
        len: number("len")?,
        ip: number("ip")?,
    })
}

/// Counts of a histogram with one key.
///
/// # Errors
/// When it is not whole, or has no key.
pub(super) fn histogram(hist: &str) -> Result<BTreeMap<u64, u64>> {
    let counts = entries(hist)?.into_iter().map(|entry| {
        let key = entry.keys.first_key_value().ok_or_else(|| anyhow!("a histogram has no key"))?;
        Ok((*key.1, entry.hits))
    });
    counts.collect()
}

/// Hits of a histogram, and the sum of its value `name`.
///
/// # Errors
/// When it is not whole, or has no such value.
pub(super) fn sum(hist: &str, name: &str) -> Result<(u64, u64)> {
    entries(hist)?.iter().try_fold((0, 0), |(hits, sum), entry| {
        let value = entry.values.get(name).ok_or_else(|| anyhow!("a histogram has no {name}"))?;
        Ok((hits + entry.hits, sum + value))
    })
}

/// Hits that the probe `name` missed since the boot.
///
/// # Errors
/// When the text has no line of that probe.
pub(super) fn missed(profile: &str, name: &str) -> Result<u64> {
    let line = profile.lines().map(str::split_whitespace).find_map(|mut columns| {
        (columns.next()? == name).then(|| columns.nth(1)?.parse().ok()).flatten()
    });
    line.ok_or_else(|| anyhow!("kprobe_profile has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "# tracer: nop\n#\n# entries-in-buffer/entries-written: 1/1   #P:2\n#\n\
        \x20      my [1]-x-123     [001] d..1.     1.500: ve: (tdx_handle_virt_exception+0x0/0x5) \
        reason=48 qual=0x181 gla=0xffffc90000012800 gpa=0x80000fea00800 len=0 ip=0xffffffffc0201234\n";

    #[test]
    fn an_event_is_read_whatever_its_thread_is_called() {
        let event = events(TRACE).unwrap()[0];
        assert_eq!((event.tid, event.reason, event.qual, event.len), (123, 48, 0x181, 0));
        assert_eq!((event.gla, event.ip), (0xffff_c900_0001_2800, 0xffff_ffff_c020_1234));
    }

    #[test]
    fn a_trace_that_lost_events_is_refused() {
        assert!(events(&TRACE.replace("1/1", "1/2")).is_err());
        assert!(events(&TRACE.replace("1/1", "2/2")).is_err());
        assert!(events(&TRACE.replace("len=0", "")).is_err());
        assert!(events("").is_err());
    }

    #[test]
    fn a_histogram_gives_counts_by_key_and_must_be_complete() {
        let hist = "{ reason:         10 } hitcount:          4\n\
                    { reason:         48 } hitcount:         31\n\
                    Totals:\n    Hits: 35\n    Entries: 2\n    Dropped: 0\n";
        assert_eq!(histogram(hist).unwrap(), BTreeMap::from([(10, 4), (48, 31)]));
        assert!(histogram(&hist.replace("Dropped: 0", "Dropped: 1")).is_err());
        assert!(histogram("").is_err());
    }

    #[test]
    fn the_values_of_a_histogram_are_added_up() {
        let hist = "{ force:          0 } hitcount:          4  size:      16384\n\
                    { force:          1 } hitcount:          2  size:        100\n\
                    Totals:\n    Hits: 6\n    Entries: 2\n    Dropped: 0\n";
        assert_eq!(sum(hist, "size").unwrap(), (6, 16484));
        assert!(sum(hist, "other").is_err());
        assert!(sum(&hist.replace("Dropped: 0", "Dropped: 1"), "size").is_err());
    }

    #[test]
    fn misses_are_those_of_the_probe_that_was_asked_for() {
        let profile = "  ve      152     3\n  result   155    0\n";
        assert_eq!(missed(profile, "ve").unwrap(), 3);
        assert_eq!(missed(profile, "result").unwrap(), 0);
        assert!(missed(profile, "other").is_err());
    }
}
