//! Verdicts on sites of a real kernel, and `tdtrace decode site`.
//!
//! `fixtures/sites/sites.jsonl` is what `examples/verdict_kernel` picked from Debian's 6.12.117: one
//! site of each accessor and one of each form of the others, with what binutils say of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tdtrace::{
    decode::insn,
    verdict::{self, Access, Frame},
};

const SITES: &str = include_str!("fixtures/sites/sites.jsonl");

struct Case {
    bytes: Vec<u8>,
    chain: Vec<Frame>,
    json: Value,
}

fn cases() -> impl Iterator<Item = Case> {
    SITES.lines().map(|line| {
        let json: Value = serde_json::from_str(line).unwrap();
        let hex = json["bytes"].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let bytes = (0..hex.len()).step_by(2).map(byte).collect();
        let frame = |frame: &Value| Frame {
            function: frame["function"].as_str().unwrap().into(),
            file: frame["file"].as_str().map(Into::into),
            line: frame["line"].as_u64().and_then(|line| u32::try_from(line).ok()),
        };
        let chain = json["chain"].as_array().unwrap().iter().map(frame).collect();
        Case { bytes, chain, json }
    })
}

#[test]
fn every_site_of_the_kernel_is_judged_right() {
    let mut kinds = BTreeSet::new();
    let mut count = 0;
    for Case { bytes, chain, json } in cases() {
        let verdict = verdict::judge(&Access::of(&bytes, Some(&chain)));
        assert_eq!(verdict.kind.name(), json["truth"], "{json}");
        assert_eq!(insn::judge(&bytes).verdict.name(), json["kernel"], "{json}");
        kinds.insert(verdict.kind);
        count += 1;
    }
    assert!(count >= 60 && kinds.len() == 7, "{count} sites of {kinds:?}");
}

#[test]
fn without_a_chain_a_site_is_undecided_or_judged_right() {
    let mut proven = 0;
    for Case { bytes, json, .. } in cases() {
        let kind = verdict::judge(&Access::of(&bytes, None)).kind.name();
        assert_eq!(kind, json["without"], "{json}");
        assert!(kind == "undecided" || kind == json["truth"], "{json}");
        proven += usize::from(kind != "undecided");
    }
    assert!(proven > 10, "{proven}");
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sites").join(name)
}

fn decode_site(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tdtrace"))
        .args(["decode", "site"])
        .args(args)
        .output()
        .unwrap()
}

/// A machine without anything to look into.
fn nowhere() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_place_of_an_oops_is_found_in_files() {
    let (vmlinux, module) = (fixture("vmlinux"), fixture("acme.ko"));
    let files = ["--vmlinux", vmlinux.to_str().unwrap(), "--module", module.to_str().unwrap()];
    let output = decode_site(&[&files[..], &["acme_poll+0x0/0x7", "[acme]"]].concat());
    assert_eq!(
        text(&output.stdout),
        "\
acme_poll+0x0 [acme]: io.h accessor
  address  0x101000 of 6.12.0-acme
  chain    readl arch/x86/include/asm/io.h:6
           ← acme_status drivers/net/acme.c:10
           ← acme_poll drivers/net/acme.c:15
  bytes    8b4704
  evidence readl is in the chain readl ← acme_status ← acme_poll: an accessor of io.h \
           (arch/x86/include/asm/io.h:59 of Linux 6.12.117, emits 8B), here at \
           arch/x86/include/asm/io.h:6.
  survives yes: the kernel emulates it as READ of 4 bytes, unless it crosses a page
  advice   nothing to change; fewer accesses are faster, each is a #VE and a TDVMCALL
"
    );
    let isr = json(&decode_site(&[&files[..], &["--json", "acme_isr [acme]"]].concat()));
    assert_eq!(isr["verdict"]["kind"], "pointer dereference");
    assert_eq!(isr["chain"][0]["line"], 20);
}

