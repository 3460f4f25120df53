//! Single durations that were longer than asked for, as rows and back. They are events: written once, and
//! of one sample only.

use std::{borrow::Cow, io::Write, time::Duration};

use tdtrace_common::latency::{LATENCY_CLASSES, PARTS};

use super::{
    Error,
    kind::Kind,
    output::{Output, Subject},
    row::{Key, Malformed, Row},
    schema::Cells,
};
use crate::model::{
    sample::{Sample, VmKey},
    slow::SlowSample,
};

/// Writes what `sample` has of them; `vm` tells the number of a VM, `name` that of a row's index.
pub(super) fn write<W: Write>(
    output: &mut Output<W>,
    sample: &Sample,
    vm: impl Fn(VmKey) -> Option<u32>,
    name: impl Fn(&Key) -> Cow<'static, str>,
) -> Result<(), Error> {
    let Some(limit) = sample.slower_than else { return Ok(()) };
    let limit = Row::number(Kind::SlowerThan, 0, nanoseconds(limit));
    output.row(Subject::default(), &limit, "")?;
    for slow in &sample.slow {
        // One whose VM is not in the sample is nobody's.
        let Some(vm) = vm(slow.vm) else { continue };
        let subject = Subject { vm, vcpu: slow.vcpu, slot: 0 };
        let address = nanoseconds(slow.at);
        let key = Key { kind: Kind::Slow, index: slow.class, address, size: slow.tid };
        output.row(subject, &Row { key, value: slow.total(), text: None }, &name(&key))?;
        for (part, ns) in (0..).zip(slow.ns) {
            let row = Row::number(Kind::SlowPart, part, ns);
            output.row(subject, &row, &name(&row.key))?;
        }
    }
    Ok(())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What was read of a sample's events.
#[derive(Debug, Default)]
pub(super) struct Read {
    limit: Option<Duration>,
    /// With the number of the VM.
    slow: Vec<(u32, SlowSample)>,
}

impl Read {
    /// Takes an event's row. Those of kinds that are not known are a newer tdtrace's and left out.
    pub(super) fn take(&mut self, cells: &Cells<'_>) -> Result<(), Malformed> {
        match Kind::of(cells.kind) {
            Some(Kind::SlowerThan) => self.limit = Some(Duration::from_nanos(cells.value)),
            Some(Kind::Slow) if (cells.index as usize) < LATENCY_CLASSES => self.slow.push((
                cells.vm,
                SlowSample {
                    at: Duration::from_nanos(cells.address),
                    vm: VmKey { index: 0, life: 0 },
                    vcpu: cells.vcpu,
                    tid: cells.size,
                    class: cells.index,
                    ns: [0; PARTS],
                },
            )),
            Some(Kind::Slow) => return Err(Malformed("a slow duration of no class")),
            Some(Kind::SlowPart) => {
                let slow = self.slow.last_mut().ok_or(Malformed("a part of no slow duration"))?;
                let part = slow.1.ns.get_mut(cells.index as usize);
                *part.ok_or(Malformed("a part that no duration has"))? = cells.value;
            }
            _ => {}
        }
        Ok(())
    }

    /// The limit and the durations; `vm` tells which VM has a number.
    pub(super) fn finish(
        self,
        vm: impl Fn(u32) -> Option<VmKey>,
    ) -> Result<(Option<Duration>, Vec<SlowSample>), Malformed> {
        let nobody = Malformed("a slow duration of a VM that is not there");
        let whose = |(number, slow)| Ok(SlowSample { vm: vm(number).ok_or(nobody)?, ..slow });
        Ok((self.limit, self.slow.into_iter().map(whose).collect::<Result<_, _>>()?))
    }
}
