//! `tdtrace record` on this machine's KVM, and what a replay makes of the file. Needs root as well:
//! programs are loaded into this kernel.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

const TDTRACE: &str = env!("CARGO_BIN_EXE_tdtrace");

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("test.tdtrace")
    }
}

fn record(file: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(TDTRACE);
    command.args(["record", "-o"]).arg(file).args(options);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The snapshots of a recording and what is said about it.
fn replay(file: &Path) -> (Vec<Value>, String) {
    let output = Command::new(TDTRACE)
        .args(["top", "--batch", "--json", "--hotspots", "100", "--replay"])
        .arg(file)
        .output()
        .expect("tdtrace starts");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let snapshots = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    (snapshots, String::from_utf8(output.stderr).expect("text"))
}

fn vm_of(snapshot: &Value, pid: u64) -> &Value {
    let vms = snapshot["vms"].as_array().expect("a list");
    vms.iter().find(|vm| vm["pid"] == pid).expect("the workload's VM")
}

/// Waits until `child` has recorded something.
fn wait_for_samples(file: &Path, bytes: u64) {
    let began = Instant::now();
    while fs::metadata(file).map_or(0, |metadata| metadata.len()) < bytes {
        assert!(began.elapsed() < Duration::from_secs(30), "nothing is recorded");
        thread::sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, signal: i32) {
    let pid = i32::try_from(child.id()).expect("a process");
    // SAFETY: no memory involved; the child has not been waited for, so the number is its.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn told(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

#[test]
fn a_replayed_recording_has_every_exit_of_a_workload() {
    let folder = Folder::new();
    let command = ["--", TDTRACE, "workload", "--pio", "1000", "--cpuid", "1000"];
    let output = record(&folder.file(), &command).output().expect("tdtrace starts");
    assert!(output.status.success(), "{output:?}");
    assert!(told(&output).contains("test.tdtrace: 2 samples, "), "{output:?}");
    let mode = fs::metadata(folder.file()).expect("a recording").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let made: Value = serde_json::from_slice(&output.stdout).expect("the workload's JSON");
    let (snapshots, said) = replay(&folder.file());
    assert_eq!((snapshots.len(), said.as_str()), (2, ""));
    let vm = vm_of(&snapshots[1], made["pid"].as_u64().expect("a number"));
    assert_eq!(vm["counts"]["pio_out"], 1000);
    assert_eq!(vm["counts"]["cpuid"], 1000);
    let places = vm["hotspots"].as_array().expect("a list");
    let at = |class: &str| -> Vec<&Value> {
        let of = places.iter().filter(|place| place["class"] == class);
        of.map(|place| &place["count"]).collect()
    };
    assert_eq!(at("pio_out"), [1000]);
    assert_eq!(at("cpuid"), [1000]);
    assert_eq!(vm["audit"]["agrees"], true);
}

#[test]
fn samples_taken_while_a_workload_runs_only_grow_and_end_at_what_it_made() {
    let folder = Folder::new();
    let options = ["--delay", "0.1", "--", TDTRACE, "workload", "--pio", "1000", "--rate", "1000"];
    let output = record(&folder.file(), &options).output().expect("tdtrace starts");
    assert!(output.status.success(), "{output:?}");
    let made: Value = serde_json::from_slice(&output.stdout).expect("the workload's JSON");
    let (snapshots, _) = replay(&folder.file());
    assert!(snapshots.len() >= 5, "{}", snapshots.len());
    let counts: Vec<u64> = snapshots
        .iter()
        .map(|snapshot| snapshot["counts"]["pio_out"].as_u64().unwrap_or(0))
        .collect();
    assert!(counts.is_sorted(), "{counts:?}");
    let last = snapshots.last().expect("a snapshot");
    let vm = vm_of(last, made["pid"].as_u64().expect("a number"));
    assert_eq!(vm["counts"]["pio_out"], 1000);
}

#[test]
fn a_recording_ends_whole_on_a_signal_and_after_its_time() {
    for end in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let folder = Folder::new();
        let child = record(&folder.file(), &["--delay", "0.1"]).spawn().expect("tdtrace starts");
        wait_for_samples(&folder.file(), 6000);
        signal(&child, end);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(replay(&folder.file()).1, "");
    }
    let folder = Folder::new();
    let output = record(&folder.file(), &["--duration", "0.3"]).output().expect("tdtrace starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(replay(&folder.file()).1, "");
    let refused = record(&folder.file(), &["--duration", "0.3"]).output().expect("tdtrace starts");
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        told(&refused).contains("exists; give another FILE with -o, or --force"),
        "{refused:?}"
    );
}

#[test]
fn the_command_is_ended_with_the_time_and_its_code_is_passed_on() {
    let folder = Folder::new();
    let options = ["--duration", "0.2", "--", "sleep", "1000"];
    let output = record(&folder.file(), &options).output().expect("tdtrace starts");
    assert_eq!(output.status.code(), Some(128 + libc::SIGTERM), "{output:?}");
    let options = ["--force", "--", "sh", "-c", "exit 7"];
    let output = record(&folder.file(), &options).output().expect("tdtrace starts");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(replay(&folder.file()).1, "");
}

#[test]
fn a_recorder_that_is_killed_leaves_what_it_had_recorded() {
    let folder = Folder::new();
    let mut child = record(&folder.file(), &["--delay", "0.1"]).spawn().expect("tdtrace starts");
    wait_for_samples(&folder.file(), 8000);
    signal(&child, libc::SIGKILL);
    child.wait().expect("it ends");
    let (snapshots, said) = replay(&folder.file());
    assert!(snapshots.len() >= 2);
    assert!(said.contains("the recording "), "{said}");
}
