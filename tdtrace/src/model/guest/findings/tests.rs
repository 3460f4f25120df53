//! Each rule with what fires it and with what looks like it and must not.

use std::time::Duration;

use super::{limits, *};
use crate::{
    decode::{bits::Hex, gpa::Sharing, qualification},
    model::guest::{
        finding::Severity,
        sample::GuestLosses,
        snapshot::{Call, Object},
    },
    sites::{Site as Code, devices::Device},
    verdict::{self, Access, Frame, Kind, Target},
};

mod calls;
mod sites;

/// `mov eax, [rdi]`, as readl() and any dereference compile to.
const LOAD: &[u8] = &[0x8b, 0x07];
/// `test dword [rdi+0x14], 1`, which the handler cannot decode.
const TEST: &[u8] = &[0xf7, 0x47, 0x14, 1, 0, 0, 0];

/// A site of `count` #VEs in the kernel, none of which failed.
fn site(reason: u32, count: u64) -> Site {
    Site {
        reason,
        name: "REASON",
        ip: Some(0xffff_ffff_8100_0010),
        symbol: Some("acme_isr+0x10 [acme]".into()),
        user: false,
        count,
        rate: None,
        failed: 0,
        own: 0,
        errno: None,
        contexts: Vec::new(),
        objects: Vec::new(),
        device: None,
        code: None,
        verdict: None,
        bytes: Vec::new(),
        pid: 7,
        tid: 7,
        comm: "acme".into(),
        stack: Vec::new(),
        mean_ns: None,
    }
}

/// MMIO by `bytes` in the functions `chain`, the innermost first, judged as the aggregate judges it.
fn mmio(bytes: &[u8], chain: &[(&str, &str)], count: u64) -> Site {
    let frame = |(function, file): &(&str, &str)| Frame {
        function: (*function).to_owned(),
        file: Some((*file).to_owned()),
        line: None,
    };
    let chain: Vec<Frame> = chain.iter().map(frame).collect();
    let target = Target::Memory { gla: None, sharing: Sharing::Shared, ram: false };
    let access = Access { target, ..Access::of(bytes, Some(&chain)) };
    let verdict = verdict::judge(&access);
    let page = Object::Page { gpa: Hex(0xfed0_0000), shared: Some(true) };
    Site {
        bytes: bytes.to_vec(),
        objects: vec![(page, count)],
        verdict: Some(Arc::new(verdict)),
        code: Some(Arc::new(Code { chain: Some(chain), ..Code::default() })),
        ..site(48, count)
    }
}

/// A struct over registers.
fn overlay(bytes: &[u8], count: u64) -> Site {
    mmio(bytes, &[("acme_isr", "drivers/acme.c")], count)
}

/// The same site after `failed` failures with `errno`.
fn failing(site: Site, failed: u64, errno: i32) -> Site {
    Site { failed, errno: Some(errno), ..site }
}

fn port(string: bool, user: bool, failed: u64) -> Site {
    let io = qualification::io(0x60 << 16 | 1 << 3);
    let object = Object::Port { port: io.port, direction: io.direction, size: io.size, string };
    Site { objects: vec![(object, 5)], user, failed, ..site(30, 5) }
}

fn call(operation: Operation, caller: &str, count: u64, failed: u64) -> Call {
    Call {
        operation,
        caller: Some(caller.into()),
        stack: Vec::new(),
        count,
        failed,
        last_failure: 0,
        bytes: count * 4096,
        mean_ns: None,
        max_ns: None,
    }
}

/// What is found within one second from the beginning.
fn found(sites: Vec<Site>, calls: Vec<Call>) -> Vec<Finding> {
    evaluate(&snapshot(sites, calls), &Earlier::default())
}

fn snapshot(sites: Vec<Site>, calls: Vec<Call>) -> GuestSnapshot {
    let second = Duration::from_secs(1);
    GuestSnapshot { at: second, interval: Some(second), sites, calls, ..GuestSnapshot::default() }
}

/// The rules that one site breaks, with the counts.
fn rules(site: Site) -> Vec<(Rule, u64)> {
    found(vec![site], Vec::new()).into_iter().map(|found| (found.rule, found.count)).collect()
}

#[test]
fn the_gravest_comes_first_and_then_the_most_frequent() {
    let sites = vec![
        overlay(LOAD, 3),
        overlay(LOAD, 9),
        site(48, 20_000),
        port(false, true, 5),
        failing(overlay(TEST, 2), 2, -22),
    ];
    let found = found(sites, Vec::new());
    let rules: Vec<_> = found.iter().map(|found| (found.rule, found.count)).collect();
    let expected = [
        (Rule::UndecodableMmio, 2),
        (Rule::UserPortIo, 5),
        (Rule::NonIoMmio, 9),
        (Rule::NonIoMmio, 3),
        (Rule::VeStorm, 20_000),
    ];
    assert_eq!(rules, expected);
    assert!(found.is_sorted_by_key(|found| Reverse(found.rule.severity())));
    assert_eq!(found[0].rule.severity(), Severity::Error);
    assert_eq!(found[2].subject, Subject::Site { index: 1 });
}

#[test]
fn what_was_lost_is_said_with_each_finding_and_nothing_where_nothing_was() {
    let mut snapshot = snapshot(vec![overlay(LOAD, 3)], vec![call(Operation::ToShared, "a", 2, 1)]);
    let says = |snapshot: &GuestSnapshot, rule: Rule| {
        let found = evaluate(snapshot, &Earlier::default());
        let finding = found.into_iter().find(|found| found.rule == rule).unwrap();
        finding.evidence.join(" ")
    };
    assert!(!says(&snapshot, Rule::NonIoMmio).contains("there may be more"));
    assert!(!says(&snapshot, Rule::ConversionFailed).contains("there may be more"));
    snapshot.missed = 4;
    snapshot.losses =
        GuestLosses { causes: vec![(GuestLoss::Places, 5), (GuestLoss::Calls, 6)], misses: vec![] };
    let said = says(&snapshot, Rule::NonIoMmio);
    assert!(said.contains("4 #VEs were missed and 5 found no place"), "{said}");
    let said = says(&snapshot, Rule::ConversionFailed);
    assert!(said.contains("6 calls were not counted"), "{said}");
}

#[test]
fn rates_are_over_what_came_since_and_not_over_everything() {
    let before = snapshot(vec![site(48, 50_000)], vec![call(Operation::Bounce, "a", 90_000, 0)]);
    let earlier = Earlier::of(&before);
    let now = snapshot(vec![site(48, 50_100)], vec![call(Operation::Bounce, "a", 90_001, 0)]);
    assert_eq!(evaluate(&now, &earlier), []);
    assert_eq!(evaluate(&now, &Earlier::default()).len(), 2);
    let first = GuestSnapshot { interval: None, ..now };
    assert_eq!(evaluate(&first, &Earlier::default()), []);
    let stopped = GuestSnapshot { interval: Some(Duration::ZERO), ..first };
    assert_eq!(evaluate(&stopped, &Earlier::default()), []);
}

#[test]
fn every_limit_has_a_unit_and_a_reason() {
    for limit in limits::ALL {
        assert!(
            limit.value > 0 && !limit.unit.is_empty() && !limit.why.ends_with('.'),
            "{limit:?}"
        );
    }
}
