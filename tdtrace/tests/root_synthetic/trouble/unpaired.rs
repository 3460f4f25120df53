//! Events that are missing: nothing is guessed, and the times are exact again afterwards.

use tdtrace::{
    model::sample::{Sample, VcpuSample},
    source::synthetic::{Cpu, Event, SyntheticOptions},
};
use tdtrace_common::counters::{Class, Loss};

use self::Step::{Begin, End, Entry, Exit, Return};
use super::super::drive::{
    Driven, assert_durations, assert_vcpu, latency_of, load, load_with, pid, pin, plain, sample,
    td, vcpu_of, vm,
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin,
    End,
    Return,
    Entry,
    Exit,
}

/// What happens, how many phases have no beginning, how many durations are known all the same.
type Case = (&'static str, &'static [Step], u64, u64);

const CASES: &[Case] = &[
    ("fpu(1) is first", &[Begin, Entry, Exit, Entry], 0, 1),
    ("fpu(0) is first", &[End, Return, Begin, Entry, Exit, Entry], 0, 2),
    ("entry is first", &[Entry, Exit, Entry], 0, 1),
    ("exit is first", &[Exit, Entry], 0, 1),
    ("no entry", &[Begin, Entry, Exit, Exit, Entry], 1, 1),
    ("no exit", &[Begin, Entry, Entry, Exit, Entry], 1, 1),
    ("no fpu(1)", &[Begin, Entry, Exit, End, Return, Entry, Exit, Entry], 1, 1),
    (
        "no fpu(1) and no entry",
        &[Begin, Entry, Exit, End, Return, End, Return, Begin, Entry, Exit, Entry],
        1,
        2,
    ),
    ("fpu(1) twice", &[Begin, Entry, Exit, Begin, Entry, Exit, Entry], 1, 1),
    ("no userspace exit", &[Begin, Entry, Exit, End, Begin, Entry, Exit, Entry], 1, 1),
    ("fpu(1) in the guest", &[Begin, Entry, Begin, Entry, Exit, Entry], 1, 1),
    ("a return from the guest", &[Begin, Entry, End, Return, Begin, Entry, Exit, Entry], 1, 2),
    ("an exit from the VMM", &[Begin, End, Return, Exit, Entry], 1, 1),
    ("only exits", &[Exit, Exit, Exit, Exit, Entry], 3, 1),
    ("only entries", &[Entry, Entry, Entry, Entry], 3, 0),
];

fn take(step: Step, driven: &mut Driven, cpu: &Cpu<'_>, ns: u64) {
    match step {
        Begin => driven.run_begin(cpu, ns, 0),
        End => {
            driven.fire(cpu, Event::RunEnd, ns, 0);
            driven.truth.count("run_end");
        }
        Return => {
            driven.fire(cpu, Event::UserspaceExit(6, 0), ns, 0);
            driven.truth.returns(6, driven.now, driven.run_delay);
        }
        Entry => driven.enter(cpu, 0, ns, 0),
        Exit => driven.exit(cpu, plain(7), 7, ns),
    }
}

#[test]
fn a_missing_event_is_counted_and_nothing_is_guessed() {
    let cases = u32::try_from(CASES.len()).unwrap();
    let mut synthetic = load(cases, cases);
    let mut all = Vec::new();
    for (index, (_, steps, ..)) in (0..).zip(CASES) {
        let mut driven = vm(&mut synthetic, index, 1_000, 0);
        pin(0);
        let cpu = synthetic.cpu(0);
        // Every phase has a length of its own, so that no two can be taken for each other.
        for (step, ns) in steps.iter().zip((0..).map(|step| 100 << step)) {
            take(*step, &mut driven, &cpu, ns);
        }
        all.push(driven);
    }
    let now = all.iter().map(|driven| driven.now).max().unwrap();
    let sample = sample(&mut synthetic, now);
    for (driven, (name, _, unpaired, durations)) in all.iter().zip(CASES) {
        assert_eq!(driven.truth.unpaired, *unpaired, "{name}: the truth");
        let counts = driven.truth.durations.values().flat_map(|class| class.buckets.values());
        assert_eq!(counts.sum::<u64>(), *durations, "{name}: the truth");
        // All of them end in the guest.
        let open = [now - driven.now, 0, 0, 0, 0];
        println!("{name}");
        assert_vcpu(vcpu_of_pid(&sample, driven), driven, open);
        assert_durations(latency_of(&sample, driven.vcpu.pid), &driven.truth.durations);
    }
    assert_eq!(sample.losses.unpaired, CASES.iter().map(|(.., unpaired, _)| unpaired).sum::<u64>());
    assert!(sample.losses.causes.is_empty(), "{:?}", sample.losses);
}

