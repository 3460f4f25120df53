//! The eBPF programs of tdtrace.
//!
//! `host` has the programs on KVM's tracepoints, `slot` finds and makes the counting slot of a vCPU,
//! `maps` the maps and globals, `kernel` the typed reads of kernel memory at offsets that the user
//! side resolved, `floor` the programs that the benchmark compares with.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod floor;
#[expect(
    clippy::needless_pass_by_value,
    reason = "the macro hands every program its context by value"
)]
mod host;
mod kernel;
mod maps;
mod slot;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // The verifier proves that this is never reached.
    loop {}
}

/// The kernel gives its tracing functions to programs under the GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
