//! Options of every command that counts.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::interval,
};

use crate::source::{Source, live::Options};

/// Where the counters come from.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// vCPUs that can be counted at the same time
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_vcpus: u32,
    /// Take no times: cheaper, but without durations and where the time goes
    #[arg(long)]
    no_latency: bool,
    /// Attach now, KVM loaded or not, and begin when the VM with this name or process id is there; it is
    /// counted from its first exit
    #[arg(long, value_name = "NAME")]
    wait_vm: Option<String>,
    /// Print what the eBPF programs log to stderr
    #[arg(long)]
    pub(super) debug_ebpf: bool,
}

/// How often it is looked whether the VM is there.
const LOOK: Duration = Duration::from_millis(100);

impl SourceArgs {
    pub(super) fn options(&self) -> Options {
        Options {
            max_vcpus: self.max_vcpus,
            debug_ebpf: self.debug_ebpf,
            timed: !self.no_latency,
            wait_for_kvm: self.wait_vm.is_some(),
        }
    }

    /// Waits for the VM that was asked for, if any; `false` if a signal came first.
    pub(super) async fn wait(&self, source: &mut dyn Source) -> Result<bool> {
        let Some(name) = &self.wait_vm else { return Ok(true) };
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
        eprintln!("tdtrace: waiting for VM {name}");
        let mut ticks = interval(LOOK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = interrupt.recv() => return Ok(false),
                _ = terminate.recv() => return Ok(false),
            }
            let vms = source.sample()?.vms;
            if vms.iter().any(|vm| *vm.name == **name || vm.pid.to_string() == *name) {
                return Ok(true);
            }
        }
    }
}
