//! What goes wrong: missing events, no room, addresses that are used again.
