//! Kernel modules of an unpacked kernel: finds them by name, decompresses them and puts what they
//! depend on before them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};
use object::{
    Endianness,
    elf::FileHeader64,
    read::elf::{FileHeader as _, SectionHeader as _},
};

use super::kernel::Image;
use crate::progress::run;

/// A module, ready for insmod.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// As the kernel calls it, with `_` for `-`.
    pub(super) name: String,
    /// The object file.
    pub(super) object: Vec<u8>,
}

/// The modules `names` of `image` and all that they depend on, in an order that insmod can follow.
pub(super) fn closure(image: &Image, names: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(&image.modules, &mut files)?;
    let mut ordered = Vec::new();
    for name in names {
        add(&files, &mut Vec::new(), &mut ordered, &kernel_name(name))
            .with_context(|| format!("kernel {}", image.release))?;
    }
    Ok(ordered)
}

/// Adds module `name` behind its dependencies; `path` is how it was reached.
fn add(
    files: &BTreeMap<String, PathBuf>,
    path: &mut Vec<String>,
    ordered: &mut Vec<Module>,
    name: &str,
) -> Result<()> {
    if ordered.iter().any(|module| module.name == name) {
        return Ok(());
    }
    if path.iter().any(|above| above == name) {
        bail!("modules depend on each other: {} → {name}", path.join(" → "));
    }
    let file = files.get(name).ok_or_else(|| anyhow!("there is no module {name}"))?;
    let object = decompress(file)?;
    let dependencies =
        dependencies(&object).ok_or_else(|| anyhow!("{} is not a module", file.display()))?;
    path.push(name.to_owned());
    for dependency in dependencies {
        add(files, path, ordered, &dependency)?;
    }
    path.pop();
    ordered.push(Module { name: name.to_owned(), object });
    Ok(())
}

/// Every module file under `dir`, by its name in the kernel.
fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in dir.read_dir().with_context(|| format!("{} cannot be read", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(kernel_name(name), path);
        }
    }
    Ok(())
}

fn kernel_name(name: &str) -> String {
    name.replace('-', "_")
}

fn decompress(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => {
            return fs::read(file).with_context(|| format!("{} cannot be read", file.display()));
        }
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{} is compressed in an unknown way", file.display()),
    };
    Ok(run(Command::new(program).args(["--decompress", "--stdout", "--quiet"]).arg(file))?.stdout)
}

/// What the `depends=` line of a module's `.modinfo` section names; `None` if `object` is no module.
fn dependencies(object: &[u8]) -> Option<Vec<String>> {
    let line = section(object, b".modinfo")?.split(|byte| *byte == 0).find_map(|line| {
        line.strip_prefix(b"depends=").and_then(|names| str::from_utf8(names).ok())
    })?;
    Some(line.split(',').filter(|name| !name.is_empty()).map(kernel_name).collect())
}

/// The bytes of section `name` of a 64-bit ELF object.
fn section<'a>(object: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let header = FileHeader64::<Endianness>::parse(object).ok()?;
    let endian = header.endian().ok()?;
    let (_, section) = header.sections(endian, object).ok()?.section_by_name(endian, name)?;
    section.data(endian, object).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF object with `.modinfo` as section 1 and the section names as section 2.
    fn object(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0.shstrtab\0";
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[0x3a..0x40].copy_from_slice(&[64, 0, 3, 0, 2, 0]);
        bytes.extend_from_slice(modinfo);
        bytes.extend_from_slice(names);
        let table = bytes.len() as u64;
        bytes[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        let place = |name: u32, offset: usize, size: usize| {
            let mut header = vec![0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            header
        };
        bytes.extend(place(0, 0, 0));
        bytes.extend(place(1, 64, modinfo.len()));
        bytes.extend(place(10, 64 + modinfo.len(), names.len()));
        bytes
    }

    fn kernel(modules: &[(&str, &[u8])]) -> (tempfile::TempDir, Image) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("drivers")).unwrap();
        for (file, bytes) in modules {
            fs::write(dir.path().join("drivers").join(file), bytes).unwrap();
        }
        let image = Image {
            release: "6.12.0".into(),
            vmlinuz: PathBuf::new(),
            modules: dir.path().to_owned(),
            suite: None,
        };
        (dir, image)
    }

    fn order(image: &Image, names: &[&str]) -> Result<Vec<String>> {
        Ok(closure(image, names)?.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn what_a_module_depends_on_comes_before_it_and_once() {
        let (_dir, image) = kernel(&[
            ("kvm-amd.ko", &object(b"license=GPL\0depends=kvm,irq-bypass\0")),
            ("kvm.ko", &object(b"depends=irq-bypass\0")),
            ("irq-bypass.ko", &object(b"depends=\0")),
            ("other.ko", &object(b"depends=\0")),
        ]);
        assert_eq!(order(&image, &["kvm-amd", "kvm"]).unwrap(), ["irq_bypass", "kvm", "kvm_amd"]);
    }

    #[test]
    fn a_circle_and_a_missing_module_are_errors_by_name() {
        let (_dir, image) =
            kernel(&[("one.ko", &object(b"depends=two\0")), ("two.ko", &object(b"depends=one\0"))]);
        let circle = format!("{:#}", order(&image, &["one"]).unwrap_err());
        assert!(circle.contains("one → two → one"), "{circle}");
        let missing = format!("{:#}", order(&image, &["three"]).unwrap_err());
        assert!(missing.contains("three"), "{missing}");
    }

    #[test]
    fn a_file_cut_anywhere_is_refused_without_a_panic() {
        let whole = object(b"depends=kvm\0");
        assert_eq!(dependencies(&whole).unwrap(), ["kvm"]);
        for length in 0..whole.len() {
            assert!(dependencies(&whole[..length]).is_none(), "cut at {length}");
        }
    }
}
