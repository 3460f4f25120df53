//! Conversions, acceptance, quotes and bounces: calls that are counted by operation and caller.

use aya_ebpf::{
    EbpfContext,
    programs::{
        FEntryContext, FExitContext, ProbeContext, RetProbeContext, tracing::StackIdContext,
    },
};
use tdtrace_common::guest::{
    CallEntry, CallEntryKey, CallKey, CallValue, GuestLoss, Operation, has_failed,
};

use super::maps::{CALL_ENTRIES, CALLS, control, lose, now, raise, returns, stack, thread};
use crate::maps::{self, add};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// A function whose calls are counted.
#[derive(Clone, Copy)]
pub(super) struct Function {
    /// The operation, or the first of two that the third argument tells apart.
    operation: Operation,
    /// The operation if the third argument, a `bool`, is true.
    private: Operation,
    /// How many bytes it is about.
    bytes: Bytes,
}

/// How the arguments tell how many bytes a call is about.
#[derive(Clone, Copy)]
enum Bytes {
    /// The second argument, an `int`, is a number of pages.
    Pages,
    /// From the first argument to the second.
    Range,
    /// The second argument.
    Size,
    /// They do not.
    None,
}

/// `int __set_memory_enc_pgtable(unsigned long addr, int numpages, bool enc)`
pub(super) const CONVERT: Function =
    Function { operation: Operation::ToShared, private: Operation::ToPrivate, bytes: Bytes::Pages };
/// `tdx_enc_status_change_prepare(unsigned long vaddr, int numpages, bool enc)`
pub(super) const PREPARE: Function =
    Function { operation: Operation::Prepare, private: Operation::Prepare, bytes: Bytes::Pages };
/// `tdx_enc_status_change_finish(unsigned long vaddr, int numpages, bool enc)`
pub(super) const FINISH: Function =
    Function { operation: Operation::Finish, private: Operation::Finish, bytes: Bytes::Pages };
/// `bool tdx_map_gpa(phys_addr_t start, phys_addr_t end, bool enc)`
pub(super) const MAP_GPA: Function = Function {
    operation: Operation::MapShared,
    private: Operation::MapPrivate,
    bytes: Bytes::Range,
};
/// `bool tdx_accept_memory(phys_addr_t start, phys_addr_t end)`
pub(super) const ACCEPT_TDX: Function = Function {
    operation: Operation::AcceptTdx,
    private: Operation::AcceptTdx,
    bytes: Bytes::Range,
};
/// `void accept_memory(phys_addr_t start, unsigned long size)`
pub(super) const ACCEPT: Function =
    Function { operation: Operation::Accept, private: Operation::Accept, bytes: Bytes::Size };
/// `int tdx_report_new(struct tsm_report *report, void *data)`
pub(super) const REPORT: Function =
    Function { operation: Operation::Report, private: Operation::Report, bytes: Bytes::None };
/// `u64 tdx_hcall_get_quote(u8 *buf, size_t size)`
pub(super) const GET_QUOTE: Function =
    Function { operation: Operation::GetQuote, private: Operation::GetQuote, bytes: Bytes::Size };

impl Function {
    #[inline(always)]
    fn operation(self, arguments: &[u64; 3]) -> Operation {
        if arguments[2] & 0xff != 0 { self.private } else { self.operation }
    }

    #[inline(always)]
    fn bytes(self, arguments: &[u64; 3]) -> u64 {
        match self.bytes {
            Bytes::Pages => u64::from(arguments[1] as u32) * PAGE,
            Bytes::Range => arguments[1].saturating_sub(arguments[0]),
            Bytes::Size => arguments[1],
            Bytes::None => 0,
        }
    }

    /// How many arguments it has: fentry must not read beyond.
    #[inline(always)]
    const fn arguments(self) -> usize {
        match self.bytes {
            Bytes::Pages => 3,
            Bytes::Range if self.operation as u32 != self.private as u32 => 3,
            Bytes::Range | Bytes::Size | Bytes::None => 2,
        }
    }
}

/// The beginning of a call, seen by fentry.
#[inline(always)]
pub(super) fn enters(_ctx: &FEntryContext, function: Function) {
    begin(function, [0; 3]);
}

/// The same by kprobe, which the end does not get arguments from.
#[inline(always)]
pub(super) fn enters_kprobe(ctx: &ProbeContext, function: Function) {
    let argument = |index| ctx.arg::<u64>(index).unwrap_or(0);
    let third = if function.arguments() > 2 { argument(2) } else { 0 };
    begin(function, [argument(0), argument(1), third]);
}

#[inline(always)]
fn begin(function: Function, arguments: [u64; 3]) {
    let Some(control) = control() else {
        return;
    };
    let key = CallEntryKey { thread: thread(), function: function.operation as u64 };
    let entry = CallEntry { at: now(control, None), arguments };
    if CALL_ENTRIES.insert(&key, &entry, 0).is_err() {
        lose(GuestLoss::UnpairedCalls);
    }
}

/// The end of a call, seen by fexit.
#[inline(always)]
pub(super) fn leaves(ctx: &FExitContext, function: Function) {
    let third = if function.arguments() > 2 { ctx.arg::<u64>(2) } else { 0 };
    let arguments = [ctx.arg::<u64>(0), ctx.arg::<u64>(1), third];
    end(ctx, function, Some(arguments), ctx.ret::<u64>().unwrap_or(0));
}

/// The same by kretprobe.
#[inline(always)]
pub(super) fn leaves_kretprobe(ctx: &RetProbeContext, function: Function) {
    end(ctx, function, None, ctx.ret::<u64>());
}

#[inline(always)]
fn end<C: EbpfContext + StackIdContext>(
    ctx: &C,
    function: Function,
    arguments: Option<[u64; 3]>,
    returned: u64,
) {
    let Some(control) = control() else {
        return;
    };
    let key = CallEntryKey { thread: thread(), function: function.operation as u64 };
    // SAFETY: only this thread has this key; it is copied before it is removed.
    let entry = unsafe { CALL_ENTRIES.get(&key) }.copied();
    let _ = CALL_ENTRIES.remove(&key);
    if entry.is_none() {
        lose(GuestLoss::UnpairedCalls);
    }
    let Some(arguments) = arguments.or(entry.map(|entry| entry.arguments)) else {
        // Which of two operations it was, and of how many bytes, is not known.
        return lose(GuestLoss::Calls);
    };
    let began = entry.map_or(0, |entry| entry.at);
    let ns = if began != 0 { now(control, None).checked_sub(began) } else { None };
    let operation = function.operation(&arguments) as u32;
    record(ctx, operation, function.bytes(&arguments), ns, returned);
}

/// Counts a call of `operation`.
#[inline(always)]
pub(super) fn record<C: EbpfContext + StackIdContext>(
    ctx: &C,
    operation: u32,
    bytes: u64,
    ns: Option<u64>,
    returned: u64,
) {
    let key = CallKey { operation, stack: stack(ctx) };
    let Some(call) = maps::entry(&CALLS, &key, &CallValue::default()) else {
        return lose(GuestLoss::Calls);
    };
    // SAFETY: the value of a preallocated map whose elements are never removed; sums are atomic.
    unsafe {
        add(&raw mut (*call).count, 1);
        add(&raw mut (*call).bytes, bytes);
        if let Some(ns) = ns {
            add(&raw mut (*call).timed, 1);
            add(&raw mut (*call).ns, ns);
            raise(&raw mut (*call).max_ns, ns);
        }
        if has_failed(returns(operation), returned) {
            add(&raw mut (*call).failed, 1);
            (*call).last_failure = returned;
        }
    }
}
