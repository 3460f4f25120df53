//! Where samples come from.
//!
//! A source delivers the counters at the moment it is asked; whatever comes after it does not know
//! which source it was. [`live`] is the running kernel, [`guest`] the same seen from within a TD,
//! [`replay`] a recording, [`synthetic`] are TDs that nobody runs and [`demo`] gives them a life.
//! [`counting`] loads the host's programs and reads their maps, whoever runs them; [`owner`] is who runs
//! a VM, [`function`] attaches to functions, [`missed`] says what these missed.

pub mod beside;
pub mod counting;
pub mod demo;
mod function;
pub mod guest;
pub mod live;
mod missed;
pub(crate) mod owner;
pub mod replay;
pub mod synthetic;

use std::time::Duration;

use anyhow::Result;

use crate::model::{
    guest::sample::GuestSample,
    sample::{Sample, VmKey},
};

/// Something that delivers samples.
pub trait Source {
    /// The counters now.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn sample(&mut self) -> Result<Sample>;

    /// Durations of single vCPUs are wanted of this VM, and of no other; `None`: of none.
    fn detail(&mut self, _vm: Option<VmKey>) {}

    /// Lets go of the kernel, so that its modules can be unloaded, or counts anew after that. Whether it
    /// counts now: a source that holds nothing always does.
    ///
    /// # Errors
    /// When it cannot attach again.
    fn attach(&mut self, _attach: bool) -> Result<bool> {
        Ok(true)
    }

    /// When the next sample is to be asked for.
    fn due(&self) -> Due {
        Due::Any
    }
}

/// Something that delivers samples of a guest, from within it.
pub trait GuestSource {
    /// The counters now.
    ///
    /// # Errors
    /// When the counters cannot be read.
    fn sample(&mut self) -> Result<GuestSample>;

    /// What has to be done between two samples, every 100 ms at least.
    ///
    /// # Errors
    /// When the programs can no longer be told what they need.
    fn tick(&mut self) -> Result<()> {
        Ok(())
    }

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

/// The clock of the programs, `CLOCK_MONOTONIC`.
fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec. The clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}
