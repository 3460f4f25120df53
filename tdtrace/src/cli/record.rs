//! `tdtrace record`: samples into a file, for `tdtrace top --replay`.

use std::{
    fs::{File, OpenOptions, Permissions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use tokio::{
    process::{Child, Command},
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, Interval, MissedTickBehavior, interval, sleep_until},
};

use super::{
    files::Files,
    guest_source::GuestSourceArgs,
    source::SourceArgs,
    stat::{exit_code, terminate},
    top::seconds,
};
use crate::{
    kernel::Facts,
    model::{field::thousands, guest::sample::GuestSample, sample::Sample},
    recording::{Error, GuestWriter, Writer},
    source::{
        GuestSource as _, Source as _,
        guest::{GuestLive, TICK},
        live::Live,
    },
};

/// Record the exits of all VMs, or the #VEs of this TD guest, to a file
///
/// Writes the counters every --delay seconds until SIGINT, SIGTERM, --duration or the end of COMMAND,
/// and the exit code is that of COMMAND. `tdtrace top --replay FILE` shows it, `tdtrace
/// guest stat --replay FILE` adds up that of a guest; pyarrow and pandas read it as an Arrow IPC
/// stream. Every sample is in FILE as soon as it is taken. FILE names the VMs or processes of this
/// machine, so only its owner can read it.
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
    #[command(flatten, next_help_heading = "In a TD guest")]
    guest: GuestSourceArgs,
    #[command(flatten)]
    files: Files,
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
    if args.guest.guest || Facts::running().is_td() {
        return record_guest(args).await;
    }
    let mut live = Live::open(args.source.options())?;
    let file = create(&args.output, args.force)?;
    let Some(mut live) = args.source.wait(&mut live).await? else { return Ok(None) };
    // From here on they end the recording, not the process.
    let signals = Signals::new()?;
    let first = live.sample()?;
    let mut tape = Tape::new(&args.output, Writer::new(file, began(first.at))?);
    tape.write(&first)?;
    let mut take = |_| tape.write(&live.sample()?);
    let status = follow(args, signals, &mut take, None).await?;
    tape.finish()?;
    Ok(status)
}

async fn record_guest(args: &Args) -> Result<Option<ExitStatus>> {
    ensure!(!args.source.waits(), "in a guest there is no VM to wait for; leave --wait-vm away");
    let mut live = GuestLive::open(args.guest.options(&args.files))?;
    let file = create(&args.output, args.force)?;
    let signals = Signals::new()?;
    let first = live.sample()?;
    let mut tape = Tape::new(&args.output, GuestWriter::new(file, began(first.at))?);
    tape.write(&first)?;
    let mut take = |turn| {
        match turn {
            Turn::Tick => return live.tick(),
            Turn::Sample => {}
            Turn::Last => live.stop()?,
        }
        tape.write(&live.sample()?)
    };
    let status = follow(args, signals, &mut take, Some(TICK)).await?;
    tape.finish()?;
    Ok(status)
}

/// The time 0 of a source of which a sample was just taken `at`, since 1970 (UTC).
fn began(at: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(at)
}

/// What it is time for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// What a source wants to be asked between samples.
    Tick,
    /// A sample.
    Sample,
    /// The last one.
    Last,
}

/// Runs the command and takes samples until it is over.
async fn follow(
    args: &Args,
    mut signals: Signals,
    take: &mut dyn FnMut(Turn) -> Result<()>,
    tick: Option<Duration>,
) -> Result<Option<ExitStatus>> {
    let mut child = spawn(&args.command)?;
    let deadline = args.duration.map(|duration| Instant::now() + duration);
    let mut is_over = false;
    let mut samples = every(args.delay);
    let mut ticks = tick.map(every);
    let status = loop {
        let ended = tokio::select! {
            status = wait(&mut child) => break Some(status?),
            // The terminal sends SIGINT to the command as well.
            kind = signals.next() => child.is_none() || kind != SignalKind::interrupt(),
            () = until(deadline), if !is_over => {
                is_over = true;
                true
            }
            _ = samples.tick() => {
                take(Turn::Sample)?;
                false
            }
            () = turn(&mut ticks) => {
                take(Turn::Tick)?;
                false
            }
        };
        match &child {
            None if ended => break None,
            Some(child) if ended => terminate(child),
            _ => {}
        }
    };
    take(Turn::Last)?;
    Ok(status)
}

/// A tick each `period`, the first one after one.
pub(super) fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick would be at once.
    ticks.reset();
    ticks
}

/// Waits for the next tick; forever if there is none.
async fn turn(ticks: &mut Option<Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// What writes samples of either side.
trait Write {
    type Sample;
    fn write(&mut self, sample: &Self::Sample) -> Result<(), Error>;
    fn finish(self) -> Result<File, Error>;
    fn samples(&self) -> u64;
    /// What the sample missed.
    fn lost(sample: &Self::Sample) -> u64;
}

impl Write for Writer<File> {
    type Sample = Sample;

    fn write(&mut self, sample: &Sample) -> Result<(), Error> {
        self.write(sample)
    }

    fn finish(self) -> Result<File, Error> {
        self.finish()
    }

    fn samples(&self) -> u64 {
        self.samples()
    }

    fn lost(sample: &Sample) -> u64 {
        sample.losses.total()
    }
}

impl Write for GuestWriter<File> {
    type Sample = GuestSample;

    fn write(&mut self, sample: &GuestSample) -> Result<(), Error> {
        self.write(sample)
    }

    fn finish(self) -> Result<File, Error> {
        self.finish()
    }

    fn samples(&self) -> u64 {
        self.samples()
    }

    fn lost(sample: &GuestSample) -> u64 {
        sample.losses.total()
    }
}

/// The file being written.
struct Tape<'a, W> {
    path: &'a Path,
    writer: W,
    /// What the last sample missed.
    lost: u64,
}

impl<'a, W: Write> Tape<'a, W> {
    fn new(path: &'a Path, writer: W) -> Self {
        Self { path, writer, lost: 0 }
    }

    fn write(&mut self, sample: &W::Sample) -> Result<()> {
        let written = self.writer.write(sample);
        written.with_context(|| failure(self.path, self.writer.samples()))?;
        self.lost = W::lost(sample);
        Ok(())
    }

    /// Says what is in the file.
    fn finish(self) -> Result<()> {
        let Self { path, writer, lost } = self;
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
            thousands(lost)
        );
        Ok(())
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

pub(super) fn spawn(command: &[String]) -> Result<Option<Child>> {
    let Some((program, arguments)) = command.split_first() else { return Ok(None) };
    let child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("`{program}` cannot be run; give a program by name or path"))?;
    Ok(Some(child))
}

/// Waits for the command; forever if there is none.
pub(super) async fn wait(child: &mut Option<Child>) -> Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await.context("waiting for the command"),
        None => std::future::pending().await,
    }
}

/// Waits for `deadline`; forever if there is none.
pub(super) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What ends a recording.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let catch = |kind| signal(kind).context("signals cannot be caught");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> SignalKind {
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
