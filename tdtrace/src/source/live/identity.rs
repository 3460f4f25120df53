//! Who runs a VM: its name, its VMM and its container, read from `/proc/PID` of the VMM's process.
//!
//! [`command`] knows the command lines of the VMMs, [`cgroup`] the paths of container runtimes. Both
//! are pure; only [`read`] touches files. Everything here is chosen by whoever runs the process, so
//! reads are bounded and what is shown is made harmless first.

mod cgroup;
mod command;

use std::{fs::File, io::Read as _, path::Path, sync::Arc};

/// Most bytes read of a file. A command line may be as long as its process likes.
const READ_MAX: u64 = 64 << 10;

/// Most characters of a name; a UUID is 36 and a pod's UID with its mark is 40.
const SHOWN_MAX: usize = 40;

/// What is known of the process that runs a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// The VM's name, else the process's; empty if neither could be read.
    pub(super) name: Arc<str>,
    /// `qemu`, `cloud-hypervisor`, `firecracker`, `crosvm`, `kvmtool`; empty if it is none of them.
    pub(super) vmm: Arc<str>,
    /// The container's short id, the pod or the systemd service that the process belongs to.
    pub(super) container: Option<Arc<str>>,
}

/// Reads the identity of process `pid` below `root`, which is `/proc` but in tests. What cannot be
/// read is left empty.
pub(super) fn read(root: &Path, pid: u32) -> Identity {
    let dir = root.join(pid.to_string());
    let comm = bounded(&dir.join("comm"));
    let cmdline = bounded(&dir.join("cmdline"));
    let cgroup = bounded(&dir.join("cgroup"));
    identify(&comm, &cmdline, &String::from_utf8_lossy(&cgroup))
}

/// The identity from the contents of `comm`, `cmdline` and `cgroup`.
fn identify(comm: &[u8], cmdline: &[u8], cgroup: &str) -> Identity {
    let comm = String::from_utf8_lossy(comm);
    let comm = comm.strip_suffix('\n').unwrap_or(&comm);
    let args = command::arguments(cmdline);
    let vmm = command::vmm(comm, &args);
    let name = vmm
        .and_then(|vmm| command::name(vmm, &args))
        .or_else(|| cgroup::machine(cgroup))
        .or_else(|| vmm.and_then(|vmm| command::stand_in(vmm, &args)))
        .unwrap_or_else(|| comm.to_owned());
    Identity {
        name: printable(&name).into(),
        vmm: vmm.map_or("", command::Vmm::name).into(),
        container: cgroup::container(cgroup).map(|container| printable(&container).into()),
    }
}

/// At most [`READ_MAX`] bytes of the file at `path`; none if it cannot be read.
fn bounded(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        // What came before an error is as good as a shorter file.
        let _ = file.take(READ_MAX).read_to_end(&mut bytes);
    }
    bytes
}

/// `text` for a terminal: what would move the cursor or turn the direction of writing is replaced, and
/// what is too long for a column is cut.
pub(super) fn printable(text: &str) -> String {
    let harmless = |c: char| if c.is_control() || is_invisible(c) { '?' } else { c };
    if text.chars().nth(SHOWN_MAX).is_none() {
        return text.chars().map(harmless).collect();
    }
    text.chars().take(SHOWN_MAX - 1).map(harmless).chain(['…']).collect()
}

/// Separators and format characters that take no cell: zero-width ones, those of direction, the byte
/// order mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests;
