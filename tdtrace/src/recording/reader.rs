//! A stream to samples of a host.

use std::{collections::BTreeMap, io::Read, sync::Arc, time::Duration};

use super::{
    Error, STATE_MAX, Side, host,
    kind::{Kind, Record},
    poison,
    row::{Key, Malformed, Row, merge},
    schema::{Cells, Columns},
    seam,
    sequence::{Assemble, Cut, Sequence},
    slow, vcpu, vm,
};
use crate::model::{
    poison::PoisonSample,
    sample::{Losses, Sample, VcpuSample, VmSample},
    seam::SeamSample,
};

/// Reads samples.
pub struct Reader<R> {
    samples: Sequence<R>,
    state: State,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning of `input`.
    ///
    /// # Errors
    /// When `input` fails, is no recording of a host or one of a newer version.
    pub fn new(input: R) -> Result<Self, Error> {
        Ok(Self { samples: Sequence::new(input, Side::Host)?, state: State::default() })
    }

    /// The next sample, equal to the one that was written; `None` at the end.
    ///
    /// # Errors
    /// When the input fails or is damaged. Nothing more is delivered after that.
    pub fn sample(&mut self) -> Result<Option<Sample>, Error> {
        self.samples.sample(&mut self.state)
    }

    /// Whether and how the recording ended before it should; known once [`Reader::sample`] has
    /// returned `None`.
    #[must_use]
    pub const fn cut(&self) -> Option<Cut> {
        self.samples.cut()
    }
}

/// Whose rows they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Host,
    Losses,
    Seam,
    Poison,
    /// By number.
    Vm(u32),
    /// By slot.
    Vcpu(u32),
}

/// What a sample changes of one subject.
#[derive(Default)]
pub(super) struct Change {
    pub(super) cleared: bool,
    pub(super) rows: Vec<Row>,
}

/// The rows of the sample being read.
#[derive(Default)]
struct Pending {
    changes: BTreeMap<Subject, Change>,
    vms: Option<Vec<u32>>,
    vcpus: Option<Vec<u32>>,
    slow: slow::Read,
    weight: usize,
}

impl Pending {
    fn take(&mut self, columns: &Columns) -> Result<(), Malformed> {
        for cells in columns.rows() {
            if cells.record == Record::Event.name() {
                self.slow.take(&cells)?;
                self.weight += 128;
            } else {
                self.row(&cells)?;
            }
            if self.weight > STATE_MAX {
                return Err(Malformed("a sample that is larger than any machine's"));
            }
        }
        Ok(())
    }

    fn row(&mut self, cells: &Cells<'_>) -> Result<(), Malformed> {
        let kind = Kind::of(cells.kind)
            .ok_or(Malformed("a row of a kind that is not known, perhaps of a newer tdtrace"))?;
        let listed = Malformed("a list that does not begin");
        match kind {
            Kind::Vms => self.vms = Some(Vec::new()),
            Kind::Vcpus => self.vcpus = Some(Vec::new()),
            Kind::Vm => self.vms.as_mut().ok_or(listed)?.push(cells.vm),
            Kind::Vcpu => self.vcpus.as_mut().ok_or(listed)?.push(cells.slot),
            Kind::Sample | Kind::Part => return Err(Malformed("the end of a batch within one")),
            Kind::HostCleared
            | Kind::Cleared
            | Kind::LossesCleared
            | Kind::SeamCleared
            | Kind::PoisonCleared => {
                let change = self.changes.entry(subject(kind, cells)).or_default();
                *change = Change { cleared: true, rows: Vec::new() };
            }
            _ => {
                let row = row(kind, cells);
                self.weight += row.weight();
                self.changes.entry(subject(kind, cells)).or_default().rows.push(row);
            }
        }
        // An entry of a list, or of the changes.
        self.weight += 64;
        Ok(())
    }
}

/// The row that `cells` are.
pub(super) fn row(kind: Kind, cells: &Cells<'_>) -> Row {
    let address = if kind.has_bucket() { cells.duration_ns } else { cells.address };
    Row {
        key: Key { kind, index: cells.index, address, size: cells.size },
        value: cells.value,
        text: (!cells.text.is_empty()).then(|| cells.text.into()),
    }
}

fn subject(kind: Kind, cells: &Cells<'_>) -> Subject {
    if kind <= Kind::ProbeHides {
        Subject::Host
    } else if kind.is_seam() {
        Subject::Seam
    } else if kind.is_poison() {
        Subject::Poison
    } else if kind.record() == Record::Loss {
        Subject::Losses
    } else if cells.slot != 0 {
        Subject::Vcpu(cells.slot)
    } else {
        Subject::Vm(cells.vm)
    }
}

/// The rows of a subject, with what was made of them.
pub(super) struct Kept<T> {
    rows: Vec<Row>,
    pub(super) made: T,
}

/// The sample before, from which the next one is made.
#[derive(Default)]
struct State {
    pending: Pending,
    host: Option<Kept<host::Machine>>,
    losses: Option<Kept<Losses>>,
    seam: Option<Kept<Arc<SeamSample>>>,
    poison: Option<Kept<Arc<PoisonSample>>>,
    vms: BTreeMap<u32, Kept<VmSample>>,
    vcpus: BTreeMap<u32, Kept<Arc<VcpuSample>>>,
    listed_vms: Vec<u32>,
    listed_vcpus: Vec<u32>,
    weight: usize,
}

