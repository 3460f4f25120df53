//! Runs `tdtrace stat`, one at a time: what is lost is lost to all VMs of the machine together.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use tdtrace::workload::{self, Plan};
use tempfile::NamedTempFile;

use super::report::{Made, Report, made};

pub(crate) const TDTRACE: &str = env!("CARGO_BIN_EXE_tdtrace");

static TURN: Mutex<()> = Mutex::new(());

/// A `tdtrace stat` that counts until it is told to end.
pub(crate) struct Stat {
    child: Child,
    result: NamedTempFile,
    _turn: MutexGuard<'static, ()>,
}

impl Stat {
    /// Starts it; it counts when this returns.
    pub(crate) fn begin(options: &[&str]) -> Self {
        Self::begin_with(Command::new(TDTRACE), options)
    }

    /// Starts it in a PID namespace of its own, as in a container.
    pub(crate) fn begin_in_pid_namespace() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--mount-proc", TDTRACE]);
        Self::begin_with(unshare, &[])
    }

    fn begin_with(mut tdtrace: Command, options: &[&str]) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let result = NamedTempFile::new().expect("a file for the result");
        let mut child = tdtrace
            .args(["stat", "--json", "--hotspots", "1000000", "-o"])
            .arg(result.path())
            .args(options)
            // The command runs once the programs are attached, and until its input ends.
            .args(["--", "sh", "-c", "echo attached; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tdtrace starts");
        let mut line = String::new();
        let output = child.stdout.as_mut().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("its output is text");
        assert_eq!(line, "attached\n", "stat did not run its command");
        Self { child, result, _turn: turn }
    }

    /// What it counted.
    pub(crate) fn end(mut self) -> Report {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("it ends").success());
        let text = fs::read_to_string(self.result.path()).expect("the result");
        serde_json::from_str(&text).expect("the result is one JSON object")
    }
}

impl Drop for Stat {
    fn drop(&mut self) {
        // After a failed assertion; else it has ended and this does nothing.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// What `tdtrace stat` counts while it runs a workload, and what that made.
pub(crate) fn stat_of_workload(options: &[&str], workload: &[&str]) -> (Report, Made) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let result = NamedTempFile::new().expect("a file for the result");
    let output = Command::new(TDTRACE)
        .args(["stat", "--json", "--hotspots", "1000000", "-o"])
        .arg(result.path())
        .args(options)
        .args(["--", TDTRACE, "workload"])
        .args(workload)
        .stderr(Stdio::inherit())
        .output()
        .expect("tdtrace starts");
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(result.path()).expect("the result");
    let made = serde_json::from_slice(&output.stdout).expect("the workload's JSON");
    (serde_json::from_str(&text).expect("stat's JSON"), made)
}

/// A workload in a process of its own, while a [`Stat`] counts.
pub(crate) fn workload_process(arguments: &[&str]) -> Made {
    let output = Command::new(TDTRACE)
        .arg("workload")
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .expect("tdtrace starts");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("the workload's JSON")
}

/// A workload in this process.
pub(crate) fn workload_here(plan: &Plan) -> Made {
    made(&workload::run(plan, &AtomicBool::new(false)).expect("the workload runs"))
}

/// More than `stat` takes to see that a VM has ended and to give its slots back.
pub(crate) const RECLAIM: Duration = Duration::from_secs(1);
