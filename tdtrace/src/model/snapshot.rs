//! What the views show: VMs, vCPUs and hotspots with totals and rates.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::Duration};

use tdtrace_common::{
    counters::{
        Class, KvmStat, Place, REASON_OTHER, REASON_SVM_HIGH, REASON_UNDEFINED, USERSPACE_EINTR,
        USERSPACE_HWPOISON, USERSPACE_OTHER, VM_BUGGED,
    },
    kvm,
    latency::{LATENCY_RETURNS, LatencyClass, PARTS, Part},
    svm,
    td::TdExit,
    vmx,
};

use super::{
    boot::Timeline,
    counts::{self, Counts},
    finding::Finding,
    findings,
    latency::{Histogram, Times},
    ledger::Ledger,
    poison::PoisonSample,
    sample::{Host, Isa, Losses, ProbeState, VcpuSample, VmKey},
    seam::Seamcall,
    served::Server,
    slow::SlowLog,
};

/// A total since attaching, and events per second over the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Since attaching, or since the VM or vCPU was first seen.
    pub total: u64,
    /// Per second; `None` until there is an interval.
    pub rate: Option<f64>,
}

/// Where the number of exits comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitSource {
    /// `kvm_exit` events.
    Event,
    /// KVM's own count, as of each vCPU's last KVM_RUN: this KVM fires no `kvm_exit`.
    KvmStat,
}

/// What KVM counted itself against what the programs saw, of one vCPU or summed over several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// VM exits by KVM's count.
    pub kvm_exits: u64,
    /// `kvm_exit` events; `None` if this KVM fires none.
    pub seen_exits: Option<u64>,
    /// KVM_RUNs by KVM's count.
    pub kvm_runs: u64,
    /// `kvm_fpu(0)` events.
    pub seen_runs: u64,
    /// Hypercalls by KVM's count.
    pub kvm_hypercalls: u64,
    /// `kvm_hypercall` events.
    pub seen_hypercalls: u64,
}

impl Audit {
    /// The difference between two readings of KVM's counters.
    #[must_use]
    pub fn between(first: &KvmStat, last: &KvmStat, isa: Isa) -> Self {
        Self {
            kvm_exits: last.exits.saturating_sub(first.exits),
            seen_exits: (isa != Isa::Software)
                .then(|| last.seen_exits.saturating_sub(first.seen_exits)),
            kvm_runs: last.fpu_reload.saturating_sub(first.fpu_reload),
            seen_runs: last.seen_runs.saturating_sub(first.seen_runs),
            kvm_hypercalls: last.hypercalls.saturating_sub(first.hypercalls),
            seen_hypercalls: last.seen_hypercalls.saturating_sub(first.seen_hypercalls),
        }
    }

    /// Whether everything that both count is equal.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.seen_exits.is_none_or(|seen| seen == self.kvm_exits)
            && self.kvm_runs == self.seen_runs
            && self.kvm_hypercalls == self.seen_hypercalls
    }

    /// The two together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            kvm_exits: self.kvm_exits.saturating_add(other.kvm_exits),
            seen_exits: match (self.seen_exits, other.seen_exits) {
                (None, None) => None,
                // One that fires no kvm_exit has nothing to be held against.
                (one, two) => {
                    let two = two.unwrap_or(other.kvm_exits);
                    Some(one.unwrap_or(self.kvm_exits).saturating_add(two))
                }
            },
            kvm_runs: self.kvm_runs.saturating_add(other.kvm_runs),
            seen_runs: self.seen_runs.saturating_add(other.seen_runs),
            kvm_hypercalls: self.kvm_hypercalls.saturating_add(other.kvm_hypercalls),
            seen_hypercalls: self.seen_hypercalls.saturating_add(other.seen_hypercalls),
        }
    }
}

