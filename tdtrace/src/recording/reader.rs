//! A stream to samples.

use std::{collections::BTreeMap, io::Read, sync::Arc, time::Duration};

use super::{
    Error, STATE_MAX,
    frame::{Frame, Frames},
    host,
    kind::{Kind, Record},
    row::{Key, Malformed, Row, merge},
    schema::{Cells, Columns},
    vcpu, vm,
};
use crate::model::sample::{Losses, Sample, VcpuSample, VmSample};

/// A recording that ends before it should: what recorded it was killed, or the file was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes after the last sample that is whole; 0 if only the end of the stream is missing.
    pub bytes: u64,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bytes {
            0 => formatter.write_str("the recording was not finished; no sample of it is missing"),
            bytes => write!(
                formatter,
                "the recording ends in the middle of a batch: {bytes} bytes were not read"
            ),
        }
    }
}

/// Reads samples.
pub struct Reader<R> {
    frames: Frames<R>,
    state: State,
    /// Where in the file the last whole sample ends.
    delivered: u64,
    over: bool,
    cut: Option<Cut>,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning of `input`.
    ///
    /// # Errors
    /// When `input` fails, is no recording or one of a newer version.
    pub fn new(input: R) -> Result<Self, Error> {
        let frames = Frames::new(input)?;
        Ok(Self { frames, state: State::default(), delivered: 0, over: false, cut: None })
    }

    /// The next sample, equal to the one that was written; `None` at the end.
    ///
    /// # Errors
    /// When the input fails or is damaged. Nothing more is delivered after that.
    pub fn sample(&mut self) -> Result<Option<Sample>, Error> {
        if self.over {
            return Ok(None);
        }
        let next = self.next();
        self.over = !matches!(next, Ok(Some(_)));
        next
    }

    /// Whether and how the recording ended before it should; known once [`Reader::sample`] has
    /// returned `None`.
    #[must_use]
    pub const fn cut(&self) -> Option<Cut> {
        self.cut
    }

    fn next(&mut self) -> Result<Option<Sample>, Error> {
        let mut pending = Pending::default();
        loop {
            let at = self.frames.at();
            let is_partial = at > self.delivered;
            match self.frames.next()? {
                Frame::Cut => {
                    self.cut = Some(Cut { bytes: self.frames.read() - self.delivered });
                    return Ok(None);
                }
                Frame::End if is_partial => {
                    return Err(self.frames.damaged("the stream ends within a sample"));
                }
                Frame::End => return Ok(None),
                Frame::Batch(columns, ended) => {
                    let damaged =
                        |Malformed(what)| Error::Damaged { at, what: format!("it has {what}") };
                    pending.take(&columns).map_err(damaged)?;
                    if let Some(ns) = ended {
                        self.delivered = self.frames.at();
                        let sample = self.state.apply(pending, Duration::from_nanos(ns));
                        return sample.map(Some).map_err(damaged);
                    }
                }
            }
        }
    }
}

/// Whose rows they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Host,
    Losses,
    /// By number.
    Vm(u32),
    /// By slot.
    Vcpu(u32),
}

/// What a sample changes of one subject.
#[derive(Default)]
struct Change {
    cleared: bool,
    rows: Vec<Row>,
}

/// The rows of the sample being read.
#[derive(Default)]
struct Pending {
    changes: BTreeMap<Subject, Change>,
    vms: Option<Vec<u32>>,
    vcpus: Option<Vec<u32>>,
    weight: usize,
}

impl Pending {
    fn take(&mut self, columns: &Columns) -> Result<(), Malformed> {
        for cells in columns.rows().filter(|cells| cells.record != Record::Event.name()) {
            self.row(&cells)?;
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
            Kind::HostCleared | Kind::Cleared | Kind::LossesCleared => {
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

fn row(kind: Kind, cells: &Cells<'_>) -> Row {
    let address = if kind == Kind::DurationCount { cells.duration_ns } else { cells.address };
    Row {
        key: Key { kind, index: cells.index, address, size: cells.size },
        value: cells.value,
        text: (!cells.text.is_empty()).then(|| cells.text.into()),
    }
}

fn subject(kind: Kind, cells: &Cells<'_>) -> Subject {
    if kind <= Kind::ProbeHides {
        Subject::Host
    } else if kind.record() == Record::Loss {
        Subject::Losses
    } else if cells.slot != 0 {
        Subject::Vcpu(cells.slot)
    } else {
        Subject::Vm(cells.vm)
    }
}

/// The rows of a subject, with what was made of them.
struct Kept<T> {
    rows: Vec<Row>,
    made: T,
}

/// The sample before, from which the next one is made.
#[derive(Default)]
struct State {
    host: Option<Kept<host::Machine>>,
    losses: Option<Kept<Losses>>,
    vms: BTreeMap<u32, Kept<VmSample>>,
    vcpus: BTreeMap<u32, Kept<Arc<VcpuSample>>>,
    listed_vms: Vec<u32>,
    listed_vcpus: Vec<u32>,
    weight: usize,
}

impl State {
    fn apply(&mut self, pending: Pending, at: Duration) -> Result<Sample, Malformed> {
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
        self.sample(at)
    }

    fn sample(&self, at: Duration) -> Result<Sample, Malformed> {
        let (host, probes) =
            self.host.as_ref().map(|kept| kept.made.clone()).ok_or(Malformed("no machine"))?;
        let losses = self.losses.as_ref().map(|kept| kept.made.clone());
        Ok(Sample {
            at,
            host,
            probes,
            vms: made(&self.vms, &self.listed_vms)?,
            vcpus: made(&self.vcpus, &self.listed_vcpus)?,
            losses: losses.ok_or(Malformed("no losses, not even none"))?,
        })
    }
}

/// Bytes of a subject beside its rows.
const SUBJECT: usize = 1024;

fn weight(rows: &[Row]) -> usize {
    rows.iter().map(Row::weight).sum::<usize>() + SUBJECT
}

/// `old` with `change`.
fn changed<T>(
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
