//! Scenario `tdx-host`: the real TDX host code of a kernel that was built for it, with a test module that
//! plays the TDX module (`xtask/lab/tdhost`), and a VMM that makes TDs through `/dev/kvm`.
//!
//! The module answers each SEAMCALL; an entry into a TD is answered with the guest's next step, which
//! [`steps`] says. It keeps the [`truth`]: every exit, what KVM answered and what KVM_RUN came back with,
//! every SEAMCALL; the VMM has a log of what it did about memory. tdtrace counts meanwhile, and [`compare`]
//! and [`memory`] hold its JSON against that, [`times`] its times against the kernel's own trace. [`mix`] is
//! the same exits as `kvm_exit` shows them, [`perf`] what perf makes of those, [`proof`] holds
//! `docs/proof.md` against the run. [`build`] makes the kernel once, [`patch`] lets kvm-intel load without
//! VMX, [`layout`] judges what tdtrace found in the kernel's types.

mod build;
mod compare;
mod findings;
mod layout;
mod memory;
mod mix;
mod patch;
mod perf;
mod proof;
mod steps;
mod times;
mod truth;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;
use xtask::toolchain::cache_dir;

use super::{
    NEEDED, busybox,
    headers::{self, Debug, Sources},
    initramfs::{self, Archive, SCENARIO},
    module::{self, Module},
    vm::{Report, Vm},
};

use self::{build::Kernel, compare::Row};

pub(super) use self::build::SERIES as KERNEL;
use crate::{binary, programs, progress::run as run_command, workspace};

/// The module of ours, as the kernel calls it.
const MODULE: &str = "tdhost";

/// The types of a Linux 7.3 that tdtrace has with it.
const FIXTURE: &str = "tdtrace/tests/fixtures/btf/kvm-intel-7.3-tdx.standalone.btf.zst";

/// What the scenario can be told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds after which the VM is killed
    #[arg(long, default_value_t = super::TIMEOUT, value_parser = clap::value_parser!(u64).range(20..))]
    timeout: u64,
    /// Static tdtrace to run in the VM instead of building one
    #[arg(long, value_name = "FILE")]
    tdtrace: Option<PathBuf>,
    /// Print every number that was compared, not only those that differ
    #[arg(long)]
    all: bool,
    /// Run this machine's perf in the VM as well, and print what it says of the same exits
    #[arg(long)]
    perf: bool,
}

impl Args {
    /// What `lab all` runs.
    pub(super) fn compared(timeout: u64) -> Self {
        Self { timeout, tdtrace: None, all: false, perf: false }
    }
}

/// Runs the scenario and prints the comparison.
///
/// # Errors
/// When the kernel or the VM cannot be prepared, the VM fails, or a number differs.
pub(super) fn run(args: &Args) -> Result<()> {
    programs::ensure(&[NEEDED, build::NEEDED, binary::NEEDED].concat())?;
    let cache = cache_dir()?.join("lab");
    let kernel = build::kernel(&cache)?;
    let sources = workspace::root().join("xtask/lab/tdhost");
    let built = headers::build_with(
        &Sources { dir: &sources, modules: &[(MODULE, Debug::Removed)], programs: &[] },
        &kernel.image,
        &cache,
        kernel.tree.clone(),
    )?;
    let vmm = vmm(&sources, &kernel, &built.dir)?;
    let tdtrace = match &args.tdtrace {
        Some(file) => file.clone(),
        None => binary::build()?,
    };
    let limit = Duration::from_secs(args.timeout);
    let modules = modules(&kernel, &built.dir)?;
    let dir = workspace::target().join("lab").join(format!("tdx-host-{}", kernel.image.release));
    let mut initramfs = vec![
        initramfs::base(&busybox(&cache)?, &modules, limit * 3 / 4)?,
        scenario(&tdtrace, &vmm)?,
    ];
    if args.perf {
        initramfs.push(perf::archive()?);
    }
    let vm = Vm { vmlinuz: kernel.image.vmlinuz, initramfs, dir: dir.clone(), limit };
    let report = vm.run_with(if args.perf { perf::CPU } else { &[] }, "")?;
    judge(args, &tdtrace, &report).with_context(|| format!("the files are in {}", dir.display()))
}

/// The modules in the order in which they are loaded: ours before kvm-intel, whose code is patched by what
/// the CPU can.
fn modules(kernel: &Kernel, built: &Path) -> Result<Vec<Module>> {
    let mut modules = module::closure(&kernel.image, &["kvm-intel"])?;
    let intel = modules.pop().ok_or_else(|| anyhow!("there is no module kvm-intel"))?;
    let file = built.join(format!("{MODULE}.ko"));
    let object = fs::read(&file).with_context(|| format!("no {}", file.display()))?;
    modules.push(Module { name: MODULE.to_owned(), object });
    modules.push(Module { object: patch::without_init(intel.object)?, ..intel });
    Ok(modules)
}

