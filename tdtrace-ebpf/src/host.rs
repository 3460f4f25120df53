//! The programs on KVM's tracepoints of a vCPU's way through KVM_RUN and of what a guest asks for.
//! They count, in the slot of the vCPU; four of them take the time.
//!
//! Argument order is that of the tracepoint's `TP_PROTO`, the same from Linux 6.1 to 7.3.

use aya_ebpf::{bindings::BPF_ANY, macros::raw_tracepoint, programs::RawTracePointContext};
use tdtrace_common::counters::{
    Class, Loss, USERSPACE, USERSPACE_EINTR, USERSPACE_HWPOISON, USERSPACE_OTHER,
};

use crate::{
    constant::opaque,
    context::Task,
    kernel, ledger,
    maps::{SLOT_BY_THREAD, lose, memo},
    slot::{self, Slot},
    td, time,
};

// The kernel extends a number of 32 bits with zeros (`include/trace/bpf_probe.h:CAST_TO_U64`), so it is taken
// as it stands.

/// `kvm_pio(rw, port, size, count, data)`: rw 0 IN, 1 OUT.
#[raw_tracepoint]
fn kvm_pio(ctx: RawTracePointContext) -> u32 {
    const _: () = assert!(Class::PioOut as u64 == Class::PioIn as u64 + 1);
    let writes = ctx.arg::<u64>(0) & 1;
    slot::count_running(&ctx, Class::PioIn as u64 + writes, ctx.arg(1), ctx.arg(2))
}

/// `kvm_mmio(type, len, gpa, val)`: type 0 unsatisfied read, 1 read, 2 write.
#[raw_tracepoint]
fn kvm_mmio(ctx: RawTracePointContext) -> u32 {
    const _: () = assert!(Class::MmioRead as u64 == Class::MmioReadUnsatisfied as u64 + 1);
    const _: () = assert!(Class::MmioWrite as u64 == Class::MmioReadUnsatisfied as u64 + 2);
    let kind = ctx.arg::<u64>(0).min(2);
    slot::count_running(&ctx, Class::MmioReadUnsatisfied as u64 + kind, ctx.arg(2), ctx.arg(1))
}

/// `kvm_fast_mmio(gpa)`.
#[raw_tracepoint]
fn kvm_fast_mmio(ctx: RawTracePointContext) -> u32 {
    slot::count_running(&ctx, Class::FastMmio as u64, ctx.arg(0), 0)
}

/// `kvm_cpuid(function, index, …)`. Counted by function: the index is noise for most of them.
#[raw_tracepoint]
fn kvm_cpuid(ctx: RawTracePointContext) -> u32 {
    slot::count_running(&ctx, Class::Cpuid as u64, ctx.arg(0), 0)
}

/// `kvm_msr(write, ecx, data, exception)`.
#[raw_tracepoint]
fn kvm_msr(ctx: RawTracePointContext) -> u32 {
    const _: () = assert!(Class::MsrWrite as u64 == Class::MsrRead as u64 + 1);
    let writes = ctx.arg::<u64>(0) & 1;
    slot::count_running(&ctx, Class::MsrRead as u64 + writes, ctx.arg(1), 0)
}

/// `kvm_hypercall(nr, a0, a1, a2, a3)`.
#[raw_tracepoint]
fn kvm_hypercall(ctx: RawTracePointContext) -> u32 {
    slot::count_running(&ctx, Class::Hypercall as u64, ctx.arg(0), 0)
}

/// `kvm_fpu(load)`: fires when KVM_RUN loads the guest's FPU state and when it puts it away, so it
/// brackets the run.
#[raw_tracepoint]
fn kvm_fpu(ctx: RawTracePointContext) -> u32 {
    let begins = ctx.arg::<u32>(0) != 0;
    let now = if begins { time::early() } else { 0 };
    let task = Task::current();
    let Some(vcpu) = task.running_vcpu() else {
        let class = if begins { Class::RunBegin } else { Class::RunEnd };
        lose(Loss::Unattributed, class);
        return 0;
    };
    if begins {
        if let Some(mut slot) = slot::of_run(&ctx, vcpu, task) {
            slot.count(Class::RunBegin);
            time::runs(&mut slot, now, task.run_delay());
            if slot.get().synced == 0 {
                slot::sync_seldom(slot.index(), vcpu);
            }
        }
    } else if let Some(mut slot) = slot::of(&ctx, vcpu, Class::RunEnd) {
        slot.count(Class::RunEnd);
        slot.sync(vcpu);
        remember_leaving(&mut slot, task.tid());
    }
    0
}

/// For `kvm_userspace_exit`, which comes after `vcpu_put`: this CPU remembers the thread, and the
/// map does for a thread that migrates in between.
#[inline(always)]
fn remember_leaving(slot: &mut Slot, tid: u32) {
    let index = slot.index();
    slot.get().leaving = 1;
    if slot.get().tid != tid {
        changes_thread(index, tid);
    }
    if let Some(memo) = memo() {
        // SAFETY: this CPU's value, written as one word.
        unsafe { (*memo).leaving = u64::from(tid) << 32 | u64::from(index) };
    }
}

/// The vCPU in slot `index` runs in thread `tid` now.
#[cold]
#[inline(never)]
fn changes_thread(index: u32, tid: u32) -> u32 {
    let Some(mut slot) = Slot::at(index) else { return 0 };
    forget_thread(slot.get().tid, index);
    slot.get().tid = tid;
    // If there is no room, a thread that migrates now is not found: that is counted then.
    let _ = SLOT_BY_THREAD.insert(tid, index, u64::from(BPF_ANY));
    0
}

