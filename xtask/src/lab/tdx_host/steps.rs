//! What the guests of the scenario do, and what it is called: the names are written here by hand, so that
//! nothing of tdtrace tells how its own numbers are to be read.

use std::fmt::Write as _;

/// The bit of an address that says "shared", with GPAs of 48 bits.
const SHARED: u64 = 1 << 47;
/// A page-aligned address of private memory that is not there at first; the VMM makes the pages from
/// here on shared in the end.
const PRIVATE: u64 = 0x80_0000;
/// A page that nobody else touches, and that breaks.
const BREAKS: u64 = PRIVATE + 0x3000;
/// Where nothing is.
const DEVICE: u64 = 0xfe00_0000;
/// What TDH.VP.ENTER returns after TDCALL.
const TDCALL: u64 = 77;
/// What TDH.VP.ENTER returns after an EPT violation.
const EPT_VIOLATION: u64 = 48;
/// The leaf of MapGPA.
const MAP_GPA: u64 = 0x10001;

/// An access that tdtrace keeps the place of: class, address, bytes.
pub(super) type Place = (&'static str, u64, u64);

/// A step of a guest.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Step {
    /// The exit's name.
    pub(super) name: &'static str,
    /// Its place.
    pub(super) place: Option<Place>,
    times: u64,
    ret: u64,
    rcx: u64,
    rdx: u64,
    r8: u64,
    r9: u64,
    r10: u64,
    r11: u64,
    r12: u64,
    r13: u64,
    r14: u64,
    r15: u64,
}

/// What lets the guest end: an OUT to the port that the VMM waits for.
const END: Step =
    Step { place: Some(("pio_out", 0x604, 4)), ..call(1, "TDVMCALL IO out", 30, [4, 1, 0x604, 0]) };
/// The first thing that any guest does: it enables its APIC.
const BEGIN: Step = Step {
    place: Some(("msr_write", 0x80f, 0)),
    ..call(1, "TDVMCALL WRMSR", 32, [0x80f, 0x1ff, 0, 0])
};

/// A request for a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Map {
    /// To private memory.
    pub(super) private: bool,
    /// Where it begins, without the shared bit.
    pub(super) gpa: u64,
    /// Bytes.
    pub(super) size: u64,
}

impl Step {
    /// The conversion that is asked for.
    pub(super) fn map(&self) -> Option<Map> {
        let asks = self.ret == TDCALL && self.r10 == 0 && self.r11 == MAP_GPA;
        let private = self.r12 & SHARED == 0;
        asks.then_some(Map { private, gpa: self.r12 & !SHARED, size: self.r13 })
    }

    /// The page of private memory that it is a fault on.
    pub(super) fn private_page(&self) -> Option<u64> {
        (self.ret == EPT_VIOLATION && self.r8 & SHARED == 0).then_some(self.r8 & !0xfff)
    }

    /// The exit reason under which KVM shows the exit in `kvm_exit`
    /// (`arch/x86/kvm/vmx/tdx.c:tdx_to_vmx_exit_reason`): leaves that VMX has as reasons are those, MMIO is
    /// an EPT misconfiguration, what kills a TD has the low half of its status, other statuses are
    /// [`UNDEFINED`].
    pub(super) fn shown(&self) -> u64 {
        let low = self.ret & 0xffff_ffff;
        match self.ret >> 32 {
            0 if low != TDCALL => low,
            0 if self.r10 != 0 => VMCALL,
            0 => match self.r11 {
                10 | 12 | 30 | 31 | 32 => self.r11,
                48 => EPT_MISCONFIG,
                _ => TDCALL,
            },
            0x4000_0001 | 0x4000_0002 | 0x6000_0005 | 0x6000_0007 => low,
            _ => UNDEFINED,
        }
    }
}

/// KVM's reason for an exit that has none (`EXIT_REASON_UNDEFINED`, since Linux 7.x).
pub(super) const UNDEFINED: u64 = 0xdead;
const VMCALL: u64 = 18;
const EPT_MISCONFIG: u64 = 49;

