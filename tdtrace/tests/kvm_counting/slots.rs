//! Few slots: given back when a VM has ended, and counted as lost when there is none.

use std::thread;

use super::{
    compare::{assert_same, vm_of},
    guest::{Does, Guest},
    report::{Counts, Made, Report, VcpuMade, number},
    stat::{RECLAIM, Stat, stat_of_workload, workload_here, workload_process},
};
use tdtrace::workload::{Kind, Plan};

/// 16 slots. At most eight vCPUs of the test at a time, so that some VMs of others do no harm.
const FEW: &[&str] = &["--max-vcpus", "16"];

#[test]
fn more_processes_than_slots_lose_nothing_one_after_another() {
    let stat = Stat::begin(FEW);
    let mut all = Vec::new();
    for round in 0..5 {
        for process in 0..4 {
            let count = (100 * round + process + 1).to_string();
            all.push(workload_process(&["--pio", &count, "--cpuid", "10", "--vcpus", "2"]));
        }
        thread::sleep(RECLAIM);
    }
    let report = stat.end();
    assert_same(&report, &all);
    assert_eq!(report.lost.total, 0, "{:?}", report.lost);
}

#[test]
fn more_vms_of_one_process_than_slots_lose_nothing_one_after_another() {
    let stat = Stat::begin(FEW);
    let mut all = Vec::new();
    for round in 0..5 {
        for vm in 1..6 {
            let counts = [(Kind::PioOut, 10 * round + vm)].into_iter().collect();
            let vcpus = if vm % 2 == 0 { 2 } else { 1 };
            all.push(workload_here(&Plan { counts, vcpus, ..Plan::default() }));
        }
        thread::sleep(RECLAIM);
    }
    let report = stat.end();
    assert_same(&report, &all);
    assert_eq!(report.lost.total, 0, "{:?}", report.lost);
}

#[test]
fn vcpus_at_ever_new_addresses_lose_nothing() {
    let stat = Stat::begin(FEW);
    let mut all = Vec::new();
    // Takes the addresses that each process leaves; none of its vCPUs ever runs.
    let mut idle = Vec::new();
    for _ in 0..5 {
        for _ in 0..4 {
            all.push(workload_process(&["--pio", "10", "--vcpus", "2"]));
            idle.push(Guest::new(&[Does::Halt, Does::Halt, Does::Halt]));
        }
        thread::sleep(RECLAIM);
    }
    let report = stat.end();
    assert_same(&report, &all);
    assert_eq!(report.lost.total, 0, "{:?}", report.lost);
}

#[test]
fn events_of_vcpus_without_a_slot_are_lost_and_counted() {
    let workload = ["--pio", "2000", "--mmio-write", "1000", "--cpuid", "3000", "--vcpus", "4"];
    for _ in 0..20 {
        let (report, made) = stat_of_workload(&["--max-vcpus", "2"], &workload);
        // A VM of somebody else takes slots and loses events as well.
        if report.vms.iter().all(|vm| vm.pid == made.pid) {
            return assert_two_slots(&report, &made);
        }
        thread::sleep(RECLAIM);
    }
    panic!("VMs of other processes run all the time; end them for this test");
}

fn assert_two_slots(report: &Report, made: &Made) {
    let [vm] = &report.vms[..] else { panic!("{:?}", report.vms) };
    let tids: Vec<u32> = vm.vcpus.iter().map(|vcpu| vcpu.tid).collect();
    assert_eq!(vm_of(report, made.pid, &tids).vcpus.len(), 2);
    let (mut made_events, mut seen) = (Counts::new(), Counts::new());
    for vcpu_made in &made.vms[0].vcpus {
        let events = events_of(vcpu_made);
        if let Some(vcpu) = vm.vcpus.iter().find(|vcpu| vcpu.tid == vcpu_made.tid) {
            for (class, count) in &events {
                let counted = number(&vcpu.counts, class);
                assert_eq!(counted, *count, "{class} of a vCPU with a slot");
                *seen.entry(class.clone()).or_default() += counted;
            }
        }
        for (class, count) in events {
            *made_events.entry(class).or_default() += count;
        }
    }
    for (class, made) in made_events {
        let lost = report.lost.count("slots_full", &class);
        // What comes after a KVM_RUN without a slot cannot be told from what is nobody's.
        let nobodys = report.lost.count("unattributed", &class);
        assert!(lost + nobodys > 0 && (lost == 0) == (class == "userspace_exit"), "{class}");
        assert_eq!(number(&seen, &class) + lost + nobodys, made, "{class}: {:?}", report.lost);
    }
}

/// Every access of these kinds is one event, and every KVM_RUN is three.
fn events_of(made: &VcpuMade) -> Counts {
    let accesses = ["pio_out", "mmio_write", "cpuid"];
    let accesses = accesses.map(|class| (class, number(&made.made, class)));
    let runs = ["run_begin", "run_end", "userspace_exit"].map(|class| (class, made.kvm_run_calls));
    accesses.into_iter().chain(runs).map(|(class, count)| (class.to_owned(), count)).collect()
}
