//! A VM for each case, all in one load: the events of its interval, what was counted of them, and the
//! findings that the model makes of two samples.

use std::time::Duration;

use tdtrace::{
    model::{
        aggregate::Aggregate,
        finding::{Finding, Rule},
        sample::Sample,
        snapshot::{Snapshot, Vm},
    },
    source::synthetic::{Cpu, Event, Registers, Synthetic, SyntheticOptions},
};
use tdtrace_common::kvm;

use super::super::{
    drive::{Driven, assert_durations, assert_vcpu, load_with, pid, pin, plain, sample, vcpu_of},
    truth::Durations,
};

/// When the first sample is taken: the interval begins.
pub(super) const BEGIN: u64 = 1_000_000_000;
/// How long the interval is. A binary fraction of a second, so that rates are exact.
pub(super) const INTERVAL: u64 = 250_000_000;
/// How often it goes into a second.
pub(super) const PER_SECOND: u64 = 4;
/// How long the kernel takes for an exit: where a bucket begins, so that percentiles are exact.
pub(super) const KERNEL: u64 = 2_048;
/// Exits of a TD have indices from here on.
const TD: u32 = 192;

/// A finding without what only tells it from others.
#[derive(Debug, PartialEq)]
pub(super) struct Expected {
    pub(super) rule: Rule,
    pub(super) vcpu: Option<u32>,
    pub(super) what: Option<String>,
    pub(super) total: u64,
    pub(super) rate: Option<f64>,
    pub(super) evidence: Vec<String>,
}

impl Expected {
    /// About a VM, with `total` in the interval.
    #[expect(clippy::cast_precision_loss, reason = "there are far fewer events")]
    pub(super) fn new(rule: Rule, total: u64, evidence: &[&str]) -> Self {
        let evidence = evidence.iter().map(|line| (*line).to_owned()).collect();
        let rate = Some((PER_SECOND * total) as f64);
        Self { rule, vcpu: None, what: None, total, rate, evidence }
    }

    pub(super) fn about(self, what: &str) -> Self {
        Self { what: Some(what.to_owned()), ..self }
    }

    /// What was found; of a limit not the reason, which is the code's to say.
    pub(super) fn seen(finding: &Finding) -> Self {
        let short = |line: &String| match line.strip_prefix("The limit is ") {
            Some(limit) => format!("The limit is {}", limit.split(": ").next().unwrap_or_default()),
            None => line.clone(),
        };
        Self {
            rule: finding.rule,
            vcpu: finding.vcpu,
            what: finding.what.clone(),
            total: finding.tally.total,
            rate: finding.tally.rate,
            evidence: finding.evidence.iter().map(short).collect(),
        }
    }
}

/// What vCPUs do in the interval, and what is to be found then.
pub(super) struct Case {
    pub(super) rule: Rule,
    pub(super) name: &'static str,
    pub(super) vm_type: u32,
    /// What each vCPU does.
    pub(super) vcpus: Vec<Vec<(u64, Act)>>,
    pub(super) expected: Vec<Expected>,
}

impl Case {
    /// A TD with one vCPU, of which nothing is to be found.
    pub(super) fn new(rule: Rule, name: &'static str, acts: Vec<(u64, Act)>) -> Self {
        Self { rule, name, vm_type: kvm::TDX_VM, vcpus: vec![acts], expected: Vec::new() }
    }

    /// The same with one more vCPU.
    pub(super) fn and(mut self, acts: Vec<(u64, Act)>) -> Self {
        self.vcpus.push(acts);
        self
    }

    /// The same in a VM that is no TD.
    pub(super) fn plain(self) -> Self {
        Self { vm_type: 0, ..self }
    }

    /// The same, with a finding about the VM: how often, and what it says.
    pub(super) fn finds(self, total: u64, evidence: &[&str]) -> Self {
        let expected = Expected::new(self.rule, total, evidence);
        self.expects(expected)
    }

    pub(super) fn expects(mut self, expected: Expected) -> Self {
        self.expected.push(expected);
        self
    }
}

