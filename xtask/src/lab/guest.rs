//! Scenario `guest`: the real #VE handler of a stock kernel, fed by a test module that plays TDX module
//! and VMM (`xtask/lab/tdlab`; what it offers is described in its `control.c`).
//!
//! In the VM lie `/lab/tdlab.ko`, `/lab/tdlab_drv.ko` (a driver, with debug information) and
//! `/lab/user` (a program that takes #VEs). The modules are loaded, then each of [`steps`] runs, in
//! `--around` if that is given: a command that gets the step's as further arguments, as in
//! `tdtrace … -- sh -c '…'`, with `$OUT`, the directory for what it wants to report, and `$STEP`, the
//! step's name, in its environment. `--tdtrace` puts a static tdtrace in the VM's `PATH`; one is
//! built where a step runs it itself, which it does within nothing.
//!
//! The step `private` ends in the kernel's panic and has a boot of its own.
//!
//! For each step the module's truth log is compared with what a kprobe event saw: each #VE with all
//! that the kernel's handler was given, and the numbers by exit reason and result. A probe that says
//! it missed hits may have fewer, but no others.

mod calls;
mod check;
mod compare;
mod steps;
mod trace;
mod truth;

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    Base, Options, headers,
    headers::{Debug, Sources},
    initramfs::{Archive, SCENARIO},
    module::{self, Module},
    prepare, read,
    vm::Report,
};

use crate::{programs, workspace};

pub(crate) use self::compare::Way;
use self::{
    steps::{Boot, Sizes, Step},
    truth::{Context, Event, Outcome, Totals, Truth},
};

/// #VEs of the step `storm` unless it is told otherwise.
const STORM: u64 = 1_000_000;
/// The step that ends the VM.
const PRIVATE: &str = "private";

/// What the scenario can be told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    options: Options,
    /// Steps to run instead of all, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "STEP")]
    only: Vec<String>,
    /// #VEs of the step storm
    #[arg(long, default_value_t = STORM, value_parser = clap::value_parser!(u64).range(1..))]
    storm: u64,
    /// Command in the VM that each step runs in, with the step's as its last arguments
    #[arg(long, value_name = "COMMAND")]
    around: Option<String>,
    /// Let tdtrace count each step and compare what it saw with the truth log, event for event
    #[arg(long, conflicts_with = "around")]
    compare: bool,
    /// The same with kprobes instead of fentry
    #[arg(long, requires = "compare")]
    kprobe: bool,
    /// The same in a VM without /sys/kernel/btf
    #[arg(long, requires = "compare", conflicts_with = "kprobe")]
    no_btf: bool,
    /// The same by the snapshots of `tdtrace top`, which has no single events
    #[arg(long, requires = "compare", conflicts_with_all = ["kprobe", "no_btf"])]
    top: bool,
}

impl Args {
    /// The steps that take seconds.
    pub(crate) fn quick() -> Self {
        let only = ["shapes", "user", "driver", "check", "irq"].map(str::to_owned).to_vec();
        Self { only, storm: 1, ..Self::compared(Options::default(), Way::Fentry) }
    }

    /// All steps, compared with what tdtrace sees that goes this way.
    pub(crate) fn compared(options: Options, way: Way) -> Self {
        Self {
            options,
            only: Vec::new(),
            storm: STORM,
            around: None,
            compare: true,
            kprobe: way == Way::Kprobe,
            no_btf: way == Way::NoBtf,
            top: way == Way::Top,
        }
    }

    /// How tdtrace is compared, if it is.
    fn way(&self) -> Option<Way> {
        let way = match self {
            Self { top: true, .. } => Way::Top,
            Self { no_btf: true, .. } => Way::NoBtf,
            Self { kprobe: true, .. } => Way::Kprobe,
            Self { .. } => Way::Fentry,
        };
        self.compare.then_some(way)
    }
}