/// One vCPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Vcpu {
    /// Number of its VM.
    pub vm: u32,
    /// Name of its VM.
    pub vm_name: Arc<str>,
    /// The number that the VMM chose.
    pub id: u32,
    /// The thread that ran it last; 0 before its first KVM_RUN ended.
    pub tid: u32,
    /// Exits.
    pub exits: Tally,
    /// Events by class.
    pub counts: Counts,
    /// Events by class over the last interval.
    pub recent: Counts,
    /// Where the time went; `None` if the programs take no time.
    pub times: Option<TimeSplit>,
    /// Durations by class, longest time first, where the source was asked for those of this vCPU.
    pub latency: Vec<Latency>,
    /// KVM's own count against ours; `None` before the first moment at which both stand still.
    pub audit: Option<Audit>,
    /// Which exit reasons this KVM has.
    pub isa: Isa,
    /// The counters that all this was made of.
    pub sample: Arc<VcpuSample>,
    /// Those at the beginning of the interval; `None` if it is all new since then.
    pub before: Option<Arc<VcpuSample>>,
}

impl Vcpu {
    /// `kvm_exit` by reason.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        named(&self.sample.reasons, |index| reason_name(index, self.isa))
    }

    /// Returns to the VMM by `KVM_EXIT_*`.
    #[must_use]
    pub fn userspace(&self) -> BTreeMap<String, u64> {
        named(&self.sample.userspace, userspace_name)
    }
}

fn named(counts: &[(u32, u64)], name: impl Fn(u32) -> String) -> BTreeMap<String, u64> {
    let mut named = BTreeMap::new();
    for (index, count) in counts {
        counts::add(named.entry(name(*index)).or_default(), *count);
    }
    named
}

/// Where time went since attaching, and over the last interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeSplit {
    /// Since attaching, or since the vCPU was first seen.
    pub total: Times,
    /// Over the last interval; `None` until there is one.
    pub recent: Option<Times>,
}

impl TimeSplit {
    /// The two together.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.total += other.total;
        self.recent = match (self.recent, other.recent) {
            (Some(mut one), Some(two)) => {
                one += two;
                Some(one)
            }
            (one, two) => one.or(two),
        };
        self
    }
}

/// What a duration is the duration of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// From a VM exit to the next entry.
    Exit,
    /// From the return of KVM_RUN to the next KVM_RUN: what the VMM took.
    Return,
}

impl Span {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Return => "return",
        }
    }
}

/// The durations of one class of a VM or vCPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Latency {
    /// Number of the VM.
    pub vm: u32,
    /// Name of the VM.
    pub vm_name: Arc<str>,
    /// What a duration is the duration of.
    pub span: Span,
    /// Number of the class, see [`LatencyClass`].
    pub class: LatencyClass,
    /// The exit reason or `KVM_EXIT_*`.
    pub name: String,
    /// The guest asked to be halted: such durations say nothing about the host, and totals leave them
    /// out unless the user wants them.
    pub halt: bool,
    /// How many durations.
    pub tally: Tally,
    /// Nanoseconds by [`Part`].
    pub ns: [u64; PARTS],
    /// The same over the last interval; `None` until there is one.
    pub recent_ns: Option<[u64; PARTS]>,
    /// The longest, in nanoseconds.
    pub max: u64,
    /// The longest one is not known exactly, since counts were reset: it is at most [`Self::max`].
    pub max_is_bound: bool,
    /// All of them.
    pub histogram: Histogram,
}

impl Latency {
    /// The duration in nanoseconds below which `fraction` (0 to 1) of them are.
    #[must_use]
    pub fn percentile(&self, fraction: f64) -> Option<u64> {
        self.histogram.percentile(fraction, self.max)
    }

    /// All nanoseconds together.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        counts::sum(self.ns)
    }

    /// Nanoseconds of `part`.
    #[must_use]
    pub const fn part(&self, part: Part) -> u64 {
        self.ns[part as usize]
    }
}

/// One place of a VM: an address, port, MSR, leaf or hypercall number.
#[derive(Clone, Debug, PartialEq)]
pub struct Hotspot {
    /// Number of its VM.
    pub vm: u32,
    /// Name of its VM.
    pub vm_name: Arc<str>,
    /// The kind of access.
    pub class: Class,
    /// Guest physical address, port, MSR index, CPUID leaf or hypercall number.
    pub address: u64,
    /// Bytes accessed, 0 where the class has no size.
    pub size: u32,
    /// The name of a well-known place.
    pub what: Option<Cow<'static, str>>,
    /// Who served the accesses, where the counts prove it.
    pub served: Option<Server>,
    /// Events.
    pub tally: Tally,
}

