//! The screens as they are drawn, at the sizes that people have.

use std::{sync::Arc, time::Duration};

use ratatui::{Terminal, backend::TestBackend};
use tdtrace_common::counters::{COUNTS, Class, KvmStat, Loss, Place, USERSPACE_EINTR};

use super::*;
use crate::{
    model::{
        aggregate::Aggregate,
        counts::Counts,
        sample::{Host, Isa, Losses, ProbeState, Sample, VcpuKey, VcpuSample, VmKey, VmSample},
    },
    tui::keymap::Action,
};

fn counts(pairs: &[(Class, u64)]) -> Counts {
    let mut counts = [0; COUNTS];
    for (class, count) in pairs {
        counts[*class as usize] = *count;
    }
    Counts::new(counts)
}

fn place(class: Class, address: u64, size: u32) -> Place {
    Place { address, class: class as u32 + 1, size }
}

fn vcpu(slot: u32, vm: u32, id: u32, scale: u64) -> VcpuSample {
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
        times: None,
        latency: Arc::default(),
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
        latency: Arc::default(),
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
        vcpus: [vcpu(0, 0, 0, scale), vcpu(1, 0, 1, 2 * scale), vcpu(2, 1, 0, 31 * scale)]
            .map(|vcpu| Arc::new(vcpu.sorted()))
            .into(),
        losses: Losses {
            causes: vec![(Loss::Unattributed, Class::UserspaceExit, 3)],
            misses: vec![("kvm_exit".to_owned(), 0), ("kvm_msr".to_owned(), 12)],
            ..Losses::default()
        },
    }
}

fn snapshot() -> Snapshot {
    let mut aggregate = Aggregate::new();
    aggregate.apply(sample(1, 10));
    aggregate.apply(sample(2, 1010))
}

fn screen(snapshot: Option<&Snapshot>, state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            draw(frame, snapshot, state);
        })
        .unwrap();
    terminal.backend().to_string()
}

fn state(view: View) -> State {
    State { view, ..State::default() }
}

#[test]
fn every_view_at_80_by_24() {
    let snapshot = snapshot();
    for view in View::ALL {
        let name = format!("{}_80x24", view.title());
        insta::assert_snapshot!(name, screen(Some(&snapshot), &state(view), 80, 24));
    }
}

#[test]
fn every_view_at_120_by_40() {
    let snapshot = snapshot();
    for view in View::ALL {
        let name = format!("{}_120x40", view.title());
        insta::assert_snapshot!(name, screen(Some(&snapshot), &state(view), 120, 40));
    }
}

#[test]
fn a_wide_screen_says_who_runs_each_vm() {
    let screen = screen(Some(&snapshot()), &state(View::Vms), 180, 24);
    insta::assert_snapshot!("VMs_180x24", screen);
}

#[test]
fn no_rows() {
    let mut empty = snapshot();
    empty.vms.clear();
    insta::assert_snapshot!("no_rows_80x24", screen(Some(&empty), &state(View::Vms), 80, 24));
    insta::assert_snapshot!("nothing_yet_80x24", screen(None, &state(View::Vms), 80, 24));
}

#[test]
fn help_over_the_view_and_the_paused_mark() {
    let mut state = state(View::Vcpus);
    state.apply(Action::Help, 10);
    state.apply(Action::Pause, 10);
    insta::assert_snapshot!("help_80x24", screen(Some(&snapshot()), &state, 80, 24));
}

#[test]
fn no_size_panics_and_the_chosen_row_stays_on_the_screen() {
    let snapshot = snapshot();
    for view in View::ALL {
        for (width, height) in [(1, 1), (2, 3), (10, 4), (37, 7), (80, 5), (300, 100)] {
            let mut state = state(view);
            state.help = width % 2 == 0;
            state.apply(Action::Bottom, 1);
            screen(Some(&snapshot), &state, width, height);
        }
    }
    let mut bottom = state(View::Hotspots);
    bottom.orders[View::Hotspots as usize].row = 8;
    assert!(screen(Some(&snapshot), &bottom, 80, 5).contains("pio_out"));
}
