//! What `tdtrace doctor` says about machines laid out as files.

#![expect(clippy::unwrap_used, reason = "what the tests share is test code too")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tdtrace::{
    doctor::{BtfSource, GuestFacts, Report, Status},
    kernel::{
        Facts, Seen,
        btf::{Btf, BtfSet, read_btf_bytes},
        privilege::Lockdown,
    },
    probe::{
        guest::{GUEST_PROBES, Place},
        table::PROBES,
    },
};

const VMLINUX: &str = "vmlinux-7.3-cloud.btf.zst";
const SPLIT: &str = "kvm-intel-7.3-tdx.split.btf.zst";
const STANDALONE: &str = "kvm-intel-7.3-tdx.standalone.btf.zst";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/btf").join(name)
}

/// BTF of a module kvm over [`VMLINUX`]: two functions, and what is behind an open guest_memfd.
fn kvm_btf() -> Vec<u8> {
    let vmlinux = Btf::parse(read_btf_bytes(&fixture(VMLINUX)).unwrap()).unwrap();
    let (prototype, mut strings) = (vmlinux.type_count(), Vec::new());
    let mut name = |name: &str| {
        let at = vmlinux.string_length() + u32::try_from(strings.len()).unwrap();
        strings.extend(name.bytes().chain([0]));
        at
    };
    let types = [
        // A prototype without parameters, three functions, a pointer, two structures of two members.
        [0, 13 << 24, 0].as_slice(),
        &[name("kvm_vm_ioctl"), 12 << 24, prototype],
        &[name("kvm_gmem_fallocate"), 12 << 24, prototype],
        &[name("kvm_gmem_error_folio"), 12 << 24, prototype],
        &[0, 2 << 24, 0],
        &[name("gmem_file"), 4 << 24 | 2, 16],
        &[name("kvm"), prototype + 4, 0, name("entry"), prototype + 4, 64],
        &[name("gmem_inode"), 4 << 24 | 2, 16],
        &[name("vfs_inode"), prototype + 4, 0, name("gmem_file_list"), prototype + 4, 64],
    ]
    .concat();
    let [types_length, strings_length] =
        [4 * types.len(), strings.len()].map(|length| u32::try_from(length).unwrap());
    // Magic and version, then the header's own length and where the two parts are.
    let header = [0x0001_eb9f, 24, 0, types_length, types_length, strings_length];
    let words = header.into_iter().chain(types).flat_map(u32::to_le_bytes);
    words.chain(strings).collect()
}

