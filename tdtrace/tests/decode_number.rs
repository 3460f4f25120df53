//! `tdtrace decode` for numbers, from arguments to text and JSON.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const KINDS: [&str; 6] = ["exit", "qualification", "tdvmcall", "status", "pferr", "ve"];

fn decode(args: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tdtrace"))
        .arg("decode")
        .args(args.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(args: &str) -> String {
    let output = decode(args);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(args: &str) -> Vec<Value> {
    let args = format!("{args} --json");
    text(&args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_status_names_class_operand_and_what_kvm_does() {
    let text = text("status 0x8000_0200_0000_0092");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["0x8000020000000092: OPERAND_BUSY, error", "  operand: 0x92 SEPT"]);
    assert!(lines[2].starts_with("  kernel: from VP.ENTER: KVM enters again"));
    let statuses = json("status 0x8000020000000092 77");
    assert_eq!(statuses[0]["operand"], json!({"number": 0x92, "name": "SEPT"}));
    assert_eq!(
        (&statuses[0]["class"], &statuses[0]["error"], &statuses[0]["non_recoverable"]),
        (&json!("error"), &json!(true), &json!(false))
    );
    assert_eq!(statuses[1]["exit"]["name"], "TDCALL");
    assert!(statuses[1].get("operand").is_none());
}

#[test]
fn details_of_a_status_show_level_and_state() {
    let text = text("status 0xc0000b0d00000001 --details 0x20401 --leaf 0x10006");
    assert_eq!(
        text,
        "0xc0000b0d00000001: EPT_ENTRY_STATE_INCORRECT, non-recoverable\n  \
         leaf: 6 TDH.MEM.PAGE.AUG, version 1\n  operand: 0x1 RCX\n  \
         S-EPT entry: level 1 (2 MiB), state 4 PRESENT, unknown bits 0x20000\n"
    );
    let output = decode("status 1 2 --details 0");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "tdtrace: --details belongs to one status, not to 2; decode them one by one\n"
    );
}

#[test]
fn exits_are_named_whatever_the_number_looks_like() {
    let forms = json("exit 0x30 48 0b11_0000");
    assert_eq!(forms.len(), 3);
    assert!(forms.iter().all(|exit| exit == &forms[0] && exit["name"] == "EPT_VIOLATION"));
    let flagged = &json("exit 0x8001001b")[0];
    assert_eq!(flagged["flags"], json!(["failed-entry"]));
    assert_eq!(flagged["unknown_bits"], "0x10000");
    assert_eq!(text("exit --svm 0x400 9"), "0x400: NPF\n0x9: unknown\n");
    assert!(text("exit 49").contains("TDVMCALL MMIO"));
}

#[test]
fn qualifications_are_taken_apart_by_reason() {
    assert_eq!(text("qualification --reason io 0x3f80008"), "0x3f80008: in port 0x3f8, 1 byte\n");
    assert_eq!(text("qualification --reason cr 0x103"), "0x103: mov-to cr3, rcx\n");
    assert_eq!(
        text("qualification --reason ept 0x8000000000000081"),
        "0x8000000000000081: read gla-valid, unknown bits 0x8000000000000000\n"
    );
    assert_eq!(json("qualification --reason io 0x3f80008")[0]["port"], 0x3f8);
}

#[test]
fn a_tdvmcall_is_named_with_its_arguments() {
    let call = &json("tdvmcall 0 0x10001 0x800010000000 0x200000 --status 1 --gpa-width 48")[0];
    assert_eq!((&call["name"], &call["leaf"]), (&json!("MapGPA"), &json!("0x10001")));
    assert_eq!(
        call["arguments"],
        json!([
            {"name": "start", "register": "r12", "value": "0x800010000000",
             "meaning": "to shared", "sharing": "shared"},
            {"name": "size", "register": "r13", "value": "0x200000",
             "meaning": "512 pages of 4 KiB"},
        ])
    );
    assert_eq!(call["status"]["name"], "RETRY");
    let unsure = text("tdvmcall 0 0x10001 0x800010000000 0x200000");
    assert!(unsure.contains("to shared if guest physical addresses are 48 bits wide"), "{unsure}");
    let unknown = text("tdvmcall 0 0x10006 7");
    assert!(unknown.starts_with("TDVMCALL 0x10006 (65542): unknown\n  r12 0x7 without a meaning"));
    assert!(text("tdvmcall 0 48 4").contains("not given: r13 r14 r15"));
}

#[test]
fn a_ve_tells_its_fate_and_the_tdvmcall_that_follows() {
    let ve = &json("ve 48 2 0xffffc90000000000 0x80000fee00000 0x700000003")[0];
    assert_eq!((&ve["fate"], &ve["tdvmcall"]["name"]), (&json!("depends"), &json!("MMIO")));
    assert_eq!(ve["gpa"], json!({"value": "0x80000fee00000", "sharing": "shared"}));
    assert_eq!(ve["instruction"], json!({"length": 3, "info": "0x7"}));
    let user = text("ve 30 0x3f80010 --user");
    assert!(user.starts_with("#VE 30 IO_INSTRUCTION in user mode\n"), "{user}");
    assert!(user.contains("SIGSEGV") && user.ends_with("tdvmcall: none\n"), "{user}");
}

#[test]
fn an_error_code_is_spelt_out() {
    assert_eq!(
        text("pferr 0x2000200100002"),
        "0x2000200100002: write guest-page private-access, \
         unknown bits 0x100000\n"
    );
    assert_eq!(json("pferr 0")[0], json!({"value": "0x0", "flags": []}));
}

#[test]
fn a_bad_number_is_named_in_one_sentence_and_nothing_else_is_printed() {
    for args in [
        "exit 48 dead",
        "exit --svm dead",
        "qualification --reason ept dead",
        "tdvmcall 0 dead",
        "tdvmcall 0 48 --status dead",
        "status 0 dead",
        "status 0 --leaf dead",
        "status 0 --details dead",
        "pferr dead",
        "ve 48 dead",
        "ve 48 0 0 0 dead",
    ] {
        let output = decode(args);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{args}");
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            "tdtrace: \"dead\" is not a number; give decimal digits, 0x and hex or 0b\n",
            "{args}"
        );
    }
    let output = decode("exit 0x100000000");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("\"0x100000000\" does not fit into 32 bits; "), "{error}");
}

#[test]
fn help_names_every_json_field_at_the_top() {
    let group = text("--help");
    let examples = [
        json("exit 0x8001001b"),
        json("qualification --reason io 0x3f80088"),
        json("tdvmcall 0 0x10003 0 0 0x41 --status 0"),
        json("status 0x8001020000000092 --leaf 6 --details 0"),
        json("pferr 0x100001"),
        json("ve 48 2 0 0 0"),
    ];
    let docs = include_str!("../../docs/decode.md");
    for (kind, example) in KINDS.into_iter().zip(examples) {
        assert!(group.contains(kind), "{group}");
        let help = text(&format!("{kind} --help"));
        for field in example[0].as_object().unwrap().keys() {
            assert!(help.contains(&format!("\"{field}\"")), "{kind} --help lacks {field}");
            assert!(docs.contains(&format!("`{field}`")), "docs/decode.md lacks {field}");
        }
    }
}
