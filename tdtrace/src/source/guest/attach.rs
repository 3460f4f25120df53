//! Loading the object for a guest and attaching what this kernel has. Each probe attaches by itself;
//! one that does not is listed with the reason and with what it hides.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, RingBuf},
    programs::{RawTracePoint, links::FdLink},
};

use super::{
    super::{
        counting::{object::OBJECT, privilege},
        function::{self, Function, failure, program},
    },
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
    probe::guest::{GUEST_PROBES, GuestProbe, Place},
};

/// How functions are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// By fentry and fexit; by kprobe and kretprobe where those are not to be had.
    Fentry,
    /// By kprobe and kretprobe only.
    Kprobe,
}

/// #VE handlers and calls that can run at the same time: several a CPU, if tasks are preempted in them.
pub(super) const RUNNING: u32 = 4096;
/// Stacks that each of two maps keeps. The kernel makes a power of two places, so one more than such a
/// power makes twice as many places for next to nothing: the fewer meet.
const STACKS: u32 = (1 << 13) + 1;
/// Operations and callers.
const CALLS: u32 = 4096;
/// Bytes of the buffer between two looks; a power of two pages.
const EVENT_BYTES: u32 = 8 << 20;

/// How long a module in which nothing could be attached is left alone.
const AGAIN: Duration = Duration::from_secs(2);

/// The loaded object with its links.
pub(super) struct Attached {
    pub(super) ebpf: Ebpf,
    /// Single #VEs, if they are streamed. Mapped once, because mapping costs time for each page.
    pub(super) events: Option<RingBuf<MapData>>,
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
    /// When a module is tried again in which nothing could be attached.
    again: Duration,
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
    let events = if options.stream {
        let map = ebpf.take_map("VE_EVENTS").context("the object has no map VE_EVENTS")?;
        Some(RingBuf::try_from(map).context("the map VE_EVENTS cannot be mapped")?)
    } else {
        None
    };
    let mut attached = Attached {
        ebpf,
        events,
        programs: Vec::new(),
        kprobes: Vec::new(),
        release: facts.release.known().map_or("?", String::as_str).into(),
        is_td,
        layout_assumed: resolved.assumed,
        probes: Arc::new([]),
        again: Duration::ZERO,
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
        .map_max_entries("GUEST_STACKS_BESIDE", STACKS)
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

    /// Attaches what lies in modules that were not there before. Where that fails it is tried again only
    /// after a while: each attempt loads the programs.
    pub(super) fn attach_modules(&mut self, now: Duration) -> Result<()> {
        if now < self.again {
            return Ok(());
        }
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
            if how.is_none() {
                self.again = now + AGAIN;
            }
        }
        Ok(())
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
                let function = Function { name, module, fentry, kprobe };
                let attached = function::attach(&mut self.ebpf, function, btf);
                self.kprobes.extend(attached.kprobes);
                self.programs.extend(attached.programs);
                Ok((attached.how, attached.why))
            }
        }
    }
}
