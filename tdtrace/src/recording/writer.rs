//! Samples of a host to a stream.

use std::{borrow::Cow, collections::HashMap, io::Write, sync::Arc, time::Duration};

use super::{
    Error, Side, host,
    kind::Kind,
    name::name,
    output::{Output, Subject, next},
    poison,
    row::{Key, Row},
    seam, slow, vcpu, vm,
};
use crate::model::{
    poison::PoisonSample,
    sample::{Isa, Losses, Sample, VcpuKey, VcpuSample, VmKey, VmSample},
    seam::SeamSample,
};

/// Writes samples. Each one is with the output when [`Writer::write`] returns.
pub struct Writer<W> {
    output: Output<W>,
    before: Before,
}

/// What has been written, so that the next sample is only what differs.
#[derive(Default)]
struct Before {
    host: Option<host::Machine>,
    losses: Option<Losses>,
    seam: Arc<SeamSample>,
    poison: Arc<PoisonSample>,
    vms: HashMap<VmKey, (u32, VmSample)>,
    vcpus: HashMap<VcpuKey, (u32, Arc<VcpuSample>)>,
    /// Numbers in the order of the sample; `None` before the first.
    listed_vms: Option<Vec<u32>>,
    listed_vcpus: Option<Vec<u32>>,
    last_vm: u32,
    last_slot: u32,
}

impl Before {
    /// The number of a VM that has been written.
    fn number(&self, vm: VmKey) -> Option<u32> {
        self.vms.get(&vm).map(|(number, _)| *number)
    }
}

impl<W: Write> Writer<W> {
    /// A writer of samples whose time 0 was `began`, since 1970 (UTC).
    ///
    /// # Errors
    /// When the encoder cannot be set up.
    pub fn new(out: W, began: Duration) -> Result<Self, Error> {
        Ok(Self { output: Output::new(out, Side::Host, began)?, before: Before::default() })
    }

    /// Writes `sample` as far as it differs from the one before, and flushes. After an error the
    /// writer is of no more use: the stream may end within a batch.
    ///
    /// # Errors
    /// When the output fails, or for a sample with a text above [`TEXT_MAX`](super::TEXT_MAX) or a
    /// time that does not fit.
    pub fn write(&mut self, sample: &Sample) -> Result<(), Error> {
        self.output.begin(sample.at)?;
        let Self { output, before } = self;
        let mut put = Put { output, isa: sample.host.isa };
        put.machine(sample, before)?;
        put.vms(&sample.vms, before)?;
        put.vcpus(&sample.vcpus, before)?;
        let isa = sample.host.isa;
        slow::write(output, sample, |key| before.number(key), |key| name(key, isa))?;
        self.output.end()
    }

    /// Writes the end of the stream and returns the output.
    ///
    /// # Errors
    /// When the output fails.
    pub fn finish(self) -> Result<W, Error> {
        self.output.finish()
    }

    /// Bytes written so far; the end of the stream takes 8 more.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.output.bytes()
    }

    /// Samples written so far.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.output.samples()
    }
}

/// One sample being written.
struct Put<'a, W> {
    output: &'a mut Output<W>,
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
        if before.seam != sample.seam {
            let (old, new) = (seam::rows(&before.seam), seam::rows(&sample.seam));
            self.changes(subject, Kind::SeamCleared, &old, &new)?;
            before.seam = Arc::clone(&sample.seam);
        }
        if before.poison != sample.poison {
            let (old, new) = (poison::rows(&before.poison), poison::rows(&sample.poison));
            self.changes(subject, Kind::PoisonCleared, &old, &new)?;
            before.poison = Arc::clone(&sample.poison);
        }
        Ok(())
    }

    fn vms(&mut self, vms: &[VmSample], before: &mut Before) -> Result<(), Error> {
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
        self.list([Kind::Vms, Kind::Vm], &listed, |subject| subject.vm, &mut before.listed_vms)
    }

    /// Writes vCPUs, after the VMs.
    fn vcpus(&mut self, vcpus: &[Arc<VcpuSample>], before: &mut Before) -> Result<(), Error> {
        let mut now = HashMap::with_capacity(vcpus.len());
        let mut listed = Vec::with_capacity(vcpus.len());
        for vcpu in vcpus {
            let old = before.vcpus.remove(&vcpu.key);
            let slot = match &old {
                Some((slot, _)) => *slot,
                None => next(&mut before.last_slot)?,
            };
            let vm = before.number(vcpu.vm).unwrap_or(0);
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
        let isa = self.isa;
        let name = |key: &Key| -> Cow<'static, str> { name(key, isa) };
        self.output.changes(subject, cleared, [old, new], name)
    }

    fn row(&mut self, subject: Subject, row: &Row) -> Result<(), Error> {
        self.output.row(subject, row, &name(&row.key, self.isa))
    }
}
