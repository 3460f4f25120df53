//! `tdtrace check` where there is no TD to look at: what it refuses, and with which exit code.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn check(arguments: &[&str]) -> Output {
    let tdtrace = env!("CARGO_BIN_EXE_tdtrace");
    Command::new(tdtrace).arg("check").args(arguments).output().expect("tdtrace is built")
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("directories of tests are text")
}

#[test]
fn outside_of_a_td_it_fails_in_one_sentence_and_does_not_run_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    let output = check(&["--", "touch", text(&made)]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "tdtrace: this is not a TDX guest; use --guest to attach anyway\n";
    assert_eq!(error(&output), expected);
    assert!(output.stdout.is_empty() && !made.exists());
}

#[test]
fn one_of_time_and_command_has_to_be_given_and_not_both() {
    for arguments in [&[][..], &["--for", "1s", "--", "true"], &["--for", "0"], &["--for", "x"]] {
        assert_eq!(check(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn what_is_neither_severity_nor_rule_is_wrong_usage() {
    let output = check(&["--fail-on", "fatal", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("`fatal` is neither a severity nor a rule"));
}

#[test]
fn a_mistake_in_an_allowlist_is_wrong_usage_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("allow.toml");
    for (contents, expected) in [
        (&b"[[allow]]\nsymbol = \"f\"\n"[..], ":1: an entry needs `reason"),
        (b"[[allow]]\nreason = \"x\"\nsymbl = \"f\"\n", ":3: `symbl` is not known"),
        (b"# good\n\xff\n", ":2: it is no UTF-8 text"),
    ] {
        fs::write(&list, contents).unwrap();
        let output = check(&["--guest", "--allow", text(&list), "--", "true"]);
        assert_eq!(output.status.code(), Some(2));
        let error = error(&output);
        assert!(error.contains(&format!("{}{expected}", list.display())), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let output = check(&["--allow", "/nowhere/allow.toml", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("/nowhere/allow.toml cannot be read"));
}

#[test]
fn an_allowlist_that_does_not_end_is_not_read_to_its_end() {
    let output = check(&["--allow", "/dev/zero", "--", "true"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(error(&output).contains("/dev/zero:1: it has more than 1048576 bytes"));
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_anything_runs() {
    for option in ["--output", "--sarif", "--junit", "--json"] {
        let output = check(&["--guest", option, "/nowhere/at/all", "--", "true"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(error(&output).contains("/nowhere/at/all cannot be written"), "{}", error(&output));
    }
}

#[test]
fn the_rules_are_listed_with_what_to_do_and_need_no_guest() {
    let output = check(&["--rules"]);
    assert_eq!(output.status.code(), Some(0));
    let rules = String::from_utf8(output.stdout).unwrap();
    assert!(rules.contains("non-io-mmio (warning): MMIO around io.h\n"), "{rules}");
    assert!(rules.contains("readl(), writel()"), "{rules}");
}

#[test]
fn the_exit_codes_are_in_the_help() {
    let output = check(&["--help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("Exit codes: 0 nothing, 1 tdtrace failed, 2 wrong usage"), "{help}");
    assert!(help.contains("3 findings, 4 COMMAND failed, 5 something was lost"), "{help}");
}

const RECORDING: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recording/v1-td-guest.tdtrace");

#[test]
fn a_recording_is_judged_without_privilege_and_its_findings_are_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let [sarif, junit] = ["sarif", "junit"].map(|name| directory.path().join(name));
    let output = check(&[
        "--replay",
        RECORDING,
        "--allow-losses",
        "--fail-on",
        "note",
        "--format",
        "json",
        "--sarif",
        text(&sarif),
        "--junit",
        text(&junit),
    ]);
    assert_eq!(output.status.code(), Some(3), "{}", error(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["exit_code"], 3);
    let findings = json["findings"].as_array().unwrap();
    assert!(!findings.is_empty());
    let sarif: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(sarif).unwrap()).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let rules = |list: &[serde_json::Value], name: &str| {
        list.iter().map(|of| of[name].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rules(results, "ruleId"), rules(findings, "rule"));
    assert!(fs::read_to_string(junit).unwrap().contains("<failure "));
}

#[test]
fn an_allowlist_lets_a_recording_pass_and_an_expired_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let list = directory.path().join("allow.toml");
    let found = check(&["--replay", RECORDING, "--allow-losses", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let mut rules: Vec<&str> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| of["rule"].as_str().unwrap())
        .collect();
    rules.dedup();
    for (day, code) in [("9999-12-31", 0), ("2020-01-01", 3)] {
        let entry = format!("[[allow]]\nrule = {rules:?}\nreason = \"known\"\nexpires = {day}\n");
        fs::write(&list, entry).unwrap();
        let output = check(&[
            "--replay",
            RECORDING,
            "--allow-losses",
            "--fail-on",
            "note",
            "--allow",
            text(&list),
        ]);
        let printed = String::from_utf8(output.stdout.clone()).unwrap();
        assert_eq!(output.status.code(), Some(code), "{printed}{}", error(&output));
        assert_eq!(printed.contains("expired after 2020-01-01"), code == 3, "{printed}");
    }
}

#[test]
fn a_recording_that_is_cut_off_is_an_incomplete_check() {
    let directory = tempfile::tempdir().unwrap();
    let cut = directory.path().join("cut.tdtrace");
    let whole = fs::read(RECORDING).unwrap();
    fs::write(&cut, &whole[..whole.len() - 20]).unwrap();
    let output = check(&["--replay", text(&cut), "--fail-on", "never"]);
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(output.status.code(), Some(5), "{printed}{}", error(&output));
    assert!(printed.contains("lost: "), "{printed}");
    let output = check(&["--replay", text(&cut), "--fail-on", "never", "--allow-losses"]);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_recording_of_a_host_is_refused() {
    let host = RECORDING.replace("td-guest", "tdx-host");
    let output = check(&["--replay", &host]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(error(&output).lines().count(), 1, "{}", error(&output));
}