/// An exit with what comes of it.
#[derive(Clone, Copy)]
pub(super) struct Act {
    registers: Registers,
    /// Under which index it is counted.
    index: u32,
    place: Option<(&'static str, u64, u32)>,
    /// What the kernel traces of it.
    traced: Option<Event>,
    /// With which status KVM answers.
    answer: u64,
    /// With which reason KVM_RUN comes back.
    returns: Option<u32>,
    kernel: u64,
    vmm: u64,
    waiting: u64,
}

impl Act {
    /// VMX exit `reason`.
    pub(super) fn exit(reason: u32) -> Self {
        Self {
            registers: plain(reason),
            index: reason,
            place: None,
            traced: None,
            answer: 0,
            returns: None,
            kernel: KERNEL,
            vmm: 0,
            waiting: 0,
        }
    }

    /// Kind `number` of a TD's exits, with these registers.
    pub(super) fn td(number: u32, registers: Registers) -> Self {
        Self { registers, index: TD + number, ..Self::exit(77) }
    }

    /// TDVMCALL `leaf`, which is kind `number`, with R12, R13 and R14.
    pub(super) fn call(number: u32, leaf: u64, [r12, r13, r14]: [u64; 3]) -> Self {
        Self::td(number, Registers { r11: leaf, r12, r13, r14, ..plain(77) })
    }

    /// CPUID, of which no rule speaks.
    pub(super) fn cpuid() -> Self {
        Self::call(0, 10, [1, 0, 0]).at("cpuid", 1, 0)
    }

    pub(super) fn at(self, class: &'static str, address: u64, size: u32) -> Self {
        Self { place: Some((class, address, size)), ..self }
    }

    pub(super) fn traced(self, event: Event) -> Self {
        Self { traced: Some(event), ..self }
    }

    pub(super) fn answered(self, answer: u64) -> Self {
        Self { answer, ..self }
    }

    pub(super) fn returns(self, reason: u32, vmm: u64) -> Self {
        Self { returns: Some(reason), vmm, ..self }
    }

    /// The kernel takes so long.
    pub(super) fn takes(self, kernel: u64) -> Self {
        Self { kernel, ..self }
    }

    /// Of its time in the VMM so much is for want of a CPU.
    pub(super) fn waits(self, waiting: u64) -> Self {
        Self { waiting, ..self }
    }

    fn is_halt(&self) -> bool {
        [12, TD + 1].contains(&self.index)
    }

    /// The exit and what it is counted as.
    pub(super) fn begin(&self, cpu: &Cpu<'_>, driven: &mut Driven) {
        let mut registers = self.registers;
        // Each fault on a page of its own: none comes again.
        if [TD + 32, TD + 33, TD + 34].contains(&self.index) {
            registers.gpa += driven.truth.counts.get("exit").copied().unwrap_or(0) << 12;
        }
        driven.exit(cpu, registers, self.index, 100);
        if let Some((class, address, size)) = self.place {
            driven.truth.place(class, address, size);
        }
        if let Some(event) = self.traced {
            driven.fire(cpu, event, 0, 0);
        }
    }

    /// In the kernel and, if it comes to that, in the VMM, until the entry.
    pub(super) fn end(&self, cpu: &Cpu<'_>, driven: &mut Driven, is_td: bool) {
        let mut kernel = self.kernel;
        if self.is_halt() && self.returns.is_none() {
            driven.fire(cpu, Event::Wakeup(kernel, true), kernel, 0);
            driven.truth.halt(kernel);
            driven.truth.place("halt", 1, 0);
            kernel = 0;
        }
        if let Some(reason) = self.returns {
            driven.leave(cpu, reason, kernel, 0);
            if is_td {
                driven.truth.place("td_return", reason.into(), self.index);
            }
            driven.run_begin(cpu, self.vmm, self.waiting);
            kernel = 0;
        }
        driven.enter(cpu, self.answer, kernel, 0);
        if is_td && (TD..TD + 18).contains(&self.index) {
            driven.truth.place("td_answer", self.answer, self.index - TD);
        }
    }
}

/// A VM on the stage.
pub(super) struct Actor {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) is_td: bool,
    pub(super) vcpus: Vec<Driven>,
}

