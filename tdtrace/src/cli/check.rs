//! `tdtrace check`: a guest's findings, for CI.

use std::{
    fs::File,
    io::{Read as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{ArgGroup, ValueEnum};
use tokio::{runtime, time::Instant};

use super::{
    files::Files,
    guest_source::GuestSourceArgs,
    record::{Signals, every, spawn, until, wait},
    stat::terminate,
};
use crate::{
    check::{
        allow,
        date::Date,
        fail_on::FailOn,
        outcome::{Outcome, Run, Terms},
    },
    model::guest::{aggregate::GuestAggregate, sample::GuestSample},
    report::check as report,
    source::{
        Due, GuestSource as _,
        guest::{GuestLive, TICK},
        replay::GuestReplay,
    },
};

/// Fail if this TD guest does what does not work in a TD, or only by chance
///
/// Counts while COMMAND runs, or for a time, or reads a recording, and judges the findings: MMIO around io.h,
/// string port I/O, #VEs that the kernel could not handle, and so on; --rules lists them. The whole guest is
/// counted, whoever runs.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing, 1 tdtrace failed, 2 wrong usage or allowlist, 3 findings, \
                  4 COMMAND failed, 5 something was lost, so that there may be findings that nobody \
                  saw. Of several the lowest.",
    group = ArgGroup::new("what").required(true).args(["duration", "command", "replay", "rules"])
)]
pub(super) struct Args {
    /// Count so long: 30s, 5m, 1h, 500ms, or seconds
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Judge the recording FILE of a guest instead of counting; needs no privilege
    #[arg(long, value_name = "FILE", conflicts_with_all = ["GuestSourceArgs", "Files"])]
    replay: Option<PathBuf>,
    /// Findings that are known, in TOML; may be repeated
    #[arg(long, value_name = "FILE")]
    allow: Vec<PathBuf>,
    /// What fails the check: error, warning or note with what is graver, names of rules, or never
    #[arg(long, value_name = "SEVERITY|RULE,…", default_value_t)]
    fail_on: FailOn,
    /// Let it pass although something was lost
    #[arg(long)]
    allow_losses: bool,
    /// What is printed, after what COMMAND prints
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write it to FILE instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write SARIF 2.1.0 to FILE as well
    #[arg(long, value_name = "FILE")]
    sarif: Option<PathBuf>,
    /// Write JUnit XML to FILE as well
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write JSON to FILE as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name source files below DIR relative to it, in SARIF
    #[arg(long, value_name = "DIR")]
    source_root: Option<String>,
    /// List the rules and what to do about each
    #[arg(long)]
    rules: bool,
    #[command(flatten)]
    source: GuestSourceArgs,
    #[command(flatten)]
    files: Files,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Text,
    /// One object
    Json,
    /// SARIF 2.1.0
    Sarif,
    /// JUnit XML
    Junit,
}

/// The exit code of wrong usage, which clap has too.
const USAGE: u8 = 2;