/// What a step left.
#[derive(Clone, Debug, Default)]
struct Seen {
    totals: Totals,
    /// Of traced steps each #VE as the module raised it.
    truth: Vec<Truth>,
    /// The same as the kprobe event saw it.
    traced: Vec<Event>,
    /// #VEs by exit reason as the kprobe event counted them.
    reasons: BTreeMap<u64, u64>,
    /// The handler's results: 1 for handled.
    results: BTreeMap<u64, u64>,
    /// What else the step reported, by name.
    files: BTreeMap<String, Vec<u8>>,
    /// Hits that each of the two probes missed.
    missed: [u64; 2],
}

/// Runs the scenario and prints a line a step.
///
/// # Errors
/// When the VM cannot be prepared or fails, or when a step shows a difference.
pub(super) fn run(args: &Args) -> Result<()> {
    let chosen = choose(&args.only)?;
    programs::ensure(headers::NEEDED)?;
    let base = prepare(&args.options, &[])?;
    let cache = xtask::toolchain::cache_dir()?.join("lab");
    let sources = Sources {
        dir: &workspace::root().join("xtask/lab/tdlab"),
        modules: &[("tdlab", Debug::Removed), ("tdlab_drv", Debug::Kept)],
        programs: &["user"],
    };
    let built = headers::build(&sources, &base.kernel, &cache)?;
    let needs_tdtrace = args.compare || chosen.iter().any(|step| step.tdtrace);
    let files = files(args, needs_tdtrace, &base, &built.dir)?;
    for boot in Boot::ALL {
        let steps: Vec<_> = chosen.iter().copied().filter(|step| step.boot == boot).collect();
        if !steps.is_empty() {
            run_steps(args, &base, &files, boot, &steps)?;
        }
    }
    if args.only.is_empty() || args.only.iter().any(|name| name == PRIVATE) {
        run_private(&base, &files)?;
    }
    Ok(())
}

fn run_steps(args: &Args, base: &Base, files: &[u8], boot: Boot, chosen: &[&Step]) -> Result<()> {
    let sizes = Sizes { storm: args.storm };
    let vm = base.vm(boot.name(), &[files, &scenario(chosen, sizes)?]);
    let report = vm.run_with(&boot.devices(), boot.parameters())?;
    let dir = vm.dir.display();
    let differ = judge(&report, chosen, sizes, args.way())
        .with_context(|| format!("the files are in {dir}"))?;
    println!("kernel {}: {}", report.text("release")?.trim(), report.times());
    if differ > 0 {
        bail!("{differ} steps differ; the files are in {dir}");
    }
    Ok(())
}

/// A #VE on private memory, after others of which the log must be complete.
fn run_private(base: &Base, files: &[u8]) -> Result<()> {
    let mut archive = Archive::default();
    archive.file(SCENARIO, include_bytes!("guest/private.sh"))?;
    let vm = base.vm("guest-private", &[files, &archive.finish()?]);
    let report = vm.run_to_panic("Unexpected EPT-violation on private memory.")?;
    let truth = truth::read(report.text("truth")?)?;
    if truth.len() as u64 != steps::SHAPES_OF_A_ROUND {
        bail!("{} #VEs before the panic; the files are in {}", truth.len(), vm.dir.display());
    }
    println!("{PRIVATE}: panic after {} #VEs; VM {:.1} s", truth.len(), report.wall.as_secs_f64());
    Ok(())
}

fn choose(only: &[String]) -> Result<Vec<&'static Step>> {
    let known = |name: &String| {
        steps::ALL.iter().find(|step| step.name == name).ok_or_else(|| {
            let names: Vec<_> = steps::ALL.iter().map(|step| step.name).collect();
            anyhow!("there is no step {name}; there are {}, {PRIVATE}", names.join(", "))
        })
    };
    if only.is_empty() {
        return Ok(steps::ALL.iter().collect());
    }
    only.iter().filter(|name| *name != PRIVATE).map(known).collect()
}

