//! The terminal interface: an event loop around views that take a snapshot and return cells.
//!
//! [`keymap`] is the keys as data, [`state`] what a key changes, [`side`] what is shown, [`theme`] how things
//! look, [`view`] and its files draw. Only [`terminal`] touches the real terminal. Views do no I/O and read
//! no clock.

pub mod keymap;
pub mod side;
pub mod state;
pub mod terminal;
pub mod theme;
pub mod view;
