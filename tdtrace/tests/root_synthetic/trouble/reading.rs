//! Samples that are taken while events are counted at full speed.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use tdtrace::{
    model::{latency::Times, sample::Sample},
    source::synthetic::Event,
};
use tdtrace_common::{
    counters::Class,
    latency::{LATENCY_RETURNS, Part},
};

use super::super::drive::{
    Driven, assert_durations, assert_vcpu, latency_of, load, pid, pin, plain, sample, td, vcpu_of,
};

/// Samples with news that are taken at least.
const SAMPLES: u64 = 200;
/// How long that may take: the thread that fires may have to wait for its CPU.
const PATIENCE: Duration = Duration::from_secs(60);

/// One KVM_RUN with a few exits. HLT takes all of its time halted.
fn run(cpu: &tdtrace::source::synthetic::Cpu<'_>, driven: &mut Driven, clock: &AtomicU64) {
    let tell = |driven: &Driven| clock.store(driven.now, Ordering::Release);
    driven.run_begin(cpu, 900, 0);
    for (index, ns) in [(7, 300), (10, 5_000), (12, 70_000), (28, 1_000_000)] {
        driven.enter(cpu, 0, 250, 0);
        tell(driven);
        driven.exit(cpu, plain(index), index, 600);
        if index == 12 {
            driven.fire(cpu, Event::Wakeup(ns, true), ns, 0);
            driven.truth.halt(ns);
            driven.truth.place("halt", 1, 0);
            driven.enter(cpu, 0, 0, 0);
        } else {
            driven.enter(cpu, 0, ns, 0);
        }
        driven.exit(cpu, plain(7), 7, 40);
        tell(driven);
    }
    driven.leave(cpu, 6, 20, 0);
    driven.truth.place("td_return", 6, 7);
    tell(driven);
}

/// What must hold within any sample. Durations are in their class before it is over, so they are at most
/// what the counts and the times say.
fn assert_sound(sample: &Sample) -> Option<(Times, [u64; 32])> {
    let vcpu = sample.vcpus.first()?;
    let times = vcpu.times.expect("the programs take the time");
    // A VM that is new may be listed one sample later than its vCPU.
    let latency = &sample.vms.first()?.latency;
    let of =
        |returns: bool| latency.iter().filter(move |row| (row.class >= LATENCY_RETURNS) == returns);
    let exits: u64 = of(false).map(|row| row.histogram.count()).sum();
    let counted = vcpu.counts[Class::Exit];
    assert!(exits <= counted, "{exits} durations of {counted} exits");
    let returns: u64 = of(true).map(|row| row.histogram.count()).sum();
    let counted = vcpu.counts[Class::UserspaceExit];
    assert!(returns <= counted, "{returns} durations of {counted} returns");
    let took: u64 = of(false).flat_map(|row| row.ns).sum();
    let outside: u64 = times.parts.iter().sum();
    assert!(took <= outside, "exits took {took} of {outside} ns");
    let took: u64 = of(true).flat_map(|row| row.ns).sum();
    let vmm = times.part(Part::Vmm) + times.part(Part::Waiting);
    assert!(took <= vmm, "returns took {took} of {vmm} ns");
    for row in &**latency {
        assert!(row.max <= row.ns.iter().sum());
    }
    let mut counts = [0; 32];
    for class in Class::ALL {
        counts[class as usize] = vcpu.counts[class];
    }
    Some((times, counts))
}

#[test]
fn every_sample_is_sound_while_events_are_counted() {
    let mut synthetic = load(1, 1);
    let mut driven = td(&mut synthetic, 0, 1_000);
    let (machine, clock, stop) =
        (synthetic.machine(), AtomicU64::new(1_000), AtomicBool::new(false));
    thread::scope(|scope| {
        let (driven, clock, stop) = (&mut driven, &clock, &stop);
        scope.spawn(move || {
            pin(1);
            let cpu = machine.cpu(1);
            while !stop.load(Ordering::Acquire) {
                run(&cpu, driven, clock);
            }
        });
        pin(0);
        let mut before: Option<(Times, [u64; 32])> = None;
        let mut moved = 0;
        let began = Instant::now();
        while moved < SAMPLES && began.elapsed() < PATIENCE {
            let now = clock.load(Ordering::Acquire);
            let sample = synthetic.sample(Duration::from_nanos(now), None);
            let checked = std::panic::catch_unwind(|| assert_sound(sample.as_ref().unwrap()));
            let Ok(sound) = checked else {
                stop.store(true, Ordering::Release);
                panic!("a sample contradicts itself");
            };
            if let (Some((times, counts)), Some((old_times, old_counts))) = (sound, before) {
                let back = times.guest < old_times.guest
                    || times.total() < old_times.total()
                    || times.parts.iter().zip(old_times.parts).any(|(new, old)| *new < old)
                    || counts.iter().zip(old_counts).any(|(new, old)| *new < old);
                if back {
                    stop.store(true, Ordering::Release);
                    panic!("{old_times:?} {old_counts:?} became {times:?} {counts:?}");
                }
                moved += u64::from(counts != old_counts);
            }
            before = sound.or(before);
        }
        stop.store(true, Ordering::Release);
        assert!(moved >= SAMPLES, "only {moved} samples had news");
    });
    let sample = sample(&mut synthetic, driven.now);
    assert_vcpu(vcpu_of(&sample, driven.vcpu.tid), &driven, [0; 5]);
    assert_durations(latency_of(&sample, pid(0)), &driven.truth.durations);
    assert_eq!((sample.losses.unpaired, sample.losses.durations), (0, 0));
}
