//! The times of the TDs' exits: the kernel's own trace of them against tdtrace's, under the names that the
//! truth log gives them. Pure.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;

use super::{
    compare::NO_STEP,
    steps::{self, Step},
    truth::Exit,
};
use crate::lab::{
    times::{self, Line},
    vm::Report,
};

/// The exits of each thread that the trace has not come to, in order.
struct Names<'a>(BTreeMap<u64, VecDeque<&'a Exit>>);

impl<'a> Names<'a> {
    fn new(exits: &'a [Exit]) -> Self {
        let mut names: BTreeMap<u64, VecDeque<_>> = BTreeMap::new();
        for exit in exits {
            names.entry(exit.tid).or_default().push_back(exit);
        }
        Self(names)
    }

    /// The name of the next exit of thread `tid`, which `kvm_exit` shows as `reason`.
    fn next(&mut self, tid: u64, reason: u32) -> Result<String> {
        let exit = self.0.get_mut(&tid).and_then(VecDeque::pop_front);
        let exit =
            exit.ok_or_else(|| anyhow!("the trace has an exit {reason} of {tid} too much"))?;
        let step = steps::find(exit.vcpu, exit.step);
        let (name, shown) = step.map_or((NO_STEP, 0), |step| (step.name, Step::shown(step)));
        ensure!(
            u64::from(reason) == shown,
            "the trace has {reason} where thread {tid} made {name}, which is {shown}"
        );
        Ok(name.to_owned())
    }

    /// Whether the trace had them all.
    fn end(&self) -> Result<()> {
        let left: Vec<_> = self.0.iter().map(|(tid, exits)| (tid, exits.len())).collect();
        ensure!(left.iter().all(|(_, count)| *count == 0), "exits not in the trace: {left:?}");
        Ok(())
    }
}

/// The times of a run: its trace, the truth log's `exits`, and tdtrace's JSON.
///
/// # Errors
/// When the trace and the log do not have the same exits, or one of the two sides lost or lacks something.
pub(super) fn compare(report: &Report, exits: &[Exit], stat: &Value) -> Result<Vec<Line>> {
    let mut names = Names::new(exits);
    let lines = times::compare(report, stat, |tid, reason| names.next(tid, reason))?;
    names.end()?;
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exits_of_a_thread_have_the_names_of_the_log_in_its_order() {
        let exit = |tid, step| Exit { vcpu: 0, tid, step, answer: None, returns: Vec::new() };
        // WRMSR and CPUID of one, IO out of another, and an entry that no step was left for.
        let exits = [exit(60, 1), exit(61, 4), exit(60, 2), exit(60, 0)];
        let mut names = Names::new(&exits);
        assert_eq!(names.next(60, 32).unwrap(), "TDVMCALL WRMSR");
        assert_eq!(names.next(60, 10).unwrap(), "TDVMCALL CPUID");
        assert!(names.end().is_err());
        assert_eq!(names.next(61, 30).unwrap(), "TDVMCALL IO out");
        assert_eq!(names.next(60, 0).unwrap(), NO_STEP);
        names.end().unwrap();
        assert!(names.next(60, 10).is_err() && names.next(62, 10).is_err());
        assert!(Names::new(&exits).next(60, 10).is_err());
    }
}
