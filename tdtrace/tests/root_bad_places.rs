//! Where tdtrace cannot do what it was asked for: one sentence on stderr with the next step, and an
//! exit code that is not 0. Needs root, to take things away from its children.

use std::{
    ffi::CString,
    fs, io,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::PathBuf,
    process::{Command, Output, Stdio},
    ptr,
};

use tempfile::TempDir;

const TDTRACE: &str = env!("CARGO_BIN_EXE_tdtrace");
const NOBODY: u32 = 65534;

fn tdtrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(TDTRACE);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Counts `true`, which nothing in these places keeps from running.
fn stat() -> Command {
    tdtrace(&["stat", "-o", "/dev/null", "--", "/bin/true"])
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the command starts")
}

/// What the command says when it fails.
fn sentence(command: &mut Command) -> String {
    let Output { status, stderr, .. } = output(command);
    let text = String::from_utf8(stderr).expect("stderr is text");
    assert_eq!(status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("tdtrace: ") && text.ends_with('\n'), "{text}");
    assert!(!text.contains("panicked") && !text.contains('\u{1b}'), "{text}");
    text
}

/// Hides `directory` from the command behind an empty one.
fn without(directory: &str, mut command: Command) -> Command {
    let none = CString::new("none").expect("a name");
    let tmpfs = CString::new("tmpfs").expect("a name");
    let root = CString::new("/").expect("a path");
    let directory = CString::new(directory).expect("a path");
    let hide = move || {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: system calls on strings that live, in a child that has no other thread.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(none.as_ptr(), root.as_ptr(), ptr::null(), private, ptr::null()))?;
            let (source, kind) = (none.as_ptr(), tmpfs.as_ptr());
            check(libc::mount(source, directory.as_ptr(), kind, 0, ptr::null()))
        }
    };
    // SAFETY: only system calls, no allocation and no lock.
    unsafe { command.pre_exec(hide) };
    command
}

/// Takes capabilities from the command; the number is that of capabilities(7).
fn without_capabilities(numbers: Vec<libc::c_ulong>, mut command: Command) -> Command {
    let drop = move || {
        for number in &numbers {
            // SAFETY: takes a number.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, *number, 0, 0, 0) })?;
        }
        Ok(())
    };
    // SAFETY: only system calls, no allocation and no lock.
    unsafe { command.pre_exec(drop) };
    command
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const SYS_ADMIN: libc::c_ulong = 21;
const PERFMON: libc::c_ulong = 38;
const BPF: libc::c_ulong = 39;

/// The command as user nobody, who may not be allowed to look into the directory of the build.
fn as_nobody(arguments: &[&str]) -> (TempDir, Command) {
    let directory = tempfile::tempdir().expect("a directory");
    let readable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), readable).expect("permissions");
    let binary = directory.path().join("tdtrace");
    fs::copy(TDTRACE, &binary).expect("a copy of tdtrace");
    let mut command = Command::new(binary);
    command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null());
    (directory, command)
}

#[test]
fn an_ordinary_user_is_told_to_run_it_as_root() {
    for arguments in [&["stat", "--", "/bin/true"][..], &["top", "--batch", "-n", "1"]] {
        let (_directory, mut command) = as_nobody(arguments);
        let sentence = sentence(&mut command);
        assert!(sentence.contains("CAP_BPF") && sentence.contains("sudo tdtrace"), "{sentence}");
    }
}

#[test]
fn doctor_works_for_everyone_and_says_no() {
    let (_directory, mut command) = as_nobody(&["doctor"]);
    let output = output(&mut command);
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("CAP_BPF") && text.contains("not held"), "{text}");
}

#[test]
fn root_without_a_capability_is_told_which() {
    for (taken, name) in [(BPF, "CAP_BPF is missing"), (PERFMON, "CAP_PERFMON is missing")] {
        // CAP_SYS_ADMIN includes both.
        let mut command = without_capabilities(vec![taken, SYS_ADMIN], stat());
        let sentence = sentence(&mut command);
        assert!(sentence.contains(name) && sentence.contains("as root"), "{sentence}");
    }
}

#[test]
fn bpf_and_perfmon_are_all_it_needs() {
    let others: Vec<libc::c_ulong> =
        (0..=40).filter(|number| ![BPF, PERFMON].contains(number)).collect();
    let command = tdtrace(&["stat", "--json", "--", "/bin/true"]);
    let mut command = without_capabilities(others, command);
    let output = output(&mut command);
    assert!(output.status.success(), "{output:?}");
    assert_all_attached(&output);
}

