//! Few slots: given back when a VM has ended, and counted as lost when there is none.

use std::thread;

use super::{
    compare::{assert_same, vm_of},
    guest::{Does, Guest},
    report::{Counts, Made, Report, VcpuMade, Vm, number},
    stat::{RECLAIM, Stat, stat_of_workload, workload_here, workload_process},
};
use tdtrace::workload::{Kind, Plan};

/// 24 slots, less than a test has vCPUs and more than it has at a time.
const FEW: &[&str] = &["--max-vcpus", "24"];

/// Runs `test` until no VM of others took slots from it; what is counted must then be all.
fn assert_nothing_lost(test: impl Fn(&mut Vec<Made>)) {
    for _ in 0..5 {
        let stat = Stat::begin(FEW);
        let mut all = Vec::new();
        test(&mut all);
        let report = stat.end();
        let own = |vm: &Vm| all.iter().any(|made| made.pid == vm.pid);
        if report.lost.total > 0 && !report.vms.iter().all(own) {
            continue;
        }
        assert_eq!(report.lost.total, 0, "{:?}", report.lost);
        return assert_same(&report, &all);
    }
    panic!("VMs of other processes take the slots of this test; end them");
}

#[test]
fn more_processes_than_slots_lose_nothing_one_after_another() {
    assert_nothing_lost(|all| {
        for round in 0..4 {
            for process in 0..5 {
                let count = (100 * round + process + 1).to_string();
                all.push(workload_process(&["--pio", &count, "--cpuid", "10", "--vcpus", "2"]));
            }
            thread::sleep(RECLAIM);
        }
    });
}

#[test]
fn more_vms_of_one_process_than_slots_lose_nothing_one_after_another() {
    // A VM of a process that lives is only known to be gone once another one has its address.
    assert_nothing_lost(|all| {
        for round in 0..6 {
            for vm in 1..5 {
                let counts = [(Kind::PioOut, 10 * round + vm)].into_iter().collect();
                let vcpus = if vm % 2 == 0 { 2 } else { 1 };
                all.push(workload_here(&Plan { counts, vcpus, ..Plan::default() }));
            }
            thread::sleep(RECLAIM);
        }
    });
}

#[test]
fn vcpus_at_ever_new_addresses_lose_nothing() {
    assert_nothing_lost(|all| {
        // Takes the addresses that each process leaves; none of its vCPUs ever runs.
        let mut idle = Vec::new();
        for _ in 0..4 {
            for _ in 0..5 {
                all.push(workload_process(&["--pio", "10", "--vcpus", "2"]));
                idle.push(Guest::new(&[Does::Halt, Does::Halt, Does::Halt]));
            }
            thread::sleep(RECLAIM);
        }
    });
}

#[test]
fn events_of_vcpus_without_a_slot_are_lost_and_counted() {
    let workload = ["--pio", "2000", "--mmio-write", "1000", "--cpuid", "3000", "--vcpus", "4"];
    for _ in 0..20 {
        let (report, made) = stat_of_workload(&["--max-vcpus", "2"], &workload);
        // A VM of somebody else takes slots, or loses events because we have them.
        let events: u64 =
            made.vms[0].vcpus.iter().flat_map(|vcpu| events_of(vcpu).into_values()).sum();
        let seen: u64 = report.vms_of(made.pid).flat_map(|vm| vm.counts.values()).sum();
        let others = report.vms.iter().any(|vm| vm.pid != made.pid);
        if !others && seen + report.lost.total <= events {
            return assert_two_slots(&report, &made);
        }
        thread::sleep(RECLAIM);
    }
    panic!("VMs of other processes run all the time, or more is lost than made");
}

fn assert_two_slots(report: &Report, made: &Made) {
    let [vm] = &report.vms[..] else { panic!("{:?}", report.vms) };
    let tids: Vec<u32> = vm.vcpus.iter().filter_map(|vcpu| vcpu.tid).collect();
    assert_eq!(vm_of(report, made.pid, &tids).vcpus.len(), 2);
    let (mut made_events, mut seen) = (Counts::new(), Counts::new());
    for vcpu_made in &made.vms[0].vcpus {
        let events = events_of(vcpu_made);
        if let Some(vcpu) = vm.vcpus.iter().find(|vcpu| vcpu.tid == Some(vcpu_made.tid)) {
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
