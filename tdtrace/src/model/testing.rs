//! Two VMs made up for tests: `web-1` is busy and plain, `td-database` a TD that is mostly halted.

use std::{sync::Arc, time::Duration};

use tdtrace_common::{
    counters::{COUNTS, Class, KvmStat, Loss, Place, USERSPACE_EINTR},
    latency::{LATENCY_RETURNS, LatencyClass, PARTS, bucket},
    ledger::{Direction, LEDGER_COUNTS, LedgerCount},
    td::TdExit,
};

use super::{
    aggregate::Aggregate,
    counts::Counts,
    latency::{Histogram, Times},
    ledger::{LedgerSample, MemoryFault, RegionSample},
    sample::{
        Host, Isa, LatencySample, Losses, ProbeState, Sample, VcpuKey, VcpuSample, VmKey, VmSample,
    },
    seam::{Failure, FunctionSample, SeamSample},
    slow::SlowSample,
    snapshot::Snapshot,
};

pub(crate) fn counts(pairs: &[(Class, u64)]) -> Counts {
    let mut counts = [0; COUNTS];
    for (class, count) in pairs {
        counts[*class as usize] = *count;
    }
    Counts::new(counts)
}

pub(crate) fn place(class: Class, address: u64, size: u32) -> Place {
    Place { address, class: class as u32 + 1, size }
}

pub(crate) fn vcpu(slot: u32, vm: u32, id: u32, scale: u64) -> VcpuSample {
    let stat = |exits, runs| KvmStat {
        exits,
        fpu_reload: runs,
        seen_exits: exits,
        seen_runs: runs,
        ..KvmStat::default()
    };
    VcpuSample {
        key: VcpuKey { index: slot, life: 1 },
        vm: VmKey { index: vm, life: 1 },
        id,
        tid: 4100 + slot,
        counts: counts(&[
            (Class::PioOut, 40 * scale),
            (Class::MmioWrite, 300 * scale),
            (Class::MsrWrite, 700 * scale),
            (Class::UserspaceExit, 340 * scale),
            (Class::RunBegin, 340 * scale),
            (Class::RunEnd, 340 * scale),
            (Class::Entry, 1500 * scale),
            (Class::Exit, 1500 * scale),
        ]),
        reasons: vec![(12, 460 * scale), (30, 40 * scale), (32, 700 * scale), (49, 300 * scale)],
        userspace: vec![(2, 40 * scale), (6, 299 * scale), (USERSPACE_EINTR as u32, scale)],
        hotspots: vec![
            (place(Class::MsrWrite, 0x6e0, 0), 690 * scale),
            (place(Class::MmioWrite, 0xfee0_00b0, 4), 300 * scale),
            (place(Class::PioOut, 0x3f8, 1), 40 * scale),
        ],
        kvm: Some((stat(10, 1), stat(10 + 1500 * scale, 1 + 340 * scale))),
        times: Some(times(vm, scale)),
        latency: Arc::default(),
    }
}

/// The first VM is busy, the second one is halted most of the time.
fn times(vm: u32, scale: u64) -> Times {
    let shares = [[41, 31, 14, 5, 9], [12, 9, 6, 70, 3]][vm as usize % 2];
    let [guest, parts @ ..] = shares.map(|share| share * scale * 500_000);
    Times { guest, parts }
}

/// The same with exits from L2.
fn nested(mut vcpu: VcpuSample) -> VcpuSample {
    let count = vcpu.counts[Class::Exit] / 50;
    vcpu.hotspots.push((place(Class::NestedExit, 48, 0), count));
    vcpu
}

/// `count` durations around `typical` ns, and few that are far longer.
fn durations(class: LatencyClass, count: u64, typical: u64, split: [u64; PARTS]) -> LatencySample {
    let mut histogram = Histogram::default();
    let shape = [(5, 6), (6, 25), (8, 50), (10, 30), (14, 12), (20, 4), (60, 2), (300, 1)];
    for (tenths, share) in shape {
        histogram.add(bucket(typical * tenths / 8), count * share / 130);
    }
    let total = histogram.count() * typical;
    let sum: u64 = split.iter().sum();
    LatencySample {
        class,
        ns: split.map(|part| total / sum * part),
        max: typical * 310 / 8,
        histogram,
    }
}