fn duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let parsed = units
        .iter()
        .find_map(|(unit, seconds)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * seconds));
    let seconds = parsed.ok_or_else(|| format!("`{text}` is no time; give one as in 30s or 5m"))?;
    // A year; longer ones are a slip.
    if (0.1..=31_536_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} is not between 100 ms and a year"))
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if args.rules {
        let mut stdout = std::io::stdout();
        return written(stdout.write_all(report::rules().as_bytes())).map(|()| ExitCode::SUCCESS);
    }
    let terms = match terms(args) {
        Ok(terms) => terms,
        Err(error) => {
            eprintln!("tdtrace: {error:#}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    // Before anything is run: a result that cannot be written is worth nothing.
    let outputs = outputs(args)?;
    let (sample, run) = match &args.replay {
        Some(path) => replay(path)?,
        None => count(args)?,
    };
    let snapshot = GuestAggregate::new().apply(&sample).with_mean_rates();
    let outcome = Outcome::new(&snapshot, &terms, run);
    for (format, mut file) in outputs {
        let text = printed(format, &outcome, args.source_root.as_deref());
        written(file.write_all(text.as_bytes()).and_then(|()| file.flush()))?;
    }
    Ok(ExitCode::from(outcome.end.code()))
}

/// What the check is held against.
fn terms(args: &Args) -> Result<Terms> {
    let mut allowed = Vec::new();
    for path in &args.allow {
        allowed.extend(allow::parse(&path.display().to_string(), &allowlist(path)?)?);
        ensure!(
            allowed.len() <= allow::ENTRIES_MAX,
            "{}: with this file there are more than {} entries; remove what is not needed",
            path.display(),
            allow::ENTRIES_MAX
        );
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Terms {
        allowed,
        fail_on: args.fail_on.clone(),
        allow_losses: args.allow_losses,
        today: Date::since_epoch(now),
    })
}

fn allowlist(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    // One byte more, so that too long a file is told from one of just that length.
    let limit = allow::BYTES_MAX as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .with_context(|| format!("{} cannot be read; give another FILE", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
            bail!("{}:{line}: it is no UTF-8 text; save it as UTF-8", path.display())
        }
    }
}

/// Where each report goes.
fn outputs(args: &Args) -> Result<Vec<(Format, Box<dyn Write>)>> {
    let create = |path: &Path| -> Result<Box<dyn Write>> {
        if path == Path::new("-") {
            return Ok(Box::new(std::io::stdout()));
        }
        let file = File::create(path)
            .with_context(|| format!("{} cannot be written; give another FILE", path.display()))?;
        Ok(Box::new(file))
    };
    let first = create(args.output.as_deref().unwrap_or(Path::new("-")))?;
    let mut outputs = vec![(args.format, first)];
    for (format, path) in
        [(Format::Sarif, &args.sarif), (Format::Junit, &args.junit), (Format::Json, &args.json)]
    {
        if let Some(path) = path {
            outputs.push((format, create(path)?));
        }
    }
    Ok(outputs)
}

fn printed(format: Format, outcome: &Outcome<'_>, source_root: Option<&str>) -> String {
    match format {
        Format::Text => report::to_text(outcome),
        Format::Json => format!("{}\n", report::to_json(outcome)),
        Format::Sarif => format!("{:#}\n", report::to_sarif(outcome, source_root)),
        Format::Junit => report::to_junit(outcome),
    }
}

/// A reader that has seen enough is no failure.
fn written(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("the result cannot be written; give another FILE"),
    }
}

/// What a recording ends with, which is what was counted all in all.
fn replay(path: &Path) -> Result<(GuestSample, Run)> {
    let mut replay = GuestReplay::open(path)?;
    let mut last = replay.sample()?;
    while replay.due() != Due::Never {
        last = replay.sample()?;
    }
    let cut = replay.cut().map(|cut| format!("{}: {cut}", path.display()));
    Ok((last, Run { status: None, cut }))
}

/// Counts while the command runs, or for the time.
fn count(args: &Args) -> Result<(GuestSample, Run)> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the event loop cannot be started")?;
    let mut live = GuestLive::open(args.source.options(&args.files))?;
    let run = runtime.block_on(follow(args, &mut live))?;
    live.stop()?;
    Ok((live.sample()?, run))
}

/// Runs the command, or waits for the time to pass.
async fn follow(args: &Args, live: &mut GuestLive) -> Result<Run> {
    let mut signals = Signals::new()?;
    let began = Instant::now();
    let mut child = spawn(&args.command)?;
    let deadline = args.duration.map(|duration| began + duration);
    let mut ticks = every(TICK);
    loop {
        let signal = tokio::select! {
            status = wait(&mut child) => return Ok(Run { status: Some(status?), cut: None }),
            () = until(deadline) => return Ok(Run::default()),
            signal = signals.next() => signal,
            _ = ticks.tick() => {
                live.tick()?;
                continue;
            }
        };
        match &child {
            // The terminal sends SIGINT to the command as well.
            Some(_) if signal == tokio::signal::unix::SignalKind::interrupt() => {}
            Some(child) => terminate(child),
            None => {
                let seconds = began.elapsed().as_secs_f64();
                let cut = Some(format!("the check was interrupted after {seconds:.1} s"));
                return Ok(Run { status: None, cut });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, milliseconds) in
            [("30s", 30_000), ("1.5", 1_500), ("500ms", 500), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_or_out_of_range_is_refused_with_the_value() {
        for text in ["", "s", "x", "10 parsecs", "0", "-1s", "inf", "NaN", "1e9h", "99ms"] {
            assert!(duration(text).unwrap_err().contains(text), "{text}");
        }
    }
}
