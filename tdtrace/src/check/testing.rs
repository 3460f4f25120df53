//! Findings as tests need them: of a driver `acme_nic` with a struct laid over its registers.

use std::{sync::Arc, time::Duration};

use tdtrace_common::guest::Operation;

use crate::{
    decode::bits::Hex,
    model::guest::{
        finding::{Finding, Rule, Subject},
        sample::GuestProbeState,
        snapshot::{Call, GuestSnapshot, Object, Site, Total},
    },
    sites::{Site as Code, devices::Device},
    verdict::{Access, Frame, Target, judge},
};

pub(crate) fn frame(function: &str, line: Option<(&str, u32)>) -> Frame {
    Frame {
        function: function.to_owned(),
        file: line.map(|(file, _)| file.to_owned()),
        line: line.map(|(_, line)| line),
    }
}

/// `regs->mask |= 4` in `set_bits`, inlined into `acme_isr`.
pub(crate) fn overlay() -> Site {
    let chain = vec![
        frame("set_bits", Some(("./drivers/net/acme nic.c", 77))),
        frame("acme_isr", Some(("./drivers/net/acme nic.c", 120))),
    ];
    let bytes = vec![0x83, 0x48, 0x08, 0x04, 0x90, 0x90];
    let access = Access {
        target: Target::MEMORY,
        symbol: Some("acme_isr"),
        ..Access::of(&bytes, Some(&chain))
    };
    let verdict = judge(&access);
    Site {
        reason: 48,
        name: "EPT_VIOLATION",
        ip: Some(0xffff_ffff_c000_0112),
        symbol: Some("acme_isr.constprop.0+0x12 [acme_nic]".into()),
        user: false,
        count: 7,
        rate: None,
        failed: 7,
        own: 0,
        errno: Some(-22),
        contexts: vec![("hardirq", 7)],
        objects: vec![(Object::Page { gpa: Hex(0xfebc_0000), shared: Some(true) }, 7)],
        device: Some(Arc::new(Device {
            address: Hex(0xfebc_0000),
            pci: Some("0000:00:04.0".into()),
            id: Some("1af4:1041".into()),
            class: Some("0x020000".into()),
            driver: Some("acme".into()),
            bar: Some(0),
            offset: Some(Hex(0)),
            ..Device::default()
        })),
        code: Some(Arc::new(Code {
            address: 0xffff_ffff_c000_0112,
            function: Some("acme_isr.constprop.0".into()),
            offset: 0x12,
            module: Some("acme_nic".into()),
            chain: Some(chain),
            ..Code::default()
        })),
        verdict: Some(Arc::new(verdict)),
        bytes,
        pid: 0,
        tid: 0,
        comm: "swapper/0".into(),
        stack: vec![
            (0xffff_ffff_c000_0112, Some("acme_isr.constprop.0+0x12 [acme_nic]".into())),
            (0xffff_ffff_8100_0000, None),
        ],
        mean_ns: Some(1_500),
    }
}

/// IN in a process called `name`.
pub(crate) fn user(name: &str) -> Site {
    Site {
        reason: 30,
        name: "IO_INSTRUCTION",
        ip: Some(0x40_1000),
        symbol: Some(name.into()),
        user: true,
        device: None,
        code: None,
        verdict: None,
        bytes: vec![0xec],
        comm: name.into(),
        stack: Vec::new(),
        objects: Vec::new(),
        ..overlay()
    }
}

pub(crate) fn call(caller: &str) -> Call {
    Call {
        operation: Operation::ToShared,
        caller: Some(caller.into()),
        stack: Vec::new(),
        count: 9,
        failed: 1,
        last_failure: 5,
        bytes: 9 << 12,
        mean_ns: None,
        max_ns: None,
    }
}

pub(crate) fn finding(rule: Rule, subject: Subject) -> Finding {
    Finding {
        rule,
        subject,
        count: 7,
        evidence: vec!["No accessor is in the chain set_bits ← acme_isr.".to_owned()],
    }
}

/// An overlay that is fatal, the same as MMIO around the accessors, a port in user mode, a caller and
/// the guest.
pub(crate) fn snapshot() -> GuestSnapshot {
    GuestSnapshot {
        at: Duration::from_millis(2500),
        release: "6.12.1".into(),
        is_td: true,
        total: Total { count: 21, failed: 14, user: 7, own: 0, unpaired: 0 },
        probes: vec![GuestProbeState {
            name: "ve".into(),
            how: Some("fentry".into()),
            missing: None,
            hides: "every #VE".into(),
        }]
        .into(),
        sites: vec![overlay(), user("hwclock")],
        calls: vec![call("acme_alloc [acme_nic]")],
        findings: vec![
            finding(Rule::UndecodableMmio, Subject::Site { index: 0 }),
            finding(Rule::UserPortIo, Subject::Site { index: 1 }),
            finding(Rule::NonIoMmio, Subject::Site { index: 0 }),
            finding(Rule::ConversionPingPong, Subject::Call { index: 0 }),
            finding(Rule::Swiotlb, Subject::Guest),
        ],
        ..GuestSnapshot::default()
    }
}
