//! Sites of a small kernel and its module, laid out as a machine; `tests/fixtures/sites` has the
//! files and their source.

use std::{fs, path::PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{bytes::Bytes, devices::Devices, *};

const VMLINUX: &[u8] = include_bytes!("../../tests/fixtures/sites/vmlinux");
const MODULE: &[u8] = include_bytes!("../../tests/fixtures/sites/acme.ko");
const RELEASE: &str = "6.12.0-acme";
/// How far the kernel is moved, and where the module's sections are.
const SLIDE: u64 = 0x1_2000_0000;
const TEXT: u64 = 0xffff_ffff_c0a0_0000;
const INIT: u64 = 0xffff_ffff_c0b0_0000;

struct Machine(TempDir);

impl Machine {
    /// A machine that runs the kernel, without debug files.
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let text = 0xffff_ffff_8100_0000_u64.wrapping_add(SLIDE);
        let kallsyms = format!(
            "{text:x} T _text\n{text:x} t twin\n{:x} T core_read\n{:x} T core_sum\n\
             {TEXT:x} t acme_poll\t[acme]\n{:x} t acme_isr\t[acme]\n{INIT:x} t acme_start\t[acme]\n",
            text + 0x10,
            text + 0x20,
            TEXT + 0x10,
        );
        machine.put("proc/kallsyms", kallsyms);
        machine.put("proc/sys/kernel/osrelease", format!("{RELEASE}\n"));
        machine.put("sys/kernel/notes", note(VMLINUX));
        machine.put("sys/module/acme/notes/.note.gnu.build-id", note(MODULE));
        machine.put("sys/module/acme/sections/.text", format!("{TEXT:#x}\n"));
        machine.put("sys/module/acme/sections/.init.text", format!("{INIT:#x}\n"));
        machine
    }

    fn with_debug_files() -> Self {
        let machine = Self::new();
        machine.put(&format!("usr/lib/debug/boot/vmlinux-{RELEASE}"), VMLINUX);
        let module =
            format!("usr/lib/debug/lib/modules/{RELEASE}/kernel/drivers/net/acme.ko.debug");
        machine.put(&module, MODULE);
        machine
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn options(&self) -> Options {
        Options { root: self.0.path().into(), ..Options::default() }
    }

    fn sites(&self) -> Sites {
        Sites::running(self.options()).unwrap()
    }
}

/// The build id of an image as a kernel shows it.
fn note(image: &[u8]) -> Vec<u8> {
    let image = Image::parse("image".into(), image.to_vec().into()).unwrap();
    let id = image.build_id().unwrap();
    let mut note = [4_u32, id.len() as u32, 3].map(u32::to_le_bytes).concat();
    note.extend(b"GNU\0");
    note.extend(id);
    note
}

fn functions(site: &Site) -> Vec<&str> {
    site.chain.iter().flatten().map(|frame| frame.function.as_str()).collect()
}

#[test]
fn a_site_of_the_running_kernel_has_its_chain_wherever_the_kernel_is() {
    let mut sites = Machine::with_debug_files().sites();
    let site = sites.site(&"core_read+0x0".parse().unwrap()).unwrap();
    assert_eq!(site.address, 0xffff_ffff_8100_0010_u64.wrapping_add(SLIDE));
    assert_eq!((site.function.as_deref(), site.module.as_deref()), (Some("core_read"), None));
    assert_eq!(functions(&site), ["readl", "core_read"], "{site:?}");
    assert_eq!(site.chain.unwrap()[1].file.as_deref(), Some("drivers/net/core.c"));
    assert_eq!(site.bytes[0], 0x8b);
    assert_eq!(sites.release(), RELEASE);
}

#[test]
fn the_exception_table_is_read_of_kernels_and_of_modules() {
    for (image, function) in [(VMLINUX, "core_try"), (MODULE, "acme_try")] {
        let image = Image::parse("image".into(), image.to_vec().into()).unwrap();
        let table = image.exception_table().unwrap();
        let functions = image.functions();
        let [only] = table[..] else { panic!("{table:x?}") };
        assert_eq!(functions.at(only).unwrap().name, function);
        // MOV, as it is the instruction and not the way out.
        assert_eq!(image.read(only, 1), Some(&[0x8b][..]));
    }
    let machine = Machine::with_debug_files();
    assert_eq!(machine.sites().at(TEXT).in_exception_table, Some(false));
}

#[test]
fn a_modules_sections_are_where_sysfs_says() {
    let machine = Machine::with_debug_files();
    let mut sites = machine.sites();
    let poll = sites.at(TEXT);
    assert_eq!(functions(&poll), ["readl", "acme_status", "acme_poll"], "{poll:?}");
    assert_eq!((poll.module.as_deref(), poll.offset), (Some("acme"), 0));
    assert_eq!(functions(&sites.at(TEXT + 0x10)), ["acme_isr"]);
    assert_eq!(functions(&sites.at(INIT + 5)), ["writel", "acme_start"]);
    // Without root the sections are hidden, and the function's name tells.
    machine.put("sys/module/acme/sections/.text", "0x0\n");
    assert_eq!(functions(&machine.sites().at(TEXT + 0x10)), ["acme_isr"]);
}

#[test]
fn without_debug_files_the_function_is_known_and_the_reason_said() {
    let mut sites = Machine::new().sites();
    let site = sites.site(&"acme_isr+0x0 [acme]".parse().unwrap()).unwrap();
    assert_eq!((site.function.as_deref(), &site.chain), (Some("acme_isr"), &None));
    assert!(site.note.unwrap().contains("install the kernel's debug package"));
    assert!(sites.kernel_file().unwrap_err().contains("no vmlinux"));
}

#[test]
fn a_kernel_of_another_build_is_refused() {
    let machine = Machine::with_debug_files();
    let mut other = note(VMLINUX);
    *other.last_mut().unwrap() ^= 1;
    machine.put("sys/kernel/notes", other);
    let mut sites = machine.sites();
    let site = sites.site(&"core_read".parse().unwrap()).unwrap();
    assert!(site.chain.is_none() && site.note.unwrap().contains("another build"));
    let vmlinux = Some(machine.0.path().join(format!("usr/lib/debug/boot/vmlinux-{RELEASE}")));
    let error = Sites::running(Options { vmlinux, ..machine.options() }).err().unwrap();
    assert!(error.to_string().contains("another build than the running kernel"), "{error}");
}

#[test]
fn a_module_of_another_build_is_refused() {
    let machine = Machine::with_debug_files();
    let mut other = note(MODULE);
    *other.last_mut().unwrap() ^= 1;
    machine.put("sys/module/acme/notes/.note.gnu.build-id", other);
    let site = machine.sites().at(TEXT);
    assert!(site.chain.is_none() && site.note.unwrap().contains("another build"));
}

#[test]
fn a_module_that_comes_is_found_and_the_kernels_file_stays_open() {
    let machine = Machine::with_debug_files();
    let path = machine.0.path().join("proc/kallsyms");
    let all = fs::read_to_string(&path).unwrap();
    let before: String = all.split_inclusive('\n').filter(|line| !line.contains('[')).collect();
    fs::write(&path, before).unwrap();
    let mut sites = machine.sites();
    assert_eq!(sites.at(TEXT + 0x10).function, None);
    fs::write(&path, all).unwrap();
    let kernel = format!("usr/lib/debug/boot/vmlinux-{RELEASE}");
    fs::remove_file(machine.0.path().join(kernel)).unwrap();
    sites.modules_changed(Arc::new(Symbols::read(machine.0.path()).unwrap()));
    assert_eq!(functions(&sites.at(TEXT + 0x10)), ["acme_isr"]);
    let read = 0xffff_ffff_8100_0010_u64.wrapping_add(SLIDE);
    assert_eq!(functions(&sites.at(read)), ["readl", "core_read"]);
}

#[test]
fn hidden_addresses_are_an_error_with_its_next_step() {
    let machine = Machine::new();
    machine.put("proc/kallsyms", "0000000000000000 T _text\n");
    let error = Sites::running(machine.options()).err().unwrap().to_string();
    assert!(error.contains("kptr_restrict"), "{error}");
}

#[test]
fn files_of_another_kernel_are_read_by_their_own_addresses() {
    let machine = Machine::new();
    let options = Options {
        vmlinux: Some(machine.put("files/vmlinux", VMLINUX)),
        modules: vec![machine.put("files/acme.ko", MODULE)],
        ..machine.options()
    };
    let mut sites = Sites::of_files(options).unwrap();
    assert_eq!((sites.release(), sites.is_live()), (RELEASE, false));
    assert_eq!(functions(&sites.at(0xffff_ffff_8100_0010)), ["readl", "core_read"]);
    let poll = sites.site(&"acme_poll [acme]".parse().unwrap()).unwrap();
    assert_eq!(functions(&poll), ["readl", "acme_status", "acme_poll"]);
    let error = sites.site(&"acme_pol".parse().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "no function is called acme_pol");
}

#[test]
fn a_name_that_several_functions_have_wants_more() {
    let machine = Machine::new();
    let path = machine.0.path().join("proc/kallsyms");
    let twice = fs::read_to_string(&path).unwrap() + &format!("{:x} t twin\t[acme]\n", TEXT + 0x40);
    fs::write(path, twice).unwrap();
    let mut sites = machine.sites();
    let error = sites.site(&"twin".parse().unwrap()).unwrap_err().to_string();
    assert!(error.starts_with("2 functions are called twin"), "{error}");
    assert_eq!(sites.site(&"twin [acme]".parse().unwrap()).unwrap().address, TEXT + 0x40);
    assert!(sites.site(&"twin+0x3/0x10".parse().unwrap()).is_ok());
}

#[test]
fn compressed_modules_are_unpacked_or_named() {
    let machine = Machine::new();
    let dir = format!("usr/lib/debug/lib/modules/{RELEASE}/extra");
    let packed =
        ruzstd::encoding::compress_to_vec(MODULE, ruzstd::encoding::CompressionLevel::Fastest);
    let zstd = machine.put(&format!("{dir}/acme.ko.zst"), packed);
    assert_eq!(functions(&machine.sites().at(TEXT + 0x10)), ["acme_isr"]);
    fs::remove_file(zstd).unwrap();
    machine.put(&format!("{dir}/acme.ko.xz"), b"\xfd7zXZ\0\0\0");
    let note = machine.sites().at(TEXT).note.unwrap();
    assert!(note.contains("xz -dk"), "{note}");
}

fn machine_with_devices() -> Machine {
    let machine = Machine::new();
    machine.put(
        "proc/iomem",
        "00001000-0009fbff : System RAM\n\
         b0000000-bfffffff : PCI ECAM 0000 [bus 00-ff]\n\
         c0000000-febfffff : PCI Bus 0000:00\n\
         \x20 fd000000-fd003fff : 0000:00:04.0\n\
         \x20   fd000000-fd003fff : acme\n\
         fec00000-fec003ff : IOAPIC 0\n\
         100000000-17fffffff : System RAM\n\
         \x20 102000000-1030d1d2f : Kernel code\n",
    );
    machine.put("proc/ioports", "0000-0cf7 : PCI Bus 0000:00\n  03f8-03ff : serial\n");
    let device = "sys/bus/pci/devices/0000:00:04.0";
    machine.put(
        &format!("{device}/resource"),
        "0x00000000fd000000 0x00000000fd003fff 0x0000000000040200\n\
         0x000000000000c000 0x000000000000c01f 0x0000000000040101\n",
    );
    for (name, value) in [("vendor", "0x1af4"), ("device", "0x1041"), ("class", "0x020000")] {
        machine.put(&format!("{device}/{name}"), format!("{value}\n"));
    }
    let driver = machine.0.path().join(device).join("driver");
    std::os::unix::fs::symlink("../../../bus/pci/drivers/acme", driver).unwrap();
    machine
}

#[test]
fn an_address_is_a_bar_of_a_device_with_its_driver() {
    let machine = machine_with_devices();
    let devices = Devices::read(machine.0.path());
    let bar = devices.at(0xfd00_0014);
    assert_eq!(bar.line(), "0000:00:04.0 BAR0+0x14 [1af4:1041] class 0x020000, driver acme");
    assert_eq!(bar.ranges, ["PCI Bus 0000:00", "0000:00:04.0", "acme"]);
    let port = devices.at_port(0xc004);
    assert_eq!((port.bar, port.offset.map(|offset| offset.0)), (Some(1), Some(4)));
    assert_eq!(devices.at_port(0x3f9).line(), "COM1");
}

#[test]
fn fixed_ranges_have_their_names_and_ram_is_no_device() {
    let machine = machine_with_devices();
    let devices = Devices::read(machine.0.path());
    assert_eq!(devices.at(0xfec0_0010).line(), "I/O APIC");
    assert_eq!(devices.at(0xfed0_00f0).line(), "HPET");
    assert_eq!(devices.at(0xb000_8004).line(), "PCI ECAM 0000 [bus 00-ff]+0x8004");
    let ram = devices.at(0x1_0200_0000);
    assert!(ram.ram && ram.line().contains("shared RAM"), "{ram:?}");
    assert_eq!(devices.at(0xdead_0000_0000).line(), "nothing that is known");
}

#[test]
fn hidden_resources_say_so_and_bars_are_known_all_the_same() {
    let machine = machine_with_devices();
    machine.put("proc/iomem", "00000000-00000000 : System RAM\n00000000-00000000 : acme\n");
    let devices = Devices::read(machine.0.path());
    assert!(devices.note.as_deref().unwrap().contains("run as root"));
    assert!(!devices.at(0).ram);
    assert_eq!(devices.at(0xfd00_0014).bar, Some(0));
}

/// Everything that can be asked of an image, of addresses in it.
fn ask(image: Vec<u8>) {
    let Ok(image) = Image::parse("odd".into(), Bytes::from(image)) else { return };
    drop(image.functions());
    drop(image.release());
    drop(image.exception_table());
    let Ok(lines) = Lines::of(&image) else { return };
    for section in image.sections().iter().take(8) {
        for offset in [0, 5, 0x10] {
            let address = section.addresses.start.wrapping_add(offset);
            drop(lines.chain(address));
            drop(lines.line(address));
            assert!(image.read(address, CODE).is_none_or(|bytes| bytes.len() <= CODE));
        }
    }
}

#[test]
fn an_image_cut_anywhere_is_refused_or_read() {
    for whole in [VMLINUX, MODULE] {
        (0..whole.len()).step_by(7).for_each(|length| ask(whole[..length].to_vec()));
    }
}

/// An ELF file with an entry of debug information for each of `depth` functions that are inlined
/// into each other.
fn nested(depth: usize) -> Vec<u8> {
    const BASE: u64 = 0xffff_ffff_8100_0000;
    // A unit and a subprogram with low and high addresses, an inlined subroutine with nothing.
    let abbreviations: &[u8] =
        b"\x01\x11\x01\x11\x01\x12\x07\0\0\x02\x2e\x01\x11\x01\x12\x07\0\0\x03\x1d\x01\0\0\0";
    let mut entries = b"\x04\0\0\0\0\0\x08".to_vec();
    for code in [1, 2] {
        entries.push(code);
        entries.extend(BASE.to_le_bytes());
        entries.extend(16_u64.to_le_bytes());
    }
    entries.extend(vec![3; depth]);
    entries.extend(vec![0; depth + 2]);
    let mut info = (entries.len() as u32).to_le_bytes().to_vec();
    info.extend(entries);
    let names: &[u8] = b"\0.text\0.debug_info\0.debug_abbrev\0.names\0";
    let code = [0x90; 16];
    let parts: [(u32, u32, u64, u64, &[u8]); 4] = [
        (1, 1, 6, BASE, &code),
        (7, 1, 0, 0, &info),
        (19, 1, 0, 0, abbreviations),
        (33, 3, 0, 0, names),
    ];
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.resize(64, 0);
    let mut headers = vec![0; 64];
    for (name, kind, flags, address, content) in parts {
        let mut header = name.to_le_bytes().to_vec();
        header.extend(kind.to_le_bytes());
        let words = [flags, address, file.len() as u64, content.len() as u64, 0, 1, 0];
        words.iter().for_each(|word| header.extend(word.to_le_bytes()));
        headers.extend(header);
        file.extend(content);
    }
    let table = file.len() as u64;
    file[40..48].copy_from_slice(&table.to_le_bytes());
    for (at, half) in [(52, 64_u16), (58, 64), (60, 5), (62, 4)] {
        file[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
    file.extend(headers);
    file
}

#[test]
fn entries_that_are_nested_too_deeply_are_refused() {
    let chain = |depth| {
        let image = Image::parse("nested".into(), nested(depth).into()).unwrap();
        Lines::of(&image).unwrap().chain(0xffff_ffff_8100_0004)
    };
    assert!(chain(100).is_ok());
    for depth in [2_000, 4_000_000] {
        let error = chain(depth).unwrap_err().to_string();
        assert!(error.contains("nested deeper"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_images_are_refused_or_read(
        module: bool,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut image = if module { MODULE } else { VMLINUX }.to_vec();
        for (at, value) in changes {
            let at = at.index(image.len());
            image[at] = value;
        }
        ask(image);
    }

    #[test]
    fn any_bytes_are_no_image_or_an_odd_one(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut image = b"\x7fELF\x02\x01\x01".to_vec();
        image.extend(bytes);
        ask(image);
    }

    #[test]
    fn any_resources_are_read(text in "[0-9a-f\\-: SystemRA\\n]{0,300}", address: u64) {
        let machine = Machine(tempfile::tempdir().unwrap());
        machine.put("proc/iomem", &text);
        machine.put("sys/bus/pci/devices/0000:00:00.0/resource", &text);
        let device = Devices::read(machine.0.path()).at(address);
        prop_assert!(!device.line().is_empty());
    }
}
