//! The one program that only synthetic TDs need: it says where their memory is.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::maps::{SYNTHETIC_CPUS, SYNTHETIC_MEMORY};

/// Leaves the kernel address of the synthetic memory with CPU 0. Run once, never attached.
#[raw_tracepoint]
fn synthetic_address(_ctx: RawTracePointContext) -> u32 {
    if let (Some(memory), Some(cpu)) = (SYNTHETIC_MEMORY.get_ptr(0), SYNTHETIC_CPUS.get_ptr_mut(0))
    {
        // SAFETY: a value of the map, which nobody else writes while this runs.
        unsafe { (*cpu).memory = memory as u64 };
    }
    0
}
