//! `tdtrace top`: the terminal interface, or with `--batch` the same snapshots as text.

use std::{
    io::{ErrorKind, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::yield_now,
    time::{Interval, MissedTickBehavior, interval},
};

use super::{filter::FilterArgs, source::SourceArgs};
use crate::{
    model::aggregate::Aggregate,
    report,
    source::{Due, Source, beside::Beside, demo::Demo, live::Live, replay::Replay},
    tui::{side::Host, terminal},
};

/// Show VMs, their exits and hotspots live
///
/// Counts all VMs of the machine from the moment it starts. Keys are shown with `?`. With --batch it
/// prints every snapshot instead, the first one right after attaching. With --replay it shows a
/// recording as it happened, or with --batch all of it at once.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print snapshots instead of showing them
    #[arg(short, long)]
    batch: bool,
    /// Print one JSON object a line
    #[arg(long, requires = "batch")]
    json: bool,
    /// Seconds between two snapshots, 0.1 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    delay: Duration,
    /// End after this many snapshots
    #[arg(short = 'n', long, value_name = "N", requires = "batch",
          value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Places printed at most, per VM in JSON
    #[arg(long, value_name = "N", default_value_t = 20, requires = "batch")]
    hotspots: usize,
    /// Show the recording FILE instead of this machine; needs no privilege
    #[arg(long, value_name = "FILE", conflicts_with_all = ["delay", "demo", "SourceArgs"])]
    replay: Option<PathBuf>,
    /// Show synthetic TDs as well, marked DEMO; where KVM is missing, only those
    #[arg(long)]
    demo: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("`{text}` is not a number of seconds"))?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("{text} seconds is not between 0.1 and 3600"))
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    if !args.batch && !terminal::is_available() {
        bail!("there is no terminal to draw on; use `tdtrace top --batch` to print snapshots");
    }
    if !args.batch && args.source.debug_ebpf && std::io::stderr().is_terminal() {
        bail!(
            "--debug-ebpf would write over the screen; send it to a file: tdtrace top --debug-ebpf 2>FILE"
        );
    }
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the event loop cannot be started")?;
    let show = |source: &mut dyn Source| {
        runtime.block_on(async {
            let Some(mut source) = args.source.wait(source).await? else { return Ok(()) };
            if args.batch {
                return batch(args, &mut source).await;
            }
            terminal::run(Host::new(&mut source), args.delay, args.filter.get().cloned()).await
        })
    };
    let Some(path) = &args.replay else {
        show(&mut *open(args)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let mut replay = Replay::open(path)?;
    show(&mut replay)?;
    if let Some(cut) = replay.cut() {
        eprintln!("tdtrace: {}: {cut}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// The running kernel, synthetic TDs, or both.
fn open(args: &Args) -> Result<Box<dyn Source>> {
    let options = args.source.options();
    if !args.demo {
        return Ok(Box::new(Live::open(options)?));
    }
    let demo = Demo::new(SEED, options.timed)?;
    Ok(match Live::open(options) {
        Ok(live) => Box::new(Beside(live, demo)),
        Err(why) => {
            eprintln!("tdtrace: only synthetic TDs are shown: {why:#}");
            Box::new(demo)
        }
    })
}

/// What the demo's TDs do is the same every time.
const SEED: u64 = 0x7d;

async fn batch(args: &Args, source: &mut dyn Source) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let mut aggregate = Aggregate::new();
    let mut ticks = interval(args.delay);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut printed = 0;
    while args.count.is_none_or(|count| printed < count) && source.due() != Due::Never {
        tokio::select! {
            () = turn(&mut ticks, source.due()) => {}
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        let snapshot = aggregate.apply(source.sample()?);
        let show = report::Show { hotspots: args.hotspots, filter: args.filter.get() };
        let text = if args.json {
            format!("{}\n", report::to_json(&snapshot, show))
        } else {
            format!("{}\n", report::to_text(&snapshot, show))
        };
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            // A reader that has seen enough is no failure.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).context("the snapshot cannot be written"),
        }
        printed += 1;
    }
    Ok(())
}

/// Waits for the next tick; what is there already is not waited for.
async fn turn(ticks: &mut Interval, due: Due) {
    match due {
        Due::Any => {
            ticks.tick().await;
        }
        // So that signals are still seen.
        Due::In(_) | Due::Never => yield_now().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_outside_the_range_are_refused_with_the_value() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "NaN", "inf", "1e99", "x", ""] {
            assert!(seconds(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
