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
    kernel::{ABSENT, offset},
    maps::{SYNTHETIC_CPUS, is_synthetic},
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

/// A word of the current `task_struct`. The verifier knows the pointer's type, so that the field is
/// loaded without a call: the offset is its constant, and it checks that a word is there.
#[inline(always)]
fn task_word(offset: u64) -> u64 {
    // SAFETY: as said above.
    unsafe {
        let task = bpf_get_current_task_btf().cast::<u8>();
        core::ptr::read_volatile(task.wrapping_add(offset as usize).cast::<u64>())
    }
}

/// How long the current thread has been ready to run without a CPU, in nanoseconds; 0 where the
/// kernel does not count it.
#[inline(always)]
pub(crate) fn run_delay() -> u64 {
    if is_synthetic() {
        return told!(run_delay);
    }
    let offset = offset!(task_run_delay);
    if offset == ABSENT { 0 } else { task_word(offset) }
}

/// The `kvm_vcpu` that the current thread has loaded: `kvm_main.c:vcpu_load` registers its
/// preempt notifier on the task, and nothing but KVM registers any.
#[inline(always)]
pub(crate) fn running_vcpu() -> Option<u64> {
    if is_synthetic() {
        let vcpu = told!(vcpu);
        return (vcpu != 0).then_some(vcpu);
    }
    let notifiers = offset!(task_preempt_notifiers);
    let link_offset = offset!(vcpu_preempt_link);
    if notifiers == ABSENT || link_offset == ABSENT {
        return None;
    }
    let link = task_word(notifiers);
    if link == 0 {
        return None;
    }
    Some(link.wrapping_sub(link_offset))
}
