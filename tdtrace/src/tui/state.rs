//! What the user has chosen: view, VM, order, row, filter. Pure: an action in, a new state out.

use std::time::Duration;

use super::{
    keymap::{Action, Edit},
    theme::Theme,
};
use crate::model::{
    exits::Scope,
    field::{FIGURES, RowId},
    filter::{Filter, FilterError},
};

/// The views, in the order of their tabs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// VMs.
    Vms,
    /// Exits by reason, returns to the VMM, events.
    Exits,
    /// How long exits and returns took.
    Latency,
    /// Places.
    Hotspots,
    /// vCPUs with the audit.
    Vcpus,
}

impl View {
    /// Every view, in the order of the tabs.
    pub const ALL: [Self; 5] = [Self::Vms, Self::Exits, Self::Latency, Self::Hotspots, Self::Vcpus];

    /// Its name on the tab.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vms => "VMs",
            Self::Exits => "Exits",
            Self::Latency => "Latency",
            Self::Hotspots => "Hotspots",
            Self::Vcpus => "vCPUs",
        }
    }
}

/// A page of the help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Help {
    /// What keys do.
    Keys,
    /// What the columns on the screen say.
    Columns,
}

/// How one view is sorted, and which row is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Key of the column.
    pub column: &'static str,
    /// Largest, or last letter, first.
    pub descending: bool,
    /// Index of the chosen row; where `id` is not there.
    pub row: usize,
    /// The chosen row, wherever it is sorted to.
    pub id: Option<RowId>,
}

/// What a view drew of its table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// All there are.
    pub total: usize,
    /// How many more there would be without the filter.
    pub hidden: usize,
    /// Those that fit on the screen.
    pub page: usize,
    /// Index of the chosen one.
    pub row: usize,
    /// The chosen one.
    pub id: Option<RowId>,
    /// There is nothing more to see inside of it.
    pub closed: bool,
    /// Key of the column that it is sorted by, shown or not.
    pub sorted: Option<&'static str>,
    /// Keys of the columns shown.
    pub columns: Vec<&'static str>,
}

/// A filter that is being typed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input {
    /// As typed so far.
    pub text: String,
    /// What it means; while it means nothing, what it meant before.
    pub preview: Option<Filter>,
    /// Why it means nothing.
    pub error: Option<FilterError>,
}

/// Characters of a filter that can be typed.
const TYPED: usize = 1000;

/// Times between two screens to choose from.
const STEPS: [Duration; 9] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(60),
];

/// Everything that the user has chosen.
#[derive(Clone, Debug)]
pub struct State {
    /// The view shown.
    pub view: View,
    /// What every view is of.
    pub scope: Scope,
    /// Order and row of each view.
    pub orders: [Order; View::ALL.len()],
    /// Snapshots are not taken.
    pub paused: bool,
    /// Halts are in totals and shares.
    pub halts: bool,
    /// The page of the help that is shown.
    pub help: Option<Help>,
    /// The rows shown.
    pub filter: Option<Filter>,
    /// The filter being typed.
    pub input: Option<Input>,
    /// Time between two screens.
    pub every: Duration,
    /// Counts are to begin from now; whoever does it takes the mark away.
    pub reset: bool,
    /// How things look.
    pub theme: Theme,
    /// It is over.
    pub quit: bool,
}

