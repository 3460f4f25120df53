//! The lines around a view: header, tabs, where one is, footer.

use ratatui::text::{Line, Span};

use super::cut;
use crate::{
    model::{
        exits::Scope,
        field::thousands,
        figure,
        snapshot::{ExitSource, Snapshot},
    },
    tui::{
        keymap::KEYMAP,
        state::{Rows, State, View},
    },
};

/// The most important first, so that a narrow screen cuts the rest.
pub(super) fn header(snapshot: Option<&Snapshot>, state: &State, width: u16) -> Line<'static> {
    let theme = &state.theme;
    let mut spans = vec![Span::styled("tdtrace", theme.head), Span::raw("  ")];
    if state.paused {
        spans.push(Span::styled(" paused ", theme.chosen));
        spans.push(Span::raw("  "));
    }
    let Some(snapshot) = snapshot else { return Line::from(spans) };
    if snapshot.vms.iter().any(|vm| vm.demo) {
        spans.push(Span::styled(" DEMO ", theme.chosen));
        spans.push(Span::raw("  "));
    }
    let alarm = |text: String, wrong: bool| {
        if wrong { Span::styled(text, theme.alarm) } else { Span::raw(text) }
    };
    let lost = snapshot.lost();
    spans.push(alarm(format!("lost {}", thousands(lost)), lost > 0));
    let (attached, probes) = snapshot.attached();
    spans.push(alarm(format!("  probes {attached}/{probes}"), attached < probes));
    if let Some(audit) = snapshot.audit() {
        let verdict = if audit.agrees() { "ok" } else { "differs" };
        spans.push(alarm(format!("  audit {verdict}"), !audit.agrees()));
    }
    if snapshot.losses.hotspots > 0 {
        let without = thousands(snapshot.losses.hotspots);
        spans.push(alarm(format!("  without place {without}"), true));
    }
    // No alarm: what was going on when tdtrace came has no beginning.
    let durations = snapshot.losses.unpaired.saturating_add(snapshot.losses.durations);
    if durations > 0 {
        spans.push(Span::raw(format!("  without duration {}", thousands(durations))));
    }
    let running = snapshot.vms.iter().filter(|vm| !vm.ended).count();
    let vms = if running == 1 { "VM" } else { "VMs" };
    let every = seconds(state.every.as_secs_f64());
    spans.push(Span::raw(format!("  {running} {vms}  every {every}")));
    if let Some(since) = snapshot.since_reset {
        let clock = figure::clock(since.as_secs());
        spans.push(Span::raw(format!("  since reset {clock}")));
    }
    if snapshot.exit_source == ExitSource::KvmStat {
        spans.push(Span::styled("  exits: KVM's own count", theme.dim));
    }
    if width >= 100 {
        spans.push(Span::styled(format!("  {}", snapshot.host.release), theme.dim));
    }
    Line::from(spans)
}

/// `0.5 s`, `10 s`.
fn seconds(seconds: f64) -> String {
    if seconds.fract() == 0.0 { format!("{seconds:.0} s") } else { format!("{seconds:.1} s") }
}

pub(super) fn tabs(state: &State) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, view) in View::ALL.into_iter().enumerate() {
        let title = format!(" {} {} ", index + 1, view.title());
        let chosen = view == state.view;
        spans.push(if chosen { Span::styled(title, state.theme.chosen) } else { Span::raw(title) });
    }
    Line::from(spans)
}

/// Where one is, how it is sorted and filtered; or the filter that is being typed.
pub(super) fn path(snapshot: Option<&Snapshot>, state: &State, rows: &Rows) -> Line<'static> {
    let theme = &state.theme;
    let count = || format!("{} of {} rows", rows.total, rows.total + rows.hidden);
    if let Some(input) = &state.input {
        return Line::from(vec![
            Span::styled("filter: ", theme.head),
            Span::raw(input.text.clone()),
            Span::styled(" ", theme.chosen),
            Span::styled(format!("  {}", count()), theme.dim),
        ]);
    }
    let mut spans = vec![Span::styled(format!(" {}", place(snapshot, state)), theme.head)];
    if let Some(filter) = &state.filter {
        let text = format!("   filter {}: {}", cut(filter.text(), 40), count());
        spans.push(Span::raw(text));
    }
    if matches!(state.view, View::Vms | View::Exits | View::Latency) {
        let halts = if state.halts { "durations with halts" } else { "durations without halts" };
        spans.push(Span::styled(format!("   {halts}"), theme.dim));
    }
    if let Some(key) = rows.sorted.filter(|key| !rows.columns.contains(key)) {
        spans.push(Span::styled(format!("   sorted by {key}"), theme.dim));
    }
    Line::from(spans)
}

/// `web-1 › vCPU 3 › Exits`.
fn place(snapshot: Option<&Snapshot>, state: &State) -> String {
    let vm = |id: u32| {
        let vm = snapshot.and_then(|snapshot| snapshot.vms.iter().find(|vm| vm.id == id));
        vm.map_or_else(|| format!("VM {id}"), |vm| cut(&vm.name, 32))
    };
    let title = state.view.title();
    match state.scope {
        Scope::All if state.view == View::Vms => "all VMs".to_owned(),
        Scope::All => format!("all VMs › {title}"),
        Scope::Vm(id) => format!("{} › {title}", vm(id)),
        Scope::Vcpu(id, vcpu) => format!("{} › vCPU {vcpu} › {title}", vm(id)),
    }
}

/// The keys that are needed most, as far as there is room; or what is wrong with the filter.
pub(super) fn footer(state: &State, width: u16) -> Line<'static> {
    match &state.input {
        Some(input) => match &input.error {
            Some(error) => Line::from(format!(" {error}")).style(state.theme.alarm),
            None => {
                Line::from(" Enter accepts  Esc cancels  name=web*  exits_per_s>1k  !state=ended")
                    .style(state.theme.dim)
            }
        },
        None => {
            let mut text = String::new();
            for binding in KEYMAP {
                let Some(word) = binding.footer else { continue };
                let key = binding.keys.split(' ').next().unwrap_or_default();
                let more = format!(" {key} {word} ");
                if text.chars().count() + more.chars().count() <= usize::from(width) {
                    text.push_str(&more);
                }
            }
            Line::from(text).style(state.theme.dim)
        }
    }
}