/// The steps of guest 0: what a guest asks for, and what its memory does.
#[rustfmt::skip]
const MANY: &[Step] = &[
    BEGIN,
    at(("cpuid", 0, 0), call(30, "TDVMCALL CPUID", 10, [0, 0, 0, 0])),
    at(("cpuid", 0x4000_0000, 0), call(12, "TDVMCALL CPUID", 10, [0x4000_0000, 0, 0, 0])),
    at(("pio_out", 0x3f8, 1), call(20, "TDVMCALL IO out", 30, [1, 1, 0x3f8, 0x41])),
    at(("pio_out", 0xcf8, 4), call(5, "TDVMCALL IO out", 30, [4, 1, 0xcf8, 0])),
    at(("pio_in", 0x3fd, 1), call(10, "TDVMCALL IO in", 30, [1, 0, 0x3fd, 0])),
    at(("pio_in", 0xcfc, 2), call(3, "TDVMCALL IO in", 30, [2, 0, 0xcfc, 0])),
    at(("mmio_write", DEVICE, 4), call(12, "TDVMCALL MMIO write", 48, [4, 1, SHARED | DEVICE, 7])),
    at(("mmio_write", DEVICE + 16, 8), call(3, "TDVMCALL MMIO write", 48, [8, 1, SHARED | (DEVICE + 16), 7])),
    at(("mmio_read", DEVICE + 8, 4), call(7, "TDVMCALL MMIO read", 48, [4, 0, SHARED | (DEVICE + 8), 0])),
    at(("mmio_read", DEVICE + 32, 1), call(2, "TDVMCALL MMIO read", 48, [1, 0, SHARED | (DEVICE + 32), 0])),
    // KVM refuses it: the address is a private one.
    at(("mmio_read", 0x1000, 4), call(2, "TDVMCALL MMIO read", 48, [4, 0, 0x1000, 0])),
    at(("msr_read", 0x10, 0), call(4, "TDVMCALL RDMSR", 31, [0x10, 0, 0, 0])),
    // One that there is not.
    at(("msr_read", 0x1234_5678, 0), call(3, "TDVMCALL RDMSR", 31, [0x1234_5678, 0, 0, 0])),
    at(("msr_write", 0x1234_5678, 0), call(2, "TDVMCALL WRMSR", 32, [0x1234_5678, 1, 0, 0])),
    call(5, "TDVMCALL HLT", 12, [0, 0, 0, 0]),
    // KVM hands it to the VMM in pieces of 2 MiB.
    call(3, "TDVMCALL MapGPA to shared", MAP_GPA, [SHARED | 0x20_0000, 0x60_0000, 0, 0]),
    call(4, "TDVMCALL MapGPA to private", MAP_GPA, [0x20_0000, 0x1000, 0, 0]),
    call(2, "TDVMCALL MapGPA to private", MAP_GPA, [0x20_0800, 0x1000, 0, 0]),
    call(2, "TDVMCALL MapGPA to private", MAP_GPA, [0x20_0000, 0x60_0000, 0, 0]),
    call(2, "TDVMCALL MapGPA to shared", MAP_GPA, [SHARED | 0xb0_0000, 0x1000, 0, 0]),
    // The VMM refuses it.
    call(2, "TDVMCALL MapGPA to shared", MAP_GPA, [SHARED | 0xa0_0000, 0x1000, 0, 0]),
    call(3, "TDVMCALL GetQuote", 0x10002, [SHARED | 0x3000, 0x1000, 0, 0]),
    call(1, "TDVMCALL GetQuote", 0x10002, [0x3000, 0x1000, 0, 0]),
    call(2, "TDVMCALL SetupEventNotifyInterrupt", 0x10004, [0x50, 0, 0, 0]),
    call(1, "TDVMCALL SetupEventNotifyInterrupt", 0x10004, [5, 0, 0, 0]),
    call(2, "TDVMCALL GetTdVmCallInfo", 0x10000, [0, 0, 0, 0]),
    call(2, "TDVMCALL GetTdVmCallInfo", 0x10000, [1, 0, 0, 0]),
    call(2, "TDVMCALL Service", 0x10005, [0, 0, 0, 0]),
    call(2, "TDVMCALL WBINVD", 54, [0, 0, 0, 0]),
    call(1, "TDVMCALL PCONFIG", 65, [0, 0, 0, 0]),
    at(("td_unknown_leaf", 0x10009, 0), call(3, "TDVMCALL unknown leaf", 0x10009, [0, 0, 0, 0])),
    at(("hypercall", 5, 0), Step { r10: 5, ..call(2, "KVM hypercall", 0, [0, 0, 0, 0]) }),
    at(("hypercall", 99, 0), Step { r10: 99, ..call(3, "KVM hypercall", MAP_GPA, [0, 0, 0, 0]) }),
    // The vector with which CPUs ask each other to schedule.
    at(("host_interrupt", 0xfd, 0), Step { r9: 0x8000_00fd, ..exit(6, "EXTERNAL_INTERRUPT", 1) }),
    Step { rcx: 2, r8: PRIVATE, ..exit(2, "EPT_VIOLATION private", EPT_VIOLATION) },
    Step { rcx: 2, r8: PRIVATE + 0x1000, ..exit(1, "EPT_VIOLATION private", EPT_VIOLATION) },
    Step { rcx: 1, r8: PRIVATE + 0x2000, ..exit(1, "EPT_VIOLATION private", EPT_VIOLATION) },
    Step { rcx: 2, r8: PRIVATE + 0x20_0000, ..exit(1, "EPT_VIOLATION private", EPT_VIOLATION) },
    // Of private memory; the VMM makes it shared, and then private again.
    Step { rcx: 2, r8: SHARED | 0x90_0000, ..exit(2, "EPT_VIOLATION shared", EPT_VIOLATION) },
    Step { rcx: 2, r8: 0x90_0000, ..exit(1, "EPT_VIOLATION private", EPT_VIOLATION) },
    END,
];

