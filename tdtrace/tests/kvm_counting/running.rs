//! Guests that ran before tdtrace came and run on when it has gone.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    compare::vm_of,
    report::{Made, Report, Vcpu, number},
    stat::{RECLAIM, Stat, TDTRACE},
};

/// A workload that runs until it is told to stop.
struct Running(Child);

impl Running {
    /// Returns once its vCPUs run.
    fn begin(arguments: &[&str]) -> Self {
        let child = Command::new(TDTRACE)
            .arg("workload")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("tdtrace starts");
        let begin = Instant::now();
        while !has_vcpu(child.id()) {
            assert!(begin.elapsed() < Duration::from_secs(30), "no vCPU was started");
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(200));
        Self(child)
    }

    fn end(mut self) -> Made {
        let pid = libc::pid_t::try_from(self.0.id()).expect("a pid");
        // SAFETY: sends a signal to our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
        let mut text = String::new();
        let output = self.0.stdout.as_mut().expect("a pipe");
        output.read_to_string(&mut text).expect("text");
        assert!(self.0.wait().expect("an exit code").success());
        serde_json::from_str(&text).expect("one JSON object")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion; else it has ended and this does nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has_vcpu(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the child lives");
    tasks.flatten().any(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.contains("-vcpu"))
    })
}

/// A KVM_RUN may be open at either end of the time that was counted.
fn assert_consistent(vcpu: &Vcpu) {
    let count = |class: &str| number(&vcpu.counts, class);
    let apart = |one: &str, other: &str| count(one).abs_diff(count(other));
    assert!(apart("run_begin", "run_end") <= 1, "{vcpu:?}");
    assert!(apart("run_end", "userspace_exit") <= 1, "{vcpu:?}");
    assert!(apart("mmio_read", "mmio_read_unsatisfied") <= 1, "{vcpu:?}");
    if let Some(audit) = &vcpu.audit {
        assert!(audit.agrees, "{vcpu:?}");
    }
}

/// What was counted is a part of what was made.
fn assert_part(report: &Report, made: &Made) {
    assert_eq!(report.vms_of(made.pid).count(), made.vms.len());
    for vm_made in &made.vms {
        let tids: Vec<u32> = vm_made.vcpus.iter().map(|vcpu| vcpu.tid).collect();
        let vm = vm_of(report, made.pid, &tids);
        assert!(vm.other.is_empty(), "{:?}", vm.other);
        for (vcpu, made) in vm.vcpus.iter().zip(&vm_made.vcpus) {
            assert_eq!((vcpu.tid, vcpu.vcpu), (Some(made.tid), made.vcpu));
            assert_consistent(vcpu);
            for (kind, made) in made.made.iter().filter(|(kind, made)| *kind != "hlt" && **made > 0)
            {
                let seen = number(&vcpu.counts, kind);
                assert!((1..=*made).contains(&seen), "{seen} of {made} {kind}");
            }
            let seen = number(&vcpu.counts, "userspace_exit");
            assert!((1..=made.kvm_run_calls).contains(&seen), "{seen} of {}", made.kvm_run_calls);
        }
    }
}

const EVERYTHING: &[&str] = &[
    "--pio",
    "7",
    "--pio-in",
    "5",
    "--mmio-write",
    "3",
    "--mmio-read",
    "2",
    "--cpuid",
    "8",
    "--msr",
    "4",
    "--msr-write",
    "1",
    "--hlt",
    "1",
    "--places",
    "2",
    "--vcpus",
    "2",
    "--seconds",
    "60",
];

#[test]
fn a_guest_at_a_rate_is_counted_from_when_tdtrace_comes() {
    let running = Running::begin(&[EVERYTHING, &["--rate", "5000", "--vms", "2"]].concat());
    let stat = Stat::begin(&[]);
    thread::sleep(Duration::from_secs(2));
    let report = stat.end();
    let made = running.end();
    assert_part(&report, &made);
    // Two vCPUs in two VMs at 5,000 a second; a busy machine is slower.
    let seen: u64 = report.vms_of(made.pid).map(|vm| number(&vm.counts, "cpuid")).sum();
    assert!((100..=4 * 8 * 5_000 * 4 / 31).contains(&seen), "{seen}");
}

#[test]
fn a_guest_at_full_speed_is_counted_from_when_tdtrace_comes() {
    let running = Running::begin(EVERYTHING);
    let stat = Stat::begin(&[]);
    thread::sleep(Duration::from_millis(700));
    let report = stat.end();
    assert_part(&report, &running.end());
}

#[test]
fn a_guest_outside_of_the_pid_namespace_is_counted_and_does_not_end() {
    let running = Running::begin(&["--pio", "10", "--rate", "1000", "--seconds", "60"]);
    let stat = Stat::begin_in_pid_namespace();
    // Several times longer than it takes to see that a process is gone.
    thread::sleep(RECLAIM);
    let report = stat.end();
    let pid = running.0.id();
    let made = running.end();
    assert_eq!(made.pid, pid);
    assert_part(&report, &made);
    assert_eq!(report.vms_of(pid).next().expect("the VM").state, "");
    let seen = number(&report.vms_of(pid).next().expect("the VM").counts, "pio_out");
    assert!(seen >= 500, "{seen}");
}

#[test]
fn the_last_kvm_run_of_a_killed_vmm_is_counted_to_its_end() {
    let stat = Stat::begin(&[]);
    let mut pids = Vec::new();
    for delay in [0, 37, 80, 123, 171] {
        let mut running = Running::begin(EVERYTHING);
        thread::sleep(Duration::from_millis(delay));
        running.0.kill().expect("it runs");
        running.0.wait().expect("it ends");
        pids.push(running.0.id());
    }
    thread::sleep(RECLAIM);
    let report = stat.end();
    for pid in pids {
        let vms: Vec<_> = report.vms_of(pid).collect();
        let [vm] = vms[..] else { panic!("{vms:?}") };
        assert_eq!((vm.state.as_str(), vm.vcpus.len()), ("ended", 2));
        for vcpu in &vm.vcpus {
            let runs = ["run_begin", "run_end", "userspace_exit"];
            let runs = runs.map(|class| number(&vcpu.counts, class));
            assert!(runs[0] > 0 && runs.iter().all(|count| *count == runs[0]), "{vcpu:?}");
            assert!(vcpu.audit.as_ref().is_some_and(|audit| audit.agrees), "{vcpu:?}");
        }
    }
}

#[test]
fn every_snapshot_of_a_guest_at_full_speed_is_consistent() {
    let running = Running::begin(EVERYTHING);
    let mut top = Command::new(TDTRACE)
        .args(["top", "--batch", "--json", "-d", "0.1", "-n", "40"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tdtrace starts");
    let lines = BufReader::new(top.stdout.take().expect("a pipe")).lines();
    let mut before: Option<Report> = None;
    for line in lines {
        let report: Report = serde_json::from_str(&line.expect("text")).expect("a JSON object");
        for vcpu in report.vms_of(running.0.id()).flat_map(|vm| &vm.vcpus) {
            assert_consistent(vcpu);
        }
        if let Some(before) = &before {
            for (class, count) in &before.counts {
                assert!(number(&report.counts, class) >= *count, "{class}");
            }
        }
        before = Some(report);
    }
    assert!(top.wait().expect("an exit code").success());
    let report = before.expect("40 snapshots");
    assert_part(&report, &running.end());
}
