//! What the user sees of a child process: one line with the elapsed time; its output only when it
//! fails.

use std::{
    ffi::OsStr,
    io::{self, IsTerminal as _, Read as _, Write as _},
    process::{Command, ExitStatus, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Lines of a failed set-up command that are shown.
const TAIL: usize = 20;

/// A child that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Standard output and standard error in the order they were written.
    pub(crate) output: String,
    /// Wall time.
    pub(crate) elapsed: Duration,
}

/// Opens a line: what happens now.
pub(crate) fn begin(text: &str) {
    print!("{text} … ");
    flush();
}

/// Ends the line that [`begin`] opened.
pub(crate) fn end(text: &str) {
    println!("{text}");
}

/// Whole seconds below ten with one decimal: `0.4 s`, `41 s`.
pub(crate) fn seconds(elapsed: Duration) -> String {
    let s = elapsed.as_secs_f64();
    if s < 9.95 { format!("{s:.1} s") } else { format!("{s:.0} s") }
}

/// Runs `command` with its output kept back; on a terminal the seconds count up at the cursor.
///
/// # Errors
/// When the command does not start.
pub(crate) fn run_hidden(mut command: Command) -> Result<Finished> {
    let started = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let (mut reader, writer) = io::pipe().context("no pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("no pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("{name} does not start"))?;
    // It holds the write end; reading would never end.
    drop(command);
    let reading = thread::spawn(move || {
        let mut output = Vec::new();
        reader.read_to_end(&mut output).map(|_| output)
    });
    let mut clock = Clock::new();
    while !reading.is_finished() {
        thread::sleep(Duration::from_millis(50));
        clock.show(started.elapsed());
    }
    clock.clear();
    let status = child.wait().with_context(|| format!("{name} is lost"))?;
    let output = match reading.join() {
        Ok(output) => output.with_context(|| format!("the output of {name} is lost"))?,
        Err(_) => bail!("the output of {name} is lost"),
    };
    let output = String::from_utf8_lossy(&output).into_owned();
    Ok(Finished { status, output, elapsed: started.elapsed() })
}

/// Runs a set-up command as one line `text … done 3.1 s`.
///
/// # Errors
/// When it fails; its last lines have been printed then, and the error names the command.
pub(crate) fn run_line(text: &str, command: Command) -> Result<()> {
    begin(text);
    let shown = shell_line(&command);
    let finished = match run_hidden(command) {
        Ok(finished) => finished,
        Err(error) => {
            end("failed");
            return Err(error);
        }
    };
    let elapsed = seconds(finished.elapsed);
    if finished.status.success() {
        end(&format!("done {elapsed}"));
        return Ok(());
    }
    end(&format!("failed {elapsed}"));
    for line in tail(&finished.output, TAIL) {
        println!("    {line}");
    }
    if looks_offline(&finished.output) {
        bail!("it needs the network once");
    }
    bail!("`{shown}` failed ({})", finished.status);
}

/// Runs `command` to its end without a word.
///
/// # Errors
/// When it does not start or fails; what it said is in the error.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command.output().with_context(|| format!("{name} does not run"))?;
    if !out.status.success() {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let said = String::from_utf8_lossy(&out.stderr);
        bail!("`{name} {}` ended with {}: {}", words.join(" "), out.status, said.trim());
    }
    Ok(out)
}

/// The command as one would type it.
pub(crate) fn shell_line(command: &Command) -> String {
    let environment = command
        .get_envs()
        .filter_map(|(key, value)| Some((key.to_string_lossy(), value?.to_string_lossy())))
        .map(|(key, value)| format!("{key}={value}"));
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words = words.map(|word| {
        let word = word.to_string_lossy();
        if word.contains([' ', '*', '$', '\'', '"']) { format!("'{word}'") } else { word.into() }
    });
    environment.chain(words).collect::<Vec<_>>().join(" ")
}

fn tail(output: &str, count: usize) -> Vec<&str> {
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}

/// Whether a failed rustup, cargo or apt complained about the network.
fn looks_offline(output: &str) -> bool {
    [
        "Temporary failure resolving",
        "Could not resolve",
        "Could not connect to",
        "--offline was specified",
        "could not download file",
        "Network is unreachable",
        "failed to download from",
        "dns error",
    ]
    .iter()
    .any(|complaint| output.contains(complaint))
}

/// Counts seconds at the cursor of a terminal; does nothing elsewhere.
struct Clock {
    on_terminal: bool,
    shown: String,
}

impl Clock {
    fn new() -> Self {
        Self { on_terminal: io::stdout().is_terminal(), shown: String::new() }
    }

    fn show(&mut self, elapsed: Duration) {
        let text = format!("{} s", elapsed.as_secs());
        if self.on_terminal && elapsed.as_secs() > 0 && text != self.shown {
            self.clear();
            print!("{text}");
            flush();
            self.shown = text;
        }
    }

    fn clear(&mut self) {
        let width = self.shown.len();
        if width > 0 {
            print!("{0}{1}{0}", "\u{8}".repeat(width), " ".repeat(width));
            flush();
            self.shown.clear();
        }
    }
}

/// A closed standard output is no reason to stop a set-up.
fn flush() {
    let _ = io::stdout().flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_output_streams_are_kept_in_order() {
        let finished = run_hidden(sh("echo a; echo b >&2; echo c; exit 3")).unwrap();
        assert_eq!(finished.output, "a\nb\nc\n");
        assert_eq!(finished.status.code(), Some(3));
    }

    #[test]
    fn a_failed_line_names_its_command() {
        let error = run_line("x", sh("exit 1")).unwrap_err().to_string();
        assert!(error.starts_with("`sh -c 'exit 1'` failed"), "{error}");
    }

    #[test]
    fn a_download_that_fails_is_said_to_need_the_network() {
        let script = "echo 'error: could not download file from there'; exit 1";
        let error = run_line("x", sh(script)).unwrap_err().to_string();
        assert!(error.ends_with("needs the network once"), "{error}");
    }

    #[test]
    fn the_tail_leaves_empty_lines_out() {
        assert_eq!(tail("a\n\nb\n  \nc\n", 2), ["b", "c"]);
        assert_eq!(tail("a", 2), ["a"]);
    }

    #[test]
    fn a_command_is_shown_with_its_environment() {
        let mut command = Command::new("cargo");
        command.env("LLVM_PREFIX", "/usr/lib/llvm-22").args(["test", "--test", "kvm_*"]);
        assert_eq!(shell_line(&command), "LLVM_PREFIX=/usr/lib/llvm-22 cargo test --test 'kvm_*'");
    }

    #[test]
    fn short_times_have_a_decimal_and_long_ones_none() {
        assert_eq!(seconds(Duration::from_millis(420)), "0.4 s");
        assert_eq!(seconds(Duration::from_millis(9_970)), "10 s");
        assert_eq!(seconds(Duration::from_secs(41)), "41 s");
    }

    #[test]
    fn a_command_that_fails_is_named_with_what_it_said() {
        let mut command = Command::new("sh");
        let error = run(command.args(["-c", "echo broken >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
    }
}
