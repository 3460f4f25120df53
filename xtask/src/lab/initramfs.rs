//! The initramfs: an uncompressed newc archive, written here.
//!
//! The kernel unpacks archives that follow each other in one file, so a scenario's own files are an
//! archive behind [`base`]. Nothing is compressed: unpacking under emulation costs more time than
//! reading more bytes.

use std::{fmt::Write as _, time::Duration};

use anyhow::{Context as _, Result};

use super::module::Module;

/// What process 1 of the VM runs.
const INIT: &str = include_str!("init.sh");

/// Where `init.sh` expects the scenario.
pub(super) const SCENARIO: &str = "lab/scenario.sh";

/// File type bits of `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// A newc archive being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// The archive that every scenario boots with: busybox, `init.sh`, and `modules` in the order in
/// which they are to be loaded. The scenario is killed after `limit`.
pub(super) fn base(busybox: &[u8], modules: &[Module], limit: Duration) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "lab", "modules", "out", "proc", "sys", "tmp"] {
        archive.directory(directory)?;
    }
    archive.program("init", INIT.as_bytes())?;
    archive.program("bin/busybox", busybox)?;
    archive.symlink("bin/sh", "busybox")?;
    archive.file("lab/limit", format!("{}\n", limit.as_secs()).as_bytes())?;
    let mut order = String::new();
    for Module { name, object } in modules {
        archive.file(&format!("modules/{name}.ko"), object)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.file("lab/modules", order.as_bytes())?;
    archive.finish()
}

impl Archive {
    /// Adds a directory.
    pub(super) fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds an executable file.
    pub(super) fn program(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        self.entry(path, REGULAR | 0o755, contents)
    }

    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        self.entry(path, REGULAR | 0o644, contents)
    }

    /// Adds a symbolic link.
    pub(super) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, SYMLINK | 0o777, target.as_bytes())
    }

    /// The finished archive.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }

    /// Header, name and contents, the last two padded to 4 bytes
    /// (Documentation/driver-api/early-userspace/buffer-format.rst).
    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let size = u32::try_from(contents.len())
            .with_context(|| format!("{path} has {} bytes, newc ends at 4 GiB", contents.len()))?;
        let name = u32::try_from(path.len() + 1).context("a path is longer than 4 GiB")?;
        let links = if mode & DIRECTORY == 0 { 1 } else { 2 };
        // inode, mode, uid, gid, links, mtime, size, device and rdev (major, minor), length of the
        // name with its NUL, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0];
        let mut header = String::from("070701");
        for field in fields {
            write!(header, "{field:08X}").context("a header cannot be written")?;
        }
        self.entries += 1;
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_bytes_that_gnu_cpio_writes() {
        // printf hello > greeting; ln -s greeting link; both with time 0;
        // printf 'greeting\nlink\n' | cpio -o -H newc --reproducible
        let expected = concat!(
            "07070100000000000081A40000000000000000000000010000000000000005",
            "000000000000000000000000000000000000000900000000greeting\0\0",
            "hello\0\0\0",
            "070701000000010000A1FF0000000000000000000000010000000000000008",
            "000000000000000000000000000000000000000500000000link\0\0",
            "greeting",
            "07070100000000000000000000000000000000000000010000000000000000",
            "000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0",
        );
        let mut archive = Archive::default();
        archive.file("greeting", b"hello").unwrap();
        archive.symlink("link", "greeting").unwrap();
        assert_eq!(String::from_utf8(archive.finish().unwrap()).unwrap(), expected);
    }

    #[test]
    fn an_archive_can_follow_another_because_it_ends_on_four_bytes() {
        let module = Module { name: "kvm".into(), object: vec![1; 5] };
        let base = base(b"busybox", &[module], Duration::from_secs(7)).unwrap();
        assert!(base.len().is_multiple_of(4));
        let text = String::from_utf8_lossy(&base);
        assert!(text.contains("modules/kvm.ko\0") && text.contains("lab/limit\0"), "{text}");
    }
}
