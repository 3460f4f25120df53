//! `tdtrace stat`: attach, run a command, print totals.

use std::{
    fs::File,
    io::Write,
    path::PathBuf,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    process::Command,
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::interval,
};

use super::{filter::FilterArgs, source::SourceArgs};
use crate::{
    model::{aggregate::Aggregate, snapshot::Snapshot},
    report,
    source::{Source, live::Live},
};

/// Count the exits of all VMs while a command runs
///
/// Attaches, runs COMMAND, detaches and prints totals by VM, vCPU, class and hotspot. All VMs of the
/// machine are counted, whoever runs them; rates are means over the whole time. The exit code is that of COMMAND.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object, after what COMMAND prints
    #[arg(long)]
    json: bool,
    /// Write the result to FILE instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Places listed at most, per VM in JSON
    #[arg(long, value_name = "N", default_value_t = 20)]
    hotspots: usize,
    /// Print the timelines of TDs, and of VMs that were seen from their first KVM_RUN on; JSON has them always
    #[arg(long)]
    boot: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// How often slots of VMs that ended are given back while the command runs.
const TICK: Duration = Duration::from_millis(500);

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    // Before anything is run: a result that cannot be written is worth nothing.
    let output: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(File::create(path).with_context(|| {
            format!("{} cannot be written; give another FILE with -o", path.display())
        })?),
        None => Box::new(std::io::stdout()),
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the event loop cannot be started")?;
    let (status, snapshot) = runtime.block_on(count(args))?;
    print(args, &snapshot, output)?;
    Ok(exit_code(status))
}

fn print(args: &Args, snapshot: &Snapshot, mut output: Box<dyn Write>) -> Result<()> {
    let show = report::Show { hotspots: args.hotspots, filter: args.filter.get(), boot: args.boot };
    let text = if args.json {
        format!("{}\n", report::to_json(snapshot, show))
    } else {
        report::to_text(snapshot, show)
    };
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("the result cannot be written; give another FILE with -o"),
    }
}

async fn count(args: &Args) -> Result<(ExitStatus, Snapshot)> {
    let (program, arguments) =
        args.command.split_first().ok_or_else(|| anyhow!("no command given"))?;
    let mut live = Live::open(args.source.options())?;
    let Some(mut live) = args.source.wait(&mut live).await? else {
        bail!("interrupted before the VM came; nothing was counted");
    };
    // The command gets the terminal's signals as well; stat stays to print what was counted.
    let mut interrupts = Interrupts::new()?;
    let mut aggregate = Aggregate::new();
    aggregate.apply(live.sample()?);
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("`{program}` cannot be run; give a program by name or path"))?;
    let mut ticks = interval(TICK);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("waiting for the command")?,
            () = interrupts.terminated() => terminate(&child),
            _ = ticks.tick() => { aggregate.apply(live.sample()?); }
        }
    };
    Ok((status, aggregate.apply(live.sample()?).with_mean_rates()))
}

/// SIGINT and SIGTERM. The first goes to the whole foreground group, so it needs no forwarding.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?,
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?,
        })
    }

    /// Waits for a SIGTERM and swallows SIGINTs.
    async fn terminated(&mut self) {
        loop {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => return,
            }
        }
    }
}

/// Asks `child` to end.
pub(super) fn terminate(child: &tokio::process::Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // SAFETY: no memory involved; the child is not yet waited for, so the number is still its.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// The command's code, or 128 plus the signal that ended it, as a shell does.
pub(super) fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
