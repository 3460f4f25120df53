//! The running kernel: programs attached, counters read through `mmap`.
//!
//! [`processes`] says which processes are still there, [`identity`] who runs a VM.

mod identity;
mod processes;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};

use self::processes::Processes;
use super::{
    Source,
    counting::{
        Counters, Reading,
        cost::Cost,
        load::{Load, Loaded},
        privilege,
        sizes::Sizes,
    },
};
use crate::{
    kernel::{Facts, btf::BtfSet, kvm::Flavour, layout::resolve},
    model::sample::{Host, Isa, ProbeState, Sample, VmKey},
};

/// What the live source is asked to do differently.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// vCPUs that can be counted at the same time.
    pub max_vcpus: u32,
    /// Print what the programs log.
    pub debug_ebpf: bool,
    /// Let the programs take the time.
    pub timed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_vcpus: 4096, debug_ebpf: false, timed: true }
    }
}

/// The running kernel as a source. Dropping it detaches.
pub struct Live {
    counters: Counters,
    began: Duration,
    host: Arc<Host>,
    processes: Processes,
    detail: Option<VmKey>,
}

impl Live {
    /// Loads the programs, attaches what this kernel has and begins counting.
    ///
    /// # Errors
    /// No privilege, no BTF, no KVM, or a kernel that refuses eBPF: one sentence with the next step.
    pub fn open(options: Options) -> Result<Self> {
        let facts = Facts::running();
        privilege::check(&facts)?;
        let host = host(&facts);
        Ok(Self {
            counters: attach(options, host.isa)?,
            began: monotonic(),
            host: Arc::new(host),
            processes: Processes::new(),
            detail: None,
        })
    }

    /// The probes and whether each counts.
    #[must_use]
    pub fn probes(&self) -> Arc<[ProbeState]> {
        self.counters.loaded().probes()
    }

    /// Bytes of memory that the kernel says the maps take.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn map_bytes(&self) -> Result<u64> {
        self.counters.loaded().map_bytes()
    }

    /// What each attached program cost so far; the kernel measures it while its statistics are on
    /// (`BPF_ENABLE_STATS`).
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn costs(&self) -> Result<Vec<Cost>> {
        self.counters.loaded().costs()
    }
}

impl Source for Live {
    fn sample(&mut self) -> Result<Sample> {
        let now = monotonic();
        let counted = self.counters.read(now, &mut self.processes, self.detail)?;
        Ok(Sample {
            at: now.saturating_sub(self.began),
            host: Arc::clone(&self.host),
            probes: self.probes(),
            vms: counted.vms,
            vcpus: counted.vcpus,
            losses: counted.losses,
        })
    }

    fn detail(&mut self, vm: Option<VmKey>) {
        self.detail = vm;
    }
}

fn host(facts: &Facts) -> Host {
    Host {
        release: facts.release.known().cloned().unwrap_or_else(|| "?".to_owned()),
        isa: match facts.flavour() {
            Flavour::Intel => Isa::Vmx,
            Flavour::Amd => Isa::Svm,
            Flavour::None | Flavour::Idle | Flavour::Software(_) => Isa::Software,
        },
    }
}

/// Loads and attaches. The slots come last: the probes are attached one after the other, and of a guest
/// that runs already all of them are to count the same time.
fn attach(options: Options, isa: Isa) -> Result<Counters> {
    let set = BtfSet::running(Path::new("/")).context(
        "the layout of this kernel cannot be read; `tdtrace doctor` says what is missing",
    )?;
    let resolved = resolve(&set);
    let mut loaded = Loaded::new(&Load {
        layout: &resolved.layout,
        sizes: Sizes::new(options.max_vcpus, options.timed),
        timed: options.timed,
        debug: options.debug_ebpf,
        synthetic: None,
    })?;
    loaded.attach(&resolved)?;
    loaded.begin()?;
    Counters::new(loaded, Reading { isa, timed: options.timed, loads_before: 0, synthetic: false })
}

/// The clock of the programs, `CLOCK_MONOTONIC`.
fn monotonic() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec. The clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanos)
}
