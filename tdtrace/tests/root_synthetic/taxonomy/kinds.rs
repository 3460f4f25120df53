//! Every kind of exit of a TD: its index, name, place, answer, what it became, and its time.

use std::collections::BTreeMap;

use tdtrace::{
    model::{
        aggregate::Aggregate,
        snapshot::{Hotspot, Span},
    },
    source::synthetic::Registers,
};
use tdtrace_common::{counters::Class, td::TdExit, vmx};

use super::super::drive::{
    assert_durations, assert_vcpu, latency_of, load_with, pid, pin, plain, sample, td, vcpu_of,
};

const SHARED: u64 = 1 << 51;

/// What the guest did, and what must come of it.
struct Kind {
    registers: Registers,
    index: u32,
    name: String,
    place: Option<(&'static str, u64, u32)>,
}

fn call(leaf: u64, kvm_reason: u32, [r12, r13, r14]: [u64; 3]) -> Registers {
    Registers { ret: 77, kvm_reason, r11: leaf, r12, r13, r14, ..Registers::default() }
}

/// TDVMCALLs: GHCI leaf, what KVM shows, arguments, index, name, place.
fn calls() -> Vec<Kind> {
    const ALIGNED: u64 = 0x20_0000;
    let kind = |leaf, kvm, arguments, number: u32, name: &str, place| Kind {
        registers: call(leaf, kvm, arguments),
        index: 192 + number,
        name: format!("TDVMCALL {name}"),
        place,
    };
    let unknown = |leaf| {
        let place = Some(("td_unknown_leaf", leaf, 0));
        kind(leaf, 77, [1, 1, 1], 17, "unknown leaf", place)
    };
    vec![
        kind(10, 10, [0xdead_4000_0000, 1, 0], 0, "CPUID", Some(("cpuid", 0x4000_0000, 0))),
        kind(12, 12, [1, 0, 0], 1, "HLT", None),
        kind(30, 30, [4, 0, 0xcfc], 2, "IO in", Some(("pio_in", 0xcfc, 4))),
        kind(30, 30, [1, 1, 0x80], 3, "IO out", Some(("pio_out", 0x80, 1))),
        kind(31, 31, [0x1b, 0, 0], 4, "RDMSR", Some(("msr_read", 0x1b, 0))),
        kind(32, 32, [0x6e0, 9, 0], 5, "WRMSR", Some(("msr_write", 0x6e0, 0))),
        kind(48, 49, [2, 0, SHARED | 0xfed0_00f0], 6, "MMIO read", {
            Some(("mmio_read", 0xfed0_00f0, 2))
        }),
        kind(48, 49, [8, 1, 0xfec0_0000], 7, "MMIO write", Some(("mmio_write", 0xfec0_0000, 8))),
        kind(54, 77, [0; 3], 8, "WBINVD", None),
        kind(65, 77, [0; 3], 9, "PCONFIG", None),
        kind(0x10000, 77, [0; 3], 10, "GetTdVmCallInfo", None),
        kind(0x10001, 77, [SHARED | ALIGNED, ALIGNED, 0], 11, "MapGPA to shared", None),
        kind(0x10001, 77, [ALIGNED, ALIGNED, 0], 12, "MapGPA to private", None),
        kind(0x10002, 77, [SHARED | 0x1000, 0x1000, 0], 13, "GetQuote", None),
        kind(0x10003, 77, [1, 2, 3], 14, "ReportFatalError", None),
        kind(0x10004, 77, [0xf0, 0, 0], 15, "SetupEventNotifyInterrupt", None),
        kind(0x10005, 77, [0; 3], 16, "Service", None),
        unknown(0x10006),
        unknown(0x10009),
        unknown(0),
        unknown(1 << 32 | 10),
        unknown(u64::MAX),
    ]
}

/// A status of TDH.VP.ENTER that is no exit, with what was in the registers before.
fn statuses() -> Vec<Kind> {
    let kind = |ret, number: u32, name: &str| Kind {
        registers: Registers { ret, ..call(48, 0xdead, [4, 1, SHARED | 0xfec0_0000]) },
        index: 192 + number,
        name: format!("VP.ENTER {name}"),
        place: None,
    };
    vec![
        kind(0x8000_0200_0000_0092, 20, "OPERAND_BUSY (SEPT)"),
        kind(0x8000_0200_0000_00a9, 21, "OPERAND_BUSY (TD_EPOCH)"),
        kind(0x8000_0200_0000_0080, 22, "OPERAND_BUSY"),
        kind(0x8000_0201_0000_0000, 23, "PREVIOUS_TLB_EPOCH_BUSY"),
        kind(0x4000_0001_0000_0000, 24, "NON_RECOVERABLE_VCPU"),
        kind(0x4000_0002_0000_0002, 25, "NON_RECOVERABLE_TD"),
        kind(0x6000_0005_0000_0000, 26, "NON_RECOVERABLE_TD_NON_ACCESSIBLE"),
        kind(0x6000_0007_0000_0000, 27, "NON_RECOVERABLE_TD_WRONG_APIC_MODE"),
        kind(0x8000_0003_0000_0000, 28, "INTERRUPTED_RESUMABLE"),
        kind(0x8000_0702_0000_0000, 29, "VCPU_NOT_ASSOCIATED"),
        kind(0x8000_ff00_0000_000d, 30, "software error"),
        kind(0x8000_ff00_0000_0006, 30, "software error"),
        kind(0x8000_ff00_ffff_0000, 30, "software error"),
        kind(0xc000_0100_0000_0001, 31, "other status"),
        kind(0x8000_0202_0000_0000, 31, "other status"),
        kind(u64::MAX >> 1, 31, "other status"),
    ]
}

/// Violations, interrupts, KVM hypercalls, and the VMX exits that TDs have in common with others.
fn exits() -> Vec<Kind> {
    let violation = |gpa, ext_qualification, number: u32, name: &str| Kind {
        registers: Registers { gpa, ext_qualification, ..plain(48) },
        index: 192 + number,
        name: format!("EPT_VIOLATION {name}"),
        place: None,
    };
    let hypercall = |r10| Kind {
        // What is in R11 is an argument then.
        registers: Registers { r10, ..call(0x10001, 18, [SHARED, 0, 0]) },
        index: 192 + 18,
        name: "KVM hypercall".to_owned(),
        place: Some(("hypercall", r10, 0)),
    };
    let interrupt = |vector: u32| Kind {
        registers: Registers { intr_info: 0x8000_0000 | vector, ..plain(1) },
        index: 1,
        name: "EXTERNAL_INTERRUPT".to_owned(),
        place: Some(("host_interrupt", vector.into(), 0)),
    };
    let mut all = vec![
        violation(0x1234_5000, 0, 32, "private"),
        violation(0x1234_5000, 5, 32, "private"),
        violation(SHARED | 0x1000, 0, 33, "shared"),
        violation(SHARED | 0x1000, 6, 33, "shared"),
        violation(0x1000, 6, 34, "not accepted"),
        violation(0x1000, 0xabc6, 34, "not accepted"),
        hypercall(12),
        hypercall(u64::MAX),
        interrupt(0xec),
        interrupt(0x22),
    ];
    let others = vmx::EXIT_REASONS.iter().filter(|(number, _)| ![1, 48, 77].contains(number));
    all.extend(others.map(|(number, name)| Kind {
        // Bits above the reason are flags: here a bus lock.
        registers: Registers { ret: u64::from(*number) | 1 << 26, ..plain(*number) },
        index: *number,
        name: (*name).to_owned(),
        place: None,
    }));
    all
}

/// With which status KVM answers, and to which return the exit comes.
const ANSWERS: [(u64, Option<u32>); 5] = [
    (0, None),
    (1, Some(3)),
    (0x8000_0000_0000_0003, Some(40)),
    (0x8000_0000_0000_0000, Some(6)),
    (0, Some(62)),
];

#[test]
fn every_kind_of_exit_has_its_index_name_place_answer_return_and_time() {
    assert_every_kind(false);
}

/// As on kernels before 6.17.
#[test]
fn every_kind_of_exit_is_read_by_calls_as_well() {
    assert_every_kind(true);
}

fn assert_every_kind(by_calls: bool) {
    let kinds: Vec<Kind> = calls().into_iter().chain(statuses()).chain(exits()).collect();
    for exit in TdExit::ALL {
        assert!(kinds.iter().any(|kind| kind.name == exit.name()), "no {}", exit.name());
    }
    // Each kind is of a TD of its own, so that it is seen alone.
    let tds = u32::try_from(kinds.len()).expect("few");
    let mut synthetic = load_with(tdtrace::source::synthetic::SyntheticOptions {
        tds,
        vcpus: tds,
        by_calls,
        ..Default::default()
    });
    let mut all = Vec::new();
    for (index, kind) in (0_u32..).zip(&kinds) {
        let mut driven = td(&mut synthetic, index, 1_000);
        pin(0);
        let cpu = synthetic.cpu(0);
        driven.run_begin(&cpu, 10, 0);
        driven.enter(&cpu, 0x77, 10, 0);
        for (turn, (status, becomes)) in (1_u64..).zip(ANSWERS) {
            driven.exit(&cpu, kind.registers, kind.index, 1_000 * turn);
            if let Some((class, address, size)) = kind.place {
                driven.truth.place(class, address, size);
            }
            // The same page of private memory, accepted or not.
            if turn > 1 && [224, 226].contains(&kind.index) {
                driven.truth.place("td_fault_again", kind.registers.gpa, 0);
            }
            if let Some(reason) = becomes {
                let returned = if reason == 62 { (2, -4) } else { (reason, 0) };
                driven.leave_as(&cpu, returned, reason, [300 * turn, 0]);
                driven.truth.place("td_return", reason.into(), kind.index);
                driven.run_begin(&cpu, 7_000 * turn, 40);
            }
            driven.enter(&cpu, status, 200 + u64::from(index), 30);
            if (192..210).contains(&kind.index) {
                driven.truth.place("td_answer", status, kind.index - 192);
            }
        }
        driven.leave(&cpu, 10, 1, 0);
        all.push(driven);
    }
    let now = all.iter().map(|driven| driven.now).max().expect("there are some");
    let sample = sample(&mut synthetic, now);
    for (driven, kind) in all.iter().zip(&kinds) {
        println!("{}", kind.name);
        let vcpu = vcpu_of(&sample, driven.vcpu.tid);
        assert_eq!(vcpu.reasons, [(kind.index, 5)]);
        assert_vcpu(vcpu, driven, [0, 0, now - driven.now, 0, 0]);
        assert_durations(latency_of(&sample, driven.vcpu.pid), &driven.truth.durations);
    }
    assert!(sample.losses.causes.is_empty());
    // Leaving from the guest.
    assert_eq!(sample.losses.unpaired, u64::from(tds));
    assert_names(&Aggregate::new().apply(sample), &kinds);
}

/// What the model calls them, and which of them are halts.
fn assert_names(snapshot: &tdtrace::model::snapshot::Snapshot, kinds: &[Kind]) {
    for (index, kind) in (0_u32..).zip(kinds) {
        let vm = snapshot.vms.iter().find(|vm| vm.pid == pid(index)).expect("its VM");
        assert_eq!(vm.kind, "TD");
        assert_eq!(vm.reasons(), BTreeMap::from([(kind.name.clone(), 5)]));
        let mut rows = vm.latency.iter().filter(|row| row.span == Span::Exit);
        let row = rows.next().expect("durations");
        assert!(rows.next().is_none());
        assert_eq!((&row.name, row.tally.total), (&kind.name, 5));
        assert_eq!(row.halt, kind.index == 193 || kind.index == 12, "{}", kind.name);
        let hotspot = |class, address| {
            let found =
                vm.hotspots.iter().find(|spot| (spot.class, spot.address) == (class, address));
            let what = |spot: &Hotspot| spot.what.clone().unwrap_or_default().into_owned();
            found.map(|spot| (what(spot), spot.size, spot.tally.total))
        };
        let tdvmcall = (192..210).contains(&kind.index);
        let leaf = kind.name.trim_start_matches("TDVMCALL ");
        let answered = |name: &str, count| {
            tdvmcall.then(|| (format!("{leaf}: {name}"), kind.index - 192, count))
        };
        assert_eq!(hotspot(Class::TdAnswer, 0), answered("SUCCESS", 2));
        assert_eq!(hotspot(Class::TdAnswer, 1), answered("RETRY", 1));
        let unsupported = 0x8000_0000_0000_0003;
        assert_eq!(hotspot(Class::TdAnswer, unsupported), answered("SUBFUNC_UNSUPPORTED", 1));
        for (reason, name) in [(3, "HYPERCALL"), (40, "TDX"), (6, "MMIO"), (62, "EINTR")] {
            let became = format!("{} → {name}", kind.name);
            assert_eq!(hotspot(Class::TdReturn, reason), Some((became, kind.index, 1)));
        }
        assert!(vm.other.is_empty(), "{:?}", vm.other);
    }
}
