//! Samples in, snapshots out.

use tdtrace_common::counters::{COUNTS, KvmStat};

use super::*;
use crate::model::{
    sample::{Host, Losses},
    snapshot::Hotspot,
};

fn counts(counts: &[(Class, u64)]) -> Counts {
    let mut array = [0; COUNTS];
    for (class, count) in counts {
        array[*class as usize] = *count;
    }
    Counts::new(array)
}

fn vm(index: u32, life: u32) -> VmSample {
    VmSample {
        key: VmKey { index, life },
        pid: 100 + index,
        name: "vm".into(),
        vmm: "qemu".into(),
        container: None,
        vm_type: Some(0),
        ended: false,
        demo: false,
        latency: Arc::default(),
        ledger: LedgerSample::default(),
    }
}

/// vCPU `index`, number 0 of the first VM, with `exits` `kvm_exit` events.
fn vcpu(index: u32, exits: u64) -> VcpuSample {
    VcpuSample {
        key: VcpuKey { index, life: 1 },
        vm: VmKey { index: 0, life: 1 },
        id: 0,
        tid: 200 + index,
        counts: counts(&[(Class::Exit, exits)]),
        reasons: Vec::new(),
        userspace: Vec::new(),
        hotspots: Vec::new(),
        kvm: None,
        times: None,
        latency: Arc::default(),
    }
}

fn place(class: Class, address: u64, size: u32) -> Place {
    Place { address, class: class as u32 + 1, size }
}

fn sample(millis: u64, vms: Vec<VmSample>, vcpus: Vec<VcpuSample>) -> Sample {
    Sample {
        at: Duration::from_millis(millis),
        host: Arc::new(Host { release: "6.12".to_owned(), isa: Isa::Vmx }),
        probes: Arc::new([]),
        vms,
        vcpus: vcpus.into_iter().map(|vcpu| Arc::new(vcpu.sorted())).collect(),
        losses: Losses::default(),
        slower_than: None,
        slow: Vec::new(),
        seam: Arc::default(),
        poison: Arc::default(),
    }
}

fn software(mut sample: Sample) -> Sample {
    sample.host = Arc::new(Host { release: "6.18".to_owned(), isa: Isa::Software });
    sample
}

fn named<const N: usize>(counts: [(&str, u64); N]) -> BTreeMap<String, u64> {
    counts.map(|(name, count)| (name.to_owned(), count)).into()
}

fn ids(snapshot: &Snapshot) -> Vec<u32> {
    snapshot.vms.iter().map(|vm| vm.id).collect()
}

#[test]
fn rates_are_per_second_since_the_sample_before() {
    let mut aggregate = Aggregate::new();
    let first = aggregate.apply(sample(1_000, vec![vm(0, 1)], vec![vcpu(0, 1_000)]));
    assert_eq!(first.interval, None);
    assert_eq!(first.vms[0].exits, Tally { total: 1_000, rate: None });
    assert_eq!(first.vms[0].vcpus[0].exits.rate, None);

    let second = aggregate.apply(sample(3_000, vec![vm(0, 1)], vec![vcpu(0, 1_500)]));
    assert_eq!(second.interval, Some(Duration::from_secs(2)));
    assert_eq!(second.vms[0].exits, Tally { total: 1_500, rate: Some(250.0) });
    assert_eq!(second.vms[0].vcpus[0].recent[Class::Exit], 500);
    assert_eq!(second.vms[0].recent[Class::Exit], 500);

    let idle = aggregate.apply(sample(4_000, vec![vm(0, 1)], vec![vcpu(0, 1_500)]));
    assert_eq!(idle.vms[0].exits, Tally { total: 1_500, rate: Some(0.0) });
}

#[test]
fn two_samples_of_one_moment_have_no_rate() {
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1_000, vec![vm(0, 1)], vec![vcpu(0, 1)]));
    for millis in [1_000, 900] {
        let snapshot = aggregate.apply(sample(millis, vec![vm(0, 1)], vec![vcpu(0, 5)]));
        assert_eq!(snapshot.vms[0].exits.rate, None);
    }
}

#[test]
fn a_vm_that_appears_counts_from_nothing() {
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1_000, vec![], vec![]));
    let snapshot = aggregate.apply(sample(2_000, vec![vm(0, 1)], vec![vcpu(0, 300)]));
    assert_eq!(snapshot.vms[0].exits, Tally { total: 300, rate: Some(300.0) });
}

#[test]
fn a_slots_next_vcpu_does_not_begin_where_the_last_one_ended() {
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1_000, vec![vm(0, 1)], vec![vcpu(0, 900)]));
    let mut next = vcpu(0, 1_000);
    next.key.life = 2;
    let snapshot = aggregate.apply(sample(2_000, vec![vm(0, 1)], vec![next]));
    assert_eq!(snapshot.vms[0].exits, Tally { total: 1_000, rate: Some(1_000.0) });
}

