//! Samples with one of everything, as a TD might give them.

use std::time::Duration;

use tdtrace_common::{
    guest::{
        CallKey, CallValue, Context, GuestLoss, Operation, VE_CONTEXT_SHIFT, VE_OTHER, VE_USER,
        VeKey, VeStats, VeValue,
    },
    latency::bucket,
};

use crate::{
    decode::bits::Hex,
    model::guest::{
        sample::{ClockState, GuestLosses, GuestProbeState, GuestSample},
        shared_bit::SharedBit,
        snapshot::Object,
    },
    sites::{Site, devices::Device},
    verdict::Frame,
};

const TASK: u32 = (Context::Task as u32) << VE_CONTEXT_SHIFT;
const HARDIRQ: u32 = (Context::Hardirq as u32) << VE_CONTEXT_SHIFT;
const DRIVER: u64 = 0xffff_ffff_c012_3456;
const SERIAL: u64 = 0xffff_ffff_8171_0040;
const HPET: u64 = 1 << 51 | 0xfed0_0000;
const RING: u64 = 1 << 51 | 0x3_8000_0000_1000;

fn stats(count: u64, failed: u64, ns: u64) -> VeStats {
    let mut stats = VeStats { count, failed, ns: count * ns, max_ns: 70 * ns, ..VeStats::NOTHING };
    stats.buckets[bucket(ns)] = count - 1;
    stats.buckets[bucket(70 * ns)] = 1;
    stats
}

fn place(ip: u64, bytes: &[u8], comm: &str, count: u64) -> VeValue {
    let mut value = VeValue { count, timed: count, ns: count * 4_100, ..VeValue::default() };
    value.thread = 812 << 32 | 813;
    value.stack = if ip == DRIVER { 4 } else { -14 };
    value.bytes[..bytes.len()].copy_from_slice(bytes);
    value.bytes_len = bytes.len() as u32;
    value.comm[..comm.len()].copy_from_slice(comm.as_bytes());
    value
}

fn places(scale: u64) -> Vec<(VeKey, VeValue)> {
    let key = |reason, mode, ip, object| VeKey { reason, mode, ip, object };
    // mov dword [rdi+0x14], eax and test dword [rdi+0x14], 1
    let store = [0x89, 0x47, 0x14, 0xc3, 0x90, 0x90, 0x90, 0x90];
    let test = [0xf7, 0x47, 0x14, 1, 0, 0, 0, 0xc3];
    let mut failed = place(DRIVER, &test, "irq/24-acme", 2);
    (failed.failed, failed.errno) = (2, -14);
    let mut stored = place(DRIVER, &store, "kworker/0:1", 41 * scale);
    (stored.qualification, stored.gpa) = (0x182, RING | 0x14);
    vec![
        (key(10, TASK | VE_USER, 0x7f01_2345_6789, 7 << 32 | 4), place(0, &[], "stress-ng", 5)),
        (key(30, TASK, SERIAL, 0x3f8_0000), place(SERIAL, &[0xee], "bash \\ \u{e9}", 12 * scale)),
        (key(32, TASK, 0xffff_ffff_8103_2100, 0x6e0), place(0, &[0x0f, 0x30], "", 3)),
        (key(48, TASK, DRIVER, RING), stored),
        (key(48, HARDIRQ, DRIVER, RING), failed),
        (key(48, TASK, 0, HPET), VeValue { count: 1, ..VeValue::default() }),
    ]
}

fn calls(scale: u64) -> Vec<(CallKey, CallValue)> {
    let key = |operation, stack| CallKey { operation: operation as u32, stack };
    let value = CallValue { count: 2 * scale, bytes: 8192 * scale, ..CallValue::default() };
    vec![
        (
            key(Operation::ToShared, 4),
            CallValue { timed: 2 * scale, ns: 91_000 * scale, max_ns: 60_100, ..value },
        ),
        (
            key(Operation::MapShared, -14),
            CallValue { failed: 1, last_failure: 0x8000_0000_0000_0001, ..value },
        ),
    ]
}

fn code() -> [(u64, Site); 2] {
    let frame = |function: &str, line| Frame {
        function: function.to_owned(),
        file: Some("drivers/net/acme/ring.c".to_owned()),
        line,
    };
    let driver = Site {
        address: DRIVER,
        function: Some("acme_kick".to_owned()),
        offset: 0x16,
        module: Some("acme".to_owned()),
        chain: Some(vec![frame("acme_write", Some(88)), frame("acme_kick", None)]),
        debug_file: Some("/usr/lib/debug/acme.ko.debug".into()),
        bytes: vec![0x89, 0x47, 0x14, 0xc3],
        in_exception_table: Some(false),
        note: None,
    };
    let serial = Site {
        address: SERIAL,
        note: Some("no file of the kernel 6.12.9 has debug information".to_owned()),
        ..Site::default()
    };
    [(DRIVER, driver), (SERIAL, serial)]
}

