//! `tdtrace decode site`: where in the kernel an access came from, and what to think of it.

use std::{path::PathBuf, process::ExitCode, slice};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{
    insn::parse_hex as hex,
    number::{self, GpaWidth, Output},
};
use crate::{
    cli::files::Files,
    decode::{
        bits::Hex,
        gpa::{self, SharedBit, Sharing},
        insn, qualification,
    },
    sites::{
        Place, Site, Sites,
        devices::{Device, Devices},
    },
    verdict::{self, Access, Frame, Target, Verdict, form::Form},
};

/// Say where an access came from: function, module, line with the inlined functions, device, and
/// whether it went through io.h
///
/// PLACE is an address or a function as an oops prints it: name, offset, size, and the module in
/// brackets. It is looked up in the running kernel, or with --vmlinux or --module of another kernel
/// in these files, and then addresses are the files'.
///
/// JSON: "address", "function", "offset", "module", "kernel", "debug_file", "chain" (innermost
/// first: "function", "file", "line"), "bytes", "device", "verdict" ("kind", "evidence", "survives"
/// ("fate", "reason"), "advice"), "notes". What is not known is left out.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(
        required = true,
        value_name = "PLACE",
        help = "Address, or a function such as nvme_poll+0x3c/0x120 [nvme]"
    )]
    place: Vec<String>,
    /// Bytes of the instruction in hex, instead of those found there
    #[arg(long, value_name = "HEX")]
    bytes: Option<String>,
    #[command(flatten)]
    files: Files,
    /// The "Kernel Offset" that an oops prints; taken off an address before it is looked up in files
    #[arg(long, value_name = "BYTES", requires = "vmlinux")]
    kaslr_offset: Option<String>,
    /// Guest physical address that was touched, with its shared bit
    #[arg(long)]
    gpa: Option<String>,
    /// Width of the TD's guest physical addresses, to tell shared from private
    #[arg(long, value_name = "BITS")]
    gpa_width: Option<GpaWidth>,
    /// Guest linear address that was touched
    #[arg(long)]
    gla: Option<String>,
    /// Exit qualification of a port access, instead of what the bytes say
    #[arg(long, value_name = "QUALIFICATION", conflicts_with_all = ["gpa", "gla"])]
    io: Option<String>,
    /// The instruction ran in user mode
    #[arg(long)]
    user: bool,
    /// Look at the machine whose files are below DIR
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<Hex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    module: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chain: Option<Vec<Frame>>,
    bytes: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
    verdict: Verdict,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let place: Place = args.place.join(" ").parse()?;
    let mut bytes = Vec::new();
    if let Some(text) = &args.bytes {
        hex(text, &mut bytes).context("--bytes")?;
    }
    let mut notes = Vec::new();
    let (site, kernel) = find(args, &place, !bytes.is_empty() || args.io.is_some(), &mut notes)?;
    if bytes.is_empty() {
        bytes.clone_from(&site.bytes);
        let length = insn::judge(&bytes).len.map_or(bytes.len(), usize::from);
        bytes.truncate(length);
    }
    let (target, device) = target(args, &bytes, &mut notes)?;
    notes.extend(site.note.clone());
    let access = Access {
        bytes: &bytes,
        target,
        chain: site.chain.as_deref(),
        symbol: site.function.as_deref(),
        user: args.user,
        in_exception_table: site.in_exception_table,
    };
    let verdict = verdict::judge(&access);
    let known = site.address != 0;
    let answer = Answer {
        address: known.then_some(Hex(site.address)),
        offset: site.function.is_some().then_some(Hex(site.offset)),
        function: site.function,
        module: site.module,
        kernel,
        debug_file: site.debug_file,
        chain: site.chain,
        bytes: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        device,
        verdict,
        notes,
    };
    number::print(slice::from_ref(&answer), &args.output, lines)
}

/// The site, and the kernel that it is of. Where nothing can be looked up, the access alone, if it
/// is known, still makes a verdict.
fn find(
    args: &Args,
    place: &Place,
    is_known: bool,
    notes: &mut Vec<String>,
) -> Result<(Site, Option<String>)> {
    let found = open(args).and_then(|mut sites| {
        let place = shift(args, place, &sites)?;
        let site = sites.site(&place)?;
        if !sites.is_live() && matches!(place, Place::Address(_)) && args.kaslr_offset.is_none() {
            notes.push(
                "the address is taken as the file's; one of a kernel with KASLR needs \
                 --kaslr-offset"
                    .into(),
            );
        }
        let kernel = Some(sites.release().to_owned()).filter(|release| !release.is_empty());
        Ok((site, kernel))
    });
    match found {
        Err(error) if is_known => {
            notes.push(format!("{error:#}"));
            let site = match place {
                Place::Address(address) => Site { address: *address, ..Site::default() },
                Place::Symbol { name, offset, module, .. } => Site {
                    function: Some(name.clone()),
                    offset: *offset,
                    module: module.clone(),
                    ..Site::default()
                },
            };
            Ok((site, None))
        }
        found => found,
    }
}