/// The steps of guest 1, which touches a page before and after it breaks, and whose last is the end of its VM.
const BROKEN: &[Step] = &[
    BEGIN,
    at(("cpuid", 1, 0), call(3, "TDVMCALL CPUID", 10, [1, 0, 0, 0])),
    Step { rcx: 2, r8: BREAKS, ..exit(1, "EPT_VIOLATION private", EPT_VIOLATION) },
    // The VMM has the page break that is asked for here.
    at(("pio_out", 0x608, 4), call(1, "TDVMCALL IO out", 30, [4, 1, 0x608, BREAKS])),
    Step { rcx: 2, r8: BREAKS, ..exit(1, "EPT_VIOLATION private", EPT_VIOLATION) },
    Step { rdx: 6, r8: PRIVATE, ..exit(1, "EPT_VIOLATION not accepted", EPT_VIOLATION) },
];

/// The steps of guest 2: entries that fail or end as they should not, with a VMM that goes on all the same.
#[rustfmt::skip]
const TROUBLE: &[Step] = &[
    BEGIN,
    exit(4, "VP.ENTER OPERAND_BUSY (SEPT)", 0x8000_0200_0000_0092),
    exit(3, "VP.ENTER OPERAND_BUSY (TD_EPOCH)", 0x8000_0200_0000_00a9),
    exit(2, "VP.ENTER OPERAND_BUSY", 0x8000_0200_0000_0080),
    exit(1, "VP.ENTER PREVIOUS_TLB_EPOCH_BUSY", 0x8000_0201_0000_0000),
    exit(1, "VP.ENTER INTERRUPTED_RESUMABLE", 0x8000_0003_0000_0000),
    exit(1, "VP.ENTER VCPU_NOT_ASSOCIATED", 0x8000_0702_0000_0000),
    exit(2, "VP.ENTER NON_RECOVERABLE_VCPU", 0x4000_0001_0000_0000),
    exit(1, "VP.ENTER NON_RECOVERABLE_TD", 0x4000_0002_0000_0000),
    exit(1, "VP.ENTER NON_RECOVERABLE_TD_NON_ACCESSIBLE", 0x6000_0005_0000_0000),
    exit(1, "VP.ENTER NON_RECOVERABLE_TD_WRONG_APIC_MODE", 0x6000_0007_0000_0000),
    exit(1, "VP.ENTER other status", 0xc000_0100_0000_0001),
    exit(2, "OTHER_SMI", 6),
    exit(1, "BUS_LOCK", 74),
    exit(1, "TRIPLE_FAULT", 2),
    call(1, "TDVMCALL ReportFatalError", 0x10003, [0, 0, 0x4f4f_4f4f, 0]),
    END,
];

/// A TD of the scenario.
struct Td {
    vcpus: u64,
    /// Of each vCPU; number and vCPU make the counts differ.
    steps: &'static [Step],
    /// Further commands for the module: before the TD is made, before it runs, before memory is taken
    /// back.
    commands: &'static [(&'static str, &'static str)],
}

const TDS: &[Td] = &[
    Td {
        vcpus: 2,
        steps: MANY,
        commands: &[
            // Adding a page and S-EPT pages: KVM tries again.
            ("create", "status 2 1 1 0x8000020000000092"),
            ("run", "status 6 0 3 0x8000020000000092"),
            ("run", "status 3 0 1 0x8000020000000092"),
            // Blocking, tracking and removing, for which KVM kicks all vCPUs and tries once more.
            ("convert", "status 7 1 1 0x8000020000000092"),
            ("convert", "status 38 0 1 0x80000200000000a9"),
            ("convert", "status 29 1 1 0x8000020000000092"),
        ],
    },
    Td { vcpus: 1, steps: BROKEN, commands: &[] },
    Td { vcpus: 2, steps: TROUBLE, commands: &[] },
];

const fn call(times: u64, name: &'static str, leaf: u64, arguments: [u64; 4]) -> Step {
    let [r12, r13, r14, r15] = arguments;
    Step { r11: leaf, r12, r13, r14, r15, ..exit(times, name, TDCALL) }
}

