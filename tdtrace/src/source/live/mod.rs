//! The running kernel: programs attached, counters read through `mmap`.
//!
//! [`processes`] says which processes are still there, [`identity`] who runs a VM.

mod identity;
mod processes;

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};

use self::processes::Processes;
use super::{
    Source,
    counting::{
        Counted, Counters, Reading,
        cost::Cost,
        load::{Load, Loaded},
        object::Direct,
        privilege,
        sizes::Sizes,
    },
    monotonic,
};
use crate::{
    kernel::{
        Facts,
        btf::BtfSet,
        kvm::{Flavour, Generation},
        layout::{Resolved, resolve},
        seam,
    },
    model::{
        poison::PoisonSample,
        sample::{Host, Isa, Losses, ProbeState, Sample, VmKey},
        seam::SeamSample,
        slow::SlowSample,
    },
    probe::table::all_missing_for,
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
    /// Where there is no KVM yet, attach when it comes.
    pub wait_for_kvm: bool,
    /// Deliver durations that are longer one by one.
    pub slower_than: Option<Duration>,
    /// Look at system calls where KVM has no tracepoint for what a VMM converts.
    pub trace_ioctl: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_vcpus: 4096,
            debug_ebpf: false,
            timed: true,
            wait_for_kvm: false,
            slower_than: None,
            trace_ioctl: false,
        }
    }
}

/// The running kernel as a source. Dropping it detaches.
pub struct Live {
    options: Options,
    /// `None` while there is no KVM, or after letting go of it.
    counters: Option<Counters>,
    /// The modules when that was attached.
    generation: Generation,
    detached: bool,
    /// How often the programs were loaded.
    loads: u32,
    /// What the loads before have lost.
    lost_before: Losses,
    /// SEAMCALLs that these have counted.
    seam_before: SeamSample,
    /// Broken memory that these have seen.
    poison_before: PoisonSample,
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
        let mut live = Self {
            options,
            counters: None,
            generation: Generation::now(ROOT.as_ref()),
            detached: false,
            loads: 0,
            lost_before: Losses::default(),
            seam_before: SeamSample::default(),
            poison_before: PoisonSample::default(),
            began: monotonic(),
            host: Arc::new(host(&facts)),
            processes: Processes::new(),
            detail: None,
        };
        if live.generation.has_kvm() || !options.wait_for_kvm {
            let prepared = live.load(&facts)?;
            live.start(prepared)?;
        }
        Ok(live)
    }

    /// The probes and whether each counts.
    #[must_use]
    pub fn probes(&self) -> Arc<[ProbeState]> {
        let waiting = || all_missing_for(NOT_ATTACHED).into();
        self.counters.as_ref().map_or_else(waiting, |counters| counters.loaded().probes())
    }

    /// How the probe on function `name` of KVM is attached: `fentry` or `kprobe`; `None` if it is not.
    #[must_use]
    pub fn attached_by(&self, name: &str) -> Option<&'static str> {
        self.counters.as_ref()?.loaded().attached_by(name)
    }

    /// Bytes of memory that the kernel says the maps take.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn map_bytes(&self) -> Result<u64> {
        self.counters.as_ref().map_or(Ok(0), |counters| counters.loaded().map_bytes())
    }

    /// What each program on a tracepoint of its name cost so far; the kernel measures it while its statistics are on
    /// (`BPF_ENABLE_STATS`).
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn costs(&self) -> Result<Vec<Cost>> {
        self.counters.as_ref().map_or(Ok(Vec::new()), |counters| counters.loaded().costs())
    }

    /// Loads the object with the layout of this kernel: all that takes long.
    fn load(&self, facts: &Facts) -> Result<Prepared> {
        let Options { max_vcpus, timed, debug_ebpf, slower_than, .. } = self.options;
        let host = host(facts);
        let set = BtfSet::running(ROOT.as_ref()).context(
            "the layout of this kernel cannot be read; `tdtrace doctor` says what is missing",
        )?;
        let resolved = resolve(&set);
        let loaded = Loaded::new(&Load {
            layout: &resolved.layout,
            sizes: Sizes::new(max_vcpus, timed),
            timed,
            slower_than,
            debug: debug_ebpf,
            seam: seam::arguments(&set.vmlinux),
            direct: Direct::of_kernel(&set.vmlinux),
            synthetic: None,
        })?;
        Ok(Prepared { loaded, resolved, host })
    }

    /// Attaches what was loaded and begins to count.
    fn start(&mut self, prepared: Prepared) -> Result<()> {
        let Prepared { mut loaded, resolved, host } = prepared;
        loaded.attach(&resolved, self.options.trace_ioctl)?;
        loaded.begin()?;
        let reading = Reading {
            isa: host.isa,
            timed: self.options.timed,
            loads_before: self.loads,
            synthetic: false,
        };
        self.counters = Some(Counters::new(loaded, reading)?);
        self.host = Arc::new(host);
        self.loads += 1;
        Ok(())
    }

    /// Attaches when KVM has come, and anew when one of its modules is another than before: its
    /// structures may have changed. The last sample of the VMs before, all of which have ended then, with
    /// the machine that they ran on: reasons of exits are named by it.
    fn follow(&mut self, now: Duration) -> Result<Option<Sample>> {
        let generation = Generation::now(ROOT.as_ref());
        if self.detached || generation == self.generation || !generation.has_kvm() {
            return Ok(None);
        }
        // The gap in which nothing is attached is short: a guest may begin at once.
        let prepared = self.load(&Facts::running())?;
        let last = self.finish(now)?;
        self.start(prepared)?;
        self.generation = generation;
        Ok(last)
    }

    /// The last sample of the present load, which is given up.
    fn finish(&mut self, now: Duration) -> Result<Option<Sample>> {
        let Some(mut counters) = self.counters.take() else { return Ok(None) };
        let mut last = counters.read(now, &mut self.processes, self.detail)?;
        last.vms.iter_mut().for_each(|vm| vm.ended = true);
        self.lost_before.add(&last.losses);
        last.losses = self.lost_before.clone();
        last.seam.add(&self.seam_before);
        self.seam_before = last.seam.clone();
        last.poison.add(&self.poison_before);
        self.poison_before = last.poison.clone();
        Ok(Some(self.sample_of(last, now, counters.loaded().probes())))
    }

    fn sample_of(&self, mut counted: Counted, now: Duration, probes: Arc<[ProbeState]>) -> Sample {
        counted.vms.iter_mut().for_each(|vm| vm.ledger.begin_at(self.began));
        Sample {
            at: now.saturating_sub(self.began),
            host: Arc::clone(&self.host),
            probes,
            vms: counted.vms,
            vcpus: counted.vcpus,
            losses: counted.losses,
            slower_than: self.options.slower_than,
            slow: since(counted.slow, self.began),
            seam: Arc::new(counted.seam),
            poison: Arc::new(counted.poison),
        }
    }
}

