//! Snapshots as text and JSON: what `stat` and `top --batch` print. Pure: a snapshot in, text out.

pub mod guest;
mod json;
mod table;
mod text;

pub use json::to_json;
pub use table::{Cells, table};
pub use text::{header, to_text};
