//! The same exits as the tracepoint `kvm_exit` shows them: counted by a histogram trigger in the VM, held
//! against what the steps say that KVM makes of them, and printed beside tdtrace's names. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use anyhow::{Context as _, Result, anyhow, ensure};
use tdtrace_common::vmx;

use super::{
    compare::{Counts, Item, NO_STEP},
    steps,
    truth::Exit,
};
use crate::lab::hist::entries;

/// The counts of a histogram trigger by `exit_reason`.
///
/// # Errors
/// When it has none, or is not whole.
pub(super) fn told(hist: &str) -> Result<Counts> {
    let counts = entries(hist).context("the histogram of kvm_exit")?.into_iter().map(|entry| {
        let reason = entry.keys.get("exit_reason").copied();
        let reason = reason.ok_or_else(|| anyhow!("the histogram of kvm_exit has other keys"))?;
        Ok((Item::Shown { reason }, entry.hits))
    });
    let counts = counts.collect::<Result<Counts>>()?;
    ensure!(!counts.is_empty(), "the histogram of kvm_exit is empty");
    Ok(counts)
}

/// What KVM has to show.
pub(super) fn of_truth(exits: &[Exit]) -> Counts {
    let mut counts = Counts::new();
    for exit in exits {
        let reason = steps::find(exit.vcpu, exit.step).map_or(0, steps::Step::shown);
        *counts.entry(Item::Shown { reason }).or_default() += 1;
    }
    counts
}

/// KVM's reasons with what tdtrace, whose counts are `told`, calls the exits under them.
pub(super) fn table(shown: &Counts, told: &Counts) -> String {
    let mut names: BTreeMap<u64, BTreeMap<&str, u64>> = BTreeMap::new();
    for (item, count) in told {
        let Item::Exit { name, .. } = item else { continue };
        let reason = if name == NO_STEP { Some(0) } else { steps::shown_as(name) };
        if let Some(reason) = reason {
            *names.entry(reason).or_default().entry(name).or_default() += count;
        }
    }
    let mut text = String::from("kvm_exit, and what tdtrace calls the same exits\n");
    for (item, count) in shown {
        let Item::Shown { reason } = item else { continue };
        let _ = writeln!(text, "{reason:>6} {:<20} {count:>5}", name(*reason));
        for (name, count) in names.get(reason).into_iter().flatten() {
            let _ = writeln!(text, "{:>28} {count:>5}  {name}", "");
        }
    }
    text
}

fn name(reason: u64) -> &'static str {
    if reason == steps::UNDEFINED {
        return "(no name)";
    }
    u32::try_from(reason).ok().and_then(vmx::exit_reason).unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIST: &str = "# trigger info: hist:keys=exit_reason\n\n\
        { exit_reason:         77 } hitcount:         46\n\
        { exit_reason:      57005 } hitcount:          9\n\nTotals:\n    Hits: 55\n    Dropped: 0\n";

    #[test]
    fn a_histogram_is_read_and_one_that_dropped_is_an_error() {
        let counts = [(77, 46), (0xdead, 9)].map(|(reason, n)| (Item::Shown { reason }, n));
        assert_eq!(told(HIST).unwrap(), counts.into());
        assert!(told(&HIST.replace("Dropped: 0", "Dropped: 3")).is_err());
        assert!(told("Hits: 0\nDropped: 0").is_err());
    }

    #[test]
    fn the_table_has_the_names_under_the_reason_that_hides_them() {
        let exit = |name: &str, count| (Item::Exit { tid: 1, name: name.to_owned() }, count);
        let exits = [exit("TDVMCALL GetQuote", 4), exit("VP.ENTER OPERAND_BUSY", 9)].into();
        let text = table(&told(HIST).unwrap(), &exits);
        let lines: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["77", "TDCALL", "46"]);
        assert_eq!(lines[1], ["4", "TDVMCALL", "GetQuote"]);
        assert_eq!(lines[3], ["9", "VP.ENTER", "OPERAND_BUSY"]);
    }
}
