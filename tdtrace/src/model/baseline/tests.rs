//! Differences to a base.

use tdtrace_common::{counters::KvmStat, latency::bucket};

use super::*;
use crate::model::{
    aggregate::Aggregate,
    latency::Histogram,
    snapshot::Snapshot,
    testing::{after, samples, snapshot},
};

#[test]
fn nothing_is_left_of_the_base_itself() {
    let sample = samples().pop().unwrap();
    let zero = Baseline::new(&sample).since(sample.clone());
    assert_eq!(zero.losses.causes, []);
    assert!(zero.losses.misses.iter().all(|(_, count)| *count == 0));
    assert_eq!(zero.vms.len(), sample.vms.len());
    for vcpu in &zero.vcpus {
        assert_eq!(vcpu.counts.iter().count(), 0);
        assert!(vcpu.reasons.is_empty() && vcpu.userspace.is_empty() && vcpu.hotspots.is_empty());
        assert_eq!(vcpu.times.unwrap().total(), 0);
    }
    assert!(zero.vms.iter().all(|vm| vm.latency.is_empty()));
}

#[test]
fn base_and_difference_add_up_to_the_later_sample() {
    let mut samples = samples();
    let (late, early) = (samples.pop().unwrap(), samples.pop().unwrap());
    let since = Baseline::new(&early).since(late.clone());
    for ((before, new), all) in early.vcpus.iter().zip(&since.vcpus).zip(&late.vcpus) {
        let mut sum = before.counts;
        sum += new.counts;
        assert_eq!(sum, all.counts);
        for (place, count) in &all.hotspots {
            let of = |rows: &[(tdtrace_common::counters::Place, u64)]| {
                rows.iter().find(|(other, _)| other == place).map_or(0, |(_, count)| *count)
            };
            assert_eq!(of(&before.hotspots) + of(&new.hotspots), *count);
        }
        let mut times = before.times.unwrap();
        times += new.times.unwrap();
        assert_eq!(Some(times), all.times);
    }
    for ((before, new), all) in early.vms.iter().zip(&since.vms).zip(&late.vms) {
        for ((before, new), all) in before.latency.iter().zip(&*new.latency).zip(&*all.latency) {
            let mut histogram = before.histogram.clone();
            histogram += &new.histogram;
            assert_eq!(histogram, all.histogram);
        }
    }
}

#[test]
fn conversions_are_counted_from_the_base_on_and_rates_go_on() {
    let mut aggregate = Aggregate::new();
    let mut samples = samples();
    let (late, early) = (samples.pop().unwrap(), samples.pop().unwrap());
    let bytes = |snapshot: &Snapshot| snapshot.vms[1].ledger.bytes.map(|bytes| bytes.total);
    let whole = aggregate.apply(early.clone());
    let zero = aggregate.reset().unwrap();
    assert_eq!((bytes(&zero), zero.vms[1].ledger.turns()), ([0, 0], 0));
    assert!(zero.vms[1].ledger.regions.is_empty() && !whole.vms[1].ledger.regions.is_empty());
    // Known now as before.
    assert_eq!(zero.vms[1].ledger.memory(), whole.vms[1].ledger.memory());
    let since = aggregate.apply(late.clone());
    let all = after([early, late]);
    assert_eq!(bytes(&since), [0, 1].map(|way| bytes(&all)[way] - bytes(&whole)[way]));
    // In one second, from the reset on as without it.
    assert_eq!(since.vms[1].ledger.bytes[0].rate, all.vms[1].ledger.bytes[0].rate);
    assert_eq!(since.vms[1].ledger.turns(), 240);
    // The fault was before.
    let ago = |snapshot: &Snapshot| snapshot.vms[1].ledger.fault_ago;
    assert_eq!((ago(&since), ago(&all)), (None, Some(1_500_000_000)));
}

#[test]
fn a_vm_that_came_later_keeps_everything() {
    let sample = samples().pop().unwrap();
    let mut early = sample.clone();
    early.vms.remove(0);
    early.vcpus.retain(|vcpu| vcpu.vm != sample.vms[0].key);
    let since = Baseline::new(&early).since(sample.clone());
    assert_eq!(since.vms[0], sample.vms[0]);
    assert_eq!(since.vcpus[0], sample.vcpus[0]);
}

#[test]
fn the_audit_begins_where_the_base_ended() {
    let stat = |exits| KvmStat { exits, seen_exits: exits, ..KvmStat::default() };
    let with = |first, last| {
        let mut sample = samples().remove(0);
        let mut vcpu = VcpuSample::clone(&sample.vcpus[0]);
        vcpu.kvm = Some((stat(first), stat(last)));
        sample.vcpus[0] = Arc::new(vcpu);
        sample
    };
    let since = Baseline::new(&with(5, 40)).since(with(5, 100));
    assert_eq!(since.vcpus[0].kvm, Some((stat(40), stat(100))));
    let mut unseen = with(5, 40);
    Arc::make_mut(&mut unseen.vcpus[0]).kvm = None;
    let since = Baseline::new(&unseen).since(with(5, 100));
    assert_eq!(since.vcpus[0].kvm, Some((stat(5), stat(100))));
}