/// The vCPU of a process that has one; its thread is known only after a KVM_RUN has ended.
fn vcpu_of_pid<'s>(sample: &'s Sample, driven: &Driven) -> &'s VcpuSample {
    let vm = sample.vms.iter().find(|vm| vm.pid == driven.vcpu.pid).expect("a VM");
    sample.vcpus.iter().find(|vcpu| vcpu.vm == vm.key).expect("a vCPU")
}

#[test]
fn a_return_without_fpu_0_belongs_to_nobody() {
    let mut synthetic = load(1, 1);
    let mut driven = td(&mut synthetic, 0, 1_000);
    pin(0);
    let cpu = synthetic.cpu(0);
    // Before anything is known of the vCPU, and after a return that was counted.
    driven.fire(&cpu, Event::UserspaceExit(6, 0), 10, 0);
    driven.run_begin(&cpu, 100, 0);
    driven.leave(&cpu, 2, 1_000, 0);
    driven.fire(&cpu, Event::UserspaceExit(6, 0), 10_000, 0);
    driven.run_begin(&cpu, 100_000, 0);
    driven.enter(&cpu, 0, 1_000_000, 0);
    let sample = sample(&mut synthetic, driven.now);
    assert_eq!(sample.losses.causes, [(Loss::Unattributed, Class::UserspaceExit, 2)]);
    assert_eq!(sample.losses.unpaired, 0);
    let vcpu = vcpu_of(&sample, driven.vcpu.tid);
    assert_eq!(vcpu.userspace, [(2, 1)]);
    assert_vcpu(vcpu, &driven, [0; 5]);
    assert_durations(latency_of(&sample, pid(0)), &driven.truth.durations);
}

#[test]
fn programs_that_take_no_time_count_exactly() {
    let mut synthetic = load_with(SyntheticOptions { timed: false, ..SyntheticOptions::default() });
    let mut driven = td(&mut synthetic, 0, 1_000);
    pin(0);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 5, 0);
    for round in 0..5_000 {
        driven.enter(&cpu, 0, 10, 3);
        driven.exit(&cpu, plain(7), 7, 100);
        if round % 3 == 0 {
            driven.leave(&cpu, 6, 1_000, 50);
            driven.truth.place("td_return", 6, 7);
            driven.run_begin(&cpu, 5, 0);
        }
    }
    let sample = sample(&mut synthetic, driven.now);
    let vcpu = vcpu_of(&sample, driven.vcpu.tid);
    assert_eq!((vcpu.times, &*vcpu.latency), (None, &[][..]));
    for class in Class::ALL {
        let expected = driven.truth.counts.get(class.name()).copied().unwrap_or(0);
        assert_eq!(vcpu.counts[class], expected, "{}", class.name());
    }
    assert_eq!((&*vcpu.reasons, &*vcpu.userspace), (&[(7, 5_000)][..], &[(6, 1_667)][..]));
    assert!(latency_of(&sample, pid(0)).is_empty());
    assert_eq!((sample.losses.unpaired, sample.losses.durations), (0, 0));
}
