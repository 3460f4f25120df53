//! A guest as tests of what comes after the sample see it: drivers that go through io.h and around it,
//! ports, a program with CPUID, conversions. Made of a sample, so that verdicts are real ones.

use std::{sync::Arc, time::Duration};

use tdtrace_common::{
    guest::{
        CallKey, CallValue, Context, GuestLoss, Operation, VE_CONTEXT_SHIFT, VE_OWN, VE_USER,
        VeKey, VeStats, VeValue,
    },
    latency::{BUCKETS, bucket},
};

use super::{
    aggregate::GuestAggregate,
    finding::{Finding, Rule, Subject},
    sample::{ClockState, GuestLosses, GuestProbeState, GuestSample},
    shared_bit::SharedBit,
    snapshot::{GuestSnapshot, Object},
};
use crate::{
    decode::bits::Hex,
    probe::guest::GUEST_PROBES,
    sites::{Site as Code, devices::Device},
    verdict::Frame,
};

const TEXT: u64 = 0xffff_ffff_8100_0000;
const SHARED: u64 = 1 << 51;
const IO_H: &str = "arch/x86/include/asm/io.h";

/// One instruction.
struct At {
    reason: u32,
    ip: u64,
    name: &'static str,
    /// The inlined chain; empty without debug information.
    chain: &'static [(&'static str, &'static str, u32)],
    bytes: &'static [u8],
    object: u64,
    context: Context,
    count: u64,
    failed: bool,
    comm: &'static str,
}

const SITES: &[At] = &[
    At {
        reason: 48,
        ip: TEXT + 0x2003c,
        name: "acme_isr+0x3c [acme_nic]",
        chain: &[("acme_isr", "drivers/net/acme/acme_nic.c", 412)],
        bytes: &[0xf7, 0x47, 0x14, 1, 0, 0, 0],
        object: SHARED | 0xfd00_0000,
        context: Context::Hardirq,
        count: 37,
        failed: true,
        comm: "swapper/3",
    },
    At {
        reason: 48,
        ip: TEXT + 0x21011,
        name: "acme_stat+0x11 [acme_nic]",
        chain: &[("acme_stat", "drivers/net/acme/acme_nic.c", 388)],
        bytes: &[0x0f, 0xb6, 0x42, 0x10],
        object: SHARED | 0xfd00_0000,
        context: Context::Softirq,
        count: 2_100,
        failed: false,
        comm: "ksoftirqd/0",
    },
    At {
        reason: 48,
        ip: TEXT + 0x22090,
        name: "blob_load+0x90 [acme_nic]",
        chain: &[("memcpy", IO_H, 102), ("blob_load", "drivers/net/acme/acme_fw.c", 77)],
        bytes: &[0xf3, 0xa4],
        object: SHARED | 0xfd20_0000,
        context: Context::Task,
        count: 1,
        failed: true,
        comm: "modprobe",
    },
    At {
        reason: 48,
        ip: TEXT + 0x3001f,
        name: "foo_poll+0x1f [foo]",
        chain: &[],
        bytes: &[0x8b, 0x00],
        object: SHARED | 0xfe80_0000,
        context: Context::Task,
        count: 120,
        failed: false,
        comm: "kworker/1:2",
    },
    At {
        reason: 48,
        ip: TEXT + 0x40044,
        name: "nvme_write_sq_db+0x44 [nvme]",
        chain: &[("writel", IO_H, 67), ("nvme_write_sq_db", "drivers/nvme/host/pci.c", 571)],
        bytes: &[0x89, 0x02],
        object: SHARED | 0xfe00_1000,
        context: Context::Task,
        count: 41_200,
        failed: false,
        comm: "fio",
    },
    At {
        reason: 48,
        ip: TEXT + 0x1010,
        name: "io_apic_read+0x10",
        chain: &[("readl", IO_H, 59), ("io_apic_read", "arch/x86/kernel/apic/io_apic.c", 252)],
        bytes: &[0x8b, 0x42, 0x10],
        object: SHARED | 0xfec0_0000,
        context: Context::Task,
        count: 18,
        failed: false,
        comm: "swapper/0",
    },
    At {
        reason: 30,
        ip: TEXT + 0x5008,
        name: "serial8250_console_putchar+0x8",
        chain: &[("outb", "arch/x86/include/asm/shared/io.h", 22)],
        bytes: &[0xee],
        object: 0x3f8_0000,
        context: Context::Task,
        count: 5_300,
        failed: false,
        comm: "systemd",
    },
    At {
        reason: 30,
        ip: TEXT + 0x6008,
        name: "rtc_cmos_read+0x8",
        chain: &[],
        bytes: &[0xe4, 0x71],
        object: 0x71_0008,
        context: Context::Task,
        count: 40,
        failed: false,
        comm: "hwclock",
    },
    At {
        reason: 10,
        ip: 0x40_1136,
        name: "",
        chain: &[],
        bytes: &[0x0f, 0xa2],
        object: 7 << 32 | 0x4000_0000,
        context: Context::Task,
        count: 200,
        failed: false,
        comm: "cpuid-probe",
    },
    At {
        reason: 31,
        ip: TEXT + 0x7002,
        name: "native_read_msr+0x2",
        chain: &[],
        bytes: &[0x0f, 0x32],
        object: 0x611,
        context: Context::Task,
        count: 12,
        failed: true,
        comm: "turbostat",
    },
];

