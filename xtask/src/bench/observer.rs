//! What watches the workload while its time is taken: nothing, tdtrace, and the tools that one would
//! otherwise use. Each is a command in front of the workload's.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::{packages, progress, workspace};

/// What the guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// CPUID, which the kernel answers: one event.
    Cpuid,
    /// OUT, which the VMM serves: the access and the way out of KVM_RUN and back, with four events, of
    /// which two end a time.
    Out,
}

impl Exit {
    pub(super) const ALL: [Self; 2] = [Self::Cpuid, Self::Out];

    /// What is measured, to the reader.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cpuid => "CPUID, answered by the kernel",
            Self::Out => "OUT, served by the VMM",
        }
    }

    /// The name in JSON and among what the workload made.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Cpuid => "cpuid",
            Self::Out => "pio_out",
        }
    }

    /// The workload's option.
    const fn option(self) -> &'static str {
        match self {
            Self::Cpuid => "--cpuid",
            Self::Out => "--pio",
        }
    }

    /// Its events counted by thread, which is the vCPU.
    const fn bpftrace(self) -> &'static str {
        match self {
            Self::Cpuid => "tracepoint:kvm:kvm_cpuid { @[tid] = count(); }",
            Self::Out => {
                "tracepoint:kvm:kvm_pio,tracepoint:kvm:kvm_fpu,tracepoint:kvm:kvm_userspace_exit { @[probe, tid] = count(); }"
            }
        }
    }
}

/// Who watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observer {
    Nothing,
    Counts,
    Tdtrace,
    Perf,
    Bpftrace,
}

impl Observer {
    pub(super) const ALL: [Self; 5] =
        [Self::Nothing, Self::Counts, Self::Tdtrace, Self::Perf, Self::Bpftrace];

    /// What is run, to the reader.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Counts => "tdtrace stat --no-latency",
            Self::Tdtrace => "tdtrace stat",
            Self::Perf => "perf record -e kvm:*",
            Self::Bpftrace => "bpftrace, counts by vCPU",
        }
    }

    /// The name in JSON.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Counts => "tdtrace_counts",
            Self::Tdtrace => "tdtrace",
            Self::Perf => "perf",
            Self::Bpftrace => "bpftrace",
        }
    }

    /// The program that must be there and Debian's package of it.
    const fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Nothing | Self::Counts | Self::Tdtrace => None,
            Self::Perf => Some(("perf", "linux-perf")),
            Self::Bpftrace => Some(("bpftrace", "bpftrace")),
        }
    }

    /// Why it cannot be run: its program is missing.
    pub(super) fn missing(self) -> Option<String> {
        let (program, package) = self.needs()?;
        if workspace::program(program).is_some() {
            return None;
        }
        let command = if packages::has_apt() {
            packages::install_command(&[package.to_owned()])
        } else {
            format!("install {program} with your distribution's packages")
        };
        Some(format!("{program} is not installed; {command}"))
    }
}

/// The guest whose time is taken.
pub(super) struct Workload {
    /// `tdtrace`.
    pub(super) program: PathBuf,
    /// The CPU on which it runs.
    pub(super) cpu: usize,
    /// What it does.
    pub(super) exit: Exit,
    /// How often.
    pub(super) exits: u64,
    /// `taskset`; bpftrace asks for a full path.
    taskset: PathBuf,
    /// What perf records goes there.
    scratch: PathBuf,
}

impl Workload {
    /// # Errors
    /// When util-linux is not there.
    pub(super) fn new(
        program: PathBuf,
        cpu: usize,
        exit: Exit,
        exits: u64,
        dir: &Path,
    ) -> Result<Self> {
        let taskset =
            workspace::program("taskset").context("taskset is missing; install util-linux")?;
        Ok(Self { program, cpu, exit, exits, taskset, scratch: dir.join("perf.data") })
    }