/// As many durations as there are exits and returns.
fn latency(vm: u32, scale: u64) -> Arc<[LatencySample]> {
    let scale = scale * [3, 31][vm as usize % 2];
    let slow = u64::from(1 + vm);
    [
        durations(32, 700 * scale, 1_900, [1, 0, 0, 0]),
        durations(12, 460 * scale, 900_000, [1, 0, 95, 4]),
        durations(49, 300 * scale, 22_000 * slow, [5, 15, 0, 1]),
        durations(30, 40 * scale, 31_000, [6, 20, 0, 1]),
        durations(LATENCY_RETURNS + 6, 299 * scale, 15_000 * slow, [0, 1, 0, 0]),
        durations(LATENCY_RETURNS + 2, 40 * scale, 20_000, [0, 1, 0, 0]),
    ]
    .into()
}

fn slow(second: u64) -> Vec<SlowSample> {
    let one = |millis, class, ns| SlowSample {
        at: Duration::from_secs(second) - Duration::from_millis(millis),
        vm: VmKey { index: 1, life: 1 },
        vcpu: 0,
        tid: 5002,
        class,
        ns,
    };
    vec![
        one(420, 49, [900_000, 2_300_000, 0, 40_000]),
        one(77, LATENCY_RETURNS + 6, [0, 1_250_000, 0, 0]),
    ]
}

/// A TD that accepts its memory, has a buffer that stays shared and one that goes back and forth.
fn ledger(scale: u64) -> LedgerSample {
    let mut counts = [0; LEDGER_COUNTS];
    for (count, number) in [
        (LedgerCount::Bytes.of(Direction::ToShared), (64 << 20) + scale * 0x20_0000),
        (LedgerCount::Bytes.of(Direction::ToPrivate), scale * 0x20_0000),
        (LedgerCount::Blocks.of(Direction::ToShared), scale + 1),
        (LedgerCount::Blocks.of(Direction::ToPrivate), scale),
        (LedgerCount::Retried.of(Direction::ToShared), scale / 10),
        (LedgerCount::AttributeCalls.of(Direction::ToShared), 2 * scale),
        (LedgerCount::AttributeBytes.of(Direction::ToShared), 2 * scale * 0x20_0000),
        (LedgerCount::Mapped4K as usize, 1000 * scale),
        (LedgerCount::Mapped2M as usize, scale),
        (LedgerCount::WithoutRegion as usize, 3),
        (LedgerCount::PunchedCalls as usize, scale / 10),
        (LedgerCount::PunchedBytes as usize, scale / 10 * 0x20_0000),
    ] {
        counts[count] = number;
    }
    let region = |gpa, calls: [u64; 2], turns, last| RegionSample {
        gpa,
        calls,
        bytes: calls.map(|calls| calls * 0x20_0000),
        turns,
        last,
        last_at: 5_000_000_000,
    };
    LedgerSample {
        counts,
        memory_pages: 1 << 20,
        fault: Some(MemoryFault { gpa: 0x1_2345_6000, private: true, at: 6_500_000_000 }),
        regions: vec![
            region(0x4000_0000, [1, 0], 0, Direction::ToShared),
            region(0x8020_0000, [scale, scale], 2 * scale - 1, Direction::ToPrivate),
        ],
    }
}

