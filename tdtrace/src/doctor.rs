//! What can be seen on this machine and why, as data for `tdtrace doctor`.
//!
//! Pure but for [`GuestFacts::read`]: from [`Facts`] and BTF to a [`Report`], and from a report to
//! text. Nothing is attached.

mod guest;
mod machine;
mod privileges;
mod probes;
mod structures;
mod text;

use serde::Serialize;

use crate::kernel::{
    Facts,
    btf::{BtfSet, MemberInfo},
    layout::{Resolved, resolve},
};

pub use guest::GuestFacts;

/// The version of the JSON form; it changes when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// Said in every report.
pub const NOTE: &str = "The TDX parts of tdtrace have never met TDX hardware; check what they show before relying on it.";

/// BTF to judge by: the running kernel's, or that of files.
#[derive(Debug)]
pub struct BtfSource {
    /// The files it was read from; empty for the running kernel's own.
    pub files: Vec<String>,
    /// The BTF, or why there is none.
    pub set: Result<BtfSet, String>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, with less to see.
    Limited,
    /// It is not there.
    Missing,
    /// It could not be found out.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at; stable.
    pub name: &'static str,
    /// How it came out.
    pub status: Status,
    /// Whether tdtrace can count nothing while it is so.
    pub blocking: bool,
    /// What was found.
    pub finding: String,
    /// The next step, where the status is not ok.
    #[serde(rename = "do")]
    pub next: Option<String>,
}

impl Check {
    fn ok(name: &'static str, finding: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, blocking: false, finding: finding.into(), next: None }
    }

    fn new(
        name: &'static str,
        status: Status,
        finding: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        let (finding, next) = (finding.into(), Some(next.into()));
        Self { name, status, blocking: false, finding, next }
    }

    fn limited(name: &'static str, finding: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(name, Status::Limited, finding, next)
    }

    fn missing(name: &'static str, finding: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(name, Status::Missing, finding, next)
    }

    fn unknown(name: &'static str, finding: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(name, Status::Unknown, finding, next)
    }

    /// The same, as something without which nothing can be counted.
    fn blocking(self) -> Self {
        Self { blocking: true, ..self }
    }
}

/// Checks that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Its title; stable.
    pub name: &'static str,
    /// The checks, in reading order.
    pub checks: Vec<Check>,
}

/// One field of the kernel layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldReport {
    /// Its name in the layout.
    pub name: &'static str,
    /// Its path in BTF.
    pub path: &'static str,
    /// Whose BTF has it.
    pub module: &'static str,
    /// The check in section `layout` that it counts for.
    pub group: &'static str,
    /// Where it lies, if it was found.
    pub found: Option<MemberInfo>,
    /// Why it was not found.
    pub why: Option<String>,
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProbeReport {
    /// Whether it delivers anything on this machine.
    pub visible: bool,
    /// What it shows.
    pub shows: &'static str,
    /// What is not seen without it.
    pub hidden_without: &'static str,
    /// The verdict.
    #[serde(flatten)]
    pub check: Check,
}

/// What can be seen on a machine and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The version of tdtrace.
    pub tdtrace: &'static str,
    /// Whether tdtrace can count anything here.
    pub can_count: bool,
    /// The verdict in one sentence.
    pub summary: String,
    /// The one thing to do first, if it cannot.
    pub first_step: Option<String>,
    /// [`NOTE`].
    pub note: &'static str,
    /// The files that BTF was read from; empty for the running kernel's own.
    pub btf_files: Vec<String>,
    /// What was looked at.
    pub sections: Vec<Section>,
    /// Every field of the kernel layout.
    pub fields: Vec<FieldReport>,
    /// Every probe of a host.
    pub probes: Vec<ProbeReport>,
    /// Every probe of a guest; none unless one is judged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guest_probes: Vec<ProbeReport>,
}

impl Report {
    /// Judges the machine of `facts`, its structures described by `btf`.
    #[must_use]
    pub fn new(facts: &Facts, btf: &BtfSource) -> Self {
        let resolved = btf.set.as_ref().ok().map(resolve);
        let sections = vec![
            Section { name: "kernel", checks: machine::kernel(facts) },
            Section { name: "kvm", checks: machine::kvm(facts) },
            Section { name: "tdx", checks: machine::tdx(facts) },
            Section { name: "btf", checks: structures::btf(facts, btf) },
            Section { name: "privileges", checks: privileges::privileges(facts) },
            Section { name: "tracefs", checks: machine::tracefs(facts) },
            Section { name: "clock", checks: machine::clock(facts) },
            Section { name: "memory", checks: machine::memory(facts) },
            Section { name: "layout", checks: structures::layout(facts, btf, resolved.as_ref()) },
        ];
        let probes = probes::probes(facts, btf, resolved.as_ref(), &sections);
        let visible = probes.iter().filter(|probe| probe.visible).count();
        let can_count = visible > 0;
        let first_step = if can_count { None } else { first_step(&sections, &probes) };
        let summary = match &first_step {
            None if can_count => {
                format!("tdtrace can count here: {visible} of {} probes are visible.", probes.len())
            }
            None => "tdtrace cannot count here.".to_owned(),
            Some(step) => format!("tdtrace cannot count here. First: {step}."),
        };
        Self {
            schema: SCHEMA,
            tdtrace: env!("CARGO_PKG_VERSION"),
            can_count,
            summary,
            first_step,
            note: NOTE,
            btf_files: btf.files.clone(),
            sections,
            fields: structures::fields(btf, resolved.as_ref()),
            probes,
            guest_probes: Vec::new(),
        }
    }

    /// The same with what can be seen within this guest, which decides what it says if nothing of a
    /// host is seen.
    #[must_use]
    pub fn with_guest(mut self, facts: &Facts, btf: &BtfSource, guest: &GuestFacts) -> Self {
        guest::add(&mut self, facts, btf, guest);
        let visible = self.guest_probes.iter().filter(|probe| probe.visible).count();
        if guest::can_count(&self.guest_probes) {
            let probes = self.guest_probes.len();
            let of_guest =
                format!("tdtrace can count this guest: {visible} of {probes} probes are visible.");
            self.summary =
                if self.can_count { format!("{} {of_guest}", self.summary) } else { of_guest };
            (self.can_count, self.first_step) = (true, None);
        } else if !self.can_count {
            let first = self.guest_probes.first().and_then(|probe| probe.check.next.clone());
            let step = first.as_deref().unwrap_or("run tdtrace on a KVM host or in a TD");
            self.summary = format!("tdtrace cannot count here. First: {step}.");
            self.first_step = Some(step.to_owned());
        }
        self
    }

    /// The report as text of at most 80 columns.
    #[must_use]
    pub fn to_text(&self) -> String {
        text::report(self)
    }
}

/// What blocks everything comes first, then what the first probe lacks.
fn first_step(sections: &[Section], probes: &[ProbeReport]) -> Option<String> {
    sections
        .iter()
        .flat_map(|section| &section.checks)
        .filter(|check| check.blocking)
        .chain(probes.iter().map(|probe| &probe.check))
        .find_map(|check| check.next.clone())
}

/// Offsets of a kernel, if its BTF could be read.
type Layout<'a> = Option<&'a Resolved>;
