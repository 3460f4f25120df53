//! Chains and verdicts against a distribution's kernel, for `cargo xtask lab verdicts`: the truth is
//! what binutils say of the same files.
//!
//! Prints how often which verdict was given, and fails when one is wrong or a chain differs;
//! `docs/verdicts.md` says what came out.

mod binutils;
mod truth;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde_json::json;
use tdtrace::{
    decode::insn,
    sites::{Lines, image::Image},
    verdict::{self, Access, Frame, Kind, form::Form},
};

use self::{
    binutils::{Chain, Shown},
    truth::{Matrix, truth},
};

#[derive(Debug, Parser)]
struct Cli {
    /// Directory with debug files, laid out as /usr/lib/debug is
    dir: PathBuf,
    /// Directory that the matrix and a new fixture are written to
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Modules that are looked at beside the kernel, those of them that are there.
const MODULES: &[&str] = &[
    "ahci",
    "ata_piix",
    "bnxt_en",
    "e1000e",
    "ena",
    "i2c_i801",
    "idxd",
    "igb",
    "ioatdma",
    "libahci",
    "libata",
    "mgag200",
    "mlx5_core",
    "mt76",
    "nvme",
    "nvme_core",
    "parport_pc",
    "pata_legacy",
    "r8169",
    "snd_hda_intel",
    "vmw_pvscsi",
    "xhci_hcd",
    "xhci_pci",
];

/// Sites of each accessor that are taken from a file.
const OF_ACCESSOR: usize = 8;
/// Of the other instructions in the same functions that touch memory, every so manieth is taken.
const OTHERS: usize = 7;
/// Of other copies by MOVS.
const COPIES: usize = 20;
/// Of all instructions that touch memory; for these only the chain is compared.
const CHAINS: usize = 101;

/// What the whole run found.
#[derive(Default)]
struct Found {
    with: Matrix,
    without: Matrix,
    wrong: Vec<String>,
    chains: usize,
    other_chains: Vec<String>,
    /// Frames of the same function and line for which binutils name another file.
    other_files: usize,
    fixture: Vec<serde_json::Value>,
    /// What the fixture has a site of.
    taken: BTreeSet<(Kind, String)>,
}

fn judge(bytes: &[u8], chain: Option<&[Frame]>) -> Kind {
    verdict::judge(&Access::of(bytes, chain)).kind
}

/// Picks the sites of one file by the rule, as indices.
fn sample(shown: &[Shown], chains: &[Chain]) -> Vec<(usize, Kind)> {
    let mut of_accessor: BTreeMap<String, Vec<(usize, Kind)>> = BTreeMap::new();
    let mut functions = BTreeSet::new();
    let mut picked = Vec::new();
    let mut copies = 0;
    for (at, (one, chain)) in shown.iter().zip(chains).enumerate() {
        let Some(kind) = truth(one, chain) else { continue };
        let innermost = chain.first().map(|(name, _)| name.clone()).unwrap_or_default();
        if !matches!(kind, Kind::PointerDereference | Kind::MemcpyOnIomem) {
            let key = format!("{} {innermost}", kind.name());
            of_accessor.entry(key).or_default().push((at, kind));
            functions.extend(chain.last().map(|(name, _)| name.clone()));
        } else if one.is_movs() || one.mnemonic() == "movdir64b" || kind == Kind::MemcpyOnIomem {
            if copies % COPIES == 0 {
                picked.push((at, kind));
            }
            copies += 1;
        }
    }
    for sites in of_accessor.values() {
        let step = sites.len().div_ceil(OF_ACCESSOR);
        picked.extend(sites.iter().step_by(step));
    }
    let others = shown.iter().zip(chains).enumerate().filter_map(|(at, (one, chain))| {
        let kind = truth(one, chain).filter(|kind| *kind == Kind::PointerDereference)?;
        functions.contains(&chain.last()?.0).then_some((at, kind))
    });
    picked.extend(others.step_by(OTHERS));
    picked.sort_unstable();
    picked.dedup();
    picked
}

fn compare(file: &Path, found: &mut Found) -> Result<()> {
    let image = Image::open(file)?;
    let lines = Lines::of(&image)?;
    let base = if image.is_module() { binutils::text(&image)? } else { 0 };
    let shown = binutils::disassemble(file)?;
    let addresses: Vec<u64> = shown.iter().map(|one| one.address).collect();
    let chains = binutils::chains(&image, &addresses)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    for (at, kind) in sample(&shown, &chains) {
        let (one, theirs) = (&shown[at], &chains[at]);
        let address = base + one.address;
        let code = image.read(address, 15).unwrap_or_default();
        ensure!(code.starts_with(&one.bytes), "{name} has other code at {:#x}", one.address);
        let ours = compare_chain(&lines, address, theirs, &name, found)?;
        let (with, without) = (judge(&one.bytes, Some(&ours)), judge(&one.bytes, None));
        found.with.add(kind, with);
        found.without.add(kind, without);
        if with != kind || without != Kind::Undecided && without != kind {
            let text = &one.text;
            found.wrong.push(format!(
                "{name} {:#x} {text}: {theirs:?} is {kind:?}, judged {with:?} and {without:?}",
                one.address
            ));
        }
        found.keep(&name, one, &ours, (kind, without));
    }
    for at in (0..shown.len()).step_by(CHAINS) {
        compare_chain(&lines, base + shown[at].address, &chains[at], &name, found)?;
    }
    Ok(())
}

impl Found {
    /// Takes the first site of each accessor, and of each form of the others, into the fixture.
    fn keep(&mut self, file: &str, one: &Shown, chain: &[Frame], (truth, without): (Kind, Kind)) {
        let what = if truth.is_offender() {
            format!("{:?}", Form::of(&one.bytes))
        } else {
            chain.first().map(|frame| frame.function.clone()).unwrap_or_default()
        };
        if !self.taken.insert((truth, what)) {
            return;
        }
        let hex: String = one.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let fate = insn::judge(&one.bytes).verdict.name();
        self.fixture.push(json!({
            "file": file, "address": format!("{:#x}", one.address), "text": one.text, "bytes": hex,
            "chain": chain, "truth": truth.name(), "kernel": fate, "without": without.name(),
        }));
    }

