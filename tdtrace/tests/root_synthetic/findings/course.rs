//! Findings over several samples: what is over, what stays, what was lost, and what lasts longer than an
//! interval.

use tdtrace::{
    model::{aggregate::Aggregate, finding::Rule, snapshot::Snapshot},
    source::synthetic::{Event, SyntheticOptions},
};
use tdtrace_common::{counters::Class, kvm};

use super::{
    super::drive::{Driven, load_with, pid, pin, sample, td, vcpu_of},
    stage::{Act, Actor, BEGIN, Expected, INTERVAL, load},
};

fn ipi() -> Act {
    Act::call(5, 32, [0x830, 1, 0]).at("msr_write", 0x830, 0)
}

fn unknown() -> Act {
    Act::call(17, 0x10006, [0; 3]).at("td_unknown_leaf", 0x10006, 0)
}

fn rules(snapshot: &Snapshot) -> Vec<(Rule, u64, Option<f64>)> {
    let of = |finding: &&tdtrace::model::finding::Finding| {
        (finding.rule, finding.tally.total, finding.tally.rate)
    };
    snapshot.findings().iter().map(of).collect()
}

#[test]
fn a_storm_is_over_with_its_interval_and_what_must_not_happen_stays() {
    let mut synthetic = load(1);
    let mut actor = Actor::new(&mut synthetic, 0, kvm::TDX_VM, 1);
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(&mut synthetic, BEGIN));
    let mut after = |interval: u64, acts: &[(u64, Act)]| {
        actor.act(&synthetic.cpu(0), 0, acts);
        aggregate.apply(sample(&mut synthetic, BEGIN + interval * INTERVAL))
    };
    let leaf = |rate| (Rule::UnknownLeaf, 1, Some(rate));
    let storm = |total, rate| (Rule::IpiStorm, total, Some(rate));
    let first = after(1, &[(2_500, ipi()), (1, unknown())]);
    assert_eq!(rules(&first), [leaf(4.0), storm(2_500, 10_000.0)]);
    assert_eq!(rules(&first.with_mean_rates()), [leaf(1.0 / 1.25)]);
    assert_eq!(rules(&after(2, &[])), [leaf(0.0)]);
    assert_eq!(rules(&after(3, &[(2_499, ipi())])), [leaf(0.0)]);
    let last = after(4, &[(15_001, ipi())]);
    assert_eq!(rules(&last), [leaf(0.0), storm(20_000, 60_004.0)]);
    assert_eq!(rules(&last.with_mean_rates()), [leaf(0.5), storm(20_000, 10_000.0)]);
    assert_eq!(rules(&aggregate.reset().expect("a sample")), []);
    actor.act(&synthetic.cpu(0), 0, &[(1, unknown())]);
    let again = aggregate.apply(sample(&mut synthetic, BEGIN + 5 * INTERVAL));
    assert_eq!(rules(&again), [leaf(4.0)]);
}

#[test]
fn a_finding_says_how_many_events_were_lost() {
    let mut synthetic = load(2);
    let mut actor = Actor::new(&mut synthetic, 0, kvm::TDX_VM, 1);
    let mut nobody = td(&mut synthetic, 1, 1_000);
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(&mut synthetic, BEGIN));
    let cpu = synthetic.cpu(0);
    actor.act(&cpu, 0, &[(1, unknown())]);
    // Of a process none of whose vCPUs has run.
    for _ in 0..3 {
        nobody.fire(&cpu, Event::Attributes(0, 100, 8), 1, 0);
    }
    let snapshot = aggregate.apply(sample(&mut synthetic, BEGIN + INTERVAL));
    let lost = "3 events of this host were lost, so there may be more.";
    let expected =
        Expected::new(Rule::UnknownLeaf, 1, &["TDVMCALL unknown leaf 1 time: 0x10006.", lost]);
    assert_eq!(actor.findings(&snapshot), [expected]);
}

#[test]
fn a_storm_says_how_many_accesses_found_no_place() {
    pin(0);
    // Room for 7 places beside the slot's own.
    let options = SyntheticOptions { max_vcpus: 1, ..SyntheticOptions::default() };
    let mut synthetic = load_with(options);
    let mut actor = Actor::new(&mut synthetic, 0, kvm::TDX_VM, 1);
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(&mut synthetic, BEGIN));
    let other = |index: u64| (1, Act::call(5, 32, [index, 1, 0]).at("msr_write", index, 0));
    let others: Vec<_> = (0x1000..0x1100).map(other).collect();
    actor.act(&synthetic.cpu(0), 0, &[(2_500, ipi())]);
    actor.act(&synthetic.cpu(0), 0, &others);
    let sample = sample(&mut synthetic, BEGIN + INTERVAL);
    let vcpu = vcpu_of(&sample, pid(0) + 1);
    let placed =
        vcpu.hotspots.iter().filter(|(place, _)| place.class == Class::MsrWrite as u32 + 1);
    let rest = 2_756 - placed.map(|(_, count)| count).sum::<u64>();
    // The slot's places are found by hash, so some of them stay free.
    assert_eq!(rest, sample.losses.hotspots);
    assert!((256 - 32 - 7..256).contains(&rest), "{rest}");
    let evidence = [
        "10,000 a second of msr_write 0x830 x2APIC ICR.",
        "The limit is 10,000 IPIs a second",
        &format!("{rest} accesses of this kind found no place and may be more of it."),
    ];
    let expected =
        Expected::new(Rule::IpiStorm, 2_500, &evidence).about("msr_write 0x830 x2APIC ICR");
    assert_eq!(actor.findings(&aggregate.apply(sample)), [expected]);
}

#[test]
fn an_exit_that_lasts_for_intervals_is_no_more_than_the_time_there_was() {
    let mut synthetic = load(1);
    let mut actor = Actor::new(&mut synthetic, 0, kvm::TDX_VM, 1);
    let cpu = synthetic.machine();
    let cpu = cpu.cpu(0);
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(&mut synthetic, BEGIN));
    let out = Act::call(3, 30, [1, 1, 0x3f8]).at("pio_out", 0x3f8, 1);
    let driven: &mut Driven = &mut actor.vcpus[0];
    out.begin(&cpu, driven);
    driven.leave(&cpu, 2, 0, 0);
    // In the VMM all the time.
    for interval in 1..=2 {
        let snapshot = aggregate.apply(sample(&mut synthetic, BEGIN + interval * INTERVAL));
        assert_eq!(rules(&snapshot), []);
    }
    let driven: &mut Driven = &mut actor.vcpus[0];
    driven.run_begin(&cpu, 3 * INTERVAL - 200, 0);
    driven.enter(&cpu, 0, 0, 0);
    let snapshot = aggregate.apply(sample(&mut synthetic, BEGIN + 3 * INTERVAL));
    let evidence = [
        "The VMM has 100.0 % of the time of TDVMCALL IO out, which is 100.0 % of the vCPUs' time.",
        "P99 is 749 ms.",
        "The limit is 50 % of the time of these exits",
        "The limit is 10 % of the vCPUs' time",
    ];
    let expected = Expected::new(Rule::VmmBound, 1, &evidence).about("TDVMCALL IO out");
    assert_eq!(actor.findings(&snapshot), [expected]);
}
