//! A guest's counters as views show them: reasons, sites, what they are about, calls and losses.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use tdtrace_common::guest::Operation;

use super::{
    finding::Finding,
    findings::{self, Earlier},
    sample::{ClockState, GuestLosses, GuestProbeState},
    shared_bit::SharedBit,
};
use crate::{
    decode::{
        bits::Hex,
        insn::{self, Judgement},
    },
    model::latency::Histogram,
    sites::{Site as Code, devices::Device},
    verdict::{Fate, Verdict},
};

/// A guest at one moment.
#[derive(Clone, Debug, Default)]
pub struct GuestSnapshot {
    /// Since the counting began.
    pub at: Duration,
    /// Since the snapshot before, if there was one; what rates are over.
    pub interval: Option<Duration>,
    /// Release of the kernel.
    pub release: Arc<str>,
    /// Whether this is a TD.
    pub is_td: bool,
    /// Each probe and whether it counts.
    pub probes: Arc<[GuestProbeState]>,
    /// Whether the clock is read.
    pub clock: ClockState,
    /// Whether the layout of the kernel's structures is assumed.
    pub layout_assumed: bool,
    /// Where the shared bit of a GPA is.
    pub shared_bit: SharedBit,
    /// All #VEs.
    pub total: Total,
    /// #VEs by reason, the most frequent first.
    pub reasons: Vec<Reason>,
    /// Instructions that cause them, the most frequent first.
    pub sites: Vec<Site>,
    /// Ports, pages, MSRs and CPUID leaves, the most frequent first.
    pub objects: Vec<ObjectCount>,
    /// Conversions, acceptance, quotes and bounces by caller, the most frequent first.
    pub calls: Vec<Call>,
    /// What somebody should look at, the gravest first.
    pub findings: Vec<Finding>,
    /// What is known of the code: which debug file there is, or why none.
    pub symbols: Arc<str>,
    /// What was not counted.
    pub losses: GuestLosses,
    /// #VEs whose end no program saw: the kernel skipped its run.
    pub missed: u64,
    /// How long ago counts were reset, if they were.
    pub since_reset: Option<Duration>,
}

impl GuestSnapshot {
    /// The same with rates, and findings that rest on them, over the whole time.
    #[must_use]
    pub fn with_mean_rates(mut self) -> Self {
        let seconds = self.at.as_secs_f64();
        self.interval = Some(self.at);
        for reason in &mut self.reasons {
            reason.rate = rate(reason.count, seconds);
        }
        for site in &mut self.sites {
            site.rate = rate(site.count, seconds);
        }
        for object in &mut self.objects {
            object.rate = rate(object.count, seconds);
        }
        self.findings = findings::evaluate(&self, &Earlier::default());
        self
    }

    /// All that was not counted, or only in part: losses of every cause.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.losses.causes.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// #VEs that there were: those that were seen and those whose end was missed.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.total.count.saturating_add(self.missed)
    }
}

/// `count` a second.
#[expect(clippy::cast_precision_loss, reason = "a rate is not exact")]
pub(super) fn rate(count: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| count as f64 / seconds)
}

/// Sums over #VEs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// #VEs.
    pub count: u64,
    /// Those that the kernel could not handle.
    pub failed: u64,
    /// Those in user mode.
    pub user: u64,
    /// Those that tdtrace caused: what there would not be without it.
    pub own: u64,
    /// Those whose beginning was not seen.
    pub unpaired: u64,
}

/// #VEs of one reason.
#[derive(Clone, Debug)]
pub struct Reason {
    /// The exit reason; `None` for all beyond the known ones together.
    pub reason: Option<u32>,
    /// Its name.
    pub name: &'static str,
    /// #VEs.
    pub count: u64,
    /// A second.
    pub rate: Option<f64>,
    /// Those that the kernel could not handle.
    pub failed: u64,
    /// Those in user mode.
    pub user: u64,
    /// Those that tdtrace caused.
    pub own: u64,
    /// Those whose beginning was not seen.
    pub unpaired: u64,
    /// Those that no site counts.
    pub other: u64,
    /// How long they took.
    pub durations: Histogram,
    /// Nanoseconds of those whose duration is known.
    pub ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// The longest one is not known exactly, since counts were reset: it is at most [`Self::max_ns`].
    pub max_is_bound: bool,
    /// Part of all #VEs that were seen, 0 to 1.
    pub share: f64,
}

impl Reason {
    /// The duration in nanoseconds below which `fraction` (0 to 1) of them are.
    #[must_use]
    pub fn percentile(&self, fraction: f64) -> Option<u64> {
        self.durations.percentile(fraction, self.max_ns)
    }
}