fn stats(count: u64, failed: u64, user: u64, ns: u64) -> VeStats {
    let mut buckets = [0; BUCKETS];
    // Most near the middle, some twice and few sixteen times as long.
    let (many, some) = (count - count / 8, count / 8 - count / 64);
    for (ns, count) in [(ns, many), (ns * 2, some), (ns * 16, count / 64)] {
        buckets[bucket(ns)] += count;
    }
    VeStats {
        count,
        failed,
        user,
        own: 0,
        unpaired: 0,
        ns: ns * count,
        max_ns: ns * 18,
        reserved: 0,
        buckets,
    }
}

/// The guest `seconds` after the counting began; everything happened `scale` times as often as at 1.
pub(crate) fn sample(seconds: u64, scale: u64) -> GuestSample {
    let mut sample = GuestSample {
        at: Duration::from_secs(seconds),
        release: "6.12.117".into(),
        is_td: true,
        probes: probes(),
        clock: ClockState { name: "tsc".to_owned(), used: true, changes: 0 },
        shared_bit: SharedBit::Kernel(51),
        symbols: "debug information of /usr/lib/debug/boot/vmlinux-6.12.117".into(),
        losses: GuestLosses {
            causes: vec![(GuestLoss::Stacks, 3 * scale)],
            misses: vec![("ve_fentry".into(), 9 * scale), ("ve_fexit".into(), 4 * scale)],
        },
        ..GuestSample::default()
    };
    for (number, at) in (0..).zip(SITES) {
        add(&mut sample, number, at, scale);
    }
    for reason in [48, 30, 10, 31] {
        let of = |key: &VeKey| key.reason == reason;
        let places = || sample.places.iter().filter(|(key, _)| of(key));
        let sum = |count: fn(&VeValue) -> u64| places().map(|(_, value)| count(value)).sum::<u64>();
        let user = if reason == 10 { sum(|value| value.count) } else { 0 };
        let ns = if reason == 10 { 900 } else { 5_200 };
        let stats = stats(sum(|value| value.count), sum(|value| value.failed), user, ns);
        sample.reasons.push((reason as usize, stats));
    }
    devices(&mut sample);
    calls(&mut sample, scale);
    sample
}

fn probes() -> Arc<[GuestProbeState]> {
    let missing = |name| match name {
        "quote" | "get_quote" => Some("this kernel has no such function".to_owned()),
        _ => None,
    };
    GUEST_PROBES
        .iter()
        .map(|probe| GuestProbeState {
            name: probe.name.into(),
            how: missing(probe.name).is_none().then(|| "fentry".into()),
            missing: missing(probe.name),
            hides: probe.hidden_without.into(),
        })
        .collect()
}

fn add(sample: &mut GuestSample, number: i32, at: &At, scale: u64) {
    let user = at.ip >> 63 == 0;
    let flags = if user { VE_USER } else { 0 };
    let mode = flags | (at.context as u32) << VE_CONTEXT_SHIFT;
    let key = VeKey { reason: at.reason, mode, ip: at.ip, object: at.object };
    let count = at.count * scale;
    let mut value = VeValue {
        count,
        failed: if at.failed { count } else { 0 },
        timed: count,
        ns: count * 5_000,
        thread: 4_242 << 32 | 4_243,
        stack: number,
        errno: if at.failed && at.reason == 48 { -22 } else { 0 },
        bytes_len: 15,
        ..VeValue::default()
    };
    value.bytes[..at.bytes.len()].copy_from_slice(at.bytes);
    value.comm[..at.comm.len()].copy_from_slice(at.comm.as_bytes());
    sample.places.push((key, value));
    if at.reason == 31 {
        let own = VeKey { mode: mode | VE_OWN, ..key };
        sample.places.push((own, VeValue { count: scale, failed: 0, ..value }));
    }
    if user {
        return;
    }
    sample.names.insert(at.ip, at.name.into());
    let frames = [at.ip, TEXT + 0x9_0010, TEXT + 0x9_1020, TEXT + 0x9_2030];
    for (ip, name) in frames[1..].iter().zip([
        "__handle_irq_event_percpu+0x50",
        "handle_edge_irq+0x83",
        "common_interrupt+0xbb",
    ]) {
        sample.names.insert(*ip, name.into());
    }
    sample.stacks.insert(number, frames.into());
    let (function, rest) = at.name.split_once('+').unwrap_or((at.name, ""));
    let frame = |(function, file, line): &(&str, &str, u32)| Frame {
        function: (*function).to_owned(),
        file: Some((*file).to_owned()),
        line: Some(*line),
    };
    let code = Code {
        address: at.ip,
        function: Some(function.to_owned()),
        module: rest.split_once(' ').map(|(_, module)| module.trim_matches(['[', ']']).to_owned()),
        chain: (!at.chain.is_empty()).then(|| at.chain.iter().map(frame).collect()),
        in_exception_table: Some(false),
        note: at.chain.is_empty().then(|| "no debug file has the module's build id".to_owned()),
        ..Code::default()
    };
    sample.code.insert(at.ip, Arc::new(code));
}

