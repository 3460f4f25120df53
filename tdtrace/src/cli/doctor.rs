//! `tdtrace doctor`.

use std::{
    io::{ErrorKind, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use crate::{
    doctor::{BtfSource, GuestFacts, Report},
    kernel::{Facts, btf::BtfSet},
};

/// Say what can be seen on this machine, and what to do about the rest
///
/// In a TD that includes the probes of a guest. Exits with 0 if tdtrace can count here and with 1 if
/// it cannot. Attaches nothing and changes nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// Say what can be seen within this guest even if it is no TD
    #[arg(long)]
    guest: bool,

    /// Judge by this BTF of a kernel instead of the running one's: raw, zstd or an ELF file
    #[arg(long, value_name = "FILE")]
    btf: Option<PathBuf>,

    /// Add BTF of kvm, kvm_intel or kvm_amd; may be given for each of them
    #[arg(long, value_name = "FILE")]
    module_btf: Vec<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let Args { json, guest, btf, module_btf } = args;
    let (facts, btf) = (Facts::running(), source(btf.as_deref(), &module_btf)?);
    let mut report = Report::new(&facts, &btf);
    if guest || facts.is_td() {
        report = report.with_guest(&facts, &btf, &GuestFacts::read(Path::new("/")));
    }
    let text = if json {
        serde_json::to_string_pretty(&report).context("the report cannot be written as JSON")?
            + "\n"
    } else {
        report.to_text()
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        written => written.context("the report cannot be printed")?,
    }
    Ok(if report.can_count { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Missing BTF of the running kernel is a finding; a file that was asked for must be readable.
fn source(btf: Option<&Path>, modules: &[PathBuf]) -> Result<BtfSource> {
    let set = match btf {
        Some(btf) => Ok(BtfSet::from_files(btf, modules)?),
        None => match BtfSet::running(Path::new("/")) {
            Ok(mut set) => {
                set.add_files(modules)?;
                Ok(set)
            }
            Err(error) => Err(format!("{error:#}")),
        },
    };
    let files = btf.into_iter().chain(modules.iter().map(PathBuf::as_path));
    let files = files.map(|path| path.display().to_string()).collect();
    Ok(BtfSource { files, set })
}
