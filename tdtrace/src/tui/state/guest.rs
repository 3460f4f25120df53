//! The views of a guest, and where one gets from them.

use super::{Choices, Help, Rows, Views};
use crate::{
    model::{field::RowId, guest::field},
    tui::keymap::Side,
};

/// What the user of a guest's side has chosen.
pub type GuestState = Choices<GuestView>;

/// The views of a guest, in the order of their tabs; the last has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestView {
    /// What there is: totals, reasons, sites, findings, what is not seen.
    Overview,
    /// #VEs by reason, with durations.
    Reasons,
    /// Sites with their verdicts, offenders first.
    Sites,
    /// Pages, ports, MSRs and CPUID leaves.
    Hotspots,
    /// Conversions, acceptance, quotes and bounces.
    Calls,
    /// What somebody should look at.
    Findings,
    /// One site.
    Site,
}

impl GuestView {
    /// Every view with a tab.
    pub const ALL: [Self; 6] =
        [Self::Overview, Self::Reasons, Self::Sites, Self::Hotspots, Self::Calls, Self::Findings];
}

/// A site that was gone into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Which one.
    pub site: RowId,
    /// From where.
    pub from: GuestView,
}

impl Views for GuestView {
    type Scope = Option<Opened>;

    const SIDE: Side = Side::Guest;
    const TABS: &'static [Self] = &Self::ALL;
    const INNER: &'static [Self] = &[Self::Site];
    const HELP: &'static [Help] = &[Help::Keys, Help::Columns, Help::Unseen];
    const EXAMPLES: &'static str = "survives=fatal  verdict=pointer*  per_s>10";

    fn index(self) -> usize {
        self as usize
    }

    fn tab(self) -> Self {
        if self == Self::Site { Self::Sites } else { self }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Reasons => "#VE",
            Self::Sites => "Offenders",
            Self::Hotspots => "Hotspots",
            Self::Calls => "Conversions",
            Self::Findings => "Findings",
            Self::Site => "Site",
        }
    }

    fn sorted_by(self) -> &'static str {
        match self {
            Self::Overview | Self::Sites | Self::Hotspots => "per_s",
            Self::Reasons | Self::Calls | Self::Findings | Self::Site => "count",
        }
    }

    fn columns() -> Vec<(&'static str, &'static str)> {
        field::keys()
    }

    fn open(state: &mut GuestState, rows: &Rows) {
        let Some(site) = rows.leads_to else { return };
        let from = state.view;
        state.enter(Some(Opened { site, from }), Self::Site);
    }

    fn back(state: &mut GuestState) {
        match (state.view, state.scope.take()) {
            (Self::Site, opened) => state.view = opened.map_or(Self::Sites, |opened| opened.from),
            _ => state.filter = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::keymap::{Action, Edit};

    fn rows() -> Rows {
        Rows { total: 9, page: 5, leads_to: Some([48, 7, 0]), ..Rows::default() }
    }

    fn typed(state: &mut GuestState, text: &str) {
        state.apply(Action::Filter, &rows());
        text.chars().for_each(|character| state.edit(Edit::Insert(character)));
    }

    #[test]
    fn a_site_is_opened_from_wherever_it_is_and_left_to_there() {
        for view in [GuestView::Overview, GuestView::Findings, GuestView::Sites] {
            let mut state = GuestState { view, ..GuestState::default() };
            state.settle(&Rows { row: 3, id: Some([48, 7, 0]), ..rows() });
            state.apply(Action::Open, &rows());
            assert_eq!((state.view, state.view.tab()), (GuestView::Site, GuestView::Sites));
            assert_eq!(state.scope, Some(Opened { site: [48, 7, 0], from: view }));
            assert_eq!(state.order().row, 0);
            // Lines of the site, not rows of the table.
            state.apply(Action::Down, &rows());
            state.apply(Action::Back, &rows());
            assert_eq!((state.view, state.scope), (view, None));
            assert_eq!((state.order().row, state.order().id), (3, Some([48, 7, 0])));
        }
    }

    #[test]
    fn a_row_that_leads_nowhere_is_not_opened() {
        let mut state = GuestState::default();
        state.apply(Action::Open, &Rows { leads_to: None, ..rows() });
        assert_eq!(state.view, GuestView::Overview);
    }

    #[test]
    fn tabs_go_round_and_a_site_is_among_the_offenders() {
        let mut state = GuestState::default();
        state.apply(Action::PreviousView, &rows());
        assert_eq!(state.view, GuestView::Findings);
        state.apply(Action::NextView, &rows());
        assert_eq!(state.view, GuestView::Overview);
        state.view = GuestView::Site;
        state.apply(Action::NextView, &rows());
        assert_eq!(state.view, GuestView::Hotspots);
        state.apply(Action::View(1), &rows());
        assert_eq!(state.view, GuestView::Reasons);
        state.apply(Action::View(8), &rows());
        assert_eq!(state.view, GuestView::Reasons);
    }

    #[test]
    fn the_help_of_a_guest_has_a_third_page() {
        let mut state = GuestState::default();
        for page in [Some(Help::Keys), Some(Help::Columns), Some(Help::Unseen), None] {
            state.apply(Action::Help, &rows());
            assert_eq!(state.help, page);
        }
    }

    #[test]
    fn a_filter_names_columns_of_a_guest() {
        let mut state = GuestState::default();
        typed(&mut state, "survives=fatal");
        assert_eq!(state.input.as_ref().and_then(|input| input.error.clone()), None);
        state.edit(Edit::Accept);
        assert!(state.filter.is_some());
        state.apply(Action::Back, &rows());
        assert!(state.filter.is_none());
        typed(&mut state, "exits_per_s>1");
        assert!(state.input.is_some_and(|input| input.error.is_some()));
    }
}
