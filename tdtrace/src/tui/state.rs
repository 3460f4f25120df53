//! What the user has chosen: view, VM, order, row, filter. Pure: an action in, a new state out.
//!
//! [`Choices`] are the same for host and guest; a [`Views`] says which views a side has, and where one
//! gets from them. [`State`] is the host's, [`GuestState`] a
//! guest's.

mod guest;

use std::{fmt::Debug, time::Duration};

pub use guest::{GuestState, GuestView, Opened};

use super::{
    keymap::{Action, Edit, Side},
    theme::Theme,
};
use crate::model::{
    exits::Scope,
    field::{self, FIGURES, RowId},
    filter::{Filter, FilterError},
};

/// The views of a side.
pub trait Views: Copy + PartialEq + Debug + 'static {
    /// What a view can be restricted to.
    type Scope: Copy + Default + Debug;

    /// Whose views they are.
    const SIDE: Side;
    /// Those with a tab, in the order of the tabs.
    const TABS: &'static [Self];
    /// Those without, behind the others in the enum.
    const INNER: &'static [Self] = &[];
    /// The pages of the help, in the order in which they are shown.
    const HELP: &'static [Help] = &[Help::Keys, Help::Columns];
    /// Filters, for the one who types one.
    const EXAMPLES: &'static str;

    /// Which of the views it is, tabs first.
    fn index(self) -> usize;

    /// The one whose tab is marked.
    #[must_use]
    fn tab(self) -> Self {
        self
    }

    /// Whether the largest is on top at first.
    fn descending(self) -> bool {
        true
    }

    /// Its name on the tab.
    fn title(self) -> &'static str;

    /// The same where there is no room for all names in full.
    fn short_title(self) -> &'static str {
        self.title()
    }

    /// Key of the column that it is sorted by at first, the largest on top.
    fn sorted_by(self) -> &'static str;

    /// Keys and help of the columns that a filter may name.
    fn columns() -> Vec<(&'static str, &'static str)>;

    /// Goes into the chosen row.
    fn open(state: &mut Choices<Self>, rows: &Rows);

    /// Goes out again; at the top: without the filter.
    fn back(state: &mut Choices<Self>);

    /// Shows what the beginning of the chosen VM was spent on, if it is a VM that is chosen.
    fn boot(_state: &mut Choices<Self>) {}
}

/// The views, in the order of their tabs; the last has none.
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
    /// What was converted and mapped.
    Conversions,
    /// SEAMCALLs of the host.
    Seamcalls,
    /// What somebody should look at.
    Findings,
    /// Single durations that were longer than asked for.
    Slow,
    /// What a VM's beginning was spent on.
    Boot,
}

/// The number of a VM or vCPU, a part of a row's id.
fn number(part: u64) -> u32 {
    u32::try_from(part).unwrap_or(u32::MAX)
}

impl View {
    /// Every view with a tab.
    pub const ALL: [Self; 9] = [
        Self::Vms,
        Self::Exits,
        Self::Latency,
        Self::Hotspots,
        Self::Vcpus,
        Self::Conversions,
        Self::Seamcalls,
        Self::Findings,
        Self::Slow,
    ];
}

impl Views for View {
    type Scope = Scope;

    const SIDE: Side = Side::Host;
    const TABS: &'static [Self] = &Self::ALL;
    const INNER: &'static [Self] = &[Self::Boot];
    const EXAMPLES: &'static str = "name=web*  exits_per_s>1k  !state=ended";

    fn index(self) -> usize {
        self as usize
    }