fn open(args: &Args) -> Result<Sites> {
    let options = args.files.options(&args.root);
    let of_running = match (&args.files.vmlinux, args.kaslr_offset.is_some()) {
        (Some(path), false) => Sites::is_running(&args.root, path)?,
        (Some(_), true) => false,
        (None, _) => args.files.module.is_empty(),
    };
    if of_running { Sites::running(options) } else { Sites::of_files(options) }
}

/// The place as files have it.
fn shift(args: &Args, place: &Place, sites: &Sites) -> Result<Place> {
    let offset = args.kaslr_offset.as_deref().map(number::parse).transpose()?;
    Ok(match (place, offset) {
        (Place::Address(address), Some(offset)) if !sites.is_live() => {
            Place::Address(address.wrapping_sub(offset))
        }
        _ => place.clone(),
    })
}

/// What was touched, and the device there.
fn target(args: &Args, bytes: &[u8], notes: &mut Vec<String>) -> Result<(Target, Option<Device>)> {
    let optional = |text: &Option<String>| text.as_deref().map(number::parse).transpose();
    if let Some(value) = optional(&args.io)? {
        let io = qualification::io(value);
        let device = Devices::read(&args.root).at_port(io.port);
        return Ok((Target::Port(Some(io)), Some(device)));
    }
    let (value, gla) = (optional(&args.gpa)?, optional(&args.gla)?);
    if value.is_none() && gla.is_none() && Form::of(bytes).is_port() {
        return Ok((Target::Port(None), None));
    }
    let Some(value) = value else {
        return Ok((Target::Memory { gla, sharing: Sharing::Unknown, ram: false }, None));
    };
    let shared_bit: Option<SharedBit> = args.gpa_width.map(Into::into);
    let mut sharing = gpa::gpa(value, shared_bit).sharing;
    // Addresses copied from elsewhere have no shared bit; only a known width makes it private.
    if sharing == Sharing::Private && shared_bit.is_none() {
        sharing = Sharing::Unknown;
    }
    let devices = Devices::read(&args.root);
    notes.extend(devices.note.clone());
    let device = devices.at(gpa::without_shared_bit(value, shared_bit));
    let ram = device.ram && sharing != Sharing::Private;
    Ok((Target::Memory { gla, sharing, ram }, Some(device)))
}

fn lines(answer: &Answer) -> Vec<String> {
    let verdict = &answer.verdict;
    let mut lines = vec![format!("{}: {}", place(answer), verdict.kind.name())];
    let mut add = |name: &str, text: String| lines.push(format!("{name:<9}{text}"));
    if let Some(address) = answer.address {
        let kernel = answer.kernel.as_ref().map_or(String::new(), |name| format!(" of {name}"));
        add("address", format!("{address}{kernel}"));
    }
    for (number, frame) in answer.chain.iter().flatten().enumerate() {
        let at = match (&frame.file, frame.line) {
            (Some(file), Some(line)) => format!(" {file}:{line}"),
            (Some(file), None) => format!(" {file}"),
            _ => String::new(),
        };
        let name = if number == 0 { "chain" } else { "" };
        let arrow = if number == 0 { "" } else { "← " };
        add(name, format!("{arrow}{}{at}", frame.function));
    }
    if !answer.bytes.is_empty() {
        add("bytes", answer.bytes.clone());
    }
    if let Some(device) = &answer.device {
        add("device", format!("{} {}", device.address, device.line()));
    }
    for (number, sentence) in verdict.evidence.iter().enumerate() {
        add(if number == 0 { "evidence" } else { "" }, sentence.clone());
    }
    let survives = &verdict.survives;
    add("survives", format!("{}: {}", survives.fate.name(), survives.reason));
    add("advice", verdict.advice.clone());
    for note in &answer.notes {
        add("note", note.clone());
    }
    lines
}

fn place(answer: &Answer) -> String {
    let module = answer.module.as_ref().map_or(String::new(), |module| format!(" [{module}]"));
    match (&answer.function, answer.offset, answer.address) {
        (Some(function), Some(offset), _) => format!("{function}+{offset}{module}"),
        (_, _, Some(address)) => format!("{address}{module}"),
        _ => "unknown place".into(),
    }
}
