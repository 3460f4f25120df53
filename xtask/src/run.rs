//! `cargo xtask run`: set-up where it is missing, a release build, then `tdtrace top`, with a small
//! guest beside it where no VM runs, or synthetic TDs where none can. In a TD `top` shows the TD itself.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    progress,
    setup::{self, Need},
    workspace,
};

/// Does what set-up is missing, builds tdtrace and starts `tdtrace top`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Arguments for `tdtrace top`
    #[arg(last = true)]
    pub(crate) top: Vec<OsString>,
    /// Start no guest and no synthetic TDs, even if no VM runs
    #[arg(long)]
    no_guest: bool,
}

/// Runs the command; when all is well this process becomes tdtrace.
///
/// Exit codes: 1 for a user who is not root, after saying how to start it; else tdtrace's.
///
/// # Errors
/// When set-up or the build fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Need::Run)?;
    build()?;
    let tdtrace = workspace::target().join("release/tdtrace");
    let mut command = Command::new(&tdtrace);
    command.arg("top").args(&args.top);
    if !workspace::is_root() {
        println!("tdtrace traces the kernel, which takes root; start it with");
        println!("    sudo {}", progress::shell_line(&command));
        return Ok(ExitCode::FAILURE);
    }
    match beside(args, is_td(), a_vm_runs, Path::new("/dev/kvm").exists()) {
        Beside::Nothing => {}
        Beside::Guest => start_guest(&tdtrace)?,
        Beside::Demo => {
            println!(
                "no VM runs here, and there is no /dev/kvm to start one: synthetic TDs are shown"
            );
            command.arg("--demo");
        }
    }
    let shown = progress::shell_line(&command);
    // Only returns when it fails.
    Err(command.exec()).with_context(|| format!("`{shown}` does not start"))
}

/// What there is to see beside the VMs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Guest,
    Demo,
}

/// A TD is shown from within, which both of the others would keep `top` from.
fn beside(args: &Args, is_td: bool, a_vm_runs: impl Fn() -> bool, has_kvm: bool) -> Beside {
    if args.no_guest || is_td || a_vm_runs() {
        Beside::Nothing
    } else if has_kvm {
        Beside::Guest
    } else if args.top.is_empty() {
        Beside::Demo
    } else {
        Beside::Nothing
    }
}

/// Whether this machine is a TD, which the kernel says among the CPU's flags.
fn is_td() -> bool {
    fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| has_td_flag(&text))
}

fn has_td_flag(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    flags.any(|line| line.split_whitespace().any(|flag| flag == "tdx_guest"))
}

/// Whether some process has a VM: KVM's file descriptors are anonymous inodes of this name
/// (`virt/kvm/kvm_main.c:kvm_dev_ioctl_create_vm`).
fn a_vm_runs() -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let files = processes.filter_map(|process| fs::read_dir(process.path().join("fd")).ok());
    files
        .flat_map(Iterator::flatten)
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| target.as_os_str() == "anon_inode:kvm-vm")
}

/// Starts a guest that makes a few thousand exits a second, so that there is something to see. It
/// ends with this process, which becomes `tdtrace top`.
fn start_guest(tdtrace: &Path) -> Result<()> {
    let mut guest = Command::new(tdtrace);
    guest.args(["workload", "--vms", "2", "--vcpus", "2", "--places", "4", "--rate", "2000"]);
    guest.args(["--pio", "200", "--mmio-write", "400", "--mmio-read", "100", "--cpuid", "800"]);
    guest.args(["--msr", "200", "--seconds", "86400"]);
    println!("no VM runs here; for something to see this one is started:");
    println!("    {}", progress::shell_line(&guest));
    guest.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: prctl is safe between fork and exec; it only asks for a signal when the parent ends.
    unsafe {
        guest.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    guest.spawn().context("the guest does not start")?;
    Ok(())
}

fn build() -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--locked", "--package", "tdtrace", "--bin", "tdtrace"]);
    // Cargo's own progress says more than a clock.
    let status = command.status().context("cargo does not run")?;
    if !status.success() {
        bail!("`{}` failed", progress::shell_line(&command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_td_is_shown_itself_and_nothing_beside_it() {
        let args = Args { top: Vec::new(), no_guest: false };
        assert_eq!(beside(&args, true, || false, false), Beside::Nothing);
        assert_eq!(beside(&args, false, || false, false), Beside::Demo);
        assert_eq!(beside(&args, false, || false, true), Beside::Guest);
        assert_eq!(beside(&args, false, || true, true), Beside::Nothing);
        let asked = Args { top: vec!["--batch".into()], no_guest: false };
        assert_eq!(beside(&asked, false, || false, false), Beside::Nothing);
        let alone = Args { top: Vec::new(), no_guest: true };
        assert_eq!(beside(&alone, false, || false, true), Beside::Nothing);
    }

    #[test]
    fn a_td_is_told_by_its_whole_flag() {
        assert!(has_td_flag("processor : 0\nflags\t\t: fpu tdx_guest vme\n"));
        assert!(!has_td_flag("flags\t: fpu tdx_guest2\nbugs : tdx_guest\n"));
    }
}
