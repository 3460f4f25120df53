//! What the module that plays the TDX module noted: the lines that its `control.c` describes. Pure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};

/// An exit of a TD's vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    /// Number of the vCPU by creation.
    pub(super) vcpu: u64,
    pub(super) tid: u64,
    /// Number of the guest's step, from 1 on; 0 if there was none.
    pub(super) step: usize,
    /// R10 when KVM entered again.
    pub(super) answer: Option<u64>,
    /// Exit reasons with which KVM_RUN came back until then.
    pub(super) returns: Vec<u64>,
}

/// A SEAMCALL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) tid: u64,
    pub(super) leaf: u64,
    pub(super) status: u64,
}

/// Calls by leaf and status.
pub(super) type Seamcalls = BTreeMap<(u64, u64), u64>;

/// The lines of `exits`.
///
/// # Errors
/// When a line is not of the format.
pub(super) fn exits(text: &str) -> Result<Vec<Exit>> {
    text.lines().map(|line| exit(line).with_context(|| format!("the exit {line:?}"))).collect()
}

fn exit(line: &str) -> Result<Exit> {
    let mut words = line.split_whitespace();
    let mut word = || words.next().ok_or_else(|| anyhow!("a word is missing"));
    let (vcpu, tid, step) = (number(word()?)?, number(word()?)?, word()?.parse()?);
    let answer = match word()? {
        "-" => None,
        answer => Some(number(answer)?),
    };
    let returns = words.map(number).collect::<Result<_>>()?;
    Ok(Exit { vcpu, tid, step, answer, returns })
}

/// The lines of `seamcalls`.
///
/// # Errors
/// When a line is not of the format.
pub(super) fn calls(text: &str) -> Result<Vec<Call>> {
    let call = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [tid, leaf, status] = words[..] else { bail!("the SEAMCALL {line:?}") };
        Ok(Call { tid: number(tid)?, leaf: number(leaf)?, status: number(status)? })
    };
    text.lines().map(call).collect()
}

/// The same, counted.
pub(super) fn by_status(calls: &[Call]) -> Seamcalls {
    let mut counts = Seamcalls::new();
    for call in calls {
        *counts.entry((call.leaf, call.status)).or_default() += 1;
    }
    counts
}

/// A number as C has it.
///
/// # Errors
/// When it is none.
pub(super) fn number(word: &str) -> Result<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    }
    .with_context(|| format!("{word:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_has_its_answer_and_what_came_back() {
        let read = exits("0 62 7 0x8000000000000003 3 3\n1 63 2 -\n").unwrap();
        let first = Exit {
            vcpu: 0,
            tid: 62,
            step: 7,
            answer: Some(0x8000_0000_0000_0003),
            returns: vec![3, 3],
        };
        let second = Exit { vcpu: 1, tid: 63, step: 2, answer: None, returns: Vec::new() };
        assert_eq!(read, [first, second]);
        assert!(exits("0 62\n").is_err() && exits("0 62 x -\n").is_err());
    }

    #[test]
    fn seamcalls_are_counted_by_leaf_and_status() {
        let read = calls("5 6 0x0\n5 6 0x0\n5 6 0x8000020000000092\n").unwrap();
        assert_eq!(read[2], Call { tid: 5, leaf: 6, status: 0x8000_0200_0000_0092 });
        assert_eq!(by_status(&read), [((6, 0), 2), ((6, 0x8000_0200_0000_0092), 1)].into());
        assert!(calls("5 6\n").is_err());
    }
}
