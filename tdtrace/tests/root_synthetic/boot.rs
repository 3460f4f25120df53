//! A TD's boot: what the loaded programs count of it is the timeline that was driven, interval by interval.

use std::time::Duration;

use tdtrace::{
    model::{
        aggregate::Aggregate,
        boot::{Amounts, Group, Timeline},
        sample::Sample,
        snapshot::Snapshot,
    },
    source::synthetic::{Cpu, Event, Registers, Synthetic},
};
use tdtrace_common::{latency::Part, ledger::Direction, td::TdExit};

use super::drive::{Driven, load, pid, pin, sample};

const SHARED: u64 = 1 << 51;
const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;
/// An entry of the page table that is present; a large one.
const PRESENT: u64 = 1 << 11;
const LARGE: u64 = 1 << 7;

/// A TDVMCALL: leaf, R12, R13, R14.
fn call(leaf: u64, r12: u64, r13: u64, r14: u64) -> Registers {
    Registers { ret: 77, kvm_reason: 77, r11: leaf, r12, r13, r14, ..Registers::default() }
}

/// An exit of `kind` half a millisecond after the entry before, answered after another half.
fn exit(cpu: &Cpu<'_>, vcpu: &mut Driven, kind: TdExit, registers: Registers) {
    vcpu.exit(cpu, registers, kind.reason_index() as u32, MILLI / 2);
    vcpu.enter(cpu, 0, MILLI / 2, 0);
}

fn port(cpu: &Cpu<'_>, vcpu: &mut Driven, port: u64, times: u64) {
    for _ in 0..times {
        exit(cpu, vcpu, TdExit::IoIn, call(30, 1, 0, port));
    }
}

/// A fault on private memory that is served with a page of this level.
fn accept(cpu: &Cpu<'_>, vcpu: &mut Driven, level: u32, times: u64) {
    for page in 0..times {
        let registers =
            Registers { ret: 48, kvm_reason: 48, gpa: page << 21, ..Registers::default() };
        vcpu.exit(cpu, registers, TdExit::EptPrivate.reason_index() as u32, MILLI / 2);
        let entry = if level > 1 { PRESENT | LARGE } else { PRESENT };
        vcpu.fire(cpu, Event::SpteSet(level, 0, entry), MILLI / 4, 0);
        vcpu.enter(cpu, 0, MILLI / 4, 0);
    }
}

/// A halt of so many milliseconds, three quarters of a millisecond beside it.
fn halt(cpu: &Cpu<'_>, vcpu: &mut Driven, millis: u64) {
    vcpu.exit(cpu, call(12, 1, 0, 0), TdExit::Hlt.reason_index() as u32, MILLI / 2);
    vcpu.fire(cpu, Event::Wakeup(millis * MILLI, true), millis * MILLI, 0);
    vcpu.enter(cpu, 0, MILLI / 4, 0);
}

/// Two vCPUs of one TD, both running from `now` on.
fn begun(synthetic: &mut Synthetic, now: u64) -> [Driven; 2] {
    let td = synthetic.td(pid(0), "td-boot").expect("room");
    [0, 1].map(|id| {
        let vcpu = synthetic.vcpu(td, id, pid(0), pid(0) + 1 + id).expect("room");
        let mut driven = Driven::new(vcpu, now);
        let cpu = synthetic.cpu(0);
        driven.run_begin(&cpu, 0, 0);
        driven.enter(&cpu, 0, 0, 0);
        driven
    })
}

fn timeline(snapshot: &Snapshot) -> &Timeline {
    let td = snapshot.vms.iter().find(|vm| vm.pid == pid(0)).expect("the TD");
    td.boot.as_deref().expect("a TD has a timeline")
}

/// Exits of the groups that have any.
fn groups(amounts: &Amounts) -> Vec<(Group, u64)> {
    let of = |group: Group| (group, amounts.of(group));
    Group::ALL.into_iter().map(of).filter(|(_, count)| *count > 0).collect()
}

