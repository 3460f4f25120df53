//! Buckets that run over, and the durations of single vCPUs.

use std::time::Duration;

use tdtrace::{model::sample::VmKey, source::synthetic::Synthetic};

use super::super::drive::{
    Driven, assert_durations, latency_of, load, pid, pin, plain, td, vcpu_of,
};

/// A return and an exit of `driven`, of 1,000 ns each in the kernel.
fn round(synthetic: &Synthetic, driven: &mut Driven) {
    pin(0);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 500, 0);
    driven.enter(&cpu, 0, 10, 0);
    driven.exit(&cpu, plain(10), 10, 10);
    driven.enter(&cpu, 0, 1_000, 0);
    driven.exit(&cpu, plain(7), 7, 10);
    driven.enter(&cpu, 0, 5_000, 0);
    driven.leave(&cpu, 2, 1, 0);
}

fn key_of(sample: &tdtrace::model::sample::Sample, driven: &Driven) -> VmKey {
    sample.vms.iter().find(|vm| vm.pid == driven.vcpu.pid).expect("its VM").key
}

#[test]
fn buckets_of_a_vm_go_on_where_those_of_the_rows_run_over() {
    let mut synthetic = load(2, 3);
    let mut first = td(&mut synthetic, 0, 1_000);
    let mut other = td(&mut synthetic, 1, 1_000);
    let (bucket, step) = (20, 3_000_000_000_u32);
    // The duration of a return is known when the next KVM_RUN begins.
    round(&synthetic, &mut first);
    for turn in 0..5_u64 {
        round(&synthetic, &mut first);
        if turn == 0 {
            round(&synthetic, &mut other);
        }
        let now = Duration::from_nanos(first.now.max(other.now));
        let key = key_of(&synthetic.sample(now, None).unwrap(), &first);
        let sample = synthetic.sample(now, Some(key)).unwrap();
        for row in latency_of(&sample, pid(0)) {
            let truth = &first.truth.durations[&row.class];
            for index in 0..112 {
                let added = if index == bucket { turn * u64::from(step) } else { 0 };
                let known = truth.buckets.get(&index).copied().unwrap_or(0);
                assert_eq!(row.histogram.get(index), known + added, "turn {turn}, {}", row.class);
            }
            assert_eq!((row.ns, row.max), (truth.ns, truth.max));
        }
        let seen = vcpu_of(&sample, first.vcpu.tid).latency.len();
        let classes = first.truth.durations.len();
        // Two of these steps are more than 32 bits hold: what a row says then is not known.
        assert_eq!(seen, if turn < 2 { classes } else { 0 }, "turn {turn}");
        synthetic.add_to_buckets(bucket, step).unwrap();
    }
}

#[test]
fn durations_of_single_vcpus_are_told_of_the_vm_that_was_asked_for() {
    let mut synthetic = load(2, 3);
    let vm = synthetic.td(pid(0), "two").unwrap();
    let mut both = [0, 1]
        .map(|id| Driven::new(synthetic.vcpu(vm, id, pid(0), pid(0) + 1 + id).unwrap(), 1_000));
    let mut other = td(&mut synthetic, 1, 1_000);
    round(&synthetic, &mut both[0]);
    for _ in 0..3 {
        round(&synthetic, &mut both[1]);
        round(&synthetic, &mut other);
    }
    let now = Duration::from_nanos(other.now);
    let none = synthetic.sample(now, None).unwrap();
    assert!(none.vcpus.iter().all(|vcpu| vcpu.latency.is_empty()));
    let two = synthetic.sample(now, Some(key_of(&none, &both[0]))).unwrap();
    for driven in &both {
        let latency = &vcpu_of(&two, driven.vcpu.tid).latency;
        assert_durations(latency, &driven.truth.durations);
    }
    assert!(vcpu_of(&two, other.vcpu.tid).latency.is_empty());
    let one = synthetic.sample(now, Some(key_of(&none, &other))).unwrap();
    assert_durations(&vcpu_of(&one, other.vcpu.tid).latency, &other.truth.durations);
    assert!(vcpu_of(&one, both[0].vcpu.tid).latency.is_empty());
    let mut sum = both[0].truth.durations.clone();
    for (class, durations) in &both[1].truth.durations {
        sum.entry(*class).or_default().merge(durations);
    }
    assert_durations(latency_of(&one, pid(0)), &sum);
}
