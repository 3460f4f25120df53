//! Layouts resolved from the BTF of real kernels.

#![expect(clippy::unwrap_used, reason = "what the tests share is test code too")]

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use proptest::prelude::*;

use tdtrace::kernel::{
    btf::{Btf, BtfSet, MemberKind, read_btf_bytes},
    layout::{Resolved, resolve},
};
use tdtrace_common::layout::KernelLayout;

const VMLINUX: &str = "vmlinux-7.3-cloud.btf.zst";
const SPLIT: &str = "kvm-intel-7.3-tdx.split.btf.zst";
const STANDALONE: &str = "kvm-intel-7.3-tdx.standalone.btf.zst";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/btf").join(name)
}

fn set(btf: &str, modules: &[&str]) -> BtfSet {
    let modules: Vec<PathBuf> = modules.iter().map(|name| fixture(name)).collect();
    BtfSet::from_files(&fixture(btf), &modules).unwrap()
}

fn missing(resolved: &Resolved) -> Vec<&str> {
    resolved.missing.iter().map(|(field, _)| field.name).collect()
}

/// What a 7.3 kernel with TDX in kvm_intel must give.
fn assert_tdx_answers(resolved: &Resolved) {
    for (name, offset) in [
        ("tdx_vt", 6464),
        ("vt_exit_reason", 80),
        ("tdx_vp_enter_args", 6608),
        ("tdx_vp_enter_ret", 6752),
        ("tdx_args_r10", 32),
        ("tdx_args_r11", 40),
        ("tdx_args_r12", 48),
    ] {
        assert_eq!(resolved.layout.get(name), Some(offset), "{name}");
        assert_eq!(resolved.member(name).unwrap().offset, offset, "{name}");
    }
}

#[test]
fn the_known_answers_come_out_of_split_and_of_standalone_btf() {
    let alone = resolve(&set(STANDALONE, &[]));
    let split = resolve(&set(VMLINUX, &[SPLIT]));
    let both = resolve(&set(VMLINUX, &[STANDALONE]));
    assert_tdx_answers(&alone);
    assert_tdx_answers(&split);
    assert_tdx_answers(&both);
    for field in KernelLayout::FIELDS {
        let (alone, split) = (alone.layout.get(field.name), split.layout.get(field.name));
        if let (Some(alone), Some(split)) = (alone, split) {
            assert_eq!(alone, split, "{}", field.name);
        }
    }
}

#[test]
fn struct_kvm_has_7104_bytes_in_both_compilations() {
    let standalone = Btf::parse(read_btf_bytes(&fixture(STANDALONE)).unwrap()).unwrap();
    assert_eq!(standalone.struct_size("kvm"), Ok(7104));
    let split = set(VMLINUX, &[SPLIT]);
    assert_eq!(split.kvm_intel.unwrap().struct_size("kvm"), Ok(7104));
}

#[test]
fn vmlinux_alone_refuses_vcpu_tdx_and_names_it() {
    let resolved = resolve(&set(VMLINUX, &[]));
    assert_eq!(resolved.layout.get("tdx_vp_enter_args"), None);
    assert_eq!(
        resolved.why_missing("tdx_vp_enter_args"),
        Some("no struct vcpu_tdx in BTF of vmlinux, and kvm_intel has no BTF of its own")
    );
    assert_eq!(
        missing(&resolved),
        [
            "vmx_exit_reason",
            "vmx_vt",
            "tdx_vt",
            "vt_exit_reason",
            "vt_exit_intr_info",
            "tdx_ext_exit_qualification",
            "tdx_exit_gpa",
            "tdx_vp_enter_args",
            "tdx_vp_enter_ret",
            "svm_vmcb",
            "vmcb_exit_code",
            "gmem_kvm",
            "gmem_file_kvm",
            "gmem_entry",
            "gmem_file_entry",
            "mapping_files",
            "gmem_inode_inode",
            "gmem_inode_files"
        ]
    );
}

#[test]
fn sizes_and_kinds_come_with_the_offsets() {
    let resolved = resolve(&set(VMLINUX, &[SPLIT]));
    let of = |name: &str| {
        let info = resolved.member(name).unwrap();
        (info.size, info.kind)
    };
    assert_eq!(of("kvm_vm_type"), (1, MemberKind::Integer));
    assert_eq!(of("vcpu_kvm"), (8, MemberKind::Pointer));
    assert_eq!(of("vt_exit_reason"), (4, MemberKind::Union));
    assert_eq!(of("stat_exits"), (8, MemberKind::Integer));
}

#[test]
fn a_kernel_of_two_forms_of_exit_reason_has_one_of_them() {
    let resolved = resolve(&set(VMLINUX, &[SPLIT]));
    assert_eq!(
        resolved.why_missing("vmx_exit_reason"),
        Some("struct vcpu_vmx has no member exit_reason")
    );
    assert!(resolved.layout.get("vmx_vt").is_some());
}

#[test]
fn functions_of_the_guest_side_are_in_vmlinux() {
    let set = set(VMLINUX, &[]);
    assert!(set.vmlinux.has_func("tdx_handle_virt_exception"));
    assert!(!set.vmlinux.has_func("tdx_handle_exit"));
    assert!(!set.has_tracepoint("kvm_exit"), "its KVM is a module");
}

