//! Bytes and numbers in, meaning out: pure functions, no I/O.

pub mod insn;