    /// What is printed and written down.
    fn report(&self, files: usize) -> String {
        format!(
            "{files} files, {} sites\n\nWith debug information:\n\n{}\nWithout:\n\n{}\n\
             {} chains, {} differ; {} frames have another file\n",
            self.with.sites(),
            self.with.table(),
            self.without.table(),
            self.chains,
            self.other_chains.len(),
            self.other_files
        )
    }
}

/// Our chain at `address`, compared with theirs.
fn compare_chain(
    lines: &Lines,
    address: u64,
    theirs: &Chain,
    file: &str,
    found: &mut Found,
) -> Result<Vec<Frame>> {
    let mut ours = lines.chain(address)?;
    if ours.is_empty()
        && let (Some((file, line)), [(function, _)]) = (lines.line(address), &theirs[..])
    {
        // Assembly: the symbol table names the function.
        ours.push(Frame { function: function.clone(), file: Some(file), line: Some(line) });
    }
    found.chains += 1;
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    // Function and line, and the file beside them.
    let (our_lines, our_files): (Vec<_>, Vec<_>) = ours
        .iter()
        .map(|frame| {
            let line = frame.line.map_or("?".into(), |line| line.to_string());
            ((frame.function.clone(), line), last(frame.file.as_deref().unwrap_or("??")))
        })
        .unzip();
    let (their_lines, their_files): (Vec<_>, Vec<_>) = theirs
        .iter()
        .map(|(function, at)| {
            let at = at.split(" (disc").next().unwrap_or_default();
            let (file, line) = at.rsplit_once(':').unwrap_or((at, ""));
            ((function.clone(), line.to_owned()), last(file))
        })
        .unzip();
    if our_lines == their_lines {
        let pairs = our_files.iter().zip(&their_files);
        found.other_files += pairs.filter(|(ours, theirs)| ours != theirs).count();
    } else {
        let sides = format!("{our_lines:?} {our_files:?} and {their_lines:?} {their_files:?}");
        found.other_chains.push(format!("{file} {address:#x}: {sides}"));
    }
    Ok(ours)
}

fn debug_files(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("{} cannot be read", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !path.is_symlink() {
            debug_files(&path, files)?;
        } else if name.starts_with("vmlinux") || is_wanted(&name) {
            files.push(path);
        }
    }
    Ok(())
}

fn is_wanted(file: &str) -> bool {
    let stem = file.strip_suffix(".debug").unwrap_or(file).strip_suffix(".ko");
    stem.is_some_and(|stem| MODULES.contains(&stem.replace('-', "_").as_str()))
}

fn main() -> Result<()> {
    let Cli { dir, out } = Cli::parse();
    let mut files = Vec::new();
    debug_files(&dir, &mut files)?;
    files.sort();
    ensure!(!files.is_empty(), "no vmlinux and no module in {}", dir.display());
    let mut found = Found::default();
    for file in &files {
        compare(file, &mut found).with_context(|| format!("{}", file.display()))?;
    }
    let report = found.report(files.len());
    println!("{report}");
    found.other_chains.iter().take(20).for_each(|line| println!("{line}"));
    found.wrong.iter().take(20).for_each(|line| println!("{line}"));
    if let Some(out) = out {
        let fixture: String = found.fixture.iter().map(|site| format!("{site}\n")).collect();
        fs::write(out.join("sites.jsonl"), fixture)?;
        fs::write(out.join("matrix.md"), report)?;
    }
    let sites = found.with.sites();
    ensure!(sites >= 200, "{sites} sites are too few");
    let wrong = (found.with.wrong(), found.without.wrong(), found.wrong.len());
    ensure!(wrong == (0, 0, 0), "wrong with and without a chain, and in either: {wrong:?}");
    ensure!(found.other_chains.is_empty(), "{} chains differ", found.other_chains.len());
    Ok(())
}
