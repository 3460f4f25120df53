//! Snapshots as text and JSON: what `stat` and `top --batch` print. Pure: a snapshot in, text out.

mod conversions;
pub mod guest;
mod json;
mod table;
mod text;

pub use conversions::{acceptance, since};
pub use json::to_json;
pub use table::{Cells, table};
pub use text::{header, to_text};

use crate::model::filter::Filter;

/// What of a snapshot is printed.
#[derive(Clone, Copy, Debug)]
pub struct Show<'a> {
    /// Places at most.
    pub hotspots: usize,
    /// Which rows; totals are of everything all the same.
    pub filter: Option<&'a Filter>,
}

#[cfg(test)]
mod tests;