/// A machine laid out as files below a temporary root.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn directory(self, path: &str) -> Self {
        fs::create_dir_all(self.root.path().join(path)).unwrap();
        self
    }

    /// What every Linux has, on a CPU with these flags.
    fn linux(self, release: &str, flags: &str) -> Self {
        let clocksource = "sys/devices/system/clocksource/clocksource0";
        let machine = self
            .file("proc/sys/kernel/osrelease", release)
            .file("proc/cpuinfo", format!("processor\t: 0\nflags\t\t: fpu tsc {flags}\n"))
            .file("proc/sys/kernel/perf_event_paranoid", "2\n")
            .file("proc/sys/kernel/unprivileged_bpf_disabled", "2\n")
            .file("sys/devices/system/cpu/possible", "0-127\n")
            .file(&format!("{clocksource}/current_clocksource"), "tsc\n")
            .file(&format!("{clocksource}/available_clocksource"), "tsc hpet acpi_pm\n")
            .file("sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
            .directory("proc/self/ns");
        symlink("user:[4026531837]", machine.root.path().join("proc/self/ns/user")).unwrap();
        machine
    }

    fn root_user(self) -> Self {
        self.file("proc/self/status", "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n")
            .file("proc/sys/net/core/bpf_jit_enable", "1\n")
    }

    fn kvm(self, modules: &[&str]) -> Self {
        let machine = self
            .file("proc/self/mounts", "tracefs /sys/kernel/tracing tracefs rw 0 0\n")
            .file("dev/kvm", "")
            .directory("sys/class/misc/kvm");
        let machine = modules.iter().fold(machine, |machine, module| {
            machine.file(&format!("sys/module/{module}/initstate"), "live\n")
        });
        PROBES.iter().fold(machine, |machine, probe| {
            machine.directory(&format!("sys/kernel/tracing/events/kvm/{}", probe.tracepoint))
        })
    }

    fn btf(self, name: &str, bytes: &[u8]) -> Self {
        self.file(&format!("sys/kernel/btf/{name}"), bytes)
    }

    /// A TDX host with Debian's 7.3 kernel, kprobes, and a kvm_intel that has TDX.
    fn tdx_host() -> Self {
        Self::new()
            .directory("sys/bus/event_source/devices/kprobe")
            .linux("7.3.4-cloud-amd64", "vmx tdx_host_platform")
            .root_user()
            .kvm(&["kvm", "kvm_intel"])
            .file("sys/module/kvm_intel/parameters/tdx", "Y\n")
            .file("sys/devices/faux/tdx_host/version", "2.0.08\n")
            .btf("vmlinux", &read_btf_bytes(&fixture(VMLINUX)).unwrap())
            .btf("kvm", &kvm_btf())
            .btf("kvm_intel", &read_btf_bytes(&fixture(SPLIT)).unwrap())
    }

    fn facts(&self) -> Facts {
        Facts::read(self.root.path())
    }

    fn source(&self) -> BtfSource {
        let root = format!("{}/", self.root.path().display());
        let set = BtfSet::running(self.root.path())
            .map_err(|error| format!("{error:#}").replace(&root, "/"));
        BtfSource { files: Vec::new(), set }
    }

    fn report(&self) -> Report {
        Report::new(&self.facts(), &self.source())
    }

    /// A TD with Debian's 7.3 kernel, with the functions that the probes are on, and with kprobes.
    fn td() -> Self {
        let functions = GUEST_PROBES.iter().filter_map(|probe| match probe.place {
            Place::Function { name, module: None, .. } => Some(name),
            _ => None,
        });
        let functions: String = functions
            .map(|name| format!("ffffffff81000000 T {name}\n"))
            .chain(["ffffffff82000000 D cc_mask\n".to_owned()])
            .collect();
        Self::new()
            .linux("7.3.4-cloud-amd64", "hypervisor tdx_guest")
            .root_user()
            .file("proc/kallsyms", functions)
            .directory("sys/bus/event_source/devices/kprobe")
            .btf("vmlinux", &read_btf_bytes(&fixture(VMLINUX)).unwrap())
    }

    fn guest_report(&self) -> Report {
        let facts = GuestFacts::read(self.root.path());
        let root = format!("{}/", self.root.path().display());
        let facts = GuestFacts {
            symbols: facts.symbols.map_err(|why| why.replace(&root, "/")),
            debug: facts.debug.map_err(|why| why.replace(&root, "/")),
            ..facts
        };
        self.report().with_guest(&self.facts(), &self.source(), &facts)
    }
}

/// What holds for every report.
fn assert_sound(report: &Report) {
    let text = report.to_text();
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert_eq!(line, line.trim_end(), "blanks at the end");
    }
    assert!(text.contains("never met TDX hardware"));
    let checks = report.sections.iter().flat_map(|section| &section.checks);
    let probes = || report.probes.iter().chain(&report.guest_probes);
    for check in checks.chain(probes().map(|probe| &probe.check)) {
        assert_eq!(check.next.is_none(), check.status == Status::Ok, "{}", check.name);
        assert!(!check.finding.is_empty(), "{}", check.name);
    }
    assert_eq!(report.can_count, probes().any(|probe| probe.visible));
    assert_eq!(report.first_step.is_none(), report.can_count);
    serde_json::to_string(report).unwrap();
}

