//! The screens as they are drawn, at the sizes that people have.

use std::{sync::Arc, time::Duration};

use ratatui::{Terminal, backend::TestBackend, style::Color};
use tdtrace_common::{
    counters::{COUNTS, Class, KvmStat, Loss, Place, USERSPACE_EINTR},
    latency::{LATENCY_RETURNS, LatencyClass, PARTS, bucket},
};

use super::*;
use crate::{
    model::{
        aggregate::Aggregate,
        counts::Counts,
        latency::{Histogram, Times},
        sample::{
            Host, Isa, LatencySample, Losses, ProbeState, Sample, VcpuKey, VcpuSample, VmKey,
            VmSample,
        },
    },
    tui::keymap::{Action, Edit},
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
        times: Some(Times {
            guest: 41 * scale * 500_000,
            parts: [31, 4, 20, 4].map(|share| share * scale * 500_000),
        }),
        latency: Arc::default(),
    }
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

fn latency(scale: u64) -> Arc<[LatencySample]> {
    [
        durations(32, 2_100 * scale, 1_900, [1, 0, 0, 0]),
        durations(12, 1_400 * scale, 900_000, [1, 0, 95, 4]),
        durations(49, 900 * scale, 22_000, [5, 15, 0, 1]),
        durations(30, 120 * scale, 31_000, [6, 20, 0, 1]),
        durations(LATENCY_RETURNS + 6, 900 * scale, 15_000, [0, 1, 0, 0]),
        durations(LATENCY_RETURNS + 2, 120 * scale, 20_000, [0, 1, 0, 0]),
    ]
    .into()
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
        latency: latency(scale),
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
    }
}

/// Eight intervals, the last one of a second with much more than before.
fn samples() -> Vec<Sample> {
    let scales = [10, 20, 26, 31, 60, 120, 200, 320];
    (1..).zip(scales).map(|(second, scale)| sample(second, scale)).collect()
}

fn after(samples: impl IntoIterator<Item = Sample>) -> Snapshot {
    let mut aggregate = Aggregate::new();
    let snapshots = samples.into_iter().map(|sample| aggregate.apply(sample));
    snapshots.last().unwrap()
}

fn snapshot() -> Snapshot {
    after(samples())
}

/// The same on a KVM that fires neither `kvm_entry` nor `kvm_exit`.
fn software(mut sample: Sample) -> Sample {
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

fn screen(snapshot: Option<&Snapshot>, state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            draw(frame, snapshot, state);
        })
        .unwrap();
    terminal.backend().to_string()
}

/// Draws, so that there is a chosen row, and then does what `action` asks.
fn press(state: &mut State, snapshot: &Snapshot, action: Action) {
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
    let mut rows = Rows::default();
    terminal.draw(|frame| rows = draw(frame, Some(snapshot), state)).unwrap();
    state.settle(&rows);
    state.apply(action, &rows);
}

fn typed(state: &mut State, text: &str) {
    state.apply(Action::Filter, &Rows::default());
    text.chars().for_each(|character| state.edit(Edit::Insert(character)));
}

fn state(view: View) -> State {
    State { view, ..State::default() }
}

/// The name of a screen's file.
fn name(what: &str, width: u16, height: u16) -> String {
    format!("{what}_{width}x{height}")
}

#[test]
fn every_view_at_every_size() {
    let snapshot = snapshot();
    for (width, height) in [(80, 24), (120, 40), (200, 60)] {
        for view in View::ALL {
            let name = name(view.title(), width, height);
            insta::assert_snapshot!(name, screen(Some(&snapshot), &state(view), width, height));
        }
    }
}

#[test]
fn every_view_of_a_kvm_without_exit_events() {
    let snapshot = after(samples().into_iter().map(software));
    for view in View::ALL {
        let name = name(&format!("software_{}", view.title()), 100, 30);
        insta::assert_snapshot!(name, screen(Some(&snapshot), &state(view), 100, 30));
    }
}

#[test]
fn one_vm_and_one_of_its_vcpus() {
    let snapshot = snapshot();
    let mut state = state(View::Vms);
    press(&mut state, &snapshot, Action::Down);
    press(&mut state, &snapshot, Action::Open);
    let mut screens = vec![("vcpus", screen(Some(&snapshot), &state, 80, 24))];
    press(&mut state, &snapshot, Action::Down);
    press(&mut state, &snapshot, Action::Open);
    screens.push(("vcpu_exits", screen(Some(&snapshot), &state, 80, 24)));
    state.view = View::Hotspots;
    screens.push(("vcpu_hotspots", screen(Some(&snapshot), &state, 80, 24)));
    state.view = View::Latency;
    screens.push(("vcpu_latency", screen(Some(&snapshot), &state, 80, 24)));
    state.view = View::Vms;
    screens.push(("vm", screen(Some(&snapshot), &state, 80, 24)));
    for (name, screen) in screens {
        insta::assert_snapshot!(format!("drilled_{name}_80x24"), screen);
    }
}

#[test]
fn a_filter_accepted_typed_and_wrong() {
    let snapshot = snapshot();
    let mut state = state(View::Hotspots);
    typed(&mut state, "name=web* class=ms");
    insta::assert_snapshot!("filter_typed_80x24", screen(Some(&snapshot), &state, 80, 24));
    typed(&mut state, "name=web* class=m* !(direction=read)");
    state.edit(Edit::Accept);
    insta::assert_snapshot!("filter_accepted_80x24", screen(Some(&snapshot), &state, 80, 24));
    typed(&mut state, " exitz>3");
    insta::assert_snapshot!("filter_wrong_80x24", screen(Some(&snapshot), &state, 80, 24));
}

