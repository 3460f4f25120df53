//! Loading the object and attaching what this kernel has. Each probe attaches by itself; one that
//! does not is listed with the reason and with what it hides.

use std::{collections::HashSet, path::Path, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray, Queue},
    programs::{ProgramError, RawTracePoint},
    sys::SyscallError,
};
use tdtrace_common::counters::{HotspotKey, HotspotValue, KvmObject, VmEntry};

use super::{
    Options, collect_overflow,
    cost::{self, Cost},
    log::Log,
    losses,
    vcpus::{Overflow, Vcpu},
};
use crate::{
    kernel::{
        Facts,
        btf::BtfSet,
        kvm::Flavour,
        layout::{Resolved, resolve},
        privilege::{Capability, Lockdown},
    },
    model::sample::{Host, Isa, Losses, ProbeState},
    probe::table::{PROBES, Probe},
};

/// The compiled programs; `build.rs` made them. Aligned, because the parser reads them in place.
pub(in crate::source) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tdtrace-ebpf.o"));

/// VMs that can be counted at the same time.
const MAX_VMS: u32 = 512;

/// The loaded object with its links and what is known of the machine.
pub(super) struct Attached {
    ebpf: Ebpf,
    /// After the programs, so that it prints what they logged last.
    _log: Option<Log>,
    maps: Vec<(&'static str, Map)>,
    /// The machine.
    pub(super) host: Arc<Host>,
    /// Each probe and whether it counts.
    pub(super) probes: Arc<[ProbeState]>,
    /// What the programs had lost when the counting began.
    before: Losses,
}

/// Maps that are used after loading.
const MAPS: [&str; 12] = [
    "VCPUS",
    "VMS",
    "FREE_VCPUS",
    "FREE_VMS",
    "VCPU_INDEX",
    "VM_INDEX",
    "SLOT_AT",
    "SLOT_BY_THREAD",
    "HOTSPOTS",
    "LATENCY_ROWS",
    "FREE_ROWS",
    "LOSSES",
];

/// Rows of durations for each vCPU that can be counted: one row is one class of one vCPU.
const ROWS_PER_VCPU: u32 = 9;

pub(super) fn attach(options: Options) -> Result<Attached> {
    let facts = Facts::running();
    check_privilege(&facts)?;
    let set = BtfSet::running(Path::new("/")).context(
        "the layout of this kernel cannot be read; `tdtrace doctor` says what is missing",
    )?;
    let resolved = resolve(&set);
    let mut ebpf = load(&resolved, options)?;
    let log = options.debug_ebpf.then(|| Log::follow(&mut ebpf)).transpose()?;
    let mut maps = Vec::new();
    for name in MAPS {
        let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
        maps.push((name, map));
    }
    let host = Host {
        release: facts.release.known().cloned().unwrap_or_else(|| "?".to_owned()),
        isa: match facts.flavour() {
            Flavour::Intel => Isa::Vmx,
            Flavour::Amd => Isa::Svm,
            Flavour::None | Flavour::Idle | Flavour::Software(_) => Isa::Software,
        },
    };
    let mut attached = Attached {
        ebpf,
        _log: log,
        maps,
        host: Arc::new(host),
        probes: Arc::new([]),
        before: Losses::default(),
    };
    attached.attach_probes(&resolved)?;
    attached.begin(options.max_vcpus)?;
    Ok(attached)
}

pub(in crate::source) fn check_privilege(facts: &Facts) -> Result<()> {
    if facts.privilege.lockdown.known() == Some(&Lockdown::Confidentiality) {
        bail!(
            "kernel lockdown is `confidentiality`, which forbids reading kernel memory; boot with lockdown=integrity or without it"
        );
    }
    if facts.privilege.initial_user_namespace.known() == Some(&false) {
        bail!(
            "this is a user namespace of its own, whose capabilities do not reach eBPF; run it outside of it, as root of the host"
        );
    }
    if let Some(credentials) = facts.privilege.credentials.known() {
        for capability in [Capability::Bpf, Capability::Perfmon] {
            if !credentials.may(capability) {
                bail!(
                    "{} is missing, so eBPF programs cannot be loaded; run it as root: sudo tdtrace …",
                    capability.name()
                );
            }
        }
    }
    Ok(())
}

fn load(resolved: &Resolved, options: Options) -> Result<Ebpf> {
    let debug = u8::from(options.debug_ebpf);
    let timed = u8::from(options.timed);
    let vcpus = options.max_vcpus;
    let rows = if options.timed { vcpus.saturating_mul(ROWS_PER_VCPU) } else { 1 };
    EbpfLoader::new()
        .override_global("LAYOUT", &resolved.layout, true)
        .override_global("DEBUG", &debug, true)
        .override_global("TIMED", &timed, true)
        .map_max_entries("VCPUS", vcpus)
        .map_max_entries("FREE_VCPUS", vcpus)
        .map_max_entries("VCPU_INDEX", vcpus)
        .map_max_entries("SLOT_AT", vcpus)
        .map_max_entries("LATENCY_ROWS", rows)
        .map_max_entries("FREE_ROWS", rows)
        .map_max_entries("SLOT_BY_THREAD", vcpus.saturating_mul(2))
        .map_max_entries("HOTSPOTS", vcpus.saturating_mul(8))
        .load(OBJECT)
        .map_err(|error| anyhow!(error))
        .context("the kernel refuses the eBPF maps; `tdtrace doctor` says what is missing")
}

impl Attached {
    /// The data of map `name`.
    pub(super) fn map(&self, name: &str) -> Result<&MapData> {
        match self.any(name)? {
            Map::Array(data) | Map::PerCpuArray(data) | Map::HashMap(data) | Map::Queue(data) => {
                Ok(data)
            }
            _ => bail!("map {name} is of another type"),
        }
    }