fn sample(second: u64, scale: u64) -> Sample {
    let vm = |index, pid, name: &str, vmm: &str, container: Option<&str>, vm_type| VmSample {
        key: VmKey { index, life: 1 },
        pid,
        name: name.into(),
        vmm: vmm.into(),
        container: container.map(Into::into),
        vm_type: Some(vm_type),
        ended: false,
        demo: false,
        latency: latency(index, scale),
        ledger: if vm_type == 5 { ledger(scale) } else { LedgerSample::default() },
    };
    Sample {
        at: Duration::from_secs(second),
        host: Arc::new(Host { release: "6.18.2".to_owned(), isa: Isa::Vmx }),
        probes: vec![
            ProbeState { name: "kvm_exit".to_owned(), missing: None, hides: String::new() },
            ProbeState {
                name: "kvm_msr".to_owned(),
                missing: Some("this kernel has no tracepoint kvm_msr; is kvm loaded?".to_owned()),
                hides: "which MSRs a guest uses".to_owned(),
            },
        ]
        .into(),
        vms: vec![
            vm(0, 4001, "web-1", "qemu", Some("4f6e2b0c9d8a"), 0),
            vm(1, 4002, "td-database", "cloud-hypervisor", None, 5),
        ],
        vcpus: [vcpu(0, 0, 0, scale), nested(vcpu(1, 0, 1, 2 * scale)), vcpu(2, 1, 0, 31 * scale)]
            .map(|vcpu| Arc::new(vcpu.sorted()))
            .into(),
        losses: Losses {
            causes: vec![(Loss::Unattributed, Class::UserspaceExit, 3)],
            misses: vec![("kvm_exit".to_owned(), 0), ("kvm_msr".to_owned(), 12)],
            ..Losses::default()
        },
        slower_than: Some(Duration::from_millis(1)),
        slow: slow(second),
        seam: Arc::default(),
        poison: Arc::default(),
    }
}

/// Eight intervals, the last one of a second with much more than before.
pub(crate) fn samples() -> Vec<Sample> {
    let scales = [10, 20, 26, 31, 60, 120, 200, 320];
    (1..).zip(scales).map(|(second, scale)| sample(second, scale)).collect()
}

pub(crate) fn after(samples: impl IntoIterator<Item = Sample>) -> Snapshot {
    let mut aggregate = Aggregate::new();
    let snapshots = samples.into_iter().map(|sample| aggregate.apply(sample));
    snapshots.last().unwrap()
}

pub(crate) fn snapshot() -> Snapshot {
    after(samples())
}

/// The same on a KVM that fires neither `kvm_entry` nor `kvm_exit`.
pub(crate) fn software(mut sample: Sample) -> Sample {
    sample.host = Arc::new(Host { release: "6.18.2".to_owned(), isa: Isa::Software });
    for vm in &mut sample.vms {
        vm.latency =
            vm.latency.iter().filter(|row| row.class >= LATENCY_RETURNS).cloned().collect();
    }
    for vcpu in &mut sample.vcpus {
        let mut other = VcpuSample::clone(vcpu);
        other.reasons.clear();
        other.times = other.times.map(|times| {
            let [kernel, vmm, halted, waiting] = times.parts;
            Times { guest: 0, parts: [times.guest + kernel, vmm, halted, waiting] }
        });
        let kept = [Class::PioOut, Class::MmioWrite, Class::MsrWrite, Class::UserspaceExit];
        other.counts = counts(&kept.map(|class| (class, vcpu.counts[class])));
        *vcpu = Arc::new(other);
    }
    sample
}

/// Sums of a TD being built and run, `scale` times over: pages of both sizes, busy operands, a kick, a
/// missed return, and a function that this kernel does not have.
pub(crate) fn seam(scale: u64) -> SeamSample {
    let function = |name: &str, leaf, statuses: &[(u64, u64)], typical| {
        let statuses: Vec<(u64, u64)> =
            statuses.iter().map(|(status, count)| (*status, count * scale)).collect();
        let calls = statuses.iter().map(|(_, count)| count).sum();
        let LatencySample { ns, max, histogram, .. } = durations(0, calls, typical, [1, 0, 0, 0]);
        let (name, ns) = (name.into(), ns[0]);
        FunctionSample { name, leaf, calls, statuses, ns, max, histogram, ..Default::default() }
    };
    let busy = |operand: u64| 0x8000_0200 << 32 | operand;
    let gpa = |gpa| Some(Failure { status: busy(0x92), gpa: Some(gpa) });
    SeamSample {
        absent: None,
        functions: vec![
            FunctionSample {
                levels: [3_900 * scale, 230 * scale, 0, 0],
                failure: gpa(0x1_4020_3000),
                ..function("tdh_mem_page_aug", 6, &[(0, 4_000), (busy(0x92), 130)], 2_100)
            },
            FunctionSample {
                levels: [700 * scale, 0, 0, 0],
                retried: 9 * scale,
                kick_ns: 9 * 41_000 * scale,
                failure: gpa(0x7f00_0000),
                missed: 2 * scale,
                ..function(
                    "tdh_mem_page_remove",
                    29,
                    &[(0, 690), (busy(0x92), 8), (busy(0x80), 2)],
                    3_300,
                )
            },
            function("tdh_mem_track", 38, &[(0, 640), (busy(0xa9), 6)], 900),
            function("tdh_vp_rd", 26, &[(0, 5_200)], 700),
            function("tdh_mng_create", 9, &[(0, 1)], 12_000),
            function("tdh_vp_init", 22, &[], 0),
            FunctionSample {
                missing: Some("this kernel has no tdh_phymem_page_wbinvd_tdr".into()),
                ..function("tdh_phymem_page_wbinvd_tdr", 41, &[], 0)
            },
        ],
    }
}

