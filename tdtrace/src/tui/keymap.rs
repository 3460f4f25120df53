//! The keys as data: what the help shows is what the loop obeys.

use crossterm::event::{
    KeyCode::{self, Char},
    KeyEvent, KeyModifiers,
};

/// Where one looks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The host with its VMs.
    Host,
    /// A guest from within.
    Guest,
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// The next page of the help, after the last one none.
    Help,
    /// Into the row: a VM's vCPUs, a vCPU's exits, an exit's durations; a guest's site.
    Open,
    /// Out again, and at the top: without the filter.
    Back,
    /// What the beginning of the chosen VM was spent on.
    Boot,
    /// Type a filter.
    Filter,
    /// Count from now on.
    Reset,
    /// Let go of the kernel, or count anew.
    Detach,
    /// Halts in or out of totals.
    Halts,
    /// Refresh more often.
    Faster,
    /// Refresh less often.
    Slower,
    /// Stop or go on taking snapshots; counting goes on in the kernel.
    Pause,
    /// The next view.
    NextView,
    /// The view before.
    PreviousView,
    /// The view of this number, from 0.
    View(usize),
    /// Sort by the next column.
    SortNext,
    /// Sort by the column before.
    SortPrevious,
    /// Turn the order round.
    Reverse,
    /// The row below.
    Down,
    /// The row above.
    Up,
    /// A screen down.
    PageDown,
    /// A screen up.
    PageUp,
    /// The first row.
    Top,
    /// The last row.
    Bottom,
}

/// A key and what it does.
#[derive(Debug)]
pub struct Binding {
    /// As the help shows it.
    pub keys: &'static str,
    /// Keys without modifiers.
    codes: &'static [KeyCode],
    /// What it asks for.
    pub action: Action,
    /// One line for the help.
    pub help: &'static str,
    /// A word for the footer, if it is shown there.
    pub footer: Option<&'static str>,
    /// The side that has it; both if none.
    side: Option<Side>,
}

const fn bind(
    keys: &'static str,
    codes: &'static [KeyCode],
    action: Action,
    help: &'static str,
) -> Binding {
    Binding { keys, codes, action, help, footer: None, side: None }
}

impl Binding {
    const fn footer(mut self, word: &'static str) -> Self {
        self.footer = Some(word);
        self
    }

    const fn only(mut self, side: Side) -> Self {
        self.side = Some(side);
        self
    }
}

/// All keys, in the order of the help.
pub const KEYMAP: &[Binding] = &[
    bind("q", &[Char('q')], Action::Quit, "quit").footer("quit"),
    bind("? h", &[Char('?'), Char('h')], Action::Help, "this help, then its next page")
        .footer("help"),
    bind("Enter", &[KeyCode::Enter], Action::Open, "open the row").footer("open"),
    bind(
        "Esc ⌫",
        &[KeyCode::Esc, KeyCode::Backspace],
        Action::Back,
        "back; at the top: without the filter",
    )
    .footer("back"),
    bind("b", &[Char('b')], Action::Boot, "boot: what the VM's beginning was spent on")
        .only(Side::Host),
    bind("/", &[Char('/')], Action::Filter, "filter rows").footer("filter"),
    bind("> s", &[Char('>'), Char('s')], Action::SortNext, "sort by the next column")
        .footer("sort"),
    bind("<", &[Char('<')], Action::SortPrevious, "sort by the column before"),
    bind("r", &[Char('r')], Action::Reverse, "turn the order round"),
    bind("z", &[Char('z')], Action::Reset, "reset: count from now on").footer("reset"),
    bind("D", &[Char('D')], Action::Detach, "detach, so that kvm can be unloaded; again: attach")
        .only(Side::Host),
    bind("H", &[Char('H')], Action::Halts, "halts in or out of totals")
        .footer("halts")
        .only(Side::Host),
    bind("space p", &[Char(' '), Char('p')], Action::Pause, "pause the screen; counting goes on")
        .footer("pause"),
    bind("+ =", &[Char('+'), Char('=')], Action::Faster, "refresh more often"),
    bind("- _", &[Char('-'), Char('_')], Action::Slower, "refresh less often"),
    bind("Tab →", &[KeyCode::Tab, KeyCode::Right], Action::NextView, "next view").footer("view"),
    bind("⇧Tab ←", &[KeyCode::BackTab, KeyCode::Left], Action::PreviousView, "view before"),
    bind("1 … 9", &[Char('1')], Action::View(0), "the view with this number"),
    bind("", &[Char('2')], Action::View(1), ""),
    bind("", &[Char('3')], Action::View(2), ""),
    bind("", &[Char('4')], Action::View(3), ""),
    bind("", &[Char('5')], Action::View(4), ""),
    bind("", &[Char('6')], Action::View(5), ""),
    bind("", &[Char('7')], Action::View(6), ""),
    bind("", &[Char('8')], Action::View(7), ""),
    bind("", &[Char('9')], Action::View(8), ""),
    bind("↓ j ↑ k", &[KeyCode::Down, Char('j')], Action::Down, "row below or above"),
    bind("", &[KeyCode::Up, Char('k')], Action::Up, ""),
    bind("PgDn PgUp", &[KeyCode::PageDown], Action::PageDown, "a screen down or up"),
    bind("", &[KeyCode::PageUp], Action::PageUp, ""),
    bind("Home g", &[KeyCode::Home, Char('g')], Action::Top, "first row"),
    bind("End G", &[KeyCode::End, Char('G')], Action::Bottom, "last row"),
];