#[test]
fn after_a_reset_the_header_says_so_and_the_longest_is_a_bound() {
    let mut aggregate = Aggregate::new();
    let mut samples = samples();
    let last = samples.pop().unwrap();
    for sample in samples {
        aggregate.apply(sample);
    }
    let zero = aggregate.reset().unwrap();
    insta::assert_snapshot!("reset_now_80x24", screen(Some(&zero), &state(View::Vms), 80, 24));
    let after = aggregate.apply(last);
    insta::assert_snapshot!("reset_80x24", screen(Some(&after), &state(View::Latency), 80, 24));
}

#[test]
fn halts_in_totals_change_shares_and_percentiles() {
    let snapshot = snapshot();
    let halts = |view| State { halts: true, ..state(view) };
    for view in [View::Vms, View::Exits] {
        let name = name(&format!("halts_{}", view.title()), 120, 24);
        insta::assert_snapshot!(name, screen(Some(&snapshot), &halts(view), 120, 24));
    }
}

#[test]
fn no_rows() {
    let mut empty = snapshot();
    empty.vms.clear();
    insta::assert_snapshot!("no_rows_80x24", screen(Some(&empty), &state(View::Vms), 80, 24));
    insta::assert_snapshot!("nothing_yet_80x24", screen(None, &state(View::Vms), 80, 24));
    let mut gone = state(View::Exits);
    gone.scope = Scope::Vcpu(1, 77);
    assert!(screen(Some(&snapshot()), &gone, 80, 24).contains("vCPU 77 of VM 1 is no longer"));
}

#[test]
fn a_demo_an_ended_vm_and_one_without_times() {
    let mut samples = samples();
    for sample in &mut samples {
        sample.vms[0].demo = true;
        sample.vcpus = sample
            .vcpus
            .iter()
            .map(|vcpu| Arc::new(VcpuSample { times: None, ..VcpuSample::clone(vcpu) }))
            .collect();
    }
    samples.last_mut().unwrap().vms[1].ended = true;
    let snapshot = after(samples);
    insta::assert_snapshot!("demo_100x24", screen(Some(&snapshot), &state(View::Vms), 100, 24));
}

#[test]
fn a_vm_with_248_vcpus() {
    let mut samples = samples();
    for (sample, scale) in samples.iter_mut().zip(1..) {
        sample.vms.truncate(1);
        sample.vcpus = (0..248)
            .map(|id| Arc::new(vcpu(id, 0, id, scale * (1 + u64::from(id))).sorted()))
            .collect();
    }
    let snapshot = after(samples);
    let mut state = State { scope: Scope::Vm(1), ..state(View::Vcpus) };
    press(&mut state, &snapshot, Action::Bottom);
    insta::assert_snapshot!("many_vcpus_120x40", screen(Some(&snapshot), &state, 120, 40));
}

#[test]
fn help_over_the_view_and_the_paused_mark() {
    let mut state = state(View::Vcpus);
    state.apply(Action::Help, &Rows::default());
    state.apply(Action::Pause, &Rows::default());
    insta::assert_snapshot!("help_80x24", screen(Some(&snapshot()), &state, 80, 24));
}

#[test]
fn the_chosen_vm_stays_chosen_when_another_order_moves_it() {
    let snapshot = snapshot();
    let mut state = state(View::Vms);
    press(&mut state, &snapshot, Action::Down);
    press(&mut state, &snapshot, Action::Reverse);
    press(&mut state, &snapshot, Action::Open);
    assert_eq!(state.scope, Scope::Vm(1));
}

#[test]
fn without_colour_no_cell_has_one() {
    let snapshot = snapshot();
    for view in View::ALL {
        let state = State { theme: Theme::new(false), ..state(view) };
        let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
        terminal
            .draw(|frame| {
                draw(frame, Some(&snapshot), &state);
            })
            .unwrap();
        let cells = &terminal.backend().buffer().content;
        assert!(cells.iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
    }
}

#[test]
fn no_size_panics_and_the_chosen_row_stays_on_the_screen() {
    let snapshot = snapshot();
    let software = after(samples().into_iter().map(software));
    let sizes = [
        (1, 1),
        (2, 3),
        (3, 2),
        (10, 4),
        (37, 7),
        (80, 5),
        (9, 30),
        (20, 200),
        (400, 12),
        (300, 100),
    ];
    for snapshot in [&snapshot, &software] {
        for view in View::ALL {
            for (width, height) in sizes {
                for scope in [Scope::All, Scope::Vm(1), Scope::Vcpu(1, 1), Scope::Vm(9)] {
                    let mut state = State { scope, halts: width % 3 == 0, ..state(view) };
                    state.help = width % 2 == 0;
                    state.apply(Action::Bottom, &Rows::default());
                    if height % 2 == 0 {
                        typed(&mut state, "web");
                    }
                    screen(Some(snapshot), &state, width, height);
                }
            }
        }
    }
    let mut bottom = state(View::Hotspots);
    bottom.apply(Action::Bottom, &Rows::default());
    assert!(
        screen(Some(&snapshot), &bottom, 80, 6).contains("VM_ENTER")
            || screen(Some(&snapshot), &bottom, 80, 6).contains("nested_exit")
    );
}
