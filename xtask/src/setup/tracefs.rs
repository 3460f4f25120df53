//! tracefs, where the kernel lists its tracepoints.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use super::State;
use crate::{progress, workspace};

const DIRECTORY: &str = "/sys/kernel/tracing";

/// The command that mounts it.
pub(super) const COMMAND: &str = "sudo mount -t tracefs tracefs /sys/kernel/tracing";

/// Where tracefs is mounted, read from a mount table (proc_pid_mounts(5)).
fn mounted(table: &str) -> Option<&str> {
    table.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let directory = fields.next()?;
        (fields.next()? == "tracefs").then_some(directory)
    })
}

/// State of the step.
pub(super) fn state() -> State {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    match mounted(&table) {
        Some(directory) => State::Done(directory.into()),
        None => State::Missing("not mounted".into()),
    }
}

/// Mounts it.
pub(super) fn act(prefix: &str) -> Result<()> {
    if !workspace::is_root() {
        bail!("only root may mount it");
    }
    if fs::metadata(DIRECTORY).is_err() {
        bail!("this kernel has no {DIRECTORY}");
    }
    let mut command = Command::new("mount");
    command.args(["-t", "tracefs", "tracefs", DIRECTORY]);
    progress::run_line(&format!("{prefix}mounting"), command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracefs_is_found_in_the_mount_table_wherever_it_is() {
        let table = "proc /proc proc rw 0 0\ntracefs /sys/kernel/debug/tracing tracefs rw 0 0\n";
        assert_eq!(mounted(table), Some("/sys/kernel/debug/tracing"));
    }

    #[test]
    fn another_file_system_of_that_name_does_not_count() {
        assert_eq!(mounted("tracefs /mnt ext4 rw 0 0\n/dev/vda / ext4 rw 0 0\n"), None);
        assert_eq!(mounted(""), None);
    }
}