impl Actor {
    /// VM number `index`, whose vCPUs are in the guest when the interval begins. Each has left KVM_RUN once:
    /// only that tells its thread.
    pub(super) fn new(synthetic: &mut Synthetic, index: u32, vm_type: u32, vcpus: usize) -> Self {
        let (name, pid) = (format!("vm-{index}"), pid(index));
        let vm = synthetic.vm(pid, &name, vm_type).expect("room");
        let vcpu = |id| {
            let vcpu = synthetic.vcpu(vm, id, pid, pid + 1 + id).expect("room");
            Driven::new(vcpu, 1_000_000)
        };
        let mut vcpus: Vec<Driven> = (0..).map(vcpu).take(vcpus).collect();
        let cpu = synthetic.cpu(0);
        for driven in &mut vcpus {
            driven.run_begin(&cpu, 0, 0);
            driven.leave(&cpu, 10, 10, 0);
            driven.run_begin(&cpu, 10, 0);
            driven.enter(&cpu, 0, 10, 0);
            driven.now = BEGIN;
        }
        Self { name, pid, is_td: vm_type == kvm::TDX_VM, vcpus }
    }

    /// What vCPU number `index` does.
    pub(super) fn act(&mut self, cpu: &Cpu<'_>, index: usize, acts: &[(u64, Act)]) {
        let driven = &mut self.vcpus[index];
        for (count, act) in acts {
            for _ in 0..*count {
                act.begin(cpu, driven);
                act.end(cpu, driven, self.is_td);
            }
        }
    }

    pub(super) fn vm<'s>(&self, snapshot: &'s Snapshot) -> &'s Vm {
        snapshot.vms.iter().find(|vm| vm.pid == self.pid).expect("the VM")
    }

    /// Its findings, each of which is about it.
    pub(super) fn findings(&self, snapshot: &Snapshot) -> Vec<Expected> {
        let vm = self.vm(snapshot);
        let seen = |finding: &Finding| {
            assert_eq!((finding.vm, &*finding.vm_name), (vm.id, &*self.name));
            Expected::seen(finding)
        };
        vm.findings.iter().map(seen).collect()
    }

    /// Counts, places and times of its vCPUs are those of the truth.
    fn assert_counted(&self, sample: &Sample) {
        let mut durations = std::collections::BTreeMap::<u32, Durations>::new();
        for driven in &self.vcpus {
            let open = driven.truth.open(sample.at.as_nanos() as u64);
            assert_vcpu(vcpu_of(sample, driven.vcpu.tid), driven, open);
            for (class, of_class) in &driven.truth.durations {
                durations.entry(*class).or_default().merge(of_class);
            }
        }
        let vm = sample.vms.iter().find(|vm| vm.pid == self.pid).expect("the VM");
        assert_durations(&vm.latency, &durations);
    }
}

/// A load for so many VMs, of up to two vCPUs.
pub(super) fn load(vms: usize) -> Synthetic {
    let tds = u32::try_from(vms).expect("few VMs");
    pin(0);
    let max_vcpus = (2 * tds).max(128);
    load_with(SyntheticOptions { max_vcpus, tds, vcpus: 2 * tds, ..SyntheticOptions::default() })
}

/// Plays each case in a VM of its own: what was counted is exact, and its findings are those expected.
pub(super) fn play(cases: &[Case]) {
    let mut synthetic = load(cases.len());
    let mut actors = Vec::new();
    for (index, case) in (0..).zip(cases) {
        actors.push(Actor::new(&mut synthetic, index, case.vm_type, case.vcpus.len()));
    }
    let mut aggregate = Aggregate::new();
    let first = aggregate.apply(sample(&mut synthetic, BEGIN));
    assert_eq!((first.vms.len(), first.findings().len()), (cases.len(), 0));
    let end = BEGIN + INTERVAL;
    for (actor, case) in actors.iter_mut().zip(cases) {
        for (index, acts) in case.vcpus.iter().enumerate() {
            actor.act(&synthetic.cpu(0), index, acts);
            assert!(actor.vcpus[index].now <= end, "{}: too long", case.name);
        }
    }
    let second = sample(&mut synthetic, end);
    assert_eq!((second.at, second.losses.total()), (Duration::from_nanos(end), 0));
    let snapshot = aggregate.apply(second.clone());
    for (actor, case) in actors.iter().zip(cases) {
        println!("{}: {}", case.rule.id(), case.name);
        actor.assert_counted(&second);
        assert_eq!(actor.findings(&snapshot), case.expected);
    }
}
