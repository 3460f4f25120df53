//! What the module says of the #VEs that it raised: its log, line by line, and its totals. Pure.

use std::{collections::BTreeMap, str::FromStr};

use anyhow::{Context as _, Result, anyhow, bail};

/// What became of a #VE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// The kernel emulated the instruction.
    Handled,
    /// It did not.
    Failed,
    /// It has not come back.
    Open,
}

/// What a #VE was raised in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Context {
    /// A system call or a kernel thread.
    Task,
    /// A soft interrupt.
    Softirq,
    /// A hard interrupt.
    Hardirq,
    /// An NMI.
    Nmi,
    /// A program.
    User,
}

/// What the kernel's handler is given, and for which thread: what another observer sees as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    /// The thread that runs or was interrupted.
    pub(super) tid: u64,
    /// VMX exit reason.
    pub(super) reason: u64,
    /// Exit qualification.
    pub(super) qual: u64,
    /// Guest linear address; 0 where the reason has none.
    pub(super) gla: u64,
    /// Guest physical address with the shared bit; 0 where the reason has none.
    pub(super) gpa: u64,
    /// Length of the instruction in bytes; 0 for EPT violations.
    pub(super) len: u64,
    /// Address of the instruction.
    pub(super) ip: u64,
}

/// A line of the module's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Truth {
    /// What the kernel's handler got.
    pub(super) event: Event,
    /// Where it was raised.
    pub(super) context: Context,
    /// Symbol, offset and size of the instruction's function; `-` in user mode.
    pub(super) place: String,
    /// What should become of it.
    pub(super) expected: Outcome,
    /// What became of it.
    pub(super) outcome: Outcome,
    /// The name of the thread.
    pub(super) comm: String,
}

impl Truth {
    /// Whether it was raised in an interrupt of its thread.
    pub(super) fn is_interrupt(&self) -> bool {
        !matches!(self.context, Context::Task | Context::User)
    }
}

/// The whole log, which must begin with 1 and have no gap.
///
/// # Errors
/// With the first line that is not of the format.
pub(super) fn read(text: &str) -> Result<Vec<Truth>> {
    let lines = text.lines().zip(1..);
    lines
        .map(|(line, seq)| parse(line, seq).with_context(|| format!("the truth log has {line:?}")))
        .collect()
}

/// The columns are described in `xtask/lab/tdlab/control.c`.
fn parse(line: &str, seq: u64) -> Result<Truth> {
    let columns: Vec<_> = line.splitn(15, ' ').collect();
    let [
        number,
        reason,
        qual,
        gla,
        gpa,
        len,
        _,
        tid,
        _,
        context,
        ip,
        place,
        expected,
        outcome,
        comm,
    ] = columns[..]
    else {
        bail!("{} columns instead of 15", columns.len());
    };
    if number.parse() != Ok(seq) {
        bail!("it is number {seq}");
    }
    Ok(Truth {
        event: Event {
            tid: tid.parse()?,
            reason: reason.parse()?,
            qual: hex(qual)?,
            gla: hex(gla)?,
            gpa: hex(gpa)?,
            len: len.parse()?,
            ip: hex(ip)?,
        },
        context: context.parse()?,
        place: place.into(),
        expected: expected.parse()?,
        outcome: outcome.parse()?,
        comm: comm.into(),
    })
}

fn hex(digits: &str) -> Result<u64> {
    u64::from_str_radix(digits, 16).with_context(|| format!("{digits:?} is no number"))
}

impl FromStr for Outcome {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "handled" => Ok(Self::Handled),
            "failed" => Ok(Self::Failed),
            "open" => Ok(Self::Open),
            _ => bail!("{name:?} is no outcome"),
        }
    }
}

impl FromStr for Context {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "task" => Ok(Self::Task),
            "softirq" => Ok(Self::Softirq),
            "hardirq" => Ok(Self::Hardirq),
            "nmi" => Ok(Self::Nmi),
            "user" => Ok(Self::User),
            _ => bail!("{name:?} is no context"),
        }
    }
}

/// The module's totals by name; one that is not there is 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals(BTreeMap<String, u64>);

impl Totals {
    /// Reads lines of `<name> <count>`.
    ///
    /// # Errors
    /// With a line that is something else, or without the total of all.
    pub(super) fn read(text: &str) -> Result<Self> {
        let line = |line: &str| {
            let (name, count) = line.split_once(' ')?;
            Some((name.to_owned(), count.parse().ok()?))
        };
        let totals: BTreeMap<_, _> = text
            .lines()
            .map(|text| line(text).ok_or_else(|| anyhow!("the totals have {text:?}")))
            .collect::<Result<_>>()?;
        if !totals.contains_key("ve") {
            bail!("the totals have no ve");
        }
        Ok(Self(totals))
    }

    /// The total `name`.
    pub(super) fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// #VEs by exit reason.
    pub(super) fn reasons(&self) -> BTreeMap<u64, u64> {
        self.0
            .iter()
            .filter_map(|(name, count)| Some((name.strip_prefix("reason.")?.parse().ok()?, *count)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "1 48 181 ffffc90000012800 80000fea00800 0 77 78 1 hardirq \
                        ffffffffc0201234 shape_read_4+0x1b/0x40@[tdlab] handled failed a b";

    #[test]
    fn a_line_is_read_with_a_name_that_holds_blanks() {
        let truth = &read(LINE).unwrap()[0];
        assert_eq!(truth.event.tid, 78);
        assert_eq!(truth.event.reason, 48);
        assert_eq!(truth.event.gpa, 1 << 51 | 0xfea0_0800);
        assert_eq!(truth.event.ip, 0xffff_ffff_c020_1234);
        assert_eq!((truth.expected, truth.outcome), (Outcome::Handled, Outcome::Failed));
        assert_eq!((truth.context, truth.comm.as_str()), (Context::Hardirq, "a b"));
    }

    #[test]
    fn a_gap_or_a_missing_column_is_an_error() {
        assert!(read(&format!("{LINE}\n{LINE}")).is_err());
        assert!(read(&LINE.replace(" hardirq", "")).is_err());
        assert!(read(&LINE.replace("hardirq", "somewhere")).is_err());
        assert!(read(&LINE.replace("48 181", "48 0x181")).is_err());
    }

    #[test]
    fn totals_are_read_by_name_and_reason() {
        let totals = Totals::read("ve 3\nreason.10 1\nreason.48 2\nvmcall.48 2\n").unwrap();
        assert_eq!(totals.reasons(), BTreeMap::from([(10, 1), (48, 2)]));
        assert_eq!((totals.of("vmcall.48"), totals.of("vmcall.10")), (2, 0));
        assert!(Totals::read("reason.10 1\n").is_err());
        assert!(Totals::read("ve three\n").is_err());
    }
}
