//! The counters of a guest at one moment, as they are.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use tdtrace_common::guest::{CallKey, CallValue, GuestLoss, VeKey, VeStats, VeValue};

use super::{shared_bit::SharedBit, snapshot::Object};
use crate::sites::{Site as Code, devices::Device};

/// Everything that was counted since the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestSample {
    /// Since the counting began.
    pub at: Duration,
    /// Release of the kernel.
    pub release: Arc<str>,
    /// Whether this is a TD.
    pub is_td: bool,
    /// Each probe and whether it counts.
    pub probes: Arc<[GuestProbeState]>,
    /// Whether and why the clock is read.
    pub clock: ClockState,
    /// Whether the layout of the kernel's structures is assumed, because there is no BTF.
    pub layout_assumed: bool,
    /// Where the shared bit of a GPA is.
    pub shared_bit: SharedBit,
    /// Reasons that occurred, by [`tdtrace_common::guest::ve_reason_index`], all CPUs together.
    pub reasons: Vec<(usize, VeStats)>,
    /// Places.
    pub places: Vec<(VeKey, VeValue)>,
    /// Conversions and the like.
    pub calls: Vec<(CallKey, CallValue)>,
    /// Stacks by number, the innermost frame first.
    pub stacks: BTreeMap<i32, Arc<[u64]>>,
    /// Names of code addresses, where the kernel tells them.
    pub names: BTreeMap<u64, Arc<str>>,
    /// Code at the addresses of sites in the kernel, as far as symbols and debug files tell.
    pub code: BTreeMap<u64, Arc<Code>>,
    /// What lies at the pages and ports of places, without the shared bit where it is known.
    pub devices: BTreeMap<Object, Arc<Device>>,
    /// What is known of the code: which debug file there is, or why none.
    pub symbols: Arc<str>,
    /// What was not counted.
    pub losses: GuestLosses,
}

/// A probe and whether it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestProbeState {
    /// Its name.
    pub name: Cow<'static, str>,
    /// How it is attached: `fentry`, `kprobe` or `tracepoint`.
    pub how: Option<Cow<'static, str>>,
    /// Why it is not attached, or not as well as it could be.
    pub missing: Option<String>,
    /// What stays invisible without it.
    pub hides: Cow<'static, str>,
}

/// Whether the programs read the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClockState {
    /// The clocksource; empty if not known.
    pub name: String,
    /// Whether it is read.
    pub used: bool,
    /// How often it changed while tdtrace counted.
    pub changes: u32,
}

/// What was not counted, or only in part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestLosses {
    /// By cause; only those that occurred.
    pub causes: Vec<(GuestLoss, u64)>,
    /// Runs of each attached program that the kernel skipped.
    pub misses: Vec<(Cow<'static, str>, u64)>,
}

impl GuestLosses {
    /// All of them together.
    #[must_use]
    pub fn total(&self) -> u64 {
        let causes = self.causes.iter().map(|(_, count)| count);
        let misses = self.misses.iter().map(|(_, count)| count);
        causes.chain(misses).fold(0, |total, count| total.saturating_add(*count))
    }

    /// How often `loss` occurred.
    #[must_use]
    pub fn of(&self, loss: GuestLoss) -> u64 {
        self.causes.iter().find(|(cause, _)| *cause == loss).map_or(0, |(_, count)| *count)
    }

    /// Runs of `program` that the kernel skipped.
    #[must_use]
    pub fn missed(&self, program: &str) -> u64 {
        self.misses.iter().find(|(name, _)| *name == program).map_or(0, |(_, count)| *count)
    }
}
