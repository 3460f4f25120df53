//! Differences, balances and estimates.

use super::*;
use crate::model::testing::{after, samples};

fn region(gpa: u64, calls: [u64; 2], turns: u64) -> RegionSample {
    let bytes = calls.map(|calls| calls * KIB_4);
    RegionSample { gpa, calls, bytes, turns, last: Direction::ToPrivate, last_at: 900 }
}

fn ledger(mapped: u64, rate: Option<f64>) -> Ledger {
    let sample = LedgerSample { memory_pages: 1024, ..LedgerSample::default() };
    let mapped = Tally { total: mapped, rate };
    Ledger { sample, mapped, pace: rate, from_start: true, ..Ledger::default() }
}

#[test]
fn a_difference_has_the_regions_in_which_something_happened() {
    let mut base = LedgerSample::default();
    base.counts[LedgerCount::Bytes.of(Direction::ToPrivate)] = 5;
    base.regions = vec![region(0, [1, 1], 1), region(MIB_2, [3, 3], 5)];
    let mut now = base.clone();
    now.counts[LedgerCount::Bytes.of(Direction::ToPrivate)] = 12;
    now.regions =
        vec![region(0, [1, 1], 1), region(MIB_2, [4, 5], 8), region(2 * MIB_2, [0, 1], 0)];
    let since = now.since(&base);
    assert_eq!(since.of(LedgerCount::Bytes, Direction::ToPrivate), 7);
    assert_eq!(since.regions, [region(MIB_2, [1, 2], 3), region(2 * MIB_2, [0, 1], 0)]);
    assert_eq!(now.since(&now), LedgerSample { memory_pages: 0, ..LedgerSample::default() });
}

#[test]
fn times_are_told_from_the_beginning_of_the_source() {
    let fault = Some(MemoryFault { gpa: 0, private: true, at: 700 });
    let mut ledger =
        LedgerSample { regions: vec![region(0, [1, 0], 0)], fault, ..LedgerSample::default() };
    ledger.begin_at(Duration::from_nanos(600));
    assert_eq!((ledger.regions[0].last_at, ledger.fault.unwrap().at), (300, 100));
}

#[test]
fn a_balance_has_a_sign() {
    let tally = |total| Tally { total, rate: None };
    let of =
        |shared, private| Ledger { bytes: [tally(shared), tally(private)], ..Ledger::default() };
    assert_eq!(of(8, 3).net_shared(), 5);
    assert_eq!(of(3, 8).net_shared(), -5);
    assert_eq!(of(0, u64::MAX).net_shared(), i64::MIN);
}

#[test]
fn there_is_an_estimate_only_where_size_pace_and_beginning_are_known() {
    assert_eq!(ledger(1 << 20, Some(1_048_576.0)).eta(), Some(3.0));
    assert_eq!(ledger(1 << 20, Some(0.0)).eta(), None);
    assert_eq!(ledger(1 << 20, None).eta(), None);
    assert_eq!(ledger(5 << 20, Some(1.0)).eta(), None);
    assert_eq!(Ledger { from_start: false, ..ledger(0, Some(1.0)) }.eta(), None);
    assert_eq!(Ledger { sample: LedgerSample::default(), ..ledger(0, Some(1.0)) }.eta(), None);
}

#[test]
fn mean_rates_are_those_of_conversions_too_and_an_estimate_keeps_its_pace() {
    let mut samples = samples();
    for vcpu in samples.iter_mut().flat_map(|sample| &mut sample.vcpus) {
        Arc::make_mut(vcpu).kvm.as_mut().unwrap().0.exits = 0;
    }
    let last = after(samples);
    let mean = last.clone().with_mean_rates();
    let (last, mean) = (&last.vms[1].ledger, &mean.vms[1].ledger);
    let tallies = mean.calls.iter().chain(&mean.bytes).chain([&mean.mapped]);
    for tally in tallies {
        assert_eq!(tally.rate, Some(tally.total as f64 / 8.0));
    }
    assert_ne!(mean.mapped.rate, last.mapped.rate);
    assert!(last.eta().is_some());
    assert_eq!(mean.eta(), last.eta());
}
