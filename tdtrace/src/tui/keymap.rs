//! The keys as data: what the help shows is what the loop obeys.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave.
    Quit,
    /// Show or hide the help.
    Help,
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
}

/// All keys, in the order of the help.
pub const KEYMAP: &[Binding] = &[
    Binding {
        keys: "q Esc",
        codes: &[KeyCode::Char('q'), KeyCode::Esc],
        action: Action::Quit,
        help: "quit",
    },
    Binding {
        keys: "? h",
        codes: &[KeyCode::Char('?'), KeyCode::Char('h')],
        action: Action::Help,
        help: "this help",
    },
    Binding {
        keys: "space p",
        codes: &[KeyCode::Char(' '), KeyCode::Char('p')],
        action: Action::Pause,
        help: "pause the screen; counting goes on",
    },
    Binding {
        keys: "Tab →",
        codes: &[KeyCode::Tab, KeyCode::Right],
        action: Action::NextView,
        help: "next view",
    },
    Binding {
        keys: "⇧Tab ←",
        codes: &[KeyCode::BackTab, KeyCode::Left],
        action: Action::PreviousView,
        help: "view before",
    },
    Binding { keys: "1", codes: &[KeyCode::Char('1')], action: Action::View(0), help: "VMs" },
    Binding { keys: "2", codes: &[KeyCode::Char('2')], action: Action::View(1), help: "exits" },
    Binding { keys: "3", codes: &[KeyCode::Char('3')], action: Action::View(2), help: "hotspots" },
    Binding { keys: "4", codes: &[KeyCode::Char('4')], action: Action::View(3), help: "vCPUs" },
    Binding {
        keys: "> s",
        codes: &[KeyCode::Char('>'), KeyCode::Char('s')],
        action: Action::SortNext,
        help: "sort by the next column",
    },
    Binding {
        keys: "<",
        codes: &[KeyCode::Char('<')],
        action: Action::SortPrevious,
        help: "sort by the column before",
    },
    Binding {
        keys: "r",
        codes: &[KeyCode::Char('r')],
        action: Action::Reverse,
        help: "turn the order round",
    },
    Binding {
        keys: "↓ j",
        codes: &[KeyCode::Down, KeyCode::Char('j')],
        action: Action::Down,
        help: "row below",
    },
    Binding {
        keys: "↑ k",
        codes: &[KeyCode::Up, KeyCode::Char('k')],
        action: Action::Up,
        help: "row above",
    },
    Binding {
        keys: "PgDn PgUp",
        codes: &[KeyCode::PageDown],
        action: Action::PageDown,
        help: "a screen down or up",
    },
    Binding { keys: "", codes: &[KeyCode::PageUp], action: Action::PageUp, help: "" },
    Binding {
        keys: "Home g",
        codes: &[KeyCode::Home, KeyCode::Char('g')],
        action: Action::Top,
        help: "first row",
    },
    Binding {
        keys: "End G",
        codes: &[KeyCode::End, KeyCode::Char('G')],
        action: Action::Bottom,
        help: "last row",
    },
];

/// What `key` asks for, if anything.
#[must_use]
pub fn action(key: KeyEvent) -> Option<Action> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Action::Quit);
    }
    KEYMAP.iter().find(|binding| binding.codes.contains(&key.code)).map(|binding| binding.action)
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
    fn control_c_quits_and_other_control_keys_do_nothing() {
        let control = |c| KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL);
        assert_eq!(action(control('c')), Some(Action::Quit));
        assert_eq!(action(control('q')), None);
    }
}
