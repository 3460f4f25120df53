//! `tdtrace decode insn` and its decoder against verdicts of the kernel's own decoder.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{Read as _, Write as _},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tdtrace::decode::insn::{self, Verdict};

const ORACLE: &str = include_str!("fixtures/insn/mmio-insn.jsonl");
const EDGES: &str = include_str!("fixtures/insn/kernel-edges.jsonl");

fn cases(fixture: &str) -> impl Iterator<Item = (Vec<u8>, Value)> {
    fixture.lines().map(|line| {
        let case: Value = serde_json::from_str(line).unwrap();
        let hex = case["bytes"].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        ((0..hex.len()).step_by(2).map(byte).collect(), case)
    })
}

#[test]
fn agrees_with_the_kernel_on_every_instruction_of_its_image() {
    let mut count = 0;
    for (bytes, case) in cases(ORACLE) {
        let judgement = insn::judge(&bytes);
        assert_eq!(judgement.verdict.name(), case["kernel"], "{case}");
        assert_eq!(judgement.verdict.size(), case["size"], "{case}");
        let len = u64::from(judgement.len.unwrap_or(0));
        let known = case["len"].as_u64().unwrap();
        if known > bytes.len() as u64 {
            assert!(judgement.truncated && len > bytes.len() as u64, "{case}");
        } else {
            assert_eq!(len, known, "{case}");
        }
        count += 1;
    }
    assert_eq!(count, 2057);
}

#[test]
fn agrees_with_the_kernel_on_what_no_compiler_emits() {
    let mut count = 0;
    for (bytes, case) in cases(EDGES) {
        let decoded = insn::decode(&bytes);
        let verdict = Verdict::of(&decoded);
        assert_eq!(verdict.name(), case["kernel"], "{case}");
        assert_eq!(verdict.size(), case["size"], "{case}");
        assert_eq!(decoded.ok().map(|insn| u64::from(insn.len)), case["len"].as_u64(), "{case}");
        count += 1;
    }
    assert_eq!(count, 3623);
}

fn decode_insn(args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tdtrace"))
        .args(["decode", "insn"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // It may stop reading at a bad line.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap()
}

#[test]
fn prints_one_object_an_argument() {
    let output = decode_insn(&["8907", "0x48 8B 07", "0f01c1", "6562"], b"");
    assert_eq!(
        text(&output.stdout),
        r#"{"bytes":"8907","len":2,"kernel":"WRITE","size":4,"survives":true}
{"bytes":"488b07","len":3,"kernel":"READ","size":8,"survives":true}
{"bytes":"0f01c1","len":3,"kernel":"FAILED","size":0,"survives":false}
{"bytes":"6562","len":null,"kernel":"UNDECODABLE","size":0,"survives":false,"truncated":true}
"#
    );
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn reads_lines_of_hex_and_of_json_and_skips_blank_ones() {
    let input = b"\n  0x66 0xc7 0x07 0x01 0x00 \n\n{\"bytes\":\"a4\",\"asm\":\"movsb\"}\r\n0fb607";
    for args in [&[][..], &["-"]] {
        let output = decode_insn(args, input);
        assert_eq!(
            text(&output.stdout),
            r#"{"bytes":"66c7070100","len":5,"kernel":"WRITE_IMM","size":2,"survives":true}
{"bytes":"a4","len":1,"kernel":"MOVS","size":1,"survives":false}
{"bytes":"0fb607","len":3,"kernel":"READ_ZX","size":1,"survives":true}
"#
        );
        assert!(output.status.success());
    }
}

#[test]
fn takes_the_oracle_as_it_is() {
    let output = decode_insn(&[], ORACLE.as_bytes());
    assert!(output.status.success());
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 2057);
    for ((_, case), line) in cases(ORACLE).zip(lines) {
        let line: Value = serde_json::from_str(line).unwrap();
        for field in ["bytes", "kernel", "size"] {
            assert_eq!(line[field], case[field], "{case}");
        }
    }
}

#[test]
fn decodes_no_more_than_15_bytes_of_a_longer_buffer() {
    let prefixes = "66".repeat(14);
    let output =
        decode_insn(&[&format!("{prefixes}8907"), "8907ffffffffffffffffffffffffffffff"], b"");
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["kernel"], "UNDECODABLE");
    assert_eq!((&lines[0]["len"], lines[0].get("truncated")), (&Value::Null, None));
    assert_eq!((&lines[1]["kernel"], &lines[1]["len"]), (&"WRITE".into(), &2.into()));
}

#[test]
fn stops_at_the_first_bad_line_and_names_it() {
    let long = "0".repeat(70_000);
    for (bad, message) in [
        ("89 zz", "'z' is not a hex digit; give instruction bytes such as 8907"),
        ("890", "odd number of hex digits (3); give two a byte"),
        ("0x", "no bytes; give instruction bytes such as 8907"),
        ("{\"len\":1}", "not a JSON object with instruction bytes in hex as \"bytes\""),
        ("{\"bytes\":", "not a JSON object with instruction bytes in hex as \"bytes\""),
        (&long, "longer than 65536 bytes; put one instruction on a line"),
    ] {
        let output = decode_insn(&[], format!("8907\n\n{bad}\n8907\n").as_bytes());
        assert_eq!(text(&output.stdout).lines().count(), 1, "{bad:.20}");
        assert_eq!(text(&output.stderr), format!("tdtrace: line 3: {message}\n"));
        assert_eq!(output.status.code(), Some(1));
    }
    let output = decode_insn(&["8907", "xy"], b"");
    assert!(text(&output.stderr).starts_with("tdtrace: argument 2: 'x' is not a hex digit"));
    assert_eq!((output.status.code(), text(&output.stdout).lines().count()), (Some(1), 1));
}

#[test]
fn refuses_lines_that_are_not_text() {
    let output = decode_insn(&[], b"\xff\xfe\n");
    assert!(text(&output.stderr).starts_with("tdtrace: line 1: not text; give the bytes in hex"));
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn answers_a_line_before_the_next_one_arrives() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tdtrace"))
        .args(["decode", "insn"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let answer =
        b"{\"bytes\":\"8907\",\"len\":2,\"kernel\":\"WRITE\",\"size\":4,\"survives\":true}\n";
    for _ in 0..2 {
        stdin.write_all(b"8907\n").unwrap();
        let mut got = vec![0; answer.len()];
        stdout.read_exact(&mut got).unwrap();
        assert_eq!(text(&got), text(answer));
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn ends_quietly_when_its_reader_has_enough() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tdtrace"))
        .args(["decode", "insn"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stdin = child.stdin.take().unwrap();
    drop(stdin.write_all("8907\n".repeat(100_000).as_bytes()));
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}