#[test]
fn a_counter_that_went_back_has_no_negative_rate() {
    let mut aggregate = Aggregate::new();
    let mut first = vcpu(0, 900);
    first.hotspots = vec![(place(Class::PioOut, 0x500, 1), 9)];
    let mut second = vcpu(0, 100);
    second.hotspots = vec![(place(Class::PioOut, 0x500, 1), 4)];
    aggregate.apply(sample(1_000, vec![vm(0, 1)], vec![first]));
    let snapshot = aggregate.apply(sample(2_000, vec![vm(0, 1)], vec![second]));
    assert_eq!(snapshot.vms[0].exits, Tally { total: 100, rate: Some(0.0) });
    assert_eq!(snapshot.vms[0].hotspots[0].tally, Tally { total: 4, rate: Some(0.0) });
}

#[test]
fn without_exit_events_exits_are_kvms_own_since_the_vcpu_was_seen() {
    let stat =
        |exits, runs| KvmStat { exits, fpu_reload: runs, seen_runs: runs, ..KvmStat::default() };
    let mut one = vcpu(0, 0);
    one.kvm = Some((stat(5_000, 10), stat(5_200, 14)));
    let mut unseen = vcpu(1, 0);
    unseen.id = 1;
    let mut aggregate = Aggregate::new();
    let vcpus = vec![one.clone(), unseen.clone()];
    let snapshot = aggregate.apply(software(sample(1_000, vec![vm(0, 1)], vcpus)));
    assert_eq!(snapshot.exit_source, ExitSource::KvmStat);
    assert_eq!(snapshot.vms[0].exits.total, 200);
    assert_eq!(snapshot.vms[0].vcpus[1].exits.total, 0);
    assert_eq!(snapshot.vms[0].vcpus[1].audit, None);

    one.kvm = Some((stat(5_000, 10), stat(5_900, 20)));
    let snapshot = aggregate.apply(software(sample(2_000, vec![vm(0, 1)], vec![one, unseen])));
    assert_eq!(snapshot.vms[0].exits, Tally { total: 900, rate: Some(700.0) });
    let audit = snapshot.audit().unwrap();
    assert_eq!((audit.kvm_exits, audit.seen_exits), (900, None));
    assert_eq!((audit.kvm_runs, audit.seen_runs), (10, 10));
}

#[test]
fn with_exit_events_the_audit_adds_up_over_vcpus() {
    let stat = |exits, seen_exits| KvmStat { exits, seen_exits, ..KvmStat::default() };
    let mut vcpus = vec![vcpu(0, 7), vcpu(1, 9)];
    vcpus[0].kvm = Some((stat(100, 0), stat(107, 7)));
    vcpus[1].kvm = Some((stat(200, 1), stat(210, 9)));
    let snapshot = Aggregate::new().apply(sample(1_000, vec![vm(0, 1)], vcpus));
    assert_eq!(snapshot.exit_source, ExitSource::Event);
    assert_eq!(snapshot.vms[0].exits.total, 16);
    let audit = snapshot.vms[0].audit.unwrap();
    assert_eq!((audit.kvm_exits, audit.seen_exits), (17, Some(15)));
    assert!(!audit.agrees());
    assert!(snapshot.vms[0].vcpus[0].audit.unwrap().agrees());
}

#[test]
fn a_vm_that_ended_stays_with_its_totals_and_without_a_rate() {
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1_000, vec![vm(0, 1)], vec![vcpu(0, 100)]));
    let mut last = vcpu(0, 400);
    last.hotspots = vec![(place(Class::PioOut, 0x500, 1), 50)];
    let over = VmSample { ended: true, ..vm(0, 1) };
    let snapshot = aggregate.apply(sample(2_000, vec![over], vec![last]));
    let ended = &snapshot.vms[0];
    assert!(ended.ended);
    assert_eq!(ended.exits, Tally { total: 400, rate: Some(300.0) });
    assert_eq!(ended.hotspots[0].tally.rate, Some(50.0));

    let snapshot = aggregate.apply(sample(3_000, vec![], vec![]));
    let ended = &snapshot.vms[0];
    assert!(ended.ended);
    assert_eq!(ended.exits, Tally { total: 400, rate: Some(0.0) });
    assert_eq!(ended.vcpus[0].exits, Tally { total: 400, rate: Some(0.0) });
    assert_eq!(ended.hotspots[0].tally, Tally { total: 50, rate: Some(0.0) });
    assert_eq!((ended.recent, ended.vcpus[0].recent), (Counts::default(), Counts::default()));
    assert_eq!(snapshot.counts[Class::Exit], 400);
}

