//! The object with its programs and maps, loaded. Which load it is, the running kernel's or one for
//! synthetic TDs, is decided by the globals that it gets.

use std::{collections::HashSet, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, Queue, RingBuf},
    programs::{ProgramFd, RawTracePoint},
};
use tdtrace_common::{
    counters::{HotspotKey, HotspotValue, KvmObject, VmEntry},
    latency::SlowEvent,
    layout::KernelLayout,
    poison::PoisonSource,
    seam::{Arguments, FUNCTIONS, SeamEntry, SeamEntryKey},
};

use super::{
    cost::{self, Cost},
    log::Log,
    losses,
    object::{Constants, Direct},
    seam::{self, Seam},
    sizes::{MAX_VMS, Sizes, VMM_CALLS},
    vcpus::{Overflow, Vcpu},
};
use crate::{
    model::sample::{Losses, ProbeState},
    probe::table::{FunctionProbe, PROBES, SET_ATTRIBUTES_BY_IOCTL},
    source::function::Attached,
};

/// What a load is told.
pub(crate) struct Load<'l> {
    /// Where the programs find fields.
    pub(crate) layout: &'l KernelLayout,
    /// How many entries the maps get.
    pub(crate) sizes: Sizes,
    /// The programs take the time.
    pub(crate) timed: bool,
    /// Durations that are longer are sent one by one.
    pub(crate) slower_than: Option<Duration>,
    /// Print what the programs log.
    pub(crate) debug: bool,
    /// Where SEAMCALL wrappers have their arguments; `None` for a kernel without.
    pub(crate) seam: Option<[Arguments; FUNCTIONS]>,
    /// How the programs load from the kernel's memory; `None`: by calls.
    pub(crate) direct: Option<Direct>,
    /// The load is for synthetic TDs.
    pub(crate) synthetic: Option<SyntheticSizes>,
}

/// What synthetic TDs need besides.
#[derive(Clone, Copy)]
pub(crate) struct SyntheticSizes {
    /// CPUs that events may come from, as the kernel numbers them.
    pub(crate) cpus: u32,
    /// Pages of memory for their structures.
    pub(crate) pages: u32,
    /// The programs are told the time, the thread and the running vCPU; if not, they ask the kernel.
    pub(crate) told: bool,
}

/// The loaded object with its links.
pub(crate) struct Loaded {
    pub(super) ebpf: Ebpf,
    /// After the programs, so that it prints what they logged last.
    _log: Option<Log>,
    /// Slow durations are sent one by one.
    sends_slow: bool,
    /// There are SEAMCALL wrappers to attach to.
    pub(super) has_wrappers: bool,
    pub(super) seam: Seam,
    /// Probes on functions of KVM that are attached.
    pub(super) functions: Vec<(&'static FunctionProbe, Attached)>,
    /// Sources of broken memory that are not seen.
    pub(super) poison_missing: Vec<(PoisonSource, Arc<str>)>,
    /// Each probe and whether it counts.
    pub(super) probes: Arc<[ProbeState]>,
    /// What the programs had lost when the counting began.
    before: Losses,
}

impl Loaded {
    /// Loads the object; its programs are neither loaded nor attached yet.
    ///
    /// # Errors
    /// When the kernel refuses a map.
    pub(crate) fn new(load: &Load<'_>) -> Result<Self> {
        let constants = Constants {
            layout: load.layout,
            timed: load.timed,
            sends_slow: load.slower_than.is_some(),
            synthetic: load.synthetic.is_some_and(|sizes| sizes.told),
            debug: load.debug,
            direct: load.direct,
        };
        let mut loader = EbpfLoader::new();
        size(&mut loader, load);
        if let Some(arguments) = &load.seam {
            loader.override_global("SEAM_ARGUMENTS", arguments, true);
        }
        let mut ebpf = loader
            .override_global("SLOWER_THAN", &slower_than(load.slower_than), true)
            .load(&constants.put_in()?)
            .map_err(|error| anyhow!(error))
            .context("the kernel refuses the eBPF maps; `tdtrace doctor` says what is missing")?;
        let log = load.debug.then(|| Log::follow(&mut ebpf)).transpose()?;
        let (probes, before) = (Arc::new([]), Losses::default());
        let (has_wrappers, seam) = (load.seam.is_some(), Seam::default());
        let sends_slow = load.slower_than.is_some();
        let (functions, poison_missing) = (Vec::new(), Vec::new());
        let mut loaded = Self {
            ebpf,
            _log: log,
            sends_slow,
            has_wrappers,
            seam,
            functions,
            poison_missing,
            probes,
            before,
        };
        loaded.fill_queue("FREE_VCPUS", load.sizes.vcpus)?;
        Ok(loaded)
    }