/// The samples of [`samples`] on a TDX host.
pub(crate) fn on_tdx_host() -> Vec<Sample> {
    let mut samples = samples();
    for (sample, scale) in samples.iter_mut().zip(1..) {
        sample.seam = Arc::new(seam(scale));
    }
    samples
}

/// Exits of a TD by second of its boot: firmware, memory, devices, a quote, idle.
fn booted(second: u64) -> Vec<(TdExit, u64)> {
    let between = |from: u64, to: u64| second.clamp(from, to) - from;
    vec![
        (TdExit::IoIn, 9_000 * between(0, 6) + 300 * between(40, 46)),
        (TdExit::Cpuid, 800 * between(2, 8)),
        (TdExit::EptPrivate, 24_000 * between(6, 40)),
        (TdExit::MapShared, 12 * between(20, 46)),
        (TdExit::BusyEpoch, 700 * between(20, 40)),
        (TdExit::MmioWrite, 6_000 * between(40, 46)),
        (TdExit::Wrmsr, 2_500 * between(38, 46) + 90 * between(46, u64::MAX)),
        (TdExit::GetQuote, 3 * between(46, 47)),
        (TdExit::Hlt, 1_100 * between(44, u64::MAX)),
    ]
}

/// Ninety seconds of a TD that boots, seen from its first KVM_RUN on, beside the plain VM of [`samples`].
pub(crate) fn booting() -> Vec<Sample> {
    let boots = |second: u64| {
        let mut sample = sample(second, 10 + second);
        sample.slow.clear();
        sample.vcpus.retain(|vcpu| vcpu.vm.index == 0);
        let mut vcpu = vcpu(2, 1, 0, 0);
        let exits = booted(second).into_iter().filter(|(_, count)| *count > 0);
        vcpu.reasons = exits.map(|(exit, count)| (exit.reason_index() as u32, count)).collect();
        vcpu.counts = counts(&[(Class::Exit, vcpu.reasons.iter().map(|(_, n)| n).sum())]);
        vcpu.userspace.clear();
        vcpu.hotspots = vec![(place(Class::PioIn, 0x511, 1), 9_000 * second.min(6))];
        vcpu.kvm = Some((KvmStat::default(), KvmStat::default()));
        let halted = second.saturating_sub(44) * 900_000_000;
        let [guest, kernel, vmm] = [40, 45, 15].map(|part| part * 10_000_000 * second.min(44));
        let rest = second.saturating_sub(44) * 100_000_000;
        vcpu.times = Some(Times { guest: guest + rest, parts: [kernel, vmm, halted, 0] });
        sample.vcpus.push(Arc::new(vcpu.sorted()));
        let ledger = &mut sample.vms[1].ledger;
        ledger.counts = [0; LEDGER_COUNTS];
        ledger.counts[LedgerCount::Mapped4K as usize] = 24_000 * (second.clamp(6, 40) - 6);
        ledger.counts[LedgerCount::Bytes.of(Direction::ToShared)] =
            (second.clamp(20, 46) - 20) << 21;
        sample.vms[1].latency = Arc::default();
        sample
    };
    (1..=90).map(boots).collect()
}
