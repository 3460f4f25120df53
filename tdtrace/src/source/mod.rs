//! Where samples come from.
//!
//! A source delivers the counters at the moment it is asked; whatever comes after it does not know
//! which source it was. [`live`] is the running kernel. [`counting`] loads the programs and reads their
//! maps, whoever runs them; [`owner`] is who runs a VM.

pub mod counting;
pub mod live;
pub(crate) mod owner;
pub mod synthetic;

use anyhow::Result;

use crate::model::sample::{Sample, VmKey};

/// Something that delivers samples.
pub trait Source {
    /// The counters now.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn sample(&mut self) -> Result<Sample>;

    /// Durations of single vCPUs are wanted of this VM, and of no other; `None`: of none.
    fn detail(&mut self, _vm: Option<VmKey>) {}
}
