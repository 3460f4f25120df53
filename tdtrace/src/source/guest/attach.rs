//! Loading the object for a guest and attaching what this kernel has. Each probe attaches by itself;
//! one that does not is listed with the reason and with what it hides.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::Map,
    programs::{
        FEntry, FExit, KProbe, Program, ProgramError, RawTracePoint, kprobe::KProbeError,
        links::FdLink,
    },
    sys::SyscallError,
};

use super::{
    super::counting::{attach::load_failure, load::OBJECT, privilege},
    Options,
};
use crate::{
    kernel::{
        Facts,
        btf::BtfSet,
        guest::{self, Resolved},
        symbols::Symbols,
    },
    model::guest::sample::GuestProbeState,
    probe::guest::{GUEST_PROBES, GuestProbe, Pair, Place},
};

/// How functions are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// By fentry and fexit; by kprobe and kretprobe where those are not to be had.
    Fentry,
    /// By kprobe and kretprobe only.
    Kprobe,
}

/// Maps that are used after loading.
const MAPS: [&str; 9] = [
    "GUEST_CONTROL",
    "GUEST_STATE",
    "GUEST_LOSSES",
    "GUEST_STACKS",
    "VE_ENTRIES",
    "VE_PLACES",
    "VE_STATS",
    "VE_EVENTS",
    "CALLS",
];

/// #VE handlers and calls that can run at the same time: several a CPU, if tasks are preempted in them.
const RUNNING: u32 = 4096;
/// Stacks that are kept.
const STACKS: u32 = 8192;
/// Operations and callers.
const CALLS: u32 = 4096;
/// Bytes of the buffer between two looks; a power of two pages.
const EVENT_BYTES: u32 = 8 << 20;