    /// Runs it under `observer`; nanoseconds an exit, as its vCPU took the time.
    ///
    /// # Errors
    /// When either fails, with what it printed last.
    pub(super) fn run(&self, observer: Observer) -> Result<f64> {
        let mut command = self.command(observer);
        command.stdin(Stdio::null());
        let shown = progress::shell_line(&command);
        let out = command.output().with_context(|| format!("`{shown}` does not start"))?;
        // Some hundred megabytes a round.
        let _ = std::fs::remove_file(&self.scratch);
        if !out.status.success() {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
            bail!("`{shown}` failed ({}): {said}", out.status);
        }
        time(&out.stdout, self.exit, self.exits).with_context(|| format!("`{shown}`"))
    }

    fn command(&self, observer: Observer) -> Command {
        let mut words = self.words();
        let mut command = match observer {
            Observer::Nothing => Command::new(words.remove(0)),
            Observer::Counts | Observer::Tdtrace => {
                let mut command = Command::new(&self.program);
                command.args(["stat", "--output", "/dev/null"]);
                if observer == Observer::Counts {
                    command.arg("--no-latency");
                }
                command.arg("--");
                command
            }
            Observer::Perf => {
                let mut command = Command::new("perf");
                command.args(["record", "--quiet", "--all-cpus", "--event", "kvm:*"]);
                command.args(["--no-buildid", "--no-buildid-cache", "--output"]);
                command.arg(&self.scratch).arg("--");
                command
            }
            Observer::Bpftrace => {
                let mut command = Command::new("bpftrace");
                command.args(["-q", "-o", "/dev/null", "-e", self.exit.bpftrace(), "-c"]);
                // One argument, which bpftrace takes apart at its spaces.
                words = vec![words.join(" ".as_ref())];
                command
            }
        };
        command.args(words);
        command
    }

    fn words(&self) -> Vec<OsString> {
        vec![
            self.taskset.clone().into(),
            "-c".into(),
            self.cpu.to_string().into(),
            self.program.clone().into(),
            "workload".into(),
            self.exit.option().into(),
            self.exits.to_string().into(),
        ]
    }
}

/// Nanoseconds an exit, from what the workload printed.
fn time(stdout: &[u8], exit: Exit, exits: u64) -> Result<f64> {
    let made: Value = serde_json::from_slice(stdout).context("the workload printed no JSON")?;
    let vcpu = &made["vms"][0]["vcpus"][0];
    let count = vcpu["made"][exit.key()].as_u64();
    if count != Some(exits) {
        bail!("the workload made {count:?} {} and not {exits}", exit.key());
    }
    let seconds = vcpu["seconds"].as_f64().filter(|seconds| *seconds > 0.0);
    let seconds = seconds.ok_or_else(|| anyhow!("the workload tells no time"))?;
    Ok(seconds * 1e9 / exits as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload {
            program: "/t/tdtrace".into(),
            cpu: 3,
            exit: Exit::Cpuid,
            exits: 7,
            taskset: "/usr/bin/taskset".into(),
            scratch: "/t/perf.data".into(),
        }
    }

    #[test]
    fn the_same_workload_runs_under_each_observer() {
        let plain = "/usr/bin/taskset -c 3 /t/tdtrace workload --cpuid 7";
        for observer in Observer::ALL {
            let line = progress::shell_line(&workload().command(observer));
            assert!(line.trim_end_matches('\'').ends_with(plain), "{line}");
            assert_eq!(line == plain, observer == Observer::Nothing);
        }
    }

    #[test]
    fn the_time_is_that_of_the_vcpu_for_an_exit() {
        let made = br#"{"vms":[{"vcpus":[{"made":{"cpuid":4},"seconds":2e-6}]}]}"#;
        assert_eq!(time(made, Exit::Cpuid, 4).unwrap(), 500.0);
        assert!(time(made, Exit::Cpuid, 5).unwrap_err().to_string().contains("Some(4)"));
        assert!(time(made, Exit::Out, 4).is_err());
        assert!(time(b"[]", Exit::Cpuid, 5).is_err());
        assert!(time(b"Attaching 1 probe...\n", Exit::Cpuid, 5).is_err());
    }
}
