//! Exits that wait for the VMM: half of the time of their class, and a tenth of the vCPUs' time.

use tdtrace::model::finding::Rule;

use super::stage::{Act, Case, Expected};

/// Half of an exit: 2^19 ns in all, where a bucket begins. 96 of them are 10.07 % of the interval, 95 are
/// 9.96 %.
const HALF: u64 = 1 << 18;

/// A write to COM1, which the VMM serves: time in the kernel and in the VMM.
fn write(kernel: u64, vmm: u64) -> Act {
    Act::call(3, 30, [1, 1, 0x3f8]).at("pio_out", 0x3f8, 1).takes(kernel).returns(2, vmm)
}

pub(super) fn cases() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::VmmBound, name, acts);
    let limits =
        ["The limit is 50 % of the time of these exits", "The limit is 10 % of the vCPUs' time"];
    let found = |class: &str, count, shares: [&str; 2], p99: &str| {
        let first = format!(
            "The VMM has {} % of the time of {class}, which is {} % of the vCPUs' time.",
            shares[0], shares[1]
        );
        let p99 = format!("P99 is {p99}.");
        Expected::new(Rule::VmmBound, count, &[&first, &p99, limits[0], limits[1]]).about(class)
    };
    let out = "TDVMCALL IO out";
    let quote = Act::call(13, 0x10002, [1 << 51, 0x1000, 0]).takes(0).returns(40, 1 << 25);
    let plain = Act::exit(48).takes(HALF).returns(6, HALF);
    vec![
        of("half of a tenth's exits", vec![(96, write(HALF, HALF))]).expects(found(
            out,
            96,
            ["50.0", "10.1"],
            "524 µs",
        )),
        // 50.3 ms and 67.1 ms of 500.
        of("two classes of two vCPUs", vec![(192, write(HALF, HALF))])
            .and(vec![(2, quote)])
            .expects(found(out, 192, ["50.0", "10.1"], "524 µs"))
            .expects(found("TDVMCALL GetQuote", 2, ["100.0", "13.4"], "33 ms")),
        of("a plain VM", vec![(96, plain)]).plain().expects(found(
            "EPT_VIOLATION",
            96,
            ["50.0", "10.1"],
            "524 µs",
        )),
        of("one exit less", vec![(95, write(HALF, HALF))]),
        of(
            "a nanosecond more in the kernel",
            vec![(95, write(HALF, HALF)), (1, write(HALF + 1, HALF))],
        ),
        of(
            "a nanosecond less in the VMM, for want of a CPU",
            vec![(95, write(HALF, HALF)), (1, write(HALF, HALF).waits(1))],
        ),
        of("another vCPU with nothing to do", vec![(96, write(HALF, HALF))]).and(Vec::new()),
        of("halts in the VMM", vec![(2, Act::call(1, 12, [0; 3]).takes(0).returns(5, 1 << 26))]),
        of("one exit less of a plain VM", vec![(95, plain)]).plain(),
    ]
}
