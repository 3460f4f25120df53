//! What is shown: a source, what makes snapshots of its samples, and how they are drawn. The loop in
//! [`super::terminal`] knows no more than this, so that host and guest share it.

use std::time::Duration;

use anyhow::Result;
use ratatui::Frame;

use super::{
    state::{Choices, GuestState, GuestView, Rows, State, View, Views},
    view,
};
use crate::{
    model::{
        aggregate::Aggregate,
        guest::{aggregate::GuestAggregate, sample::GuestSample, snapshot::GuestSnapshot},
        sample::VmKey,
        snapshot::Snapshot,
    },
    source::{Due, GuestSource, Source, guest::TICK},
};

/// One side: the host with its VMs, or a guest from within.
pub trait Side {
    /// Its views.
    type Views: Views;
    /// What they show.
    type Snapshot;

    /// What has to be done so often between two samples, if anything.
    const BETWEEN: Option<Duration> = None;

    /// The snapshot of the next sample.
    ///
    /// # Errors
    /// When the source fails.
    fn next(&mut self) -> Result<Self::Snapshot>;

    /// When the next sample is to be asked for.
    fn due(&self) -> Due;

    /// Does what [`Side::BETWEEN`] is for.
    ///
    /// # Errors
    /// When the source fails.
    fn between(&mut self) -> Result<()> {
        Ok(())
    }

    /// Counts from now on. The snapshot of that moment; `None` before the first sample.
    ///
    /// # Errors
    /// When the source fails.
    fn reset(&mut self) -> Result<Option<Self::Snapshot>>;

    /// Lets go of the kernel, or counts anew after that; whether it counts now.
    ///
    /// # Errors
    /// When it cannot attach again.
    fn attach(&mut self, _attach: bool) -> Result<bool> {
        Ok(true)
    }

    /// A key has changed what is looked into.
    fn look_into(&mut self, _snapshot: Option<&Self::Snapshot>, _state: &Choices<Self::Views>) {}

    /// Draws the screen and returns what it drew of its table.
    fn draw(
        frame: &mut Frame<'_>,
        snapshot: Option<&Self::Snapshot>,
        state: &Choices<Self::Views>,
    ) -> Rows;
}

/// The host's side.
pub struct Host<'s> {
    source: &'s mut dyn Source,
    aggregate: Aggregate,
    /// The VM whose vCPUs' durations were asked for.
    detail: Option<VmKey>,
}

impl<'s> Host<'s> {
    /// What `source` counts from now on.
    pub fn new(source: &'s mut dyn Source) -> Self {
        Self { source, aggregate: Aggregate::new(), detail: None }
    }
}

impl Side for Host<'_> {
    type Views = View;
    type Snapshot = Snapshot;

    fn next(&mut self) -> Result<Snapshot> {
        Ok(self.aggregate.apply(self.source.sample()?))
    }

    fn due(&self) -> Due {
        self.source.due()
    }

    fn reset(&mut self) -> Result<Option<Snapshot>> {
        // A recording has no sample of this moment.
        if self.source.due() == Due::Any {
            self.aggregate.apply(self.source.sample()?);
        }
        Ok(self.aggregate.reset())
    }

    fn attach(&mut self, attach: bool) -> Result<bool> {
        let counts = self.source.attach(attach)?;
        if counts {
            self.aggregate = self.aggregate.anew();
        }
        Ok(counts)
    }

    fn look_into(&mut self, snapshot: Option<&Snapshot>, state: &State) {
        let vm = state.scope.vm().and_then(|id| {
            let vm = snapshot?.vms.iter().find(|vm| vm.id == id)?;
            (!vm.ended).then_some(vm.key)
        });
        if vm != self.detail {
            self.detail = vm;
            self.source.detail(vm);
        }
    }

    fn draw(frame: &mut Frame<'_>, snapshot: Option<&Snapshot>, state: &State) -> Rows {
        view::draw(frame, snapshot, state)
    }
}

/// A guest's side.
pub struct Guest<'s> {
    source: &'s mut dyn GuestSource,
    aggregate: GuestAggregate,
    /// The last sample.
    last: Option<GuestSample>,
}

impl<'s> Guest<'s> {
    /// What `source` counts from now on.
    pub fn new(source: &'s mut dyn GuestSource) -> Self {
        Self { source, aggregate: GuestAggregate::new(), last: None }
    }
}

impl Side for Guest<'_> {
    type Views = GuestView;
    type Snapshot = GuestSnapshot;

    const BETWEEN: Option<Duration> = Some(TICK);

    fn next(&mut self) -> Result<GuestSnapshot> {
        let sample = self.source.sample()?;
        let snapshot = self.aggregate.apply(&sample);
        self.last = Some(sample);
        Ok(snapshot)
    }

    fn due(&self) -> Due {
        self.source.due()
    }

    fn between(&mut self) -> Result<()> {
        self.source.tick()
    }

    fn reset(&mut self) -> Result<Option<GuestSnapshot>> {
        // A recording has no sample of this moment.
        if self.source.due() == Due::Any {
            self.last = Some(self.source.sample()?);
        }
        Ok(self.last.as_ref().map(|sample| self.aggregate.reset(sample)))
    }

    fn draw(frame: &mut Frame<'_>, snapshot: Option<&GuestSnapshot>, state: &GuestState) -> Rows {
        view::guest::draw(frame, snapshot, state)
    }
}
