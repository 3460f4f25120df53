//! What comes of a check. Pure.

use std::process::ExitStatus;

use tdtrace_common::guest::GuestLoss;

use super::{allow::Entry, date::Date, fail_on::FailOn, place::Place};
use crate::{
    model::guest::{
        finding::Finding,
        snapshot::{GuestSnapshot, Site},
    },
    verdict::Kind,
};

/// How a check ends. Of several reasons the first in this order decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// There are findings that fail it.
    Findings,
    /// The command failed, so that what was to be checked may not have happened.
    Command,
    /// Something was lost, so that there may be findings that nobody saw.
    Incomplete,
    /// Nothing.
    Passed,
}

impl End {
    /// The exit code. 1 is tdtrace's own failure and 2 wrong usage.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Findings => 3,
            Self::Command => 4,
            Self::Incomplete => 5,
        }
    }

    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Findings => "findings",
            Self::Command => "command_failed",
            Self::Incomplete => "incomplete",
        }
    }
}

/// What a check is held against.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Entries of all allowlists.
    pub allowed: Vec<Entry>,
    /// Which findings fail it.
    pub fail_on: FailOn,
    /// Whether it may pass although something was lost.
    pub allow_losses: bool,
    /// The day.
    pub today: Date,
}

/// How the counting ended.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// How the command ended, if there was one.
    pub status: Option<ExitStatus>,
    /// Why less was counted than was asked for, as a sentence.
    pub cut: Option<String>,
}

/// A finding and what the check makes of it.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// It.
    pub finding: &'a Finding,
    /// Where it is.
    pub place: Place<'a>,
    /// The first entry that allows it.
    pub allowed: Option<&'a Entry>,
    /// The first entry that would, and has expired; only if none allows it.
    pub expired: Option<&'a Entry>,
    /// Whether it fails the check.
    pub fails: bool,
    /// How many of the same rule, function and form come before it by address: what tells them apart
    /// in other builds.
    pub ordinal: usize,
}

/// The outcome of a check.
#[derive(Clone, Debug)]
pub struct Outcome<'a> {
    /// What was looked at.
    pub snapshot: &'a GuestSnapshot,
    /// What it was held against.
    pub terms: &'a Terms,
    /// Every finding, in the order of the snapshot.
    pub findings: Vec<Judged<'a>>,
    /// Entries that nothing needed: no finding that they apply to.
    pub unused: Vec<&'a Entry>,
    /// Entries that have expired, whether something needed them or not.
    pub expired: Vec<&'a Entry>,
    /// What was lost, in sentences: because of it there may be more findings.
    pub lost: Vec<String>,
    /// What could not be looked at here, in sentences, whatever happens.
    pub blind: Vec<String>,
    /// How the command failed, if it did.
    pub command: Option<String>,
    /// How it ends.
    pub end: End,
}

impl<'a> Outcome<'a> {
    /// Holds the findings of `snapshot` against `terms`.
    #[must_use]
    pub fn new(snapshot: &'a GuestSnapshot, terms: &'a Terms, run: Run) -> Self {
        let mut findings: Vec<Judged<'a>> =
            snapshot.findings.iter().map(|finding| judge(finding, snapshot, terms)).collect();
        number(&mut findings);
        let is_unused = |entry: &&Entry| {
            !findings.iter().any(|judged| entry.applies(judged.finding.rule, judged.place))
        };
        let (expired, lasting): (Vec<_>, Vec<_>) =
            terms.allowed.iter().partition(|entry| entry.is_expired(terms.today));
        let unused = lasting.into_iter().filter(is_unused).collect();
        let command = run.status.filter(|status| !status.success()).map(failure);
        let lost: Vec<String> = run.cut.into_iter().chain(lost(snapshot)).collect();
        let end = if findings.iter().any(|judged| judged.fails) {
            End::Findings
        } else if command.is_some() {
            End::Command
        } else if !lost.is_empty() && !terms.allow_losses {
            End::Incomplete
        } else {
            End::Passed
        };
        let blind = blind(snapshot);
        Self { snapshot, terms, findings, unused, expired, lost, blind, command, end }
    }

    /// How many findings fail the check, are allowed, and are neither.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        let failing = self.findings.iter().filter(|judged| judged.fails).count();
        let allowed = self.findings.iter().filter(|judged| judged.allowed.is_some()).count();
        [failing, allowed, self.findings.len() - failing - allowed]
    }
}

