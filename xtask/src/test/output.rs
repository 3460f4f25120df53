//! What `cargo test` prints, read for the counts and cut down for a reader.

use super::Tally;

/// The sum of all `test result:` lines; a binary that was killed prints none and counts as one
/// failed test.
pub(super) fn tally(output: &str) -> Tally {
    let mut tally = Tally::default();
    let (mut failed_binaries, mut failed_results) = (0_u64, 0);
    for line in output.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            tally.passed += count(result, "passed");
            tally.failed += count(result, "failed");
            failed_results += u64::from(result.starts_with("FAILED"));
        } else if line.starts_with("error: test failed, to rerun") {
            failed_binaries += 1;
        }
    }
    tally.failed += failed_binaries.saturating_sub(failed_results);
    tally
}

/// The number before `word`, as in `ok. 3 passed; 0 failed; …`.
fn count(line: &str, word: &str) -> u64 {
    line.split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}

/// The output without the lines of what compiled and passed.
pub(super) fn without_passed(output: &str) -> String {
    let kept = |line: &&str| {
        let line = line.trim();
        let passed = line.starts_with("test ") && line.ends_with(" ... ok");
        let noise = ["running ", "test result: ok", "Compiling ", "Checking ", "Finished "];
        !(passed || line.is_empty() || noise.iter().any(|start| line.starts_with(start)))
    };
    output.lines().filter(kept).map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test a::holds ... ok
test b::fails ... FAILED

failures:

---- b::fails stdout ----
thread 'b::fails' panicked at src/b.rs:3:9:

test result: FAILED. 2 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 0.01s

error: test failed, to rerun pass `--lib`

running 0 tests

test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 12.50s
";

    #[test]
    fn the_counts_of_all_binaries_are_added() {
        assert_eq!(tally(OUTPUT), Tally { passed: 42, failed: 1 });
        assert_eq!(tally("error: could not compile `tdtrace`"), Tally::default());
    }

    #[test]
    fn a_binary_that_was_killed_counts_as_failed() {
        let killed = "running 1 test\nerror: test failed, to rerun pass `--test a`\n";
        assert_eq!(tally(killed), Tally { passed: 0, failed: 1 });
        assert_eq!(tally(&format!("{OUTPUT}{killed}")), Tally { passed: 42, failed: 2 });
    }

    #[test]
    fn a_test_that_prints_a_result_in_the_middle_of_a_line_does_not_count() {
        assert_eq!(tally("x test result: ok. 9 passed; 0 failed"), Tally::default());
    }

    #[test]
    fn a_reader_gets_the_failures_and_not_the_passes() {
        let text = without_passed(OUTPUT);
        assert!(text.contains("b::fails ... FAILED") && text.contains("panicked at"), "{text}");
        assert!(!text.contains("a::holds") && !text.contains("running"), "{text}");
    }
}
