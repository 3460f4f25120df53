//! What the sources say, made into what the views show. Pure: no aya, no ratatui, no clap, no clock,
//! no I/O.
//!
//! [`sample`] is what a source delivers, [`aggregate`] turns one sample after the other into a
//! [`snapshot`], [`latency`] is about durations, and [`field`] is the registry of columns that tables, JSON and the terminal share.

pub mod aggregate;
pub mod counts;
pub mod field;
pub mod guest;
pub mod latency;
pub mod places;
pub mod sample;
pub mod snapshot;
