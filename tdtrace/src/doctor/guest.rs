//! What can be seen within this guest, judged without attaching.
//!
//! [`GuestFacts::read`] reads procfs, sysfs and debug files below a root; the rest is pure.

use std::{path::Path, sync::Arc};

use super::{
    BtfSource, Check, ProbeReport, Report, Section, Status,
    machine::{by_kprobe, why},
};
use crate::{
    kernel::{
        Facts, Seen,
        btf::Btf,
        clock::Clock,
        guest::{self, Resolved},
        symbols::Symbols,
    },
    probe::guest::{GUEST_PROBES, GuestProbe, Place, VE},
    sites,
};

/// What decides which probes of a guest attach.
#[derive(Clone, Debug)]
pub struct GuestFacts {
    /// The kernel's symbols, or why there are none.
    pub symbols: Result<Arc<Symbols>, String>,
    /// Modules that probes lie in and that are loaded.
    pub modules: Vec<&'static str>,
    /// The kernel's debug file, or why there is none.
    pub debug: Result<String, String>,
}

impl GuestFacts {
    /// The facts that the files below `root` tell; `/` is the running machine.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let places = GUEST_PROBES.iter().map(|probe| probe.place);
        let modules = places.filter_map(|place| match place {
            Place::Function { module, .. } => module,
            Place::Tracepoint { .. } => None,
        });
        let options = sites::Options { root: root.into(), ..sites::Options::default() };
        let symbols = Symbols::read(root).map(Arc::new).map_err(|error| format!("{error:#}"));
        let debug = symbols.clone().and_then(|symbols| {
            sites::Sites::with_symbols(symbols, options).map_err(|error| format!("{error:#}"))
        });
        Self {
            symbols,
            modules: modules.filter(|name| root.join("sys/module").join(name).exists()).collect(),
            debug: debug.and_then(|sites| match sites.kernel_file() {
                Ok(path) => Ok(path.display().to_string()),
                Err(why) => Err(why.to_owned()),
            }),
        }
    }
}

/// Adds what can be seen within the guest to `report`.
pub(super) fn add(report: &mut Report, facts: &Facts, btf: &BtfSource, guest: &GuestFacts) {
    let vmlinux = btf.set.as_ref().ok().map(|set| &*set.vmlinux);
    let machine = Machine {
        guest,
        kprobes: facts.kprobes,
        vmlinux,
        has_bounces: btf.set.as_ref().ok().map(|set| set.has_tracepoint("swiotlb_bounced")),
        resolved: guest::resolve(vmlinux),
        blocking: blocking(report),
    };
    report.guest_probes = GUEST_PROBES.iter().map(|probe| machine.report(probe)).collect();
    let checks = vec![td(facts), symbols(guest), clock(facts), shared_bit(guest), debug(guest)];
    report.sections.push(Section { name: "guest", checks });
}

/// What keeps every program from being loaded. That KVM or BTF is not there does not matter here.
fn blocking(report: &Report) -> Option<Check> {
    let privileges = report.sections.iter().find(|section| section.name == "privileges")?;
    privileges.checks.iter().find(|check| check.blocking).cloned()
}

fn td(facts: &Facts) -> Check {
    const NAME: &str = "td";
    if facts.is_td() {
        Check::ok(NAME, "yes: `tdtrace top` and `tdtrace guest stat` count it")
    } else {
        Check::limited(
            NAME,
            "this is no TD; its kernel is judged as one of a TD",
            "give --guest to top, record and check, too",
        )
    }
}

fn symbols(guest: &GuestFacts) -> Check {
    const NAME: &str = "symbols";
    match &guest.symbols {
        Ok(_) => Check::ok(NAME, "functions have addresses in /proc/kallsyms"),
        Err(why) => Check::unknown(NAME, why.clone(), "run tdtrace doctor as root"),
    }
}

fn clock(facts: &Facts) -> Check {
    const NAME: &str = "ve_clock";
    match &facts.clock.current {
        Seen::Is(name) if Clock::is_register(name) => {
            Check::ok(NAME, format!("{name}: #VEs have durations"))
        }
        Seen::Is(name) => Check::limited(
            NAME,
            format!("{name} is not read within a #VE: no durations"),
            "see clocksource in section clock",
        ),
        other => Check::unknown(
            NAME,
            format!("not known, so no durations: {}", why(other)),
            "see clocksource in section clock",
        ),
    }
}

fn shared_bit(guest: &GuestFacts) -> Check {
    const NAME: &str = "shared_bit";
    let next = "give --shared-bit; without it, bit 51 says shared where it is set";
    match &guest.symbols {
        Ok(symbols) if symbols.address("cc_mask").is_some() => {
            Check::ok(NAME, "in a TD, the kernel's cc_mask says it once tdtrace counts")
        }
        Ok(_) => Check::limited(NAME, "this kernel has no cc_mask that would say it", next),
        Err(_) => Check::unknown(NAME, "whether there is a cc_mask is not known", next),
    }
}