/// The vCPU in slot `index` goes on in another thread: nothing else would take the entry away.
#[inline(always)]
fn forget_thread(tid: u32, index: u32) {
    // SAFETY: the value is a number that is only compared.
    if unsafe { SLOT_BY_THREAD.get(tid) }.is_some_and(|of_thread| *of_thread == index) {
        let _ = SLOT_BY_THREAD.remove(tid);
    }
}

/// The slot whose KVM_RUN thread `tid`, this one, is just leaving.
#[inline(always)]
fn leaving(tid: u32) -> Option<Slot> {
    // SAFETY: only the address is made.
    let memo = unsafe { &raw const (*memo()?).leaving };
    // SAFETY: this CPU's value, read as one word.
    if (unsafe { *memo } >> 32) as u32 == tid
        && let Some(slot) = take_leaving(memo.cast(), tid)
    {
        return Some(slot);
    }
    leaving_elsewhere(tid)
}

/// The same for a thread that ended its KVM_RUN on another CPU.
#[cold]
#[inline(never)]
fn leaving_elsewhere(tid: u32) -> Option<Slot> {
    // SAFETY: the value is a number that is only used as an index.
    take_leaving(unsafe { SLOT_BY_THREAD.get(tid) }?, tid)
}

/// The slot whose index stands at `index`, if that is what thread `tid` is leaving. `leaving` keeps a thread
/// that runs several vCPUs from being taken for the wrong one.
#[inline(always)]
fn take_leaving(index: *const u32, tid: u32) -> Option<Slot> {
    let mut slot = Slot::named_at(index)?;
    let current = slot.get();
    if current.leaving == 0 || current.tid != tid {
        return None;
    }
    current.leaving = 0;
    Some(slot)
}

/// `KVM_EXIT_MEMORY_FAULT`.
const MEMORY_FAULT: usize = 39;
const EFAULT: i32 = 14;
const EINTR: i32 = 4;
const EHWPOISON: i32 = 133;

/// `kvm_userspace_exit(reason, errno)`. With an errno the reason may be stale, except for memory
/// faults, which come with -EFAULT or -EHWPOISON.
#[raw_tracepoint]
fn kvm_userspace_exit(ctx: RawTracePointContext) -> u32 {
    let now = time::early();
    let task = Task::current();
    let Some(mut slot) = leaving(task.tid()) else {
        lose(Loss::Unattributed, Class::UserspaceExit);
        return 0;
    };
    slot.count(Class::UserspaceExit);
    let reason = ctx.arg::<u32>(0) as usize;
    let errno = ctx.arg::<i32>(1);
    let index = if errno >= 0 && reason < USERSPACE_HWPOISON {
        reason
    } else {
        returns_error(slot.index(), reason, errno) as usize
    };
    slot.get().userspace[opaque(index) & (USERSPACE - 1)] += 1;
    if slot.get().td != 0 {
        td::returns(&mut slot, index);
    }
    time::returns(&mut slot, index, now, task.run_delay());
    0
}

/// The index of a return with a reason that there is not, or with an errno, of the vCPU in slot `index`.
#[cold]
#[inline(never)]
fn returns_error(index: u32, reason: usize, errno: i32) -> u32 {
    let fails = errno == -EFAULT || errno == -EHWPOISON;
    if reason == MEMORY_FAULT && fails {
        ledger::fails(index, errno);
    }
    let index = if errno == -EINTR {
        USERSPACE_EINTR
    } else if errno == -EHWPOISON && reason == MEMORY_FAULT {
        USERSPACE_HWPOISON
    } else if errno < 0 && !fails || reason >= USERSPACE_HWPOISON {
        USERSPACE_OTHER
    } else {
        reason
    };
    index as u32
}

/// Every how many entries KVM's counters are read of a vCPU that stays inside KVM_RUN.
const SYNC_EVERY: u64 = 1024;

/// `kvm_entry(vcpu, force_immediate_exit)`: interrupts are off, no exit is in flight.
#[raw_tracepoint]
fn kvm_entry(ctx: RawTracePointContext) -> u32 {
    let now = time::early();
    let vcpu: u64 = ctx.arg(0);
    if let Some(mut slot) = slot::of(&ctx, vcpu, Class::Entry) {
        time::enters(&mut slot, now);
        if slot.get().td != 0 {
            td::enters(&mut slot, vcpu);
        }
        let entries = slot.count(Class::Entry);
        if slot.get().synced == 0 || entries.is_multiple_of(SYNC_EVERY) {
            slot::sync_seldom(slot.index(), vcpu);
        }
    }
    0
}

/// `kvm_exit(vcpu, isa)`: the reason is not an argument, it is read from the vCPU.
#[raw_tracepoint]
fn kvm_exit(ctx: RawTracePointContext) -> u32 {
    let now = time::early();
    let vcpu: u64 = ctx.arg(0);
    if let Some(mut slot) = slot::of(&ctx, vcpu, Class::Exit) {
        slot.count(Class::Exit);
        let index = if slot.get().td != 0 {
            td::exits(&mut slot, vcpu)
        } else {
            kernel::exit_reason_index(vcpu, ctx.arg(1))
        };
        slot.count_reason(index);
        time::exits(&mut slot, index, now);
    }
    0
}

/// `kvm_nested_vmexit(vcpu, isa)`: the exit before it came from L2.
#[raw_tracepoint]
fn kvm_nested_vmexit(ctx: RawTracePointContext) -> u32 {
    let vcpu: u64 = ctx.arg(0);
    if let Some(mut slot) = slot::of(&ctx, vcpu, Class::NestedExit) {
        let index = kernel::exit_reason_index(vcpu, ctx.arg(1));
        slot.count(Class::NestedExit);
        slot.count_place(Class::NestedExit, index as u64, 0);
    }
    0
}
