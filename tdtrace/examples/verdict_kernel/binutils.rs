//! What binutils say of a file: its instructions by objdump, their chains by addr2line. Runs both.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tdtrace::sites::image::Image;

/// An instruction as objdump shows it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) address: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) text: String,
}

impl Shown {
    pub(crate) fn mnemonic(&self) -> &str {
        let mut words = self.text.split_ascii_whitespace();
        let prefixes = ["rep", "repz", "repnz", "lock", "cs", "ds", "notrack", "data16", "rex.W"];
        words.find(|word| !prefixes.contains(word)).unwrap_or_default()
    }

    pub(crate) fn is_port(&self) -> bool {
        let name = self.mnemonic();
        matches!(name, "in" | "out") || name.starts_with("ins") || name.starts_with("outs")
    }

    pub(crate) fn is_movs(&self) -> bool {
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
pub(crate) fn disassemble(file: &Path) -> Result<Vec<Shown>> {
    let mut child = Command::new("objdump")
        .args(["-d", "-w", "-j", ".text"])
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .context("objdump of binutils does not run")?;
    let mut shown: Vec<Shown> = Vec::new();
    for line in BufReader::new(child.stdout.take().context("objdump has no output")?).lines() {
        let line = line?;
        let mut parts = line.splitn(3, '\t');
        let (Some(address), Some(bytes), Some(text)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address.trim().trim_end_matches(':'), 16) else {
            continue;
        };
        let bytes = bytes
            .split_ascii_whitespace()
            .map(|hex| u8::from_str_radix(hex, 16))
            .collect::<Result<_, _>>()
            .with_context(|| format!("objdump printed {line:?}"))?;
        let text = text.split(['#', '<']).next().unwrap_or_default().trim().to_owned();
        let one = Shown { address, bytes, text };
        if one.is_port() || one.touches_memory() {
            shown.push(one);
        }
    }
    ensure!(child.wait()?.success(), "objdump fails on {}", file.display());
    Ok(shown)
}

/// Function and line, the innermost first, as addr2line of binutils has them.
pub(crate) type Chain = Vec<(String, String)>;

/// The chain at each of `addresses` of `image`, as objdump names them.
pub(crate) fn chains(image: &Image, addresses: &[u64]) -> Result<Vec<Chain>> {
    let mut child = Command::new("addr2line")
        .args(["-j", ".text", "-i", "-f", "-a", "-e"])
        .arg(image.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("addr2line of binutils does not run")?;
    let mut stdin = child.stdin.take().context("addr2line has no input")?;
    // With -j it counts from the beginning of the section; a kernel's has an address.
    let base = if image.is_module() { 0 } else { text(image)? };
    let input: String = addresses.iter().map(|address| format!("{:x}\n", address - base)).collect();
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let mut chains: Vec<Chain> = Vec::new();
    let output = child.stdout.take().context("addr2line has no output")?;
    let mut lines = BufReader::new(output).lines();
    while let Some(line) = lines.next() {
        let line = line?;
        if line.starts_with("0x") {
            chains.push(Vec::new());
        } else {
            let place = lines.next().context("addr2line names a function without a place")??;
            let chain = chains.last_mut().context("addr2line does not begin with an address")?;
            chain.push((line, place));
        }
    }
    writer.join().map_err(|_| anyhow!("writing to addr2line panicked"))??;
    ensure!(child.wait()?.success(), "addr2line fails on {}", image.path().display());
    ensure!(
        chains.len() == addresses.len(),
        "addr2line was asked for {} addresses and named {}",
        addresses.len(),
        chains.len()
    );
    Ok(chains)
}

/// Where the code of `image` begins.
pub(crate) fn text(image: &Image) -> Result<u64> {
    let section = image.sections().iter().find(|section| section.name == ".text");
    let section = section.with_context(|| format!("{} has no .text", image.path().display()))?;
    Ok(section.addresses.start)
}
