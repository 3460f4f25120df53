//! Chains and verdicts against a distribution's kernel: the truth is what binutils say of the same
//! files. Large, so it is ignored; `docs/verdicts.md` says how to run it and what came out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use serde_json::json;
use tdtrace::{
    decode::insn,
    sites::{Lines, image::Image},
    verdict::{self, Access, Frame, Kind, Target, form::Form},
};

/// Where the debug files are, laid out as `/usr/lib/debug` is.
const DIR: &str = "TDTRACE_DEBUG_DIR";
/// Where to write a new fixture and the matrices, if set.
const OUT: &str = "TDTRACE_VERDICTS_OUT";

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

/// The functions whose assembly touches a device or a port: a list of its own, not the table that is
/// tested.
fn holds_assembly(name: &str) -> Option<Kind> {
    let bare = name.strip_prefix("__").unwrap_or(name);
    let sized = |stem: &str, sizes: &str| {
        let size = bare.strip_prefix(stem);
        size.is_some_and(|size| size.len() == 1 && sizes.contains(size))
    };
    match name {
        "__iowrite32_copy" | "movdir64b_io" | "iosubmit_cmds512" => {
            return Some(Kind::IoAccessorNotTdSafe);
        }
        "string_memcpy_fromio" | "string_memcpy_toio" => return Some(Kind::IoAccessor),
        "native_apic_mem_write" | "native_apic_mem_read" | "native_io_delay" => {
            return Some(Kind::ArchAccessor);
        }
        _ if name.starts_with("mmio_config_") => return Some(Kind::ArchAccessor),
        _ => {}
    }
    let of_memory = sized("read", "bwlq") || sized("write", "bwlq");
    (of_memory || sized("in", "bwl") || sized("out", "bwl")).then_some(Kind::IoAccessor)
}

fn is_of_ports(name: &str) -> bool {
    let bare = name.strip_prefix("__").unwrap_or(name);
    name == "native_io_delay" || bare.starts_with("in") || bare.starts_with("out")
}

/// Functions that use the above and have code of their own, which touches ordinary memory.
fn is_made_of_accessors(name: &str) -> bool {
    let stems = ["ioread", "iowrite", "mmio_ins", "mmio_outs", "unrolled_mem", "pio_", "lo_hi_"];
    let names =
        ["memcpy_fromio", "memcpy_toio", "memset_io", "__ioread32_copy", "__iowrite64_copy"];
    let loops = ["readsb", "readsw", "readsl", "writesb", "writesw", "writesl", "hi_lo_readq"];
    stems.iter().any(|stem| name.starts_with(stem))
        || names.contains(&name)
        || loops.contains(&name)
}

/// An instruction as objdump shows it.
#[derive(Clone, Debug)]
struct Shown {
    address: u64,
    bytes: Vec<u8>,
    text: String,
}

impl Shown {
    fn mnemonic(&self) -> &str {
        let mut words = self.text.split_ascii_whitespace();
        let prefixes = ["rep", "repz", "repnz", "lock", "cs", "ds", "notrack", "data16", "rex.W"];
        words.find(|word| !prefixes.contains(word)).unwrap_or_default()
    }

    fn is_port(&self) -> bool {
        let name = self.mnemonic();
        matches!(name, "in" | "out") || name.starts_with("ins") || name.starts_with("outs")
    }

    fn is_movs(&self) -> bool {
        matches!(self.mnemonic(), "movsb" | "movsw" | "movsl" | "movsq")
            && self.text.contains("(%rsi)")
    }

    fn touches_memory(&self) -> bool {
        let (name, text) = (self.mnemonic(), self.text.as_str());
        let unread = ["lea", "nop", "prefetch", "call", "j", "push", "pop", "invlpg", "cl"];
        if self.is_port() || unread.iter().any(|start| name.starts_with(start)) {
            return false;
        }
        // An absolute address has neither a bracket nor a dollar sign.
        let operands = text.split_once(name).map_or("", |(_, operands)| operands).trim();
        operands.contains('(') || operands.split(',').any(|operand| operand.starts_with("0x"))
    }
}

