//! vCPUs that fire events and keep the truth of them.

use std::time::Duration;

use tdtrace::{
    model::sample::{LatencySample, Sample, VcpuSample},
    source::synthetic::{Cpu, Event, FIRST_PID, Registers, Synthetic, SyntheticOptions, Vcpu},
};
use tdtrace_common::{counters::Class, kvm};

use super::truth::{Durations, Truth};

/// A small generator, so that a run can be repeated (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A vCPU with its clock and the truth about it.
pub(crate) struct Driven {
    pub(crate) vcpu: Vcpu,
    pub(crate) truth: Truth,
    pub(crate) now: u64,
    pub(crate) run_delay: u64,
}

impl Driven {
    pub(crate) fn new(vcpu: Vcpu, now: u64) -> Self {
        Self { vcpu, truth: Truth::default(), now, run_delay: 0 }
    }

    /// Fires `event` after `ns` nanoseconds, of which its thread waited `waiting` for a CPU.
    pub(crate) fn fire(&mut self, cpu: &Cpu<'_>, event: Event, ns: u64, waiting: u64) {
        self.now += ns;
        self.run_delay += waiting;
        cpu.fire(self.vcpu, event, self.now, self.run_delay).expect("the program runs");
    }

    pub(crate) fn run_begin(&mut self, cpu: &Cpu<'_>, ns: u64, waiting: u64) {
        self.fire(cpu, Event::RunBegin, ns, waiting);
        self.truth.runs(self.now, self.run_delay);
    }

    /// An entry, before which KVM answers with `status`.
    pub(crate) fn enter(&mut self, cpu: &Cpu<'_>, status: u64, ns: u64, waiting: u64) {
        self.fire(cpu, Event::Entry(status), ns, waiting);
        self.truth.enters(self.now, self.run_delay);
    }

    /// An exit that must be counted under index `class`.
    pub(crate) fn exit(&mut self, cpu: &Cpu<'_>, registers: Registers, class: u32, ns: u64) {
        self.fire(cpu, Event::Exit(registers), ns, 0);
        self.truth.exits(class, self.now, self.run_delay);
    }

    /// KVM_RUN comes back with `reason` after `ns`.
    pub(crate) fn leave(&mut self, cpu: &Cpu<'_>, reason: u32, ns: u64, waiting: u64) {
        self.leave_as(cpu, (reason, 0), reason, [ns, waiting]);
    }

    /// The same with a reason and an errno that must be counted under index `class`.
    pub(crate) fn leave_as(
        &mut self,
        cpu: &Cpu<'_>,
        (reason, errno): (u32, i32),
        class: u32,
        [ns, waiting]: [u64; 2],
    ) {
        self.fire(cpu, Event::RunEnd, 0, 0);
        self.truth.count("run_end");
        self.fire(cpu, Event::UserspaceExit(reason, errno), ns, waiting);
        self.truth.returns(class, self.now, self.run_delay);
    }
}

/// A load of the usual size.
pub(crate) fn load(tds: u32, vcpus: u32) -> Synthetic {
    let max_vcpus = vcpus.max(128);
    load_with(SyntheticOptions { max_vcpus, tds, vcpus, ..SyntheticOptions::default() })
}

pub(crate) fn load_with(options: SyntheticOptions) -> Synthetic {
    Synthetic::load(options).expect("root")
}

/// TD number `index` with one vCPU, driven from `now` on.
pub(crate) fn td(synthetic: &mut Synthetic, index: u32, now: u64) -> Driven {
    vm(synthetic, index, now, kvm::TDX_VM)
}

/// The same for another type of VM.
pub(crate) fn vm(synthetic: &mut Synthetic, index: u32, now: u64, vm_type: u32) -> Driven {
    let vm = synthetic.vm(pid(index), &format!("vm-{index}"), vm_type).expect("room");
    let vcpu = synthetic.vcpu(vm, 0, pid(index), pid(index) + 1).expect("room");
    Driven::new(vcpu, now)
}

/// An exit of a TD for VMX reason `reason`.
pub(crate) fn plain(reason: u32) -> Registers {
    Registers { ret: reason.into(), kvm_reason: reason, ..Registers::default() }
}

/// The durations of the VM that process `pid` runs.
pub(crate) fn latency_of(sample: &Sample, pid: u32) -> &[LatencySample] {
    let mut found = sample.vms.iter().filter(|vm| vm.pid == pid && !vm.ended);
    let vm = found.next().unwrap_or_else(|| panic!("no VM of process {pid}"));
    assert!(found.next().is_none(), "process {pid} twice");
    &vm.latency
}

/// Process number `index` of a synthetic TD.
pub(crate) fn pid(index: u32) -> u32 {
    FIRST_PID + 100 * index
}

/// Keeps this thread on CPU `cpu`.
pub(crate) fn pin(cpu: usize) {
    // SAFETY: plain numbers, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is in the set's range, and the set as long as the call is told.
    let result = unsafe {
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(result, 0, "CPU {cpu}");
}

/// The vCPU with thread `tid`.
pub(crate) fn vcpu_of(sample: &Sample, tid: u32) -> &VcpuSample {
    let mut found = sample.vcpus.iter().filter(|vcpu| vcpu.tid == tid);
    let vcpu = found.next().unwrap_or_else(|| panic!("no vCPU of thread {tid}"));
    assert!(found.next().is_none(), "thread {tid} twice");
    vcpu
}

/// What was counted of a vCPU is what `driven` knows, to the last nanosecond.
pub(crate) fn assert_vcpu(vcpu: &VcpuSample, driven: &Driven, open: [u64; 5]) {
    let truth = &driven.truth;
    for class in Class::ALL {
        let expected = truth.counts.get(class.name()).copied().unwrap_or(0);
        assert_eq!(vcpu.counts[class], expected, "{}", class.name());
    }
    assert_eq!(vcpu.reasons, truth.reasons.clone().into_iter().collect::<Vec<_>>());
    assert_eq!(vcpu.userspace, truth.userspace.clone().into_iter().collect::<Vec<_>>());
    let mut places: Vec<_> = truth.places.iter().map(|(place, count)| (*place, *count)).collect();
    let mut seen: Vec<_> = vcpu
        .hotspots
        .iter()
        .map(|(place, count)| {
            let class = Class::ALL[place.class as usize - 1].name();
            ((class, place.address, place.size), *count)
        })
        .collect();
    places.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, places);
    let times = vcpu.times.expect("the programs take the time");
    let [guest, kernel, vmm, halted, waiting] = open;
    assert_eq!(times.guest, truth.guest + guest, "guest");
    let parts = [kernel, vmm, halted, waiting];
    for (index, (seen, expected)) in times.parts.iter().zip(truth.ns).enumerate() {
        assert_eq!(*seen, expected + parts[index], "part {index}");
    }
}

/// Durations that were counted are those of `truth`.
pub(crate) fn assert_durations(
    samples: &[LatencySample],
    truth: &std::collections::BTreeMap<u32, Durations>,
) {
    let seen = samples.iter().map(|sample| {
        let buckets = sample.histogram.filled().collect();
        (sample.class, Durations { ns: sample.ns, max: sample.max, buckets })
    });
    assert_eq!(&seen.collect::<std::collections::BTreeMap<_, _>>(), truth);
}

/// The sample at `now` nanoseconds.
pub(crate) fn sample(synthetic: &mut Synthetic, now: u64) -> Sample {
    synthetic.sample(Duration::from_nanos(now), None).expect("the maps can be read")
}