/// The loaded object with its links.
pub(super) struct Attached {
    pub(super) ebpf: Ebpf,
    pub(super) maps: Vec<(&'static str, Map)>,
    /// Programs that are attached.
    pub(super) programs: Vec<&'static str>,
    /// Links of those that are kprobes, as far as the kernel has such links.
    pub(super) kprobes: Vec<(&'static str, FdLink)>,
    /// Release of the kernel.
    pub(super) release: Arc<str>,
    /// Whether this is a TD.
    pub(super) is_td: bool,
    /// Whether the layout is assumed.
    pub(super) layout_assumed: bool,
    /// Each probe and whether it counts.
    pub(super) probes: Arc<[GuestProbeState]>,
}

pub(super) fn attach(options: &Options, symbols: Option<&Symbols>) -> Result<Attached> {
    let facts = Facts::running();
    let is_td = facts.is_td();
    if !is_td && !options.force {
        bail!("this is not a TDX guest; use --guest to attach anyway");
    }
    privilege::check(&facts)?;
    let set = BtfSet::running(Path::new("/")).ok();
    let resolved = guest::resolve(set.as_ref().map(|set| &*set.vmlinux));
    let mut ebpf = load(options, set.as_ref(), &resolved, symbols)?;
    let mut maps = Vec::new();
    for name in MAPS {
        let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
        maps.push((name, map));
    }
    let mut attached = Attached {
        ebpf,
        maps,
        programs: Vec::new(),
        kprobes: Vec::new(),
        release: facts.release.known().map_or("?", String::as_str).into(),
        is_td,
        layout_assumed: resolved.assumed,
        probes: Arc::new([]),
    };
    attached.attach_probes(&resolved, options.prefer)?;
    Ok(attached)
}

fn load(
    options: &Options,
    set: Option<&BtfSet>,
    resolved: &Resolved,
    symbols: Option<&Symbols>,
) -> Result<Ebpf> {
    let addresses = guest::addresses(symbols, resolved);
    let returns = guest::returns(set.map(|set| &*set.vmlinux));
    let stream = u8::from(options.stream);
    let own = std::process::id();
    EbpfLoader::new()
        .override_global("GUEST_LAYOUT", &resolved.layout, true)
        .override_global("GUEST_ADDRESSES", &addresses, true)
        .override_global("GUEST_RETURNS", &returns, true)
        .override_global("GUEST_STREAM", &stream, true)
        .override_global("GUEST_SELF", &own, true)
        .map_max_entries("VE_ENTRIES", RUNNING)
        .map_max_entries("VE_PLACES", options.max_places)
        .map_max_entries("GUEST_STACKS", STACKS)
        .map_max_entries("CALLS", CALLS)
        .map_max_entries("CALL_ENTRIES", RUNNING)
        .map_max_entries("VE_EVENTS", if options.stream { EVENT_BYTES } else { 4096 })
        .load(OBJECT)
        .map_err(|error| anyhow!(error))
        .context("the kernel refuses the eBPF maps; `tdtrace doctor` says what is missing")
}

impl Attached {
    fn attach_probes(&mut self, resolved: &Resolved, prefer: Prefer) -> Result<()> {
        let btf = match prefer {
            Prefer::Fentry => Btf::from_sys_fs().map_err(|error| error.to_string()),
            Prefer::Kprobe => Err("kprobes were asked for".to_owned()),
        };
        let mut states = Vec::new();
        for probe in GUEST_PROBES {
            let missing = probe.needs.iter().find_map(|need| resolved.why_missing(need));
            let (how, missing) = match missing {
                // The structures are there only with the code that uses them.
                Some(why) => (None, Some(format!("{why}; it has no CONFIG_INTEL_TDX_GUEST"))),
                None => self.attach_probe(probe, btf.as_ref().map_err(String::as_str))?,
            };
            states.push(GuestProbeState {
                name: probe.name.into(),
                how: how.map(Into::into),
                missing,
                hides: probe.hidden_without.into(),
            });
        }
        if states.iter().all(|state| state.how.is_none()) {
            let why = states.first().and_then(|state| state.missing.clone()).unwrap_or_default();
            bail!("no probe can be attached ({why}); `tdtrace doctor` says what to do");
        }
        self.probes = states.into();
        Ok(())
    }

    /// Attaches what lies in modules that were not there before; whether anything was attached.
    pub(super) fn attach_modules(&mut self) -> Result<bool> {
        let mut attached = false;
        for (index, probe) in GUEST_PROBES.iter().enumerate() {
            let Place::Function { module: Some(module), .. } = probe.place else { continue };
            let is_attached = self.probes.get(index).is_none_or(|state| state.how.is_some());
            if is_attached || !Path::new("/sys/module").join(module).exists() {
                continue;
            }
            let (how, missing) = self.attach_probe(probe, Err("it is in a module"))?;
            let mut states = self.probes.to_vec();
            states[index].how = how.map(Into::into);
            states[index].missing = missing;
            self.probes = states.into();
            attached |= how.is_some();
        }
        Ok(attached)
    }

    /// Attaches `probe`: how, and why not or not better.
    fn attach_probe(
        &mut self,
        probe: &GuestProbe,
        btf: Result<&Btf, &str>,
    ) -> Result<(Option<&'static str>, Option<String>)> {
        match probe.place {
            Place::Tracepoint { name } => {
                let program: &mut RawTracePoint = program(&mut self.ebpf, name)?.try_into()?;
                let attached = program.load().and_then(|()| program.attach(name).map(drop));
                Ok(match attached {
                    Ok(()) => {
                        self.programs.push(name);
                        (Some("tracepoint"), None)
                    }
                    Err(error) => (None, Some(failure(&error, name, None))),
                })
            }
            Place::Function { name, module, fentry, kprobe } => {
                let mut why = None;
                if let Some(pair) = fentry {
                    match btf.map_err(str::to_owned).and_then(|btf| {
                        self.attach_pair(pair, |program| attach_fentry(program, name, btf))
                    }) {
                        Ok(()) => return Ok((Some("fentry"), None)),
                        Err(error) => why = Some(error),
                    }
                }
                if let Some(pair) = kprobe {
                    match self.attach_pair(pair, |program| attach_kprobe(program, name, module)) {
                        Ok(()) => return Ok((Some("kprobe"), why)),
                        // Where there are none at all, what fentry says is more.
                        Err(error) => {
                            let is_more = why.is_some() && error == NO_KPROBES;
                            why = if is_more { why } else { Some(error) };
                        }
                    }
                }
                Ok((None, why))
            }
        }
    }

    /// Attaches both programs of `pair`, or none.
    fn attach_pair(
        &mut self,
        pair: Pair,
        attach: impl Fn(&mut Program) -> Result<Option<FdLink>, String>,
    ) -> Result<(), String> {
        let mut links = Vec::new();
        let names = || pair.entry.into_iter().chain([pair.exit]);
        for name in names() {
            let program = program(&mut self.ebpf, name).map_err(|error| format!("{error:#}"))?;
            match attach(program) {
                Ok(link) => links.extend(link.map(|link| (name, link))),
                Err(why) => {
                    // Nothing is attached if it was the first; loaded, it is quicker next time.
                    let is_first = Some(name) == names().next();
                    for name in names().filter(|_| !is_first) {
                        if let Some(program) = self.ebpf.program_mut(name) {
                            // One that was not loaded has nothing to be taken away.
                            let _ = unload(program);
                        }
                    }
                    return Err(why);
                }
            }
        }
        self.kprobes.extend(links);
        self.programs.extend(names());
        Ok(())
    }
}

fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        _ => Ok(()),
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))
}

