//! A million exits from two CPUs at once: every pair, bucket, place and time is exact.

use std::{collections::BTreeMap, thread};

use tdtrace::source::synthetic::{Cpu, Event, Registers};
use tdtrace_common::ledger::{Direction, LedgerCount};

use super::{
    drive::{Driven, Random, assert_durations, assert_vcpu, load, pid, pin, sample, vcpu_of},
    truth::{Durations, Truth},
};

const TDS: u32 = 8;
const CPUS: u32 = 2;
const EXITS: u64 = 1_000_000;

const SHARED: u64 = 1 << 51;
/// The first index of exits that only TDs have.
const TD: u32 = 192;

/// An exit with the class that it must be counted under, and what its registers must add.
type Kind = (Registers, u32, Option<(&'static str, u64, u32)>);

fn tdvmcall(leaf: u64, r12: u64, r13: u64, r14: u64, kvm_reason: u32) -> Registers {
    Registers { ret: 77, kvm_reason, r11: leaf, r12, r13, r14, ..Registers::default() }
}

/// Seventeen kinds of exits; with three kinds of returns to the VMM these are twenty classes.
fn kinds() -> Vec<Kind> {
    let plain =
        |reason: u32| Registers { ret: reason.into(), kvm_reason: reason, ..Registers::default() };
    let violation = |gpa, ext| Registers { gpa, ext_qualification: ext, ..plain(48) };
    let status = |ret| Registers { ret, kvm_reason: 0xdead, ..Registers::default() };
    vec![
        (tdvmcall(10, 0x4000_0000, 1, 0, 10), TD, Some(("cpuid", 0x4000_0000, 0))),
        (tdvmcall(12, 1, 0, 0, 12), TD + 1, None),
        (tdvmcall(30, 1, 0, 0x3f8, 30), TD + 2, Some(("pio_in", 0x3f8, 1))),
        (tdvmcall(30, 2, 1, 0xcf8, 30), TD + 3, Some(("pio_out", 0xcf8, 2))),
        (tdvmcall(31, 0x10, 0, 0, 31), TD + 4, Some(("msr_read", 0x10, 0))),
        (tdvmcall(32, 0x830, 1, 0, 32), TD + 5, Some(("msr_write", 0x830, 0))),
        (tdvmcall(48, 4, 0, SHARED | 0xfec0_0000, 49), TD + 6, Some(("mmio_read", 0xfec0_0000, 4))),
        (
            tdvmcall(48, 8, 1, SHARED | 0xfd00_0010, 49),
            TD + 7,
            Some(("mmio_write", 0xfd00_0010, 8)),
        ),
        (tdvmcall(0x10001, SHARED | 0x20_0000, 0x20_0000, 0, 77), TD + 11, None),
        (tdvmcall(0x10001, 0x20_0000, 0x20_0000, 0, 77), TD + 12, None),
        (tdvmcall(0x10002, SHARED | 0x1000, 0x2_0000, 0, 77), TD + 13, None),
        (Registers { r10: 9, ..tdvmcall(0, 0, 0, 0, 18) }, TD + 18, Some(("hypercall", 9, 0))),
        (status(0x8000_0200_0000_00a9), TD + 21, None),
        (violation(0x1234_5000, 0), TD + 32, None),
        (violation(SHARED | 0xfd00_0000, 0), TD + 33, None),
        (plain(7), 7, None),
        (Registers { intr_info: 0x8000_00ec, ..plain(1) }, 1, Some(("host_interrupt", 0xec, 0))),
    ]
}

/// Durations over the whole range, with a bias to short ones, and the extremes.
fn duration(random: &mut Random) -> u64 {
    match random.below(64) {
        0 => 0,
        1 => 127,
        2 => 1 << (7 + random.below(29)),
        3 => (1 << (7 + random.below(29))) - 1,
        4 => 40_000_000_000,
        _ => random.next() >> (28 + random.below(36)),
    }
}

/// Drives `vcpu` through `exits` exits.
fn drive(cpu: &Cpu<'_>, driven: &mut Driven, exits: u64, random: &mut Random, kinds: &[Kind]) {
    driven.run_begin(cpu, 5, 0);
    driven.enter(cpu, 0, duration(random), 0);
    // Nothing is pending: no answer.
    for _ in 0..exits {
        let (registers, class, place) = kinds[random.below(kinds.len() as u64) as usize];
        driven.exit(cpu, registers, class, duration(random));
        if let Some((name, address, size)) = place {
            driven.truth.place(name, address, size);
        }
        // All faults on private memory are on one page, so each but the first comes again.
        if class == TD + 32 && driven.truth.reasons[&class] > 1 {
            driven.truth.place("td_fault_again", registers.gpa, 0);
        }
        in_the_kernel(cpu, driven, class, random);
        let returns = random.below(4) == 0;
        if returns {
            let reason = [2, 6, 39][random.below(3) as usize];
            driven.leave(cpu, reason, duration(random), random.below(2_000));
            driven.truth.place("td_return", reason.into(), class);
            driven.run_begin(cpu, duration(random), random.below(2_000));
        }
        let status = random.below(2);
        driven.enter(cpu, status, duration(random), random.below(2) * random.below(5_000));
        let answered = class.wrapping_sub(TD);
        if answered < 18 {
            driven.truth.place("td_answer", status, answered);
        }
    }
}

/// What the kernel does between an exit and the next entry. The tracepoints of single accesses fire for
/// TDs as well: the exit has told of them already.
fn in_the_kernel(cpu: &Cpu<'_>, driven: &mut Driven, class: u32, random: &mut Random) {
    match class - class.min(TD) {
        1 if class > TD => {
            let ns = duration(random);
            driven.fire(cpu, Event::Wakeup(ns, true), ns, random.below(3) * 400);
            driven.truth.halt(ns);
            driven.truth.place("halt", 1, 0);
        }
        2 => driven.fire(cpu, Event::Pio(0, 0x3f8, 1), 10, 0),
        7 => driven.fire(cpu, Event::Mmio(2, 8, 0xfd00_0010), 10, 0),
        32 | 33 => {
            driven.fire(cpu, Event::PageFault(0x1234_5000, 2), 10, 0);
            driven.truth.place("page_fault", 2, 0);
            driven.fire(cpu, Event::SpteChanged(1), 10, 0);
            driven.truth.place("spte_changed", 1, 0);
        }
        _ => {}
    }
}

#[test]
fn a_million_exits_from_two_cpus_are_exact_to_the_nanosecond() {
    let mut synthetic = load(TDS, TDS);
    let kinds = kinds();
    let mut vcpus = Vec::new();
    for index in 0..TDS {
        let td = synthetic.td(pid(index), &format!("td-{index}")).unwrap();
        let vcpu = synthetic.vcpu(td, index, pid(index), pid(index) + 1).unwrap();
        vcpus.push(Driven::new(vcpu, 1_000_000));
    }
    thread::scope(|scope| {
        for (number, own) in (0..CPUS).zip(vcpus.chunks_mut((TDS / CPUS) as usize)) {
            let (synthetic, kinds) = (&synthetic, &kinds);
            scope.spawn(move || {
                pin(number as usize);
                let cpu = synthetic.cpu(number);
                let mut random = Random::new(0x7d_7d00 + u64::from(number));
                // In turns, so that each CPU always remembers the wrong vCPU.
                let (rounds, share) = (50, EXITS / u64::from(TDS));
                for _ in 0..rounds {
                    for driven in &mut *own {
                        drive(&cpu, driven, share / rounds, &mut random, kinds);
                    }
                }
            });
        }
    });
    let now = vcpus.iter().map(|driven| driven.now).max().unwrap() + 1;
    let sample = sample(&mut synthetic, now);
    let exits: u64 = vcpus.iter().map(|driven| driven.truth.counts["exit"]).sum();
    assert_eq!(exits, EXITS);
    assert!(sample.losses.causes.is_empty(), "{:?}", sample.losses);
    assert!(sample.losses.misses.iter().all(|(_, misses)| *misses == 0), "{:?}", sample.losses);
    assert_eq!((sample.losses.hotspots, sample.losses.durations), (0, 0));
    let unpaired: u64 = vcpus.iter().map(|driven| driven.truth.unpaired).sum();
    assert_eq!(sample.losses.unpaired, unpaired);
    for driven in &vcpus {
        let vcpu = vcpu_of(&sample, driven.vcpu.tid);
        assert_vcpu(vcpu, driven, [now - driven.now, 0, 0, 0, 0]);
        let vm = sample.vms.iter().find(|vm| vm.pid == driven.vcpu.pid).unwrap();
        assert_eq!((vm.vm_type, vm.ended), (Some(5), false));
        assert_durations(&vm.latency, &driven.truth.durations);
        // What KVM answered with SUCCESS, 2 MiB each; RETRY came without an address to go on at.
        let answers = |status, leaf| driven.truth.places[&("td_answer", status, leaf)];
        let way = |count: LedgerCount| Direction::ALL.map(|way| vm.ledger.of(count, way));
        let (done, retried) =
            ([11, 12].map(|leaf| answers(0, leaf)), [11, 12].map(|leaf| answers(1, leaf)));
        assert_eq!(way(LedgerCount::Bytes), done.map(|count| count << 21));
        assert_eq!((way(LedgerCount::Blocks), way(LedgerCount::Retried)), (done, retried));
        assert_eq!(vm.ledger.regions[0].calls, done);
    }
    let classes: BTreeMap<u32, Durations> = all(vcpus.iter().map(|driven| &driven.truth));
    assert_eq!(classes.len(), 20);
    assert!(classes.values().map(|durations| durations.buckets.len()).max() > Some(100));
}

fn all<'t>(truths: impl Iterator<Item = &'t Truth>) -> BTreeMap<u32, Durations> {
    let mut sum: BTreeMap<u32, Durations> = BTreeMap::new();
    for (class, durations) in truths.flat_map(|truth| &truth.durations) {
        sum.entry(*class).or_default().merge(durations);
    }
    sum
}
