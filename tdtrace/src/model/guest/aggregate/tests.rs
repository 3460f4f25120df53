use std::time::Duration;

use tdtrace_common::{
    guest::{Context, VE_CONTEXT_SHIFT},
    latency::{BUCKETS, bucket},
};

use super::*;
use crate::{model::guest::sample::GuestLosses, verdict::Fate};

const IP: u64 = 0xffff_ffff_8100_0010;

fn stats(count: u64, failed: u64, ns: u64) -> VeStats {
    let mut buckets = [0; BUCKETS];
    buckets[bucket(ns)] = count;
    VeStats {
        count,
        failed,
        user: 0,
        own: 0,
        unpaired: 0,
        ns: ns * count,
        max_ns: ns,
        reserved: 0,
        buckets,
    }
}

fn place(reason: u32, ip: u64, object: u64, count: u64) -> (VeKey, VeValue) {
    let mode = (Context::Task as u32) << VE_CONTEXT_SHIFT;
    let value = VeValue { count, stack: -1, ..VeValue::default() };
    (VeKey { reason, mode, ip, object }, value)
}

fn sample(seconds: u64, count: u64) -> GuestSample {
    let mut sample = GuestSample {
        at: Duration::from_secs(seconds),
        reasons: vec![(48, stats(count, 1, 5_000)), (VE_OTHER, stats(2, 2, 0))],
        places: vec![
            place(48, IP, 1 << 51 | 0xfed0_0000, count - 4),
            place(48, IP, 1 << 51 | 0xfee0_0000, 1),
            place(30, IP, 0x3f8_0008, 7),
        ],
        ..GuestSample::default()
    };
    sample.places[1].0.mode = VE_OWN | (Context::Hardirq as u32) << VE_CONTEXT_SHIFT;
    sample.places[1].1.failed = 1;
    sample.places[1].1.errno = -14;
    sample.names.insert(IP, "read_hpet+0x10".into());
    sample
}

#[test]
fn places_of_an_instruction_are_one_site_and_what_none_counts_is_other() {
    let snapshot = GuestAggregate::new().apply(&sample(1, 10));
    let site = snapshot.sites.iter().find(|site| site.reason == 48).unwrap();
    assert_eq!((site.count, site.failed, site.own, site.errno), (7, 1, 1, Some(-14)));
    assert_eq!(site.contexts, [("hardirq", 1), ("task", 6)]);
    assert_eq!(site.symbol.as_deref(), Some("read_hpet+0x10"));
    let page = Object::Page { gpa: Hex(0xfed0_0000), shared: Some(true) };
    assert_eq!(site.objects[0], (page, 6));
    let reason = &snapshot.reasons[0];
    assert_eq!((reason.name, reason.count, reason.other), ("EPT_VIOLATION", 10, 3));
    assert_eq!((snapshot.total.count, snapshot.total.failed), (12, 3));
    assert_eq!(snapshot.reasons[1].name, "other");
}

#[test]
fn rates_are_since_the_sample_before_and_there_is_none_at_first() {
    let mut aggregate = GuestAggregate::new();
    let first = aggregate.apply(&sample(1, 10));
    assert!(first.reasons[0].rate.is_none() && first.interval.is_none());
    let second = aggregate.apply(&sample(3, 30));
    assert_eq!(second.reasons[0].rate, Some(10.0));
    let site = second.sites.iter().find(|site| site.reason == 48).unwrap();
    assert_eq!(site.rate, Some(10.0));
    assert_eq!(second.with_mean_rates().reasons[0].rate, Some(10.0));
}

#[test]
fn user_code_is_a_site_of_its_own_and_has_no_kernel_symbol() {
    let mut sample = sample(1, 10);
    let (mut key, value) = place(48, IP, 0, 5);
    key.mode |= VE_USER;
    sample.places.push((key, value));
    let snapshot = GuestAggregate::new().apply(&sample);
    let site = snapshot.sites.iter().find(|site| site.user).unwrap();
    assert_eq!((site.count, site.symbol.clone()), (5, None));
    assert_eq!(site.contexts, [("user", 5)]);
}

#[test]
fn an_instruction_that_the_handler_cannot_decode_does_not_survive() {
    let mut sample = sample(1, 10);
    // test dword [rdi+0x14], 1
    let bytes = [0xf7, 0x47, 0x14, 1, 0, 0, 0];
    for (_, value) in &mut sample.places[..2] {
        value.bytes[..7].copy_from_slice(&bytes);
        value.bytes_len = 7;
    }
    let snapshot = GuestAggregate::new().apply(&sample);
    let site = snapshot.sites.iter().find(|site| site.reason == 48).unwrap();
    assert_eq!((site.fate(), site.is_offender()), (Fate::Fatal, true));
    let io = snapshot.sites.iter().find(|site| site.reason == 30).unwrap();
    assert_eq!((io.fate(), io.judgement()), (Fate::Emulated, None));
}

