//! A vCPU is not a thread: threads that run several, vCPUs that several run, and threads that are
//! moved to another CPU on their way out of KVM_RUN.

use std::{
    ops::Range,
    process,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
};

use super::{
    cpus::{allow, allowed_cpus, own_tid, tids},
    guest::{Does, Guest, Vcpu},
    report::{Counts, Report, number},
    stat::Stat,
};

/// A vCPU of the VM that uses `port`.
struct Watched {
    port: u16,
    id: u32,
    running: Mutex<Running>,
}

/// A vCPU and what its KVM_RUNs returned for.
struct Running {
    vcpu: Vcpu,
    returns: Counts,
}

impl Running {
    fn run(&mut self, into_guest: bool) {
        let returned = if into_guest { self.vcpu.run() } else { self.vcpu.enter_and_leave() };
        *self.returns.entry(returned.to_owned()).or_default() += 1;
    }
}

/// Two VMs of two vCPUs: one writes to the port, one halts, so that a mix-up shows.
fn guests() -> ([Guest; 2], Vec<Watched>) {
    let mut vcpus = Vec::new();
    let guests = [0x600, 0x700].map(|port| {
        let mut guest = Guest::new(&[Does::Out(port), Does::Halt]);
        for (id, vcpu) in (0..).zip(guest.vcpus.drain(..)) {
            let running = Mutex::new(Running { vcpu, returns: Counts::new() });
            vcpus.push(Watched { port, id, running });
        }
        guest
    });
    (guests, vcpus)
}

/// The next of a fixed row of numbers that look random (Knuth's MMIX generator).
fn next(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

/// Returns to the VMM that were not attributed. Panics if one was attributed to another vCPU or for
/// another reason.
fn unattributed(report: &Report, vcpus: &[Watched]) -> u64 {
    let mut missing = 0;
    for Watched { port, id, running } in vcpus {
        let made = &running.lock().expect("no thread panicked").returns;
        let rows: Vec<_> = report
            .vms_of(process::id())
            .filter(|vm| vm.hotspots.iter().any(|spot| spot.address == u64::from(*port)))
            .flat_map(|vm| vm.vcpus.iter().filter(|vcpu| vcpu.vcpu == *id))
            .collect();
        let [row] = rows[..] else { panic!("vCPU {id} of port {port:#x}: {rows:?}") };
        let runs: u64 = made.values().sum();
        for class in ["run_begin", "run_end"] {
            let misses = number(&report.lost.recursion_misses, "kvm_fpu");
            let seen = number(&row.counts, class);
            assert!(seen <= runs && runs - seen <= misses, "{seen} {class} of {runs}");
        }
        for (reason, seen) in &row.returns_to_vmm {
            assert!(*seen <= number(made, reason), "{reason} of {row:?}, made {made:?}");
        }
        missing += runs - number(&row.counts, "userspace_exit");
    }
    let known = report.lost.count("unattributed", "userspace_exit")
        + number(&report.lost.recursion_misses, "kvm_userspace_exit");
    assert!(missing <= known, "{missing} missing, {:?}", report.lost);
    missing
}

/// Lets a thread for each of `seeds` run vCPUs in turn, a few times each.
fn run_on_threads(seeds: Range<u64>, rounds: usize, vcpus: &[Watched]) {
    thread::scope(|scope| {
        for seed in seeds {
            scope.spawn(move || {
                let mut random = seed;
                for _ in 0..rounds {
                    let vcpu = &vcpus[next(&mut random) % vcpus.len()].running;
                    let mut vcpu = vcpu.lock().expect("no thread panicked");
                    for _ in 0..next(&mut random) % 8 {
                        vcpu.run(!next(&mut random).is_multiple_of(8));
                    }
                }
            });
        }
    });
}

/// Moves all other threads of this process between the CPUs while `work` runs.
fn on_the_move<R>(work: impl FnOnce() -> R) -> R {
    let own = own_tid();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mover = own_tid();
            let cpus = allowed_cpus();
            let mut turn = 0;
            while !done.load(Relaxed) {
                for tid in tids().into_iter().filter(|tid| ![own, mover].contains(tid)) {
                    turn += 1;
                    allow(tid, &[cpus[turn % cpus.len()]]);
                }
            }
            // The next tests, and their children, run where they may.
            tids().into_iter().for_each(|tid| allow(tid, &cpus));
        });
        let result = work();
        done.store(true, Relaxed);
        result
    })
}

#[test]
fn a_thread_that_runs_several_vcpus_is_never_taken_for_the_wrong_one() {
    let stat = Stat::begin(&[]);
    let (_guests, vcpus) = guests();
    run_on_threads(0..1, 3_000, &vcpus);
    let missing = unattributed(&stat.end(), &vcpus);
    assert!(missing <= 100, "{missing}");
}

#[test]
fn vcpus_that_move_between_threads_keep_their_counts() {
    let stat = Stat::begin(&[]);
    let (_guests, vcpus) = guests();
    run_on_threads(0..3, 1_000, &vcpus);
    let missing = unattributed(&stat.end(), &vcpus);
    assert!(missing <= 100, "{missing}");
}

#[test]
fn threads_that_move_between_cpus_are_counted_right_or_as_unattributed() {
    let stat = Stat::begin(&[]);
    let (_guests, vcpus) = guests();
    on_the_move(|| run_on_threads(0..3, 1_000, &vcpus));
    unattributed(&stat.end(), &vcpus);
}

#[test]
fn a_thread_with_one_vcpu_loses_nothing_when_it_moves_between_cpus() {
    let stat = Stat::begin(&[]);
    let (_guests, vcpus) = guests();
    on_the_move(|| {
        thread::scope(|scope| {
            for vcpu in &vcpus {
                scope.spawn(|| {
                    let mut vcpu = vcpu.running.lock().expect("no thread panicked");
                    for run in 0..4_000 {
                        vcpu.run(run % 8 != 0);
                    }
                });
            }
        });
    });
    let report = stat.end();
    let missing = unattributed(&report, &vcpus);
    assert_eq!(missing, number(&report.lost.recursion_misses, "kvm_userspace_exit"));
}

#[test]
fn a_vcpu_that_many_threads_run_loses_nothing() {
    let stat = Stat::begin(&["--max-vcpus", "8"]);
    let (_guests, vcpus) = guests();
    for round in 0..50 {
        run_on_threads(round..round + 1, 8, &vcpus);
    }
    let report = stat.end();
    assert_eq!(unattributed(&report, &vcpus), 0);
    assert_eq!(report.lost.total, 0, "{:?}", report.lost);
}
