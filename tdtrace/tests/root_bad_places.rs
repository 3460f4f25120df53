//! Places where tdtrace cannot work: one sentence with the next step, an exit code, no panic.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
};

const NOBODY: u32 = 65534;

/// The program at a place that every user can reach.
fn reachable(dir: &Path) -> PathBuf {
    let path = dir.join("tdtrace");
    fs::copy(env!("CARGO_BIN_EXE_tdtrace"), &path).expect("the program is copied");
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("the directory opens");
    path
}

/// What it says: exactly one line, which begins with its name.
fn sentence(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).expect("it says text");
    assert!(!output.status.success(), "it succeeded: {text}");
    assert!(!text.contains("panicked"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.strip_prefix("tdtrace: ").unwrap_or_else(|| panic!("{text}")).trim_end().to_owned()
}

#[test]
fn a_user_who_is_not_root_is_told_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let program = reachable(dir.path());
    for arguments in [&["stat", "--", "true"][..], &["top", "--batch"]] {
        let output = Command::new(&program).args(arguments).uid(NOBODY).gid(NOBODY).output();
        let text = sentence(&output.unwrap());
        assert!(text.contains("CAP_BPF") && text.contains("sudo tdtrace"), "{text}");
    }
}

#[test]
fn doctor_works_for_everyone_and_says_no() {
    let dir = tempfile::tempdir().unwrap();
    let program = reachable(dir.path());
    let output = Command::new(program).arg("doctor").uid(NOBODY).gid(NOBODY).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("CAP_BPF") && text.contains("not held"), "{text}");
}

/// Runs `arguments` where an empty directory hides `hidden`.
fn without(hidden: &str, arguments: &[&str]) -> Output {
    Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg(format!("mount -t tmpfs none {hidden} && exec \"$@\""))
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_tdtrace"))
        .args(arguments)
        .output()
        .expect("unshare runs")
}

#[test]
fn a_kernel_without_btf_is_named() {
    let text = sentence(&without("/sys/kernel/btf", &["stat", "--", "true"]));
    assert!(text.contains("/sys/kernel/btf/vmlinux") && text.contains("doctor"), "{text}");
}

#[test]
fn counting_needs_no_tracefs() {
    let output = without("/sys/kernel/tracing", &["stat", "--", "true"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_workload_without_dev_kvm_is_told_where_it_should_be() {
    let text = sentence(&without("/dev", &["workload", "--pio", "1"]));
    assert!(text.contains("/dev/kvm"), "{text}");
}

#[test]
fn what_cannot_be_run_or_written_is_named() {
    let run = |arguments: &[&str]| {
        sentence(&Command::new(env!("CARGO_BIN_EXE_tdtrace")).args(arguments).output().unwrap())
    };
    assert!(run(&["stat", "--", "no-such-command"]).contains("no-such-command"));
    assert!(run(&["stat", "-o", "/no/such/file", "--", "true"]).contains("/no/such/file"));
}

#[test]
fn without_a_terminal_top_names_batch() {
    let mut top = Command::new(env!("CARGO_BIN_EXE_tdtrace"));
    assert!(sentence(&top.arg("top").output().unwrap()).contains("--batch"));
}

#[test]
fn a_flag_that_is_not_there_is_wrong_usage() {
    let mut top = Command::new(env!("CARGO_BIN_EXE_tdtrace"));
    let output = top.args(["top", "--no-such-flag"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--no-such-flag"));
}

#[test]
fn stat_passes_on_the_code_of_its_command() {
    let code = |script: &str| {
        let mut stat = Command::new(env!("CARGO_BIN_EXE_tdtrace"));
        stat.args(["stat", "-o", "/dev/null", "--", "sh", "-c", script]).status().unwrap().code()
    };
    assert_eq!(code("exit 7"), Some(7));
    assert_eq!(code("kill -9 $$"), Some(137));
}