impl Default for State {
    fn default() -> Self {
        let by = |column| Order { column, descending: true, row: 0, id: None };
        Self {
            view: View::Vms,
            scope: Scope::All,
            orders: ["exits_per_s", "time_ns", "time_ns", "per_s", "exits_per_s"].map(by),
            paused: false,
            halts: false,
            help: None,
            filter: None,
            input: None,
            every: Duration::from_secs(1),
            reset: false,
            theme: Theme::default(),
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

    /// The filter that the screen obeys: the one being typed, else the one accepted.
    #[must_use]
    pub fn shown_filter(&self) -> Option<&Filter> {
        match &self.input {
            Some(input) => input.preview.as_ref(),
            None => self.filter.as_ref(),
        }
    }

    /// Does what `action` asks; `rows` is what was drawn last. The row may go beyond the last one until
    /// [`State::settle`].
    pub fn apply(&mut self, action: Action, rows: &Rows) {
        match action {
            Action::Quit | Action::Back if self.help.is_some() => self.help = None,
            Action::Quit => self.quit = true,
            Action::Help => {
                self.help = match self.help {
                    None => Some(Help::Keys),
                    Some(Help::Keys) => Some(Help::Columns),
                    Some(Help::Columns) => None,
                };
            }
            Action::Open if rows.closed => {}
            Action::Open => self.open(),
            Action::Back => self.back(),
            Action::Filter => {
                let preview = self.filter.clone();
                let text = preview.as_ref().map_or("", Filter::text).to_owned();
                self.input = Some(Input { text, preview, error: None });
            }
            Action::Reset => self.reset = true,
            Action::Halts => self.halts = !self.halts,
            Action::Faster => {
                let faster = STEPS.iter().rev().find(|step| **step < self.every);
                self.every = faster.copied().unwrap_or(self.every);
            }
            Action::Slower => {
                let slower = STEPS.iter().find(|step| **step > self.every);
                self.every = slower.copied().unwrap_or(self.every);
            }
            Action::Pause => self.paused = !self.paused,
            Action::NextView => self.turn(1),
            Action::PreviousView => self.turn(View::ALL.len() - 1),
            Action::View(index) => self.view = View::ALL[index.min(View::ALL.len() - 1)],
            Action::SortNext => self.sort(&rows.columns, 1),
            Action::SortPrevious => self.sort(&rows.columns, -1),
            Action::Reverse => {
                let order = &mut self.orders[self.view as usize];
                order.descending = !order.descending;
            }
            Action::Down => self.go(|row| row.saturating_add(1)),
            Action::Up => self.go(|row| row.saturating_sub(1)),
            Action::PageDown => self.go(|row| row.saturating_add(rows.page)),
            Action::PageUp => self.go(|row| row.saturating_sub(rows.page)),
            Action::Top => self.go(|_| 0),
            Action::Bottom => self.go(|_| usize::MAX),
        }
    }

    /// Does what `edit` asks of the filter being typed.
    pub fn edit(&mut self, edit: Edit) {
        let Some(input) = &mut self.input else { return };
        match edit {
            Edit::Insert(character) if input.text.chars().count() < TYPED => {
                input.text.push(character);
            }
            Edit::Insert(_) => {}
            Edit::Delete => {
                input.text.pop();
            }
            Edit::Clear => input.text.clear(),
            Edit::Cancel => {
                self.input = None;
                return;
            }
            Edit::Accept => {
                if input.error.is_none() {
                    self.filter = input.preview.take();
                    self.input = None;
                }
                return;
            }
        }
        if input.text.trim().is_empty() {
            (input.preview, input.error) = (None, None);
        } else {
            match Filter::parse(&input.text) {
                Ok(filter) => (input.preview, input.error) = (Some(filter), None),
                Err(error) => input.error = Some(error),
            }
        }
    }

    /// Takes over which row was drawn as the chosen one.
    pub fn settle(&mut self, rows: &Rows) {
        let order = &mut self.orders[self.view as usize];
        (order.row, order.id) = (rows.row, rows.id);
    }

    fn open(&mut self) {
        let Some(id) = self.order().id else { return };
        let number = |part: u64| u32::try_from(part).unwrap_or(u32::MAX);
        match (self.view, self.scope) {
            (View::Vms, _) => self.enter(Scope::Vm(number(id[0])), View::Vcpus),
            (View::Vcpus, _) => self.enter(Scope::Vcpu(number(id[0]), number(id[1])), View::Exits),
            (View::Exits, _) => {
                self.view = View::Latency;
                self.orders[View::Latency as usize].id = Some(id);
            }
            (View::Latency, Scope::All) => self.scope = Scope::Vm(number(id[0])),
            (View::Hotspots, Scope::All) => self.scope = Scope::Vm(number(id[0] >> 32)),
            (View::Latency | View::Hotspots, _) => {}
        }
    }

    fn enter(&mut self, scope: Scope, view: View) {
        (self.scope, self.view) = (scope, view);
        let order = &mut self.orders[view as usize];
        (order.row, order.id) = (0, None);
    }

    fn back(&mut self) {
        match self.scope {
            Scope::Vcpu(vm, vcpu) => {
                (self.scope, self.view) = (Scope::Vm(vm), View::Vcpus);
                let order = &mut self.orders[View::Vcpus as usize];
                let same = |id: &RowId| (id[0], id[1]) == (u64::from(vm), u64::from(vcpu));
                order.id = order.id.filter(same);
            }
            Scope::Vm(_) => (self.scope, self.view) = (Scope::All, View::Vms),
            Scope::All => self.filter = None,
        }
    }

    fn go(&mut self, to: impl Fn(usize) -> usize) {
        let order = &mut self.orders[self.view as usize];
        (order.row, order.id) = (to(order.row), None);
    }

    /// Sorts by the column `by` further on in those shown; figures are not sorted by.
    fn sort(&mut self, columns: &[&'static str], by: isize) {
        let order = &mut self.orders[self.view as usize];
        let columns: Vec<&'static str> =
            columns.iter().copied().filter(|column| !FIGURES.contains(column)).collect();
        let now = columns.iter().position(|column| *column == order.column);
        let next =
            now.map_or(0, |now| (now + columns.len()).saturating_add_signed(by) % columns.len());
        if let Some(column) = columns.get(next) {
            order.column = column;
        }
    }

    fn turn(&mut self, by: usize) {
        self.view = View::ALL[(self.view as usize + by) % View::ALL.len()];
    }
}

#[cfg(test)]
mod tests;
