//! `cargo xtask run`: set-up where it is missing, a release build, then `tdtrace top`, with a small
//! guest beside it where no VM runs, or synthetic TDs where none can.

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
    if !args.no_guest && !a_vm_runs() {
        if Path::new("/dev/kvm").exists() {
            start_guest(&tdtrace)?;
        } else if args.top.is_empty() {
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