const fn exit(times: u64, name: &'static str, ret: u64) -> Step {
    Step {
        name,
        place: None,
        times,
        ret,
        rcx: 0,
        rdx: 0,
        r8: 0,
        r9: 0,
        r10: 0,
        r11: 0,
        r12: 0,
        r13: 0,
        r14: 0,
        r15: 0,
    }
}

const fn at(place: Place, step: Step) -> Step {
    Step { place: Some(place), ..step }
}

/// The step of vCPU `vcpu`, by creation, with this number from 1 on.
pub(super) fn find(vcpu: u64, id: usize) -> Option<&'static Step> {
    let mut first = 0;
    for td in TDS {
        if vcpu < first + td.vcpus {
            return td.steps.get(id.checked_sub(1)?);
        }
        first += td.vcpus;
    }
    None
}

/// The reason under which KVM shows exits of this name.
pub(super) fn shown_as(name: &str) -> Option<u64> {
    TDS.iter().flat_map(|td| td.steps).find(|step| step.name == name).map(Step::shown)
}

/// vCPUs of each TD.
pub(super) fn vcpus() -> impl Iterator<Item = u64> {
    TDS.iter().map(|td| td.vcpus)
}

/// How many exits vCPU `vcpu` makes in all.
pub(super) fn made(vcpu: u64) -> u64 {
    (1..).map_while(|id| Some(times(find(vcpu, id)?, vcpu))).sum()
}

/// Another vCPU takes a step once more, where it is taken more than once.
fn times(step: &Step, vcpu: u64) -> u64 {
    if step.times > 1 { step.times + vcpu } else { step.times }
}

/// The file that the VMM reads.
pub(super) fn file() -> String {
    let mut text = String::new();
    let mut vcpu = 0;
    for (number, td) in TDS.iter().enumerate() {
        let _ = writeln!(text, "{number} vcpus {}", td.vcpus);
        for (when, command) in td.commands {
            let _ = writeln!(text, "{number} {when} {command}");
        }
        for vcpu in vcpu..vcpu + td.vcpus {
            for (index, step) in td.steps.iter().enumerate() {
                let _ =
                    write!(text, "{number} run step {vcpu} {} {}", index + 1, times(step, vcpu));
                let Step { ret, rcx, rdx, r8, r9, r10, r11, r12, r13, r14, r15, .. } = step;
                for word in [ret, rcx, rdx, r8, r9, r10, r11, r12, r13, r14, r15] {
                    let _ = write!(text, " {word:#x}");
                }
                text.push('\n');
            }
        }
        vcpu += td.vcpus;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vcpu_has_its_steps_and_no_other_has_any() {
        assert_eq!(find(1, 1).unwrap().name, "TDVMCALL WRMSR");
        assert_eq!(find(2, BROKEN.len()).unwrap().name, "EPT_VIOLATION not accepted");
        assert!(find(0, 0).is_none() && find(2, 7).is_none() && find(5, 1).is_none());
        assert_eq!(made(2), 1 + 5 + 4);
    }

    #[test]
    fn kvm_shows_leaves_statuses_and_dead_tds_as_its_source_says() {
        let shown = |name| shown_as(name).unwrap();
        for (name, reason) in [
            ("TDVMCALL MMIO read", 49),
            ("TDVMCALL IO out", 30),
            ("TDVMCALL GetQuote", 77),
            ("TDVMCALL WBINVD", 77),
            ("KVM hypercall", 18),
            ("EPT_VIOLATION shared", 48),
            ("VP.ENTER OPERAND_BUSY (SEPT)", 0xdead),
            ("VP.ENTER other status", 0xdead),
            ("VP.ENTER NON_RECOVERABLE_TD", 0),
        ] {
            assert_eq!(shown(name), reason, "{name}");
        }
    }

    #[test]
    fn a_conversion_is_told_by_its_leaf_and_its_shared_bit() {
        let maps: Vec<_> = MANY.iter().filter_map(Step::map).collect();
        let names = MANY.iter().filter(|step| step.name.contains("MapGPA"));
        let named: Vec<_> = names.map(|step| step.name.ends_with("private")).collect();
        assert_eq!(maps.iter().map(|map| map.private).collect::<Vec<_>>(), named);
        assert_eq!(maps[0], Map { private: false, gpa: 0x20_0000, size: 0x60_0000 });
    }

    #[test]
    fn the_module_has_room_for_all_steps_and_lines() {
        assert!(TDS.iter().all(|td| td.steps.len() <= 128 && td.vcpus <= 8));
        assert!(file().lines().all(|line| line.len() < 500));
    }
}
