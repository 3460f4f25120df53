//! A stream to samples of a guest.

use std::{io, time::Duration};

use super::{
    super::{
        Error, STATE_MAX, Side,
        kind::{Kind, Record},
        reader::{Change, Kept, changed, row},
        row::Malformed,
        schema::{Cells, Columns},
        sequence::{Assemble, Cut, Sequence},
    },
    code::Codes,
    counted::Read as Counted,
    device::Devices,
    facts,
    numbers::{Calls, Places, Reasons},
    stack::{Names, Stacks},
    told::Read as Told,
};
use crate::model::guest::sample::{GuestLosses, GuestSample};

/// Reads samples.
pub struct GuestReader<R> {
    samples: Sequence<R>,
    state: State,
}

impl<R: io::Read> GuestReader<R> {
    /// Reads the beginning of `input`.
    ///
    /// # Errors
    /// When `input` fails, is no recording of a guest or one of a newer version.
    pub fn new(input: R) -> Result<Self, Error> {
        Ok(Self { samples: Sequence::new(input, Side::Guest)?, state: State::default() })
    }

    /// The next sample, equal to the one that was written; `None` at the end.
    ///
    /// # Errors
    /// When the input fails or is damaged. Nothing more is delivered after that.
    pub fn sample(&mut self) -> Result<Option<GuestSample>, Error> {
        self.samples.sample(&mut self.state)
    }

    /// Whether and how the recording ended before it should; known once [`GuestReader::sample`] has
    /// returned `None`.
    #[must_use]
    pub const fn cut(&self) -> Option<Cut> {
        self.samples.cut()
    }
}

/// What has been read so far. A sample that is not whole is never asked for, so rows are put where they
/// belong as they come.
#[derive(Default)]
struct State {
    facts: Option<Kept<GuestSample>>,
    losses: Option<Kept<GuestLosses>>,
    /// Of the sample being read.
    changes: [Option<Change>; 2],
    changes_weight: usize,
    /// Bytes of `facts` and `losses`.
    weight: usize,
    reasons: Counted<Reasons>,
    places: Counted<Places>,
    calls: Counted<Calls>,
    stacks: Told<Stacks>,
    names: Told<Names>,
    code: Told<Codes>,
    devices: Told<Devices>,
}

impl Assemble for State {
    type Sample = GuestSample;

    fn take(&mut self, columns: &Columns) -> Result<(), Malformed> {
        for cells in columns.rows().filter(|cells| cells.record != Record::Event.name()) {
            self.row(&cells)?;
            if self.total() > STATE_MAX {
                return Err(Malformed("a sample that is larger than any guest's"));
            }
        }
        Ok(())
    }

    fn sample(&mut self, at: Duration) -> Result<GuestSample, Malformed> {
        let [facts, losses] = std::mem::take(&mut self.changes);
        self.changes_weight = 0;
        if let Some(change) = facts {
            let old = self.facts.take();
            self.facts = Some(changed(old, change, &mut self.weight, facts::from_rows)?);
        }
        if let Some(change) = losses {
            let old = self.losses.take();
            self.losses = Some(changed(old, change, &mut self.weight, facts::losses_from_rows)?);
        }
        let facts = self.facts.as_ref().map(|kept| kept.made.clone());
        let losses = self.losses.as_ref().map(|kept| kept.made.clone());
        Ok(GuestSample {
            at,
            reasons: self.reasons.finish(),
            places: self.places.finish(),
            calls: self.calls.finish(),
            stacks: self.stacks.finish()?,
            names: self.names.finish()?,
            code: self.code.finish()?,
            devices: self.devices.finish()?,
            losses: losses.unwrap_or_default(),
            ..facts.ok_or(Malformed("no guest"))?
        })
    }
}

impl State {
    fn row(&mut self, cells: &Cells<'_>) -> Result<(), Malformed> {
        let kind = Kind::of(cells.kind)
            .ok_or(Malformed("a row of a kind that is not known, perhaps of a newer tdtrace"))?;
        let row = row(kind, cells);
        let slot = cells.slot;
        // The most frequent first.
        let is_taken = self.places.take(slot, &row)?
            || self.reasons.take(slot, &row)?
            || self.calls.take(slot, &row)?
            || self.stacks.take(&row)?
            || self.names.take(&row)?
            || self.code.take(&row)?
            || self.devices.take(&row)?;
        if is_taken {
            return Ok(());
        }
        let [facts, losses] = &mut self.changes;
        let change = if kind.record() == Record::Loss { losses } else { facts };
        let change = change.get_or_insert_default();
        if matches!(kind, Kind::GuestCleared | Kind::LossesCleared) {
            *change = Change { cleared: true, rows: Vec::new() };
        } else {
            self.changes_weight += row.weight();
            change.rows.push(row);
        }
        Ok(())
    }

    /// Bytes that are kept, and once more those of a sample.
    fn total(&self) -> usize {
        let counted = self.reasons.weight() + self.places.weight() + self.calls.weight();
        let told = self.stacks.weight() + self.names.weight() + self.code.weight();
        self.weight + self.changes_weight + counted + told + self.devices.weight()
    }
}
