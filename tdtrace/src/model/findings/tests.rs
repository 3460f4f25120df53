//! Each rule with what fires it and with what looks like it and must not: made of two samples, a second
//! apart, of which the second has all that is given.

use std::sync::Arc;

use tdtrace_common::{
    counters::{Class, Loss, Place},
    latency::bucket,
    vmx,
};

use super::*;
use crate::model::{
    aggregate::Aggregate,
    finding::Severity,
    latency::{Histogram, Times},
    sample::{Host, Isa, LatencySample, Losses, Sample, VcpuKey, VcpuSample, VmKey, VmSample},
    snapshot::Snapshot,
    testing::{counts, place},
};

/// What one vCPU did in a second.
#[derive(Clone, Default)]
struct Did {
    reasons: Vec<(u32, u64)>,
    places: Vec<(Place, u64)>,
    /// In the guest, in the kernel, in the VMM.
    times: Option<[u64; 3]>,
}

impl Did {
    fn exits(exits: &[(TdExit, u64)]) -> Self {
        let reasons = exits.iter().map(|(kind, count)| (kind.reason_index() as u32, *count));
        Self { reasons: reasons.collect(), ..Self::default() }
    }

    fn places(places: &[(Place, u64)]) -> Self {
        Self { places: places.to_vec(), ..Self::default() }
    }
}

fn sample(second: u64, did: &[Did], latency: &[LatencySample]) -> Sample {
    let key = VmKey { index: 0, life: 1 };
    let vcpu = |(id, did): (u32, &Did)| {
        let exits = did.reasons.iter().map(|(_, count)| count).sum();
        let mut all = vec![(Class::Exit, exits)];
        for class in Class::ALL {
            let of = did.places.iter().filter(|(place, _)| place.class == class as u32 + 1);
            all.push((class, of.map(|(_, count)| count).sum()));
        }
        all.retain(|(_, count)| *count > 0);
        let times = |[guest, kernel, vmm]: [u64; 3]| Times { guest, parts: [kernel, vmm, 0, 0] };
        let sample = VcpuSample {
            key: VcpuKey { index: id, life: 1 },
            vm: key,
            id,
            tid: 10 + id,
            counts: counts(&all),
            reasons: did.reasons.clone(),
            userspace: Vec::new(),
            hotspots: did.places.clone(),
            kvm: None,
            times: did.times.map(times),
            latency: Arc::default(),
        };
        Arc::new(sample.sorted())
    };
    Sample {
        at: Duration::from_secs(second),
        host: Arc::new(Host { release: "7.3.0".to_owned(), isa: Isa::Vmx }),
        probes: Vec::new().into(),
        vms: vec![VmSample {
            key,
            pid: 1,
            name: "td".into(),
            vmm: "qemu".into(),
            container: None,
            vm_type: Some(5),
            ended: false,
            demo: false,
            latency: latency.to_vec().into(),
            ledger: Default::default(),
        }],
        vcpus: (0..).zip(did).map(vcpu).collect(),
        losses: Losses::default(),
        slower_than: None,
        slow: Vec::new(),
        seam: Arc::default(),
        poison: Arc::default(),
    }
}

fn snapshot_of(did: &[Did], latency: &[LatencySample]) -> Snapshot {
    let nothing = vec![Did { times: Some([0; 3]), ..Did::default() }; did.len()];
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1, &nothing, &[]));
    aggregate.apply(sample(2, did, latency))
}

fn found(did: &[Did]) -> Vec<Finding> {
    snapshot_of(did, &[]).findings().into_iter().cloned().collect()
}

fn rules(did: &[Did]) -> Vec<(Rule, u64)> {
    found(did).into_iter().map(|finding| (finding.rule, finding.tally.total)).collect()
}

/// The rules that exits of one vCPU break.
fn of_exits(exits: &[(TdExit, u64)]) -> Vec<(Rule, u64)> {
    rules(&[Did::exits(exits)])
}

#[test]
fn a_storm_of_faults_begins_at_its_rate_and_shared_faults_are_none() {
    let mixed = [(TdExit::EptPending, 6_000), (TdExit::EptPrivate, 4_000)];
    assert_eq!(of_exits(&mixed), [(Rule::AcceptStorm, 10_000)]);
    assert_eq!(of_exits(&[(TdExit::EptPending, 9_999)]), []);
    assert_eq!(of_exits(&[(TdExit::EptShared, 50_000)]), []);
    let evidence = &found(&[Did::exits(&mixed)])[0].evidence;
    assert_eq!(evidence[0], "6,000 a second are EPT_VIOLATION not accepted.");
}