#[test]
fn a_tdx_host_shows_everything() {
    let report = Machine::tdx_host().report();
    assert_sound(&report);
    assert!(report.probes.iter().all(|probe| probe.check.status == Status::Ok));
    insta::assert_snapshot!("tdx_host_text", report.to_text());
}

#[test]
fn the_json_form_is_stable() {
    let report = Machine::tdx_host().report();
    insta::assert_snapshot!("tdx_host_json", serde_json::to_string_pretty(&report).unwrap());
}

#[test]
fn a_user_who_is_not_root_is_told_what_could_not_be_read() {
    let machine = Machine::tdx_host()
        .file("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n");
    let denied = || "permission denied".to_owned();
    let mut facts = machine.facts();
    facts.tracefs.kvm_events = Seen::Unreadable(denied());
    facts.privilege.bpf_jit = Seen::Unreadable(denied());
    let report = Report::new(&facts, &machine.source());
    assert_sound(&report);
    assert_eq!(report.first_step.as_deref(), Some("run tdtrace with sudo"));
    insta::assert_snapshot!("not_root_text", report.to_text());
}

#[test]
fn a_machine_without_kvm_and_btf_is_told_so() {
    let report = Machine::new().linux("4.19.0-27-amd64", "hypervisor").root_user().report();
    assert_sound(&report);
    assert!(!report.can_count);
    insta::assert_snapshot!("no_kvm_no_btf_text", report.to_text());
}

#[test]
fn a_machine_that_tells_nothing_gives_a_report_all_the_same() {
    let report = Machine::new().report();
    assert_sound(&report);
    assert!(!report.can_count);
    insta::assert_snapshot!("nothing_text", report.to_text());
}

#[test]
fn btf_from_a_file_is_judged_by_itself() {
    let machine = Machine::new().linux("6.1.0-18-amd64", "svm").root_user();
    let set = BtfSet::from_files(&fixture(STANDALONE), &[]).map_err(|error| error.to_string());
    let source = BtfSource { files: vec![STANDALONE.to_owned()], set };
    let report = Report::new(&machine.facts(), &source);
    assert_sound(&report);
    let field = |name| report.fields.iter().find(|field| field.name == name).unwrap();
    assert_eq!(field("tdx_vt").found.unwrap().offset, 6464);
    assert_eq!(
        field("vmx_exit_reason").why.as_deref(),
        Some("struct vcpu_vmx has no member exit_reason")
    );
    insta::assert_snapshot!("btf_file_text", report.to_text());
}

#[test]
fn vmlinux_alone_switches_off_what_needs_vcpu_tdx() {
    let machine = Machine::tdx_host();
    let set = BtfSet::from_files(&fixture(VMLINUX), &[]).map_err(|error| error.to_string());
    let report = Report::new(&machine.facts(), &BtfSource { files: Vec::new(), set });
    assert_sound(&report);
    assert!(report.can_count);
    let exit = report.probes.iter().find(|probe| probe.check.name == "kvm_exit").unwrap();
    assert!(exit.visible);
    assert_eq!(exit.check.status, Status::Limited);
    assert_eq!(exit.check.finding, "VM exits are counted without their reason");
    assert_eq!(exit.check.next.as_deref(), Some("see vmx_reason in section layout"));
    let layout = report.sections.iter().find(|section| section.name == "layout").unwrap();
    let td_exits = layout.checks.iter().find(|check| check.name == "td_exits").unwrap();
    assert_eq!(
        td_exits.finding,
        "exits of TDs are counted without their TDVMCALL leaf: no struct vcpu_tdx in BTF of \
         vmlinux, and kvm_intel has no BTF of its own"
    );
}

