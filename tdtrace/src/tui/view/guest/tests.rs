//! The screens of a guest as they are drawn, at the sizes that people have.

use ratatui::{Terminal, backend::TestBackend, style::Color};

use super::*;
use crate::{
    model::guest::{
        aggregate::GuestAggregate,
        sample::GuestSample,
        testing::{sample, snapshot},
    },
    tui::{
        keymap::{Action, Edit},
        state::{Opened, Views as _},
    },
};

fn screen(snapshot: Option<&GuestSnapshot>, state: &GuestState, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| {
            draw(frame, snapshot, state);
        })
        .unwrap();
    terminal.backend().to_string()
}

/// Draws, so that there is a chosen row, and then does what `action` asks.
fn press(state: &mut GuestState, snapshot: &GuestSnapshot, action: Action) {
    let mut terminal = Terminal::new(TestBackend::new(120, 40)).unwrap();
    let mut rows = Rows::default();
    terminal.draw(|frame| rows = draw(frame, Some(snapshot), state)).unwrap();
    state.settle(&rows);
    state.apply(action, &rows);
}

fn state(view: GuestView) -> GuestState {
    GuestState { view, ..GuestState::default() }
}

/// The site whose place begins with `name`, opened.
fn at(snapshot: &GuestSnapshot, name: &str) -> GuestState {
    let site = snapshot.sites.iter().find(|site| site.place().starts_with(name)).unwrap();
    let opened = Opened { site: site.id(), from: GuestView::Sites };
    GuestState { scope: Some(opened), ..state(GuestView::Site) }
}

/// What a file of a view's screen is called.
const fn name(view: GuestView) -> &'static str {
    match view {
        GuestView::Overview => "overview",
        GuestView::Reasons => "reasons",
        GuestView::Sites => "sites",
        GuestView::Hotspots => "hotspots",
        GuestView::Calls => "calls",
        GuestView::Findings => "findings",
        GuestView::Site => "site",
    }
}

#[test]
fn every_view_at_every_size() {
    let snapshot = snapshot();
    for (width, height) in [(80, 24), (120, 40), (200, 60)] {
        for view in GuestView::ALL {
            let name = format!("{}_{width}x{height}", name(view));
            insta::assert_snapshot!(name, screen(Some(&snapshot), &state(view), width, height));
        }
        let state = at(&snapshot, "acme_isr");
        let name = format!("site_{width}x{height}");
        insta::assert_snapshot!(name, screen(Some(&snapshot), &state, width, height));
    }
}

#[test]
fn a_guest_without_any_virtualization_exception() {
    let quiet = GuestSample {
        reasons: Vec::new(),
        places: Vec::new(),
        calls: Vec::new(),
        losses: crate::model::guest::sample::GuestLosses::default(),
        ..sample(20, 1)
    };
    let snapshot = GuestAggregate::new().apply(&quiet);
    for view in GuestView::ALL {
        let name = format!("quiet_{}_80x24", name(view));
        insta::assert_snapshot!(name, screen(Some(&snapshot), &state(view), 80, 24));
    }
    insta::assert_snapshot!("nothing_yet_80x24", screen(None, &state(GuestView::Overview), 80, 24));
}

#[test]
fn without_times_and_without_symbols_the_screen_says_so() {
    let mut sample = sample(20, 1);
    sample.names.clear();
    sample.code.clear();
    sample.devices.clear();
    sample.is_td = false;
    sample.layout_assumed = true;
    sample.clock.name = "hpet".to_owned();
    sample.clock.used = false;
    sample.symbols = "no symbols: /proc/kallsyms hides its addresses; run as root".into();
    for (_, stats) in &mut sample.reasons {
        (stats.ns, stats.max_ns, stats.buckets) = (0, 0, [0; tdtrace_common::latency::BUCKETS]);
    }
    let snapshot = GuestAggregate::new().apply(&sample);
    for view in [GuestView::Overview, GuestView::Reasons, GuestView::Sites] {
        let name = format!("bare_{}_80x24", name(view));
        insta::assert_snapshot!(name, screen(Some(&snapshot), &state(view), 80, 24));
    }
}

#[test]
fn after_a_reset_only_what_came_since_is_shown() {
    let mut aggregate = GuestAggregate::new();
    aggregate.reset(&sample(10, 1));
    let snapshot = aggregate.apply(&sample(20, 2));
    let drawn = screen(Some(&snapshot), &state(GuestView::Reasons), 80, 24);
    insta::assert_snapshot!("reset_reasons_80x24", drawn);
}

#[test]
fn a_filter_hides_rows_and_says_how_many() {
    let snapshot = snapshot();
    let mut state = state(GuestView::Sites);
    state.apply(Action::Filter, &Rows::default());
    "survives=fatal".chars().for_each(|character| state.edit(Edit::Insert(character)));
    insta::assert_snapshot!("filter_typed_80x24", screen(Some(&snapshot), &state, 80, 24));
    state.edit(Edit::Accept);
    assert!(screen(Some(&snapshot), &state, 80, 24).contains("survives=fatal: 2 of 10 rows"));
}

