//! Whether a guest's findings fail a check: what is allowed, what counts, what was lost, and the exit
//! code that comes of it. Pure.
//!
//! [`allow`] reads allowlists, [`date`] is the day that they expire on, [`fail_on`] says which findings
//! count, [`place`] is where a finding is, [`outcome`] puts it together.

pub mod allow;
pub mod date;
pub mod fail_on;
pub mod outcome;
pub mod place;
#[cfg(test)]
pub(crate) mod testing;
