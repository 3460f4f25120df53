//! Where time went and how long exits took: what the kernel's own trace says, and what tdtrace says of
//! the same vCPUs. Pure.
//!
//! `times.sh` has a scenario's script take the trace, of which [`ring`] reads the pages and [`trace`] the
//! events; [`told`] reads tdtrace's JSON; [`durations`] compares.

mod durations;
mod ring;
mod told;
mod trace;

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use serde_json::Value;
use tdtrace_common::{
    kvm,
    latency::{BUCKETS, bucket},
};

pub(super) use self::durations::Line;
use self::trace::{EVENTS, Event, Trace};
use super::{initramfs::Archive, vm::Report};

/// What durations are of: `exit` (a VM exit to the next entry) or `return` (in the VMM), and the reason.
type Class = (&'static str, String);

/// Durations of a class.
#[derive(Clone, Debug, PartialEq)]
struct Durations {
    /// All together, in nanoseconds.
    ns: u64,
    /// How many fell into each bucket.
    buckets: [u64; BUCKETS],
}

impl Default for Durations {
    fn default() -> Self {
        Self { ns: 0, buckets: [0; BUCKETS] }
    }
}

impl Durations {
    /// Adds one of `ns` nanoseconds.
    fn add(&mut self, ns: u64) {
        self.ns += ns;
        self.buckets[bucket(ns)] += 1;
    }

    /// How many there are.
    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bucket of the duration that `percent` percent are not above; `None` without any.
    fn rank(&self, percent: u64) -> Option<usize> {
        let rank = (self.count() * percent).div_ceil(100);
        let mut below = 0;
        self.buckets.iter().position(|count| {
            below += count;
            rank > 0 && below >= rank
        })
    }
}

/// Where the time of a thread went, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spent {
    /// From `kvm_entry` to `kvm_exit`.
    guest: u64,
    /// In KVM_RUN, but not in the guest. In tdtrace's numbers without waiting.
    outside: u64,
    /// Of that, halted. In tdtrace's numbers only while no CPU was waited for.
    halted: u64,
    /// In the VMM. In tdtrace's numbers without waiting.
    vmm: u64,
    /// Waiting for a CPU, in KVM_RUN or in the VMM; the trace does not know it.
    waiting: u64,
    /// Entries; tdtrace does not tell these and the next.
    entries: u64,
    /// Ways through the kernel.
    kernel: u64,
    /// Returns to the VMM after which KVM_RUN was called again.
    runs: u64,
    /// Halts that ended.
    wakeups: u64,
}

/// All that one side knows.
#[derive(Clone, Debug, Default, PartialEq)]
struct Times {
    /// By thread.
    threads: BTreeMap<u64, Spent>,
    /// By class, all threads together.
    classes: BTreeMap<Class, Durations>,
}

/// A thread's way through a trace.
#[derive(Debug, Default)]
struct Walk {
    phase: Option<Phase>,
    since: u64,
    /// The reason and time of the exit that has not been followed by an entry.
    exit: Option<(String, u64)>,
    returned: String,
    spent: Spent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Guest,
    Kernel,
    Vmm,
}

/// Puts what a script needs that sources `times.sh` into `archive`.
///
/// # Errors
/// When the archive has no room.
pub(super) fn pack(archive: &mut Archive) -> Result<()> {
    archive.file("lab/times.sh", include_bytes!("times/times.sh"))?;
    archive.file("lab/timed", format!("{}\n", EVENTS.join("\n")).as_bytes())
}

/// The times of a run, by the trace in `report` and by tdtrace's JSON; `name` as for [`of_trace`].
///
/// # Errors
/// When one of the two lost something that it need not lose, cannot be read, or knows other threads.
pub(super) fn compare(
    report: &Report,
    stat: &Value,
    name: impl FnMut(u64, u32) -> Result<String>,
) -> Result<Vec<Line>> {
    let formats = EVENTS
        .iter()
        .map(|event| trace::Format::parse(report.text(&format!("format/{event}"))?))
        .collect::<Result<Vec<_>>>()?;
    let cpus = report.below("trace/").map(ring::records).collect::<Result<Vec<_>>>()?;
    compare_trace(&trace::read(&cpus, &formats)?, stat, name)
}

fn compare_trace(
    trace: &Trace,
    stat: &Value,
    name: impl FnMut(u64, u32) -> Result<String>,
) -> Result<Vec<Line>> {
    durations::compare(&of_trace(trace, name)?, &told::told(stat)?, told::missed(stat)?)
}

/// Prints `all` lines or those that differ; how many differ.
pub(super) fn print(lines: &[Line], all: bool) -> usize {
    let differ = lines.iter().filter(|line| !line.agrees()).count();
    if all || differ > 0 {
        println!("{}", Line::header());
    }
    for line in lines.iter().filter(|line| all || !line.agrees()) {
        println!("{line}{}", if line.agrees() { "" } else { "  differs" });
    }
    differ
}

/// What the events of `trace` say; `name` is asked for the name of each exit with its thread and the
/// reason that `kvm_exit` shows, in the order of the thread.
///
/// # Errors
/// When the events of a thread do not follow each other as those of a vCPU do, or an exit has no name.
fn of_trace(trace: &Trace, mut name: impl FnMut(u64, u32) -> Result<String>) -> Result<Times> {
    let mut times = Times::default();
    for (tid, events) in trace {
        let mut walk = Walk::default();
        for (at, event) in events {
            let exit = match event {
                Event::Exit(reason) => Some(name(*tid, *reason)?),
                _ => None,
            };
            walk.step(*at, *event, exit, &mut times.classes)
                .ok_or_else(|| anyhow!("thread {tid} has {event:?} in phase {:?}", walk.phase))?;
        }
        times.threads.insert(*tid, walk.spent);
    }
    Ok(times)
}

