//! Samples to a stream.

use std::{collections::HashMap, io::Write, sync::Arc, time::Duration};

use super::{
    Error, ROWS_MAX, TEXT_MAX,
    encode::Encoder,
    host,
    kind::Kind,
    name::name,
    row::{Key, Row, delta},
    schema::{self, Builder, Cells},
    vcpu, vm,
};
use crate::model::sample::{Isa, Losses, Sample, VcpuKey, VcpuSample, VmKey, VmSample};

/// Bytes of texts after which a batch is full.
const TEXT_FULL: usize = 8 << 20;

/// Writes samples. Each one is with the output when [`Writer::write`] returns.
pub struct Writer<W> {
    out: W,
    encoder: Encoder,
    rows: Builder,
    /// Messages of the sample being written.
    bytes: Vec<u8>,
    before: Before,
    written: u64,
    samples: u64,
}

/// What has been written, so that the next sample is only what differs.
#[derive(Default)]
struct Before {
    host: Option<host::Machine>,
    losses: Option<Losses>,
    vms: HashMap<VmKey, (u32, VmSample)>,
    vcpus: HashMap<VcpuKey, (u32, Arc<VcpuSample>)>,
    /// Numbers in the order of the sample; `None` before the first.
    listed_vms: Option<Vec<u32>>,
    listed_vcpus: Option<Vec<u32>>,
    last_vm: u32,
    last_slot: u32,
}

/// Whose rows are written: the columns that say so.
#[derive(Clone, Copy, Default)]
struct Subject {
    vm: u32,
    vcpu: u32,
    slot: u32,
}

impl<W: Write> Writer<W> {
    /// A writer of samples whose time 0 was `began`, since 1970 (UTC).
    ///
    /// # Errors
    /// When the encoder cannot be set up.
    pub fn new(out: W, began: Duration) -> Result<Self, Error> {
        let schema = schema::schema(nanoseconds(began)?);
        Ok(Self {
            out,
            encoder: Encoder::new(schema).map_err(unwritable)?,
            rows: Builder::default(),
            bytes: Vec::new(),
            before: Before::default(),
            written: 0,
            samples: 0,
        })
    }

    /// Writes `sample` as far as it differs from the one before, and flushes. After an error the
    /// writer is of no more use: the stream may end within a batch.
    ///
    /// # Errors
    /// When the output fails, or for a sample with a text above [`TEXT_MAX`] or a time that does not
    /// fit.
    pub fn write(&mut self, sample: &Sample) -> Result<(), Error> {
        let time_ns = nanoseconds(sample.at)?;
        let mut before = std::mem::take(&mut self.before);
        let mut put = Put { writer: self, time_ns, isa: sample.host.isa };
        put.machine(sample, &mut before)?;
        let vms = put.vms(&sample.vms, &mut before)?;
        put.vcpus(&sample.vcpus, &vms, &mut before)?;
        self.before = before;
        self.encoder
            .batch(&mut self.rows, Kind::Sample, time_ns, &mut self.bytes)
            .map_err(unwritable)?;
        self.samples += 1;
        self.emit()
    }

    /// Writes the end of the stream and returns the output.
    ///
    /// # Errors
    /// When the output fails.
    pub fn finish(mut self) -> Result<W, Error> {
        Encoder::end(&mut self.bytes);
        self.emit()?;
        Ok(self.out)
    }

    /// Bytes written so far; the end of the stream takes 8 more.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.written
    }

    /// Samples written so far.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.samples
    }

    fn emit(&mut self) -> Result<(), Error> {
        self.out.write_all(&self.bytes)?;
        self.out.flush()?;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
}

/// One sample being written.
struct Put<'a, W> {
    writer: &'a mut Writer<W>,
    time_ns: u64,
    isa: Isa,
}

