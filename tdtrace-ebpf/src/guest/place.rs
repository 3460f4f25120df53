//! The place of a #VE, an instruction and what it is about, and how #VEs are counted by it.

use aya_ebpf::{EbpfContext, helpers::bpf_get_current_comm, programs::tracing::StackIdContext};
use tdtrace_common::guest::{
    GuestLoss, VE_ERRNO, VE_HANDLED, VE_MODE, VE_TIMED, VE_UNPAIRED, VE_USER, VeEvent, VeKey,
    VeValue,
};

use super::{
    frame,
    maps::{VE_PLACES, lose, stack},
};
use crate::maps::add;

/// An EPT violation: MMIO.
pub(super) const EPT_VIOLATION: u64 = 48;
/// CPUID, port I/O, RDMSR and WRMSR.
const CPUID: u64 = 10;
const IO: u64 = 30;
const RDMSR: u64 = 31;
const WRMSR: u64 = 32;
/// Stands for the object of a CPUID whose registers are gone.
const UNKNOWN_OBJECT: u64 = u64::MAX;

/// What the instruction is about.
#[inline(always)]
fn object(event: &VeEvent) -> u64 {
    match event.ve.reason {
        IO => event.ve.qualification & 0xffff_ffff,
        EPT_VIOLATION => event.ve.gpa & !0xfff,
        RDMSR | WRMSR => event.cx & 0xffff_ffff,
        CPUID if event.flags & VE_UNPAIRED != 0 => UNKNOWN_OBJECT,
        CPUID => event.ax & 0xffff_ffff | event.cx << 32,
        _ => 0,
    }
}

/// Counts it by its place, made if there is none.
#[inline(always)]
pub(super) fn count_place<C: EbpfContext + StackIdContext>(
    ctx: &C,
    event: &mut VeEvent,
    new: &mut VeValue,
) {
    let key = VeKey {
        reason: event.ve.reason as u32,
        mode: event.flags & VE_MODE,
        ip: event.ip,
        object: object(event),
    };
    let place = match VE_PLACES.get_ptr_mut(&key) {
        Some(place) => Some(place),
        None => {
            describe(ctx, event);
            *new = VeValue {
                thread: event.thread,
                stack: event.stack,
                bytes_len: event.bytes_len,
                bytes: event.bytes,
                comm: event.comm,
                ..VeValue::default()
            };
            const NO_EXIST: u64 = 1;
            // Another CPU may have been faster; what is there then counts.
            let _ = VE_PLACES.insert(&key, &*new, NO_EXIST);
            VE_PLACES.get_ptr_mut(&key)
        }
    };
    let Some(place) = place else {
        return lose(GuestLoss::Places);
    };
    // SAFETY: the value of a preallocated map whose elements are never removed; sums are atomic, the
    // rest are single words of which the last stays.
    unsafe {
        add(&raw mut (*place).count, 1);
        if event.flags & VE_HANDLED == 0 {
            add(&raw mut (*place).failed, 1);
            if event.flags & VE_ERRNO != 0 {
                (*place).errno = event.errno;
            }
        }
        if event.flags & VE_TIMED != 0 {
            add(&raw mut (*place).timed, 1);
            add(&raw mut (*place).ns, event.ns);
        }
        (*place).qualification = event.ve.qualification;
        (*place).gpa = event.ve.gpa;
    }
}

/// Reads what costs more: instruction, stack and name. Once an event.
#[inline(always)]
pub(super) fn describe<C: EbpfContext + StackIdContext>(ctx: &C, event: &mut VeEvent) {
    if event.bytes_len != 0 || event.comm[0] != 0 {
        return;
    }
    let user = event.flags & VE_USER != 0;
    event.bytes_len = frame::instruction(event.ip, user, &mut event.bytes);
    event.stack = stack(ctx);
    event.comm = bpf_get_current_comm().unwrap_or_default();
}