    fn tab(self) -> Self {
        if self == Self::Boot { Self::Vms } else { self }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Boot => "Boot",
            Self::Vms => "VMs",
            Self::Exits => "Exits",
            Self::Latency => "Latency",
            Self::Hotspots => "Hotspots",
            Self::Vcpus => "vCPUs",
            Self::Conversions => "Conversions",
            Self::Slow => "Slow",
            Self::Seamcalls => "SEAMCALLs",
            Self::Findings => "Findings",
        }
    }

    fn short_title(self) -> &'static str {
        match self {
            Self::Latency => "Lat",
            Self::Hotspots => "Hot",
            Self::Conversions => "Conv",
            Self::Seamcalls => "SEAM",
            Self::Findings => "Find",
            Self::Vms | Self::Exits | Self::Vcpus | Self::Slow | Self::Boot => self.title(),
        }
    }

    fn sorted_by(self) -> &'static str {
        match self {
            Self::Vms | Self::Vcpus => "exits_per_s",
            Self::Exits | Self::Latency | Self::Seamcalls => "time_ns",
            Self::Hotspots | Self::Findings => "per_s",
            Self::Conversions => "conv_per_s",
            Self::Slow => "at_ns",
            Self::Boot => "from_ns",
        }
    }

    fn descending(self) -> bool {
        self != Self::Boot
    }

    fn columns() -> Vec<(&'static str, &'static str)> {
        field::keys()
    }

    fn open(state: &mut State, _: &Rows) {
        let Some(id) = state.order().id else { return };
        match (state.view, state.scope) {
            (Self::Vms | Self::Conversions, _) => {
                state.enter(Scope::Vm(number(id[0])), Self::Vcpus);
            }
            (Self::Vcpus, _) => {
                state.enter(Scope::Vcpu(number(id[0]), number(id[1])), Self::Exits);
            }
            (Self::Exits, _) => {
                state.view = Self::Latency;
                state.orders[Self::Latency.index()].id = Some(id);
            }
            (Self::Latency | Self::Findings, Scope::All) => {
                state.scope = Scope::Vm(number(id[0]));
            }
            (Self::Hotspots, Scope::All) => state.scope = Scope::Vm(number(id[0] >> 32)),
            (
                Self::Latency
                | Self::Hotspots
                | Self::Slow
                | Self::Seamcalls
                | Self::Findings
                | Self::Boot,
                _,
            ) => {}
        }
    }

    fn back(state: &mut State) {
        match state.scope {
            Scope::Vcpu(vm, vcpu) => {
                (state.scope, state.view) = (Scope::Vm(vm), Self::Vcpus);
                let order = &mut state.orders[Self::Vcpus.index()];
                let same = |id: &RowId| (id[0], id[1]) == (u64::from(vm), u64::from(vcpu));
                order.id = order.id.filter(same);
            }
            Scope::Vm(_) => (state.scope, state.view) = (Scope::All, Self::Vms),
            Scope::All => state.filter = None,
        }
    }

    fn boot(state: &mut State) {
        let chosen = state.order().id.and_then(|id| match state.view {
            // They are of the host.
            Self::Seamcalls => None,
            Self::Hotspots => Some(number(id[0] >> 32)),
            _ => Some(number(id[0])),
        });
        if let Some(vm) = state.scope.vm().or(chosen) {
            state.enter(Scope::Vm(vm), Self::Boot);
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
    /// What does not show, and why.
    Unseen,
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
    /// The site of a guest that it leads to.
    pub leads_to: Option<RowId>,
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

/// What the user of the host's side has chosen.
pub type State = Choices<View>;

/// Everything that the user has chosen.
#[derive(Clone, Debug)]
pub struct Choices<V: Views> {
    /// The view shown.
    pub view: V,
    /// What every view is of.
    pub scope: V::Scope,
    /// Order and row of each view.
    pub orders: Vec<Order>,
    /// Snapshots are not taken.
    pub paused: bool,
    /// The source has let go of the kernel.
    pub detached: bool,
    /// The source has no more samples.
    pub over: bool,
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

impl<V: Views> Default for Choices<V> {
    fn default() -> Self {
        let order = |view: &V| Order {
            column: view.sorted_by(),
            descending: view.descending(),
            row: 0,
            id: None,
        };
        Self {
            view: V::TABS[0],
            scope: V::Scope::default(),
            orders: V::TABS.iter().chain(V::INNER).map(order).collect(),
            paused: false,
            detached: false,
            over: false,
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

impl<V: Views> Choices<V> {
    /// Order and row of the view shown.
    #[must_use]
    pub fn order(&self) -> Order {
        self.orders[self.view.index()]
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
                let next = self.help.map_or(0, |page| {
                    V::HELP.iter().position(|other| *other == page).unwrap_or(0) + 1
                });
                self.help = V::HELP.get(next).copied();
            }
            Action::Open if rows.closed => {}
            Action::Open => V::open(self, rows),
            Action::Back => V::back(self),
            Action::Boot => V::boot(self),
            Action::Filter => {
                let preview = self.filter.clone();
                let text = preview.as_ref().map_or("", Filter::text).to_owned();
                self.input = Some(Input { text, preview, error: None });
            }
            Action::Reset => self.reset = true,
            Action::Detach => self.detached = !self.detached,
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
            Action::PreviousView => self.turn(V::TABS.len() - 1),
            Action::View(index) => self.view = V::TABS.get(index).copied().unwrap_or(self.view),
            Action::SortNext => self.sort(&rows.columns, 1),
            Action::SortPrevious => self.sort(&rows.columns, -1),
            Action::Reverse => {
                let order = &mut self.orders[self.view.index()];
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
            match Filter::parse_with(&input.text, &V::columns()) {
                Ok(filter) => (input.preview, input.error) = (Some(filter), None),
                Err(error) => input.error = Some(error),
            }
        }
    }

    /// Takes over which row was drawn as the chosen one.
    pub fn settle(&mut self, rows: &Rows) {
        let order = &mut self.orders[self.view.index()];
        (order.row, order.id) = (rows.row, rows.id);
    }

    /// Shows `view` of `scope` from its first row.
    fn enter(&mut self, scope: V::Scope, view: V) {
        (self.scope, self.view) = (scope, view);
        let order = &mut self.orders[view.index()];
        (order.row, order.id) = (0, None);
    }

    fn go(&mut self, to: impl Fn(usize) -> usize) {
        let order = &mut self.orders[self.view.index()];
        (order.row, order.id) = (to(order.row), None);
    }

    /// Sorts by the column `by` further on in those shown; figures are not sorted by.
    fn sort(&mut self, columns: &[&'static str], by: isize) {
        let order = &mut self.orders[self.view.index()];
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
        self.view = V::TABS[(self.view.tab().index() + by) % V::TABS.len()];
    }
}

#[cfg(test)]
mod tests;