fn debug(guest: &GuestFacts) -> Check {
    const NAME: &str = "debug_files";
    match &guest.debug {
        Ok(path) => Check::ok(NAME, format!("of the kernel: {path}")),
        Err(why) => Check::limited(
            NAME,
            format!("no lines and no inlined functions of the kernel: {why}"),
            "give a driver's .ko that was built with debug information with --module; that is \
             enough for its lines",
        ),
    }
}

/// What a probe is judged by.
struct Machine<'a> {
    guest: &'a GuestFacts,
    kprobes: bool,
    vmlinux: Option<&'a Btf>,
    /// Whether there is the tracepoint of bounces; `None` without BTF.
    has_bounces: Option<bool>,
    resolved: Resolved,
    blocking: Option<Check>,
}

/// What keeps a probe away: how it came out, why, and the next step.
type Obstacle = (Status, String, String);

impl Machine<'_> {
    fn report(&self, probe: &GuestProbe) -> ProbeReport {
        let judged = self.judge(probe);
        let check = match &judged {
            Ok(how) => Check::ok(probe.name, format!("by {how}: {}", probe.shows)),
            Err((status, why, next)) => {
                let finding = format!("{why}; hidden: {}", probe.hidden_without);
                Check::new(probe.name, *status, finding, next.clone())
            }
        };
        let (shows, hidden_without) = (probe.shows, probe.hidden_without);
        ProbeReport { visible: judged.is_ok(), shows, hidden_without, check }
    }

    /// How `probe` would be attached.
    fn judge(&self, probe: &GuestProbe) -> Result<&'static str, Obstacle> {
        if let Some(Check { name, next, .. }) = &self.blocking {
            let next = next.clone().unwrap_or_default();
            return Err((Status::Missing, format!("see {name} in section privileges"), next));
        }
        if let Some(why) = probe.needs.iter().find_map(|need| self.resolved.why_missing(need)) {
            let why = format!("{why}; it has no CONFIG_INTEL_TDX_GUEST");
            return Err((Status::Missing, why, "use a kernel for TDX guests".to_owned()));
        }
        match probe.place {
            Place::Tracepoint { name } => self.tracepoint(name),
            Place::Function { name, module: Some(module), .. } => self.in_module(name, module),
            Place::Function { name, module: None, fentry, kprobe } => {
                self.function(name, fentry.is_some(), kprobe.is_some())
            }
        }
    }

    fn tracepoint(&self, name: &str) -> Result<&'static str, Obstacle> {
        let nothing = "nothing: another kernel may have it".to_owned();
        match self.has_bounces {
            Some(true) => Ok("tracepoint"),
            Some(false) => {
                Err((Status::Missing, format!("this kernel has no tracepoint {name}"), nothing))
            }
            None => {
                let why = format!("whether there is a tracepoint {name} is not known without BTF");
                let next = "count: what is not there is listed with the reason";
                Err((Status::Unknown, why, next.to_owned()))
            }
        }
    }

    fn in_module(&self, name: &str, module: &str) -> Result<&'static str, Obstacle> {
        let how = kprobe_on(name, self.kprobes)?;
        if !self.guest.modules.contains(&module) {
            let why = format!("{name} is in {module}, which is not loaded; attached when it is");
            return Err((Status::Limited, why, format!("modprobe {module}")));
        }
        Ok(how)
    }

    fn function(&self, name: &str, fentry: bool, kprobe: bool) -> Result<&'static str, Obstacle> {
        let symbols = self.guest.symbols.as_ref().map_err(|_| {
            let next = "run tdtrace doctor as root".to_owned();
            (Status::Unknown, "without symbols it is not known".to_owned(), next)
        })?;
        if symbols.address(name).is_none() {
            let why = format!("this kernel has no {name}, or several");
            let next = "nothing: the compiler may have inlined it, or the kernel is older";
            return Err((Status::Missing, why, next.to_owned()));
        }
        if fentry && self.vmlinux.is_some_and(|btf| btf.parameters(name).is_some()) {
            return Ok("fentry");
        }
        if kprobe {
            return kprobe_on(name, self.kprobes);
        }
        let why = format!("BTF has no function {name}, and a kprobe is of no use");
        Err((Status::Missing, why, "nothing: another kernel may have it".to_owned()))
    }
}

fn kprobe_on(name: &str, kprobes: bool) -> Result<&'static str, Obstacle> {
    by_kprobe(name, kprobes).map_err(|(status, why, next)| (status, why, next.to_owned()))
}

/// Whether a guest can be counted: without its #VEs there is next to nothing.
pub(super) fn can_count(probes: &[ProbeReport]) -> bool {
    probes.iter().any(|probe| probe.visible && probe.check.name == VE)
}
