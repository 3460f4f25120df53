//! The machine with its probes, and the losses, as rows and back.

use std::sync::Arc;

use tdtrace_common::counters::{Class, Loss};

use super::{
    kind::Kind,
    row::{Malformed, Row},
};
use crate::model::sample::{Host, Isa, Losses, ProbeState};

/// The machine and its probes.
pub(super) type Machine = (Arc<Host>, Arc<[ProbeState]>);

const fn isa_name(isa: Isa) -> &'static str {
    match isa {
        Isa::Vmx => "vmx",
        Isa::Svm => "svm",
        Isa::Software => "software",
    }
}

/// The rows of `host` and `probes`.
pub(super) fn rows(host: &Host, probes: &[ProbeState]) -> Vec<Row> {
    let mut rows = vec![
        Row::text(Kind::Release, 0, &host.release),
        Row::text(Kind::Kvm, 0, isa_name(host.isa)),
    ];
    for (index, probe) in (0..).zip(probes) {
        rows.push(Row::text(Kind::Probe, index, &probe.name));
        rows.extend(probe.missing.as_ref().map(|why| Row::text(Kind::ProbeMissing, index, why)));
        rows.push(Row::text(Kind::ProbeHides, index, &probe.hides));
    }
    rows
}

/// The machine and probes of `rows`.
pub(super) fn from_rows(rows: &[Row]) -> Result<Machine, Malformed> {
    let mut release = String::new();
    let mut isa = None;
    let mut probes: Vec<ProbeState> = Vec::new();
    for row in rows {
        let text = row.as_text();
        match row.key.kind {
            Kind::Release => text.clone_into(&mut release),
            Kind::Kvm => {
                let known = [Isa::Vmx, Isa::Svm, Isa::Software];
                isa = known.into_iter().find(|isa| isa_name(*isa) == text);
            }
            Kind::Probe => {
                let name = text.to_owned();
                probes.push(ProbeState { name, missing: None, hides: String::new() });
            }
            kind => {
                let probe = probes.last_mut().ok_or(Malformed("a probe without its name"))?;
                match kind {
                    Kind::ProbeMissing => probe.missing = Some(text.to_owned()),
                    Kind::ProbeHides => text.clone_into(&mut probe.hides),
                    _ => return Err(Malformed("a row of the machine that no machine has")),
                }
            }
        }
    }
    let isa = isa.ok_or(Malformed("a machine whose kind of KVM is not known"))?;
    Ok((Arc::new(Host { release, isa }), probes.into()))
}

/// The rows of `losses`.
pub(super) fn loss_rows(losses: &Losses) -> Vec<Row> {
    let mut rows: Vec<Row> = losses
        .causes
        .iter()
        .map(|(loss, class, count)| Row::number(Kind::lost(*loss), *class as u32, *count))
        .collect();
    rows.extend((0..).zip(&losses.misses).map(|(index, (probe, count))| {
        let mut row = Row::text(Kind::RecursionMisses, index, probe);
        row.value = *count;
        row
    }));
    for (kind, count) in [
        (Kind::WithoutPlace, losses.hotspots),
        (Kind::Unpaired, losses.unpaired),
        (Kind::DurationsLost, losses.durations),
    ] {
        rows.push(Row::number(kind, 0, count));
    }
    if losses.slow > 0 {
        rows.push(Row::number(Kind::SlowLost, 0, losses.slow));
    }
    let outside = |(class, count): &(Class, u64)| Row::number(Kind::Outside, *class as u32, *count);
    rows.extend(losses.outside.iter().map(outside));
    rows
}

/// The losses of `rows`.
pub(super) fn losses_from_rows(rows: &[Row]) -> Result<Losses, Malformed> {
    let mut losses = Losses::default();
    for row in rows {
        let class = || {
            let class = Class::ALL.get(row.key.index as usize).copied();
            class
                .ok_or(Malformed("a class of events that is not known, perhaps of a newer tdtrace"))
        };
        match row.key.kind {
            Kind::RecursionMisses => losses.misses.push((row.as_text().to_owned(), row.value)),
            Kind::WithoutPlace => losses.hotspots = row.value,
            Kind::Unpaired => losses.unpaired = row.value,
            Kind::DurationsLost => losses.durations = row.value,
            Kind::SlowLost => losses.slow = row.value,
            Kind::Outside => losses.outside.push((class()?, row.value)),
            kind => {
                let loss = Loss::ALL.into_iter().find(|loss| Kind::lost(*loss) == kind);
                let loss = loss.ok_or(Malformed("a loss for a cause that does not exist"))?;
                losses.causes.push((loss, class()?, row.value));
            }
        }
    }
    Ok(losses)
}