impl Assemble for State {
    type Sample = Sample;

    fn take(&mut self, columns: &Columns) -> Result<(), Malformed> {
        self.pending.take(columns)
    }

    fn sample(&mut self, at: Duration) -> Result<Sample, Malformed> {
        let mut pending = std::mem::take(&mut self.pending);
        let slow = std::mem::take(&mut pending.slow);
        self.apply(pending)?;
        self.made(at, slow)
    }
}

impl State {
    fn apply(&mut self, pending: Pending) -> Result<(), Malformed> {
        for (subject, change) in pending.changes {
            match subject {
                Subject::Host => {
                    let make = |rows: &[Row]| host::from_rows(rows);
                    self.host = Some(changed(self.host.take(), change, &mut self.weight, make)?);
                }
                Subject::Losses => {
                    let make = |rows: &[Row]| host::losses_from_rows(rows);
                    let old = self.losses.take();
                    self.losses = Some(changed(old, change, &mut self.weight, make)?);
                }
                Subject::Seam => {
                    let make = |rows: &[Row]| seam::from_rows(rows).map(Arc::new);
                    self.seam = Some(changed(self.seam.take(), change, &mut self.weight, make)?);
                }
                Subject::Poison => {
                    let make = |rows: &[Row]| poison::from_rows(rows).map(Arc::new);
                    let old = self.poison.take();
                    self.poison = Some(changed(old, change, &mut self.weight, make)?);
                }
                Subject::Vm(number) => {
                    let old = self.vms.remove(&number);
                    let kept = changed(old, change, &mut self.weight, vm::from_rows)?;
                    self.vms.insert(number, kept);
                }
                Subject::Vcpu(slot) => {
                    let old = self.vcpus.remove(&slot);
                    let make = |rows: &[Row]| vcpu::from_rows(rows).map(Arc::new);
                    let kept = changed(old, change, &mut self.weight, make)?;
                    self.vcpus.insert(slot, kept);
                }
            }
            if self.weight > STATE_MAX {
                return Err(Malformed("more than any machine has"));
            }
        }
        if let Some(listed) = pending.vms {
            self.listed_vms = listed;
            keep(&mut self.vms, &self.listed_vms, &mut self.weight)?;
        }
        if let Some(listed) = pending.vcpus {
            self.listed_vcpus = listed;
            keep(&mut self.vcpus, &self.listed_vcpus, &mut self.weight)?;
        }
        Ok(())
    }

    fn made(&self, at: Duration, slow: slow::Read) -> Result<Sample, Malformed> {
        let (host, probes) =
            self.host.as_ref().map(|kept| kept.made.clone()).ok_or(Malformed("no machine"))?;
        let losses = self.losses.as_ref().map(|kept| kept.made.clone());
        let (slower_than, slow) =
            slow.finish(|number| self.vms.get(&number).map(|kept| kept.made.key))?;
        Ok(Sample {
            at,
            host,
            probes,
            vms: made(&self.vms, &self.listed_vms)?,
            vcpus: made(&self.vcpus, &self.listed_vcpus)?,
            losses: losses.ok_or(Malformed("no losses, not even none"))?,
            slower_than,
            slow,
            // Recordings from before these were seen say nothing of them.
            seam: self.seam.as_ref().map_or_else(Arc::default, |kept| Arc::clone(&kept.made)),
            poison: self.poison.as_ref().map_or_else(Arc::default, |kept| Arc::clone(&kept.made)),
        })
    }
}

/// Bytes of a subject beside its rows.
const SUBJECT: usize = 1024;

fn weight(rows: &[Row]) -> usize {
    rows.iter().map(Row::weight).sum::<usize>() + SUBJECT
}

/// `old` with `change`; `total` is the weight of all that is kept.
pub(super) fn changed<T>(
    old: Option<Kept<T>>,
    change: Change,
    total: &mut usize,
    make: impl Fn(&[Row]) -> Result<T, Malformed>,
) -> Result<Kept<T>, Malformed> {
    let old = old.map(|kept| kept.rows).unwrap_or_default();
    *total = total.saturating_sub(if old.is_empty() { 0 } else { weight(&old) });
    let rows = if change.cleared { change.rows } else { merge(old, change.rows)? };
    *total += weight(&rows);
    let made = make(&rows)?;
    Ok(Kept { rows, made })
}

/// Lets go of what is not listed.
fn keep<T>(
    kept: &mut BTreeMap<u32, Kept<T>>,
    listed: &[u32],
    total: &mut usize,
) -> Result<(), Malformed> {
    let mut numbers = listed.to_vec();
    numbers.sort_unstable();
    if !numbers.is_sorted_by(|one, two| one < two) {
        return Err(Malformed("a list that has one thing twice"));
    }
    kept.retain(|number, kept| {
        let is_listed = numbers.binary_search(number).is_ok();
        if !is_listed {
            *total = total.saturating_sub(weight(&kept.rows));
        }
        is_listed
    });
    Ok(())
}

/// What is listed, in the order of the list.
fn made<T: Clone>(kept: &BTreeMap<u32, Kept<T>>, listed: &[u32]) -> Result<Vec<T>, Malformed> {
    let find = |number| kept.get(number).map(|kept| kept.made.clone());
    listed.iter().map(|number| find(number).ok_or(Malformed("a list of what it lacks"))).collect()
}
