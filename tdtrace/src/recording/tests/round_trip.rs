//! Any sequence of samples comes back as it was.

use std::{sync::Arc, time::Duration};

use proptest::{collection::vec, option, prelude::*};
use tdtrace_common::{
    counters::{COUNTS, Class, KvmStat, Loss, Place},
    latency::{BUCKETS, LATENCY_CLASSES},
    ledger::{Direction, LEDGER_COUNTS},
    poison::{PoisonKey, PoisonSource},
};

use super::{example, read, written};
use crate::{
    model::{
        counts::Counts,
        latency::{Histogram, Times},
        ledger::{LedgerSample, MemoryFault, RegionSample},
        poison::PoisonSample,
        sample::{
            Host, Isa, LatencySample, Losses, ProbeState, Sample, VcpuKey, VcpuSample, VmKey,
            VmSample,
        },
        seam::{Failure, FunctionSample, SeamSample},
        slow::SlowSample,
    },
    recording::{ROWS_MAX, TEXT_MAX, Writer},
};

/// Numbers that are often equal, and sometimes large.
pub(super) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..3, 1 => any::<u64>()]
}

pub(super) fn small() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0_u32..3, 1 => any::<u32>()]
}

pub(super) fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("vmm".to_owned()), any::<String>()]
}

pub(super) fn shared() -> impl Strategy<Value = Arc<str>> {
    text().prop_map(Into::into)
}

/// Mostly in order and without repetition, as sources deliver them.
fn list<T: Clone + std::fmt::Debug>(
    item: impl Strategy<Value = T>,
    order: impl Fn(&T, &T) -> std::cmp::Ordering,
) -> impl Strategy<Value = Vec<T>> {
    (vec(item, 0..5), 0..4).prop_map(move |(mut items, odd)| {
        if odd > 0 {
            items.sort_by(&order);
            items.dedup_by(|one, two| order(one, two).is_eq());
        }
        items
    })
}

fn counters() -> impl Strategy<Value = Vec<(u32, u64)>> {
    list((small(), number()), |one, two| one.0.cmp(&two.0))
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(Class::ALL.to_vec())
}

fn histogram() -> impl Strategy<Value = Histogram> {
    vec((0..BUCKETS, number()), 0..4).prop_map(|filled| {
        let mut histogram = Histogram::default();
        filled.into_iter().for_each(|(index, count)| histogram.add(index, count));
        histogram
    })
}

fn wrapper() -> impl Strategy<Value = FunctionSample> {
    let failure = option::of((any::<u64>(), option::of(number())));
    let statuses = list((any::<u64>(), number()), |one, two| one.0.cmp(&two.0));
    (
        (shared(), small(), option::of(shared())),
        (vec(number(), 8), failure, any::<[u64; 4]>()),
        (statuses, histogram()),
    )
        .prop_map(|((name, leaf, missing), (n, failure, levels), (statuses, histogram))| {
            FunctionSample {
                name,
                leaf,
                missing,
                calls: n[0],
                unlisted: n[1],
                unpaired: n[2],
                missed: n[3],
                ns: n[4],
                max: n[5],
                retried: n[6],
                kick_ns: n[7],
                failure: failure.map(|(status, gpa)| Failure { status, gpa }),
                levels,
                statuses,
                histogram,
            }
        })
}

fn seam() -> impl Strategy<Value = Arc<SeamSample>> {
    let some = (option::of(shared()), vec(wrapper(), 0..4));
    let some = some.prop_map(|(absent, functions)| Arc::new(SeamSample { absent, functions }));
    prop_oneof![Just(Arc::default()), some]
}

fn poison() -> impl Strategy<Value = Arc<PoisonSample>> {
    let key = (number(), any::<[u16; 3]>()).prop_map(|(pfn, [source, kind, result])| PoisonKey {
        pfn,
        source,
        kind,
        result,
        reserved: 0,
    });
    let pages = prop::collection::btree_map(key, number(), 0..4);
    let missing = (prop::sample::select(PoisonSource::ALL.to_vec()), shared());
    let some = (vec(missing, 0..3), pages, number()).prop_map(|(missing, pages, lost)| {
        Arc::new(PoisonSample { missing, pages: pages.into_iter().collect(), lost })
    });
    prop_oneof![Just(Arc::default()), some]
}

fn latency() -> impl Strategy<Value = Arc<[LatencySample]>> {
    let sample = (0..LATENCY_CLASSES as u32, any::<[u64; 4]>(), number(), histogram())
        .prop_map(|(class, ns, max, histogram)| LatencySample { class, ns, max, histogram });
    let some = list(sample, |one, two| one.class.cmp(&two.class)).prop_map(Into::into);
    prop_oneof![Just(Arc::default()), some]
}

