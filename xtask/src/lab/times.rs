//! Where time went and how long exits took: what the kernel's own trace says, and what tdtrace says of
//! the same vCPUs. Pure.
//!
//! `times.sh` takes the trace twice, before and after tdtrace's programs have run on an event, so that each
//! moment that they read from the clock lies between two that are known. [`ring`] reads the pages and
//! [`trace`] the events; [`told`] reads tdtrace's JSON; [`durations`] compares.

mod durations;
mod ring;
mod told;
mod trace;

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use serde_json::Value;
use tdtrace_common::kvm;

pub(super) use self::durations::Line;
use self::trace::{Bounded, Bounds, EVENTS, Event};
use super::{initramfs::Archive, vm::Report};

/// What durations are of: `exit` (a VM exit to the next entry) or `return` (in the VMM), and the reason.
type Class = (&'static str, String);

/// Where the time of a thread went, by its trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Spent {
    /// From `kvm_entry` to `kvm_exit`.
    guest: Bounds,
    /// In KVM_RUN, but not in the guest.
    outside: Bounds,
    /// Of that, halted, in nanoseconds.
    halted: u64,
    entries: u64,
    /// Ways through the kernel.
    kernel: u64,
    /// Halts that ended.
    wakeups: u64,
}

/// What a trace says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Times {
    /// By thread.
    threads: BTreeMap<u64, Spent>,
    /// Durations by class, all threads together.
    classes: BTreeMap<Class, Vec<Bounds>>,
}

/// A thread's way through a trace.
#[derive(Debug, Default)]
struct Walk {
    phase: Option<Phase>,
    since: Bounds,
    /// The reason and time of the exit that has not been followed by an entry.
    exit: Option<(String, Bounds)>,
    returned: String,
    spent: Spent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Guest,
    Kernel,
    Vmm,
}

/// Puts `times.sh` and what it needs into `archive`.
///
/// # Errors
/// When a file is too large for the archive.
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
    let trace = |side: &str| {
        let cpus = report.below(side).map(ring::records).collect::<Result<Vec<_>>>()?;
        trace::read(&cpus, &formats)
    };
    compare_trace(&trace::bounded(&trace("before/")?, &trace("after/")?)?, stat, name)
}

fn compare_trace(
    trace: &Bounded,
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
fn of_trace(trace: &Bounded, mut name: impl FnMut(u64, u32) -> Result<String>) -> Result<Times> {
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
        at: Bounds,
        event: Event,
        exit: Option<String>,
        classes: &mut BTreeMap<Class, Vec<Bounds>>,
    ) -> Option<()> {
        let elapsed = at.since(self.since);
        let mut record = |span, name: &str, bounds| {
            classes.entry((span, name.to_owned())).or_default().push(bounds);
        };
        self.phase = Some(match (event, self.phase) {
            (Event::Fpu(true), None) => Phase::Kernel,
            (Event::Fpu(true), Some(Phase::Vmm)) => {
                record("return", &self.returned, elapsed);
                Phase::Kernel
            }
            (Event::Fpu(false), Some(Phase::Kernel)) => return Some(()),
            (Event::Wakeup(ns), Some(Phase::Kernel)) => {
                self.spent.halted += ns;
                self.spent.wakeups += 1;
                return Some(());
            }
            (Event::Entry, Some(Phase::Kernel)) => {
                self.spent.outside.add(elapsed);
                self.spent.kernel += 1;
                self.spent.entries += 1;
                if let Some((reason, exit)) = self.exit.take() {
                    record("exit", &reason, at.since(exit));
                }
                Phase::Guest
            }
            (Event::Exit(_), Some(Phase::Guest)) => {
                self.spent.guest.add(elapsed);
                self.exit = Some((exit?, at));
                Phase::Kernel
            }
            (Event::Return(reason, errno), Some(Phase::Kernel)) => {
                self.spent.outside.add(elapsed);
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
    const EHWPOISON: i32 = -133;
    const MEMORY_FAULT: u32 = 39;
    match (errno, reason) {
        (EINTR, _) => "EINTR".to_owned(),
        (EHWPOISON, MEMORY_FAULT) => "MEMORY_FAULT_HWPOISON".to_owned(),
        (0.., _) | (EFAULT, MEMORY_FAULT) => {
            kvm::userspace_exit(reason).map_or_else(|| reason.to_string(), str::to_owned)
        }
        _ => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;
    use serde_json::json;
    use tdtrace_common::latency::{bucket, bucket_start};

    use super::*;

    fn trace() -> Bounded {
        let events = [
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
        ];
        let at = |ns| Bounds { least: ns, most: ns + 10 };
        Bounded::from([(7, events.map(|(ns, event)| (at(ns), event)).to_vec())])
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
        // Each end of a phase is known to 10 ns.
        let about =
            |ns: u64, phases: u64| Bounds { least: ns - 10 * phases, most: ns + 10 * phases };
        let spent = Spent {
            guest: about(3_200, 3),
            outside: about(2_500, 5),
            halted: 400,
            entries: 3,
            kernel: 5,
            wakeups: 1,
        };
        assert_eq!(times.threads, BTreeMap::from([(7, spent)]));
        let class = |span, name: &str, ns| ((span, name.to_owned()), vec![about(ns, 1)]);
        let expected = [
            class("exit", "HLT", 1_000),
            class("exit", "IOIO", 3_300),
            class("return", "IO", 3_000),
        ];
        assert_eq!(times.classes, expected.into());
    }

    /// What tdtrace says of the same, with all clocks read in the middle.
    fn stat() -> Value {
        let row = |span, name, ns: u64| {
            json!({"span": span, "name": name, "count": 1, "ns": {"kernel": ns},
                "buckets": [[bucket_start(bucket(ns)), 1]],
                "p50": ns, "p90": ns, "p99": ns, "p999": ns, "max": ns})
        };
        let rows =
            [row("exit", "HLT", 1_000), row("exit", "IOIO", 3_300), row("return", "IO", 3_000)];
        let times = json!({"guest": 3_200, "kernel": 2_100, "halted": 400, "waiting": 0});
        json!({
            "vms": [{ "vcpus": [{ "tid": 7, "times_ns": times }], "latency": rows }],
            "lost": { "durations_without_room": 0, "recursion_misses": {}, "unpaired_durations": 0 },
        })
    }

    #[test]
    fn a_moment_that_is_shifted_makes_each_time_differ_that_begins_or_ends_with_it() {
        let differing = |trace: &Bounded, stat: &Value| {
            let lines = compare_trace(trace, stat, name).unwrap();
            assert_eq!(lines.len(), 6);
            let lines = lines.iter().filter(|line| !line.agrees());
            lines.filter_map(Line::occurred).map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(differing(&trace(), &stat()).is_empty());
        for (event, by, times) in [
            (2, 400, &["guest", "kernel", "exit HLT"][..]),
            (4, 90, &["guest", "kernel", "exit HLT"]),
            (7, 1_000, &["kernel", "return IO"]),
            (9, 60, &["guest", "kernel", "exit IOIO"]),
        ] {
            let mut trace = trace();
            let (at, _) = &mut trace.get_mut(&7).unwrap()[event];
            at.add(Bounds { least: by, most: by });
            assert_eq!(differing(&trace, &stat()), times, "event {event}");
        }
        let mut stat = stat();
        stat["vms"][0]["latency"][0]["ns"]["kernel"] = 1_021.into();
        assert_eq!(differing(&trace(), &stat), ["exit HLT"]);
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
