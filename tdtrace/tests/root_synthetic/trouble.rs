//! What goes wrong: missing events, no room, addresses that are used again.

mod generations;
mod random;
mod reading;
mod reuse;
mod room;
mod unpaired;
mod wrap;
