//! What there is one of in a guest, and what was lost, as rows and back.

use std::borrow::Cow;

use tdtrace_common::guest::GuestLoss;

use super::super::{
    kind::Kind,
    row::{Key, Malformed, Row},
};
use crate::model::guest::{
    sample::{ClockState, GuestLosses, GuestProbeState, GuestSample},
    shared_bit::SharedBit,
};

/// What there is one of. The rest of the sample is not looked at.
pub(super) fn rows(sample: &GuestSample) -> Vec<Row> {
    let mut rows = vec![Row::text(Kind::Release, 0, &sample.release)];
    for (index, probe) in (0..).zip(sample.probes.iter()) {
        let GuestProbeState { name, how, missing, hides } = probe;
        rows.push(Row::text(Kind::Probe, index, name));
        rows.extend(how.as_ref().map(|how| Row::text(Kind::ProbeHow, index, how)));
        rows.extend(missing.as_ref().map(|why| Row::text(Kind::ProbeMissing, index, why)));
        rows.push(Row::text(Kind::ProbeHides, index, hides));
    }
    let ClockState { name, used, changes } = &sample.clock;
    let (who, bit) = match sample.shared_bit {
        SharedBit::Kernel(bit) => ("kernel", bit),
        SharedBit::Given(bit) => ("given", bit),
        SharedBit::Unknown => ("unknown", 0),
    };
    rows.extend([
        Row::number(Kind::Td, 0, sample.is_td.into()),
        Row { value: u64::from(*used), ..Row::text(Kind::Clock, 0, name) },
        Row::number(Kind::ClockChanges, 0, (*changes).into()),
        Row::number(Kind::LayoutAssumed, 0, sample.layout_assumed.into()),
        Row { value: bit.into(), ..Row::text(Kind::SharedBit, 0, who) },
        Row::text(Kind::Symbols, 0, &sample.symbols),
    ]);
    rows
}

/// A sample that has what `rows` say, and nothing else.
pub(super) fn from_rows(rows: &[Row]) -> Result<GuestSample, Malformed> {
    let mut sample = GuestSample::default();
    let mut probes: Vec<GuestProbeState> = Vec::new();
    let mut is_guest = false;
    for row in rows {
        let text = row.as_text();
        match row.key.kind {
            Kind::Release => sample.release = text.into(),
            Kind::Probe => probes.push(GuestProbeState {
                name: Cow::Owned(text.to_owned()),
                how: None,
                missing: None,
                hides: Cow::Borrowed(""),
            }),
            Kind::Td => (sample.is_td, is_guest) = (row.value != 0, true),
            Kind::Clock => {
                (sample.clock.name, sample.clock.used) = (text.to_owned(), row.value != 0);
            }
            Kind::ClockChanges => sample.clock.changes = row.small()?,
            Kind::LayoutAssumed => sample.layout_assumed = row.value != 0,
            Kind::SharedBit => {
                let bit = row.small()?;
                sample.shared_bit = match text {
                    "kernel" => SharedBit::Kernel(bit),
                    "given" => SharedBit::Given(bit),
                    "unknown" => SharedBit::Unknown,
                    _ => return Err(Malformed("a shared bit that nobody tells")),
                };
            }
            Kind::Symbols => sample.symbols = text.into(),
            kind => {
                let probe = probes.last_mut().ok_or(Malformed("a probe without its name"))?;
                match kind {
                    Kind::ProbeHow => probe.how = Some(Cow::Owned(text.to_owned())),
                    Kind::ProbeMissing => probe.missing = Some(text.to_owned()),
                    Kind::ProbeHides => probe.hides = Cow::Owned(text.to_owned()),
                    _ => return Err(Malformed("a row that no guest has")),
                }
            }
        }
    }
    sample.probes = probes.into();
    is_guest.then_some(sample).ok_or(Malformed("a guest that is neither TD nor none"))
}

/// The rows of `losses`.
pub(super) fn loss_rows(losses: &GuestLosses) -> Vec<Row> {
    let lost =
        |(loss, count): &(GuestLoss, u64)| Row::number(Kind::GuestLost, *loss as u32, *count);
    let missed = |(index, (program, count)): (u32, &(Cow<'static, str>, u64))| Row {
        value: *count,
        ..Row::text(Kind::RecursionMisses, index, program)
    };
    let misses = (0..).zip(&losses.misses).map(missed);
    misses.chain(losses.causes.iter().map(lost)).collect()
}

/// The losses of `rows`.
pub(super) fn losses_from_rows(rows: &[Row]) -> Result<GuestLosses, Malformed> {
    let mut losses = GuestLosses::default();
    for row in rows {
        match row.key.kind {
            Kind::RecursionMisses => {
                losses.misses.push((Cow::Owned(row.as_text().to_owned()), row.value));
            }
            Kind::GuestLost => {
                let loss = GuestLoss::ALL.get(row.key.index as usize).copied();
                let unknown = Malformed("a loss for a cause that does not exist");
                losses.causes.push((loss.ok_or(unknown)?, row.value));
            }
            _ => return Err(Malformed("a loss for a cause that does not exist")),
        }
    }
    Ok(losses)
}

/// What the index of a row of losses is called.
pub(super) fn loss_name(key: &Key) -> Cow<'static, str> {
    let loss = GuestLoss::ALL.get(key.index as usize).filter(|_| key.kind == Kind::GuestLost);
    loss.map_or("", |loss| loss.name()).into()
}
