//! Options of every command that counts.

use crate::source::live::Options;

/// Where the counters come from.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// vCPUs that can be counted at the same time
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_vcpus: u32,
    /// Take no times: cheaper, but without durations and where the time goes
    #[arg(long)]
    no_latency: bool,
    /// Print what the eBPF programs log to stderr
    #[arg(long)]
    pub(super) debug_ebpf: bool,
}

impl SourceArgs {
    pub(super) fn options(self) -> Options {
        Options { max_vcpus: self.max_vcpus, debug_ebpf: self.debug_ebpf, timed: !self.no_latency }
    }
}
