//! Broken memory: attaching to what tells of it, and what was told.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::{
    maps::{Array, HashMap},
    programs::RawTracePoint,
};
use tdtrace_common::poison::{PoisonKey, PoisonSource};

use super::{attach, load::Loaded};
use crate::model::poison::PoisonSample;

impl Loaded {
    /// Attaches to what tells of broken memory. None of it is needed: what cannot be attached is listed.
    pub(super) fn attach_poison(&mut self) -> Result<()> {
        for source in PoisonSource::ALL {
            if let Some(why) = self.attach_source(source)? {
                self.poison_missing.push((source, why.into()));
            }
        }
        Ok(())
    }

    fn attach_source(&mut self, source: PoisonSource) -> Result<Option<String>> {
        let name = source.tracepoint();
        let program: &mut RawTracePoint = self.program_mut(name)?;
        if let Err(error) = program.load() {
            return Ok(Some(attach::load_failure(&error)));
        }
        Ok(program.attach(name).err().map(|error| attach::absent_or(&error, name)))
    }

    /// What was told, since attaching.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(crate) fn poison(&self) -> Result<PoisonSample> {
        let map = HashMap::<_, PoisonKey, u64>::try_from(self.any("POISON")?)?;
        let pages: Result<Vec<(PoisonKey, u64)>, _> = map.iter().collect();
        let mut pages = pages.context("the map POISON")?;
        pages.sort_unstable();
        let lost = Array::<_, u64>::try_from(self.any("POISON_LOST")?)?;
        let lost = lost.get(&0, 0).context("the map POISON_LOST")?;
        let missing: Vec<(PoisonSource, Arc<str>)> = self.poison_missing.clone();
        Ok(PoisonSample { missing, pages, lost })
    }
}
