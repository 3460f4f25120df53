//! What keys change.

use super::*;

fn rows() -> Rows {
    Rows {
        total: 20,
        page: 10,
        columns: vec!["name", "exits_per_s", "trend", "pid"],
        ..Rows::default()
    }
}

fn typed(state: &mut State, text: &str) {
    text.chars().for_each(|character| state.edit(Edit::Insert(character)));
}

#[test]
fn views_go_round_in_both_directions() {
    let mut state = State::default();
    state.apply(Action::PreviousView, &rows());
    assert_eq!(Some(&state.view), View::ALL.last());
    state.apply(Action::NextView, &rows());
    assert_eq!(state.view, View::Vms);
}

#[test]
fn leaving_the_help_is_neither_quitting_nor_going_back() {
    for action in [Action::Quit, Action::Back] {
        let mut state = State { scope: Scope::Vm(1), ..State::default() };
        state.apply(Action::Help, &rows());
        state.apply(action, &rows());
        assert!(state.help.is_none() && !state.quit);
        assert_eq!(state.scope, Scope::Vm(1));
    }
    let mut state = State::default();
    state.apply(Action::Quit, &rows());
    assert!(state.quit);
}

#[test]
fn the_help_has_two_pages() {
    let mut state = State::default();
    let pages = [Some(Help::Keys), Some(Help::Columns), None];
    for page in pages {
        state.apply(Action::Help, &rows());
        assert_eq!(state.help, page);
    }
}

#[test]
fn going_to_another_row_forgets_the_one_before() {
    let mut state = State::default();
    state.settle(&Rows { row: 3, id: Some([7, 0, 0]), ..rows() });
    state.apply(Action::Down, &rows());
    assert_eq!((state.order().row, state.order().id), (4, None));
    state.apply(Action::PageDown, &rows());
    state.apply(Action::Bottom, &rows());
    state.apply(Action::Down, &rows());
    assert_eq!(state.order().row, usize::MAX);
    state.apply(Action::Top, &rows());
    state.apply(Action::PageUp, &rows());
    assert_eq!(state.order().row, 0);
}

#[test]
fn sorting_visits_every_column_shown() {
    let mut state = State::default();
    let mut seen = Vec::new();
    for _ in 0..3 {
        state.apply(Action::SortNext, &rows());
        seen.push(state.order().column);
    }
    assert_eq!(seen, ["pid", "name", "exits_per_s"]);
    state.apply(Action::SortPrevious, &rows());
    assert_eq!(state.order().column, "name");
    state.apply(Action::SortNext, &Rows::default());
    assert_eq!(state.order().column, "name");
}

#[test]
fn enter_goes_from_vm_to_vcpu_to_exits_and_back_the_same_way() {
    let mut state = State::default();
    state.apply(Action::Open, &rows());
    assert_eq!(state.scope, Scope::All, "nothing is chosen yet");
    state.settle(&Rows { id: Some([2, 0, 0]), ..rows() });
    state.apply(Action::Open, &rows());
    assert_eq!((state.scope, state.view), (Scope::Vm(2), View::Vcpus));
    state.settle(&Rows { id: Some([2, 3, 9]), ..rows() });
    state.apply(Action::Open, &rows());
    assert_eq!((state.scope, state.view), (Scope::Vcpu(2, 3), View::Exits));
    state.settle(&Rows { id: Some([2, 0, 48]), ..rows() });
    state.apply(Action::Open, &Rows { closed: true, ..rows() });
    assert_eq!(state.view, View::Exits, "there is nothing inside");
    state.apply(Action::Open, &rows());
    assert_eq!(state.view, View::Latency);
    assert_eq!(state.order().id, Some([2, 0, 48]));
    state.apply(Action::Back, &rows());
    assert_eq!((state.scope, state.view), (Scope::Vm(2), View::Vcpus));
    assert_eq!(state.order().id, Some([2, 3, 9]));
    state.apply(Action::Back, &rows());
    assert_eq!((state.scope, state.view), (Scope::All, View::Vms));
    assert_eq!(state.order().id, Some([2, 0, 0]));
}

#[test]
fn the_boot_is_of_the_vm_of_the_chosen_row_or_of_the_one_looked_into() {
    let of = |view, scope, id| {
        let mut state = State { view, scope, ..State::default() };
        state.settle(&Rows { id, ..rows() });
        state.apply(Action::Boot, &rows());
        (state.view, state.scope)
    };
    let boot = (View::Boot, Scope::Vm(2));
    assert_eq!(of(View::Vms, Scope::All, Some([2, 0, 0])), boot);
    assert_eq!(of(View::Conversions, Scope::All, Some([2, 0, 0])), boot);
    assert_eq!(of(View::Hotspots, Scope::All, Some([2 << 32 | 9, 1, 0])), boot);
    assert_eq!(of(View::Exits, Scope::Vcpu(2, 7), Some([2, 0, 48])), boot);
    assert_eq!(of(View::Seamcalls, Scope::Vm(2), Some([6, 0, 0])), boot);
    assert_eq!(of(View::Seamcalls, Scope::All, Some([6, 0, 0])), (View::Seamcalls, Scope::All));
    assert_eq!(of(View::Vms, Scope::All, None), (View::Vms, Scope::All));
    assert_eq!((View::Boot.tab(), View::Boot.index()), (View::Vms, View::ALL.len()));
    assert!(!State { view: View::Boot, ..State::default() }.order().descending);
}

#[test]
fn a_filter_shows_while_it_is_typed_and_cancelling_brings_back_the_one_before() {
    let mut state = State::default();
    state.apply(Action::Filter, &rows());
    typed(&mut state, "name=web");
    assert_eq!(state.shown_filter().map(Filter::text), Some("name=web"));
    state.edit(Edit::Accept);
    assert_eq!(state.filter.as_ref().map(Filter::text), Some("name=web"));
    state.apply(Action::Filter, &rows());
    typed(&mut state, "-2");
    assert_eq!(state.shown_filter().map(Filter::text), Some("name=web-2"));
    state.edit(Edit::Cancel);
    assert_eq!(state.shown_filter().map(Filter::text), Some("name=web"));
    state.apply(Action::Back, &rows());
    assert_eq!(state.shown_filter(), None);
}

#[test]
fn what_is_no_filter_is_not_accepted_and_the_last_that_was_one_stays_in_sight() {
    let mut state = State::default();
    state.apply(Action::Filter, &rows());
    typed(&mut state, "web (");
    assert_eq!(state.shown_filter().map(Filter::text), Some("web"));
    state.edit(Edit::Accept);
    assert!(state.input.as_ref().is_some_and(|input| input.error.is_some()));
    state.edit(Edit::Clear);
    state.edit(Edit::Accept);
    assert!(state.input.is_none() && state.filter.is_none());
}

#[test]
fn the_refresh_rate_stays_between_a_tenth_of_a_second_and_a_minute() {
    let mut state = State::default();
    for _ in 0..20 {
        state.apply(Action::Faster, &rows());
    }
    assert_eq!(state.every, Duration::from_millis(100));
    state.apply(Action::Slower, &rows());
    assert_eq!(state.every, Duration::from_millis(200));
    for _ in 0..20 {
        state.apply(Action::Slower, &rows());
    }
    assert_eq!(state.every, Duration::from_secs(60));
    state.every = Duration::from_secs(3600);
    state.apply(Action::Slower, &rows());
    assert_eq!(state.every, Duration::from_secs(3600));
}
