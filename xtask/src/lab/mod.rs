//! The lab: stock kernels under QEMU's software emulation, where tdtrace meets code paths that this
//! machine does not have.
//!
//! [`kernel`] fetches and keeps kernels, [`module`] and [`initramfs`] make what they boot with, [`vm`] runs
//! one boot and reads its report; a scenario such as [`svm`], [`guest`] or [`tdx_host`] says what runs in the
//! VM and judges the report, of which [`hist`] and [`json`] read parts and [`times`] compares times;
//! [`verdicts`] boots nothing, it reads a kernel's debug files. [`headers`] builds modules of our own,
//! [`foreign`] is where that takes another release's compiler. Kernels, headers, busybox and what was built
//! are kept in the cache directory, logs in `target/lab`; nothing else on the machine is touched, but for
//! QEMU, decompressors and compilers, which are installed if they are missing.

mod all;
mod apt;
mod attach;
mod foreign;
mod guest;
mod headers;
mod hist;
mod initramfs;
mod json;
mod kernel;
mod module;
mod reload;
mod svm;
mod tdx_host;
mod times;
mod verdicts;
mod vm;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use xtask::toolchain::cache_dir;

use self::{apt::Apt, kernel::Series, vm::Vm};
use crate::{
    binary,
    programs::{self, Program},
    workspace,
};

/// What every scenario needs; all else comes from packages that are only unpacked.
const NEEDED: &[Program] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("dpkg-deb", "dpkg"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Boots a stock kernel in a software VM and runs a scenario in it
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Scenario {
    /// Count the exits of nested KVM guests and compare with what tracefs counts
    Svm(Options),
    /// Start tdtrace before KVM, and load kvm_amd anew while it runs
    Reload(Options),
    /// Judge sites of a kernel with debug information and compare with what binutils say
    Verdicts(verdicts::Options),
    /// Attach to functions and count their calls
    Attach(Options),
    /// Take #VEs in a stock kernel and compare each with what tracefs sees
    Guest(guest::Args),
    /// Let KVM run TDs without TDX and compare each exit with what tdtrace counts
    TdxHost(tdx_host::Args),
    /// Run all scenarios on all kernels and say in a table what came of each; the kernel of tdx-host is
    /// built on first use, which takes some ten minutes of two CPUs and 4 GB
    All(all::Options),
}

/// After how many seconds a VM is killed unless that is told: three times what the longest scenario takes.
const TIMEOUT: u64 = 360;

/// What every scenario can be told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Kernel that the VM runs
    #[arg(long, value_enum, default_value = "6.12")]
    kernel: Series,
    /// Seconds after which the VM is killed
    #[arg(long, default_value_t = TIMEOUT, value_parser = clap::value_parser!(u64).range(20..))]
    timeout: u64,
    /// Fetch the kernel again even if it is in the cache
    #[arg(long)]
    refresh: bool,
    /// Static tdtrace to run in the VM instead of building one
    #[arg(long, value_name = "FILE")]
    tdtrace: Option<PathBuf>,
}

impl Options {
    /// The static tdtrace to run in the VM: the one that was given, or one that is built now.
    fn tdtrace(&self) -> Result<PathBuf> {
        self.tdtrace.clone().map_or_else(binary::build, Ok)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { kernel: Series::V6_12, timeout: TIMEOUT, refresh: false, tdtrace: None }
    }
}

/// What the lab lacks that it cannot install, as a sentence.
pub(crate) fn missing() -> Option<String> {
    programs::cannot_install(&[NEEDED, binary::NEEDED, headers::NEEDED].concat())
}

/// Runs the scenario that `args` names.
///
/// # Errors
/// When the scenario cannot be prepared, does not end well, or finds a difference.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.scenario {
        Scenario::Svm(options) => run_svm(options),
        Scenario::Reload(options) => reload::run(options),
        Scenario::Verdicts(options) => verdicts::run(options),
        Scenario::Attach(options) => attach::run(options),
        Scenario::Guest(args) => guest::run(args),
        Scenario::TdxHost(args) => tdx_host::run(args),
        Scenario::All(options) => all::run(options),
    }
}

/// Runs the scenario `svm`: the exits of nested KVM guests, counted by tdtrace and by tracefs.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_svm(options: &Options) -> Result<()> {
    svm::run(options)
}

/// Runs the scenario `attach`: programs attached to functions.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_attach(options: &Options) -> Result<()> {
    attach::run(options)
}

/// Runs the steps of the scenario `guest` that take seconds: the kernel's #VE handler against tracefs.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_guest() -> Result<()> {
    guest::run(&guest::Args::quick())
}

/// A VM's base: which kernel, and the archive that it boots with.
struct Base {
    kernel: kernel::Image,
    archive: Vec<u8>,
    limit: Duration,
}

impl Base {
    /// A VM with `archives` behind the base's, whose files are left in `target/lab/<name>-<release>`.
    fn vm(&self, name: &str, archives: &[&[u8]]) -> Vm {
        let mut initramfs = vec![self.archive.clone()];
        initramfs.extend(archives.iter().map(|archive| archive.to_vec()));
        Vm {
            vmlinuz: self.kernel.vmlinuz.clone(),
            initramfs,
            dir: workspace::target().join("lab").join(format!("{name}-{}", self.kernel.release)),
            limit: self.limit,
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// Fetches what is missing and puts the base archive together, with `modules` to be loaded.
fn prepare(options: &Options, modules: &[&str]) -> Result<Base> {
    programs::ensure(NEEDED)?;
    let cache = cache_dir()?.join("lab");
    let kernel = kernel::fetch(options.kernel, &cache, options.refresh)?;
    let modules = module::closure(&kernel, modules)?;
    let limit = Duration::from_secs(options.timeout);
    // The scenario ends before QEMU is killed, so that its log still comes out.
    let archive = initramfs::base(&busybox(&cache)?, &modules, limit * 3 / 4)?;
    Ok(Base { kernel, archive, limit })
}

/// Debian's static busybox, fetched once.
fn busybox(cache: &Path) -> Result<Vec<u8>> {
    let dir = cache.join("busybox");
    if !dir.exists() {
        eprintln!("lab: fetching busybox-static");
        Apt::try_lists(&cache.join("apt/busybox"), |apt| {
            apt.unpack(&["busybox-static".to_owned()], &dir)
        })?;
    }
    for place in ["bin/busybox", "usr/bin/busybox"] {
        let file = dir.join(place);
        if file.exists() {
            return read(&file);
        }
    }
    bail!("{} holds no busybox; remove it to fetch it again", dir.display())
}
