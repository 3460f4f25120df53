//! `tdtrace decode insn`: instruction bytes in, the guest kernel's verdict out, as JSON lines.

use std::{
    borrow::Cow,
    fmt,
    io::{self, BufRead, BufReader, BufWriter, Read as _, Write},
    process::ExitCode,
    str,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::decode::insn::{self, Judgement};

/// Longest line of input in bytes: hex of any instruction with much room for other JSON fields.
const MAX_LINE: usize = 64 << 10;
const BUFFER: usize = 256 << 10;

/// Say what a TDX guest kernel makes of an instruction that touches MMIO
///
/// Prints one JSON object an instruction: "kernel" is the verdict of the kernel's decoder (WRITE,
/// WRITE_IMM, READ, READ_ZX, READ_SX, MOVS, FAILED: no MMIO form, or UNDECODABLE), "size" the
/// bytes accessed, "len" the length of the instruction, "survives" whether the #VE handler
/// emulates it. "truncated" says that bytes were missing and zeros took their place.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Instruction bytes in hex, one instruction an argument; spaces and 0x are fine. Without any,
    /// or for -, one instruction a line from standard input; a line may be a JSON object with
    /// "bytes"
    #[arg(value_name = "HEX")]
    insns: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let mut out = BufWriter::with_capacity(BUFFER, io::stdout().lock());
    let outcome = write_all(args, &mut out);
    // What was decoded before a bad line is printed all the same.
    let flushed = out.flush().map_err(Into::into);
    match outcome.and(flushed) {
        // The reader had enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        outcome => outcome.map(|()| ExitCode::SUCCESS),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn write_all(args: &Args, out: &mut impl Write) -> Result<()> {
    if args.insns.is_empty() {
        return write_lines(BufReader::with_capacity(BUFFER, io::stdin().lock()), out);
    }
    let mut bytes = Vec::new();
    for (index, arg) in args.insns.iter().enumerate() {
        if arg == "-" {
            write_lines(BufReader::with_capacity(BUFFER, io::stdin().lock()), out)?;
        } else {
            parse_hex(arg, &mut bytes).with_context(|| format!("argument {}", index + 1))?;
            write_insn(&bytes, out)?;
        }
    }
    Ok(())
}

/// Decodes every line of `input`. A line at a time is in memory.
fn write_lines<R: io::Read>(mut input: BufReader<R>, out: &mut impl Write) -> Result<()> {
    let (mut line, mut bytes) = (Vec::new(), Vec::new());
    let mut number = 0_u64;
    loop {
        // About to wait for more input: whoever feeds line by line gets answers line by line.
        if input.buffer().is_empty() {
            out.flush()?;
        }
        line.clear();
        let limit = u64::try_from(MAX_LINE)? + 1;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line);
        if read.context("standard input cannot be read")? == 0 {
            return Ok(());
        }
        number += 1;
        if line.trim_ascii().is_empty() && line.len() <= MAX_LINE {
            continue;
        }
        parse_line(&line, &mut bytes).with_context(|| format!("line {number}"))?;
        write_insn(&bytes, out)?;
    }
}

/// Reads hex, or the hex in the "bytes" of a JSON object, into `bytes`.
fn parse_line(line: &[u8], bytes: &mut Vec<u8>) -> Result<()> {
    #[derive(Deserialize)]
    struct Object<'a> {
        #[serde(borrow)]
        bytes: Cow<'a, str>,
    }

    ensure!(line.len() <= MAX_LINE, "longer than {MAX_LINE} bytes; put one instruction on a line");
    let line = str::from_utf8(line.trim_ascii()).context("not text; give the bytes in hex")?;
    if line.starts_with('{') {
        match serde_json::from_str::<Object<'_>>(line) {
            Ok(object) => parse_hex(&object.bytes, bytes),
            // Its own message counts lines within this one.
            Err(_) => bail!("not a JSON object with instruction bytes in hex as \"bytes\""),
        }
    } else {
        parse_hex(line, bytes)
    }
}

/// Reads the bytes that `text` spells in hex.
pub(super) fn parse_hex(text: &str, bytes: &mut Vec<u8>) -> Result<()> {
    bytes.clear();
    for word in text.split_ascii_whitespace() {
        let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).unwrap_or(word);
        if let Some(other) = digits.chars().find(|digit| !digit.is_ascii_hexdigit()) {
            bail!("{other:?} is not a hex digit; give instruction bytes such as 8907");
        }
        ensure!(
            digits.len().is_multiple_of(2),
            "odd number of hex digits ({}); give two a byte",
            digits.len()
        );
        bytes.extend(digits.as_bytes().chunks_exact(2).map(|pair| {
            // Both are hex digits.
            pair.iter().fold(0, |byte, &digit| byte << 4 | nibble(digit))
        }));
    }
    ensure!(!bytes.is_empty(), "no bytes; give instruction bytes such as 8907");
    Ok(())
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a' - 10),
    }
}

fn write_insn(bytes: &[u8], out: &mut impl Write) -> Result<()> {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(serialize_with = "collect_str")]
        bytes: Hex<'a>,
        len: Option<u8>,
        kernel: &'static str,
        size: u8,
        survives: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        truncated: bool,
    }

    let Judgement { verdict, len, truncated } = insn::judge(bytes);
    let line = Line {
        bytes: Hex(bytes),
        len,
        kernel: verdict.name(),
        size: verdict.size(),
        survives: verdict.survives(),
        truncated,
    };
    serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
    out.write_all(b"\n")?;
    Ok(())
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn collect_str<S: serde::Serializer>(hex: &Hex<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hex)
}