fn stat() -> impl Strategy<Value = KvmStat> {
    vec(number(), 11).prop_map(|n| KvmStat {
        exits: n[0],
        fpu_reload: n[1],
        io_exits: n[2],
        mmio_exits: n[3],
        irq_exits: n[4],
        signal_exits: n[5],
        hypercalls: n[6],
        seen_exits: n[7],
        seen_runs: n[8],
        seen_hypercalls: n[9],
        state: n[10],
    })
}

fn vcpu() -> impl Strategy<Value = Arc<VcpuSample>> {
    let place = (number(), small(), small()).prop_map(|(address, class, size)| Place {
        address,
        class,
        size,
    });
    let order = |place: &Place| crate::model::sample::place_order(place);
    let hotspots = list((place, number()), move |one, two| order(&one.0).cmp(&order(&two.0)));
    let times = (number(), any::<[u64; 4]>()).prop_map(|(guest, parts)| Times { guest, parts });
    (
        (0_u32..4, 0_u32..2, small(), small(), small(), small()),
        (vec(number(), COUNTS), counters(), counters(), hotspots),
        (option::of((stat(), stat())), option::of(times), latency()),
    )
        .prop_map(
            |(
                (index, life, vm, vm_life, id, tid),
                (counts, reasons, userspace, hotspots),
                (kvm, times, latency),
            )| {
                Arc::new(VcpuSample {
                    key: VcpuKey { index, life },
                    vm: VmKey { index: vm, life: vm_life },
                    id,
                    tid,
                    counts: Counts::new(counts.try_into().unwrap()),
                    reasons,
                    userspace,
                    hotspots,
                    kvm,
                    times,
                    latency,
                })
            },
        )
}

/// As sources deliver it: regions ascending, each once.
fn ledger() -> impl Strategy<Value = LedgerSample> {
    let direction = || prop::sample::select(Direction::ALL.to_vec());
    let numbers = || (any::<[u64; 2]>(), any::<[u64; 2]>(), number(), number());
    let regions = prop::collection::btree_map(number(), (numbers(), direction()), 0..4);
    let regions = regions.prop_map(|regions| {
        let region = |(gpa, ((calls, bytes, turns, last_at), last))| RegionSample {
            gpa,
            calls,
            bytes,
            turns,
            last,
            last_at,
        };
        regions.into_iter().map(region).collect()
    });
    let fault = option::of((number(), any::<bool>(), number()))
        .prop_map(|fault| fault.map(|(gpa, private, at)| MemoryFault { gpa, private, at }));
    (vec(number(), LEDGER_COUNTS), number(), fault, regions).prop_map(
        |(counts, memory_pages, fault, regions)| LedgerSample {
            counts: counts.try_into().unwrap(),
            memory_pages,
            fault,
            regions,
        },
    )
}

fn vm() -> impl Strategy<Value = VmSample> {
    (
        (0_u32..3, 0_u32..2, small(), shared(), shared()),
        (option::of(shared()), option::of(small()), any::<[bool; 2]>(), latency(), ledger()),
    )
        .prop_map(
            |(
                (index, life, pid, name, vmm),
                (container, vm_type, [ended, demo], latency, ledger),
            )| {
                VmSample {
                    key: VmKey { index, life },
                    pid,
                    name,
                    vmm,
                    container,
                    vm_type,
                    ended,
                    demo,
                    latency,
                    ledger,
                }
            },
        )
}

fn losses() -> impl Strategy<Value = Losses> {
    let loss = prop::sample::select(Loss::ALL.to_vec());
    (
        vec((loss, class(), number()), 0..4),
        vec((text(), number()), 0..3),
        (number(), number(), number(), number()),
        vec((class(), number()), 0..3),
    )
        .prop_map(|(causes, misses, (hotspots, unpaired, durations, slow), outside)| Losses {
            causes,
            misses,
            hotspots,
            unpaired,
            durations,
            slow,
            outside,
        })
}

/// A limit and durations of some of `vms`.
fn slow() -> impl Strategy<Value = Option<(u64, Vec<SlowSample>)>> {
    let parts = [number(), number(), number(), number()].prop_map(|ns| ns.map(|ns| ns >> 2));
    let one = (number(), any::<u32>(), any::<u32>(), 0..LATENCY_CLASSES as u32, parts).prop_map(
        |(at, vcpu, tid, class, ns)| SlowSample {
            at: Duration::from_nanos(at),
            vm: VmKey { index: 0, life: 0 },
            vcpu,
            tid,
            class,
            ns,
        },
    );
    option::of((number(), vec(one, 0..4)))
}

/// `sample` with durations that are its VMs'.
fn with_slow(mut sample: Sample, slow: Option<(u64, Vec<SlowSample>)>) -> Sample {
    let Some((limit, durations)) = slow else { return sample };
    sample.slower_than = Some(Duration::from_nanos(limit));
    let vms: Vec<VmKey> = sample.vms.iter().map(|vm| vm.key).collect();
    if !vms.is_empty() {
        let whose = durations.into_iter().zip(vms.into_iter().cycle());
        sample.slow = whose.map(|(slow, vm)| SlowSample { vm, ..slow }).collect();
    }
    sample
}

