//! The events of a vCPU's way through KVM_RUN in a ftrace ring buffer, thread by thread. Pure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::ring::Record;

/// The tracepoints, all of group `kvm`.
pub(super) const EVENTS: [&str; 5] =
    ["kvm_entry", "kvm_exit", "kvm_fpu", "kvm_userspace_exit", "kvm_vcpu_wakeup"];

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// `kvm_entry`.
    Entry,
    /// `kvm_exit` with its SVM exit code.
    Exit(u32),
    /// `kvm_fpu`: KVM_RUN began (true) or ended.
    Fpu(bool),
    /// `kvm_userspace_exit` with `KVM_EXIT_*` and errno.
    Return(u32, i32),
    /// `kvm_vcpu_wakeup` with the nanoseconds of the halt.
    Wakeup(u64),
}

/// Events with their time in nanoseconds, by thread and in order.
pub(super) type Trace = BTreeMap<u64, Vec<(u64, Event)>>;

/// Where a record has its fields: what an event's `format` file says.
#[derive(Debug)]
pub(super) struct Format {
    id: u64,
    /// Offset and size by name.
    fields: BTreeMap<String, (usize, usize)>,
}

impl Format {
    /// Reads the text of a `format` file.
    ///
    /// # Errors
    /// When it has no number.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let id = text.lines().find_map(|line| line.strip_prefix("ID: ")?.trim().parse().ok());
        let fields = text.lines().filter_map(|line| {
            let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
            let name = parts.next()?.rsplit(' ').next()?.to_owned();
            let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
            let size = parts.next()?.strip_prefix("size:")?.parse().ok()?;
            Some((name, (offset, size)))
        });
        let id = id.ok_or_else(|| anyhow!("a format file has no ID"))?;
        Ok(Self { id, fields: fields.collect() })
    }

    /// The field `name` of a record, its bytes as an unsigned number.
    fn get(&self, data: &[u8], name: &str) -> Result<u64> {
        let field = self.fields.get(name);
        let (offset, size) = *field.ok_or_else(|| anyhow!("event {} has no {name}", self.id))?;
        let mut bytes = [0; 8];
        let (Some(room), Some(value)) = (bytes.get_mut(..size), data.get(offset..offset + size))
        else {
            bail!("a record of event {} is too short for {name}", self.id);
        };
        room.copy_from_slice(value);
        Ok(u64::from_le_bytes(bytes))
    }
}

/// Reads the records of all CPUs; `formats` are those of [`EVENTS`].
///
/// # Errors
/// When a record is none of them or has not their fields.
pub(super) fn read(cpus: &[Vec<Record<'_>>], formats: &[Format]) -> Result<Trace> {
    let mut trace = Trace::new();
    for record in cpus.iter().flatten() {
        let id = record.data.first_chunk().map(|id| u64::from(u16::from_le_bytes(*id)));
        let known = formats.iter().zip(EVENTS).find(|(format, _)| Some(format.id) == id);
        let (format, name) = known.ok_or_else(|| anyhow!("the trace has event {id:?}"))?;
        let event = event(format, name, record.data)?;
        let tid = format.get(record.data, "common_pid")?;
        trace.entry(tid).or_default().push((record.at, event));
    }
    for events in trace.values_mut() {
        // A thread that migrated has its events on more than one CPU.
        events.sort_by_key(|(at, _)| *at);
    }
    Ok(trace)
}

/// Nanoseconds that are known to lie between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: u64,
    pub(super) most: u64,
}

impl Bounds {
    /// From a moment within `since` to one within this.
    pub(super) fn since(self, since: Self) -> Self {
        Self {
            least: self.least.saturating_sub(since.most),
            most: self.most.saturating_sub(since.least),
        }
    }

    /// Adds a time that lies within `other`.
    pub(super) fn add(&mut self, other: Self) {
        self.least += other.least;
        self.most += other.most;
    }
}

/// Events by thread and in order, each at a moment between the two at which it was traced.
pub(super) type Bounded = BTreeMap<u64, Vec<(Bounds, Event)>>;

/// The traces on both sides of tdtrace as one.
///
/// # Errors
/// When they do not have the same events, or `after` has one before `before` has it.
pub(super) fn bounded(before: &Trace, after: &Trace) -> Result<Bounded> {
    ensure!(before.keys().eq(after.keys()), "the two traces have other threads");
    let mut bounded = Bounded::new();
    for (tid, events) in before {
        let others = &after[tid];
        let counts = (events.len(), others.len());
        ensure!(counts.0 == counts.1, "thread {tid} has {counts:?} events");
        let pairs = events.iter().zip(others).map(|((least, event), (most, other))| {
            ensure!(
                event == other && least <= most,
                "thread {tid} has {event:?} at {least} and {other:?} at {most}"
            );
            Ok((Bounds { least: *least, most: *most }, *event))
        });
        bounded.insert(*tid, pairs.collect::<Result<_>>()?);
    }
    Ok(bounded)
}