#[test]
fn a_storm_of_conversions_begins_at_its_rate() {
    let both = [(TdExit::MapShared, 400), (TdExit::MapPrivate, 600)];
    assert_eq!(of_exits(&both), [(Rule::ConversionStorm, 1_000)]);
    assert_eq!(of_exits(&[(TdExit::MapShared, 999)]), []);
    let answer = place(Class::TdAnswer, 1, TdExit::MapShared as u32);
    let other = place(Class::TdAnswer, 1, TdExit::GetQuote as u32);
    let did = Did { places: vec![(answer, 7), (other, 8)], ..Did::exits(&both) };
    let evidence = found(&[did])[0].evidence.join(" ");
    assert!(evidence.contains("7 times MapGPA to shared: RETRY"), "{evidence}");
    assert!(!evidence.contains("8 times"), "{evidence}");
}

#[test]
fn busy_entries_count_by_their_share_and_only_if_there_are_many() {
    let of = |busy, other| of_exits(&[(TdExit::BusyEpoch, busy), (TdExit::Cpuid, other)]);
    assert_eq!(of(100, 900), [(Rule::BusyStorm, 100)]);
    assert_eq!(of(100, 901), []);
    assert_eq!(of(99, 0), []);
    assert_eq!(of_exits(&[(TdExit::Interrupted, 1_000)]), []);
}

#[test]
fn halts_are_the_vms_if_all_halt_and_else_the_vcpus() {
    let did = |halts, other| Did::exits(&[(TdExit::Hlt, halts), (TdExit::Cpuid, other)]);
    let found = |did: &[Did]| -> Vec<_> {
        found(did).into_iter().map(|f| (f.rule, f.vcpu, f.tally.total)).collect()
    };
    assert_eq!(found(&[did(500, 0), did(500, 400)]), [(Rule::Halts, None, 1_000)]);
    assert_eq!(found(&[did(500, 0), did(499, 0)]), [(Rule::Halts, Some(0), 500)]);
    assert_eq!(found(&[did(499, 0), did(499, 0)]), []);
    // Much else to do: halts are not what it exits for.
    assert_eq!(found(&[did(500, 501)]), []);
    assert_eq!(found(&[did(500, 500)]), [(Rule::Halts, None, 500)]);
}

#[test]
fn halts_of_a_plain_vm_are_halts() {
    let did = |reason| Did { reasons: vec![(reason, 600)], ..Did::default() };
    assert_eq!(rules(&[did(vmx::HLT)]), [(Rule::Halts, 600)]);
    assert_eq!(rules(&[did(10)]), []);
}

#[test]
fn ipis_are_writes_to_one_msr_and_other_msrs_are_storms_of_their_own() {
    let of = |class, msr, count| rules(&[Did::places(&[(place(class, msr, 0), count)])]);
    assert_eq!(of(Class::MsrWrite, 0x830, 10_000), [(Rule::IpiStorm, 10_000)]);
    assert_eq!(of(Class::MsrWrite, 0x830, 9_999), []);
    assert_eq!(of(Class::MsrRead, 0x830, 10_000), [(Rule::MsrStorm, 10_000)]);
    assert_eq!(of(Class::MsrWrite, 0x6e0, 10_000), [(Rule::MsrStorm, 10_000)]);
    assert_eq!(of(Class::MsrWrite, 0x6e0, 9_999), []);
    // Ports have the same numbers.
    assert_eq!(of(Class::PioOut, 0x830, 10_000), []);
    let two =
        [(place(Class::MsrWrite, 0x6e0, 0), 9_000), (place(Class::MsrWrite, 0x80b, 0), 9_000)];
    assert_eq!(rules(&[Did::places(&two)]), []);
}

#[test]
fn an_msr_is_named_and_told_from_others() {
    let spots = [0x6e0, 0x80b].map(|msr| (place(Class::MsrWrite, msr, 0), 20_000));
    let found = found(&[Did::places(&spots)]);
    assert_eq!(found.len(), 2);
    assert!(found[0].what.as_deref().unwrap().starts_with("msr_write 0x6e0 TSC_DEADLINE"));
    assert_ne!(found[0].detail, found[1].detail);
}

