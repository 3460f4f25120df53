//! Where debug files lie: a kernel's and its modules', by release and by build id. Looks into
//! directories.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Directory entries that are looked at while a module is searched; a distribution's kernel has
/// some 6,000.
const ENTRIES_LIMIT: usize = 200_000;
const DEPTH_LIMIT: usize = 16;

/// Endings of module files, the ones with debug information first.
const ENDINGS: &[&str] = &[".ko.debug", ".ko", ".ko.zst", ".ko.xz", ".ko.gz"];

/// Where debug files are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The root of the machine: `/`.
    pub root: PathBuf,
    /// Directories laid out as `/usr/lib/debug` is, looked into before that.
    pub debug_dirs: Vec<PathBuf>,
}

impl Search {
    fn debug_dirs(&self) -> impl Iterator<Item = PathBuf> {
        let usual = ["usr/lib/debug", "usr/lib/debug/usr"].map(|dir| self.root.join(dir));
        self.debug_dirs.iter().cloned().chain(usual)
    }

    /// Files that may be the kernel `release` with debug information, the likeliest first.
    #[must_use]
    pub fn kernels(&self, release: &str, build_id: Option<&[u8]>) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for dir in self.debug_dirs() {
            paths.extend(build_id.and_then(|id| by_build_id(&dir, id)));
            paths.push(dir.join(format!("boot/vmlinux-{release}")));
            paths.push(dir.join(format!("boot/vmlinux-{release}.debug")));
            paths.push(dir.join(format!("lib/modules/{release}/vmlinux")));
            paths.push(dir.join(format!("vmlinux-{release}")));
            paths.push(dir.join("vmlinux"));
        }
        for path in ["build/vmlinux", "vmlinux"] {
            paths.push(self.root.join(format!("lib/modules/{release}/{path}")));
        }
        paths.push(self.root.join(format!("boot/vmlinux-{release}")));
        paths.retain(|path| path.is_file());
        paths
    }

    /// Files that may be the module `name` of the kernel `release`, the likeliest first.
    #[must_use]
    pub fn modules(&self, release: &str, name: &str, build_id: Option<&[u8]>) -> Vec<PathBuf> {
        let mut paths = Vec::new();
        for dir in self.debug_dirs() {
            paths.extend(build_id.and_then(|id| by_build_id(&dir, id)));
            find_module(&dir.join("lib/modules").join(release), name, &mut paths);
        }
        for dir in &self.debug_dirs {
            find_files(dir, name, &mut paths);
        }
        find_module(&self.root.join("lib/modules").join(release), name, &mut paths);
        paths
    }
}

/// The file of a build id in `dir/.build-id`.
fn by_build_id(dir: &Path, id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = id.split_first()?;
    let path = dir.join(".build-id").join(format!("{first:02x}/{}.debug", hex(rest)));
    path.is_file().then_some(path)
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Modules called `name` right in `dir`.
fn find_files(dir: &Path, name: &str, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let files = entries.take(ENTRIES_LIMIT).flatten().map(|entry| entry.path());
    let mut found: Vec<_> = files.filter_map(|path| Some((ending(&path, name)?, path))).collect();
    found.sort();
    paths.extend(found.into_iter().map(|(_, path)| path).filter(|path| path.is_file()));
}

/// Modules called `name` anywhere below `dir`; links are not followed.
fn find_module(dir: &Path, name: &str, paths: &mut Vec<PathBuf>) {
    let mut left = ENTRIES_LIMIT;
    let mut found = Vec::new();
    let mut dirs = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            left = left.saturating_sub(1);
            if left == 0 {
                break;
            }
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir && depth < DEPTH_LIMIT {
                dirs.push((path, depth + 1));
            } else if let Some(ending) = ending(&path, name).filter(|_| !is_dir) {
                found.push((ending, path));
            }
        }
    }
    found.sort();
    paths.extend(found.into_iter().map(|(_, path)| path));
}

/// Which of [`ENDINGS`] the file of the module `name` has; `-` and `_` are the same in names.
fn ending(path: &Path, name: &str) -> Option<usize> {
    let file = path.file_name()?.to_str()?;
    ENDINGS.iter().position(|ending| {
        file.strip_suffix(ending)
            .is_some_and(|stem| stem.replace('-', "_") == name.replace('-', "_"))
    })
}

/// The build id in ELF notes, as `/sys/kernel/notes` and `/sys/module/*/notes/*` have them.
#[must_use]
pub fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let mut rest = notes;
    loop {
        let word = |at: usize| Some(u32::from_le_bytes(*rest.get(at..)?.first_chunk()?));
        let (name_size, size, kind) = (word(0)?, word(4)?, word(8)?);
        let aligned = |size: u32| Some((size as usize).checked_add(3)? & !3);
        let name_end = aligned(name_size)?.checked_add(12)?;
        let end = name_end.checked_add(aligned(size)?)?;
        if kind == NT_GNU_BUILD_ID && rest.get(12..16) == Some(b"GNU\0") {
            let id = rest.get(name_end..name_end.checked_add(size as usize)?)?;
            return (!id.is_empty()).then(|| id.to_vec());
        }
        rest = rest.get(end..)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn touch(path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn kernels_and_modules_are_found_in_the_usual_places() {
        let root = tempfile::tempdir().unwrap();
        let extra = root.path().join("extra");
        touch(extra.join(".build-id/ab/cdef.debug"));
        touch(root.path().join("usr/lib/debug/boot/vmlinux-6.12"));
        touch(root.path().join("lib/modules/6.12/build/vmlinux"));
        touch(root.path().join("usr/lib/debug/lib/modules/6.12/kernel/drivers/acme-nic.ko.debug"));
        touch(root.path().join("lib/modules/6.12/kernel/drivers/acme-nic.ko.zst"));
        touch(root.path().join("lib/modules/6.13/kernel/drivers/acme-nic.ko"));
        let search = Search { root: root.path().into(), debug_dirs: vec![extra.clone()] };
        let kernels = search.kernels("6.12", Some(&[0xab, 0xcd, 0xef]));
        assert_eq!(kernels.len(), 3, "{kernels:?}");
        assert_eq!(kernels[0], extra.join(".build-id/ab/cdef.debug"));
        let modules = search.modules("6.12", "acme_nic", None);
        assert_eq!(modules.len(), 2, "{modules:?}");
        assert!(modules[0].to_string_lossy().ends_with(".ko.debug"), "{modules:?}");
        assert!(search.modules("6.12", "acme", None).is_empty());
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let mut notes = b"\x06\0\0\0\x01\0\0\0\0\x01\0\0Linux\0\0\0\0\0\0\0".to_vec();
        notes.extend(b"\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0");
        assert_eq!(build_id(&notes), Some(vec![0xab, 0xcd]));
        for length in 0..notes.len() - 2 {
            assert_eq!(build_id(&notes[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn any_notes_are_read_or_refused(notes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let id = build_id(&notes);
            prop_assert!(id.is_none_or(|id| id.len() < notes.len()));
        }
    }
}