#[test]
fn vms_are_numbered_as_they_appear_even_in_an_entry_used_again() {
    let mut aggregate = Aggregate::new();
    let snapshot = aggregate.apply(sample(1, vec![vm(5, 1), vm(3, 1)], vec![]));
    assert_eq!(ids(&snapshot), [1, 2]);
    assert_eq!(snapshot.vms[0].pid, 105);
    let over = VmSample { ended: true, ..vm(5, 1) };
    aggregate.apply(sample(2, vec![vm(3, 1), over], vec![]));
    let snapshot = aggregate.apply(sample(3, vec![vm(3, 1), vm(5, 2)], vec![]));
    assert_eq!(ids(&snapshot), [1, 2, 3]);
    let ended: Vec<bool> = snapshot.vms.iter().map(|vm| vm.ended).collect();
    assert_eq!(ended, [true, false, false]);
}

#[test]
fn the_oldest_ended_vms_leave_the_list_and_stay_in_the_totals() {
    let many = ENDED_LISTED as u32 + 10;
    let mut aggregate = Aggregate::new();
    let mut snapshot = aggregate.apply(sample(0, vec![], vec![]));
    for life in 1..=many {
        let over = VmSample { ended: true, ..vm(0, life) };
        let mut vcpu = vcpu(life, 7);
        vcpu.vm.life = life;
        snapshot = aggregate.apply(sample(life.into(), vec![over], vec![vcpu]));
        assert_eq!(snapshot.counts[Class::Exit], 7 * u64::from(life));
    }
    // The newest of all ended with the last sample: the list has room for it until the next.
    assert_eq!((snapshot.vms.len(), snapshot.dropped_vms), (ENDED_LISTED + 1, 9));
    let after = aggregate.apply(sample(u64::from(many) + 1, vec![], vec![]));
    assert_eq!((after.vms.len(), after.dropped_vms), (ENDED_LISTED, 10));
    assert_eq!(ids(&after)[0], 11);
    assert_eq!(after.counts[Class::Exit], 7 * u64::from(many));
    assert!(aggregate.before.is_empty() && aggregate.ids.is_empty());
}

#[test]
fn places_of_a_vm_add_up_over_its_vcpus_with_the_most_first() {
    let (a, b) = (place(Class::MmioWrite, 0xd000_0000, 4), place(Class::MmioWrite, 0xd000_0000, 2));
    let first = |index, hotspots| VcpuSample { hotspots, ..vcpu(index, 0) };
    let mut aggregate = Aggregate::new();
    let vcpus = vec![first(0, vec![(a, 10), (b, 3)]), first(1, vec![(a, 5)])];
    aggregate.apply(sample(1_000, vec![vm(0, 1)], vcpus));
    let vcpus = vec![first(0, vec![(a, 14), (b, 3)]), first(1, vec![(b, 20), (a, 6)])];
    let snapshot = aggregate.apply(sample(2_000, vec![vm(0, 1)], vcpus));
    let row = |spot: &Hotspot| (spot.class, spot.address, spot.size, spot.tally);
    let rows: Vec<_> = snapshot.vms[0].hotspots.iter().map(row).collect();
    let tally = |total, rate| Tally { total, rate: Some(rate) };
    assert_eq!(
        rows,
        [
            (Class::MmioWrite, 0xd000_0000, 2, tally(23, 20.0)),
            (Class::MmioWrite, 0xd000_0000, 4, tally(20, 5.0)),
        ]
    );
}

#[test]
fn other_is_what_no_place_accounts_for() {
    let mut one = vcpu(0, 77);
    one.counts = counts(&[
        (Class::PioOut, 100),
        (Class::Cpuid, 9),
        (Class::MsrRead, 5),
        (Class::RunEnd, 1_000),
        (Class::Exit, 1_000),
    ]);
    one.hotspots = vec![
        (place(Class::PioOut, 0x500, 1), 60),
        (place(Class::PioOut, 0x510, 1), 30),
        (place(Class::Cpuid, 0, 0), 9),
        // Read a little later than the class was.
        (place(Class::MsrRead, 0x8b, 0), 6),
        // A number that no class has.
        (Place { address: 1, class: 99, size: 0 }, 4),
    ];
    let snapshot = Aggregate::new().apply(sample(1_000, vec![vm(0, 1)], vec![one]));
    assert_eq!(snapshot.vms[0].other, [(Class::PioOut, 10)]);
    assert_eq!(snapshot.vms[0].hotspots.len(), 4);
}