/// What every boot has: modules, programs, and what is to run around the steps.
fn files(args: &Args, needs_tdtrace: bool, base: &Base, built: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    if let Some(around) = args.way().map(Way::around).or_else(|| args.around.clone()) {
        archive.file("lab/around", format!("{around}\n").as_bytes())?;
    }
    if args.no_btf {
        archive.file("lab/no-btf", b"")?;
    }
    for module in ["tdlab.ko", "tdlab_drv.ko"] {
        archive.file(&format!("lab/{module}"), &read(&built.join(module))?)?;
    }
    for (list, wanted) in [("quote", "tdx-guest"), ("net", "virtio-net")] {
        let modules = module::closure(&base.kernel, &[wanted])?;
        for Module { name, object } in &modules {
            archive.file(&format!("lab/{name}.ko"), object)?;
        }
        let order: String = modules.iter().map(|module| format!("{}\n", module.name)).collect();
        archive.file(&format!("lab/{list}"), order.as_bytes())?;
    }
    archive.program("lab/user", &read(&built.join("user"))?)?;
    if needs_tdtrace || args.options.tdtrace.is_some() {
        archive.program("bin/tdtrace", &read(&args.options.tdtrace()?)?)?;
    }
    archive.finish()
}

fn scenario(chosen: &[&Step], sizes: Sizes) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file(SCENARIO, include_bytes!("guest/guest.sh"))?;
    let lines: String = chosen
        .iter()
        .map(|step| {
            let traced = match step {
                Step { tdtrace: true, .. } => "alone",
                Step { traced: true, .. } => "traced",
                _ => "counted",
            };
            format!("{} {traced} {}\n", step.name, (step.command)(sizes))
        })
        .collect();
    archive.file("lab/steps", lines.as_bytes())?;
    archive.finish()
}

/// Prints what each step showed; how many showed a difference.
fn judge(report: &Report, chosen: &[&Step], sizes: Sizes, way: Option<Way>) -> Result<usize> {
    println!(
        "{:<10} {:>9} {:>9} {:>9} {:>9} {:>7} {:>9} {:>7} {:>7} {:>7} {:>7}",
        "step",
        "raised",
        "handled",
        "failed",
        "kprobe",
        "missed",
        "tdtrace",
        "missed",
        "lost",
        "equal",
        "calls"
    );
    let (mut differ, mut before) = (0, [0; 2]);
    for step in chosen {
        let seen = Seen::read(report, step, &mut before)
            .with_context(|| format!("step {} left no complete report", step.name))?;
        let verdict = seen.compare().and_then(|()| (step.check)(&seen, sizes));
        // What runs tdtrace itself has judged what that saw.
        let way = way.filter(|_| !step.tdtrace);
        let compared = way.map(|way| compare::compare(&seen, way)).transpose();
        let of = |name| seen.totals.of(name);
        println!(
            "{:<10} {:>9} {:>9} {:>9} {:>9} {:>7} {}{}",
            step.name,
            of("ve"),
            of("handled"),
            of("failed"),
            seen.reasons.values().sum::<u64>(),
            seen.missed[0],
            match &compared {
                Ok(Some(of)) => format!(
                    "{:>9} {:>7} {:>7} {:>7} {:>7}",
                    of.seen, of.missed, of.lost, of.equal, of.calls
                ),
                Ok(None) => String::new(),
                Err(error) => format!(" {error:#}"),
            },
            verdict.as_ref().map_or_else(|error| format!("  {error:#}"), |()| String::new())
        );
        differ += usize::from(verdict.is_err() || compared.is_err());
    }
    Ok(differ)
}

impl Seen {
    /// What `step` left; `before` are the misses up to it, and become those after it.
    fn read(report: &Report, step: &Step, before: &mut [u64; 2]) -> Result<Self> {
        let text = |file: &str| report.text(&format!("{}/{file}", step.name));
        let status = text("status")?.trim();
        if status != "0" {
            bail!("its command ended with exit code {status}");
        }
        let profile = text("profile")?;
        let after = [trace::missed(profile, "ve")?, trace::missed(profile, "result")?];
        let missed = [0, 1].map(|probe| after[probe].saturating_sub(before[probe]));
        *before = after;
        let (truth, traced) = if step.traced {
            (truth::read(text("truth")?)?, trace::events(text("trace")?)?)
        } else {
            (Vec::new(), Vec::new())
        };
        let prefix = format!("{}/", step.name);
        let files = report.files.iter().filter_map(|(path, contents)| {
            Some((path.strip_prefix(&prefix)?.to_owned(), contents.clone()))
        });
        Ok(Self {
            files: files.collect(),
            totals: Totals::read(text("totals")?)?,
            truth,
            traced,
            reasons: trace::histogram(text("hist")?)?,
            results: trace::histogram(text("results")?)?,
            missed,
        })
    }

