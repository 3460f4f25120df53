//! Where samples come from.
//!
//! A source delivers the counters at the moment it is asked; whatever comes after it does not know
//! which source it was. [`live`] is the running kernel, [`guest`] the same seen from within a TD. Replay and demo will stand beside it.

pub mod guest;
pub mod live;

use anyhow::Result;

use crate::model::sample::Sample;

/// Something that delivers samples.
pub trait Source {
    /// The counters now.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn sample(&mut self) -> Result<Sample>;
}
