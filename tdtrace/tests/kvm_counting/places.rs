//! More places than a slot holds itself.

use super::{
    compare::{assert_same, vm_of},
    report::{Made, Report, number},
    stat::stat_of_workload,
};

/// Seven kinds of 16 places and one of twice as many: 144 a vCPU, in a slot with room for 32.
const MANY_PLACES: &[&str] = &[
    "--pio",
    "1600",
    "--pio-in",
    "1600",
    "--mmio-write",
    "1600",
    "--mmio-read",
    "1600",
    "--fast-mmio",
    "1600",
    "--cpuid",
    "1600",
    "--msr",
    "1600",
    "--msr-write",
    "1600",
    "--places",
    "16",
    "--vcpus",
    "2",
];

#[test]
fn places_beyond_the_slot_are_counted_in_the_map() {
    let (report, made) = stat_of_workload(&[], MANY_PLACES);
    assert_same(&report, [&made]);
    assert_eq!(report.lost.without_place, 0);
    let tids: Vec<u32> = made.vms[0].vcpus.iter().map(|vcpu| vcpu.tid).collect();
    assert_eq!(vm_of(&report, made.pid, &tids).hotspots.len(), 144);
}

#[test]
fn places_without_room_are_in_other_and_their_class_is_exact() {
    // Four slots, and 32 entries in the map.
    let mut arguments = MANY_PLACES.to_vec();
    arguments.truncate(arguments.len() - 2);
    let (report, made) = stat_of_workload(&["--max-vcpus", "4"], &arguments);
    assert_other(&report, &made);
}

fn assert_other(report: &Report, made: &Made) {
    let made_vcpu = &made.vms[0].vcpus[0];
    let vm = vm_of(report, made.pid, &[made_vcpu.tid]);
    let counts = &vm.vcpus[0].counts;
    let mut other = 0;
    for (class, count) in &vm.counts {
        assert_eq!(number(counts, class), *count);
        let spots = vm.hotspots.iter().filter(|spot| spot.class == *class);
        let placed: u64 = spots.map(|spot| spot.count).sum();
        if !["userspace_exit", "run_begin", "run_end", "entry", "exit"].contains(&class.as_str()) {
            assert_eq!(number(&vm.other, class), count - placed, "{class}");
            other += count - placed;
        }
    }
    assert!(other > 0);
    // VMs of others may have places without room as well.
    if report.vms.len() == 1 {
        assert_eq!(report.lost.without_place, other);
    }
    assert!(report.lost.without_place >= other);
    // 32 in the slot, as far as they meet, and those in the map.
    assert!((9..=64).contains(&vm.hotspots.len()), "{}", vm.hotspots.len());
    for class in ["pio_out", "pio_in", "cpuid", "msr_read", "msr_write", "mmio_read"] {
        assert_eq!(number(counts, class), number(&made_vcpu.made, class), "{class}");
    }
    assert_eq!(number(counts, "userspace_exit"), made_vcpu.kvm_run_calls);
}