fn durations(all: &[u64]) -> LatencySample {
    let mut histogram = Histogram::default();
    all.iter().for_each(|ns| histogram.add(bucket(*ns), 1));
    let max = all.iter().copied().max().unwrap_or(0);
    LatencySample { class: 12, ns: [all.iter().sum(), 0, 0, 0], max, histogram }
}

#[test]
fn the_longest_is_exact_only_if_it_is_longer_than_all_before() {
    let base = [durations(&[900, 50_000])];
    let difference = super::durations(&[durations(&[900, 50_000, 1_000])], &base);
    assert_eq!(difference[0].histogram.count(), 1);
    assert_eq!(difference[0].max, bucket_end(bucket(1_000)));
    assert!(difference[0].max >= 1_000 && is_bound(&difference[0], &base));

    let difference = super::durations(&[durations(&[900, 50_000, 70_000])], &base);
    assert_eq!(difference[0].max, 70_000);
    assert!(!is_bound(&difference[0], &base));

    // As long as the longest before: no more than that, though the bucket goes on.
    let difference = super::durations(&[durations(&[900, 50_000, 50_000])], &base);
    assert_eq!(difference[0].max, 50_000);
    assert!(is_bound(&difference[0], &base));

    assert!(super::durations(&base, &base).is_empty());
    assert!(!is_bound(&durations(&[3]), &[]));
}

#[test]
fn durations_of_vcpus_that_nobody_looked_into_at_the_base_are_not_shown_as_since_then() {
    let mut base = samples().pop().unwrap();
    let vm = base.vms[0].key;
    base.vms[0].latency = [durations(&[900])].into();
    let own = |sample: &Sample| sample.vcpus.iter().position(|vcpu| vcpu.vm == vm).unwrap();
    let first = own(&base);
    Arc::make_mut(&mut base.vcpus[first]).latency = Arc::default();
    let mut late = base.clone();
    let looked_into: Arc<[LatencySample]> = [durations(&[900, 1_000])].into();
    Arc::make_mut(&mut late.vcpus[first]).latency = Arc::clone(&looked_into);
    let count = |base: &Sample| -> Option<u64> {
        let since = Baseline::new(base).since(late.clone());
        since.vcpus[first].latency.first().map(|sample| sample.histogram.count())
    };
    assert_eq!(count(&base), None);

    // What was looked into then has a base, and a vCPU that came since then needs none.
    Arc::make_mut(&mut base.vcpus[first]).latency = [durations(&[900])].into();
    assert_eq!(count(&base), Some(1));
    base.vcpus.remove(first);
    assert_eq!(count(&base), Some(2));
}

#[test]
fn a_reset_sets_counts_to_nothing_and_rates_go_on() {
    let mut aggregate = Aggregate::new();
    assert!(aggregate.reset().is_none());
    let mut samples = samples();
    let last = samples.pop().unwrap();
    for sample in samples {
        aggregate.apply(sample);
    }
    let zero = aggregate.reset().unwrap();
    assert_eq!(zero.since_reset, Some(Duration::ZERO));
    assert_eq!((zero.counts.iter().count(), zero.lost()), (0, 0));
    let ids: Vec<u32> = zero.vms.iter().map(|vm| vm.id).collect();
    let after = aggregate.apply(last);
    assert_eq!(after.since_reset, Some(Duration::from_secs(1)));
    assert_eq!(after.vms.iter().map(|vm| vm.id).collect::<Vec<_>>(), ids);
    for (after, whole) in after.vms.iter().zip(&snapshot().vms) {
        assert_eq!(after.exits.rate, whole.exits.rate);
        assert_eq!(after.exits.rate, Some(after.exits.total as f64));
        assert_eq!(after.times.unwrap().recent, whole.times.unwrap().recent);
        assert!(after.exits.total < whole.exits.total);
        assert!(after.audit.unwrap().agrees());
    }
}

#[test]
fn a_second_reset_counts_from_the_second() {
    let mut aggregate = Aggregate::new();
    let mut samples = samples();
    let last = samples.pop().unwrap();
    for sample in samples {
        aggregate.apply(sample);
        aggregate.reset();
    }
    let twice = aggregate.apply(last);
    assert_eq!(twice.vms[0].exits.total as f64, after(self::samples()).vms[0].exits.rate.unwrap());
}
