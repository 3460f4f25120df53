//! Accesses to one place that are too many: MSRs and the ports of `fw_cfg`.

use tdtrace::{model::finding::Rule, source::synthetic::Event};

use super::stage::{Act, Case, Expected};

const ICR: u32 = 0x830;
const TSC_DEADLINE: u32 = 0x6e0;
const EOI: u32 = 0x80b;

pub(super) fn cases() -> Vec<Case> {
    [ipis(), msrs(), fw_cfg()].into_iter().flatten().collect()
}

/// An access of a TD to an MSR.
fn msr(write: bool, index: u32) -> Act {
    let (number, leaf, class) = if write { (5, 32, "msr_write") } else { (4, 31, "msr_read") };
    Act::call(number, leaf, [index.into(), 1, 0]).at(class, index.into(), 0)
}

/// The same of another VM, which `kvm_msr` tells.
fn plain_msr(write: bool, index: u32) -> Act {
    let (reason, class) = if write { (32, "msr_write") } else { (31, "msr_read") };
    Act::exit(reason).traced(Event::Msr(write, index)).at(class, index.into(), 0)
}

/// 10,000 a second: 2,500 in the interval.
fn ipis() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::IpiStorm, name, acts);
    let what = "msr_write 0x830 x2APIC ICR";
    let evidence =
        ["10,000 a second of msr_write 0x830 x2APIC ICR.", "The limit is 10,000 IPIs a second"];
    let found = || Expected::new(Rule::IpiStorm, 2_500, &evidence).about(what);
    vec![
        of("of both vCPUs", vec![(1_200, msr(true, ICR))])
            .and(vec![(1_300, msr(true, ICR))])
            .expects(found()),
        of("of a plain VM", vec![(2_500, plain_msr(true, ICR))]).plain().expects(found()),
        of(
            "one less, and reads of the same",
            vec![(2_499, msr(true, ICR)), (2_499, msr(false, ICR))],
        ),
        of("one less of a plain VM", vec![(2_499, plain_msr(true, ICR))]).plain(),
    ]
}

/// 10,000 a second of one MSR: 2,500 in the interval.
fn msrs() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::MsrStorm, name, acts);
    let limit = "The limit is 10,000 accesses a second";
    let found = |count, rate: &str, what: &str| {
        let first = format!("{rate} a second of {what}.");
        Expected::new(Rule::MsrStorm, count, &[&first, limit]).about(what)
    };
    let deadline = "msr_write 0x6e0 TSC_DEADLINE";
    vec![
        of("one MSR", vec![(2_500, msr(true, TSC_DEADLINE))])
            .expects(found(2_500, "10,000", deadline)),
        of("two MSRs", vec![(2_500, msr(true, EOI)), (2_600, msr(true, TSC_DEADLINE))])
            .expects(found(2_600, "10,400", deadline))
            .expects(found(2_500, "10,000", "msr_write 0x80b x2APIC EOI")),
        of("reads, of the ICR too", vec![(2_500, msr(false, ICR))]).expects(found(
            2_500,
            "10,000",
            "msr_read 0x830 x2APIC ICR",
        )),
        of("an MSR without a name", vec![(2_500, msr(true, 0xdead_0001))]).expects(found(
            2_500,
            "10,000",
            "msr_write 0xdead0001",
        )),
        of("a plain VM", vec![(2_500, plain_msr(false, TSC_DEADLINE))]).plain().expects(found(
            2_500,
            "10,000",
            "msr_read 0x6e0 TSC_DEADLINE",
        )),
        of(
            "one less of each",
            vec![
                (2_499, msr(true, TSC_DEADLINE)),
                (2_499, msr(false, TSC_DEADLINE)),
                (2_499, msr(true, EOI)),
            ],
        ),
        of("one less of a plain VM", vec![(2_499, plain_msr(true, TSC_DEADLINE))]).plain(),
    ]
}

/// 1,000 a second, all ports together: 250 in the interval.
fn fw_cfg() -> Vec<Case> {
    let of = |name, acts| Case::new(Rule::FwCfgStorm, name, acts);
    let port = |write: bool, port: u32, size: u32| {
        let (number, class) = if write { (3, "pio_out") } else { (2, "pio_in") };
        Act::call(number, 30, [size.into(), write.into(), port.into()])
            .at(class, port.into(), size)
            .returns(2, 1_000)
    };
    let plain = |write: bool, port: u32, size: u32| {
        let class = if write { "pio_out" } else { "pio_in" };
        let event = Event::Pio(write.into(), port, size);
        Act::exit(30).traced(event).at(class, port.into(), size).returns(2, 1_000)
    };
    let limit = "The limit is 1,000 accesses a second";
    vec![
        of("all ports", vec![(30, port(true, 0x510, 2)), (195, port(false, 0x511, 1))])
            .and(vec![(15, port(true, 0x514, 4)), (10, port(true, 0x518, 4))])
            .finds(
                250,
                &[
                    "1,000 a second: pio_in 0x511 780, pio_out 0x510 120, pio_out 0x514 60, \
                     pio_out 0x518 40.",
                    limit,
                ],
            ),
        of("a plain VM", vec![(250, plain(false, 0x511, 1))])
            .plain()
            .finds(250, &["1,000 a second: pio_in 0x511 1,000.", limit]),
        of(
            "one less, and many of the ports beside it",
            vec![
                (30, port(true, 0x510, 2)),
                (219, port(false, 0x511, 1)),
                (250, port(false, 0x512, 1)),
                (250, port(false, 0x50f, 1)),
                (250, port(true, 0x3f8, 1)),
            ],
        ),
        of("one less of a plain VM", vec![(249, plain(false, 0x511, 1))]).plain(),
    ]
}