#[expect(clippy::cast_possible_truncation, reason = "an int, read as its four bytes")]
fn event(format: &Format, name: &str, data: &[u8]) -> Result<Event> {
    let number = |field: &str| -> Result<u32> {
        u32::try_from(format.get(data, field)?).with_context(|| format!("{name}: {field}"))
    };
    Ok(match name {
        "kvm_entry" => Event::Entry,
        "kvm_exit" => Event::Exit(number("exit_reason")?),
        "kvm_fpu" => Event::Fpu(number("load")? != 0),
        "kvm_userspace_exit" => {
            Event::Return(number("reason")?, (format.get(data, "errno")? as u32).cast_signed())
        }
        _ => Event::Wakeup(format.get(data, "ns")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(id: u16, fields: &str) -> Format {
        let text = format!(
            "name: x\nID: {id}\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
             \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n{fields}\nprint fmt: \"\"\n"
        );
        Format::parse(&text).unwrap()
    }

    fn formats() -> [Format; 5] {
        let field = |name: &str, offset: u32, size: u32| {
            format!("\tfield:unsigned int {name};\toffset:{offset};\tsize:{size};\tsigned:0;\n")
        };
        [
            format(1, ""),
            format(2, &field("exit_reason", 8, 4)),
            format(3, &field("load", 8, 4)),
            format(4, &(field("reason", 8, 4) + &field("errno", 12, 4))),
            format(5, &field("ns", 8, 8)),
        ]
    }

    fn data(id: u16, tid: u32, rest: &[u32]) -> Vec<u8> {
        let mut data = [id.to_le_bytes(), [0; 2]].concat();
        data.extend(tid.to_le_bytes());
        data.extend(rest.iter().flat_map(|word| word.to_le_bytes()));
        data
    }

    #[test]
    fn a_thread_that_migrated_has_its_events_in_order() {
        let bytes = [data(3, 7, &[1]), data(2, 7, &[0x78]), data(5, 7, &[9, 1]), data(1, 8, &[])];
        let last = data(4, 7, &[4, (-4_i32).cast_unsigned()]);
        let at = |at, data| Record { at, data };
        let cpus = [
            vec![at(10, &bytes[0][..]), at(40, &last)],
            vec![at(20, &bytes[1][..]), at(25, &bytes[3]), at(30, &bytes[2])],
        ];
        let trace = read(&cpus, &formats()).unwrap();
        let expected = [
            (10, Event::Fpu(true)),
            (20, Event::Exit(0x78)),
            (30, Event::Wakeup(9 + (1 << 32))),
            (40, Event::Return(4, -4)),
        ];
        assert_eq!(trace[&7], expected);
        assert_eq!(trace[&8], [(25, Event::Entry)]);
    }

    #[test]
    fn two_traces_are_one_if_they_have_the_same_events_in_order() {
        let trace = |events: &[(u64, Event)]| Trace::from([(7, events.to_vec())]);
        let before = trace(&[(10, Event::Entry), (20, Event::Exit(1))]);
        let after = [(12, Event::Entry), (25, Event::Exit(1))];
        let both = bounded(&before, &trace(&after)).unwrap();
        let [(entry, _), (exit, Event::Exit(1))] = both[&7][..] else { panic!("{both:?}") };
        assert_eq!(exit.since(entry), Bounds { least: 8, most: 15 });
        assert_eq!(entry.since(exit).least, 0);
        let early = [(9, Event::Entry), (25, Event::Exit(1))];
        let other = [(12, Event::Entry), (25, Event::Exit(2))];
        for after in [&after[..1], &early, &other, &[]] {
            assert!(bounded(&before, &trace(after)).is_err(), "{after:?}");
        }
        assert!(bounded(&before, &Trace::new()).is_err());
    }

    #[test]
    fn records_that_do_not_fit_are_errors() {
        let read = |data: &[u8]| read(&[vec![Record { at: 1, data }]], &formats());
        assert!(read(&data(9, 7, &[])).is_err());
        assert!(read(&data(2, 7, &[])).is_err());
        assert!(read(&[1]).is_err());
        assert!(Format::parse("name: kvm_exit\n").is_err());
    }
}
