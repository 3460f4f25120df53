//! Bytes and numbers in, meaning out: pure functions, no I/O.

pub mod bits;
pub mod disassembly;
pub mod exit;
pub mod gpa;
pub mod insn;
pub mod pferr;
pub mod qualification;
pub mod status;
pub mod tdvmcall;
pub mod ve;