fn sample() -> impl Strategy<Value = Sample> {
    let isa = prop::sample::select(vec![Isa::Vmx, Isa::Svm, Isa::Software]);
    let probe = (text(), option::of(text()), text())
        .prop_map(|(name, missing, hides)| ProbeState { name, missing, hides });
    let counted = (vec(vm(), 0..4), vec(vcpu(), 0..5), seam(), poison());
    ((any::<u64>(), text(), isa), vec(probe, 0..3), counted, losses()).prop_map(
        |((at, release, isa), probes, (vms, vcpus, seam, poison), losses)| Sample {
            at: Duration::from_nanos(at),
            host: Arc::new(Host { release, isa }),
            probes: probes.into(),
            vms,
            vcpus,
            losses,
            slower_than: None,
            slow: Vec::new(),
            seam,
            poison,
        },
    )
}

/// Samples of which each is the one before, or differs from it a little, or altogether.
fn samples() -> impl Strategy<Value = Vec<Sample>> {
    vec((sample(), slow(), 0..5), 1..6).prop_map(|steps| {
        let mut samples: Vec<Sample> = Vec::new();
        for (fresh, slow, step) in steps {
            let before = samples.last().map(|before| Sample { slow: Vec::new(), ..before.clone() });
            let next = match (before.as_ref(), step) {
                (Some(before), 0) => before.clone(),
                (Some(before), 1) => Sample { vcpus: fresh.vcpus, ..before.clone() },
                (Some(before), 2) => Sample { vms: fresh.vms, ..before.clone() },
                (Some(before), 3) => {
                    Sample { seam: fresh.seam, poison: fresh.poison, ..before.clone() }
                }
                _ => fresh,
            };
            let next = with_slow(Sample { slower_than: None, ..next }, slow);
            samples.push(next);
        }
        samples
    })
}

proptest! {
    #[test]
    fn samples_come_back_equal(samples in samples()) {
        let (back, end) = read(&written(&samples));
        prop_assert_eq!(back, samples);
        prop_assert!(matches!(end, Ok(None)), "{:?}", end);
    }
}

#[test]
fn the_examples_come_back_equal() {
    for samples in [example::samples(), example::few()] {
        assert_eq!(read(&written(&samples)).0, samples);
    }
}

#[test]
fn a_recording_without_samples_is_no_recording_yet() {
    let (samples, end) = read(&written::<Sample>(&[]));
    assert!(samples.is_empty());
    assert!(end.is_err());
}

#[test]
fn a_sample_that_fills_several_batches_comes_back_equal() {
    let mut samples = example::few();
    let vcpu = Arc::clone(&samples[0].vcpus[0]);
    let many = |life| {
        let vcpu = |index| {
            let key = VcpuKey { index, life };
            Arc::new(VcpuSample { key, ..(*vcpu).clone() })
        };
        (0..ROWS_MAX as u32 / 20).map(vcpu).collect()
    };
    samples[1].vcpus = many(1);
    samples.push(Sample { vcpus: many(2), ..samples[1].clone() });
    let recording = written(&samples);
    assert_eq!(read(&recording).0, samples);
    // Cut after the first batch of the second sample: only the first sample is whole.
    let (back, end) = read(&recording[..recording.len() - 100]);
    assert_eq!(back, samples[..2]);
    assert!(end.unwrap().unwrap().bytes > 10_000);
}

#[test]
fn what_did_not_move_is_not_written_again() {
    let sample = example::samples().remove(0);
    let mut writer = Writer::new(Vec::new(), Duration::ZERO).unwrap();
    let mut sizes = Vec::new();
    for second in 0..3 {
        let before = writer.bytes();
        writer.write(&Sample { at: Duration::from_secs(second), ..sample.clone() }).unwrap();
        sizes.push(writer.bytes() - before);
    }
    assert!(sizes[1] < sizes[0] / 2 && sizes[1] < 3_000, "{sizes:?}");
    assert_eq!(sizes[1], sizes[2]);
}

#[test]
fn what_does_not_fit_is_refused_with_its_size() {
    let mut sample = example::few().remove(0);
    sample.vms[0].name = "x".repeat(TEXT_MAX).into();
    assert_eq!(read(&written(std::slice::from_ref(&sample))).0[0], sample);
    sample.vms[0].name = "x".repeat(TEXT_MAX + 1).into();
    let error = Writer::new(Vec::new(), Duration::ZERO).unwrap().write(&sample).unwrap_err();
    assert!(error.to_string().contains("vm_name has 1048577 bytes"), "{error}");
    let error = Writer::new(Vec::new(), Duration::MAX).err().unwrap();
    assert!(error.to_string().contains("too long"), "{error}");
}