impl Walk {
    /// `None` if `event` cannot be next; `exit` is its name if it is an exit.
    fn step(
        &mut self,
        at: u64,
        event: Event,
        exit: Option<String>,
        classes: &mut BTreeMap<Class, Durations>,
    ) -> Option<()> {
        let elapsed = at.checked_sub(self.since)?;
        let mut record = |span, name: &str, ns| {
            classes.entry((span, name.to_owned())).or_default().add(ns);
        };
        self.phase = Some(match (event, self.phase) {
            (Event::Fpu(true), None) => Phase::Kernel,
            (Event::Fpu(true), Some(Phase::Vmm)) => {
                record("return", &self.returned, elapsed);
                self.spent.vmm += elapsed;
                self.spent.runs += 1;
                Phase::Kernel
            }
            (Event::Fpu(false), Some(Phase::Kernel)) => return Some(()),
            (Event::Wakeup(ns), Some(Phase::Kernel)) => {
                self.spent.halted += ns;
                self.spent.wakeups += 1;
                return Some(());
            }
            (Event::Entry, Some(Phase::Kernel)) => {
                self.spent.outside += elapsed;
                self.spent.kernel += 1;
                self.spent.entries += 1;
                if let Some((reason, exit)) = self.exit.take() {
                    record("exit", &reason, at - exit);
                }
                Phase::Guest
            }
            (Event::Exit(_), Some(Phase::Guest)) => {
                self.spent.guest += elapsed;
                self.exit = Some((exit?, at));
                Phase::Kernel
            }
            (Event::Return(reason, errno), Some(Phase::Kernel)) => {
                self.spent.outside += elapsed;
                self.spent.kernel += 1;
                self.returned = return_name(reason, errno);
                Phase::Vmm
            }
            _ => return None,
        });
        self.since = at;
        Some(())
    }
}

/// A call that failed leaves the reason of the KVM_RUN before, except for memory faults.
fn return_name(reason: u32, errno: i32) -> String {
    const EINTR: i32 = -4;
    const EFAULT: i32 = -14;
    const MEMORY_FAULT: u32 = 39;
    match (errno, reason) {
        (EINTR, _) => "EINTR".to_owned(),
        (0.., _) | (EFAULT, MEMORY_FAULT) => {
            kvm::userspace_exit(reason).map_or_else(|| reason.to_string(), str::to_owned)
        }
        _ => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn trace() -> Trace {
        Trace::from([(
            7,
            vec![
                (1_000, Event::Fpu(true)),
                (2_000, Event::Entry),
                (5_000, Event::Exit(0x78)),
                (5_500, Event::Wakeup(400)),
                (6_000, Event::Entry),
                (6_100, Event::Exit(0x7b)),
                (6_200, Event::Fpu(false)),
                (6_300, Event::Return(2, 0)),
                (9_300, Event::Fpu(true)),
                (9_400, Event::Entry),
                (9_500, Event::Exit(0x60)),
                (9_600, Event::Fpu(false)),
                (9_700, Event::Return(2, -4)),
            ],
        )])
    }

    /// The reasons of SVM that it has.
    fn name(_: u64, reason: u32) -> Result<String> {
        let names = [(0x78, "HLT"), (0x7b, "IOIO"), (0x60, "INTR")];
        let name = names.iter().find(|(known, _)| *known == reason);
        Ok(name.ok_or_else(|| anyhow!("{reason:#x}"))?.1.to_owned())
    }

    #[test]
    fn a_trace_tells_where_time_went_and_how_long_exits_took() {
        let times = of_trace(&trace(), name).unwrap();
        let spent = Spent {
            guest: 3_200,
            outside: 2_500,
            halted: 400,
            vmm: 3_000,
            waiting: 0,
            entries: 3,
            kernel: 5,
            runs: 1,
            wakeups: 1,
        };
        assert_eq!(times.threads, BTreeMap::from([(7, spent)]));
        let classes: Vec<_> = times
            .classes
            .iter()
            .map(|((span, name), of)| (*span, name.as_str(), of.count(), of.ns))
            .collect();
        let expected =
            [("exit", "HLT", 1, 1_000), ("exit", "IOIO", 1, 3_300), ("return", "IO", 1, 3_000)];
        assert_eq!(classes, expected);
    }

    #[test]
    fn a_return_is_called_by_its_reason_unless_the_call_failed() {
        let names = [(2, 0), (2, -4), (39, -14), (2, -14), (2, -5), (999, 0)]
            .map(|(reason, errno)| return_name(reason, errno));
        assert_eq!(names, ["IO", "EINTR", "MEMORY_FAULT", "other", "other", "999"]);
    }

    #[test]
    fn an_exit_without_a_name_is_an_error() {
        assert!(of_trace(&trace(), |_, _| bail!("none")).is_err());
    }

    #[test]
    fn events_that_do_not_follow_each_other_are_an_error() {
        for missing in 0..12 {
            let mut trace = trace();
            let gone = trace.get_mut(&7).unwrap().remove(missing).1;
            let harmless = matches!(gone, Event::Wakeup(_) | Event::Fpu(false));
            assert_eq!(of_trace(&trace, name).is_ok(), harmless, "{gone:?}");
        }
    }
}