fn devices() -> [(Object, Device); 2] {
    let page = Object::Page { gpa: Hex(RING & !(1 << 51)), shared: Some(true) };
    let ring = Device {
        address: Hex(RING & !(1 << 51)),
        pci: Some("0000:00:04.0".to_owned()),
        id: Some("1af4:1041".to_owned()),
        class: Some("0x020000".to_owned()),
        driver: Some("acme".to_owned()),
        bar: Some(4),
        offset: Some(Hex(0x1000)),
        ranges: vec!["PCI Bus 0000:00".to_owned(), "acme".to_owned()],
        known: None,
        ram: false,
    };
    let port = Object::Port { port: 0x3f8, direction: "out", size: Some(1), string: false };
    let serial = Device {
        address: Hex(0x3f8),
        known: Some("COM1".to_owned()),
        ram: true,
        ..Device::default()
    };
    [(page, ring), (port, serial)]
}

fn sample(millis: u64, scale: u64) -> GuestSample {
    let probe = |name: &'static str, how: Option<&'static str>, missing: Option<&str>| {
        let (how, missing) = (how.map(Into::into), missing.map(Into::into));
        GuestProbeState { name: name.into(), how, missing, hides: "something".into() }
    };
    GuestSample {
        at: Duration::from_millis(millis) + Duration::from_nanos(7),
        release: "6.12.9".into(),
        is_td: true,
        probes: vec![
            probe("ve", Some("fentry"), None),
            probe("mmio", Some("kprobe"), Some("fentry was refused")),
            probe("quote", None, Some("the module tdx_guest is not loaded")),
        ]
        .into(),
        clock: ClockState { name: "kvm-clock".to_owned(), used: true, changes: 0 },
        layout_assumed: false,
        shared_bit: SharedBit::Kernel(51),
        reasons: vec![
            (10, VeStats { user: 5, own: 2, ..stats(5, 0, 1_200) }),
            (30, stats(12 * scale, 0, 2_000)),
            (48, VeStats { unpaired: 1, ..stats(41 * scale + 3, 2, 4_100) }),
            (VE_OTHER, stats(2, 2, 800)),
        ],
        places: places(scale),
        calls: calls(scale),
        stacks: [(0, [].into()), (4, [DRIVER, SERIAL, 0xffff_ffff_8101_0000].into())].into(),
        names: [(DRIVER, "acme_kick+0x16 [acme]".into()), (SERIAL, "io_serial_out+0x10".into())]
            .into(),
        code: code().map(|(address, code)| (address, code.into())).into(),
        devices: devices().map(|(object, device)| (object, device.into())).into(),
        symbols: "debug information of /usr/lib/debug/boot/vmlinux-6.12.9".into(),
        losses: GuestLosses {
            causes: vec![(GuestLoss::Places, scale), (GuestLoss::Unread, 1)],
            misses: vec![("ve_fentry".into(), 0), ("ve_fexit".into(), 3 * scale)],
        },
    }
}

/// Five samples: counters move, a place and its code come, a probe is attached and the clocksource
/// changes.
pub(in crate::recording::tests) fn samples() -> Vec<GuestSample> {
    let mut first = sample(10, 10);
    first.shared_bit = SharedBit::Unknown;
    first.reasons.remove(0);
    first.places.remove(0);
    first.calls.pop();
    first.code.pop_last();
    first.devices.clear();
    first.losses = GuestLosses::default();
    let mut last = sample(4250, 1800);
    let mut probes = last.probes.to_vec();
    (probes[2].how, probes[2].missing) = (Some("kprobe".into()), None);
    last.probes = probes.into();
    last.clock = ClockState { name: "hpet".to_owned(), used: false, changes: 1 };
    vec![first, sample(1010, 1010), sample(2010, 1010), sample(3011, 1700), last]
}

/// Two small samples.
pub(in crate::recording::tests) fn few() -> Vec<GuestSample> {
    let small = |millis, scale| {
        let mut sample = sample(millis, scale);
        sample.probes = sample.probes[..1].into();
        sample.places = vec![sample.places[3]];
        sample.reasons.truncate(1);
        sample.calls.truncate(1);
        sample.names.pop_last();
        sample
    };
    vec![small(100, 1), small(200, 2)]
}

/// The checked-in recording of [`samples`] by version 1.
const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recording/v1-td-guest.tdtrace");

#[test]
fn the_recording_of_a_guest_that_version_1_wrote_is_still_read_as_it_was() {
    super::super::write_fixture(FIXTURE, || super::written(&samples()));
    let (back, end) = super::read(&std::fs::read(FIXTURE).unwrap());
    assert!(matches!(end, Ok(None)), "{end:?}");
    assert_eq!(back, samples());
}