/// Intervals that [`Vm::history`] goes back.
pub const HISTORY: usize = 64;

/// One VM, running or ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Vm {
    /// Number in the order of appearance, from 1.
    pub id: u32,
    /// Its place in the source's maps.
    pub key: VmKey,
    /// The process that runs it.
    pub pid: u32,
    /// The name that its VMM was given for it, else the process's.
    pub name: Arc<str>,
    /// `qemu`, `cloud-hypervisor` …; empty if it is none that is known.
    pub vmm: Arc<str>,
    /// The container, pod or service that the process belongs to.
    pub container: Option<Arc<str>>,
    /// `plain`, `TD`, `SEV` …, `?` if the kernel does not say.
    pub kind: String,
    /// It is no more.
    pub ended: bool,
    /// It is no VM of this machine: the demo source made it up.
    pub demo: bool,
    /// Which exit reasons this KVM has.
    pub isa: Isa,
    /// Exits, all vCPUs together.
    pub exits: Tally,
    /// Returns of KVM_RUN to the VMM.
    pub returns: Tally,
    /// Exits per second of the last intervals, the newest last; at most [`HISTORY`].
    pub history: Vec<f64>,
    /// Events by class.
    pub counts: Counts,
    /// Events by class over the last interval.
    pub recent: Counts,
    /// vCPUs by number.
    pub vcpus: Vec<Vcpu>,
    /// Places by count, most first.
    pub hotspots: Vec<Hotspot>,
    /// Per class with places: events that no place of the list accounts for.
    pub other: Vec<(Class, u64)>,
    /// Where the vCPUs' time went; `None` if the programs take no time.
    pub times: Option<TimeSplit>,
    /// Durations by class, all vCPUs together, longest time first.
    pub latency: Vec<Latency>,
    /// KVM's own count against ours, over the vCPUs that have one.
    pub audit: Option<Audit>,
    /// Conversions of its memory.
    pub ledger: Ledger,
    /// Its timeline, whatever was reset; `None` if it is no TD and was not seen from its first KVM_RUN on.
    pub boot: Option<Arc<Timeline>>,
    /// What somebody should look at, the gravest first.
    pub findings: Vec<Finding>,
}

impl Vm {
    /// What became of a TD that KVM has given up, and the last exit of the vCPU that tells it.
    #[must_use]
    pub fn fate(&self) -> Option<String> {
        let fates = self.vcpus.iter().filter_map(|vcpu| vcpu.sample.kvm?.1.fate());
        // One that knows its exit says more.
        let (given_up, exit) = fates.max_by_key(|(_, exit)| exit.is_some())?;
        let what = if given_up & VM_BUGGED != 0 { "bugged" } else { "dead" };
        Some(match exit {
            Some(exit) => format!("{what} after {}", reason_name(exit, self.isa)),
            None => what.to_owned(),
        })
    }

    /// Returns to the VMM for memory that is broken (EHWPOISON).
    #[must_use]
    pub fn poisoned(&self) -> u64 {
        let returns = self.vcpus.iter().flat_map(|vcpu| &vcpu.sample.userspace);
        let poisoned = returns.filter(|(index, _)| *index == USERSPACE_HWPOISON as u32);
        poisoned.fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// `kvm_exit` by reason, all vCPUs together.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        sum(self.vcpus.iter().map(Vcpu::reasons))
    }

    /// Returns to the VMM by `KVM_EXIT_*`, all vCPUs together.
    #[must_use]
    pub fn userspace(&self) -> BTreeMap<String, u64> {
        sum(self.vcpus.iter().map(Vcpu::userspace))
    }

    /// The durations of `span` of all classes together with the longest one, without those in which
    /// the guest was halted unless `halts`.
    #[must_use]
    pub fn durations(&self, span: Span, halts: bool) -> (Histogram, u64) {
        let mut histogram = Histogram::default();
        let mut max = 0;
        for latency in &self.latency {
            if latency.span == span && (halts || !latency.halt) {
                histogram += &latency.histogram;
                max = max.max(latency.max);
            }
        }
        (histogram, max)
    }
}