/// What a key does to the line in which a filter is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    /// One more character.
    Insert(char),
    /// The last character goes.
    Delete,
    /// Everything goes.
    Clear,
    /// Take it.
    Accept,
    /// Leave it as it was.
    Cancel,
}

/// What `key` does while a filter is typed, if anything.
#[must_use]
pub fn edit(key: KeyEvent) -> Option<Edit> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            Char('c') => Some(Edit::Cancel),
            Char('u') => Some(Edit::Clear),
            _ => None,
        };
    }
    match key.code {
        Char(character) => Some(Edit::Insert(character)),
        KeyCode::Backspace => Some(Edit::Delete),
        KeyCode::Enter => Some(Edit::Accept),
        KeyCode::Esc => Some(Edit::Cancel),
        _ => None,
    }
}

/// The keys that `side` has.
pub fn bindings(side: Side) -> impl Iterator<Item = &'static Binding> {
    KEYMAP.iter().filter(move |binding| binding.side.is_none_or(|only| only == side))
}

/// What `key` asks for on `side`, if anything.
#[must_use]
pub fn action(key: KeyEvent, side: Side) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == Char('c')).then_some(Action::Quit);
    }
    bindings(side).find(|binding| binding.codes.contains(&key.code)).map(|binding| binding.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_does_two_things() {
        let codes: Vec<&KeyCode> = KEYMAP.iter().flat_map(|binding| binding.codes).collect();
        for (index, code) in codes.iter().enumerate() {
            assert!(!codes[..index].contains(code), "{code}");
        }
    }

    #[test]
    fn every_key_of_the_help_says_what_it_does() {
        for binding in KEYMAP {
            assert_eq!(binding.keys.is_empty(), binding.help.is_empty());
        }
    }

    #[test]
    fn a_guest_has_no_halts_in_totals_and_all_other_letters() {
        let of = |c, side| action(KeyEvent::from(Char(c)), side);
        assert_eq!(of('H', Side::Host), Some(Action::Halts));
        assert_eq!(of('H', Side::Guest), None);
        assert_eq!(of('r', Side::Guest), Some(Action::Reverse));
    }

    #[test]
    fn control_c_quits_and_other_control_keys_do_nothing() {
        let control = |c| KeyEvent::new(Char(c), KeyModifiers::CONTROL);
        assert_eq!(action(control('c'), Side::Host), Some(Action::Quit));
        assert_eq!(action(control('q'), Side::Host), None);
        assert_eq!(edit(control('c')), Some(Edit::Cancel));
        assert_eq!(edit(control('q')), None);
    }
}
