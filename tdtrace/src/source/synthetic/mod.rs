//! Synthetic TDs: the programs of the same object, never attached, run on structures that were made
//! up in a map's memory by the layout of a kernel with TDX.
//!
//! What runs is the bytecode that runs on a TDX host, verified and compiled by this kernel. Not the
//! same are the layout, that of Linux 7.3, and where clock, thread and running vCPU come from. It
//! proves what the programs make of an exit, not what a TDX module leaves in the registers.
//!
//! [`memory`] is the map that the structures lie in, [`td`] the structures, [`cpu`] fires events,
//! [`seam`] makes SEAMCALLs, [`vmm`] calls functions of KVM.

mod cpu;
mod memory;
mod seam;
mod td;
mod vmm;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{RawTracePointRunOptions, TestRun as _};
use tdtrace_common::{kvm, layout::ABSENT, poison::PoisonSource};

use self::td::Structures;
pub use self::{
    cpu::{Cpu, Event, Machine},
    seam::Seamcall,
    td::{MEMSLOT_PAGES, Registers, Vcpu},
    vmm::{Moment, VmmCall},
};
use super::{
    counting::{
        Counters, Reading,
        cost::Cost,
        load::{Load, Loaded, SyntheticSizes},
        object::Direct,
        privilege,
        sizes::Sizes,
    },
    owner::{Identity, Owners},
};
use crate::{
    kernel::{
        Facts,
        btf::{Btf, BtfSet, unpack_btf},
        layout,
    },
    model::sample::{Host, Isa, Sample, VmKey},
    probe::table::{PROBES, SET_ATTRIBUTES_BY_IOCTL, all_counting},
};

/// BTF of kvm_intel with TDX, compiled from Linux 7.3.
static BTF: &[u8] =
    include_bytes!("../../../tests/fixtures/btf/kvm-intel-7.3-tdx.standalone.btf.zst");

/// Processes of synthetic TDs have numbers that no process has (`PID_MAX_LIMIT` is 2^22).
pub const FIRST_PID: u32 = 1 << 23;

/// Lives of synthetic TDs are beyond those of real VMs, so that both can stand in one sample.
const LOADS_BEFORE: u32 = 512;

/// How large a load for synthetic TDs is, and what it is told.
#[derive(Clone, Copy, Debug)]
pub struct SyntheticOptions {
    /// Slots for vCPUs.
    pub max_vcpus: u32,
    /// TDs that can be made, over the whole time.
    pub tds: u32,
    /// vCPUs that can be made, over the whole time.
    pub vcpus: u32,
    /// Rows of durations, if other than the usual number.
    pub rows: Option<u32>,
    /// Let the programs take the time.
    pub timed: bool,
    /// Deliver durations that are longer one by one.
    pub slower_than: Option<Duration>,
    /// Fields of the layout that the kernel is said not to have.
    pub absent: &'static [&'static str],
    /// Clock and thread are the running kernel's, as they are to programs that are attached: for what
    /// these cost. `kvm_entry` and `kvm_exit` alone are any use then: they are told their vCPU.
    pub real: bool,
    /// The programs read the kernel's memory by calls, even if it lets them load from there.
    pub by_calls: bool,
}

impl Default for SyntheticOptions {
    fn default() -> Self {
        Self {
            max_vcpus: 128,
            tds: 8,
            vcpus: 8,
            rows: None,
            timed: true,
            slower_than: None,
            absent: &[],
            real: false,
            by_calls: false,
        }
    }
}

/// A load with its made-up structures.
pub struct Synthetic {
    counters: Counters,
    machine: Arc<Machine>,
    host: Arc<Host>,
    owners: MadeUp,
    slower_than: Option<Duration>,
}