    /// Each probe and whether it counts.
    pub(crate) fn probes(&self) -> Arc<[ProbeState]> {
        Arc::clone(&self.probes)
    }

    /// The data of map `name`.
    pub(crate) fn map(&self, name: &str) -> Result<&MapData> {
        data(name, self.any(name)?)
    }

    pub(super) fn any(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).with_context(|| format!("the object has no map {name}"))
    }

    /// Program `name`.
    pub(crate) fn program(&self, name: &str) -> Result<&RawTracePoint> {
        let program = self.ebpf.program(name);
        Ok(program.with_context(|| format!("the object has no program {name}"))?.try_into()?)
    }

    /// Program `name`, for one that is run without being attached.
    pub(crate) fn program_mut(&mut self, name: &str) -> Result<&mut RawTracePoint> {
        let program = self.ebpf.program_mut(name);
        Ok(program.with_context(|| format!("the object has no program {name}"))?.try_into()?)
    }

    /// Program `name`, which is on a function.
    pub(crate) fn function_program(&self, name: &str) -> Result<&ProgramFd> {
        let program = self.ebpf.program(name);
        Ok(program.with_context(|| format!("the object has no program {name}"))?.fd()?)
    }

    pub(super) fn any_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("the object has no map {name}"))
    }

    /// Lets the programs count. Only now do they find entries for VMs, and so slots: the probes are
    /// attached one after the other, and of a guest that runs already all of them are to count the same
    /// time.
    ///
    /// # Errors
    /// When the kernel refuses an entry.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.fill_queue("FREE_VMS", MAX_VMS)?;
        self.before = self.all_losses()?;
        self.begin_seam()
    }

    fn fill_queue(&mut self, name: &str, entries: u32) -> Result<()> {
        let mut queue = Queue::<_, u32>::try_from(self.any_mut(name)?)?;
        for index in 0..entries {
            queue.push(index, 0).with_context(|| format!("map {name} refuses entry {index}"))?;
        }
        Ok(())
    }

    /// Gives slots back, with what the maps hold of their vCPUs.
    pub(super) fn free_vcpus(&mut self, vcpus: &[Vcpu]) -> Result<()> {
        let mut indices = HashMap::<_, KvmObject, u32>::try_from(self.any_mut("VCPU_INDEX")?)?;
        for vcpu in vcpus {
            ignore_absent(indices.remove(&vcpu.object))?;
        }
        let mut addresses = HashMap::<_, u64, u32>::try_from(self.any_mut("SLOT_AT")?)?;
        for vcpu in vcpus {
            remove_own(&mut addresses, vcpu.object.address, vcpu.index)?;
        }
        let mut threads = HashMap::<_, u32, u32>::try_from(self.any_mut("SLOT_BY_THREAD")?)?;
        for vcpu in vcpus {
            remove_own(&mut threads, vcpu.sample.tid, vcpu.index)?;
        }
        let lives: HashSet<(u32, u32)> = vcpus.iter().map(|vcpu| (vcpu.index, vcpu.life)).collect();
        let mut hotspots =
            HashMap::<_, HotspotKey, HotspotValue>::try_from(self.any_mut("HOTSPOTS")?)?;
        let keys: Vec<HotspotKey> =
            hotspots.keys().flatten().filter(|key| lives.contains(&(key.slot, key.life))).collect();
        for key in keys {
            ignore_absent(hotspots.remove(&key))?;
        }
        let mut rows = Queue::<_, u32>::try_from(self.any_mut("FREE_ROWS")?)?;
        for row in vcpus.iter().flat_map(|vcpu| vcpu.rows).filter(|row| *row != 0) {
            rows.push(row, 0)?;
        }
        let mut free = Queue::<_, u32>::try_from(self.any_mut("FREE_VCPUS")?)?;
        for vcpu in vcpus {
            free.push(vcpu.index, 0)?;
        }
        Ok(())
    }

    /// Gives VM entry `index` back. `alone`: its process runs no other VM.
    pub(super) fn free_vm(&mut self, index: u32, entry: &VmEntry, alone: bool) -> Result<()> {
        let kvm = KvmObject { address: entry.kvm, identity: entry.identity };
        let mut indices = HashMap::<_, KvmObject, u32>::try_from(self.any_mut("VM_INDEX")?)?;
        ignore_absent(indices.remove(&kvm))?;
        let mut processes = HashMap::<_, u32, u32>::try_from(self.any_mut("VM_BY_PROCESS")?)?;
        if alone {
            ignore_absent(processes.remove(&entry.tgid))?;
        } else {
            remove_own(&mut processes, entry.tgid, index)?;
        }
        Queue::<_, u32>::try_from(self.any_mut("FREE_VMS")?)?.push(index, 0)?;
        Ok(())
    }

    /// Durations that were sent since this was asked last, in the order in which they ended on each CPU.
    pub(super) fn slow(&mut self) -> Result<Vec<SlowEvent>> {
        if !self.sends_slow {
            return Ok(Vec::new());
        }
        let mut ring = RingBuf::try_from(self.any_mut("SLOW")?)?;
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            let bytes: &[u8] = &item;
            ensure!(bytes.len() == size_of::<SlowEvent>(), "an event has {} bytes", bytes.len());
            // SAFETY: as many bytes as the type has, of integers only; read unaligned.
            events.push(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast::<SlowEvent>()) });
        }
        Ok(events)
    }

    /// Durations that were to be sent and found no room.
    pub(super) fn slow_lost(&self) -> Result<u64> {
        if !self.sends_slow {
            return Ok(0);
        }
        let lost = PerCpuArray::<_, u64>::try_from(self.any("SLOW_LOST")?)?;
        Ok(lost.get(&0, 0)?.iter().sum())
    }

    /// The hotspots that found no place in their slot.
    pub(super) fn hotspots(&self) -> Result<Overflow> {
        let map = HashMap::<_, HotspotKey, HotspotValue>::try_from(self.any("HOTSPOTS")?)?;
        let mut overflow = Overflow::new();
        for (key, value) in map.iter().flatten() {
            overflow.entry((key.slot, key.life)).or_default().push((key.place, value.count));
        }
        Ok(overflow)
    }

    /// What was not counted since the counting began, hotspots aside.
    pub(super) fn losses(&self) -> Result<Losses> {
        let mut losses = self.all_losses()?;
        losses::subtract(&mut losses, &self.before);
        Ok(losses)
    }

    fn all_losses(&self) -> Result<Losses> {
        let mut losses = losses::read(&PerCpuArray::<_, u64>::try_from(self.any("LOSSES")?)?)?;
        for probe in PROBES.iter().chain([&SET_ATTRIBUTES_BY_IOCTL]) {
            if let Some(program) = self.ebpf.program(probe.name)
                && let Ok(fd) = program.fd()
            {
                losses.misses.push((probe.name.to_owned(), losses::recursion_misses(fd)?));
            }
        }
        for (probe, attached) in &self.functions {
            losses.misses.push((probe.name.to_owned(), self.missed_by(attached)?));
        }
        Ok(losses)
    }

    /// How many entries the map has that finds things by key: `None` for another map.
    pub(crate) fn entries(&self, name: &str) -> Result<Option<usize>> {
        let map = self.any(name)?;
        Ok(match name {
            "VCPU_INDEX" | "VM_INDEX" => {
                Some(HashMap::<_, KvmObject, u32>::try_from(map)?.keys().flatten().count())
            }
            "SLOT_AT" => Some(HashMap::<_, u64, u32>::try_from(map)?.keys().flatten().count()),
            "SLOT_BY_THREAD" | "VM_BY_PROCESS" => {
                Some(HashMap::<_, u32, u32>::try_from(map)?.keys().flatten().count())
            }
            "SEAM_ENTRIES" => {
                let map = HashMap::<_, SeamEntryKey, SeamEntry>::try_from(map)?;
                Some(map.keys().flatten().count())
            }
            "HOTSPOTS" => {
                let map = HashMap::<_, HotspotKey, HotspotValue>::try_from(map)?;
                Some(map.keys().flatten().count())
            }
            _ => None,
        })
    }

    /// What program `name` cost so far.
    pub(crate) fn cost(&self, name: &str) -> Result<Cost> {
        let program = self.ebpf.program(name);
        cost::of(name, program.with_context(|| format!("the object has no program {name}"))?)
    }

    /// Bytes of memory that the kernel says the maps take.
    pub(crate) fn map_bytes(&self) -> Result<u64> {
        self.ebpf.maps().map(|(name, map)| losses::memlock(data(name, map)?.fd())).sum()
    }

    /// What each program on a tracepoint of its name cost so far.
    pub(crate) fn costs(&self) -> Result<Vec<Cost>> {
        let attached = PROBES.iter().zip(self.probes.iter()).filter(|(_, s)| s.missing.is_none());
        let tracepoints = attached.map(|(probe, _)| probe.name);
        // One that something stands in for is not loaded.
        let tracepoints = tracepoints
            .filter(|name| self.ebpf.program(name).is_some_and(|program| program.fd().is_ok()));
        tracepoints.map(|name| self.cost(name)).collect()
    }
}

