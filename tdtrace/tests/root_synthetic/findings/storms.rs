//! Exits that are too many: of faults, conversions, refused entries and halts.

use tdtrace::{
    model::finding::Rule,
    source::synthetic::{Event, Registers},
};

use super::{
    super::drive::plain,
    stage::{Act, Case, Expected},
};

const SHARED: u64 = 1 << 51;
const BLOCK: u64 = 2 << 20;
/// A duration far above the usual one, where a bucket begins.
const SLOW: u64 = 32_768;

pub(super) fn cases() -> Vec<Case> {
    [accept(), convert(), busy(), halts()].into_iter().flatten().collect()
}

/// Kind `number` of EPT violations.
fn violation(number: u32, gpa: u64, ext_qualification: u64) -> Act {
    Act::td(number, Registers { gpa, ext_qualification, ..plain(48) })
}

/// 10,000 a second: 2,500 in the interval.
fn accept() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::AcceptStorm, name, acts);
    let mapped = violation(34, 0, 6).traced(Event::SpteChanged(1)).at("spte_changed", 1, 0);
    let pending = violation(34, 0, 6);
    let private = violation(32, 1 << 40, 0);
    let shared = violation(33, SHARED, 0);
    let limit = "The limit is 10,000 faults a second";
    vec![
        of("faults of both kinds", vec![(1_490, mapped), (10, mapped.takes(SLOW))])
            .and(vec![(980, private), (20, private.takes(SLOW))])
            .finds(
                2_500,
                &[
                    // Of 2,048 to 2,560 ns the part that the rank is of 1,490, of 980.
                    "6,000 a second are EPT_VIOLATION not accepted, P50 2.3 µs, P99 2.5 µs.",
                    "4,000 a second are EPT_VIOLATION private, P50 2.3 µs, P99 32 µs.",
                    limit,
                    "1500 entries of 4K were changed.",
                ],
            ),
        of("one kind alone", vec![(2_500, pending)]).finds(
            2_500,
            &["10,000 a second are EPT_VIOLATION not accepted, P50 2.0 µs, P99 2.0 µs.", limit],
        ),
        of(
            "one fault less, and many on shared memory",
            vec![(1_500, pending), (999, private), (2_500, shared)],
        ),
    ]
}

/// 1,000 a second: 250 in the interval.
fn convert() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::ConversionStorm, name, acts);
    let to_shared = Act::call(11, 0x10001, [SHARED | BLOCK, BLOCK, 0]).returns(3, SLOW - 2_048);
    let to_private = Act::call(12, 0x10001, [BLOCK, BLOCK, 0]).returns(3, SLOW - 2_048);
    let limit = "The limit is 1,000 MapGPAs a second";
    vec![
        of("both ways, some in two goes", vec![(90, to_shared), (10, to_shared.answered(1))])
            .and(vec![(150, to_private)])
            .finds(
                250,
                &[
                    "400 a second are TDVMCALL MapGPA to shared, P50 32 µs, P99 32 µs.",
                    "600 a second are TDVMCALL MapGPA to private, P50 32 µs, P99 32 µs.",
                    limit,
                    "KVM answered 150 times MapGPA to private: SUCCESS.",
                    "KVM answered 90 times MapGPA to shared: SUCCESS.",
                    "KVM answered 10 times MapGPA to shared: RETRY.",
                ],
            ),
        of("one less", vec![(249, to_shared)]),
        of(
            "one less, and many of the leaves beside it",
            vec![
                (124, to_shared),
                (125, to_private),
                (250, Act::call(10, 0x10000, [0; 3])),
                (250, Act::call(13, 0x10002, [SHARED, 0x1000, 0])),
            ],
        ),
    ]
}

/// 10 % of all exits and 100 a second: 25 in the interval.
fn busy() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::BusyStorm, name, acts);
    let status = |number, ret| {
        Act::td(number, Registers { ret, kvm_reason: 0xdead, ..Registers::default() })
    };
    let sept = status(20, 0x8000_0200_0000_0092);
    let epoch = status(21, 0x8000_0200_0000_00a9);
    let operand = status(22, 0x8000_0200_0000_0080);
    let previous = status(23, 0x8000_0201_0000_0000);
    let interrupted = status(28, 0x8000_0003_0000_0000);
    let times = "P50 2.0 µs, P99 2.0 µs";
    vec![
        of("all four statuses", vec![(10, sept), (8, epoch), (225, Act::cpuid())])
            .and(vec![(5, operand), (2, previous)])
            .finds(
                25,
                &[
                    "10.0 % of all exits are entries that were refused.",
                    &format!("40 a second are VP.ENTER OPERAND_BUSY (SEPT), {times}."),
                    &format!("32 a second are VP.ENTER OPERAND_BUSY (TD_EPOCH), {times}."),
                    &format!("20 a second are VP.ENTER OPERAND_BUSY, {times}."),
                    &format!("8 a second are VP.ENTER PREVIOUS_TLB_EPOCH_BUSY, {times}."),
                    "The limit is 10 % of all exits",
                ],
            ),
        of("one exit more of another kind", vec![(25, epoch), (226, Act::cpuid())]),
        of("nothing else, but one less", vec![(24, sept)]),
        of("many that were interrupted", vec![(24, previous), (250, interrupted)]),
    ]
}

/// 50 % of the exits, and 500 a second and vCPU: 125 in the interval.
fn halts() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::Halts, name, acts);
    let halt = Act::call(1, 12, [0; 3]);
    let limits = ["The limit is 500 halts a second and vCPU", "The limit is 50 % of all exits"];
    let evidence = |first| [first, limits[0], limits[1]];
    let of_one_vcpu = Expected {
        vcpu: Some(1),
        ..Expected::new(
            Rule::Halts,
            125,
            &[
                "50.0 % of the exits of vCPU 1 are halts: 500 a second.",
                "1 of 2 vCPUs halt that often.",
                limits[0],
                limits[1],
            ],
        )
    };
    vec![
        of("both vCPUs", vec![(125, halt)])
            .and(vec![(125, halt), (100, Act::cpuid())])
            .finds(250, &evidence("71.4 % of all exits are halts: 1,000 a second on 2 vCPUs.")),
        of("half of the exits", vec![(125, halt), (125, Act::cpuid())])
            .finds(125, &evidence("50.0 % of all exits are halts: 500 a second on 1 vCPU.")),
        of("one vCPU of two", vec![(124, halt)])
            .and(vec![(125, halt), (125, Act::cpuid())])
            .expects(of_one_vcpu),
        of("a plain VM", vec![(125, Act::exit(12))])
            .plain()
            .finds(125, &evidence("100.0 % of all exits are halts: 500 a second on 1 vCPU.")),
        of("one less in each", vec![(124, halt)]).and(vec![(124, halt)]),
        of("one exit more of another kind", vec![(125, halt), (126, Act::cpuid())]),
        of("one less in a plain VM", vec![(124, Act::exit(12))]).plain(),
    ]
}
