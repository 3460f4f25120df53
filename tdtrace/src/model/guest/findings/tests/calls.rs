use tdtrace_common::guest::{CallKey, CallValue};

use super::*;

/// The rules that `calls` break within one second, with counts and the index of the subject.
fn broken(calls: Vec<Call>) -> Vec<(Rule, u64, Subject)> {
    found(Vec::new(), calls).into_iter().map(|f| (f.rule, f.count, f.subject)).collect()
}

fn first(index: usize) -> Subject {
    Subject::Call { index }
}

#[test]
fn a_conversion_that_failed_is_one_finding_however_deep_it_failed() {
    let calls = vec![
        call(Operation::ToPrivate, "free", 4, 2),
        call(Operation::MapPrivate, "free", 5, 2),
        call(Operation::AcceptTdx, "other", 3, 1),
    ];
    let found = found(Vec::new(), calls);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].rule, found[0].count), (Rule::ConversionFailed, 2));
    assert_eq!(found[0].evidence[0], "to_private: 2 of 4 failed, the last with 0.");
    assert_eq!(found[0].evidence[1], "map_gpa_private: 2 of 5 failed, the last with false.");
    assert_eq!((found[1].count, found[1].subject.clone()), (1, first(2)));
}

#[test]
fn a_map_gpa_that_succeeds_after_retries_has_not_failed() {
    let mut map = call(Operation::MapShared, "alloc", 3, 0);
    (map.mean_ns, map.max_ns) = (Some(9_999_999), Some(20_000_000));
    assert_eq!(broken(vec![map.clone()]), []);
    map.mean_ns = Some(10_000_000);
    assert_eq!(broken(vec![map]), [(Rule::SlowConversion, 3, first(0))]);
}

#[test]
fn a_conversion_of_much_memory_may_take_its_time() {
    let mut map = call(Operation::MapPrivate, "alloc", 2, 0);
    (map.bytes, map.mean_ns) = (2 * (64 << 20), Some(319_000_000));
    assert_eq!(broken(vec![map.clone()]), []);
    map.mean_ns = Some(320_000_000);
    assert_eq!(broken(vec![map.clone()]), [(Rule::SlowConversion, 2, first(0))]);
    // Acceptance is the TDX module's and no MapGPA.
    map.operation = Operation::AcceptTdx;
    assert_eq!(broken(vec![map]), []);
}

#[test]
fn to_and_fro_is_what_one_caller_does() {
    let pair = |there, back, shared, private| {
        vec![
            call(Operation::ToShared, there, shared, 0),
            call(Operation::ToPrivate, back, private, 0),
        ]
    };
    let rules = |there, back, shared, private| broken(pair(there, back, shared, private));
    assert_eq!(rules("a", "a", 9, 8), [(Rule::ConversionPingPong, 8, first(0))]);
    assert_eq!(rules("a", "a", 9, 7), []);
    assert_eq!(rules("a", "b", 9, 9), []);
    assert_eq!(rules("a [x]", "a [y]", 9, 9), []);
    assert_eq!(rules("dma_direct_alloc", "dma_direct_free", 9, 9).len(), 1);
    assert_eq!(rules("dma_direct_free", "dma_direct_alloc", 9, 9), []);
    let mut unknown = pair("a", "a", 9, 9);
    unknown.iter_mut().for_each(|call| call.caller = None);
    assert_eq!(broken(unknown), []);
}

#[test]
fn to_and_fro_seldom_is_no_finding() {
    let calls = vec![call(Operation::ToShared, "a", 9, 0), call(Operation::ToPrivate, "a", 9, 0)];
    let over = |seconds| GuestSnapshot {
        interval: Some(Duration::from_secs(seconds)),
        ..snapshot(Vec::new(), calls.clone())
    };
    assert_eq!(evaluate(&over(9), &Earlier::default()).len(), 1);
    assert_eq!(evaluate(&over(10), &Earlier::default()), []);
}

#[test]
fn a_quote_is_slow_from_three_seconds_on() {
    let quote = |operation, max_ns| Call { max_ns: Some(max_ns), ..call(operation, "tsm", 5, 0) };
    let slow = broken(vec![quote(Operation::Report, 3_000_000_000)]);
    assert_eq!(slow, [(Rule::SlowQuote, 1, first(0))]);
    assert_eq!(broken(vec![quote(Operation::Report, 2_999_999_999)]), []);
    // The call that submits it says nothing about the quote.
    assert_eq!(broken(vec![quote(Operation::GetQuote, 3_000_000_000)]), []);
}

#[test]
fn a_quote_that_failed_is_found_and_one_that_was_interrupted_is_not() {
    let quote = |errno: i32| {
        let report =
            Call { last_failure: u64::from(errno as u32), ..call(Operation::Report, "tsm", 5, 1) };
        vec![report, call(Operation::GetQuote, "tsm", 5, 1)]
    };
    let found = found(Vec::new(), quote(-110));
    assert_eq!((found[0].rule, found[0].count, found.len()), (Rule::QuoteFailed, 1, 1));
    assert!(found[0].evidence[0].contains("-ETIMEDOUT"), "{:?}", found[0]);
    assert_eq!(broken(quote(-4)), []);
}

#[test]
fn bounces_are_heavy_by_bytes_or_by_number_all_callers_together() {
    let bounce = |caller, count, bytes| Call { bytes, ..call(Operation::Bounce, caller, count, 0) };
    let mib = 1 << 20;
    let heavy = vec![bounce("nvme", 10, 200 * mib), bounce("net", 20, 56 * mib)];
    let found = found(Vec::new(), heavy);
    assert_eq!((found[0].rule, found[0].count), (Rule::Swiotlb, 30));
    assert_eq!(found[0].subject, Subject::Guest);
    assert!(found[0].evidence[1].starts_with("nvme: 10 buffers"), "{:?}", found[0]);
    assert_eq!(broken(vec![bounce("nvme", 10, 256 * mib - 1)]), []);
    assert_eq!(broken(vec![bounce("net", 50_000, mib)]).len(), 1);
    assert_eq!(broken(vec![bounce("net", 49_999, mib)]), []);
}

#[test]
fn after_a_reset_the_mean_is_not_passed_off_as_the_longest() {
    use crate::model::guest::{aggregate::GuestAggregate, sample::GuestSample};
    let sample = |seconds, timed: u64, operation: Operation| {
        let key = CallKey { stack: -1, operation: operation as u32 };
        let value = CallValue {
            count: timed,
            timed,
            ns: timed * 4_000_000_000,
            max_ns: 9_000_000_000,
            ..CallValue::default()
        };
        let at = Duration::from_secs(seconds);
        GuestSample { at, calls: vec![(key, value)], ..GuestSample::default() }
    };
    for (operation, rule) in
        [(Operation::Report, Rule::SlowQuote), (Operation::MapShared, Rule::SlowConversion)]
    {
        let mut aggregate = GuestAggregate::new();
        let said = |snapshot: &GuestSnapshot| {
            let finding = snapshot.findings.iter().find(|finding| finding.rule == rule).unwrap();
            finding.evidence.join(" ")
        };
        let before = said(&aggregate.apply(&sample(1, 3, operation)));
        assert!(before.contains("longest") && before.contains("9.0 s"), "{before}");
        aggregate.reset(&sample(1, 3, operation));
        let since = said(&aggregate.apply(&sample(2, 5, operation)));
        assert!(since.contains("2 ") && since.contains("4.0 s"), "{since}");
        assert!(!since.contains("longest"), "{since}");
    }
}