#[test]
fn split_btf_as_the_kernel_itself_is_refused_with_the_next_step() {
    let error = BtfSet::from_files(&fixture(SPLIT), &[]).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.contains("split BTF belongs behind --module-btf"), "{text}");
}

#[test]
fn two_files_of_one_module_are_refused() {
    let modules = [fixture(SPLIT), fixture(STANDALONE)];
    let error = BtfSet::from_files(&fixture(VMLINUX), &modules).unwrap_err();
    assert!(error.to_string().ends_with("is a second file for kvm_intel; give one"), "{error}");
}

#[test]
fn raw_compressed_and_elf_files_give_the_same_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let raw = read_btf_bytes(&fixture(STANDALONE)).unwrap();
    let raw_path = directory.path().join("raw");
    fs::write(&raw_path, &raw).unwrap();
    assert_eq!(read_btf_bytes(&raw_path).unwrap(), raw);

    let elf_path = directory.path().join("elf");
    fs::write(&elf_path, elf(&[(".text", b"code"), (".BTF", &raw)])).unwrap();
    assert_eq!(read_btf_bytes(&elf_path).unwrap(), raw);
}

#[test]
fn files_without_usable_btf_are_refused_with_the_next_step() {
    let directory = tempfile::tempdir().unwrap();
    for (name, bytes, reason) in [
        ("no-btf", elf(&[(".text", b"code")]), "CONFIG_DEBUG_INFO_BTF"),
        ("own-base", elf(&[(".BTF", b"btf"), (".BTF.base", b"base")]), "/sys/kernel/btf"),
        ("module.xz", b"\xfd7zXZ\0....".to_vec(), "`xz -dk`"),
        ("module.gz", b"\x1f\x8b......".to_vec(), "`gzip -dk`"),
        ("cut.zst", fs::read(fixture(SPLIT)).unwrap()[..1000].to_vec(), "cannot be read"),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = format!("{:#}", read_btf_bytes(&path).unwrap_err());
        assert!(error.contains(reason), "{name}: {error}");
    }
    let absent = read_btf_bytes(&directory.path().join("absent")).unwrap_err();
    assert!(absent.to_string().ends_with("absent cannot be opened"), "{absent}");
}

/// A 64-bit little-endian ELF file with these sections, behind a null section and their names.
fn elf(sections: &[(&str, &[u8])]) -> Vec<u8> {
    let mut names = vec![0];
    let mut file = vec![0; 64];
    let mut headers = vec![0; 64];
    let mut header = |name: usize, offset: usize, size: usize| {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&u32::try_from(name).unwrap().to_le_bytes());
        bytes[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
        bytes[32..40].copy_from_slice(&(size as u64).to_le_bytes());
        headers.extend(bytes);
    };
    for (name, content) in sections {
        header(names.len(), file.len(), content.len());
        names.extend(name.as_bytes());
        names.push(0);
        file.extend(*content);
    }
    header(0, file.len(), names.len());
    file.extend(names);
    let count = u16::try_from(sections.len() + 2).unwrap();
    let table = file.len() as u64;
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[40..48].copy_from_slice(&table.to_le_bytes());
    file[58..60].copy_from_slice(&64_u16.to_le_bytes());
    file[60..62].copy_from_slice(&count.to_le_bytes());
    file[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    file.extend(headers);
    file
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_kernel_btf_does_no_harm(
        cut in prop::option::of(any::<prop::sample::Index>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..16),
    ) {
        let mut bytes = read_btf_bytes(&fixture(STANDALONE)).unwrap();
        for (place, bit) in flips {
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let started = Instant::now();
        if let Ok(btf) = Btf::parse(bytes) {
            let resolved = resolve(&BtfSet::new(btf));
            let answers = resolved.found.len() + resolved.missing.len();
            prop_assert_eq!(answers, KernelLayout::FIELDS.len());
        }
        prop_assert!(started.elapsed().as_secs() < 10, "took {:?}", started.elapsed());
    }

    #[test]
    fn a_damaged_compressed_file_does_no_harm(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..4),
    ) {
        let mut bytes = fs::read(fixture(SPLIT)).unwrap();
        for (place, bit) in flips {
            let at = place.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        if let Ok(bytes) = read_btf_bytes(file.path()) {
            prop_assert!(bytes.len() <= 64 << 20);
        }
    }
}

#[test]
fn a_file_that_unpacks_to_too_much_is_refused() {
    // One zstd frame without a content size: an 8 MiB window and blocks that repeat one byte.
    let mut bomb = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 13 << 3];
    let block = |last: u32| [&((128 << 10) << 3 | 1 << 1 | last).to_le_bytes()[..3], &[0]].concat();
    for _ in 0..65 * 8 {
        bomb.extend(block(0));
    }
    bomb.extend(block(1));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bomb).unwrap();
    let error = format!("{:#}", read_btf_bytes(file.path()).unwrap_err());
    assert!(error.contains("it holds more than 64 MiB"), "{error}");
}

#[test]
fn split_btf_over_the_btf_of_another_kernel_is_refused() {
    let mut other = BtfSet::from_files(&fixture(STANDALONE), &[]).unwrap();
    let error = format!("{:#}", other.add_files(&[fixture(SPLIT)]).unwrap_err());
    assert!(error.contains("split BTF that wants another base"), "{error}");
}