/// The VMM, static, built beside the module of the same sources.
fn vmm(sources: &Path, kernel: &Kernel, built: &Path) -> Result<PathBuf> {
    let program = built.join("vmm");
    if !program.exists() {
        let mut compile = Command::new("musl-gcc");
        compile.args(["-static", "-O2", "-Wall", "-Wextra", "-Werror", "-idirafter"]);
        compile.arg(&kernel.include).arg("-o").arg(&program).arg(sources.join("vmm.c"));
        run_command(&mut compile).context("the VMM does not build")?;
    }
    Ok(program)
}

fn scenario(tdtrace: &Path, vmm: &Path) -> Result<Vec<u8>> {
    let read = |file: &Path| fs::read(file).with_context(|| format!("no {}", file.display()));
    let mut archive = Archive::default();
    archive.file(SCENARIO, include_bytes!("tdx_host/tdx_host.sh"))?;
    archive.file("lab/steps", steps::file().as_bytes())?;
    super::times::pack(&mut archive)?;
    archive.program("bin/tdtrace", &read(tdtrace)?)?;
    archive.program("bin/vmm", &read(vmm)?)?;
    archive.finish()
}

/// Compares and prints.
fn judge(args: &Args, tdtrace: &Path, report: &Report) -> Result<()> {
    println!("{}", layouts(report, tdtrace)?);
    ensure!(report.text("dropped")?.trim() == "0", "the truth log was too small");
    let exits = truth::exits(report.text("exits")?)?;
    let calls = truth::calls(report.text("seamcalls")?)?;
    let notes = memory::notes(report.text("vmm")?)?;
    let stat = json(report, "stat.json")?;
    let threads = compare::threads(&exits)?;
    let mut truth = compare::of_truth(&exits, &threads);
    let mut told = compare::told(&stat, &threads, &notes)?;
    truth.extend(memory::of_truth(&exits, &threads, &calls, &notes));
    memory::broken(&stat, report.text("poisoned")?)?;
    let (counted, leaves) = compare::seamcalls(&stat)?;
    truth.extend(compare::seamcall_counts(&truth::by_status(&calls), &leaves)?);
    told.extend(compare::seamcall_counts(&counted, &leaves)?);
    let shown = mix::told(report.text("kvm_exit")?)?;
    if args.all || args.perf {
        println!("{}", mix::table(&shown, &told));
    }
    if args.perf {
        println!("{}", report.text("perf")?);
    }
    truth.extend(mix::of_truth(&exits));
    told.extend(shown);
    truth.extend(findings::of_truth(&truth, &threads));
    told.extend(findings::told(&stat, |vm| compare::td_of(&stat, vm, &threads))?);
    let rows = compare::rows(&truth, &told);
    let differ = print(&rows, args.all);
    let timed = times::compare(report, &exits, &stat)?;
    let late = super::times::print(&timed, args.all);
    println!(
        "kernel {}: {} exits of {} vCPUs, {} SEAMCALLs, {} acts of the VMM on memory; {}; {} numbers, {differ} differ; \
         {} times, {late} differ; {}",
        report.text("release")?.trim(),
        exits.len(),
        threads.len(),
        calls.len(),
        notes.len(),
        compare::kinds(&rows),
        rows.len(),
        timed.len(),
        report.times()
    );
    if differ + late > 0 {
        bail!("{differ} numbers and {late} times differ");
    }
    println!(
        "docs/proof.md: {} rows that this proves occurred",
        proof::judge(&rows, &timed, &stat)?
    );
    Ok(())
}

/// What tdtrace found in this kernel's types, the compiler's truth, and what it finds in its own.
fn layouts(report: &Report, tdtrace: &Path) -> Result<String> {
    let doctor = report.text("doctor")?;
    println!("{doctor}");
    let fixture = workspace::root().join(FIXTURE);
    // Its exit code is about this machine.
    let of_fixture = Command::new(tdtrace).arg("doctor").arg("--btf").arg(&fixture).output();
    let of_fixture = of_fixture.with_context(|| format!("{} does not run", tdtrace.display()))?;
    layout::judge(
        &layout::of_doctor(doctor)?,
        &layout::of_module(report.text("layout")?)?,
        &layout::of_doctor(&String::from_utf8_lossy(&of_fixture.stdout))?,
    )
}

fn json(report: &Report, name: &str) -> Result<Value> {
    serde_json::from_str(report.text(name)?).with_context(|| format!("{name} is no JSON"))
}

/// How many rows differ.
fn print(rows: &[Row], all: bool) -> usize {
    println!("{:<78} {:>7} {:>7}", "", "truth", "tdtrace");
    for row in rows.iter().filter(|row| all || !row.agrees()) {
        let mark = if row.agrees() { "" } else { "  differs" };
        println!("{:<78} {:>7} {:>7}{mark}", row.item.to_string(), row.truth, row.told);
    }
    rows.iter().filter(|row| !row.agrees()).count()
}
