//! The moment in which a program runs: the clock, the thread, its vCPU. Everything that a program
//! wants to know of it goes through here.
//!
//! A load for synthetic TDs takes all of it from a map. In any other load the verifier, which knows
//! the value of the global, removes that code.

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_get_smp_processor_id, bpf_ktime_get_ns,
};
use tdtrace_common::synthetic::SyntheticCpu;

use crate::{
    constant::{has, is_synthetic},
    kernel::{load, number, offset},
    maps::SYNTHETIC_CPUS,
};

/// What this CPU was told, in a load for synthetic TDs.
#[inline(always)]
fn told() -> Option<*mut SyntheticCpu> {
    // SAFETY: no preconditions.
    SYNTHETIC_CPUS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// The synthetic value of a field; 0 on a CPU without any.
macro_rules! told {
    ($field:ident) => {
        // SAFETY: a value of the map; the thread that set it waits for this program.
        told().map_or(0, |told| unsafe { (*told).$field })
    };
}

/// `CLOCK_MONOTONIC`, in nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    if is_synthetic() {
        return told!(now);
    }
    // SAFETY: no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Process in the high half, thread in the low one.
#[inline(always)]
fn pid_tgid() -> u64 {
    if is_synthetic() { told!(pid_tgid) } else { bpf_get_current_pid_tgid() }
}

/// The thread.
#[inline(always)]
pub(crate) fn tid() -> u32 {
    pid_tgid() as u32
}

/// The process.
#[inline(always)]
pub(crate) fn tgid() -> u32 {
    (pid_tgid() >> 32) as u32
}

/// `tgid << 32 | pid`, and for the idle tasks, all of which have 0, something of their own.
#[inline(always)]
pub(crate) fn thread() -> u64 {
    match pid_tgid() {
        // SAFETY: no preconditions.
        0 => 1 << 63 | u64::from(unsafe { bpf_get_smp_processor_id() }),
        thread => thread,
    }
}

/// The thread that a program runs in, for programs that want to know several things of it.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

impl Task {
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: no preconditions.
        Self(unsafe { bpf_get_current_task_btf() }.cast())
    }

    /// An integer in the `task_struct`; `None` if this kernel has no such field. The verifier knows the pointer's
    /// type, so that the field is loaded without a call: it checks that one of this size is there.
    #[inline(always)]
    fn field<T, const NUMBER: i32>(self) -> Option<u64> {
        // SAFETY: as said above.
        has::<NUMBER>().then(|| unsafe { load::<T, NUMBER>(self.0) })
    }

    /// The thread.
    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        if is_synthetic() {
            return tid();
        }
        self.field::<u32, { number!(task_pid) }>().map_or_else(tid, |tid| tid as u32)
    }

    /// The process.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        if is_synthetic() {
            return tgid();
        }
        self.field::<u32, { number!(task_tgid) }>().map_or_else(tgid, |tgid| tgid as u32)
    }

    /// How long it has been ready to run without a CPU, in nanoseconds; 0 where the kernel does not count it.
    #[inline(always)]
    pub(crate) fn run_delay(self) -> u64 {
        if is_synthetic() {
            return told!(run_delay);
        }
        self.field::<u64, { number!(task_run_delay) }>().unwrap_or(0)
    }

    /// The `kvm_vcpu` that it has loaded: `kvm_main.c:vcpu_load` registers its preempt notifier on the task,
    /// and nothing but KVM registers any.
    #[inline(always)]
    pub(crate) fn running_vcpu(self) -> Option<u64> {
        if is_synthetic() {
            let vcpu = told!(vcpu);
            return (vcpu != 0).then_some(vcpu);
        }
        if !has::<{ number!(vcpu_preempt_link) }>() {
            return None;
        }
        let link = self.field::<u64, { number!(task_preempt_notifiers) }>()?;
        (link != 0).then(|| link.wrapping_sub(offset!(vcpu_preempt_link)))
    }
}