#[test]
fn what_blocks_everything_is_the_first_step() {
    type Change = fn(&mut Facts);
    let cases: [(Change, &str); 6] = [
        (
            |facts| facts.privilege.lockdown = Seen::Is(Lockdown::Confidentiality),
            "boot with lockdown=integrity or without lockdown",
        ),
        (
            |facts| facts.privilege.initial_user_namespace = Seen::Is(false),
            "run tdtrace outside of the container or user namespace",
        ),
        (|facts| facts.privilege.credentials = Seen::Absent, "mount procfs on /proc"),
        (
            |facts| facts.tracefs.kvm_events = Seen::Is(vec!["kvm_eoi".into()]),
            "nothing: another kernel may have it",
        ),
        (|facts| facts.kvm.kvm = tdtrace::kernel::kvm::Presence::Absent, "modprobe kvm_intel"),
        (
            |facts| {
                facts.kvm.kvm = tdtrace::kernel::kvm::Presence::Absent;
                facts.cpuid_says_td = Some(true);
            },
            "run tdtrace on the host of this TD",
        ),
    ];
    let machine = Machine::tdx_host();
    let source = machine.source();
    for (change, step) in cases {
        let mut facts = machine.facts();
        change(&mut facts);
        let report = Report::new(&facts, &source);
        assert_sound(&report);
        assert_eq!(report.first_step.as_deref(), Some(step));
        assert_eq!(report.summary, format!("tdtrace cannot count here. First: {step}."));
    }
}

#[test]
fn a_software_kvm_attaches_entry_and_exit_and_never_fires_them() {
    let machine = Machine::tdx_host();
    fs::remove_dir_all(machine.root.path().join("sys/module/kvm_intel")).unwrap();
    let report = machine.directory("sys/module/kvm_pvm").report();
    assert_sound(&report);
    assert!(report.can_count);
    for probe in &report.probes {
        let fires = !matches!(probe.check.name, "kvm_entry" | "kvm_exit");
        assert_eq!(probe.visible, fires, "{}", probe.check.name);
        assert_eq!(probe.check.finding.starts_with("attaches, but this KVM never"), !fires);
    }
}

#[test]
fn what_a_vmm_does_is_seen_by_kprobe_by_the_tracepoint_or_said_not_to_be() {
    let machine = Machine::tdx_host();
    let of = |report: &Report, name: &str| {
        let probe = report.probes.iter().find(|probe| probe.check.name == name).unwrap();
        (probe.visible, probe.check.status, probe.check.finding.clone())
    };
    let [attributes, holes] = ["kvm_vm_set_mem_attributes", "kvm_gmem_fallocate"];
    let report = machine.report();
    let (visible, status, finding) = of(&report, attributes);
    assert!(visible && status == Status::Ok && finding.starts_with("by kprobe on kvm_vm_ioctl: "));
    assert!(of(&report, holes).2.starts_with("by kprobe: "));
    // A kernel that keeps root from functions: the tracepoint is there, for holes there is nothing.
    let mut facts = machine.facts();
    facts.tracefs.functions = Seen::Unreadable("permission denied".to_owned());
    let report = Report::new(&facts, &machine.source());
    assert_sound(&report);
    let (visible, _, finding) = of(&report, attributes);
    assert!(visible && finding == "memory that the VMM makes private or shared");
    assert_eq!((of(&report, holes).0, of(&report, holes).1), (false, Status::Unknown));
    // Without kprobes it is the same, and known.
    fs::remove_dir(machine.root.path().join("sys/bus/event_source/devices/kprobe")).unwrap();
    let report = machine.report();
    assert!(of(&report, attributes).0);
    assert_eq!((of(&report, holes).0, of(&report, holes).1), (false, Status::Missing));
    // Without the tracepoint either it is not known what can be seen.
    let mut facts = machine.facts();
    facts.tracefs.functions = Seen::Unreadable("permission denied".to_owned());
    let Seen::Is(events) = &mut facts.tracefs.kvm_events else { panic!("events") };
    events.retain(|name| name != attributes);
    let report = Report::new(&facts, &machine.source());
    assert_sound(&report);
    assert_eq!((of(&report, attributes).0, of(&report, attributes).1), (false, Status::Unknown));
}

#[test]
fn lockdown_that_only_keeps_integrity_blocks_nothing() {
    let machine = Machine::tdx_host();
    let mut facts = machine.facts();
    facts.privilege.lockdown = Seen::Is(Lockdown::Integrity);
    assert!(Report::new(&facts, &machine.source()).can_count);
}

