//! Options of every command that counts.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::interval,
};

use crate::{
    model::sample::{Sample, VmKey, VmSample},
    source::{Due, Source, live::Options},
};

/// Where the counters come from.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// vCPUs that can be counted at the same time
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=65536))]
    max_vcpus: u32,
    /// Take no times: cheaper, but without durations and where the time goes
    #[arg(long)]
    no_latency: bool,
    /// List single exits, and returns to the VMM, that take longer: 500us, 10ms, 1s; time that a guest
    /// is halted does not count
    #[arg(long, value_name = "TIME", value_parser = limit, conflicts_with = "no_latency")]
    slower_than: Option<Duration>,
    /// See what VMMs convert where neither the function kvm_vm_ioctl nor the tracepoint
    /// kvm_vm_set_mem_attributes can be attached to, by their system calls; every system call of the machine
    /// pays for it
    #[arg(long)]
    trace_ioctl: bool,
    /// Attach now, KVM loaded or not, and begin when the VM with this name or process id is there; it is
    /// counted from its first exit
    #[arg(long, value_name = "NAME")]
    wait_vm: Option<String>,
    /// Print what the eBPF programs log to stderr
    #[arg(long)]
    pub(super) debug_ebpf: bool,
}

/// A limit of durations: a number and `ns`, `us`, `ms` or `s`.
fn limit(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return Err(format!("`{text}` is no time; write it as 500us, 10ms or 1s")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{digits}` is not a number"))?;
    let limit = Duration::try_from_secs_f64(number * unit);
    let is_possible = |limit: &Duration| (1_000..=3_600_000_000_000).contains(&limit.as_nanos());
    limit.ok().filter(is_possible).ok_or(format!("{text} is not between 1us and 3600s"))
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
            slower_than: self.slower_than,
            trace_ioctl: self.trace_ioctl,
        }
    }

    /// Whether a VM is waited for.
    pub(super) const fn waits(&self) -> bool {
        self.wait_vm.is_some()
    }

    /// Waits for the VM that was asked for, if any. The source from then on, with the sample in which it
    /// came; `None` if a signal came first.
    pub(super) async fn wait<'s>(&self, source: &'s mut dyn Source) -> Result<Option<Awaited<'s>>> {
        let Some(name) = &self.wait_vm else { return Ok(Some(Awaited { first: None, source })) };
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
        eprintln!("tdtrace: waiting for VM {name}");
        let mut ticks = interval(LOOK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = interrupt.recv() => return Ok(None),
                _ = terminate.recv() => return Ok(None),
            }
            let sample = source.sample()?;
            let is_it = |vm: &VmSample| *vm.name == **name || vm.pid.to_string() == *name;
            if sample.vms.iter().any(is_it) {
                return Ok(Some(Awaited { first: Some(sample), source }));
            }
        }
    }
}

/// A source whose next sample may have been taken already: a VM that has ended since is only there.
pub(super) struct Awaited<'s> {
    first: Option<Sample>,
    source: &'s mut dyn Source,
}

impl Source for Awaited<'_> {
    fn sample(&mut self) -> Result<Sample> {
        self.first.take().map_or_else(|| self.source.sample(), Ok)
    }

    fn detail(&mut self, vm: Option<VmKey>) {
        self.source.detail(vm);
    }

    fn attach(&mut self, attach: bool) -> Result<bool> {
        self.source.attach(attach)
    }

    fn due(&self) -> Due {
        self.source.due()
    }
}