fn judge<'a>(finding: &'a Finding, snapshot: &'a GuestSnapshot, terms: &'a Terms) -> Judged<'a> {
    let place = Place::of(finding, snapshot);
    let applies = |entry: &&Entry| entry.applies(finding.rule, place);
    let (expired, lasting): (Vec<_>, Vec<_>) =
        terms.allowed.iter().filter(applies).partition(|entry| entry.is_expired(terms.today));
    let allowed = lasting.first().copied();
    Judged {
        finding,
        place,
        allowed,
        expired: expired.first().copied().filter(|_| allowed.is_none()),
        fails: allowed.is_none() && terms.fail_on.has(finding.rule),
        ordinal: 0,
    }
}

/// Numbers findings of the same rule, function and form in the order of their addresses.
fn number(findings: &mut [Judged<'_>]) {
    let address = |judged: &Judged<'_>| match judged.place {
        Place::Site(site) => site.ip,
        Place::Call(_) | Place::Guest => None,
    };
    let mut order: Vec<usize> = (0..findings.len()).collect();
    order.sort_by_key(|&index| address(&findings[index]));
    let mut seen = std::collections::HashMap::new();
    for index in order {
        let key = findings[index].identity();
        let before: &mut usize = seen.entry(key).or_default();
        findings[index].ordinal = *before;
        *before += 1;
    }
}

impl Judged<'_> {
    /// What stays of it in other builds: rule, module, function and form, no addresses, no offsets.
    #[must_use]
    pub fn identity(&self) -> String {
        let process = match self.place {
            Place::Site(site) if site.user => site.comm.as_str(),
            _ => "",
        };
        let parts = [
            self.finding.rule.id(),
            self.place.module().unwrap_or_default(),
            self.place.function().unwrap_or(process),
            &self.place.form(),
        ];
        parts.join("/")
    }
}

fn failure(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the command failed with exit code {code}"),
        (None, Some(signal)) => format!("the command was ended by signal {signal}"),
        (None, None) => "the command did not end by itself".to_owned(),
    }
}

/// What was lost and could have been a finding. How long a #VE took and the
/// buffer of events decide no rule.
fn lost(snapshot: &GuestSnapshot) -> Vec<String> {
    let mut lost = Vec::new();
    let mut say = |count: u64, what: &str| {
        if count > 0 {
            lost.push(format!("{count} {what}"));
        }
    };
    let of = |loss| snapshot.losses.of(loss);
    let nowhere = |site: &&Site| site.ip.is_none();
    say(snapshot.missed, "#VEs were missed: the kernel skipped the program at their end");
    say(
        snapshot.sites.iter().filter(nowhere).fold(0, |sum, site| sum.saturating_add(site.count)),
        "#VEs have no address: the kernel skipped the program at their beginning, or they had begun \
         before it was attached",
    );
    say(of(GuestLoss::Places), "#VEs found no room for their place; give a greater --max-places");
    say(of(GuestLoss::Unread), "#VEs came with registers that could not be read");
    say(of(GuestLoss::Calls), "conversions, acceptances, quotes or bounces found no room");
    say(
        of(GuestLoss::UnpairedCalls),
        "conversions, acceptances or quotes have no duration, so a slow one may not be known",
    );
    for (program, count) in &snapshot.losses.misses {
        // Those of #VEs are counted above, where a beginning without its end is no second loss.
        if !program.starts_with("ve_") {
            say(*count, &format!("runs of {program} were skipped by the kernel"));
        }
    }
    let without = snapshot.probes.iter().find(|probe| probe.name == "ve" && probe.how.is_none());
    if let Some(probe) = without {
        let why = probe.missing.as_deref().unwrap_or("its probe is not attached");
        lost.push(format!("no #VE was seen: {why}"));
    }
    lost
}

