//! `tdtrace guest stat --replay` on recordings that are whole, cut, damaged and a host's. No privilege
//! needed.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output},
};

use tempfile::NamedTempFile;

const GUEST: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recording/v1-td-guest.tdtrace");
const HOST: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recording/v1-tdx-host.tdtrace");

fn tdtrace(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tdtrace")).args(arguments).output().expect("tdtrace starts")
}

fn stat(arguments: &[&str]) -> Output {
    tdtrace(&[&["guest", "stat"][..], arguments].concat())
}

fn replay(recording: &[u8]) -> Output {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(recording).expect("room for it");
    stat(&["--json", "--replay", file.path().to_str().expect("a path in UTF-8")])
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

#[test]
fn a_guests_recording_of_version_1_is_printed_as_ever() {
    let json = stat(&["--json", "--replay", GUEST]);
    assert!(json.status.success() && stderr(&json).is_empty(), "{json:?}");
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    insta::assert_snapshot!("v1-td-guest.json", format!("{json:#}"));
    let text = stat(&["--replay", GUEST]);
    assert!(text.status.success() && stderr(&text).is_empty(), "{text:?}");
    insta::assert_snapshot!("v1-td-guest.txt", stdout(&text));
}

#[test]
fn of_a_cut_recording_the_last_whole_sample_is_printed_and_the_rest_is_told() {
    let recording = fs::read(GUEST).expect("the fixture");
    let output = replay(&recording[..recording.len() - 500]);
    assert!(output.status.success(), "{output:?}");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["at_s"], 3.011_000_007);
    assert!(stderr(&output).contains("the recording ends in the middle of a batch: "));
}

#[test]
fn of_a_damaged_recording_what_is_before_the_damage_is_printed_and_it_fails() {
    let mut recording = fs::read(GUEST).expect("the fixture");
    let last = recording.len() - 500;
    recording[last] ^= 0x10;
    let output = replay(&recording);
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["at_s"], 3.011_000_007);
    assert!(stderr(&output).contains("the recording is damaged at byte "), "{output:?}");
}

#[test]
fn the_command_of_the_other_side_is_named_in_one_sentence() {
    let output = stat(&["--replay", HOST]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "tdtrace: {HOST}: this is the recording of a host; show it with `tdtrace top --replay \
         FILE`\n"
    );
    assert_eq!(stderr(&output), expected);
}

#[test]
fn what_has_no_meaning_for_a_recording_is_wrong_usage() {
    for option in [
        &["--guest"][..],
        &["--max-places", "5"],
        &["--vmlinux", "/boot/vmlinux"],
        &["--events", "-"],
        &["--", "true"],
    ] {
        let output = stat(&[&["--replay", GUEST][..], option].concat());
        assert_eq!(output.status.code(), Some(2), "{option:?}");
    }
}