    /// What holds for every step.
    fn compare(&self) -> Result<()> {
        for name in ["unexpected", "tdcall.3.failed"] {
            if self.totals.of(name) > 0 {
                bail!("{}: {}", name, self.totals.of(name));
            }
        }
        self.compare_counts()?;
        // One that has not come back has no other outcome, and is for the step to judge.
        let strange =
            |truth: &&Truth| truth.outcome != truth.expected && truth.outcome != Outcome::Open;
        if let Some(other) = self.truth.iter().find(strange) {
            bail!("expected {:?}, came to {:?} in {}", other.expected, other.outcome, other.place);
        }
        if self.truth.is_empty() && self.traced.is_empty() {
            return Ok(());
        }
        let mut raised: Vec<_> = self.truth.iter().map(|truth| truth.event).collect();
        let mut traced = self.traced.clone();
        raised.sort_unstable();
        traced.sort_unstable();
        if raised.len() as u64 != self.totals.of("ve") {
            bail!("the log has {} of {} #VEs", raised.len(), self.totals.of("ve"));
        }
        let absent = missing(&raised, &traced);
        if let Some(event) = missing(&traced, &raised).first() {
            bail!("the kprobe event saw what was not raised: {event:x?}");
        }
        match absent.first() {
            Some(event) if absent.len() as u64 != self.missed[0] => {
                bail!("the kprobe event did not see {}, the first of them {event:x?}", absent.len())
            }
            _ => Ok(()),
        }
    }

    fn compare_counts(&self) -> Result<()> {
        let of = |name| self.totals.of(name);
        let reasons = self.totals.reasons();
        let counted: u64 = self.reasons.values().sum();
        if counted + self.missed[0] != of("ve") {
            bail!("{counted} counted and {} missed of {}", self.missed[0], of("ve"));
        }
        if self.missed[0] == 0 && self.reasons != reasons {
            bail!("by reason {:?} instead of {reasons:?}", self.reasons);
        }
        let result = |handled| self.results.get(&handled).copied().unwrap_or(0);
        let results = (result(1), result(0));
        let raised = (of("handled"), of("failed") + self.open());
        if self.missed[1] == 0 && results != raised {
            bail!("handled and failed {results:?} instead of {raised:?}");
        }
        Ok(())
    }

    /// Whether the log has each #VE of the step.
    fn traced_whole(&self) -> bool {
        self.truth.len() as u64 == self.totals.of("ve")
    }

    /// #VEs from which the kernel has not come back; it has decided that it cannot handle them.
    fn open(&self) -> u64 {
        self.truth.iter().filter(|truth| truth.outcome == Outcome::Open).count() as u64
    }

    /// #VEs that were raised in `context`.
    fn in_context(&self, context: Context) -> u64 {
        self.truth.iter().filter(|truth| truth.context == context).count() as u64
    }

    /// #VEs in `context` of instructions in `function`.
    fn in_functions(&self, function: &str, context: Context) -> u64 {
        let place = format!("{function}+");
        let there = |truth: &&Truth| truth.context == context && truth.place.starts_with(&place);
        self.truth.iter().filter(there).count() as u64
    }

    /// Those of them that failed.
    fn failed_in(&self, function: &str) -> u64 {
        let place = format!("{function}+");
        let failed =
            |truth: &&Truth| truth.outcome == Outcome::Failed && truth.place.starts_with(&place);
        self.truth.iter().filter(failed).count() as u64
    }
}

/// What `all` has more than `some`; both sorted.
fn missing(all: &[Event], some: &[Event]) -> Vec<Event> {
    let mut some = some.iter().peekable();
    let mut absent = Vec::new();
    for event in all {
        while some.next_if(|other| *other < event).is_some() {}
        if some.next_if_eq(&event).is_none() {
            absent.push(*event);
        }
    }
    absent
}