#[test]
fn the_help_says_keys_columns_and_what_is_not_seen() {
    let snapshot = snapshot();
    let mut state = state(GuestView::Sites);
    for page in ["keys", "columns", "unseen"] {
        state.apply(Action::Help, &Rows::default());
        let name = format!("help_{page}_80x24");
        insta::assert_snapshot!(name, screen(Some(&snapshot), &state, 80, 24));
    }
}

#[test]
fn a_site_is_reached_from_every_table_that_has_one() {
    let snapshot = snapshot();
    for (view, site) in [
        (GuestView::Overview, "Offenders › acme_isr+0x3c"),
        (GuestView::Sites, "Offenders › acme_isr+0x3c"),
        (GuestView::Hotspots, "Offenders › nvme_write_sq_db+0x44"),
        (GuestView::Findings, "Offenders › acme_isr+0x3c"),
    ] {
        let mut state = state(view);
        press(&mut state, &snapshot, Action::Open);
        let drawn = screen(Some(&snapshot), &state, 120, 40);
        assert!(drawn.contains(site), "{view:?}\n{drawn}");
        press(&mut state, &snapshot, Action::Back);
        assert_eq!(state.view, view);
    }
    for view in [GuestView::Reasons, GuestView::Calls] {
        let mut state = state(view);
        press(&mut state, &snapshot, Action::Open);
        assert_eq!(state.view, view);
    }
}

#[test]
fn a_long_site_scrolls_and_stops_at_its_end() {
    let snapshot = snapshot();
    let mut state = at(&snapshot, "blob_load");
    let top = screen(Some(&snapshot), &state, 60, 12);
    assert!(top.contains("verdict") && !top.contains("stack"), "{top}");
    state.apply(Action::Bottom, &Rows::default());
    let bottom = screen(Some(&snapshot), &state, 60, 12);
    assert!(!bottom.contains("verdict") && bottom.contains("common_interrupt"), "{bottom}");
}

#[test]
fn a_site_that_is_gone_after_a_reset_is_said_to_be() {
    let state = at(&snapshot(), "acme_isr");
    let empty = GuestSnapshot::default();
    assert!(screen(Some(&empty), &state, 80, 24).contains("no longer listed"));
}

#[test]
fn at_80_columns_everything_that_matters_of_a_site_is_there() {
    let snapshot = snapshot();
    let drawn = screen(Some(&snapshot), &at(&snapshot, "acme_isr"), 80, 24);
    for word in [
        "pointer dereference",
        "FATAL",
        "readl()",
        "acme_nic.c:412",
        "f7 47 14 01 00 00 00",
        "test dword ptr [rdi+0x14],1",
        "0000:00:04.0 BAR0+0x0",
        "hardirq",
        "74 failed, last with -EINVAL; 5.0 µs each",
        "swapper/3",
        "handle_edge_irq",
    ] {
        assert!(drawn.contains(word), "{word}\n{drawn}");
    }
}

#[test]
fn at_80_columns_the_chosen_offender_is_named_with_its_line_and_no_number_is_cut() {
    let mut snapshot = snapshot();
    snapshot.is_td = false;
    snapshot.release = "6.12.117+deb12-cloud-amd64".into();
    let state = GuestState { over: true, ..state(GuestView::Sites) };
    let drawn = screen(Some(&snapshot), &state, 80, 24);
    let header = drawn.lines().next().unwrap_or_default().trim_matches(['"', ' ']);
    assert!(header.ends_with("probes 9/11"), "{header}");
    assert!(drawn.contains(" acme_isr+0x3c [acme_nic]  acme_nic.c:412 ──"), "{drawn}");
}

#[test]
fn what_does_not_survive_is_red_what_goes_around_is_yellow_and_accessors_are_dim() {
    let snapshot = snapshot();
    let theme = Theme::new(true);
    let of = |name: &str| {
        let site = snapshot.sites.iter().find(|site| site.place().starts_with(name)).unwrap();
        style(site, &theme)
    };
    assert_eq!(of("acme_isr").fg, Some(Color::Red));
    assert_eq!(of("acme_stat").fg, Some(Color::Yellow));
    assert_eq!(of("nvme_write_sq_db"), theme.dim);
    assert_eq!(of("foo_poll"), Style::new());
}

#[test]
fn without_colour_no_cell_has_one() {
    let snapshot = snapshot();
    for view in GuestView::ALL {
        let state = GuestState { theme: Theme::new(false), ..state(view) };
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
fn no_size_panics_whatever_is_shown() {
    let (full, empty) = (snapshot(), GuestSnapshot::default());
    let sizes = [(1, 1), (2, 3), (3, 2), (10, 4), (37, 7), (80, 5), (9, 30), (20, 200), (300, 9)];
    let views = GuestView::ALL.into_iter().chain(GuestView::INNER.iter().copied());
    for view in views {
        for (width, height) in sizes {
            for snapshot in [&full, &empty] {
                let mut state = GuestState { view, ..at(&full, "acme_isr") };
                state.help = [None, Some(Help::Keys), Some(Help::Columns), Some(Help::Unseen)]
                    [usize::from(height) % 4];
                state.apply(Action::Bottom, &Rows::default());
                screen(Some(snapshot), &state, width, height);
            }
        }
    }
}