fn attach_fentry(
    program: &mut Program,
    function: &str,
    btf: &Btf,
) -> Result<Option<FdLink>, String> {
    let result = match program {
        Program::FEntry(program) => load_fentry(program, function, btf),
        Program::FExit(program) => load_fexit(program, function, btf),
        _ => return Err(format!("the program on {function} is of another type")),
    };
    result.map(|()| None).map_err(|error| failure(&error, function, None))
}

fn load_fentry(program: &mut FEntry, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(function, btf)?;
    program.attach().map(drop)
}

fn load_fexit(program: &mut FExit, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(function, btf)?;
    program.attach().map(drop)
}

fn attach_kprobe(
    program: &mut Program,
    function: &str,
    module: Option<&str>,
) -> Result<Option<FdLink>, String> {
    let Program::KProbe(program) = program else {
        return Err(format!("the program on {function} is of another type"));
    };
    let result = load_kprobe(program, function);
    result.map_err(|error| failure(&error, function, module))
}

fn load_kprobe(program: &mut KProbe, function: &str) -> Result<Option<FdLink>, ProgramError> {
    match program.load() {
        // From an earlier attempt, before the module was there.
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(error),
    }
    let link = program.attach(function, 0)?;
    if let Ok(link) = FdLink::try_from(program.take_link(link)?) {
        return Ok(Some(link));
    }
    // The kernel has no links for it, and what was attached is gone with the attempt.
    program.attach(function, 0).map(|_| None)
}

/// A kernel without CONFIG_KPROBE_EVENTS.
const NO_KPROBES: &str = "this kernel has no kprobes";

/// Why a program is not attached to `place`.
fn failure(error: &ProgramError, place: &str, module: Option<&str>) -> String {
    let absent = || match module {
        Some(module) => format!("there is no {place}; is the module {module} loaded?"),
        None => format!("this kernel has no {place}"),
    };
    match error {
        ProgramError::LoadError { .. } => load_failure(error),
        ProgramError::SyscallError(SyscallError { io_error, .. }) => {
            match io_error.raw_os_error() {
                Some(libc::ENOENT) => absent(),
                Some(libc::EADDRNOTAVAIL) => {
                    format!("this kernel has several functions called {place}")
                }
                _ => format!("{place} cannot be attached to: {io_error}"),
            }
        }
        ProgramError::Btf(_) => absent(),
        ProgramError::KProbeError(KProbeError::FileError { io_error, .. })
            if io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            NO_KPROBES.to_owned()
        }
        other => format!("{place} cannot be attached to: {other}"),
    }
}
