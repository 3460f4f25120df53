//! `tdtrace guest`: what can be seen from within a TD.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use clap::Subcommand;

use super::{files::Files, guest_source::GuestSourceArgs, stat::exit_code};
use crate::{
    model::guest::{aggregate::GuestAggregate, order::Order, snapshot::GuestSnapshot},
    report::guest as report,
    source::{
        Due, GuestSource as _,
        guest::{GuestLive, Options, TICK},
        replay::GuestReplay,
    },
};

/// Count the #VEs of this TD guest, its conversions, acceptance and quotes
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: GuestCommand,
}

#[derive(Debug, Subcommand)]
enum GuestCommand {
    Stat(StatArgs),
}

/// Count while a command runs
///
/// Attaches, runs COMMAND, or waits for Ctrl-C without one, detaches and prints #VEs by reason, by the
/// instruction that caused them and by what they were about. The whole guest is counted, whoever runs.
/// The exit code is that of COMMAND. With --replay it prints the same of what `tdtrace record` wrote in
/// a guest.
#[derive(Debug, clap::Args)]
struct StatArgs {
    /// Print one JSON object, after what COMMAND prints
    #[arg(long)]
    json: bool,
    /// Write the result to FILE instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Write each #VE as a line of JSON to FILE, - for stdout
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Rows of each table at most
    #[arg(long, value_name = "N", default_value_t = 30)]
    rows: usize,
    /// Print what the recording FILE ends with instead of counting; needs no privilege
    #[arg(long, value_name = "FILE",
          conflicts_with_all = ["events", "command", "GuestSourceArgs", "Files"])]
    replay: Option<PathBuf>,
    #[command(flatten)]
    source: GuestSourceArgs,
    #[command(flatten)]
    files: Files,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Events of a tick behind which nothing is waited for.
const BUSY: usize = 4096;

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    match &args.command {
        GuestCommand::Stat(args) => stat(args),
    }
}

fn stat(args: &StatArgs) -> Result<ExitCode> {
    // Before anything is run: a result that cannot be written is worth nothing.
    let output = match &args.output {
        Some(path) => open(path)?,
        None => Box::new(std::io::stdout()),
    };
    if let Some(path) = &args.replay {
        return replay(args, path, output);
    }
    let events = args.events.as_deref().map(open).transpose()?;
    let options = Options { stream: events.is_some(), ..args.source.options(&args.files) };
    let stop = stop_on_signals()?;
    let mut live = GuestLive::open(options)?;
    let mut events =
        events.map(|file| Events { file: BufWriter::new(file), order: Order::default() });
    let status = count(args, &mut live, &mut events, &stop)?;
    live.stop()?;
    if let Some(events) = &mut events {
        events.finish(&mut live)?;
    }
    let snapshot = GuestAggregate::new().apply(&live.sample()?).with_mean_rates();
    print(args, &snapshot, output)?;
    Ok(status.map_or(ExitCode::SUCCESS, exit_code))
}

/// Prints the last whole sample of a recording, as it was printed when it was taken.
fn replay(args: &StatArgs, path: &Path, output: Box<dyn Write>) -> Result<ExitCode> {
    let mut replay = GuestReplay::open(path)?;
    let mut last = replay.sample()?;
    let mut damage = None;
    while damage.is_none() && replay.due() != Due::Never {
        match replay.sample() {
            Ok(sample) => last = sample,
            Err(error) => damage = Some(error),
        }
    }
    print(args, &GuestAggregate::new().apply(&last).with_mean_rates(), output)?;
    if let Some(error) = damage {
        return Err(error.context(path.display().to_string()));
    }
    if let Some(cut) = replay.cut() {
        eprintln!("tdtrace: {}: {cut}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdout()));
    }
    let file = File::create(path)
        .with_context(|| format!("{} cannot be written; give another FILE", path.display()))?;
    Ok(Box::new(file))
}

/// Runs the command, or waits for a signal; gives the command's status.
fn count(
    args: &StatArgs,
    live: &mut GuestLive,
    events: &mut Option<Events>,
    stop: &Stop,
) -> Result<Option<ExitStatus>> {
    let mut child = match args.command.split_first() {
        Some((program, arguments)) => {
            Some(Command::new(program).args(arguments).spawn().with_context(|| {
                format!("`{program}` cannot be run; give a program by name or path")
            })?)
        }
        None => None,
    };
    loop {
        match &mut child {
            Some(child) => {
                if let Some(status) = child.try_wait().context("waiting for the command")? {
                    return Ok(Some(status));
                }
                // An interrupt goes to the command as well, which is in the same foreground group.
                if stop.terminated.swap(false, Ordering::Relaxed) {
                    terminate(child);
                }
            }
            None => {
                if stop.interrupted.load(Ordering::Relaxed)
                    || stop.terminated.load(Ordering::Relaxed)
                {
                    return Ok(None);
                }
            }
        }
        live.tick()?;
        let fetched = events.as_mut().map_or(Ok(0), |events| events.fetch(live))?;
        // Where many come, they are fetched at once.
        if fetched < BUSY {
            thread::sleep(TICK);
        }
    }
}

/// Where events go.
struct Events {
    file: BufWriter<Box<dyn Write>>,
    order: Order,
}

impl Events {
    /// Fetches what is there and writes what is in order; how many were fetched.
    fn fetch(&mut self, live: &mut GuestLive) -> Result<usize> {
        let batch = live.events();
        let fetched = batch.len();
        let ready = self.order.push(batch);
        self.write(live, &ready)?;
        Ok(fetched)
    }

    /// Fetches and writes all that is left.
    fn finish(&mut self, live: &mut GuestLive) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let batch = live.events();
            if batch.is_empty() || Instant::now() > deadline {
                break;
            }
            let ready = self.order.push(batch);
            self.write(live, &ready)?;
        }
        let left = self.order.finish();
        self.write(live, &left)?;
        self.file.flush().context("the events cannot be written")
    }

    fn write(&mut self, live: &GuestLive, events: &[tdtrace_common::guest::VeEvent]) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let shared_bit = live.shared_bit()?;
        for event in events {
            let line = report::event_line(event, shared_bit);
            self.file.write_all(line.as_bytes()).context("the events cannot be written")?;
        }
        Ok(())
    }
}

fn print(args: &StatArgs, snapshot: &GuestSnapshot, mut output: Box<dyn Write>) -> Result<()> {
    let text = if args.json {
        format!("{}\n", report::to_json(snapshot, args.rows))
    } else {
        report::to_text(snapshot, args.rows)
    };
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("the result cannot be written; give another FILE with -o"),
    }
}

fn terminate(child: &std::process::Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // SAFETY: no memory involved; the child is not yet waited for, so the number is still its.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// Signals that have come. This process stays to print what was counted.
#[derive(Default)]
struct Stop {
    interrupted: AtomicBool,
    terminated: AtomicBool,
}

/// Catches SIGINT and SIGTERM.
fn stop_on_signals() -> Result<Arc<Stop>> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(Stop::default());
    let set = Arc::clone(&stop);
    let (ready, is_ready) = std::sync::mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return;
        };
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            // Whoever waits for it may have given up.
            let _ = ready.send(());
            loop {
                tokio::select! {
                    _ = interrupt.recv() => set.interrupted.store(true, Ordering::Relaxed),
                    _ = terminate.recv() => set.terminated.store(true, Ordering::Relaxed),
                }
            }
        });
    })?;
    is_ready.recv().map_err(|_| anyhow!("SIGINT and SIGTERM cannot be caught"))?;
    Ok(stop)
}