#[test]
fn fw_cfg_is_all_its_ports_together_and_no_other_port() {
    let of = |ports: &[(Class, u64, u64)]| {
        let places = ports.iter().map(|(class, port, count)| (place(*class, *port, 1), *count));
        rules(&[Did::places(&places.collect::<Vec<_>>())])
    };
    let both = [(Class::PioOut, 0x510, 1), (Class::PioIn, 0x511, 990), (Class::PioOut, 0x514, 9)];
    assert_eq!(of(&both), [(Rule::FwCfgStorm, 1_000)]);
    assert_eq!(of(&both[1..]), []);
    assert_eq!(of(&[(Class::PioIn, 0x512, 5_000)]), []);
    assert_eq!(of(&[(Class::MsrRead, 0x511, 5_000)]), []);
}

#[test]
fn mmio_that_kvm_refused_is_found_and_other_answers_are_not() {
    let of = |status, kind: TdExit| {
        rules(&[Did::places(&[(place(Class::TdAnswer, status, kind as u32), 3)])])
    };
    assert_eq!(of(1 << 63, TdExit::MmioRead), [(Rule::PrivateMmio, 3)]);
    assert_eq!(of(1 << 63, TdExit::MmioWrite), [(Rule::PrivateMmio, 3)]);
    assert_eq!(of(0, TdExit::MmioRead), []);
    assert_eq!(of(1 << 63, TdExit::MapShared), []);
    assert_eq!(of(1 << 63 | 1, TdExit::MmioRead), []);
}

#[test]
fn an_unknown_leaf_is_named_and_many_of_them_are_bounded() {
    let exits = [(TdExit::UnknownLeaf, 20)];
    let did = Did {
        places: (0..20).map(|n| (place(Class::TdUnknownLeaf, 0x2_0000 + n, 0), 1)).collect(),
        ..Did::exits(&exits)
    };
    let found = found(&[did]);
    assert_eq!((found[0].rule, found[0].tally.total), (Rule::UnknownLeaf, 20));
    assert!(
        found[0].evidence[0].contains("0x20000, ") && found[0].evidence[0].ends_with("12 more.")
    );
    assert_eq!(of_exits(&[(TdExit::GetInfo, 20), (TdExit::Service, 3)]), []);
    assert_eq!(of_exits(&[(TdExit::KvmHypercall, 20)]), []);
}

#[test]
fn a_fatal_error_says_what_became_of_it() {
    let index = TdExit::FatalError.reason_index() as u32;
    let did = Did {
        places: vec![(place(Class::TdReturn, 24, index), 1)],
        ..Did::exits(&[(TdExit::FatalError, 1)])
    };
    let found = found(&[did]);
    assert_eq!((found[0].rule, found[0].tally.total), (Rule::FatalError, 1));
    assert!(found[0].evidence[1].contains("SYSTEM_EVENT"), "{:?}", found[0].evidence);
    assert_eq!(of_exits(&[(TdExit::SetupNotify, 1)]), []);
}

#[test]
fn a_td_is_dead_by_a_status_from_which_it_does_not_recover() {
    for kind in [TdExit::DeadVcpu, TdExit::DeadTd, TdExit::Inaccessible, TdExit::WrongApicMode] {
        assert_eq!(of_exits(&[(kind, 1)]), [(Rule::DeadTd, 1)]);
    }
    for kind in [TdExit::Interrupted, TdExit::NotAssociated, TdExit::SoftwareError] {
        assert_eq!(of_exits(&[(kind, 1)]), []);
    }
    let both = Did::exits(&[(TdExit::DeadVcpu, 1), (TdExit::DeadTd, 2)]);
    let found = found(&[both]);
    assert_eq!((found.len(), found[0].tally.total, found[0].evidence.len()), (1, 3, 2));
}