fn data<'a>(name: &str, map: &'a Map) -> Result<&'a MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::StackTraceMap(data) => Ok(data),
        _ => bail!("map {name} is of another type"),
    }
}

/// Room for what the programs log.
const LOG_BYTES: u32 = 1 << 17;
/// Room for durations that are sent, 16,384 of them.
const SLOW_BYTES: u32 = 1 << 20;

/// The limit as the programs take it, in nanoseconds; 0 is none.
fn slower_than(limit: Option<Duration>) -> u64 {
    limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1))
}

fn size(loader: &mut EbpfLoader<'_>, load: &Load<'_>) {
    let Sizes { vcpus, threads, hotspots, rows } = load.sizes;
    let synthetic = load.synthetic.unwrap_or(SyntheticSizes { cpus: 1, pages: 1, told: false });
    for (name, entries) in [
        ("VMS", MAX_VMS),
        ("FREE_VMS", MAX_VMS),
        ("VM_INDEX", MAX_VMS),
        ("LEDGERS", MAX_VMS),
        ("VM_BY_PROCESS", MAX_VMS),
        ("VMM_CALLS", VMM_CALLS),
        ("VCPUS", vcpus),
        ("FREE_VCPUS", vcpus),
        ("VCPU_INDEX", vcpus),
        ("SLOT_AT", vcpus),
        // The first is nobody's.
        ("LATENCY_ROWS", rows + 1),
        ("FREE_ROWS", rows),
        ("SLOT_BY_THREAD", threads),
        ("HOTSPOTS", hotspots),
        // A guest's.
        ("VE_STATS", 1),
        ("AYA_LOGS", if load.debug { LOG_BYTES } else { 4096 }),
        ("SLOW", if load.slower_than.is_some() { SLOW_BYTES } else { 4096 }),
        ("SEAM_STATS", if load.seam.is_some() { seam::STATS } else { 1 }),
        ("SEAM_STATUSES", if load.seam.is_some() { seam::STATUSES } else { 1 }),
        ("SEAM_ENTRIES", if load.seam.is_some() { seam::ENTRIES } else { 1 }),
        ("SYNTHETIC_CPUS", synthetic.cpus),
        ("SYNTHETIC_MEMORY", synthetic.pages),
    ] {
        loader.map_max_entries(name, entries);
    }
}

/// Removes the entry of `key` if it names slot `index`. Should a new vCPU take the key in between, its
/// entry goes: then another CPU's guess is caught one KVM_RUN later, see the programs.
fn remove_own<K: Pod>(
    map: &mut HashMap<&mut MapData, K, u32>,
    key: K,
    index: u32,
) -> Result<(), MapError> {
    if map.get(&key, 0).is_ok_and(|known| known == index) {
        return ignore_absent(map.remove(&key));
    }
    Ok(())
}

fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}