/// An instruction that causes #VEs of one reason.
#[derive(Clone, Debug)]
pub struct Site {
    /// The exit reason.
    pub reason: u32,
    /// Its name.
    pub name: &'static str,
    /// RIP; `None` if the beginning of none was seen.
    pub ip: Option<u64>,
    /// The function that it lies in.
    pub symbol: Option<Arc<str>>,
    /// In user mode. Then `ip` is an address of the process.
    pub user: bool,
    /// #VEs.
    pub count: u64,
    /// A second.
    pub rate: Option<f64>,
    /// Those that the kernel could not handle.
    pub failed: u64,
    /// Those that tdtrace caused.
    pub own: u64,
    /// What `handle_mmio` returned at a failure.
    pub errno: Option<i32>,
    /// #VEs by context.
    pub contexts: Vec<(&'static str, u64)>,
    /// What it was about, the most frequent first.
    pub objects: Vec<(Object, u64)>,
    /// What lies at the first of `objects`, if that is a page or a port.
    pub device: Option<Arc<Device>>,
    /// Function, module and the chain of inlined functions; only in the kernel.
    pub code: Option<Arc<Code>>,
    /// Whether it came through an accessor and what a TD makes of it: of MMIO and port I/O.
    pub verdict: Option<Arc<Verdict>>,
    /// The instruction's bytes and what follows it; empty if they could not be read.
    pub bytes: Vec<u8>,
    /// Process of the first.
    pub pid: u32,
    /// Thread of the first.
    pub tid: u32,
    /// Its name.
    pub comm: String,
    /// Stack of the first, the innermost frame first: addresses and functions.
    pub stack: Vec<(u64, Option<Arc<str>>)>,
    /// Mean duration in nanoseconds of those whose duration is known.
    pub mean_ns: Option<u64>,
}

impl Site {
    /// What the #VE handler makes of the instruction as MMIO; `None` for other reasons, or if it could
    /// not be read.
    #[must_use]
    pub fn judgement(&self) -> Option<Judgement> {
        (self.reason == 48 && !self.bytes.is_empty()).then(|| insn::judge(&self.bytes))
    }

    /// What becomes of it in a TD, as far as anything tells: by the verdict where there is one, else by
    /// what became of the #VEs.
    #[must_use]
    pub fn fate(&self) -> Fate {
        match &self.verdict {
            Some(verdict) if verdict.survives.fate != Fate::Unknown => verdict.survives.fate,
            _ if self.failed == 0 => Fate::Emulated,
            _ if self.failed < self.count => Fate::Unknown,
            _ if self.user => Fate::Signal,
            _ => Fate::Fatal,
        }
    }

    /// Whether it went around the accessors, or through one that does not work in a TD.
    #[must_use]
    pub fn is_offender(&self) -> bool {
        self.verdict.as_ref().is_some_and(|verdict| verdict.kind.is_offender())
    }

    /// Where it is: function and offset with the module, else the address and whose it is.
    #[must_use]
    pub fn place(&self) -> String {
        match (&self.symbol, self.ip) {
            (Some(symbol), _) => symbol.to_string(),
            (None, Some(ip)) if self.user => format!("{ip:#x} of {}", self.comm),
            (None, Some(ip)) => format!("{ip:#x}"),
            (None, None) => "beginning not seen".to_owned(),
        }
    }

    /// The innermost line of source that is known: `file:line`.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let frame = self.code.as_ref()?.chain.as_ref()?.first()?;
        Some(format!("{}:{}", frame.file.as_ref()?, frame.line?))
    }
}

/// What a #VE is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Object {
    /// Port I/O.
    Port {
        /// The port.
        port: u16,
        /// `in` or `out`.
        direction: &'static str,
        /// Bytes: 1, 2 or 4.
        size: Option<u8>,
        /// INS or OUTS, which no kernel emulates.
        string: bool,
    },
    /// A page of MMIO.
    Page {
        /// Without the shared bit, where its place is known.
        gpa: Hex,
        /// Whether the shared bit was set.
        shared: Option<bool>,
    },
    /// An MSR.
    Msr {
        /// Its index.
        index: u32,
        /// Written or read.
        write: bool,
    },
    /// A CPUID leaf.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX, of which not every leaf takes note.
        subleaf: u32,
    },
}

/// How often something was the object of a #VE.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectCount {
    /// What.
    pub object: Object,
    /// #VEs.
    pub count: u64,
    /// Those that the kernel could not handle.
    pub failed: u64,
    /// A second.
    pub rate: Option<f64>,
    /// What lies there, of a page or a port.
    pub device: Option<Arc<Device>>,
}

impl Object {
    /// It in a few words.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Port { port, direction, size, string } => {
                let size = size.map_or_else(|| "?".to_owned(), |size| size.to_string());
                let string = if string { " string" } else { "" };
                format!("{direction} {port:#x}/{size}{string}")
            }
            Self::Page { gpa, shared } => {
                let kind = match shared {
                    Some(true) => "",
                    Some(false) => " private",
                    None => " shared?",
                };
                format!("{gpa}{kind}")
            }
            Self::Msr { index, write } => {
                format!("{} {index:#x}", if write { "wrmsr" } else { "rdmsr" })
            }
            Self::Cpuid { leaf, subleaf } => format!("cpuid {leaf:#x}.{subleaf:#x}"),
        }
    }
}

/// Calls of one operation by one caller.
#[derive(Clone, Debug)]
pub struct Call {
    /// The operation.
    pub operation: Operation,
    /// The function that asked for it: the first on the stack that is not part of it.
    pub caller: Option<Arc<str>>,
    /// The stack, the innermost frame first.
    pub stack: Vec<(u64, Option<Arc<str>>)>,
    /// Calls.
    pub count: u64,
    /// Those that failed.
    pub failed: u64,
    /// What the last one that failed returned.
    pub last_failure: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Mean duration in nanoseconds of those whose duration is known.
    pub mean_ns: Option<u64>,
    /// The longest of those.
    pub max_ns: Option<u64>,
}
