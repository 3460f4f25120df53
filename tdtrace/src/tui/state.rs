//! What the user has chosen: view, order, row. Pure: an action in, a new state out.

use super::keymap::Action;
use crate::model::field::{Field, HOTSPOT_FIELDS, VCPU_FIELDS, VM_FIELDS};

/// The views, in the order of their tabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// VMs.
    Vms,
    /// Events by class, exits by reason, returns to the VMM.
    Exits,
    /// Places.
    Hotspots,
    /// vCPUs with the audit.
    Vcpus,
}

impl View {
    /// Every view, in the order of the tabs.
    pub const ALL: [Self; 4] = [Self::Vms, Self::Exits, Self::Hotspots, Self::Vcpus];

    /// Its name on the tab.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vms => "VMs",
            Self::Exits => "Exits",
            Self::Hotspots => "Hotspots",
            Self::Vcpus => "vCPUs",
        }
    }

    fn columns(self) -> usize {
        match self {
            Self::Vms => VM_FIELDS.len(),
            Self::Exits => 1,
            Self::Hotspots => HOTSPOT_FIELDS.len(),
            Self::Vcpus => VCPU_FIELDS.len(),
        }
    }
}

/// How one view is sorted, and which row is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Index of the column in the view's registry.
    pub column: usize,
    /// Largest, or last letter, first.
    pub descending: bool,
    /// Index of the chosen row.
    pub row: usize,
}

/// Everything that the user has chosen.
#[derive(Clone, Debug)]
pub struct State {
    /// The view shown.
    pub view: View,
    /// Order and row of each view.
    pub orders: [Order; View::ALL.len()],
    /// Snapshots are not taken.
    pub paused: bool,
    /// The source has no more samples.
    pub over: bool,
    /// The help is shown.
    pub help: bool,
    /// It is over.
    pub quit: bool,
}

fn column<R>(fields: &[Field<R>], key: &str) -> usize {
    fields.iter().position(|field| field.key == key).unwrap_or(0)
}

impl Default for State {
    fn default() -> Self {
        let by = |column| Order { column, descending: true, row: 0 };
        Self {
            view: View::Vms,
            orders: [
                by(column(VM_FIELDS, "exits_per_s")),
                by(0),
                by(column(HOTSPOT_FIELDS, "per_s")),
                by(column(VCPU_FIELDS, "exits_per_s")),
            ],
            paused: false,
            over: false,
            help: false,
            quit: false,
        }
    }
}

impl State {
    /// Order and row of the view shown.
    #[must_use]
    pub fn order(&self) -> Order {
        self.orders[self.view as usize]
    }

    /// Does what `action` asks, with `page` rows on the screen. The row may go beyond the last one;
    /// [`State::clamp`] brings it back.
    pub fn apply(&mut self, action: Action, page: usize) {
        let columns = self.view.columns();
        let order = &mut self.orders[self.view as usize];
        match action {
            Action::Quit if self.help => self.help = false,
            Action::Quit => self.quit = true,
            Action::Help => self.help = !self.help,
            Action::Pause => self.paused = !self.paused,
            Action::NextView => self.turn(1),
            Action::PreviousView => self.turn(View::ALL.len() - 1),
            Action::View(index) => self.view = View::ALL[index.min(View::ALL.len() - 1)],
            Action::SortNext => order.column = (order.column + 1) % columns,
            Action::SortPrevious => order.column = (order.column + columns - 1) % columns,
            Action::Reverse => order.descending = !order.descending,
            Action::Down => order.row = order.row.saturating_add(1),
            Action::Up => order.row = order.row.saturating_sub(1),
            Action::PageDown => order.row = order.row.saturating_add(page),
            Action::PageUp => order.row = order.row.saturating_sub(page),
            Action::Top => order.row = 0,
            Action::Bottom => order.row = usize::MAX,
        }
    }

    /// Brings the row of the view shown back into `rows` rows.
    pub fn clamp(&mut self, rows: usize) {
        let order = &mut self.orders[self.view as usize];
        order.row = order.row.min(rows.saturating_sub(1));
    }

    fn turn(&mut self, by: usize) {
        self.view = View::ALL[(self.view as usize + by) % View::ALL.len()];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_go_round_in_both_directions() {
        let mut state = State::default();
        state.apply(Action::PreviousView, 10);
        assert_eq!(state.view, View::Vcpus);
        state.apply(Action::NextView, 10);
        assert_eq!(state.view, View::Vms);
    }

    #[test]
    fn quitting_the_help_is_not_quitting() {
        let mut state = State::default();
        state.apply(Action::Help, 10);
        state.apply(Action::Quit, 10);
        assert!(!state.help && !state.quit);
        state.apply(Action::Quit, 10);
        assert!(state.quit);
    }

    #[test]
    fn the_row_stays_inside_the_table() {
        let mut state = State::default();
        state.apply(Action::Bottom, 10);
        state.apply(Action::Down, 10);
        state.clamp(3);
        assert_eq!(state.order().row, 2);
        state.clamp(0);
        assert_eq!(state.order().row, 0);
        state.apply(Action::PageUp, 10);
        assert_eq!(state.order().row, 0);
    }

    #[test]
    fn sorting_visits_every_column() {
        let mut state = State::default();
        let start = state.order().column;
        for _ in VM_FIELDS {
            state.apply(Action::SortNext, 10);
        }
        assert_eq!(state.order().column, start);
        state.apply(Action::SortPrevious, 10);
        state.apply(Action::SortNext, 10);
        assert_eq!(state.order().column, start);
    }
}
