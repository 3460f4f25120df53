//! The terminal interface: an event loop around views that take a snapshot and return cells.
