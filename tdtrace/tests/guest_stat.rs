//! `tdtrace guest stat` where there is no TD to look at.

use std::process::{Command, Output};

fn guest_stat(arguments: &[&str]) -> std::io::Result<Output> {
    Command::new(env!("CARGO_BIN_EXE_tdtrace")).args(["guest", "stat"]).args(arguments).output()
}

#[test]
fn outside_of_a_td_it_says_so_in_one_sentence_and_does_not_run_the_command() {
    let directory = tempfile::tempdir().unwrap();
    let made = directory.path().join("made");
    let output = guest_stat(&["--", "touch", made.to_str().unwrap()]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = "tdtrace: this is not a TDX guest; use --guest to attach anyway\n";
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    assert!(output.stdout.is_empty() && !made.exists());
}

#[test]
fn a_result_that_cannot_be_written_is_refused_before_anything_runs() {
    for option in ["--output", "--events"] {
        let output = guest_stat(&["--guest", option, "/nowhere/at/all", "--", "true"]).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("/nowhere/at/all cannot be written"), "{error}");
    }
}

#[test]
fn a_shared_bit_that_no_address_has_is_wrong_usage() {
    assert_eq!(guest_stat(&["--shared-bit", "64"]).unwrap().status.code(), Some(2));
}