/// Every probe is attached that root can attach here: not every kernel has all tracepoints.
fn assert_all_attached(output: &Output) {
    let attached = |output: &Output| {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let probes = report["probes"].as_array().expect("probes").clone();
        probes.into_iter().filter(|probe| probe["attached"] == true).collect::<Vec<_>>()
    };
    let as_root = self::output(&mut tdtrace(&["stat", "--json", "--", "/bin/true"]));
    assert_eq!(attached(output), attached(&as_root));
    assert!(attached(output).len() > 10, "{output:?}");
}

#[test]
fn a_user_namespace_is_told_to_be_left() {
    let mut command = stat();
    // SAFETY: takes a number; nothing else happens between fork and exec.
    unsafe { command.pre_exec(|| check(libc::unshare(libc::CLONE_NEWUSER))) };
    let sentence = sentence(&mut command);
    assert!(sentence.contains("user namespace") && sentence.contains("outside"), "{sentence}");
}

#[test]
fn without_btf_the_next_step_is_doctor() {
    for directory in ["/sys/kernel/btf", "/sys"] {
        let sentence = sentence(&mut without(directory, stat()));
        assert!(sentence.contains("/sys/kernel/btf/vmlinux"), "{sentence}");
        assert!(sentence.contains("tdtrace doctor"), "{sentence}");
    }
}

#[test]
fn without_tracefs_it_counts_as_with_it() {
    let tracefs = ["/sys/kernel/tracing", "/sys/kernel/debug"];
    let tracefs = tracefs.into_iter().find(|path| PathBuf::from(path).is_dir());
    let command = tdtrace(&["stat", "--json", "--", "/bin/true"]);
    let output = output(&mut without(tracefs.expect("a place for tracefs"), command));
    assert!(output.status.success(), "{output:?}");
    assert_all_attached(&output);
}

#[test]
fn without_proc_it_says_what_to_mount() {
    let sentence = sentence(&mut without("/proc", stat()));
    assert!(sentence.contains("mount proc"), "{sentence}");
}

#[test]
fn without_kvm_the_workload_says_what_to_load() {
    let sentence = sentence(&mut without("/dev", tdtrace(&["workload", "--pio", "1"])));
    assert!(sentence.contains("/dev/kvm") && sentence.contains("kvm_intel"), "{sentence}");
}

#[test]
fn without_file_descriptors_it_says_so() {
    let mut command = stat();
    let few = || {
        let limit = libc::rlimit { rlim_cur: 12, rlim_max: 12 };
        // SAFETY: reads the limit.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
    };
    // SAFETY: one system call, no allocation and no lock.
    unsafe { command.pre_exec(few) };
    assert!(sentence(&mut command).contains("Too many open files"));
}

#[test]
fn without_a_terminal_top_names_batch() {
    assert!(sentence(&mut tdtrace(&["top"])).contains("--batch"));
}

#[test]
fn a_command_that_cannot_be_run_is_named() {
    for program in ["nosuch-program", "/tmp", ""] {
        let sentence = sentence(&mut tdtrace(&["stat", "--", program]));
        assert!(sentence.contains(&format!("`{program}` cannot be run")), "{sentence}");
        assert!(sentence.contains("by name or path"), "{sentence}");
    }
}

#[test]
fn a_result_that_cannot_be_written_is_named_with_what_to_give() {
    for file in ["/nosuch/result", "/tmp", "/dev/full"] {
        let sentence = sentence(&mut tdtrace(&["stat", "-o", file, "--", "/bin/true"]));
        assert!(sentence.contains("cannot be written; give another FILE"), "{sentence}");
        assert!(file == "/dev/full" || sentence.contains(file), "{sentence}");
    }
    // Before the command has run for nothing.
    let directory = tempfile::tempdir().expect("a directory");
    let ran = directory.path().join("ran");
    let touch = ["stat", "-o", "/nosuch/result", "--", "touch", ran.to_str().expect("text")];
    sentence(&mut tdtrace(&touch));
    assert!(!ran.exists());
}

#[test]
fn wrong_usage_ends_with_2_and_names_the_help() {
    for arguments in [
        &["stat"][..],
        &["stat", "--"],
        &["stat", "--nosuch", "--", "true"],
        &["stat", "--max-vcpus", "0", "--", "true"],
        &["stat", "--max-vcpus", "65537", "--", "true"],
        &["top", "--batch", "--delay", "0"],
        &["workload", "--pio", "-1"],
        &["nosuch"],
    ] {
        let output = output(&mut tdtrace(arguments));
        let text = String::from_utf8(output.stderr).expect("stderr is text");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.starts_with("error: ") && text.contains("--help"), "{arguments:?}: {text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_commands_own_failure_is_passed_on() {
    for (script, code) in [("exit 7", 7), ("kill -KILL $$", 137)] {
        let output = output(&mut tdtrace(&["stat", "-o", "/dev/null", "--", "sh", "-c", script]));
        assert_eq!((output.status.code(), output.stderr.len()), (Some(code), 0));
    }
}