    fn any(&self, name: &str) -> Result<&Map> {
        let found = self.maps.iter().find(|(known, _)| *known == name);
        found.map(|(_, map)| map).with_context(|| format!("the object has no map {name}"))
    }

    fn any_mut(&mut self, name: &str) -> Result<&mut Map> {
        let found = self.maps.iter_mut().find(|(known, _)| *known == name);
        found.map(|(_, map)| map).with_context(|| format!("the object has no map {name}"))
    }

    /// Lets the programs count. Only now do they find free slots: the probes are attached one after the
    /// other, and of a guest that runs already all of them are to count the same time.
    fn begin(&mut self, max_vcpus: u32) -> Result<()> {
        self.fill_queue("FREE_VMS", MAX_VMS)?;
        let rows = self.map("LATENCY_ROWS")?.info()?.max_entries();
        self.fill_queue("FREE_ROWS", rows)?;
        self.fill_queue("FREE_VCPUS", max_vcpus)?;
        self.before = self.all_losses()?;
        Ok(())
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
        let lives: HashSet<(u32, u32)> =
            vcpus.iter().map(|vcpu| (vcpu.index, vcpu.sample.key.life)).collect();
        let mut hotspots =
            HashMap::<_, HotspotKey, HotspotValue>::try_from(self.any_mut("HOTSPOTS")?)?;
        let keys: Vec<HotspotKey> =
            hotspots.keys().flatten().filter(|key| lives.contains(&(key.slot, key.life))).collect();
        for key in keys {
            ignore_absent(hotspots.remove(&key))?;
        }
        let mut rows = Queue::<_, u32>::try_from(self.any_mut("FREE_ROWS")?)?;
        for entry in vcpus.iter().flat_map(|vcpu| vcpu.rows) {
            if let Some(row) = entry.checked_sub(1) {
                rows.push(row, 0)?;
            }
        }
        let mut free = Queue::<_, u32>::try_from(self.any_mut("FREE_VCPUS")?)?;
        for vcpu in vcpus {
            free.push(vcpu.index, 0)?;
        }
        Ok(())
    }

    /// Gives VM entry `index` back.
    pub(super) fn free_vm(&mut self, index: u32, entry: &VmEntry) -> Result<()> {
        let kvm = KvmObject { address: entry.kvm, identity: entry.identity };
        let mut indices = HashMap::<_, KvmObject, u32>::try_from(self.any_mut("VM_INDEX")?)?;
        ignore_absent(indices.remove(&kvm))?;
        Queue::<_, u32>::try_from(self.any_mut("FREE_VMS")?)?.push(index, 0)?;
        Ok(())
    }

    /// The hotspots that found no place in their slot.
    pub(super) fn hotspots(&self) -> Result<Overflow> {
        let map = HashMap::<_, HotspotKey, HotspotValue>::try_from(self.any("HOTSPOTS")?)?;
        Ok(collect_overflow(map.iter().flatten().map(|(key, value)| (key, value.count))))
    }

    /// What was not counted since the counting began, hotspots aside.
    pub(super) fn losses(&self) -> Result<Losses> {
        let mut losses = self.all_losses()?;
        losses::subtract(&mut losses, &self.before);
        Ok(losses)
    }

    fn all_losses(&self) -> Result<Losses> {
        let mut losses = losses::read(&PerCpuArray::<_, u64>::try_from(self.any("LOSSES")?)?)?;
        for probe in PROBES {
            if let Some(program) = self.ebpf.program(probe.name)
                && let Ok(fd) = program.fd()
            {
                losses.misses.push((probe.name.to_owned(), losses::recursion_misses(fd)?));
            }
        }
        Ok(losses)
    }

