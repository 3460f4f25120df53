//! What is shown of a replayed recording is what was shown live.

use ratatui::{Terminal, backend::TestBackend};

use super::{example, read, written};
use crate::{
    model::{aggregate::Aggregate, exits::Scope, sample::Sample, snapshot::Snapshot},
    report,
    tui::{
        state::{State, View, Views as _},
        view,
    },
};

fn screen(snapshot: &Snapshot, state: &State, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            view::draw(frame, Some(snapshot), state);
        })
        .unwrap();
    terminal.backend().to_string()
}

fn screens(snapshot: &Snapshot) -> Vec<String> {
    let sizes = [(80, 24), (120, 40), (200, 60)];
    let of = |view| {
        // Of every VM, but for the one view that is of one.
        let scope = if view == View::Boot { Scope::Vm(2) } else { Scope::All };
        let state = State { view, scope, ..State::default() };
        sizes.map(|size| screen(snapshot, &state, size))
    };
    View::TABS.iter().chain(View::INNER).copied().flat_map(of).collect()
}

/// Everything that anybody can see of `samples`.
fn shown(samples: Vec<Sample>) -> Vec<String> {
    let mut aggregate = Aggregate::new();
    let mut shown = Vec::new();
    let show = report::Show { hotspots: 20, filter: None, boot: true };
    for sample in samples {
        let snapshot = aggregate.apply(sample);
        shown.push(report::to_json(&snapshot, show).to_string());
        shown.push(report::to_text(&snapshot, show));
        shown.extend(screens(&snapshot));
    }
    shown
}

#[test]
fn live_and_replayed_snapshots_give_identical_screens() {
    let samples = example::samples();
    let (back, end) = read(&written(&samples));
    assert!(matches!(end, Ok(None)));
    let (live, replayed) = (shown(samples), shown(back));
    assert!(live.iter().any(|screen| screen.contains("td-database")));
    assert_eq!(live, replayed);
}

#[test]
fn the_end_of_a_recording_is_shown_on_the_screen() {
    let mut aggregate = Aggregate::new();
    let snapshot = aggregate.apply(example::few().remove(0));
    let screen = |over| screen(&snapshot, &State { over, ..State::default() }, (80, 24));
    assert!(screen(true).contains("end of recording"));
    assert!(!screen(false).contains("end of recording"));
}
