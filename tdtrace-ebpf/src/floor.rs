//! What running a program costs before it does anything. Only `cargo xtask bench` loads these: the
//! tool loads the programs of its probes and no other.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::raw_tracepoint, programs::RawTracePointContext};

/// Nothing: what remains is the kernel's own bookkeeping.
#[raw_tracepoint]
fn floor_empty(_ctx: RawTracePointContext) -> u32 {
    0
}

/// One look at the clock. A call of a helper stays, whatever becomes of its result.
#[raw_tracepoint]
fn floor_clock(_ctx: RawTracePointContext) -> u32 {
    // SAFETY: no preconditions.
    let _now = unsafe { bpf_ktime_get_ns() };
    0
}