fn guest_probe<'a>(report: &'a Report, name: &str) -> &'a tdtrace::doctor::ProbeReport {
    report.guest_probes.iter().find(|probe| probe.check.name == name).unwrap()
}

#[test]
fn a_td_shows_its_own_exceptions_and_is_not_sent_to_its_host() {
    let report = Machine::td().guest_report();
    assert_sound(&report);
    assert!(report.can_count && report.probes.iter().all(|probe| !probe.visible));
    assert!(guest_probe(&report, "ve").check.finding.starts_with("by fentry: "));
    assert_eq!(guest_probe(&report, "quote").check.next.as_deref(), Some("modprobe tdx_guest"));
    insta::assert_snapshot!("td_text", report.to_text());
    let host = serde_json::to_value(Machine::td().report()).unwrap();
    assert!(host.get("guest_probes").is_none());
}

#[test]
fn a_quote_is_seen_as_soon_as_its_module_is_loaded() {
    let report = Machine::td().directory("sys/module/tdx_guest").guest_report();
    assert_sound(&report);
    let quote = guest_probe(&report, "quote");
    assert!(quote.visible);
    assert!(quote.check.finding.starts_with("by kprobe: "), "{}", quote.check.finding);
}

#[test]
fn without_btf_functions_of_a_td_are_probed_by_kprobe_and_without_that_not_at_all() {
    let machine = Machine::td();
    fs::remove_file(machine.root.path().join("sys/kernel/btf/vmlinux")).unwrap();
    let report = machine.guest_report();
    assert_sound(&report);
    assert!(report.can_count);
    assert!(guest_probe(&report, "ve").check.finding.starts_with("by kprobe: "));
    assert!(!guest_probe(&report, "mmio").visible);
    assert_eq!(guest_probe(&report, "swiotlb").check.status, Status::Unknown);
    fs::remove_dir(machine.root.path().join("sys/bus/event_source/devices/kprobe")).unwrap();
    let report = machine.guest_report();
    assert_sound(&report);
    let step = "use a kernel with CONFIG_KPROBE_EVENTS";
    assert_eq!(report.first_step.as_deref(), Some(step));
    assert_eq!(report.summary, format!("tdtrace cannot count here. First: {step}."));
    // To load its module would not help.
    assert_eq!(guest_probe(&report, "quote").check.next.as_deref(), Some(step));
}

#[test]
fn a_td_is_told_what_its_user_lacks() {
    let report = Machine::td()
        .file("proc/self/status", "Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n")
        .file("proc/kallsyms", "0000000000000000 T tdx_handle_virt_exception\n")
        .guest_report();
    assert_sound(&report);
    assert_eq!(report.first_step.as_deref(), Some("run tdtrace with sudo"));
    let guest = report.sections.iter().find(|section| section.name == "guest").unwrap();
    let unknown = guest.checks.iter().filter(|check| check.status == Status::Unknown);
    let unknown: Vec<_> = unknown.map(|check| check.name).collect();
    assert_eq!(unknown, ["symbols", "shared_bit"]);
}

#[test]
fn a_clock_that_is_no_register_takes_the_durations_of_a_td() {
    let path = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    let report = Machine::td().file(path, "hpet\n").guest_report();
    assert_sound(&report);
    let guest = report.sections.iter().find(|section| section.name == "guest").unwrap();
    let clock = guest.checks.iter().find(|check| check.name == "ve_clock").unwrap();
    assert_eq!(clock.status, Status::Limited);
    assert_eq!(clock.finding, "hpet is not read within a #VE: no durations");
}

#[test]
fn the_running_machine_gets_a_report() {
    let set = BtfSet::running(Path::new("/")).map_err(|error| format!("{error:#}"));
    assert_sound(&Report::new(&Facts::running(), &BtfSource { files: Vec::new(), set }));
}
