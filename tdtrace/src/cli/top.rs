//! `tdtrace top`: the terminal interface, or with `--batch` the same snapshots as text.

use std::{
    io::{ErrorKind, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::yield_now,
    time::{Instant, Interval},
};

use super::{files::Files, filter, guest_source::GuestSourceArgs, source::SourceArgs};
use crate::{
    kernel::Facts,
    model::{
        filter::{Filter, FilterError},
        guest::field,
    },
    recording, report,
    source::{
        Due, GuestSource, Source,
        beside::Beside,
        demo::Demo,
        guest::GuestLive,
        live::Live,
        replay::{self, GuestReplay, Replay},
    },
    tui::{
        side::{Guest, Host, Side},
        terminal,
    },
};

/// Show VMs and their exits live, or in a TD its #VEs
///
/// On a host it counts all VMs of the machine from the moment it starts. In a TD, which the CPU says,
/// it counts what the TD does instead: its #VEs with the code that causes them, and its conversions;
/// --host and --guest choose the other side. Keys are shown with `?`. With --batch it prints every
/// snapshot instead, the first one right after attaching. With --replay it shows a recording, of
/// either side, as it happened, or with --batch all of it at once.
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
    /// Print the timelines of TDs, and of VMs that were seen from their first KVM_RUN on; JSON has them always
    #[arg(long, requires = "batch")]
    boot: bool,
    /// Show the recording FILE instead of this machine; needs no privilege
    #[arg(long, value_name = "FILE", conflicts_with_all = ["delay", "demo", "SourceArgs", "GuestSourceArgs"])]
    replay: Option<PathBuf>,
    /// Show synthetic TDs as well, marked DEMO; where KVM is missing, only those
    #[arg(long, conflicts_with = "GuestSourceArgs")]
    demo: bool,
    /// Show VMs, even in a TD
    #[arg(long, conflicts_with = "GuestSourceArgs")]
    host: bool,
    /// Show only rows that EXPR keeps, for example 'name=web* exits_per_s>1k'
    #[arg(long, value_name = "EXPR", value_parser = of_either_side, long_help = long_help())]
    filter: Option<Filter>,
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten, next_help_heading = "In a TD guest")]
    guest: GuestSourceArgs,
    #[command(flatten)]
    files: Files,
}

/// A filter whose columns one of the sides has; which side is shown is not known yet.
fn of_either_side(text: &str) -> Result<Filter, FilterError> {
    Filter::parse(text).or_else(|error| Filter::parse_with(text, &field::keys()).map_err(|_| error))
}

fn long_help() -> String {
    let keys: Vec<&str> = field::keys().into_iter().map(|(key, _)| key).collect();
    format!(
        "{}\n\nColumns of a guest: {}\nFor example: 'survives=fatal verdict=pointer* per_s>10'",
        filter::long_help(),
        keys.join(" ")
    )
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
    let show_guest = |source: &mut dyn GuestSource| runtime.block_on(guest(args, source));
    if is_guest(args) {
        ensure!(
            !args.source.waits(),
            "in a guest there is no VM to wait for; leave --wait-vm away"
        );
        show_guest(&mut GuestLive::open(args.guest.options(&args.files))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let filter = args.filter.as_ref().map(|filter| Filter::parse(filter.text())).transpose()?;
    let show = |source: &mut dyn Source| {
        runtime.block_on(async {
            let Some(mut source) = args.source.wait(source).await? else { return Ok(()) };
            let mut side = Host::new(&mut source);
            if !args.batch {
                return terminal::run(side, args.delay, filter.clone()).await;
            }
            let (hotspots, boot) = (args.hotspots, args.boot);
            let show = report::Show { hotspots, filter: filter.as_ref(), boot };
            batch(args, &mut side, |snapshot| match args.json {
                true => report::to_json(snapshot, show).to_string(),
                false => report::to_text(snapshot, show),
            })
            .await
        })
    };
    let Some(path) = &args.replay else {
        show(&mut *open(args)?)?;
        return Ok(ExitCode::SUCCESS);
    };
    let cut = match replay::side(path)? {
        recording::Side::Host => {
            let mut replay = Replay::open(path)?;
            show(&mut replay)?;
            replay.cut()
        }
        recording::Side::Guest => {
            let mut replay = GuestReplay::open(path)?;
            show_guest(&mut replay)?;
            replay.cut()
        }
    };
    if let Some(cut) = cut {
        eprintln!("tdtrace: {}: {cut}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the guest is to be shown that this runs in.
fn is_guest(args: &Args) -> bool {
    let asked_for_vms = args.host || args.demo || args.replay.is_some();
    args.guest.guest || !asked_for_vms && Facts::running().is_td()
}

/// Shows or prints what `source` says of a guest.
async fn guest(args: &Args, source: &mut dyn GuestSource) -> Result<()> {
    let parse = |filter: &Filter| Filter::parse_with(filter.text(), &field::keys());
    let filter = args.filter.as_ref().map(parse).transpose()?;
    if args.batch && filter.is_some() {
        bail!("--filter does not work with --batch in a guest; leave one of them out");
    }
    let mut side = Guest::new(source);
    if !args.batch {
        return terminal::run(side, args.delay, filter).await;
    }
    batch(args, &mut side, |snapshot| match args.json {
        true => report::guest::to_json(snapshot, args.hotspots).to_string(),
        false => report::guest::to_text(snapshot, args.hotspots),
    })
    .await
}

/// The running kernel, synthetic TDs, or both.
fn open(args: &Args) -> Result<Box<dyn Source>> {
    let options = args.source.options();
    if !args.demo {
        return Ok(Box::new(Live::open(options)?));
    }
    let demo = Demo::new(SEED, options.timed, options.slower_than)?;
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

/// Prints what `print` makes of each snapshot.
async fn batch<S: Side>(
    args: &Args,
    side: &mut S,
    print: impl Fn(&S::Snapshot) -> String,
) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let ticks = |every| terminal::ticks(Instant::now(), every);
    let (mut ticks, mut between) = (ticks(args.delay), S::BETWEEN.map(ticks));
    let mut printed = 0;
    while args.count.is_none_or(|count| printed < count) && side.due() != Due::Never {
        tokio::select! {
            () = turn(&mut ticks, side.due()) => {}
            () = terminal::turn(between.as_mut()) => {
                side.between()?;
                continue;
            }
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        }
        let text = format!("{}\n", print(&side.next()?));
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
    fn a_filter_may_name_columns_of_either_side_and_not_of_both() {
        for known in ["exits_per_s>1k", "survives=fatal"] {
            assert!(of_either_side(known).is_ok(), "{known}");
        }
        for unknown in ["exits_per_s>1k survives=fatal", "nothing=1"] {
            assert!(of_either_side(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn delays_outside_the_range_are_refused_with_the_value() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "NaN", "inf", "1e99", "x", ""] {
            assert!(seconds(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
