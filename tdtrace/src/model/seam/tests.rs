//! Differences, names and rows.

use tdtrace_common::latency::bucket;

use super::*;

const BUSY_SEPT: u64 = 0x8000_0200_0000_0092;

fn function(statuses: &[(u64, u64)], durations: &[u64]) -> FunctionSample {
    let mut histogram = Histogram::default();
    durations.iter().for_each(|ns| histogram.add(bucket(*ns), 1));
    FunctionSample {
        name: "tdh_mem_page_remove".into(),
        leaf: 29,
        calls: statuses.iter().map(|(_, count)| count).sum(),
        ns: durations.iter().sum(),
        max: durations.iter().copied().max().unwrap_or(0),
        statuses: statuses.to_vec(),
        histogram,
        ..FunctionSample::default()
    }
}

fn sample(function: FunctionSample) -> SeamSample {
    SeamSample { absent: None, functions: vec![function] }
}

#[test]
fn failures_busy_operands_and_kicks_are_told_from_statuses() {
    let statuses = [(0, 5), (0x815 << 32, 1), (BUSY_SEPT, 3), (0xc000_0b0d << 32, 2)];
    let mut it = function(&statuses, &[]);
    assert_eq!((it.calls, it.failures(), it.busy(), it.kicks()), (11, 5, 3, Some(3)));
    it.leaf = 6;
    assert_eq!(it.kicks(), None);
}

#[test]
fn a_base_is_taken_off_and_what_is_the_longest_since_then_is_a_bound() {
    let base = sample(function(&[(0, 2), (BUSY_SEPT, 1)], &[900, 80_000]));
    let later = sample(function(&[(0, 5), (BUSY_SEPT, 1)], &[900, 80_000, 1_000]));
    let since = later.since(&base);
    let it = &since.functions[0];
    assert_eq!((it.calls, it.ns, it.statuses.as_slice()), (3, 1_000, &[(0, 3)][..]));
    assert_eq!(it.max, bucket_end(bucket(1_000)));
    let row = rows(&since, None, Some(&base), Some(Duration::from_secs(2))).remove(0);
    assert!(row.max_is_bound && it.failure.is_none());
    assert_eq!(row.tally, Tally { total: 3, rate: Some(1.5) });
    let longer = sample(function(&[(0, 6)], &[900, 80_000, 90_000])).since(&base);
    let row = rows(&longer, None, Some(&base), None).remove(0);
    assert_eq!((row.total.max, row.max_is_bound, row.tally.rate), (90_000, false, None));
}

#[test]
fn what_an_earlier_load_counted_is_added_by_function() {
    let before = sample(function(&[(0, 2), (BUSY_SEPT, 1)], &[900]));
    let mut now = sample(function(&[(0, 1)], &[70_000]));
    now.add(&before);
    let it = &now.functions[0];
    assert_eq!((it.calls, it.ns, it.max), (4, 70_900, 70_000));
    assert_eq!(it.statuses, [(0, 3), (BUSY_SEPT, 1)]);
    let mut detached = SeamSample::default();
    detached.add(&now);
    assert_eq!(detached, now);
}

#[test]
fn statuses_have_names_and_busy_ones_their_operand() {
    assert_eq!(status_text(BUSY_SEPT, 29), "OPERAND_BUSY SEPT");
    assert_eq!(status_text(0, 29), "SUCCESS");
    assert_eq!(status_text(0x8000_ff00_ffff_0000, 29), "SEAMCALL_VMFAILINVALID");
    assert_eq!(status_text(0x8000_0200_0000_0007, 29), "OPERAND_BUSY 0x7");
    assert_eq!(status_text(0xc000_1234 << 32, 29), "0xc000123400000000");
}
