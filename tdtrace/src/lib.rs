//! tdtrace: eBPF and tracing toolkit for Intel TDX.
//!
//! One direction: [`source`] → [`model`] → views (`tui`, `report`). The model knows no aya, no
//! ratatui and no clap; a view gets a snapshot and does no I/O.

pub mod check;
pub mod cli;
pub mod decode;
pub mod doctor;
pub mod kernel;
pub mod model;
pub mod probe;
pub mod recording;
pub mod report;
pub mod sites;
pub mod source;
pub mod tui;
pub mod verdict;
pub mod workload;

pub use cli::run;