fn sum(maps: impl Iterator<Item = BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut total = BTreeMap::new();
    for (name, count) in maps.flatten() {
        counts::add(total.entry(name).or_default(), count);
    }
    total
}

/// Everything that a view may show at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Since the source began.
    pub at: Duration,
    /// Since the snapshot before; `None` for the first.
    pub interval: Option<Duration>,
    /// Since the user set all counts to 0; `None` if they are from the beginning.
    pub since_reset: Option<Duration>,
    /// The machine.
    pub host: Arc<Host>,
    /// The probes.
    pub probes: Arc<[ProbeState]>,
    /// Where [`Vm::exits`] comes from.
    pub exit_source: ExitSource,
    /// VMs by number.
    pub vms: Vec<Vm>,
    /// Events by class, all VMs together, those that are no longer listed included.
    pub counts: Counts,
    /// VMs that ended and are no longer listed; their events are in `counts`.
    pub dropped_vms: u64,
    /// What is missing.
    pub losses: Losses,
    /// Single durations that were longer than asked for.
    pub slow: SlowLog,
    /// Why no SEAMCALL is seen; `None` if any is, or if nobody looked.
    pub seam_absent: Option<Arc<str>>,
    /// SEAMCALLs by function.
    pub seamcalls: Vec<Seamcall>,
    /// Broken memory of the host.
    pub poison: Arc<PoisonSample>,
}

impl Snapshot {
    /// Events that were not counted, all causes together. Hotspot events without room are not among
    /// them: they are in their class's total.
    #[must_use]
    pub fn lost(&self) -> u64 {
        let missed = self.seamcalls.iter().map(|row| row.total.missed);
        missed.fold(self.losses.total(), u64::saturating_add)
    }

    /// Whether no VM shows when it enters and leaves the guest.
    #[must_use]
    pub fn is_software(&self) -> bool {
        let mut vms = self.vms.iter().peekable();
        match vms.peek() {
            None => self.host.isa == Isa::Software,
            Some(_) => vms.all(|vm| vm.isa == Isa::Software),
        }
    }

    /// Attached probes and all probes.
    #[must_use]
    pub fn attached(&self) -> (usize, usize) {
        let attached = self.probes.iter().filter(|probe| probe.missing.is_none()).count();
        (attached, self.probes.len())
    }

    /// The same with every rate taken over the whole time instead of the last interval.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a total above 2^53 does not occur")]
    pub fn with_mean_rates(mut self) -> Self {
        let seconds = self.at.as_secs_f64();
        let mean = |tally: &mut Tally| {
            tally.rate = (seconds > 0.0).then(|| tally.total as f64 / seconds);
        };
        for vm in &mut self.vms {
            mean(&mut vm.exits);
            mean(&mut vm.returns);
            vm.ledger.tallies().for_each(mean);
            for vcpu in &mut vm.vcpus {
                mean(&mut vcpu.exits);
                vcpu.recent = vcpu.counts;
                vcpu.before = None;
            }
            vm.recent = vm.counts;
            vm.hotspots.iter_mut().for_each(|hotspot| mean(&mut hotspot.tally));
            for latency in &mut vm.latency {
                mean(&mut latency.tally);
                latency.recent_ns = Some(latency.ns);
            }
            let times = vm.vcpus.iter_mut().map(|vcpu| &mut vcpu.times).chain([&mut vm.times]);
            for times in times.flatten() {
                times.recent = Some(times.total);
            }
        }
        self.seamcalls.iter_mut().for_each(|row| mean(&mut row.tally));
        self.interval = Some(self.at);
        findings::renew(&mut self.vms, self.interval, self.losses.total());
        self
    }

    /// The findings of all VMs, the gravest first.
    #[must_use]
    pub fn findings(&self) -> Vec<&Finding> {
        let mut findings: Vec<&Finding> = self.vms.iter().flat_map(|vm| &vm.findings).collect();
        findings.sort_by_key(|finding| (finding.rule, finding.vm));
        findings
    }