    /// What each attached program cost so far.
    pub(super) fn costs(&self) -> Result<Vec<Cost>> {
        let attached = PROBES.iter().zip(self.probes.iter()).filter(|(_, s)| s.missing.is_none());
        attached
            .map(|(probe, _)| {
                let program = self.ebpf.program(probe.name);
                cost::of(
                    probe.name,
                    program.with_context(|| format!("the object has no program {}", probe.name))?,
                )
            })
            .collect()
    }

    fn attach_probes(&mut self, resolved: &Resolved) -> Result<()> {
        let mut states = Vec::new();
        for probe in PROBES {
            let missing = self.attach_probe(probe, resolved)?;
            states.push(ProbeState {
                name: probe.name.to_owned(),
                missing,
                hides: probe.hidden_without.to_owned(),
            });
        }
        if states.iter().all(|state| state.missing.is_some()) {
            let why = states.first().and_then(|state| state.missing.clone()).unwrap_or_default();
            bail!("no probe can be attached ({why}); `tdtrace doctor` says what to do");
        }
        self.probes = states.into();
        Ok(())
    }

    /// Attaches `probe`; the reason if this kernel does not allow it.
    fn attach_probe(&mut self, probe: &Probe, resolved: &Resolved) -> Result<Option<String>> {
        for need in probe.needs {
            if let Some(why) = resolved.why_missing(need) {
                return Ok(Some(why.to_owned()));
            }
        }
        let program: &mut RawTracePoint = self
            .ebpf
            .program_mut(probe.name)
            .with_context(|| format!("the object has no program {}", probe.name))?
            .try_into()?;
        if let Err(error) = program.load() {
            return Ok(Some(load_failure(&error)));
        }
        Ok(program.attach(probe.tracepoint).err().map(|error| attach_failure(&error, probe)))
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

pub(in crate::source) fn load_failure(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            format!("the kernel refuses the program: {io_error}: {}", verdict(&log))
        }
        other => format!("the program cannot be loaded: {other}"),
    }
}

/// The line in which the verifier says why; its statistics follow it.
fn verdict(log: &str) -> &str {
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| {
            let statistics = ["processed ", "stack depth ", "verification time "];
            !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start))
        })
        .unwrap_or("the verifier says nothing")
}

fn attach_failure(error: &ProgramError, probe: &Probe) -> String {
    match error {
        ProgramError::SyscallError(SyscallError { io_error, .. })
            if io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            format!("this kernel has no tracepoint {}; is kvm loaded?", probe.tracepoint)
        }
        other => format!("{} cannot be attached: {other}", probe.tracepoint),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Why programs cannot be loaded on a machine with these files.
    fn refusal(files: &[(&str, &str)]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        check_privilege(&Facts::read(root.path())).err().map(|error| format!("{error:#}"))
    }

    #[test]
    fn only_confidentiality_lockdown_is_refused_and_says_what_to_boot_with() {
        let lockdown = "sys/kernel/security/lockdown";
        for fine in ["[none] integrity confidentiality", "none [integrity] confidentiality"] {
            assert_eq!(refusal(&[(lockdown, fine)]), None);
        }
        let error = refusal(&[(lockdown, "none integrity [confidentiality]\n")]).unwrap();
        assert!(error.contains("confidentiality") && error.contains("lockdown=integrity"));
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_missing_capability_is_named_unless_sys_admin_includes_it() {
        let status =
            |capabilities: u64| format!("Uid:\t0\t0\t0\t0\nCapEff:\t{capabilities:016x}\n");
        let refusal = |capabilities| refusal(&[("proc/self/status", &status(capabilities))]);
        let bit = |capability: Capability| 1 << capability as u8;
        let (bpf, perfmon) = (bit(Capability::Bpf), bit(Capability::Perfmon));
        assert_eq!(refusal(bpf | perfmon), None);
        assert_eq!(refusal(bit(Capability::SysAdmin)), None);
        assert!(refusal(perfmon).unwrap().starts_with("CAP_BPF is missing"));
        let error = refusal(bpf).unwrap();
        assert!(error.starts_with("CAP_PERFMON is missing") && error.contains("sudo tdtrace"));
    }

    #[test]
    fn the_verifiers_reason_is_found_before_its_statistics() {
        let log = "0: R1=ctx()\n5: (79) r0 = *(u64 *)(r3 +0)\nR3 unbounded memory access\nverification time 9 usec\nstack depth 48+152\nprocessed 6 insns (limit 1000000)\n\n";
        assert_eq!(verdict(log), "R3 unbounded memory access");
        assert_eq!(verdict(""), "the verifier says nothing");
    }
}