#[test]
fn the_caller_of_a_conversion_is_who_asked_for_it() {
    let mut sample = sample(1, 10);
    sample.stacks.insert(3, vec![1, 2, 3, 4].into());
    for (ip, name) in
        [(2, "__set_memory_enc_pgtable+0x1"), (3, "set_memory_decrypted+0x2"), (4, "dma_alloc+0x3")]
    {
        sample.names.insert(ip, name.into());
    }
    let value =
        CallValue { count: 2, bytes: 8192, timed: 2, ns: 10, max_ns: 7, ..CallValue::default() };
    sample.stacks.insert(5, vec![1, 2, 3, 6].into());
    sample.names.insert(6, "dma_alloc+0x9".into());
    sample.calls = vec![
        (CallKey { operation: Operation::ToShared as u32, stack: 3 }, value),
        (CallKey { operation: Operation::ToShared as u32, stack: 5 }, value),
        (CallKey { operation: 99, stack: 3 }, value),
    ];
    let snapshot = GuestAggregate::new().apply(&sample);
    let [call] = &snapshot.calls[..] else { panic!("{:?}", snapshot.calls) };
    assert_eq!(call.caller.as_deref(), Some("dma_alloc"));
    assert_eq!(call.max_ns, Some(7));
    assert_eq!((call.mean_ns, call.count, call.bytes, call.stack.len()), (Some(5), 4, 16384, 3));
    assert_eq!(function_of("probe+0x4 [acme]"), "probe [acme]");
}

#[test]
fn a_caller_without_a_name_is_not_taken_for_the_one_behind_it() {
    let mut sample = sample(1, 10);
    sample.stacks.insert(3, vec![2, 3, 4].into());
    sample.names.insert(2, "tdx_map_gpa+0x1".into());
    sample.names.insert(4, "do_one_initcall+0x3".into());
    let value = CallValue { count: 1, ..CallValue::default() };
    sample.calls = vec![(CallKey { operation: Operation::MapShared as u32, stack: 3 }, value)];
    assert_eq!(GuestAggregate::new().apply(&sample).calls[0].caller, None);
}

#[test]
fn seen_and_missed_make_up_all() {
    let mut sample = sample(1, 10);
    sample.losses = GuestLosses {
        misses: vec![("ve_fentry".into(), 9), ("ve_fexit".into(), 4)],
        ..GuestLosses::default()
    };
    let snapshot = GuestAggregate::new().apply(&sample);
    assert_eq!((snapshot.missed, snapshot.all()), (4, 16));
}

#[test]
fn objects_are_told_apart_by_what_is_done_with_them() {
    let places = vec![
        place(31, 1, 0x1b, 1),
        place(32, 2, 0x1b, 2),
        place(10, 3, 7 << 32 | 0x4000_0000, 3),
        place(10, 4, u64::MAX, 4),
        place(12, 5, 0, 5),
    ];
    let sample = GuestSample { places, ..GuestSample::default() };
    let snapshot = GuestAggregate::new().apply(&sample);
    let objects: Vec<_> = snapshot.objects.iter().map(|o| (o.object, o.count)).collect();
    assert_eq!(
        objects,
        [
            (Object::Cpuid { leaf: 0x4000_0000, subleaf: 7 }, 3),
            (Object::Msr { index: 0x1b, write: true }, 2),
            (Object::Msr { index: 0x1b, write: false }, 1),
        ]
    );
}

#[test]
fn a_site_is_judged_by_its_code_and_by_the_worst_of_what_it_touched() {
    use crate::{
        sites::{Site as Code, devices::Device},
        verdict::{Frame, Kind},
    };
    let load = [0x8b, 0x07];
    let mut sample = sample(1, 10);
    sample.places = vec![place(48, IP, 1 << 51 | 0xfed0_0000, 5), place(30, IP + 8, 0x3f8_0000, 7)];
    sample.shared_bit = SharedBit::Given(51);
    sample.places[0].1.bytes[..2].copy_from_slice(&load);
    sample.places[0].1.bytes_len = 2;
    let judged = |sample: &GuestSample| {
        let snapshot = GuestAggregate::new().apply(sample);
        let site = snapshot.sites.iter().find(|site| site.reason == 48).unwrap().clone();
        (site.verdict.as_ref().unwrap().kind, site.fate())
    };
    assert_eq!(judged(&sample), (Kind::Undecided, Fate::Emulated));
    let frame = Frame { function: "acme_isr".into(), file: None, line: None };
    let code = Code { chain: Some(vec![frame]), ..Code::default() };
    sample.code.insert(IP, Arc::new(code));
    assert_eq!(judged(&sample), (Kind::PointerDereference, Fate::Emulated));
    // One access to private memory outweighs any number to the device.
    sample.places.push(place(48, IP, 0x1000, 1));
    assert_eq!(judged(&sample).1, Fate::Panic);
    sample.places.pop();
    let page = Object::Page { gpa: Hex(0xfed0_0000), shared: Some(true) };
    sample.devices.insert(page, Arc::new(Device { ram: true, ..Device::default() }));
    let snapshot = GuestAggregate::new().apply(&sample);
    let site = snapshot.sites.iter().find(|site| site.reason == 48).unwrap();
    let evidence = &site.verdict.as_ref().unwrap().evidence;
    assert!(evidence.iter().any(|sentence| sentence.contains("System RAM")), "{evidence:?}");
}