/// The instructions of `.text` that touch memory or ports.
fn disassemble(file: &Path) -> Vec<Shown> {
    let mut child = Command::new("objdump")
        .args(["-d", "-w", "-j", ".text"])
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("objdump of binutils runs");
    let mut shown: Vec<Shown> = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        let mut parts = line.splitn(3, '\t');
        let (Some(address), Some(bytes), Some(text)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address.trim().trim_end_matches(':'), 16) else {
            continue;
        };
        let bytes = bytes.split_ascii_whitespace().map(|hex| u8::from_str_radix(hex, 16).unwrap());
        let text = text.split(['#', '<']).next().unwrap().trim().to_owned();
        let one = Shown { address, bytes: bytes.collect(), text };
        if one.is_port() || one.touches_memory() {
            shown.push(one);
        }
    }
    assert!(child.wait().unwrap().success());
    shown
}

/// Function and line, the innermost first, as addr2line of binutils has them.
type Chain = Vec<(String, String)>;

fn addr2line(file: &Path, addresses: &[u64]) -> Vec<Chain> {
    let mut child = Command::new("addr2line")
        .args(["-j", ".text", "-i", "-f", "-a", "-e"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("addr2line of binutils runs");
    let mut stdin = child.stdin.take().unwrap();
    // With -j it counts from the beginning of the section; a kernel's has an address.
    let base = text_address(file);
    let input: String = addresses.iter().fold(String::new(), |mut input, address| {
        writeln!(input, "{:x}", address - base).unwrap();
        input
    });
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let mut chains: Vec<Chain> = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next() {
        let line = line.unwrap();
        if line.starts_with("0x") {
            chains.push(Vec::new());
        } else {
            let place = lines.next().unwrap().unwrap();
            chains.last_mut().unwrap().push((line, place));
        }
    }
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(chains.len(), addresses.len());
    chains
}

fn text_address(file: &Path) -> u64 {
    let image = Image::open(file).unwrap();
    if image.is_module() { 0 } else { text(&image) }
}

fn text(image: &Image) -> u64 {
    let section = image.sections().iter().find(|section| section.name == ".text").unwrap();
    section.addresses.start
}

/// What a site is by its chain; none where that does not tell.
fn truth(shown: &Shown, chain: &Chain) -> Option<Kind> {
    let known = chain.iter().all(|(name, _)| name != "??");
    let decide = |of_ports: bool| {
        let kinds: BTreeSet<Kind> = chain
            .iter()
            .filter(|(name, _)| is_of_ports(name) == of_ports)
            .filter_map(|(name, _)| holds_assembly(name))
            .collect();
        [Kind::ArchAccessor, Kind::IoAccessorNotTdSafe, Kind::IoAccessor]
            .into_iter()
            .find(|kind| kinds.contains(kind))
    };
    if !known {
        return None;
    }
    if shown.is_port() {
        let string = !matches!(shown.mnemonic(), "in" | "out");
        return Some(if string {
            Kind::StringPortIo
        } else {
            decide(true).unwrap_or(Kind::InlineAssembly)
        });
    }
    if let Some(kind) = decide(false) {
        return Some(kind);
    }
    if chain.iter().any(|(name, _)| is_made_of_accessors(name)) {
        return None;
    }
    let copies = ["memcpy_orig", "memcpy", "__memcpy", "__memmove", "copy_page", "copy_page_regs"];
    let plain = matches!(shown.mnemonic(), "mov" | "movb" | "movw" | "movl" | "movq");
    let plain = plain && !shown.text.contains('$');
    let copy = chain.iter().any(|(name, _)| copies.contains(&name.as_str()));
    Some(if shown.is_movs() || copy && plain {
        Kind::MemcpyOnIomem
    } else {
        Kind::PointerDereference
    })
}

/// Counts by truth and verdict.
#[derive(Default)]
struct Matrix(BTreeMap<(Kind, Kind), usize>);

impl Matrix {
    fn add(&mut self, truth: Kind, verdict: Kind) {
        *self.0.entry((truth, verdict)).or_default() += 1;
    }

    fn wrong(&self) -> usize {
        let is_wrong =
            |(truth, verdict): &(Kind, Kind)| truth != verdict && *verdict != Kind::Undecided;
        self.0.iter().filter(|(key, _)| is_wrong(key)).map(|(_, count)| count).sum()
    }

    fn table(&self) -> String {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| self.0.keys().any(|(truth, verdict)| truth == kind || verdict == kind))
            .collect();
        let mut table = String::from("| truth |");
        kinds.iter().for_each(|kind| write!(table, " {} |", kind.name()).unwrap());
        table += "\n|---|";
        kinds.iter().for_each(|_| table += "---:|");
        for truth in kinds.iter().filter(|kind| self.0.keys().any(|(truth, _)| truth == *kind)) {
            write!(table, "\n| {} |", truth.name()).unwrap();
            for verdict in &kinds {
                let count = self.0.get(&(*truth, *verdict)).copied().unwrap_or(0);
                write!(table, " {count} |").unwrap();
            }
        }
        table + "\n"
    }
}

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
    taken: BTreeMap<(Kind, String), usize>,
}