fn devices(sample: &mut GuestSample) {
    let page = |gpa| Object::Page { gpa: Hex(gpa), shared: Some(true) };
    let pci = |pci: &str, bar, offset, driver: &str| Device {
        pci: Some(pci.to_owned()),
        id: Some("1af4:10f0".to_owned()),
        class: Some("0x020000".to_owned()),
        driver: Some(driver.to_owned()),
        bar: Some(bar),
        offset: Some(Hex(offset)),
        ..Device::default()
    };
    let known = |name: &str| Device { known: Some(name.to_owned()), ..Device::default() };
    let port = |port, direction| Object::Port { port, direction, size: Some(1), string: false };
    sample.devices = [
        (page(0xfd00_0000), pci("0000:00:04.0", 0, 0, "acme_nic")),
        (page(0xfd20_0000), pci("0000:00:04.0", 2, 0, "acme_nic")),
        (page(0xfe80_0000), pci("0000:00:05.0", 0, 0, "foo")),
        (page(0xfe00_1000), pci("0000:00:03.0", 0, 0x1000, "nvme")),
        (page(0xfec0_0000), known("I/O APIC")),
        (port(0x3f8, "out"), known("serial port COM1")),
        (port(0x71, "in"), known("RTC data")),
    ]
    .into_iter()
    .map(|(object, device)| (object, Arc::new(device)))
    .collect();
}

fn calls(sample: &mut GuestSample, scale: u64) {
    let calls: [(Operation, &str, u64, u64, u64); 6] = [
        (Operation::ToShared, "dma_direct_alloc+0xd1", 24, 24 << 21, 0),
        (Operation::MapShared, "dma_direct_alloc+0xd1", 26, 24 << 21, 2),
        (Operation::ToPrivate, "dma_direct_free+0x66", 20, 20 << 21, 0),
        (Operation::AcceptTdx, "dma_direct_free+0x66", 20, 20 << 21, 0),
        (Operation::Accept, "get_page_from_freelist+0x3f2", 310, 310 << 22, 0),
        (Operation::Bounce, "nvme_queue_rq+0x2a1 [nvme]", 9_000, 9_000 << 12, 0),
    ];
    for (number, (operation, caller, count, bytes, failed)) in (100_u32..).zip(calls) {
        let ip = TEXT + 0x10_0000 + u64::from(number) * 16;
        sample.names.insert(ip, caller.into());
        sample.names.insert(TEXT + 0xa_0000, "do_syscall_64+0x82".into());
        sample.stacks.insert(number as i32, [ip, TEXT + 0xa_0000].into());
        let value = CallValue {
            count: count * scale,
            failed: failed * scale,
            bytes: bytes * scale,
            timed: count * scale,
            ns: count * scale * 48_000,
            max_ns: 51_000,
            last_failure: if failed > 0 { 0x8000_0000_0000_0000 } else { 0 },
        };
        let key = CallKey { operation: operation as u32, stack: number as i32 };
        sample.calls.push((key, value));
    }
}

/// What two samples ten seconds apart make, with findings on the sites that do not survive.
pub(crate) fn snapshot() -> GuestSnapshot {
    let mut aggregate = GuestAggregate::new();
    aggregate.apply(&sample(10, 1));
    with_findings(aggregate.apply(&sample(20, 2)))
}

/// The same with findings of three kinds, whatever the rules find.
pub(crate) fn with_findings(mut snapshot: GuestSnapshot) -> GuestSnapshot {
    let site = |name: &str| {
        let is = |site: &super::snapshot::Site| site.place().starts_with(name);
        Subject::Site { index: snapshot.sites.iter().position(is).unwrap_or(usize::MAX) }
    };
    let evidence = |text: &str| vec![text.to_owned()];
    snapshot.findings = vec![
        Finding {
            rule: Rule::UndecodableMmio,
            subject: site("acme_isr"),
            count: 74,
            evidence: evidence("TEST is no MMIO form to the kernel; 74 of 74 #VEs failed."),
        },
        Finding {
            rule: Rule::NonIoMmio,
            subject: site("acme_stat"),
            count: 4_200,
            evidence: evidence("MOVZX behind no accessor of io.h, 4,200 times."),
        },
        Finding {
            rule: Rule::SlowConversion,
            subject: Subject::Guest,
            count: 4,
            evidence: evidence("48 conversions took 48 µs each."),
        },
    ];
    snapshot
}
