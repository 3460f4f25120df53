//! Snapshots as text and JSON: what `stat` and `top --batch` print. Pure: a snapshot in, text out.

mod boot;
pub mod check;
mod conversions;
mod findings;
pub mod guest;
mod json;
mod poison;
mod seam;
mod slow;
mod table;
mod text;

pub use boot::{legend, summary};
pub use conversions::{acceptance, since};
pub use json::to_json;
pub use table::{Cells, table};
pub use text::header;

use std::fmt::Write as _;

use crate::model::{filter::Filter, snapshot::Snapshot};

/// What of a snapshot is printed.
#[derive(Clone, Copy, Debug)]
pub struct Show<'a> {
    /// Places at most.
    pub hotspots: usize,
    /// Which rows; totals are of everything all the same.
    pub filter: Option<&'a Filter>,
    /// The timelines of VMs as text; JSON has them always.
    pub boot: bool,
}

/// The snapshot for people.
#[must_use]
pub fn to_text(snapshot: &Snapshot, show: Show<'_>) -> String {
    printable(&text::to_text(snapshot, show))
}

/// `text` without what could steer a terminal: a recording's names may be anybody's.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '?' } else { c }).collect()
}

/// Instruction bytes as digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
