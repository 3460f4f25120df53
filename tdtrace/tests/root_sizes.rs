//! What the maps take, by calculation and by the kernel's own account. Needs root.

use std::fs;

use tdtrace::source::{
    counting::sizes::Sizes,
    live::{Live, Options},
};

/// CPUs that this machine can have.
fn possible_cpus() -> u32 {
    let list = fs::read_to_string("/sys/devices/system/cpu/possible").expect("sysfs is mounted");
    let last = list.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<u32>().ok());
    last.expect("a list of CPUs") + 1
}

#[test]
fn the_calculation_is_what_the_kernel_says_the_maps_take() {
    for (max_vcpus, timed) in [(64, true), (4096, true), (4096, false), (25_600, true)] {
        let live = Live::open(Options { max_vcpus, timed, ..Options::default() }).expect("root");
        let taken = live.map_bytes().expect("the kernel tells");
        let calculated = Sizes::new(max_vcpus, timed).bytes(possible_cpus(), false);
        // Pages are whole, and each map has a header.
        let apart = taken.abs_diff(calculated);
        assert!(
            apart < 300_000 + taken / 50,
            "{max_vcpus} vCPUs: {taken} bytes, {calculated} by calculation"
        );
    }
}