/// What this kernel, or these files, do not let anybody see.
fn blind(snapshot: &GuestSnapshot) -> Vec<String> {
    let mut blind: Vec<String> = snapshot
        .probes
        .iter()
        .filter(|probe| probe.how.is_none() && probe.name != "ve")
        .map(|probe| {
            let why = probe.missing.as_deref().unwrap_or("not attached");
            format!("not seen: {}; {why}", probe.hides)
        })
        .collect();
    let undecided =
        |site: &&Site| site.verdict.as_ref().is_some_and(|verdict| verdict.kind == Kind::Undecided);
    let sites = snapshot.sites.iter().filter(undecided).count();
    if sites > 0 {
        blind.push(format!(
            "{sites} places are undecided: without debug information nobody can tell whether they \
             go through io.h; give --vmlinux, --module or --debug-dir"
        ));
    }
    if snapshot.layout_assumed {
        blind.push("there is no BTF: the layout of the kernel's structures is assumed".to_owned());
    }
    blind
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;
    use crate::{
        check::{
            allow,
            testing::{overlay, snapshot},
        },
        model::guest::{
            finding::{Rule, Subject},
            sample::{GuestLosses, GuestProbeState},
        },
    };

    fn terms(allowlist: &str) -> Terms {
        Terms {
            allowed: allow::parse("allow.toml", allowlist).unwrap(),
            fail_on: FailOn::default(),
            allow_losses: false,
            today: Date { year: 2026, month: 11, day: 21 },
        }
    }

    fn ended(raw: i32) -> Run {
        Run { status: Some(ExitStatus::from_raw(raw)), cut: None }
    }

    const EVERYTHING: &str = "[[allow]]\nrule = [\"undecodable-mmio\", \"non-io-mmio\", \
                              \"user-port-io\"]\nreason = \"known\"\n";

    #[test]
    fn findings_of_warnings_and_errors_fail_and_notes_do_not() {
        let (snapshot, terms) = (snapshot(), terms(""));
        let outcome = Outcome::new(&snapshot, &terms, Run::default());
        assert_eq!((outcome.end, outcome.counts()), (End::Findings, [3, 0, 2]));
        let fails: Vec<bool> = outcome.findings.iter().map(|judged| judged.fails).collect();
        assert_eq!(fails, [true, true, true, false, false]);
    }

    #[test]
    fn what_is_allowed_fails_nothing_and_names_its_entry() {
        let (snapshot, terms) = (snapshot(), terms(EVERYTHING));
        let outcome = Outcome::new(&snapshot, &terms, Run::default());
        assert_eq!((outcome.end, outcome.counts()), (End::Passed, [0, 3, 2]));
        assert_eq!(outcome.findings[0].allowed.unwrap().to_string(), "allow.toml:1");
        assert!(outcome.unused.is_empty() && outcome.expired.is_empty());
    }

    #[test]
    fn an_expired_entry_allows_nothing_and_a_lasting_one_beside_it_does() {
        let expired = EVERYTHING.replace("reason", "expires = 2026-11-20\nreason");
        let (snapshot, one) = (snapshot(), terms(&expired));
        let outcome = Outcome::new(&snapshot, &one, Run::default());
        assert_eq!(
            (outcome.end, outcome.expired.len(), outcome.unused.len()),
            (End::Findings, 1, 0)
        );
        assert_eq!(outcome.findings[0].expired.unwrap().line, 1);
        let both = terms(&format!("{expired}{EVERYTHING}"));
        let outcome = Outcome::new(&snapshot, &both, Run::default());
        assert_eq!((outcome.end, outcome.expired.len()), (End::Passed, 1));
        assert!(outcome.findings[0].expired.is_none());
    }

    #[test]
    fn an_entry_that_nothing_needed_is_unused_also_if_an_earlier_one_allows_the_same() {
        let (snapshot, terms) = (
            snapshot(),
            terms(
                "[[allow]]\nsymbol = \"acme_isr\"\nreason = \"a\"\n[[allow]]\nsymbol = \"gone\"\n\
             reason = \"b\"\n[[allow]]\nmodule = \"acme_nic\"\nreason = \"c\"\n",
            ),
        );
        let outcome = Outcome::new(&snapshot, &terms, Run::default());
        assert_eq!(outcome.unused.iter().map(|entry| entry.line).collect::<Vec<_>>(), [4]);
    }

    #[test]
    fn a_failed_command_fails_the_check_but_findings_come_first() {
        let (snapshot, none, all) = (snapshot(), terms(""), terms(EVERYTHING));
        assert_eq!(Outcome::new(&snapshot, &none, ended(7 << 8)).end, End::Findings);
        let outcome = Outcome::new(&snapshot, &all, ended(7 << 8));
        assert_eq!(outcome.end, End::Command);
        assert_eq!(outcome.command.as_deref(), Some("the command failed with exit code 7"));
        let killed = Outcome::new(&snapshot, &all, ended(9));
        assert_eq!(killed.command.as_deref(), Some("the command was ended by signal 9"));
        let well = Outcome::new(&snapshot, &all, ended(0));
        assert_eq!((well.end, well.command), (End::Passed, None));
    }

    #[test]
    fn each_loss_that_could_hide_a_finding_makes_the_check_incomplete_unless_allowed() {
        let mut all = terms(EVERYTHING);
        let complete = snapshot();
        let with = |cause| GuestLosses { causes: vec![(cause, 3)], misses: Vec::new() };
        let mut nowhere = overlay();
        nowhere.ip = None;
        let cases = [
            GuestSnapshot { missed: 2, ..complete.clone() },
            GuestSnapshot {
                sites: [complete.sites.clone(), vec![nowhere]].concat(),
                ..complete.clone()
            },
            GuestSnapshot { losses: with(GuestLoss::Places), ..complete.clone() },
            GuestSnapshot { losses: with(GuestLoss::Unread), ..complete.clone() },
            GuestSnapshot { losses: with(GuestLoss::Calls), ..complete.clone() },
            GuestSnapshot { losses: with(GuestLoss::UnpairedCalls), ..complete.clone() },
            GuestSnapshot {
                losses: GuestLosses {
                    causes: Vec::new(),
                    misses: vec![("convert_fexit".into(), 1)],
                },
                ..complete.clone()
            },
            GuestSnapshot {
                probes: vec![GuestProbeState { how: None, ..complete.probes[0].clone() }].into(),
                ..complete.clone()
            },
        ];
        for snapshot in &cases {
            all.allow_losses = false;
            let outcome = Outcome::new(snapshot, &all, Run::default());
            assert_eq!(
                (outcome.end, outcome.lost.len()),
                (End::Incomplete, 1),
                "{:?}",
                outcome.lost
            );
            all.allow_losses = true;
            let outcome = Outcome::new(snapshot, &all, Run::default());
            assert_eq!((outcome.end, outcome.lost.len()), (End::Passed, 1));
        }
    }

    #[test]
    fn a_check_that_was_cut_short_is_incomplete() {
        let (snapshot, all) = (snapshot(), terms(EVERYTHING));
        let run = Run { cut: Some("interrupted after 2.5 s".to_owned()), ..ended(0) };
        let outcome = Outcome::new(&snapshot, &all, run);
        assert_eq!(
            (outcome.end, &outcome.lost[0][..]),
            (End::Incomplete, "interrupted after 2.5 s")
        );
    }

    #[test]
    fn what_decides_no_rule_is_no_loss() {
        let all = terms(EVERYTHING);
        let causes = [GuestLoss::Events, GuestLoss::Stacks, GuestLoss::Entries];
        let snapshot = GuestSnapshot {
            losses: GuestLosses {
                causes: causes.map(|cause| (cause, 1)).to_vec(),
                misses: vec![("ve_fentry".into(), 0), ("convert_fexit".into(), 0)],
            },
            ..snapshot()
        };
        assert_eq!(Outcome::new(&snapshot, &all, Run::default()).end, End::Passed);
    }

    #[test]
    fn what_nobody_can_see_here_is_said_and_fails_nothing() {
        let all = terms(EVERYTHING);
        let mut snapshot = snapshot();
        let quote =
            GuestProbeState { name: "quote".into(), how: None, ..snapshot.probes[0].clone() };
        snapshot.probes = [snapshot.probes.to_vec(), vec![quote]].concat().into();
        let mut plain = overlay();
        plain.verdict = Some(std::sync::Arc::new(crate::verdict::judge(
            &crate::verdict::Access::of(&[0x8b, 0x07], None),
        )));
        snapshot.sites.push(plain);
        let outcome = Outcome::new(&snapshot, &all, Run::default());
        assert_eq!(outcome.end, End::Passed);
        assert!(outcome.blind[0].starts_with("not seen: every #VE"), "{:?}", outcome.blind);
        assert!(outcome.blind[1].starts_with("1 places are undecided"), "{:?}", outcome.blind);
    }

    #[test]
    fn the_same_form_in_the_same_function_is_told_apart_by_order_not_by_address() {
        let mut snapshot = snapshot();
        let mut earlier = overlay();
        earlier.ip = earlier.ip.map(|ip| ip - 8);
        snapshot.sites.push(earlier);
        let index = snapshot.sites.len() - 1;
        snapshot
            .findings
            .push(crate::check::testing::finding(Rule::NonIoMmio, Subject::Site { index }));
        let none = terms("");
        let outcome = Outcome::new(&snapshot, &none, Run::default());
        assert_eq!(outcome.findings[2].identity(), "non-io-mmio/acme_nic/acme_isr/OR");
        assert_eq!(outcome.findings[2].identity(), outcome.findings[5].identity());
        assert_eq!((outcome.findings[2].ordinal, outcome.findings[5].ordinal), (1, 0));
        assert_eq!(outcome.findings[1].identity(), "user-port-io//hwclock/IN 1");
    }

    #[test]
    fn a_finding_about_something_that_is_not_there_is_about_the_guest() {
        let mut snapshot = snapshot();
        snapshot.sites.clear();
        let none = terms("");
        let outcome = Outcome::new(&snapshot, &none, Run::default());
        assert!(matches!(outcome.findings[0].place, Place::Guest));
    }

    #[test]
    fn no_two_ends_have_one_code_and_none_is_that_of_a_failure_or_wrong_usage() {
        let ends = [End::Passed, End::Findings, End::Command, End::Incomplete];
        assert_eq!(ends.map(End::code), [0, 3, 4, 5]);
    }
}