/// Durations with the times since `began`.
fn since(mut slow: Vec<SlowSample>, began: Duration) -> Vec<SlowSample> {
    slow.iter_mut().for_each(|slow| slow.at = slow.at.saturating_sub(began));
    slow
}

/// Programs that are not attached yet.
struct Prepared {
    loaded: Loaded,
    resolved: Resolved,
    host: Host,
}

/// Where the kernel's files are.
const ROOT: &str = "/";

/// Why a probe counts nothing while nothing is attached.
const NOT_ATTACHED: &str = "waiting for KVM; modprobe kvm_intel or kvm_amd";

impl Source for Live {
    fn sample(&mut self) -> Result<Sample> {
        let now = monotonic();
        if let Some(last) = self.follow(now)? {
            return Ok(last);
        }
        let mut counted = match &mut self.counters {
            Some(counters) => counters.read(now, &mut self.processes, self.detail)?,
            None => Counted::default(),
        };
        counted.losses.add(&self.lost_before);
        counted.seam.add(&self.seam_before);
        counted.poison.add(&self.poison_before);
        Ok(self.sample_of(counted, now, self.probes()))
    }

    fn detail(&mut self, vm: Option<VmKey>) {
        self.detail = vm;
    }

    fn attach(&mut self, attach: bool) -> Result<bool> {
        if attach && self.detached {
            self.generation = Generation::now(ROOT.as_ref());
            let prepared = self.load(&Facts::running())?;
            self.start(prepared)?;
        } else if !attach {
            self.finish(monotonic())?;
        }
        self.detached = !attach;
        Ok(attach)
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