fn judge(bytes: &[u8], chain: Option<&[Frame]>) -> verdict::Verdict {
    let target = Target::of(bytes);
    verdict::judge(&Access {
        bytes,
        target,
        chain,
        symbol: None,
        user: false,
        in_exception_table: None,
    })
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

fn compare(file: &Path, found: &mut Found) {
    let image = Image::open(file).unwrap();
    let lines = Lines::of(&image).unwrap();
    let base = if image.is_module() { text(&image) } else { 0 };
    let shown = disassemble(file);
    let addresses: Vec<u64> = shown.iter().map(|one| one.address).collect();
    let chains = addr2line(file, &addresses);
    let name = file.file_name().unwrap().to_string_lossy().into_owned();
    for (at, kind) in sample(&shown, &chains) {
        let (one, theirs) = (&shown[at], &chains[at]);
        assert!(image.read(base + one.address, 15).unwrap().starts_with(&one.bytes));
        let ours = compare_chain(&lines, base + one.address, theirs, &name, found);
        let (with, without) = (judge(&one.bytes, Some(&ours)), judge(&one.bytes, None));
        found.with.add(kind, with.kind);
        found.without.add(kind, without.kind);
        let innermost = ours.first().map(|frame| frame.function.clone()).unwrap_or_default();
        if with.kind != kind || !matches!(without.kind, Kind::Undecided) && without.kind != kind {
            let text = &one.text;
            found.wrong.push(format!(
                "{name} {:#x} {text}: {theirs:?} is {kind:?}, judged {:?} and {:?}",
                one.address, with.kind, without.kind
            ));
        }
        let form = format!("{:?}", Form::of(&one.bytes));
        let taken = found
            .taken
            .entry((kind, if kind.is_offender() { form } else { innermost }))
            .or_default();
        *taken += 1;
        if *taken <= 1 {
            let hex: String = one.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let fate = insn::judge(&one.bytes).verdict.name();
            found.fixture.push(json!({
                "file": name, "address": format!("{:#x}", one.address), "text": one.text, "bytes": hex,
                "chain": ours, "truth": kind.name(), "kernel": fate, "without": without.kind.name(),
            }));
        }
    }
    for at in (0..shown.len()).step_by(CHAINS) {
        compare_chain(&lines, base + shown[at].address, &chains[at], &name, found);
    }
}

/// Our chain at `address`, compared with theirs.
fn compare_chain(
    lines: &Lines,
    address: u64,
    theirs: &Chain,
    file: &str,
    found: &mut Found,
) -> Vec<Frame> {
    let mut ours = lines.chain(address).unwrap();
    if ours.is_empty()
        && let (Some((file, line)), [(function, _)]) = (lines.line(address), &theirs[..])
    {
        // Assembly: the symbol table names the function.
        ours.push(Frame { function: function.clone(), file: Some(file), line: Some(line) });
    }
    found.chains += 1;
    let ours_shown: Vec<(String, String, String)> = ours
        .iter()
        .map(|frame| {
            let file = frame.file.as_deref().and_then(|file| file.rsplit('/').next());
            let line = frame.line.map_or("?".into(), |line| line.to_string());
            (frame.function.clone(), line, file.unwrap_or("??").to_owned())
        })
        .collect();
    let theirs_shown: Vec<(String, String, String)> = theirs
        .iter()
        .map(|(function, at)| {
            let at = at.split(" (disc").next().unwrap();
            let (file, line) = at.rsplit_once(':').unwrap();
            (function.clone(), line.to_owned(), file.rsplit('/').next().unwrap().to_owned())
        })
        .collect();
    let without_file = |shown: &[(String, String, String)]| -> Vec<(String, String)> {
        shown.iter().map(|(function, line, _)| (function.clone(), line.clone())).collect()
    };
    if without_file(&ours_shown) == without_file(&theirs_shown) {
        let pairs = ours_shown.iter().zip(&theirs_shown);
        found.other_files += pairs.filter(|(ours, theirs)| ours.2 != theirs.2).count();
    } else {
        found
            .other_chains
            .push(format!("{file} {address:#x}: {ours_shown:?} and {theirs_shown:?}"));
    }
    ours
}

fn debug_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !path.is_symlink() {
            debug_files(&path, files);
        } else if name.starts_with("vmlinux") || is_wanted(&name) {
            files.push(path);
        }
    }
}