/// What the boot of [`boot`] leaves: samples at 1 s, before the TD is there, and then at 1.5, 1.8, 4 and
/// 5.2 s.
fn boot(synthetic: &mut Synthetic) -> Vec<Sample> {
    let mut samples = vec![sample(synthetic, SECOND)];
    let [mut one, mut two] = begun(synthetic, SECOND + MILLI);
    let cpu = synthetic.cpu(0);
    // Firmware, on one vCPU: 449 ms.
    port(&cpu, &mut one, 0x511, 300);
    port(&cpu, &mut one, 0x514, 49);
    port(&cpu, &mut one, 0x402, 100);
    samples.push(sample(synthetic, SECOND + 500 * MILLI));
    // In the same interval, on both.
    let cpu = synthetic.cpu(0);
    exit(&cpu, &mut one, TdExit::Wrmsr, call(32, 0x838, 1, 0));
    for _ in 0..7 {
        exit(&cpu, &mut two, TdExit::Cpuid, call(10, 1, 0, 0));
    }
    samples.push(sample(synthetic, SECOND + 800 * MILLI));
    // Memory, and a conversion that KVM stops halfway; no sample for two seconds.
    let cpu = synthetic.cpu(0);
    accept(&cpu, &mut one, 2, 40);
    accept(&cpu, &mut two, 1, 60);
    let map = call(0x10001, SHARED | 0x4000_0000, 0x40_0000, 0);
    one.exit(&cpu, map, TdExit::MapShared.reason_index() as u32, MILLI / 2);
    one.fire(&cpu, Event::EntryAt(1, SHARED | 0x4020_0000), MILLI / 2, 0);
    samples.push(sample(synthetic, 4 * SECOND));
    // A quote, then it halts; one vCPU still does when the last sample is taken.
    let cpu = synthetic.cpu(0);
    let quote = call(0x10002, SHARED | 0x7000, 0x2000, 0);
    exit(&cpu, &mut one, TdExit::GetQuote, quote);
    (one.now, two.now) = (one.now.max(4 * SECOND), two.now.max(4 * SECOND));
    halt(&cpu, &mut one, 900);
    halt(&cpu, &mut two, 1_000);
    samples.push(sample(synthetic, 5 * SECOND + 200 * MILLI));
    samples
}

#[test]
fn the_timeline_of_a_boot_is_what_was_driven() {
    pin(0);
    let mut synthetic = load(1, 2);
    let samples = boot(&mut synthetic);
    let mut aggregate = Aggregate::new();
    let snapshots: Vec<Snapshot> =
        samples.iter().map(|sample| aggregate.apply(sample.clone())).collect();
    let last = snapshots.last().expect("samples");
    let line = timeline(last);
    assert!(line.from_start && line.is_td);
    assert_eq!((line.began, line.length), (SECOND, SECOND));
    let spans: Vec<_> = line.intervals.iter().map(|row| (row.from, row.to)).collect();
    let at = |millis| millis * MILLI;
    assert_eq!(spans, [(0, at(800)), (at(800), at(3_000)), (at(3_000), at(4_200))]);
    let [firmware, memory, rest] = &line.intervals[..] else { panic!("{spans:?}") };
    assert_eq!(
        groups(&firmware.amounts),
        [(Group::FwCfg, 349), (Group::Pio, 100), (Group::Msr, 1), (Group::Cpuid, 7)]
    );
    assert_eq!(groups(&memory.amounts), [(Group::MapGpa, 1), (Group::Accept, 100)]);
    assert_eq!(groups(&rest.amounts), [(Group::Halt, 2), (Group::Quote, 1)]);
    let bytes =
        |amounts: &Amounts| (amounts.mapped(), Direction::ALL.map(|w| amounts.converted(w)));
    assert_eq!(bytes(&firmware.amounts), (0, [0, 0]));
    assert_eq!(bytes(&memory.amounts), ((40 << 21) + (60 << 12), [2 << 20, 0]));
    assert_eq!(bytes(&rest.amounts), (0, [0, 0]));
    let halted = |amounts: &Amounts| amounts.times().part(Part::Halted);
    assert_eq!([firmware, memory, rest].map(|row| halted(&row.amounts)), [0, 0, at(1_900)]);
    // Each vCPU's time is somewhere: of the first interval all but the millisecond before they began.
    let spent = [firmware, memory, rest].map(|row| row.amounts.times().total());
    assert_eq!(spent, [2 * at(799), 2 * at(2_200), 2 * at(1_200)]);
    let td = last.vms.iter().find(|vm| vm.pid == pid(0)).expect("the TD");
    assert_eq!(line.total().exits(), td.exits.total);
    assert_eq!(line.total().times(), td.times.expect("times").total);
    assert_eq!(line.total().mapped(), td.ledger.mapped.total);
    assert_eq!(line.settled(), None, "two intervals of rest are needed");
}

#[test]
fn whoever_looks_less_often_or_resets_sees_the_same_sums() {
    pin(0);
    let mut synthetic = load(1, 2);
    let samples = boot(&mut synthetic);
    let total = |samples: &[Sample], reset: bool| {
        let mut aggregate = Aggregate::new();
        let mut last = None;
        for sample in samples {
            last = Some(aggregate.apply(sample.clone()));
            if reset {
                last = aggregate.reset();
            }
        }
        timeline(&last.expect("samples")).clone()
    };
    let all = total(&samples, false);
    assert_eq!(total(&samples, true), all);
    let last = &samples[samples.len() - 1..];
    let once = total(last, false);
    assert_eq!(once.total(), all.total());
    assert_eq!(once.intervals.len(), 1);
    assert_eq!(Duration::from_nanos(once.intervals[0].to), last[0].at);
}
