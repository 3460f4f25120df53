//! What must not happen at all: once is enough.

use tdtrace::{model::finding::Rule, source::synthetic::Registers};

use super::stage::{Act, Case};

const SHARED: u64 = 1 << 51;
const INVALID_OPERAND: u64 = 1 << 63;
const SUBFUNC_UNSUPPORTED: u64 = INVALID_OPERAND | 3;

/// `KVM_EXIT_FAIL_ENTRY`, `KVM_EXIT_SYSTEM_EVENT`, `KVM_EXIT_MMIO` and `KVM_EXIT_TDX`.
const FAIL_ENTRY: u32 = 9;
const SYSTEM_EVENT: u32 = 24;
const MMIO: u32 = 6;
const TDX: u32 = 40;

pub(super) fn cases() -> Vec<Case> {
    [dead(), fatal(), refused(), unknown()].into_iter().flatten().collect()
}

/// Kind `number`: TDH.VP.ENTER returned `ret`.
fn status(number: u32, ret: u64) -> Act {
    Act::td(number, Registers { ret, kvm_reason: 0xdead, ..Registers::default() })
}

fn dead() -> Vec<Case> {
    let gone = |number, ret| status(number, ret).returns(FAIL_ENTRY, 1_000);
    let vcpu = gone(24, 0x4000_0001_0000_0000);
    let td = gone(25, 0x4000_0002_0000_0002);
    let of = |name, acts| Case::new(Rule::DeadTd, name, acts);
    vec![
        of("a vCPU", vec![(1, vcpu)]).finds(1, &["VP.ENTER NON_RECOVERABLE_VCPU 1 time."]),
        of("a TD", vec![(1, td)]).finds(1, &["VP.ENTER NON_RECOVERABLE_TD 1 time."]),
        of("not accessible", vec![(1, gone(26, 0x6000_0005_0000_0000))])
            .finds(1, &["VP.ENTER NON_RECOVERABLE_TD_NON_ACCESSIBLE 1 time."]),
        of("another APIC mode", vec![(1, gone(27, 0x6000_0007_0000_0000))])
            .finds(1, &["VP.ENTER NON_RECOVERABLE_TD_WRONG_APIC_MODE 1 time."]),
        of("one vCPU by one status, one by both", vec![(2, vcpu)])
            .and(vec![(1, vcpu), (1, td)])
            .finds(
                4,
                &["VP.ENTER NON_RECOVERABLE_VCPU 3 times.", "VP.ENTER NON_RECOVERABLE_TD 1 time."],
            ),
        of(
            "statuses from which a TD goes on",
            vec![
                (9, status(28, 0x8000_0003_0000_0000)),
                (9, status(29, 0x8000_0702_0000_0000)),
                (9, status(30, 0x8000_ff00_0000_000d)),
                (9, status(31, 0xc000_0100_0000_0001)),
            ],
        ),
    ]
}

fn fatal() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::FatalError, name, acts);
    let report = |reason| Act::call(14, 0x10003, [1, 2, 3]).returns(reason, 1_000);
    vec![
        of("once", vec![(1, report(SYSTEM_EVENT))]).finds(
            1,
            &["TDVMCALL ReportFatalError 1 time.", "TDVMCALL ReportFatalError → SYSTEM_EVENT."],
        ),
        of("by each vCPU", vec![(1, report(SYSTEM_EVENT))])
            .and(vec![(1, report(SYSTEM_EVENT))])
            .finds(
                2,
                &[
                    "TDVMCALL ReportFatalError 2 times.",
                    "TDVMCALL ReportFatalError → SYSTEM_EVENT.",
                ],
            ),
        of(
            "the leaves beside it, and its reason of another exit",
            vec![
                (3, Act::call(13, 0x10002, [SHARED, 0x1000, 0]).returns(TDX, 1_000)),
                (3, Act::call(15, 0x10004, [0xf0, 0, 0]).returns(TDX, 1_000)),
                (3, Act::exit(2).returns(SYSTEM_EVENT, 1_000)),
            ],
        ),
    ]
}

fn refused() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::PrivateMmio, name, acts);
    let read = |gpa| Act::call(6, 48, [4, 0, gpa]).at("mmio_read", 0xfec0_0000, 4);
    let write = |gpa| Act::call(7, 48, [8, 1, gpa]).at("mmio_write", 0xfec0_0000, 8);
    let untold = "Which address it was is not told: the shared bit is not kept with it.";
    vec![
        of(
            "reads and writes",
            vec![
                (2, write(0xfec0_0000).answered(INVALID_OPERAND)),
                (3, read(0xfec0_0000).answered(INVALID_OPERAND)),
                (1, read(SHARED | 0xfec0_0000)),
            ],
        )
        .finds(
            5,
            &[
                "KVM answered 3 times MMIO read: INVALID_OPERAND.",
                "KVM answered 2 times MMIO write: INVALID_OPERAND.",
                untold,
            ],
        ),
        of("once, in the second vCPU", vec![(1, read(SHARED | 0xfec0_0000))])
            .and(vec![(1, write(0xfec0_0000).answered(INVALID_OPERAND))])
            .finds(1, &["KVM answered 1 time MMIO write: INVALID_OPERAND.", untold]),
        of(
            "other answers, and the same to other leaves",
            vec![
                (5, read(SHARED | 0xfec0_0000).returns(MMIO, 1_000)),
                (5, write(SHARED | 0xfec0_0000).answered(SUBFUNC_UNSUPPORTED)),
                (5, Act::call(11, 0x10001, [SHARED, 0x123, 0]).answered(INVALID_OPERAND)),
                (5, Act::call(13, 0x10002, [0, 0x1000, 0]).answered(INVALID_OPERAND)),
                (5, Act::cpuid().answered(INVALID_OPERAND)),
            ],
        ),
    ]
}

fn unknown() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::UnknownLeaf, name, acts);
    let leaf = |leaf| {
        Act::call(17, leaf, [1, 2, 3]).at("td_unknown_leaf", leaf, 0).answered(SUBFUNC_UNSUPPORTED)
    };
    let hypercall =
        Registers { ret: 77, kvm_reason: 18, r10: 12, r11: 0x2_0000, ..Registers::default() };
    vec![
        of("once", vec![(1, leaf(0x10006))]).finds(1, &["TDVMCALL unknown leaf 1 time: 0x10006."]),
        of("two leaves", vec![(2, leaf(u64::MAX)), (1, leaf(0x2_0000))])
            .and(vec![(1, leaf(0x2_0000))])
            .finds(4, &["TDVMCALL unknown leaf 4 times: 0x20000, 0xffffffffffffffff."]),
        of("ten leaves", (0..10).map(|number| (1, leaf(0x2_0000 + number))).collect()).finds(
            10,
            &["TDVMCALL unknown leaf 10 times: 0x20000, 0x20001, 0x20002, 0x20003, 0x20004, 0x20005, \
               0x20006, 0x20007, 2 more."],
        ),
        of(
            "the last leaf with a name, and a hypercall of KVM with such an argument",
            vec![
                (9, Act::call(16, 0x10005, [0; 3])),
                (9, Act::call(10, 0x10000, [0; 3])),
                (9, Act::td(18, hypercall).at("hypercall", 12, 0)),
            ],
        ),
    ]
}
