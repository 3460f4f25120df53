//! Durations that are delivered one by one come with their VM, however young it is. Needs root and KVM.

use std::{
    collections::HashMap,
    process,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use tdtrace::{
    source::{
        Source as _,
        live::{Live, Options},
    },
    workload::{self, Counts, Kind, Plan},
};

const WRITES: u64 = 30;
const VMS: usize = 200;

/// Runs one VM after the other, each of which leaves KVM_RUN as often.
fn vms() {
    for _ in 0..VMS {
        let counts: Counts = [(Kind::PioOut, WRITES)].into_iter().collect();
        workload::run(&Plan { counts, ..Plan::default() }, &AtomicBool::new(false)).expect("KVM");
    }
}

#[test]
fn durations_of_a_vm_that_has_just_come_are_delivered_with_it() {
    let slower_than = Some(Duration::from_nanos(1));
    let mut live = Live::open(Options { slower_than, ..Options::default() }).expect("root");
    let over = AtomicBool::new(false);
    let mut slow = HashMap::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            vms();
            over.store(true, Ordering::Relaxed);
        });
        let mut is_last = false;
        while !is_last {
            is_last = over.load(Ordering::Relaxed);
            let sample = live.sample().expect("a sample");
            assert_eq!(sample.losses.slow, 0);
            for vm in &sample.vms {
                slow.entry(vm.key).or_insert((vm.pid, 0));
            }
            for one in &sample.slow {
                let of_vm = slow.get_mut(&one.vm);
                of_vm.unwrap_or_else(|| panic!("no VM in the sample has {one:?}")).1 += 1;
            }
        }
    });
    // Somebody else may run VMs too.
    slow.retain(|_, (pid, _)| *pid == process::id());
    assert_eq!(slow.len(), VMS);
    assert!(slow.values().all(|(_, count)| *count == WRITES), "{slow:?}");
}
