//! `tdtrace record`: samples into a file, for `tdtrace top --replay`.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    process::{Child, Command},
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{
    source::SourceArgs,
    stat::{exit_code, terminate},
    top::seconds,
};
use crate::{
    model::{
        field::thousands,
        sample::{Losses, Sample},
    },
    recording::{Error, Writer},
    source::{Source as _, live::Live},
};

/// Record the exits of all VMs to a file
///
/// Writes the counters every --delay seconds until SIGINT, SIGTERM, --duration or the end of COMMAND,
/// and the exit code is that of COMMAND. `tdtrace top --replay FILE` shows the recording; pyarrow and
/// pandas read it as an Arrow IPC stream. Every sample is in FILE as soon as it is taken. FILE names
/// the VMs of this machine, so only its owner can read it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The recording
    #[arg(short, long, value_name = "FILE", default_value = "recording.tdtrace")]
    output: PathBuf,
    /// Write over FILE if it exists
    #[arg(long)]
    force: bool,
    /// Seconds between two samples, 0.1 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    delay: Duration,
    /// End after so many seconds; COMMAND is sent SIGTERM then
    #[arg(long, value_name = "SECONDS", value_parser = duration)]
    duration: Option<Duration>,
    #[command(flatten)]
    source: SourceArgs,
    /// A command and its arguments to run meanwhile
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    // A year; longer ones are a slip.
    if (0.1..=31_536_000.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} seconds is not between 0.1 and 31536000"))
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the event loop cannot be started")?;
    runtime.block_on(record(args)).map(|status| status.map_or(ExitCode::SUCCESS, exit_code))
}

async fn record(args: &Args) -> Result<Option<ExitStatus>> {
    let mut live = Live::open(args.source.options())?;
    let file = create(&args.output, args.force)?;
    let Some(mut live) = args.source.wait(&mut live).await? else { return Ok(None) };
    // From here on they end the recording, not the process.
    let mut signals = Signals::new()?;
    let first = live.sample()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut tape = Tape {
        path: &args.output,
        writer: Writer::new(file, now.saturating_sub(first.at))?,
        losses: Losses::default(),
    };
    tape.write(first)?;
    let mut child = spawn(&args.command)?;
    let deadline = args.duration.map(|duration| Instant::now() + duration);
    let mut is_over = false;
    let mut ticks = interval(args.delay);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick is at once, and that sample has been taken.
    ticks.reset();
    let status = loop {
        let ended = tokio::select! {
            status = wait(&mut child) => break Some(status?),
            // The terminal sends SIGINT to the command as well.
            kind = signals.next() => child.is_none() || kind != SignalKind::interrupt(),
            () = until(deadline), if !is_over => {
                is_over = true;
                true
            }
            _ = ticks.tick() => {
                tape.write(live.sample()?)?;
                false
            }
        };
        match &child {
            None if ended => break None,
            Some(child) if ended => terminate(child),
            _ => {}
        }
    };
    tape.write(live.sample()?)?;
    tape.finish()?;
    Ok(status)
}

/// The file being written.
struct Tape<'a> {
    path: &'a Path,
    writer: Writer<File>,
    /// What the last sample missed.
    losses: Losses,
}

impl Tape<'_> {
    fn write(&mut self, sample: Sample) -> Result<()> {
        let written = self.writer.write(&sample);
        written.map_err(|error| self.failed(error))?;
        self.losses = sample.losses;
        Ok(())
    }

    /// Says what is in the file.
    fn finish(self) -> Result<()> {
        let Self { path, writer, losses } = self;
        let samples = writer.samples();
        let file = writer.finish().with_context(|| failure(path, samples))?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        // A terminal that has hung up takes nothing, and that is no failure of the recording.
        let _ = writeln!(
            io::stderr(),
            "tdtrace: {}: {} samples, {} bytes, lost {}",
            path.display(),
            thousands(samples),
            thousands(bytes),
            thousands(losses.total())
        );
        Ok(())
    }

    fn failed(&self, error: Error) -> anyhow::Error {
        anyhow::Error::new(error).context(failure(self.path, self.writer.samples()))
    }
}

fn failure(path: &Path, samples: u64) -> String {
    format!(
        "{} cannot be written on, it holds {samples} samples; make room or give another FILE with -o",
        path.display()
    )
}

/// Creates the file, for its owner only.
fn create(path: &Path, force: bool) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    if force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    let made = options.open(path).and_then(|file| {
        // One that was there has the permissions it had.
        if force && file.metadata()?.is_file() {
            file.set_permissions(Permissions::from_mode(0o600))?;
        }
        Ok(file)
    });
    made.map_err(|error: io::Error| match error.kind() {
        ErrorKind::AlreadyExists => anyhow!(
            "{} exists; give another FILE with -o, or --force to write over it",
            path.display()
        ),
        _ => anyhow::Error::new(error)
            .context(format!("{} cannot be written; give another FILE with -o", path.display())),
    })
}

fn spawn(command: &[String]) -> Result<Option<Child>> {
    let Some((program, arguments)) = command.split_first() else { return Ok(None) };
    let child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("`{program}` cannot be run; give a program by name or path"))?;
    Ok(Some(child))
}

/// Waits for the command; forever if there is none.
async fn wait(child: &mut Option<Child>) -> Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await.context("waiting for the command"),
        None => std::future::pending().await,
    }
}

/// Waits for `deadline`; forever if there is none.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What ends a recording.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.hangup.recv() => SignalKind::hangup(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_recording_is_its_owners_only_and_not_written_over_by_accident() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tdtrace");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(create(&path, false).unwrap());
        assert_eq!(mode(), 0o600);
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = create(&path, false).unwrap_err().to_string();
        assert!(error.contains("exists; give another FILE with -o, or --force"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        drop(create(&path, true).unwrap());
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode()), ("", 0o600));
        let error = create(&folder.path().join("no/a.tdtrace"), false).unwrap_err();
        assert!(error.to_string().contains("cannot be written; give another FILE"), "{error}");
    }

    #[test]
    fn durations_outside_the_range_are_refused_with_the_value() {
        assert_eq!(duration("2.5"), Ok(Duration::from_millis(2500)));
        for bad in ["0", "-1", "NaN", "inf", "1e99", "x"] {
            assert!(duration(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
