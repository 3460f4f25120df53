//! VMs that come and go. The kernel gives the addresses of dead VMs and vCPUs to new ones, so an
//! address alone does not say whose an event is.

use std::process;

use tdtrace::workload::{Counts, Kind, Plan};

use super::{
    compare::assert_same,
    cpus::{allow, allowed_cpus, own_tid},
    guest::{Does, Guest},
    report::{Report, Vm, number},
    stat::{Stat, workload_here, workload_process},
};

/// The VM whose vCPUs wrote to `port`.
fn vm_with_port(report: &Report, port: u64) -> &Vm {
    let has = |vm: &&Vm| vm.hotspots.iter().any(|spot| spot.address == port);
    let vms: Vec<&Vm> = report.vms_of(process::id()).filter(has).collect();
    let [vm] = vms[..] else { panic!("port {port:#x} is in {} VMs: {vms:?}", vms.len()) };
    vm
}

/// Number and KVM_RUNs of the VM's vCPUs.
fn runs(vm: &Vm) -> Vec<(u32, u64)> {
    vm.vcpus.iter().map(|vcpu| (vcpu.vcpu, number(&vcpu.counts, "run_end"))).collect()
}

#[test]
fn vms_made_one_after_another_in_one_process_are_counted_apart() {
    let stat = Stat::begin(&[]);
    let all: Vec<_> = (0u32..50)
        .map(|round| {
            let count = 50 + u64::from(round);
            let kinds = [Kind::PioOut, Kind::MmioRead, Kind::Cpuid, Kind::Hlt];
            workload_here(&Plan {
                counts: Counts::from_iter(kinds.map(|kind| (kind, count))),
                vms: 1 + round % 2,
                vcpus: 1 + round % 3,
                places: 1 + round % 4,
                ..Plan::default()
            })
        })
        .collect();
    assert_same(&stat.end(), &all);
}

#[test]
fn processes_one_after_another_are_counted_apart() {
    let stat = Stat::begin(&[]);
    let all: Vec<_> = (0..50)
        .map(|round| workload_process(&["--pio", &(100 + round).to_string(), "--vcpus", "2"]))
        .collect();
    let report = stat.end();
    assert_same(&report, &all);
    for made in &all {
        assert!(report.vms_of(made.pid).all(|vm| vm.state == "ended"));
    }
}

#[test]
fn a_vm_whose_second_vcpu_runs_first_is_not_taken_for_the_one_before() {
    let stat = Stat::begin(&[]);
    for round in 0..20 {
        let mut guest = Guest::new(&[Does::Out(0x600 + 2 * round)]);
        guest.vcpus[0].run();
        drop(guest);
        let mut guest = Guest::new(&[Does::Halt, Does::Out(0x601 + 2 * round)]);
        guest.vcpus[1].run();
        guest.vcpus[1].run();
        guest.vcpus[0].run();
    }
    let report = stat.end();
    for round in 0..20 {
        assert_eq!(runs(vm_with_port(&report, 0x600 + 2 * round)), [(0, 1)]);
        assert_eq!(runs(vm_with_port(&report, 0x601 + 2 * round)), [(0, 1), (1, 2)]);
    }
}

#[test]
fn a_vm_after_one_that_never_got_into_its_guest_is_counted_apart() {
    let stat = Stat::begin(&[]);
    for round in 0..10 {
        Guest::new(&[Does::Halt]).vcpus[0].enter_and_leave();
        Guest::new(&[Does::Out(0x600 + round)]).vcpus[0].run();
    }
    let report = stat.end();
    assert_eq!(report.vms_of(process::id()).count(), 20);
    for round in 0..10 {
        assert_eq!(runs(vm_with_port(&report, 0x600 + round)), [(0, 1)]);
    }
}

#[test]
fn a_vm_with_fewer_vcpus_than_the_one_before_ends_that() {
    let stat = Stat::begin(&[]);
    for round in 0..10 {
        let mut guest = Guest::new(&[Does::Out(0x600 + 2 * round), Does::Halt]);
        for vcpu in &mut guest.vcpus {
            vcpu.run();
        }
        drop(guest);
        Guest::new(&[Does::Out(0x601 + 2 * round)]).vcpus[0].run();
    }
    let report = stat.end();
    for round in 0..10 {
        assert_eq!(runs(vm_with_port(&report, 0x600 + 2 * round)), [(0, 1), (1, 1)]);
        assert_eq!(runs(vm_with_port(&report, 0x601 + 2 * round)), [(0, 1)]);
    }
}

#[test]
fn a_vm_that_comes_to_a_cpu_which_knew_the_one_before_is_counted_as_itself() {
    let stat = Stat::begin(&[]);
    let cpus = allowed_cpus();
    let [first, .., last] = cpus[..] else { panic!("this needs two CPUs, not {cpus:?}") };
    let run_on = |guest: &mut Guest, cpu, runs| {
        allow(own_tid(), &[cpu]);
        for _ in 0..runs {
            guest.vcpus[0].run();
        }
    };
    for round in 0..10 {
        let mut guest = Guest::new(&[Does::Out(0x600 + 2 * round)]);
        run_on(&mut guest, last, 1);
        drop(guest);
        // Made on the CPU where that one went, so that it gets the addresses.
        let mut guest = Guest::new(&[Does::Out(0x601 + 2 * round)]);
        run_on(&mut guest, first, 10);
        run_on(&mut guest, last, 10);
    }
    allow(own_tid(), &cpus);
    let report = stat.end();
    for round in 0..10 {
        assert_eq!(runs(vm_with_port(&report, 0x600 + 2 * round)), [(0, 1)]);
        assert_eq!(runs(vm_with_port(&report, 0x601 + 2 * round)), [(0, 20)]);
    }
}