#[test]
fn an_address_of_an_oops_is_shifted_by_its_kernel_offset() {
    let vmlinux = fixture("vmlinux");
    let vmlinux = vmlinux.to_str().unwrap();
    let offset = ["0xffffffffa1000010", "--kaslr-offset", "0x20000000", "--json"];
    let site = json(&decode_site(&[&offset[..], &["--vmlinux", vmlinux]].concat()));
    assert_eq!(
        (&site["function"], &site["chain"][0]["function"]),
        (&"core_read".into(), &"readl".into())
    );
    let plain = json(&decode_site(&["0xffffffff81000010", "--vmlinux", vmlinux, "--json"]));
    assert!(plain["notes"][0].as_str().unwrap().contains("--kaslr-offset"));
}

#[test]
fn bytes_alone_make_a_verdict_where_nothing_can_be_looked_up() {
    let root = nowhere();
    let root = ["--root", root.path().to_str().unwrap(), "--json"];
    let test = ["acme_isr+0x3c", "--bytes", "f7 47 14 01 00 00 00"];
    let site = json(&decode_site(&[&root[..], &test].concat()));
    assert_eq!(site["verdict"]["kind"], "pointer dereference");
    assert_eq!(site["verdict"]["survives"]["fate"], "fatal");
    assert_eq!((&site["function"], &site["offset"]), (&"acme_isr".into(), &"0x3c".into()));
    assert!(site["notes"][0].as_str().unwrap().contains("/proc/kallsyms"));
    let without = decode_site(&[&root[..], &["acme_isr+0x3c"]].concat());
    assert_eq!(without.status.code(), Some(1));
    assert!(text(&without.stderr).starts_with("tdtrace: /proc/kallsyms cannot be read"));
}

#[test]
fn the_device_and_the_page_count() {
    let root = nowhere();
    fs::create_dir(root.path().join("proc")).unwrap();
    fs::write(root.path().join("proc/iomem"), "fec00000-fec003ff : IOAPIC 0\n").unwrap();
    let root = ["--root", root.path().to_str().unwrap(), "--json", "x", "--bytes", "8b4704"];
    let gpa = ["--gpa", "0x80000fec00010", "--gla", "0xffffffffff5fc010"];
    let site = json(&decode_site(&[&root[..], &gpa].concat()));
    assert_eq!(
        (&site["device"]["known"], &site["device"]["address"]),
        (&"I/O APIC".into(), &"0xfec00010".into())
    );
    assert_eq!(site["verdict"]["survives"]["fate"], "emulated");
    let split = ["--gpa", "0x80000fec00ffe", "--gla", "0xffffffffff5fcffe"];
    let site = json(&decode_site(&[&root[..], &split].concat()));
    assert_eq!(site["verdict"]["survives"]["fate"], "fatal");
    let private = ["--gpa", "0xfec00010", "--gpa-width", "52"];
    let site = json(&decode_site(&[&root[..], &private].concat()));
    assert_eq!(site["verdict"]["survives"]["fate"], "panic");
    let port = json(&decode_site(&[&root[..4], &["--io", "0x3f80038"]].concat()));
    assert_eq!(
        (&port["verdict"]["kind"], &port["device"]["known"]),
        (&"string port I/O".into(), &"COM1".into())
    );
}

#[test]
fn bad_arguments_are_named() {
    let root = nowhere();
    let root = root.path().to_str().unwrap();
    for (args, message) in [
        (&["4 5"][..], "\"4 5\" is no place in the kernel"),
        (&["x", "--bytes", "xy"], "--bytes: 'x' is not a hex digit"),
        (&["x", "--vmlinux", "/nonexistent"], "/nonexistent cannot be opened"),
        (&["x", "--vmlinux", "/dev/null"], "/dev/null is no file with something in it"),
        (&["x", "--bytes", "90", "--gpa", "zz"], "\"zz\" is not a number"),
    ] {
        let output = decode_site(&[&["--root", root][..], args].concat());
        assert_eq!(output.status.code(), Some(1));
        let error = text(&output.stderr);
        assert!(error.starts_with(&format!("tdtrace: {message}")), "{error}");
    }
    let module = fixture("acme.ko");
    let output = decode_site(&["x", "--vmlinux", module.to_str().unwrap()]);
    assert!(text(&output.stderr).contains("is a module and no vmlinux"));
}