#[test]
fn a_verdict_is_made_again_when_more_is_known() {
    let mut aggregate = GuestAggregate::new();
    let mut sample = sample(1, 10);
    let verdict = |snapshot: GuestSnapshot| {
        snapshot.sites.iter().find(|site| site.reason == 48).unwrap().verdict.clone().unwrap()
    };
    let first = verdict(aggregate.apply(&sample));
    let again = verdict(aggregate.apply(&sample));
    assert!(Arc::ptr_eq(&first, &again));
    sample.shared_bit = SharedBit::Given(47);
    let private = verdict(aggregate.apply(&sample));
    assert_eq!(private.survives.fate, Fate::Panic);
}

#[test]
fn a_verdict_without_the_instruction_does_not_outlive_its_bytes() {
    let mut aggregate = GuestAggregate::new();
    let mut sample = sample(1, 10);
    let bytes = |sample: &mut GuestSample, bytes: &[u8]| {
        for (_, value) in &mut sample.places {
            value.bytes_len = bytes.len() as u32;
            value.bytes[..bytes.len()].copy_from_slice(bytes);
        }
    };
    let kind = |snapshot: GuestSnapshot| {
        let site = snapshot.sites.iter().find(|site| site.reason == 48);
        site.unwrap().verdict.as_ref().unwrap().kind
    };
    bytes(&mut sample, &[]);
    assert_eq!(kind(aggregate.apply(&sample)), crate::verdict::Kind::Undecided);
    // test dword ptr [rdi+0x14], 1
    bytes(&mut sample, &[0xf7, 0x47, 0x14, 1, 0, 0, 0]);
    assert_eq!(kind(aggregate.apply(&sample)), crate::verdict::Kind::PointerDereference);
}

#[test]
fn findings_rest_on_rates_since_the_sample_before_and_at_the_end_on_the_mean() {
    use crate::model::guest::finding::Rule;
    let of = |seconds, count| GuestSample {
        at: Duration::from_secs(seconds),
        places: vec![place(31, IP, 0x1b, count)],
        ..GuestSample::default()
    };
    let rules = |snapshot: &GuestSnapshot| -> Vec<_> {
        snapshot.findings.iter().map(|finding| finding.rule).collect()
    };
    let mut aggregate = GuestAggregate::new();
    assert_eq!(rules(&aggregate.apply(&of(1, 50_000))), []);
    assert_eq!(rules(&aggregate.apply(&of(2, 60_000))), [Rule::VeStorm]);
    let quiet = aggregate.apply(&of(3, 60_001));
    assert_eq!(rules(&quiet), []);
    assert_eq!(rules(&quiet.with_mean_rates()), [Rule::VeStorm]);
}

#[test]
fn numbers_that_nothing_can_count_up_to_stay_the_largest() {
    let mut sample = sample(1, 10);
    for (_, value) in &mut sample.places {
        (value.count, value.failed, value.timed, value.ns) =
            (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
    }
    let value = CallValue {
        count: u64::MAX,
        failed: u64::MAX,
        bytes: u64::MAX,
        timed: u64::MAX,
        ns: u64::MAX,
        ..CallValue::default()
    };
    let key = |stack| CallKey { operation: Operation::Bounce as u32, stack };
    sample.calls = vec![(key(-1), value), (key(-2), value)];
    let snapshot = GuestAggregate::new().apply(&sample);
    let site = snapshot.sites.iter().find(|site| site.reason == 48).unwrap();
    assert_eq!((site.count, site.mean_ns), (u64::MAX, Some(1)));
    assert_eq!((snapshot.calls[0].count, snapshot.calls[0].failed), (u64::MAX, u64::MAX));
    assert_eq!(snapshot.objects[0].count, u64::MAX);
}
