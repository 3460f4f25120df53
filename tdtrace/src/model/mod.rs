//! What the sources say, made into what the views show. Pure: no aya, no ratatui, no clap, no clock,
//! no I/O.
//!
//! [`sample`] is what a source delivers, [`aggregate`] turns one sample after the other into a [`snapshot`],
//! [`baseline`] sets all counts to 0, [`latency`] is about durations, [`ledger`] about conversions, [`boot`]
//! about what a VM's beginning was spent on, [`seam`] about SEAMCALLs, [`poison`] about broken memory.
//! [`field`] is the registry of columns that tables, JSON, filters and the terminal share, [`exits`] makes
//! rows of exit reasons, [`filter`] chooses rows, [`figure`] draws small figures as text, [`limit`] says how
//! findings state the numbers that they rest on.

pub mod aggregate;
pub mod baseline;
pub mod boot;
pub mod counts;
pub mod exits;
pub mod field;
pub mod figure;
pub mod filter;
pub mod finding;
pub mod findings;
pub mod guest;
pub mod latency;
pub mod ledger;
pub mod limit;
pub mod places;
pub mod poison;
pub mod sample;
pub mod seam;
pub mod served;
pub mod slow;
pub mod snapshot;
#[cfg(test)]
pub(crate) mod testing;
