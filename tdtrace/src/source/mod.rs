//! Where samples come from.
//!
//! A source delivers the counters at the moment it is asked; whatever comes after it does not know
//! which source it was. [`live`] is the running kernel, [`replay`] a recording. Demo will stand beside
//! them.

pub mod live;
pub mod replay;

use std::time::Duration;

use anyhow::Result;

use crate::model::sample::Sample;

/// Something that delivers samples.
pub trait Source {
    /// The counters now.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn sample(&mut self) -> Result<Sample>;

    /// When the next sample is to be asked for.
    fn due(&self) -> Due {
        Due::Any
    }
}

/// When the next sample of a source is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Whenever the one who asks likes: it is of that moment.
    Any,
    /// So long after the last one, to show things as they happened. It is there already.
    In(Duration),
    /// Never: there are no more.
    Never,
}