impl Synthetic {
    /// Loads the object with the layout of Linux 7.3 and room for what `options` say.
    ///
    /// # Errors
    /// No privilege, or a kernel that refuses eBPF.
    pub fn load(options: SyntheticOptions) -> Result<Self> {
        let facts = Facts::running();
        privilege::check(&facts)?;
        let btf = Btf::parse(unpack_btf(BTF).context("the BTF that tdtrace has with it")?)?;
        let mut structures = Structures::new(btf)?;
        for name in options.absent {
            ensure!(structures.layout.set(name, ABSENT), "the layout has no field {name}");
        }
        let running = BtfSet::running(Path::new("/"));
        let direct = match &running {
            Ok(running) if !options.by_calls => Direct::of_kernel(&running.vmlinux),
            _ => None,
        };
        if options.real {
            structures.take_tasks_of(&layout::resolve(&running?).layout);
        }
        let cpus = facts.possible_cpus.known().copied().unwrap_or(1);
        let mut sizes = Sizes::new(options.max_vcpus, options.timed);
        sizes.rows = options.rows.unwrap_or(sizes.rows);
        let mut loaded = Loaded::new(&Load {
            layout: &structures.layout,
            sizes,
            timed: options.timed,
            slower_than: options.slower_than,
            debug: false,
            seam: Some(seam::arguments()),
            direct,
            synthetic: Some(SyntheticSizes {
                cpus,
                pages: structures.pages(options.tds, options.vcpus),
                told: !options.real,
            }),
        })?;
        let probes = PROBES.iter().map(|probe| probe.name);
        let poison = PoisonSource::ALL.map(PoisonSource::tracepoint);
        for name in probes
            .chain([ADDRESS, seam::TWIN, vmm::TWIN, SET_ATTRIBUTES_BY_IOCTL.name])
            .chain(FLOORS)
            .chain(poison)
        {
            let program = loaded.program_mut(name)?;
            program.load().with_context(|| format!("the kernel refuses the program {name}"))?;
        }
        loaded.run_seam(seam::TWIN);
        loaded.begin()?;
        let machine = Machine::new(&loaded, structures)?;
        let isa = Isa::Vmx;
        let reading =
            Reading { isa, timed: options.timed, loads_before: LOADS_BEFORE, synthetic: true };
        Ok(Self {
            counters: Counters::new(loaded, reading)?,
            machine: Arc::new(machine),
            host: Arc::new(Host { release: "7.3, synthetic".to_owned(), isa }),
            owners: MadeUp::default(),
            slower_than: options.slower_than,
        })
    }

    /// Makes a TD of process `pid` called `name`: its address.
    ///
    /// # Errors
    /// When there is no room left.
    pub fn td(&mut self, pid: u32, name: &str) -> Result<u64> {
        self.vm(pid, name, kvm::TDX_VM)
    }

    /// Makes a VM of type `vm_type` (`KVM_X86_*_VM`): its address.
    ///
    /// # Errors
    /// When there is no room left.
    pub fn vm(&mut self, pid: u32, name: &str, vm_type: u32) -> Result<u64> {
        self.owners.names.insert(pid, name.into());
        self.machine.structures.vm(&self.machine.memory, vm_type)
    }

    /// Makes vCPU `id` of the TD at `td`.
    ///
    /// # Errors
    /// When there is no room left.
    pub fn vcpu(&mut self, td: u64, id: u32, pid: u32, tid: u32) -> Result<Vcpu> {
        let (address, run) = self.machine.structures.vcpu(&self.machine.memory, td, id)?;
        Ok(Vcpu { address, run, vm: td, pid, tid })
    }

    /// Makes another TD at the address of one that is no more.
    pub fn reuse_td(&mut self, td: u64, pid: u32, name: &str) {
        self.owners.names.insert(pid, name.into());
        self.machine.structures.write_vm(&self.machine.memory, td, kvm::TDX_VM);
    }

    /// Makes another vCPU at the address of one that is no more.
    pub fn reuse_vcpu(&mut self, vcpu: Vcpu, td: u64, id: u32, pid: u32, tid: u32) -> Vcpu {
        let Machine { structures, memory, .. } = &*self.machine;
        structures.write_vcpu(memory, (vcpu.address, vcpu.run), td, id);
        Vcpu { vm: td, pid, tid, ..vcpu }
    }

