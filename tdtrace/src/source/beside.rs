//! Two sources on one screen.

use anyhow::Result;

use super::Source;
use crate::model::sample::{Sample, VmKey};

/// The samples of one source with the VMs of another beside its own. Machine, probes and time are the
/// first one's.
pub struct Beside<A, B>(pub A, pub B);

impl<A: Source, B: Source> Source for Beside<A, B> {
    fn sample(&mut self) -> Result<Sample> {
        let mut sample = self.0.sample()?;
        let other = self.1.sample()?;
        sample.vms.extend(other.vms);
        sample.vcpus.extend(other.vcpus);
        sample.losses.add(&other.losses);
        sample.slow.extend(other.slow);
        Ok(sample)
    }

    fn attach(&mut self, attach: bool) -> Result<bool> {
        self.0.attach(attach)
    }

    fn detail(&mut self, vm: Option<VmKey>) {
        self.0.detail(vm);
        self.1.detail(vm);
    }
}
