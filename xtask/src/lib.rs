//! The part of xtask that `tdtrace/build.rs` also needs: which toolchain builds the eBPF crate.

pub mod toolchain;
