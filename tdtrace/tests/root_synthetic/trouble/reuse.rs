//! Addresses that are used again while CPUs remember who was there: counts of one never reach another.

use tdtrace::{
    model::sample::Sample,
    source::synthetic::{Cpu, Synthetic, SyntheticOptions},
};
use tdtrace_common::counters::{Class, Loss};

use super::super::drive::{
    Driven, assert_durations, assert_vcpu, load, load_with, pid, pin, plain, sample, td, vcpu_of,
};

/// `driven` goes through KVM_RUN on CPU `number`, with `exits` exits.
fn run(synthetic: &Synthetic, number: u32, driven: &mut Driven, exits: u32) {
    begin(synthetic, number, driven);
    finish(synthetic, number, driven, exits);
}

fn begin(synthetic: &Synthetic, number: u32, driven: &mut Driven) {
    let cpu = on(synthetic, number);
    driven.run_begin(&cpu, 10, 0);
}

fn finish(synthetic: &Synthetic, number: u32, driven: &mut Driven, exits: u32) {
    let cpu = on(synthetic, number);
    for _ in 0..exits {
        driven.enter(&cpu, 0, 300, 0);
        driven.exit(&cpu, plain(7), 7, 1_000);
    }
    if exits > 0 {
        driven.truth.place("td_return", 2, 7);
    }
    driven.leave(&cpu, 2, 700, 0);
}

fn on(synthetic: &Synthetic, number: u32) -> Cpu<'_> {
    pin(number as usize);
    synthetic.cpu(number)
}

/// All that was counted of `all` is exact, their VMs are listed and ended or not, and nothing is lost.
fn assert_exact(sample: &Sample, all: &[(&Driven, bool)]) {
    for (driven, ended) in all {
        let vcpu = vcpu_of(sample, driven.vcpu.tid);
        let vm = sample.vms.iter().find(|vm| vm.key == vcpu.vm).expect("its VM");
        assert_eq!((vm.ended, vm.pid), (*ended, driven.vcpu.pid), "{}", driven.vcpu.tid);
        assert_vcpu(vcpu, driven, [0, 0, nanos(sample) - driven.now, 0, 0]);
        assert_durations(&vm.latency, &driven.truth.durations);
    }
    assert_eq!((sample.vms.len(), sample.vcpus.len()), (all.len(), all.len()));
    assert!(sample.losses.causes.is_empty(), "{:?}", sample.losses);
    assert_eq!(sample.losses.unpaired, 0);
}

fn nanos(sample: &Sample) -> u64 {
    u64::try_from(sample.at.as_nanos()).expect("a short time")
}

/// What happens to a vCPU's address.
#[derive(Clone, Copy, Debug)]
struct Reuse {
    /// The new vCPU runs in the process of the old one.
    same_process: bool,
    /// The new VM has the address of the old one, too.
    vm_too: bool,
    /// CPU 0 has seen another vCPU in between, and knows the old one no more.
    first_cpu_forgot: bool,
    /// A sample is taken before the address is used again.
    sampled: bool,
}

fn all_ways() -> impl Iterator<Item = Reuse> {
    (0..16).map(|bits| Reuse {
        same_process: bits & 1 != 0,
        vm_too: bits & 2 != 0,
        first_cpu_forgot: bits & 4 != 0,
        sampled: bits & 8 != 0,
    })
}

#[test]
fn a_vcpu_at_the_address_of_another_leaves_the_others_counts_alone() {
    for way in all_ways() {
        println!("{way:?}");
        let mut synthetic = load(3, 3);
        let vm = synthetic.td(pid(0), "old").unwrap();
        let vcpu = synthetic.vcpu(vm, 0, pid(0), pid(0) + 1).unwrap();
        let mut old = Driven::new(vcpu, 1_000);
        let mut between = td(&mut synthetic, 1, 1_000);
        run(&synthetic, 0, &mut old, 3);
        run(&synthetic, 1, &mut old, 2);
        if way.first_cpu_forgot {
            run(&synthetic, 0, &mut between, 1);
        }
        if way.sampled {
            sample(&mut synthetic, old.now);
        }
        let process = if way.same_process { pid(0) } else { pid(2) };
        let new_vm = if way.vm_too {
            synthetic.reuse_td(vm, process, "new");
            vm
        } else {
            synthetic.td(process, "new").unwrap()
        };
        let vcpu = synthetic.reuse_vcpu(old.vcpu, new_vm, 0, process, pid(2) + 1);
        let mut new = Driven::new(vcpu, old.now + 1_000);
        begin(&synthetic, 0, &mut new);
        // CPU 1 remembers the old slot.
        finish(&synthetic, 1, &mut new, 6);
        run(&synthetic, 0, &mut new, 1);
        run(&synthetic, 1, &mut new, 9);

        let mut expected = vec![(&old, way.vm_too), (&new, false)];
        if way.first_cpu_forgot {
            expected.push((&between, false));
        }
        assert_exact(&sample(&mut synthetic, new.now), &expected);
        expected.retain(|(_, ended)| !ended);
        assert_exact(&sample(&mut synthetic, new.now), &expected);
    }
}

#[test]
fn an_address_whose_slot_was_given_back_does_not_lead_there() {
    let mut synthetic = load(3, 2);
    let mut old = td(&mut synthetic, 0, 1_000);
    let mut between = td(&mut synthetic, 1, 1_000);
    run(&synthetic, 0, &mut old, 3);
    run(&synthetic, 1, &mut old, 2);
    run(&synthetic, 0, &mut between, 1);
    synthetic.end(pid(0));
    let last = sample(&mut synthetic, old.now.max(between.now));
    assert_exact(&last, &[(&old, true), (&between, false)]);

    let vm = synthetic.td(pid(2), "new").unwrap();
    let vcpu = synthetic.reuse_vcpu(old.vcpu, vm, 0, pid(2), pid(2) + 1);
    let mut new = Driven::new(vcpu, old.now + 1_000);
    begin(&synthetic, 0, &mut new);
    finish(&synthetic, 1, &mut new, 6);
    run(&synthetic, 1, &mut new, 6);
    assert_exact(&sample(&mut synthetic, new.now), &[(&new, false), (&between, false)]);
}

#[test]
fn a_vcpu_without_a_slot_does_not_count_in_that_of_its_predecessor() {
    let mut synthetic =
        load_with(SyntheticOptions { max_vcpus: 2, tds: 3, vcpus: 2, ..Default::default() });
    let mut old = td(&mut synthetic, 0, 1_000);
    let mut between = td(&mut synthetic, 1, 1_000);
    run(&synthetic, 1, &mut old, 5);
    run(&synthetic, 0, &mut between, 1);

    let vm = synthetic.td(pid(2), "new").unwrap();
    let vcpu = synthetic.reuse_vcpu(old.vcpu, vm, 0, pid(2), pid(2) + 1);
    let mut new = Driven::new(vcpu, old.now + 1_000);
    begin(&synthetic, 0, &mut new);
    finish(&synthetic, 1, &mut new, 4);
    let mut sample = sample(&mut synthetic, new.now);
    let losses = std::mem::take(&mut sample.losses);
    assert_exact(&sample, &[(&old, false), (&between, false)]);
    assert_eq!(
        losses.causes,
        [
            (Loss::Unattributed, Class::UserspaceExit, 1),
            (Loss::SlotsFull, Class::RunBegin, 1),
            (Loss::SlotsFull, Class::RunEnd, 1),
            (Loss::SlotsFull, Class::Entry, 4),
            (Loss::SlotsFull, Class::Exit, 4),
        ]
    );
}
