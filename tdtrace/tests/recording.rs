//! `tdtrace top --replay` on recordings that are whole, cut, damaged, newer and none at all. No
//! privilege needed.

use std::{
    fs,
    io::Write as _,
    process::{Command, Output},
};

use tempfile::NamedTempFile;

const FIXTURE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recording/v1-tdx-host.tdtrace");

fn top(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tdtrace"))
        .args(["top", "--batch"])
        .args(arguments)
        .output()
        .expect("tdtrace starts")
}

fn replay(recording: &[u8]) -> Output {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(recording).expect("room for it");
    top(&["--json", "--replay", file.path().to_str().expect("a path in UTF-8")])
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

fn fixture() -> Vec<u8> {
    fs::read(FIXTURE).expect("the fixture")
}

#[test]
fn a_recording_of_version_1_is_shown_as_ever() {
    let output = top(&["--json", "--replay", FIXTURE]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stderr(&output), "");
    insta::assert_snapshot!("v1-tdx-host.jsonl", stdout(&output));
}

#[test]
fn a_replay_as_text_ends_after_as_many_snapshots_as_asked_for() {
    let output = top(&["--replay", FIXTURE, "-n", "2"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output).matches("tdtrace ").count(), 2);
    assert!(stdout(&output).contains("td-database"));
}

#[test]
fn of_a_cut_recording_everything_whole_is_shown_and_the_rest_is_told() {
    let recording = fixture();
    let whole = top(&["--json", "--replay", FIXTURE]);
    let output = replay(&recording[..recording.len() - 500]);
    assert!(output.status.success(), "{output:?}");
    let lines: Vec<&str> = stdout(&whole).lines().collect();
    assert_eq!(stdout(&output).lines().collect::<Vec<_>>(), lines[..lines.len() - 1]);
    let told = stderr(&output);
    assert!(told.contains("the recording ends in the middle of a batch: "), "{told}");
    assert!(told.ends_with(" bytes were not read\n"), "{told}");
}

#[test]
fn of_a_damaged_recording_everything_before_the_damage_is_shown_and_it_fails() {
    let mut recording = fixture();
    let last = recording.len() - 500;
    recording[last] ^= 0x10;
    let output = replay(&recording);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output).lines().count(), 4);
    let told = stderr(&output);
    assert!(told.contains("the recording is damaged at byte "), "{told}");
    assert!(told.contains("its checksum is wrong; what comes before it is intact"), "{told}");
}

#[test]
fn what_is_no_recording_is_refused_in_one_sentence() {
    for (bytes, why) in [
        (&b""[..], "this is not a recording of tdtrace: the file is empty; give a file"),
        (b"# a text\n", "this is not a recording of tdtrace: it does not begin with an Arrow"),
        (&fixture()[..50], "this is not a recording of tdtrace: it ends within its first message"),
        (&fixture()[..2000], "there is no whole sample in it"),
    ] {
        let output = replay(bytes);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stdout(&output), "");
        let told = stderr(&output);
        assert!(told.starts_with("tdtrace: ") && told.contains(why), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    let output = top(&["--replay", "/no/such/recording"]);
    assert!(stderr(&output).contains("/no/such/recording cannot be opened"), "{output:?}");
}

#[test]
fn what_has_no_meaning_for_a_recording_is_wrong_usage() {
    for option in [&["--delay", "2"][..], &["--max-vcpus", "5"], &["--debug-ebpf"]] {
        let output = top(&[&["--replay", FIXTURE][..], option].concat());
        assert_eq!(output.status.code(), Some(2), "{option:?}");
    }
}