fn is_wanted(file: &str) -> bool {
    let stem = file.strip_suffix(".debug").unwrap_or(file).strip_suffix(".ko");
    stem.is_some_and(|stem| MODULES.contains(&stem.replace('-', "_").as_str()))
}

#[test]
#[ignore = "needs a kernel's debug files; see docs/verdicts.md"]
fn every_verdict_on_a_kernel_is_right_or_undecided() {
    let dir = env::var_os(DIR).expect("TDTRACE_DEBUG_DIR names a directory with debug files");
    let mut files = Vec::new();
    debug_files(Path::new(&dir), &mut files);
    files.sort();
    assert!(!files.is_empty(), "no vmlinux and no module in {}", Path::new(&dir).display());
    let mut found = Found::default();
    files.iter().for_each(|file| compare(file, &mut found));
    let sites: usize = found.with.0.values().sum();
    let report = format!(
        "{} files, {sites} sites\n\nWith debug information:\n\n{}\nWithout:\n\n{}\n{} chains, {} differ; {} frames have another file\n",
        files.len(),
        found.with.table(),
        found.without.table(),
        found.chains,
        found.other_chains.len(),
        found.other_files
    );
    println!("{report}");
    found.other_chains.iter().take(20).for_each(|line| println!("{line}"));
    found.wrong.iter().take(20).for_each(|line| println!("{line}"));
    if let Some(out) = env::var_os(OUT) {
        let fixture: Vec<String> = found.fixture.iter().map(ToString::to_string).collect();
        fs::write(Path::new(&out).join("sites.jsonl"), fixture.join("\n") + "\n").unwrap();
        fs::write(Path::new(&out).join("matrix.md"), report).unwrap();
    }
    assert!(sites >= 200, "{sites} sites are too few");
    assert_eq!((found.with.wrong(), found.without.wrong(), found.wrong.len()), (0, 0, 0));
    assert_eq!(found.other_chains.len(), 0);
}