impl<W: Write> Put<'_, W> {
    fn machine(&mut self, sample: &Sample, before: &mut Before) -> Result<(), Error> {
        let subject = Subject::default();
        let rows = |(host, probes): &host::Machine| host::rows(host, probes);
        let new = (Arc::clone(&sample.host), Arc::clone(&sample.probes));
        if before.host.as_ref() != Some(&new) {
            let old = before.host.as_ref().map(rows).unwrap_or_default();
            self.changes(subject, Kind::HostCleared, &old, &rows(&new))?;
            before.host = Some(new);
        }
        if before.losses.as_ref() != Some(&sample.losses) {
            let old = before.losses.as_ref().map(host::loss_rows).unwrap_or_default();
            self.changes(subject, Kind::LossesCleared, &old, &host::loss_rows(&sample.losses))?;
            before.losses = Some(sample.losses.clone());
        }
        Ok(())
    }

    /// Writes VMs; returns their numbers.
    fn vms(&mut self, vms: &[VmSample], before: &mut Before) -> Result<HashMap<VmKey, u32>, Error> {
        let mut now = HashMap::with_capacity(vms.len());
        let mut listed = Vec::with_capacity(vms.len());
        for vm in vms {
            let old = before.vms.remove(&vm.key);
            let number = match &old {
                Some((number, _)) => *number,
                None => next(&mut before.last_vm)?,
            };
            let subject = Subject { vm: number, ..Subject::default() };
            match &old {
                Some((_, old)) if old == vm => {}
                Some((_, old)) => {
                    self.changes(subject, Kind::Cleared, &vm::rows(old), &vm::rows(vm))?;
                }
                None => self.changes(subject, Kind::Cleared, &[], &vm::rows(vm))?,
            }
            listed.push(subject);
            now.insert(vm.key, (number, vm.clone()));
        }
        before.vms = now;
        self.list([Kind::Vms, Kind::Vm], &listed, |subject| subject.vm, &mut before.listed_vms)?;
        Ok(before.vms.iter().map(|(key, (number, _))| (*key, *number)).collect())
    }

    fn vcpus(
        &mut self,
        vcpus: &[Arc<VcpuSample>],
        vms: &HashMap<VmKey, u32>,
        before: &mut Before,
    ) -> Result<(), Error> {
        let mut now = HashMap::with_capacity(vcpus.len());
        let mut listed = Vec::with_capacity(vcpus.len());
        for vcpu in vcpus {
            let old = before.vcpus.remove(&vcpu.key);
            let slot = match &old {
                Some((slot, _)) => *slot,
                None => next(&mut before.last_slot)?,
            };
            let vm = vms.get(&vcpu.vm).copied().unwrap_or(0);
            let subject = Subject { vm, vcpu: vcpu.id, slot };
            match &old {
                Some((_, old)) if Arc::ptr_eq(old, vcpu) || old == vcpu => {}
                Some((_, old)) => {
                    self.changes(subject, Kind::Cleared, &vcpu::rows(old), &vcpu::rows(vcpu))?;
                }
                None => self.changes(subject, Kind::Cleared, &[], &vcpu::rows(vcpu))?,
            }
            listed.push(subject);
            now.insert(vcpu.key, (slot, Arc::clone(vcpu)));
        }
        before.vcpus = now;
        let slot = |subject: &Subject| subject.slot;
        self.list([Kind::Vcpus, Kind::Vcpu], &listed, slot, &mut before.listed_vcpus)
    }

    /// Writes which subjects the sample has, if it has others than the one before.
    fn list(
        &mut self,
        [begin, item]: [Kind; 2],
        subjects: &[Subject],
        number: impl Fn(&Subject) -> u32,
        before: &mut Option<Vec<u32>>,
    ) -> Result<(), Error> {
        let numbers = subjects.iter().map(number).collect();
        if before.as_ref() == Some(&numbers) {
            return Ok(());
        }
        self.row(Subject::default(), &Row::number(begin, 0, numbers.len() as u64))?;
        for subject in subjects {
            self.row(*subject, &Row::number(item, 0, 1))?;
        }
        *before = Some(numbers);
        Ok(())
    }

    /// Writes what turns `old` into `new`.
    fn changes(
        &mut self,
        subject: Subject,
        cleared: Kind,
        old: &[Row],
        new: &[Row],
    ) -> Result<(), Error> {
        if let Some(changed) = delta(old, new) {
            return changed.into_iter().try_for_each(|row| self.row(subject, row));
        }
        self.row(subject, &Row::number(cleared, 0, 0))?;
        new.iter().try_for_each(|row| self.row(subject, row))
    }

    fn row(&mut self, subject: Subject, row: &Row) -> Result<(), Error> {
        let Key { kind, index, address, size } = row.key;
        let text = row.as_text();
        if text.len() > TEXT_MAX {
            let length = text.len();
            return Err(Error::Unwritable(format!("its {} has {length} bytes", kind.name())));
        }
        let (address, duration_ns) =
            if kind == Kind::DurationCount { (0, address) } else { (address, 0) };
        let writer = &mut *self.writer;
        if writer.rows.rows() == ROWS_MAX || writer.rows.text_bytes() >= TEXT_FULL {
            writer
                .encoder
                .batch(&mut writer.rows, Kind::Part, self.time_ns, &mut writer.bytes)
                .map_err(unwritable)?;
        }
        writer.rows.push(&Cells {
            time_ns: self.time_ns,
            record: kind.record().name(),
            vm: subject.vm,
            vcpu: subject.vcpu,
            slot: subject.slot,
            kind: kind.name(),
            name: &name(&row.key, self.isa),
            index,
            address,
            size,
            duration_ns,
            text,
            value: row.value,
        });
        Ok(())
    }
}

/// The number after `last`.
fn next(last: &mut u32) -> Result<u32, Error> {
    let next = last.checked_add(1);
    *last = next.ok_or_else(|| Error::Unwritable("there were 4 billion vCPUs".to_owned()))?;
    Ok(*last)
}

fn nanoseconds(time: Duration) -> Result<u64, Error> {
    u64::try_from(time.as_nanos())
        .map_err(|_| Error::Unwritable(format!("{} seconds are too long", time.as_secs())))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
fn unwritable(error: arrow_schema::ArrowError) -> Error {
    Error::Unwritable(error.to_string())
}