    /// KVM gives the VM at `vm` up: it is dead, for a bug of KVM's own or otherwise.
    pub fn give_up(&self, vm: u64, bugged: bool) {
        self.machine.structures.give_up(&self.machine.memory, vm, bugged);
    }

    /// The process of a TD is gone.
    pub fn end(&mut self, pid: u32) {
        self.owners.gone.push(pid);
    }

    /// The CPU with this number, to fire events on. The calling thread must stay there.
    #[must_use]
    pub fn cpu(&self, number: u32) -> Cpu<'_> {
        self.machine.cpu(number)
    }

    /// What events come from, to fire them while they are counted.
    #[must_use]
    pub fn machine(&self) -> Arc<Machine> {
        Arc::clone(&self.machine)
    }

    /// Adds to the buckets of every row that there is, and to the count of its reason, as if so many
    /// durations had been counted: for what takes too long to count. Shows after the next event of the
    /// vCPU.
    ///
    /// # Errors
    /// When a map cannot be mapped.
    pub fn add_to_buckets(&self, bucket: usize, count: u32) -> Result<()> {
        let loaded = self.counters.loaded();
        td::add_to_buckets(loaded.map("LATENCY_ROWS")?, loaded.map("VCPUS")?, bucket, count)
    }

    /// How many entries map `name` has: `VCPU_INDEX`, `VM_INDEX`, `SLOT_AT`, `SLOT_BY_THREAD`,
    /// `VM_BY_PROCESS`, `HOTSPOTS` or `SEAM_ENTRIES`.
    ///
    /// # Errors
    /// When it is another map, or cannot be read.
    pub fn entries(&self, name: &str) -> Result<usize> {
        let entries = self.counters.loaded().entries(name)?;
        entries.with_context(|| format!("the map {name} has no keys"))
    }

    /// Runs the two programs once that others are compared with: `floor_empty` and `floor_clock`.
    ///
    /// # Errors
    /// When the kernel does not run them.
    pub fn run_floors(&self) -> Result<()> {
        for name in FLOORS {
            let program = self.counters.loaded().program(name)?;
            let options = RawTracePointRunOptions::new();
            program.test_run(options).with_context(|| format!("{name} does not run"))?;
        }
        Ok(())
    }

    /// What program `name` cost so far; the kernel measures it while its statistics are on
    /// (`BPF_ENABLE_STATS`).
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn cost(&self, name: &str) -> Result<Cost> {
        self.counters.loaded().cost(name)
    }

    /// What was counted up to `now`, the synthetic time.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn sample(&mut self, now: Duration, detail: Option<VmKey>) -> Result<Sample> {
        let counted = self.counters.read(now, &mut self.owners, detail)?;
        Ok(Sample {
            at: now,
            host: Arc::clone(&self.host),
            probes: all_counting().into(),
            vms: counted.vms,
            vcpus: counted.vcpus,
            losses: counted.losses,
            slower_than: self.slower_than,
            slow: counted.slow,
            seam: Arc::new(counted.seam),
            poison: Arc::new(counted.poison),
        })
    }
}

/// What running a program costs, see the programs.
const FLOORS: [&str; 2] = ["floor_empty", "floor_clock"];

/// The program that tells where the memory is.
const ADDRESS: &str = "synthetic_address";

/// Processes that nobody runs.
#[derive(Default)]
struct MadeUp {
    names: HashMap<u32, Arc<str>>,
    gone: Vec<u32>,
}

impl Owners for MadeUp {
    fn is_gone(&mut self, pid: u32) -> bool {
        self.gone.contains(&pid)
    }

    fn identity(&mut self, pid: u32) -> Identity {
        let name = self.names.get(&pid).cloned().unwrap_or_default();
        Identity { name, vmm: "synthetic".into(), container: None }
    }

    fn forget(&mut self, _pid: u32) {}
}
