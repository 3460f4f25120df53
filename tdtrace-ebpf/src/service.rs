//! The programs on what KVM does for a guest besides its exits: faults, page tables, halts,
//! interrupts.
//!
//! Argument order is that of the tracepoint's `TP_PROTO`, the same from Linux 6.1 to 7.3.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use tdtrace_common::counters::{Class, Loss};

use crate::{context::Task, ledger, maps::lose, slot, time};

/// `kvm_page_fault(vcpu, fault_address, error_code)`. Counted by what the fault was, not by address:
/// a guest touches all of its memory once.
#[raw_tracepoint]
fn kvm_page_fault(ctx: RawTracePointContext) -> u32 {
    if let Some(mut slot) = slot::of(&ctx, ctx.arg(0), Class::PageFault) {
        slot.count(Class::PageFault);
        slot.count_place(Class::PageFault, ctx.arg(2), 0);
    }
    0
}

/// `handle_mmio_page_fault(addr, gfn, access)`; `addr` is 0 with direct paging.
#[raw_tracepoint]
fn handle_mmio_page_fault(ctx: RawTracePointContext) -> u32 {
    slot::count_running(&ctx, Class::MmioFault as u64, ctx.arg::<u64>(1) << slot::PAGE_SHIFT, 0)
}

/// `kvm_tdp_mmu_spte_changed(as_id, gfn, level, old_spte, new_spte)`. Also fires where memory is taken
/// away from a guest, by whichever thread does that.
#[raw_tracepoint]
fn kvm_tdp_mmu_spte_changed(ctx: RawTracePointContext) -> u32 {
    if Task::current().running_vcpu().is_none() {
        lose(Loss::Outside, Class::SpteChanged);
        return 0;
    }
    if let Some(mut slot) = slot::running(&ctx, Class::SpteChanged) {
        let level = ctx.arg::<u32>(2);
        slot.count(Class::SpteChanged);
        slot.count_place(Class::SpteChanged, u64::from(level), 0);
        if slot.get().td != 0 {
            ledger::maps(&mut slot, level, ctx.arg(3), ctx.arg(4));
        }
    }
    0
}

/// `kvm_vcpu_wakeup(ns, waited, valid)`.
#[raw_tracepoint]
fn kvm_vcpu_wakeup(ctx: RawTracePointContext) -> u32 {
    if let Some(mut slot) = slot::running(&ctx, Class::Halt) {
        slot.count(Class::Halt);
        slot.count_place(Class::Halt, u64::from(ctx.arg::<u32>(1) & 0xff != 0), 0);
        time::halted(&mut slot, ctx.arg(0));
    }
    0
}

/// `kvm_halt_poll_ns(grow, vcpu_id, new, old)`, on the vCPU's own thread.
#[raw_tracepoint]
fn kvm_halt_poll_ns(ctx: RawTracePointContext) -> u32 {
    slot::count_running(&ctx, Class::HaltPoll as u64, ctx.arg(2), 0)
}

/// `kvm_inj_virq(vector, soft, reinjected)`.
#[raw_tracepoint]
fn kvm_inj_virq(ctx: RawTracePointContext) -> u32 {
    slot::count_running(&ctx, Class::Interrupt as u64, ctx.arg(0), 0)
}

/// `kvm_apicv_accept_irq(apicid, dm, tm, vec)`, in the sender's context: whose thread it is says
/// nothing.
#[raw_tracepoint]
fn kvm_apicv_accept_irq(_ctx: RawTracePointContext) -> u32 {
    lose(Loss::Outside, Class::InterruptPosted);
    0
}
