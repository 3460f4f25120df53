//! Who runs a VM: its name, its VMM and its container, read from `/proc/PID` of the VMM's process.
//!
//! [`command`] knows the command lines of the VMMs, [`cgroup`] the paths of container runtimes. Both
//! are pure; only [`read`] touches files. Everything here is chosen by whoever runs the process, so
//! reads are bounded and what is shown is made harmless first.

mod cgroup;
mod command;

use std::{fs::File, io::Read as _, path::Path};

use crate::source::owner::{Identity, printable};

/// Most bytes read of a file. A command line may be as long as its process likes.
const READ_MAX: u64 = 64 << 10;

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

#[cfg(test)]
mod tests;
