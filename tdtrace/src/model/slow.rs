//! Single durations that were longer than asked for: the newest ones, and how many there were. Pure.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tdtrace_common::latency::{LatencyClass, PARTS};

use super::{
    sample::{Isa, VmKey},
    snapshot::{Span, Vm, latency_name},
};

/// Durations that are kept.
const KEPT: usize = 1000;

/// A duration longer than asked for, as the source delivers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowSample {
    /// When it ended, since the source began.
    pub at: Duration,
    /// The VM.
    pub vm: VmKey,
    /// The number that the VMM chose for the vCPU.
    pub vcpu: u32,
    /// The thread that ran it; 0 before its first KVM_RUN ended.
    pub tid: u32,
    /// Of what it is the duration.
    pub class: LatencyClass,
    /// Nanoseconds by [`tdtrace_common::latency::Part`].
    pub ns: [u64; PARTS],
}

impl SlowSample {
    /// All parts together, in nanoseconds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ns.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

/// A duration longer than asked for, as views show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slow {
    /// When it ended, since the source began.
    pub at: Duration,
    /// Number of the VM.
    pub vm: u32,
    /// Its name.
    pub vm_name: Arc<str>,
    /// The number that the VMM chose for the vCPU.
    pub vcpu: u32,
    /// The thread that ran it; 0 before its first KVM_RUN ended.
    pub tid: u32,
    /// From exit to entry, or in the VMM.
    pub span: Span,
    /// The exit reason, the leaf, or what KVM_RUN came back with.
    pub reason: String,
    /// Nanoseconds by [`tdtrace_common::latency::Part`].
    pub ns: [u64; PARTS],
}

impl Slow {
    /// All parts together, in nanoseconds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.ns.iter().fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

/// Durations longer than asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowLog {
    /// What was asked for; `None`: nothing.
    pub limit: Option<Duration>,
    /// How many came.
    pub count: u64,
    /// The newest of them, by the time at which they ended.
    pub newest: VecDeque<Slow>,
}

impl SlowLog {
    /// Takes what came since the last time; `vms` are the VMs of that moment.
    pub(super) fn take(
        &mut self,
        limit: Option<Duration>,
        mut samples: Vec<SlowSample>,
        vms: impl Fn(VmKey) -> Option<(u32, Arc<str>, Isa)>,
    ) {
        self.limit = limit;
        samples.sort_by_key(|slow| slow.at);
        for slow in samples {
            let Some((vm, vm_name, isa)) = vms(slow.vm) else { continue };
            let (span, reason) = latency_name(slow.class, isa);
            let SlowSample { at, vcpu, tid, ns, .. } = slow;
            self.count += 1;
            if self.newest.len() == KEPT {
                self.newest.pop_front();
            }
            self.newest.push_back(Slow { at, vm, vm_name, vcpu, tid, span, reason, ns });
        }
    }
}

/// What to look a VM up by: its number, name and exit reasons.
pub(super) fn known(vm: &Vm, isa: Isa) -> (u32, Arc<str>, Isa) {
    (vm.id, Arc::clone(&vm.name), isa)
}
