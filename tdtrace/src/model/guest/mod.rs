//! A TD guest: what its #VEs, conversions, acceptance, quotes and bounces add up to. Pure.
//!
//! [`sample`] is what a source delivers, [`aggregate`] makes a [`snapshot`] of it with [`judged`] sites
//! and with [`findings`] by the rules of [`finding`]. [`event`] is a record of a single #VE, [`order`]
//! puts events into the order in which they began. Of [`crate::sites`] this takes the data types alone.

pub mod aggregate;
pub mod event;
pub mod finding;
pub mod findings;
pub mod judged;
pub mod order;
pub mod sample;
pub mod shared_bit;
pub mod snapshot;