#[test]
fn reasons_and_returns_have_names_and_unnamed_ones_share_none() {
    let mut one = vcpu(0, 3);
    one.reasons = vec![(12, 2), (100, 1)];
    one.userspace = vec![(2, 8), (62, 1)];
    let mut two = vcpu(1, 1);
    two.reasons = vec![(12, 1)];
    two.userspace = vec![(2, 1)];
    let snapshot = Aggregate::new().apply(sample(1_000, vec![vm(0, 1)], vec![one, two]));
    let vm = &snapshot.vms[0];
    assert_eq!(vm.reasons(), named([("HLT", 3), ("0x64", 1)]));
    assert_eq!(vm.userspace(), named([("IO", 9), ("EINTR", 1)]));
}

#[test]
fn a_vcpu_ahead_of_its_vm_is_counted_whole_once_the_vm_is_there() {
    let mut aggregate = Aggregate::new();
    let snapshot = aggregate.apply(sample(1_000, vec![], vec![vcpu(0, 40)]));
    assert_eq!((snapshot.vms.len(), snapshot.counts[Class::Exit]), (0, 0));
    let snapshot = aggregate.apply(sample(2_000, vec![vm(0, 1)], vec![vcpu(0, 50)]));
    assert_eq!(snapshot.vms[0].exits, Tally { total: 50, rate: Some(50.0) });
}

#[test]
fn vcpus_are_listed_by_number_and_kinds_by_name() {
    let mut aggregate = Aggregate::new();
    let row = |index, id| VcpuSample { id, ..vcpu(index, 1) };
    let vms = vec![
        VmSample { vm_type: Some(5), ..vm(0, 1) },
        VmSample { vm_type: Some(77), ..vm(1, 1) },
        VmSample { vm_type: None, ..vm(2, 1) },
    ];
    let snapshot = aggregate.apply(sample(1, vms, vec![row(0, 3), row(1, 0), row(2, 1)]));
    let numbers: Vec<u32> = snapshot.vms[0].vcpus.iter().map(|vcpu| vcpu.id).collect();
    assert_eq!(numbers, [0, 1, 3]);
    let kinds: Vec<&str> = snapshot.vms.iter().map(|vm| vm.kind.as_str()).collect();
    assert_eq!(kinds, ["TD", "77", "?"]);
}

#[test]
fn the_history_of_a_vm_is_bounded_and_ends_with_the_newest_interval() {
    let mut aggregate = Aggregate::new();
    let mut last = aggregate.apply(sample(0, vec![vm(0, 1)], vec![vcpu(0, 0)]));
    assert!(last.vms[0].history.is_empty());
    let mut exits = 0;
    for second in 1..=HISTORY as u64 + 9 {
        exits += second;
        last = aggregate.apply(sample(second * 1_000, vec![vm(0, 1)], vec![vcpu(0, exits)]));
    }
    let history = &last.vms[0].history;
    assert_eq!(history.len(), HISTORY);
    assert_eq!(history.last().copied(), last.vms[0].exits.rate);
    assert_eq!(history.first().copied(), Some(10.0));
}

#[test]
fn a_reset_forgets_vms_that_ended_and_keeps_the_numbers_of_the_others() {
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1_000, vec![vm(0, 1), vm(1, 1)], vec![vcpu(0, 5)]));
    let over = VmSample { ended: true, ..vm(0, 1) };
    aggregate.apply(sample(2_000, vec![over, vm(1, 1)], vec![vcpu(0, 9)]));
    let zero = aggregate.reset().unwrap();
    assert_eq!(ids(&zero), [2]);
    assert_eq!(zero.counts, Counts::default());
    let next = aggregate.apply(sample(3_000, vec![vm(1, 1), vm(0, 2)], vec![]));
    assert_eq!(ids(&next), [2, 3]);
}

#[test]
fn durations_of_a_vcpu_that_is_looked_into_have_a_rate_from_the_second_sample_on() {
    let samples = crate::model::testing::samples();
    let latency = |sample: &Sample| Arc::clone(&sample.vms[0].latency);
    let mut aggregate = Aggregate::new();
    let mut of = |sample: &Sample, asked: bool| {
        let mut sample = sample.clone();
        let durations = latency(&sample);
        let vcpu = Arc::make_mut(&mut sample.vcpus[0]);
        vcpu.latency = if asked { durations } else { Arc::default() };
        let snapshot = aggregate.apply(sample);
        let row = snapshot.vms[0].vcpus[0].latency.iter().find(|row| row.class == 32);
        row.map(|row| (row.tally.rate, row.recent_ns.is_some()))
    };
    assert_eq!(of(&samples[0], false), None);
    assert_eq!(of(&samples[1], true), Some((None, false)));
    let count =
        |sample| latency(sample).iter().find(|row| row.class == 32).unwrap().histogram.count();
    let new = count(&samples[2]) - count(&samples[1]);
    assert_eq!(of(&samples[2], true), Some((Some(new as f64), true)));
}