    /// KVM's own count against ours, over all VMs that have one.
    #[must_use]
    pub fn audit(&self) -> Option<Audit> {
        self.vms.iter().filter_map(|vm| vm.audit).reduce(Audit::plus)
    }
}

/// The name of `kvm_exit` reason `index` of a slot.
#[must_use]
pub fn reason_name(index: u32, isa: Isa) -> String {
    if isa == Isa::Vmx
        && let Some(exit) = TdExit::from_reason_index(index as usize)
    {
        return exit.name().to_owned();
    }
    let high = REASON_SVM_HIGH as u32;
    let (number, name) = match index {
        _ if index == REASON_OTHER as u32 => return "other".to_owned(),
        _ if index == REASON_UNDEFINED as u32 => (vmx::UNDEFINED, vmx::exit_reason(vmx::UNDEFINED)),
        _ if isa == Isa::Svm && index >= high => {
            let code = (index - high).saturating_add(0x400);
            (code, svm::exit_code(code))
        }
        _ if isa == Isa::Svm => (index, svm::exit_code(index)),
        _ => (index, vmx::exit_reason(index)),
    };
    name.map_or_else(|| format!("{number:#x}"), str::to_owned)
}

/// The name of userspace exit `index` of a slot.
#[must_use]
pub fn userspace_name(index: u32) -> String {
    match index {
        _ if index == USERSPACE_HWPOISON as u32 => "MEMORY_FAULT_HWPOISON".to_owned(),
        _ if index == USERSPACE_EINTR as u32 => "EINTR".to_owned(),
        _ if index == USERSPACE_OTHER as u32 => "other".to_owned(),
        _ => kvm::userspace_exit(index).map_or_else(|| index.to_string(), str::to_owned),
    }
}

/// What the durations of latency class `class` are durations of, and its name.
#[must_use]
pub fn latency_name(class: LatencyClass, isa: Isa) -> (Span, String) {
    match class.checked_sub(LATENCY_RETURNS) {
        Some(index) => (Span::Return, userspace_name(index)),
        None => (Span::Exit, reason_name(class, isa)),
    }
}

/// Whether the guest asked to be halted: HLT of VMX and SVM, or the VMM was asked to halt.
#[must_use]
pub fn is_halt(class: LatencyClass, isa: Isa) -> bool {
    match class.checked_sub(LATENCY_RETURNS) {
        Some(index) => index == kvm::EXIT_HLT,
        None => match isa {
            Isa::Vmx => class == vmx::HLT || class as usize == TdExit::Hlt.reason_index(),
            Isa::Svm => class == svm::HLT,
            Isa::Software => false,
        },
    }
}

/// The class of a place; `None` for a number that no class has.
#[must_use]
pub fn class_of(place: &Place) -> Option<Class> {
    Class::ALL.into_iter().find(|class| *class as u32 + 1 == place.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_named_by_the_kind_of_kvm() {
        assert_eq!(reason_name(77, Isa::Vmx), "TDCALL");
        assert_eq!(reason_name(0x72, Isa::Svm), "CPUID");
        assert_eq!(reason_name(REASON_SVM_HIGH as u32, Isa::Svm), "NPF");
        assert_eq!(reason_name(REASON_UNDEFINED as u32, Isa::Vmx), "UNDEFINED");
        assert_eq!(reason_name(100, Isa::Vmx), "0x64");
        assert_eq!(userspace_name(39), "MEMORY_FAULT");
        assert_eq!(userspace_name(USERSPACE_EINTR as u32), "EINTR");
        assert_eq!(userspace_name(USERSPACE_HWPOISON as u32), "MEMORY_FAULT_HWPOISON");
    }

    #[test]
    fn an_audit_without_exit_events_leaves_exits_out_of_the_verdict() {
        let first = KvmStat::default();
        let last = KvmStat { exits: 5, fpu_reload: 2, seen_runs: 2, ..first };
        assert!(Audit::between(&first, &last, Isa::Software).agrees());
        assert!(!Audit::between(&first, &last, Isa::Svm).agrees());
        let missed = KvmStat { seen_runs: 1, ..last };
        assert!(!Audit::between(&first, &missed, Isa::Software).agrees());
    }
}
