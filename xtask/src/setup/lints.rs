//! rustfmt and clippy, which only `cargo xtask test` needs.

use std::{path::Path, process::Command};

use anyhow::Result;

use super::{Plan, Rustc, State};
use crate::{packages, progress, workspace};

const DISTRIBUTION: [&str; 2] = ["rustfmt-web", "rust-web-clippy"];

fn has(compiler: &Rustc, component: &str) -> bool {
    let program = if component == "clippy" { "clippy-driver" } else { component };
    compiler.sysroot.join("bin").join(program).is_file()
}

/// What is missing: of the active compiler both, of the eBPF crate's clippy alone.
fn missing(plan: &Plan) -> Vec<(&Rustc, &'static str)> {
    let active = ["rustfmt", "clippy"].map(|component| (&plan.active, component));
    let ebpf = plan.compiler.iter().map(|compiler| (compiler, "clippy"));
    active
        .into_iter()
        .chain(ebpf)
        .filter(|(compiler, component)| !has(compiler, component))
        .collect()
}

/// State of the step.
pub(super) fn state(plan: &Plan) -> State {
    match missing(plan).first() {
        None => State::Done("there".into()),
        Some((compiler, component)) => {
            State::Missing(format!("no {component} for rustc {}", compiler.version.release))
        }
    }
}

/// Adds what is missing.
pub(super) fn act(plan: &mut Plan, prefix: &str) -> Result<()> {
    for (compiler, component) in missing(plan) {
        // Both compilers may be the same one.
        if has(compiler, component) {
            continue;
        }
        match add(compiler, component) {
            Some(command) => progress::run_line(&format!("{prefix}adding {component}"), command)?,
            None => return packages::install(prefix, &DISTRIBUTION.map(String::from)),
        }
    }
    Ok(())
}

fn add(compiler: &Rustc, component: &str) -> Option<Command> {
    let name = compiler.rustup_name()?;
    let rustup = workspace::program("rustup").unwrap_or_else(|| Path::new("rustup").to_owned());
    let mut command = Command::new(rustup);
    command.args(["component", "add", component, "--toolchain", name]);
    Some(command)
}

/// What the user can do.
pub(super) fn by_hand(plan: &Plan) -> String {
    match missing(plan).first() {
        Some((compiler, component)) => add(compiler, component).map_or_else(
            || packages::install_command(&DISTRIBUTION.map(String::from)),
            |command| progress::shell_line(&command),
        ),
        None => "cargo xtask test".into(),
    }
}
