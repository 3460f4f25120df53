//! The workload's own numbers, by class, place, vCPU and VM.

use super::{
    compare::assert_same,
    report::number,
    stat::{Stat, stat_of_workload, workload_process},
};

#[test]
fn stat_counts_what_the_workload_made_by_vm_and_vcpu() {
    let (report, made) = stat_of_workload(
        &[],
        &[
            "--pio",
            "100000",
            "--mmio-write",
            "100000",
            "--mmio-read",
            "10000",
            "--cpuid",
            "100000",
            "--vms",
            "2",
            "--vcpus",
            "2",
        ],
    );
    assert_same(&report, [&made]);
    let reads: u64 = report
        .vms_of(made.pid)
        .map(|vm| number(&vm.counts, "mmio_read") + number(&vm.counts, "mmio_read_unsatisfied"))
        .sum();
    // One read is two events.
    assert_eq!(reads + number(&report.lost.recursion_misses, "kvm_mmio"), 4 * 2 * 10_000);
}

#[test]
fn every_kind_of_access_is_counted_by_place() {
    let (report, made) = stat_of_workload(
        &[],
        &[
            "--pio",
            "1601",
            "--pio-in",
            "1602",
            "--mmio-write",
            "1603",
            "--mmio-read",
            "1604",
            "--fast-mmio",
            "1605",
            "--cpuid",
            "1606",
            "--msr",
            "1607",
            "--msr-write",
            "1608",
            "--hlt",
            "1609",
            "--places",
            "3",
            "--vcpus",
            "2",
        ],
    );
    assert_same(&report, [&made]);
}

#[test]
fn every_access_size_is_a_place_of_its_own() {
    let stat = Stat::begin(&[]);
    let all = ["1", "2", "4"].map(|size| {
        workload_process(&[
            "--pio",
            "50",
            "--pio-in",
            "50",
            "--mmio-write",
            "50",
            "--mmio-read",
            "50",
            "--fast-mmio",
            "50",
            "--pio-size",
            size,
            "--mmio-size",
            size,
            "--places",
            "2",
        ])
    });
    assert_same(&stat.end(), &all);
}
