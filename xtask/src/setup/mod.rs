//! `cargo xtask setup`: what building and running tdtrace needs, as a list of steps.
//!
//! A step knows whether it is done, how to do it, and what to tell a user who has to do it. Nothing
//! is done twice, so a second run works offline.

mod crates;
mod lints;
mod llvm;
mod rustc;
mod tracefs;

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use xtask::toolchain::{BPF_LINKER_VERSION, EbpfToolchain};

pub(crate) use self::rustc::Rustc;

/// Installs what building and running tdtrace needs; does nothing when nothing is missing.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only report; exit with 1 when something is missing
    #[arg(long)]
    check: bool,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// `cargo build` fails without it.
    Build,
    /// tdtrace sees less without it.
    Run,
    /// `cargo xtask test` wants it.
    Test,
}

/// Whether a step is done, with what is there or what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Done(String),
    Missing(String),
}

/// What the steps have found so far.
struct Plan {
    /// The compiler that cargo uses here.
    active: Rustc,
    /// The compiler of the eBPF crate, once it is there.
    compiler: Option<Rustc>,
}

impl Plan {
    fn new() -> Result<Self> {
        let mut plan = Self { active: Rustc::active()?, compiler: None };
        // What an earlier run recorded stays, as long as it works.
        plan.compiler = EbpfToolchain::load()
            .and_then(|record| Rustc::ask(&record.rustc))
            .ok()
            .filter(Rustc::has_source)
            .or_else(|| rustc::find(&plan));
        Ok(plan)
    }

    fn compiler(&self) -> Result<&Rustc> {
        self.compiler.as_ref().ok_or_else(|| anyhow!("there is no compiler for the eBPF crate yet"))
    }
}

struct Step {
    name: fn(&Plan) -> String,
    need: Need,
    state: fn(&Plan) -> State,
    /// Does it, printing one line a command that begins with the given text.
    act: fn(&mut Plan, &str) -> Result<()>,
    /// The command for a user whose set-up could not do it.
    by_hand: fn(&Plan) -> String,
}

/// For steps that fail for want of the network alone.
const AGAIN: &str = "cargo xtask setup (with network)";

/// In the order in which they build on each other.
const STEPS: &[Step] = &[
    Step {
        name: |_| "rustc for the eBPF crate".into(),
        need: Need::Build,
        state: rustc::state,
        act: rustc::act,
        by_hand: rustc::by_hand,
    },
    Step {
        name: |_| "its library sources".into(),
        need: Need::Build,
        state: rustc::source_state,
        act: rustc::source_act,
        by_hand: rustc::source_by_hand,
    },
    Step {
        name: |plan| match plan.compiler() {
            Ok(compiler) => format!("LLVM {} development files", compiler.version.llvm),
            Err(_) => "LLVM development files".into(),
        },
        need: Need::Build,
        state: llvm::state,
        act: llvm::act,
        by_hand: llvm::by_hand,
    },
    Step {
        name: |_| format!("bpf-linker {BPF_LINKER_VERSION}"),
        need: Need::Build,
        state: llvm::linker_state,
        act: llvm::linker_act,
        by_hand: |_| AGAIN.into(),
    },
    Step {
        name: |_| "crates of the lock file".into(),
        need: Need::Build,
        state: crates::state,
        act: crates::act,
        by_hand: |_| AGAIN.into(),
    },
    Step {
        name: |_| "tracefs".into(),
        need: Need::Run,
        state: |_| tracefs::state(),
        act: |_, prefix| tracefs::act(prefix),
        by_hand: |_| tracefs::COMMAND.into(),
    },
    Step {
        name: |_| "rustfmt and clippy".into(),
        need: Need::Test,
        state: lints::state,
        act: lints::act,
        by_hand: lints::by_hand,
    },
];

/// What could not be done, with the command for the user.
#[derive(Debug)]
pub(crate) struct Left {
    pub(crate) need: Need,
    name: String,
    command: String,
}

/// Runs the command.
///
/// Exit codes: 0 nothing is missing, 1 something is.
///
/// # Errors
/// When there is no rustc.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.check {
        let complete = report(Need::Run)?;
        let verdict = if complete { "set-up is complete" } else { "run `cargo xtask setup`" };
        println!("{verdict}");
        return Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let left = complete(Need::Run, true)?;
    if left.is_empty() {
        println!("set-up is complete");
        return Ok(ExitCode::SUCCESS);
    }
    print_left(&left);
    Ok(ExitCode::FAILURE)
}

/// Does what is missing up to `need`, for another command.
///
/// # Errors
/// When something that `cargo build` needs is still missing; the rest is returned.
pub(crate) fn ensure(need: Need) -> Result<Vec<Left>> {
    let left = complete(need, false)?;
    if !left.is_empty() {
        print_left(&left);
    }
    if lacks_build(&left) {
        return Err(anyhow!("tdtrace cannot be built before that is done"));
    }
    Ok(left)
}

fn print_left(left: &[Left]) {
    println!("left for you to do:");
    for item in left {
        println!("    {}: {}", item.name, item.command);
    }
    if left.iter().any(|left| left.need == Need::Build && left.command != AGAIN) {
        println!("then run `cargo xtask setup` again; it does the rest");
    }
}

fn steps(need: Need) -> impl Iterator<Item = (String, &'static Step)> {
    let count = STEPS.iter().filter(|step| step.need <= need).count();
    STEPS
        .iter()
        .filter(move |step| step.need <= need)
        .enumerate()
        .map(move |(i, step)| (format!("[{}/{count}]", i + 1), step))
}

/// Prints the state of every step; whether all are done.
fn report(need: Need) -> Result<bool> {
    let plan = Plan::new()?;
    let mut complete = true;
    for (number, step) in steps(need) {
        let name = (step.name)(&plan);
        match (step.state)(&plan) {
            State::Done(what) => println!("{number} {name}: {what}"),
            State::Missing(what) => {
                println!("{number} {name}: missing: {what}");
                complete = false;
            }
        }
    }
    Ok(complete)
}

/// Does every step that is missing and returns those that could not be done. With `verbose` a
/// finished step is named as well.
fn complete(need: Need, verbose: bool) -> Result<Vec<Left>> {
    let mut plan = Plan::new()?;
    let mut left: Vec<Left> = Vec::new();
    for (number, step) in steps(need) {
        let name = (step.name)(&plan);
        match (step.state)(&plan) {
            State::Done(what) if verbose => println!("{number} {name}: {what}"),
            State::Done(_) => {}
            State::Missing(what) => {
                if let Err(why) = act(step, &mut plan, &format!("{number} {name}: ")) {
                    println!("{number} {name}: {what}; {why:#}");
                    // Of the build steps the first counts: the others may only wait for it.
                    if step.need != Need::Build || !lacks_build(&left) {
                        left.push(Left { need: step.need, name, command: (step.by_hand)(&plan) });
                    }
                }
            }
        }
    }
    Ok(left)
}

fn lacks_build(left: &[Left]) -> bool {
    left.iter().any(|left| left.need == Need::Build)
}

/// Does a step and looks whether that was enough.
fn act(step: &Step, plan: &mut Plan, prefix: &str) -> Result<()> {
    (step.act)(plan, prefix)?;
    match (step.state)(plan) {
        State::Done(_) => Ok(()),
        State::Missing(what) => Err(anyhow!("still missing: {what}")),
    }
}