#[test]
fn the_vmm_is_to_blame_where_it_has_most_of_much() {
    const MS: u64 = 1_000_000;
    let class = TdExit::IoOut.reason_index() as u32;
    let rules = |class, kernel: u64, vmm: u64, guest: u64| {
        let mut histogram = Histogram::default();
        histogram.add(bucket(MS), 100);
        let ns = [kernel * MS, vmm * MS, 0, 0];
        let latency = LatencySample { class, ns, max: 2 * MS, histogram };
        let times = Some([guest * MS, kernel * MS, vmm * MS]);
        let snapshot = snapshot_of(&[Did { times, ..Did::default() }], &[latency]);
        let found: Vec<Finding> = snapshot.findings().into_iter().cloned().collect();
        found.into_iter().map(|finding| (finding.rule, finding.what)).collect::<Vec<_>>()
    };
    let io = Some("TDVMCALL IO out".to_owned());
    assert_eq!(rules(class, 100, 100, 800), [(Rule::VmmBound, io)]);
    assert_eq!(rules(class, 101, 100, 799), []);
    assert_eq!(rules(class, 90, 99, 811), []);
    // A halt waits for the guest.
    assert_eq!(rules(TdExit::Hlt.reason_index() as u32, 100, 800, 100), []);
}

#[test]
fn storms_are_over_with_the_interval_and_what_must_not_happen_stays() {
    let exits = [(TdExit::EptPending, 20_000), (TdExit::FatalError, 1)];
    let did = [Did::exits(&exits)];
    let mut aggregate = Aggregate::new();
    let of = |snapshot: &Snapshot| -> Vec<Rule> {
        snapshot.findings().into_iter().map(|finding| finding.rule).collect()
    };
    // No interval, no rate.
    assert_eq!(of(&aggregate.apply(sample(1, &did, &[]))), [Rule::FatalError]);
    let quiet = aggregate.apply(sample(2, &did, &[]));
    assert_eq!(of(&quiet), [Rule::FatalError]);
    assert_eq!(of(&quiet.with_mean_rates()), [Rule::FatalError, Rule::AcceptStorm]);
    let mut end = sample(3, &did, &[]);
    end.vms[0].ended = true;
    aggregate.apply(end);
    let mut after = sample(4, &did, &[]);
    (after.vms, after.vcpus) = (Vec::new(), Vec::new());
    assert_eq!(of(&aggregate.apply(after)), [Rule::FatalError]);
    assert_eq!(of(&aggregate.reset().unwrap()), []);
}

#[test]
fn losses_and_accesses_without_a_place_are_said_where_there_are_any() {
    let did = [Did::places(&[(place(Class::MsrWrite, 0x830, 0), 20_000)])];
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1, &[Did::default()], &[]));
    let mut second = sample(2, &did, &[]);
    second.losses.causes = vec![(Loss::Unattributed, Class::MsrWrite, 5)];
    let mut vcpu = VcpuSample::clone(&second.vcpus[0]);
    vcpu.counts = counts(&[(Class::MsrWrite, 20_007)]);
    second.vcpus = vec![Arc::new(vcpu)];
    let evidence = aggregate.apply(second).vms[0].findings[0].evidence.join(" ");
    assert!(evidence.contains("5 events of this host were lost"), "{evidence}");
    assert!(evidence.contains("7 accesses of this kind found no place"), "{evidence}");
    let evidence = found(&did)[0].evidence.join(" ");
    assert!(!evidence.contains("lost") && !evidence.contains("no place"), "{evidence}");
}

#[test]
fn the_gravest_comes_first() {
    let found = found(&[Did::exits(&[
        (TdExit::EptPending, 20_000),
        (TdExit::UnknownLeaf, 1),
        (TdExit::DeadTd, 1),
    ])]);
    let severities: Vec<Severity> = found.iter().map(|finding| finding.rule.severity()).collect();
    assert_eq!(severities, [Severity::Error, Severity::Warning, Severity::Note]);
}

#[test]
fn every_rule_of_both_sides_is_described() {
    let text = include_str!("../../../../docs/findings.md");
    let guest = crate::model::guest::finding::Rule::ALL;
    let guest = guest.iter().map(|rule| (rule.id(), rule.severity()));
    for (id, severity) in Rule::ALL.iter().map(|rule| (rule.id(), rule.severity())).chain(guest) {
        assert!(text.contains(&format!("| `{id}` | {} |", severity.name())), "{id}");
    }
}

#[test]
fn every_limit_has_a_unit_and_a_reason() {
    for limit in limits::ALL {
        assert!(
            limit.value > 0 && !limit.unit.is_empty() && !limit.why.ends_with('.'),
            "{limit:?}"
        );
    }
}
