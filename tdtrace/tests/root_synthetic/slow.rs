//! Single durations longer than asked for: sent with their parts, and no others.

use std::time::Duration;

use tdtrace::source::synthetic::{Cpu, Event, SyntheticOptions};
use tdtrace_common::latency::LATENCY_RETURNS;

use super::drive::{Driven, load_with, pid, pin, plain, td};

const LIMIT: u64 = 1_000_000;

fn options() -> SyntheticOptions {
    SyntheticOptions {
        slower_than: Some(Duration::from_nanos(LIMIT)),
        ..SyntheticOptions::default()
    }
}

/// In the guest until `ns` ago, then an exit of `reason` which takes that long.
fn exit(vcpu: &mut Driven, cpu: &Cpu<'_>, reason: u32, ns: u64) {
    vcpu.exit(cpu, plain(reason), reason, 500);
    vcpu.enter(cpu, 0, ns, ns / 10);
}

#[test]
fn durations_above_the_limit_come_one_by_one_with_their_parts() {
    pin(0);
    let mut synthetic = load_with(options());
    let mut vcpu = td(&mut synthetic, 1, 1_000_000);
    let cpu = synthetic.cpu(0);
    vcpu.run_begin(&cpu, 0, 0);
    vcpu.enter(&cpu, 0, 10, 0);
    exit(&mut vcpu, &cpu, 1, LIMIT);
    exit(&mut vcpu, &cpu, 52, LIMIT + 1);
    let at_exit = vcpu.now;
    // In the VMM within an exit: the exit as a whole, not the return as well.
    vcpu.exit(&cpu, plain(30), 30, 500);
    vcpu.leave(&cpu, 2, 1_000, 0);
    vcpu.run_begin(&cpu, 3 * LIMIT, 0);
    vcpu.enter(&cpu, 0, 100, 0);
    let at_io = vcpu.now;
    // The first return of a KVM_RUN that no exit led to.
    vcpu.leave(&cpu, 10, 200, 0);
    vcpu.run_begin(&cpu, 2 * LIMIT, 7);
    let at_return = vcpu.now;
    let sample = synthetic.sample(Duration::from_nanos(vcpu.now), None).unwrap();
    assert_eq!(sample.slower_than, Some(Duration::from_nanos(LIMIT)));
    let vm = sample.vms.iter().find(|vm| vm.pid == pid(1)).unwrap();
    assert!(sample.slow.iter().all(|slow| (slow.vm, slow.vcpu) == (vm.key, 0)));
    let seen: Vec<_> =
        sample.slow.iter().map(|slow| (slow.at.as_nanos() as u64, slow.class, slow.ns)).collect();
    let waiting = (LIMIT + 1) / 10;
    let expected = [
        (at_exit, 52, [LIMIT + 1 - waiting, 0, 0, waiting]),
        (at_io, 30, [1_100, 3 * LIMIT, 0, 0]),
        (at_return, LATENCY_RETURNS + 10, [0, 2 * LIMIT - 7, 0, 7]),
    ];
    assert_eq!(seen, expected);
    let again = synthetic.sample(Duration::from_nanos(vcpu.now), None).unwrap();
    assert_eq!((again.slow.len(), again.losses.slow), (0, 0));
}

#[test]
fn a_halt_is_not_slow() {
    pin(0);
    let mut synthetic = load_with(options());
    let mut vcpu = td(&mut synthetic, 1, 1_000_000);
    let cpu = synthetic.cpu(0);
    vcpu.run_begin(&cpu, 0, 0);
    vcpu.enter(&cpu, 0, 10, 0);
    for (halted, slow) in [(5 * LIMIT, 0), (4 * LIMIT - 1, 1)] {
        let cpu = synthetic.cpu(0);
        vcpu.exit(&cpu, plain(12), 12, 500);
        vcpu.fire(&cpu, Event::Wakeup(halted, true), 5 * LIMIT, 0);
        vcpu.enter(&cpu, 0, 0, 0);
        let sample = synthetic.sample(Duration::from_nanos(vcpu.now), None).unwrap();
        assert_eq!(sample.slow.len(), slow, "{:?}", sample.slow);
    }
}

#[test]
fn those_without_room_are_counted() {
    pin(0);
    let mut synthetic = load_with(options());
    let mut vcpu = td(&mut synthetic, 1, 1_000_000);
    let cpu = synthetic.cpu(0);
    vcpu.run_begin(&cpu, 0, 0);
    vcpu.enter(&cpu, 0, 10, 0);
    let made = 20_000;
    for _ in 0..made {
        exit(&mut vcpu, &cpu, 52, 2 * LIMIT);
    }
    let sample = synthetic.sample(Duration::from_nanos(vcpu.now), None).unwrap();
    assert!(sample.losses.slow > 0, "the ring has room for all");
    assert_eq!(sample.slow.len() as u64 + sample.losses.slow, made);
    let vm = sample.vms.iter().find(|vm| vm.pid == pid(1)).unwrap();
    let counted: u64 = vm.latency.iter().find(|row| row.class == 52).unwrap().histogram.count();
    assert_eq!(counted, made);
}

#[test]
fn without_a_limit_nothing_is_sent() {
    pin(0);
    let mut synthetic = load_with(SyntheticOptions::default());
    let mut vcpu = td(&mut synthetic, 1, 1_000_000);
    let cpu = synthetic.cpu(0);
    vcpu.run_begin(&cpu, 0, 0);
    vcpu.enter(&cpu, 0, 10, 0);
    exit(&mut vcpu, &cpu, 52, u64::from(u32::MAX));
    let sample = synthetic.sample(Duration::from_nanos(vcpu.now), None).unwrap();
    assert_eq!((sample.slower_than, sample.slow.len()), (None, 0));
}
