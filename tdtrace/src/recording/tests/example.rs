//! Samples with one of everything, as a TDX host might give them.

use std::{sync::Arc, time::Duration};

use tdtrace_common::{
    counters::{Class, KvmStat, Loss, USERSPACE_EINTR},
    latency::{LATENCY_RETURNS, bucket},
};

use crate::model::{
    latency::{Histogram, Times},
    ledger::LedgerSample,
    sample::{
        Host, Isa, LatencySample, Losses, ProbeState, Sample, VcpuKey, VcpuSample, VmKey, VmSample,
    },
    testing::{counts, place},
};

fn latency(class: u32, ns: u64, scale: u64) -> LatencySample {
    let mut histogram = Histogram::default();
    histogram.add(bucket(ns), 90 * scale);
    histogram.add(bucket(9 * ns), 9 * scale);
    histogram.add(bucket(70 * ns), scale);
    LatencySample {
        class,
        ns: [120 * ns * scale, 40 * ns * scale, 0, ns * scale],
        max: 75 * ns + 3,
        histogram,
    }
}

fn vcpu(slot: u32, vm: u32, id: u32, scale: u64) -> VcpuSample {
    let stat = |exits, runs| KvmStat {
        exits,
        fpu_reload: runs,
        hypercalls: scale,
        seen_exits: exits,
        seen_runs: runs,
        seen_hypercalls: scale,
        ..KvmStat::default()
    };
    VcpuSample {
        key: VcpuKey { index: slot, life: 1 },
        vm: VmKey { index: vm, life: 2 },
        id,
        tid: 4100 + slot,
        counts: counts(&[
            (Class::PioOut, 40 * scale),
            (Class::MmioWrite, 310 * scale),
            (Class::MsrWrite, 700 * scale),
            (Class::UserspaceExit, 340 * scale),
            (Class::RunBegin, 340 * scale),
            (Class::RunEnd, 340 * scale),
            (Class::Entry, 1500 * scale),
            (Class::Exit, 1500 * scale),
        ]),
        reasons: vec![(12, 460 * scale), (30, 40 * scale), (32, 700 * scale), (77, 300 * scale)],
        userspace: vec![(2, 40 * scale), (6, 299 * scale), (USERSPACE_EINTR as u32, scale)],
        hotspots: vec![
            (place(Class::PioOut, 0x3f8, 1), 40 * scale),
            (place(Class::MmioWrite, 0xfee0_00b0, 4), 300 * scale),
            (place(Class::MmioWrite, 0x3_8000_0000_1000, 4), 8 * scale),
            (place(Class::MsrWrite, 0x6e0, 0), 690 * scale),
        ],
        kvm: Some((stat(10, 1), stat(10 + 1500 * scale, 1 + 340 * scale))),
        times: Some(Times {
            guest: 900_000 * scale,
            parts: [70_000 * scale, 20_000 * scale, 5_000 * scale, 0],
        }),
        latency: if slot == 2 { [latency(12, 700, scale)].into() } else { Arc::default() },
    }
}

fn vm(index: u32, pid: u32, name: &str, scale: u64) -> VmSample {
    VmSample {
        key: VmKey { index, life: 2 },
        pid,
        name: name.into(),
        vmm: if index == 0 { "qemu" } else { "cloud-hypervisor" }.into(),
        container: (index == 0).then(|| "4f6e2b0c9d8a".into()),
        vm_type: Some(if index == 0 { 0 } else { 5 }),
        ended: false,
        demo: false,
        latency: [latency(32, 300, scale), latency(LATENCY_RETURNS + 6, 4_000, scale)].into(),
        ledger: LedgerSample::default(),
    }
}

fn sample(millis: u64, scale: u64, vms: Vec<VmSample>, vcpus: Vec<VcpuSample>) -> Sample {
    Sample {
        at: Duration::from_millis(millis) + Duration::from_nanos(7),
        host: Arc::new(Host { release: "6.18.2".to_owned(), isa: Isa::Vmx }),
        probes: vec![
            ProbeState { name: "kvm_exit".to_owned(), missing: None, hides: "exits".to_owned() },
            ProbeState {
                name: "kvm_msr".to_owned(),
                missing: Some("this kernel has no tracepoint kvm_msr; is kvm loaded?".to_owned()),
                hides: "which MSRs a guest uses".to_owned(),
            },
        ]
        .into(),
        vms,
        vcpus: vcpus.into_iter().map(|vcpu| Arc::new(vcpu.sorted())).collect(),
        losses: Losses {
            causes: vec![(Loss::Unattributed, Class::UserspaceExit, 3)],
            misses: vec![("kvm_exit".to_owned(), 0), ("kvm_msr".to_owned(), 12 * scale)],
            hotspots: scale / 100,
            unpaired: 1,
            durations: 0,
            slow: 0,
            outside: vec![(Class::SpteChanged, 17 * scale), (Class::InterruptPosted, 4)],
        },
        slower_than: None,
        slow: Vec::new(),
        seam: Arc::default(),
        poison: Arc::default(),
    }
}

/// Five samples: two VMs, one of which ends while another takes its place in the maps.
pub(super) fn samples() -> Vec<Sample> {
    let web = |scale| vm(0, 4001, "web-1", scale);
    let td = |scale| vm(1, 4002, "td-database", scale);
    let mut next = vm(0, 4003, "web-2 \u{1f5a5}", 1);
    next.key.life = 3;
    let mut its = vcpu(0, 0, 0, 1);
    (its.key.life, its.vm.life, its.kvm, its.times) = (2, 3, None, None);
    let all =
        |scale| vec![vcpu(0, 0, 0, scale), vcpu(1, 0, 1, 2 * scale), vcpu(2, 1, 0, 31 * scale)];
    let idle =
        |scale: u64| vec![vcpu(0, 0, 0, 1010), vcpu(1, 0, 1, 2020), vcpu(2, 1, 0, 31 * scale)];
    vec![
        sample(250, 10, vec![web(10), td(10)], all(10)),
        sample(1250, 1010, vec![web(1010), td(1010)], all(1010)),
        sample(2250, 1010, vec![web(1010), td(1500)], idle(1500)),
        sample(3251, 1700, vec![VmSample { ended: true, ..web(1010) }, td(1700)], idle(1700)),
        sample(4250, 1800, vec![next, td(1800)], vec![its, vcpu(2, 1, 0, 31 * 1800)]),
    ]
}

/// Two small samples.
pub(super) fn few() -> Vec<Sample> {
    let small = |millis, scale| {
        let mut vcpu = vcpu(0, 0, 0, scale);
        vcpu.hotspots.truncate(1);
        vcpu.reasons.truncate(1);
        let vm = VmSample { latency: Arc::default(), ..vm(0, 7, "a", scale) };
        let sample = sample(millis, scale, vec![vm], vec![vcpu]);
        Sample { probes: [].into(), ..sample }
    };
    vec![small(100, 1), small(200, 2)]
}

/// The checked-in recording of [`samples`] by version 1.
const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recording/v1-tdx-host.tdtrace");

#[test]
fn the_recording_that_version_1_wrote_is_still_read_as_it_was() {
    super::write_fixture(FIXTURE, || super::written(&samples()));
    let (back, end) = super::read(&std::fs::read(FIXTURE).unwrap());
    assert!(matches!(end, Ok(None)), "{end:?}");
    assert_eq!(back, samples());
}
