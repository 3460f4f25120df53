//! The screens as they are drawn, at the sizes that people have.

use std::sync::Arc;

use ratatui::{Terminal, backend::TestBackend, style::Color};
use tdtrace_common::{
    counters::{COUNTS, Class, KvmStat, Loss, USERSPACE_OTHER},
    latency::{BUCKETS, PARTS},
    ledger::LEDGER_COUNTS,
    td::TdExit,
};

use super::*;
use crate::{
    model::{
        aggregate::Aggregate,
        counts::Counts,
        latency::{Histogram, Times},
        ledger::LedgerSample,
        sample::{LatencySample, Losses, Sample, VcpuSample, place_order},
        testing::{after, booting, on_tdx_host, place, samples, snapshot, software, vcpu},
    },
    report,
    tui::{
        keymap::{Action, Edit},
        state::{Help, Views as _},
    },
};

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

/// Those without a tab too.
fn all_views() -> impl Iterator<Item = View> {
    View::TABS.iter().chain(View::INNER).copied()
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
fn conversions_of_vms_that_cannot_have_any() {
    let mut plain = samples();
    for vm in plain.iter_mut().flat_map(|sample| &mut sample.vms) {
        (vm.vm_type, vm.ledger) = (Some(0), LedgerSample::default());
    }
    let snapshot = after(plain);
    for (width, height) in [(80, 24), (120, 40)] {
        let shown = screen(Some(&snapshot), &state(View::Conversions), width, height);
        insta::assert_snapshot!(name("no_conversions", width, height), shown);
    }
}

#[test]
fn the_boot_of_a_td_that_is_chosen_with_a_key() {
    let snapshot = after(booting());
    let mut state = state(View::Vms);
    press(&mut state, &snapshot, Action::Down);
    press(&mut state, &snapshot, Action::Boot);
    assert_eq!((state.view, state.scope), (View::Boot, Scope::Vm(2)));
    for (width, height) in [(80, 24), (120, 40), (200, 60)] {
        let shown = screen(Some(&snapshot), &state, width, height);
        insta::assert_snapshot!(name("boot", width, height), shown);
    }
    press(&mut state, &snapshot, Action::Bottom);
    insta::assert_snapshot!("boot_end_80x24", screen(Some(&snapshot), &state, 80, 24));
    press(&mut state, &snapshot, Action::Back);
    assert_eq!((state.view, state.scope), (View::Vms, Scope::All));
}

#[test]
fn the_boot_of_a_vm_that_ran_before_and_of_none_and_after_a_reset() {
    let snapshot = snapshot();
    let plain = State { scope: Scope::Vm(1), ..state(View::Boot) };
    for (width, height) in [(80, 24), (120, 40), (200, 60)] {
        let shown = screen(Some(&snapshot), &plain, width, height);
        insta::assert_snapshot!(name("no_boot", width, height), shown);
    }
    let none = screen(Some(&snapshot), &state(View::Boot), 80, 24);
    assert!(none.contains("choose a VM, and press b"), "{none}");
    let of_td = |snapshot: &Snapshot| {
        let state = State { scope: Scope::Vcpu(2, 0), ..state(View::Boot) };
        screen(Some(snapshot), &state, 120, 24)
    };
    assert!(of_td(&snapshot).contains("td-database, since attaching, in intervals of 1.0 s ──"));
    let mut aggregate = Aggregate::new();
    for sample in booting() {
        aggregate.apply(sample);
    }
    let reset = of_td(&aggregate.reset().unwrap());
    let title =
        "td-database, since it began, in intervals of 2.0 s, settled after 46 s, not reset ";
    assert!(reset.contains(title), "{reset}");
}

#[test]
fn the_boot_of_a_vm_without_exit_events_and_one_without_times() {
    let software = after(booting().into_iter().map(software));
    let state = State { scope: Scope::Vm(2), ..state(View::Boot) };
    insta::assert_snapshot!("software_boot_100x30", screen(Some(&software), &state, 100, 30));
    let untimed = after(booting().into_iter().map(|mut sample| {
        sample.vcpus.iter_mut().for_each(|vcpu| Arc::make_mut(vcpu).times = None);
        sample
    }));
    insta::assert_snapshot!("untimed_boot_80x24", screen(Some(&untimed), &state, 80, 24));
}

#[test]
fn a_td_that_began_before_tdtrace_has_no_estimate() {
    let shown = |samples: Vec<Sample>| {
        let snapshot = after(samples);
        screen(Some(&snapshot), &state(View::Conversions), 200, 24)
    };
    assert!(!shown(samples()).contains("full in"), "{}", shown(samples()));
    let mut from_start = samples();
    for vcpu in from_start.iter_mut().flat_map(|sample| &mut sample.vcpus) {
        let mut seen = VcpuSample::clone(vcpu);
        seen.kvm.as_mut().unwrap().0.exits = 0;
        *vcpu = Arc::new(seen);
    }
    // 2,206 MiB are left, and 708 MiB were mapped in the last second.
    let shown = shown(from_start);
    assert!(shown.contains("full in 3 s"), "{shown}");
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
fn findings_of_one_vm_and_where_there_are_none() {
    let snapshot = snapshot();
    let mut state = state(View::Findings);
    press(&mut state, &snapshot, Action::Down);
    press(&mut state, &snapshot, Action::Open);
    assert_eq!((state.view, state.scope), (View::Findings, Scope::Vm(2)));
    insta::assert_snapshot!("findings_of_vm_80x24", screen(Some(&snapshot), &state, 80, 24));
    typed(&mut state, "rule=dead*");
    assert!(screen(Some(&snapshot), &state, 80, 24).contains("the filter hides all findings"));
    let none = after(samples().into_iter().take(1));
    let state = self::state(View::Findings);
    insta::assert_snapshot!("no_findings_80x24", screen(Some(&none), &state, 80, 24));
    let mut samples = samples();
    let vcpu = &mut samples.last_mut().unwrap().vcpus[2];
    Arc::make_mut(vcpu).reasons.push((TdExit::DeadTd.reason_index() as u32, 1));
    let grave = after(samples);
    insta::assert_snapshot!("grave_finding_120x40", screen(Some(&grave), &state, 120, 40));
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
fn durations_of_a_vcpu_where_the_source_has_them() {
    let mut samples = samples();
    for sample in &mut samples {
        let latency = Arc::clone(&sample.vms[0].latency);
        let mut vcpu = VcpuSample::clone(&sample.vcpus[0]);
        vcpu.latency = latency;
        sample.vcpus[0] = Arc::new(vcpu);
    }
    let snapshot = after(samples);
    let mut state = State { scope: Scope::Vcpu(1, 0), ..state(View::Exits) };
    let mut screens = vec![("exits", screen(Some(&snapshot), &state, 100, 24))];
    press(&mut state, &snapshot, Action::Open);
    screens.push(("opened", screen(Some(&snapshot), &state, 100, 24)));
    for (name, screen) in screens {
        insta::assert_snapshot!(format!("vcpu_durations_{name}_100x24"), screen);
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
    state.apply(Action::Help, &Rows::default());
    for view in [View::Vms, View::Exits, View::Hotspots] {
        state.view = view;
        let name = name(&format!("help_columns_{}", view.title()), 100, 30);
        insta::assert_snapshot!(name, screen(Some(&snapshot()), &state, 100, 30));
    }
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
    for view in all_views() {
        let state = State { scope: Scope::Vm(2), theme: Theme::new(false), ..state(view) };
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
        for view in all_views() {
            for (width, height) in sizes {
                for scope in [Scope::All, Scope::Vm(1), Scope::Vcpu(2, 0), Scope::Vm(9)] {
                    let mut state = State { scope, halts: width % 3 == 0, ..state(view) };
                    state.help =
                        [None, Some(Help::Keys), Some(Help::Columns)][usize::from(height) % 3];
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
    assert!(screen(Some(&snapshot), &bottom, 80, 6).contains("EPT_VIOLATION"));
}

#[test]
fn seamcalls_of_a_tdx_host() {
    let snapshot = after(on_tdx_host());
    for (width, height) in [(80, 24), (120, 40)] {
        let name = name("tdx_host_SEAMCALLs", width, height);
        insta::assert_snapshot!(
            name,
            screen(Some(&snapshot), &state(View::Seamcalls), width, height)
        );
    }
    let mut state = state(View::Seamcalls);
    press(&mut state, &snapshot, Action::Down);
    press(&mut state, &snapshot, Action::Down);
    press(&mut state, &snapshot, Action::Open);
    assert_eq!((state.view, state.scope), (View::Seamcalls, Scope::All));
    insta::assert_snapshot!("tdx_host_chosen_100x30", screen(Some(&snapshot), &state, 100, 30));
    typed(&mut state, "busy>50");
    insta::assert_snapshot!("tdx_host_filtered_80x24", screen(Some(&snapshot), &state, 80, 24));
}

#[test]
fn seamcalls_after_a_reset_and_on_a_host_without_any() {
    let mut aggregate = Aggregate::new();
    let mut samples = on_tdx_host();
    let last = samples.pop().unwrap();
    for sample in samples {
        aggregate.apply(sample);
    }
    aggregate.reset().unwrap();
    let after = aggregate.apply(last);
    let state = state(View::Seamcalls);
    insta::assert_snapshot!("tdx_host_reset_80x24", screen(Some(&after), &state, 80, 24));
    let mut none = snapshot();
    none.vms.clear();
    none.seam_absent = Some("this kernel has no SEAMCALL wrappers (tdh_…)".into());
    insta::assert_snapshot!("no_SEAMCALLs_80x24", screen(Some(&none), &state, 80, 24));
}

#[test]
fn no_size_panics_with_seamcalls() {
    let snapshot = after(on_tdx_host());
    for (width, height) in [(1, 1), (2, 3), (10, 4), (37, 7), (9, 30), (20, 200), (400, 12)] {
        let mut state = state(View::Seamcalls);
        state.apply(Action::Bottom, &Rows::default());
        screen(Some(&snapshot), &state, width, height);
    }
}

fn huge_losses() -> Losses {
    const MAX: u64 = u64::MAX;
    Losses {
        causes: vec![(Loss::Unattributed, Class::UserspaceExit, MAX)],
        misses: vec![("kvm_exit".to_owned(), MAX)],
        hotspots: MAX,
        unpaired: MAX,
        durations: MAX,
        slow: MAX,
        outside: vec![(Class::HostInterrupt, MAX)],
    }
}

/// `sample` with every count as large as a recording can say.
fn huge(mut sample: Sample) -> Sample {
    const MAX: u64 = u64::MAX;
    let durations = |latency: &[LatencySample]| {
        let huge = |row: &LatencySample| {
            let mut histogram = Histogram::default();
            (0..BUCKETS).for_each(|bucket| histogram.add(bucket, MAX));
            LatencySample { class: row.class, ns: [MAX; PARTS], max: MAX, histogram }
        };
        latency.iter().map(huge).collect::<Arc<[LatencySample]>>()
    };
    let latency = durations(&sample.vms[0].latency);
    for vm in &mut sample.vms {
        vm.latency = Arc::clone(&latency);
        vm.ledger.counts = [MAX; LEDGER_COUNTS];
        vm.ledger.memory_pages = MAX;
        for region in &mut vm.ledger.regions {
            (region.calls, region.bytes, region.turns) = ([MAX; 2], [MAX; 2], MAX);
        }
    }
    let kinds = TdExit::ALL.iter().map(|kind| (kind.reason_index() as u32, MAX));
    let reasons: Vec<(u32, u64)> = kinds.chain([(12, MAX), (u32::MAX, MAX)]).collect();
    let places = Class::ALL.map(|class| (place(class, 6, 4), MAX));
    for vcpu in &mut sample.vcpus {
        let vcpu = Arc::make_mut(vcpu);
        vcpu.counts = Counts::new([MAX; COUNTS]);
        vcpu.reasons.clone_from(&reasons);
        vcpu.userspace = vec![(2, MAX), (6, MAX), (USERSPACE_OTHER as u32, MAX), (u32::MAX, MAX)];
        vcpu.hotspots = places.to_vec();
        vcpu.hotspots.extend([(place(Class::MemoryFault, 1, 133), MAX)]);
        vcpu.hotspots.sort_by_key(|(place, _)| place_order(place));
        let last = KvmStat {
            exits: MAX,
            fpu_reload: MAX,
            hypercalls: MAX,
            seen_exits: MAX,
            seen_runs: MAX,
            seen_hypercalls: MAX,
            ..KvmStat::default()
        };
        vcpu.kvm = Some((KvmStat::default(), last));
        vcpu.times = Some(Times { guest: MAX, parts: [MAX; PARTS] });
        vcpu.latency = Arc::clone(&latency);
    }
    let losses = huge_losses();
    sample.losses = losses.clone();
    sample.losses.add(&losses);
    for function in &mut Arc::make_mut(&mut sample.seam).functions {
        (function.calls, function.missed, function.ns, function.max) = (MAX, MAX, MAX, MAX);
        (function.retried, function.kick_ns, function.unpaired) = (MAX, MAX, MAX);
        (0..BUCKETS).for_each(|bucket| function.histogram.add(bucket, MAX));
    }
    sample.slow.iter_mut().for_each(|slow| slow.ns = [MAX; PARTS]);
    sample
}

#[test]
fn counts_as_large_as_a_recording_can_say_panic_nowhere() {
    for make in [huge, |sample| huge(software(sample))] {
        let mut samples = on_tdx_host();
        samples.truncate(3);
        samples[2].vms[1].ended = true;
        let mut aggregate = Aggregate::new();
        let mut snapshots = Vec::new();
        for sample in samples {
            snapshots.push(aggregate.apply(make(sample)));
        }
        snapshots.push(snapshots[1].clone().with_mean_rates());
        snapshots.push(aggregate.reset().unwrap());
        for snapshot in &snapshots {
            let show = report::Show { hotspots: 99, filter: None, boot: true };
            assert!(!report::to_text(snapshot, show).is_empty());
            assert!(report::to_json(snapshot, show).is_object());
            for view in all_views() {
                for scope in [Scope::All, Scope::Vm(1), Scope::Vcpu(1, 1), Scope::Vm(2)] {
                    let state = State { scope, halts: true, ..state(view) };
                    screen(Some(snapshot), &state, 200, 60);
                }
            }
        }
    }
}
