//! A TD guest: what its #VEs, conversions, acceptance, quotes and bounces add up to. Pure.
//!
//! [`sample`] is what a source delivers, [`aggregate`] makes a [`snapshot`] of it with [`judged`] sites
//! and with [`findings`] by the rules of [`finding`]. [`event`] is a record of a single #VE, [`order`]
//! puts events into the order in which they began. [`baseline`] takes off what was counted before a
//! reset; [`field`] names the columns of tables, [`rows`] are those of its tables that the snapshot does
//! not have as they are. Of [`crate::sites`] this takes the data types alone.

pub mod aggregate;
pub mod baseline;
pub mod event;
pub mod field;
pub mod finding;
pub mod findings;
pub mod judged;
pub mod order;
pub mod rows;
pub mod sample;
pub mod shared_bit;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
