//! The eBPF programs of tdtrace.
//!
//! `host` and `service` have the programs on KVM's tracepoints, `slot` finds and makes the counting slot of a
//! vCPU, `td` reads what an exit of a TD was, `ledger` books what became of memory, `time` where time goes,
//! `context` is the moment in which a program runs, `maps` the maps and globals, `constant` what the user side puts
//! into the instructions, `kernel` the typed reads of kernel memory at offsets that the user side resolved. `seam`
//! has the programs on SEAMCALLs, `vmm` those on what a VMM does to memory, `poison` those on broken memory, `guest`
//! those in a TD, `synthetic` what synthetic TDs need, `floor` the programs that the benchmark compares with.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros hand every program its context by value"
)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "by value a key or value is on the stack twice, and the verifier gives 512 bytes"
)]

mod constant;
mod context;
mod floor;
mod guest;
mod host;
mod kernel;
mod ledger;
mod maps;
mod poison;
mod seam;
mod service;
mod slot;
mod synthetic;
mod td;
mod time;
mod vmm;

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
