//! The kinds of tests, as a table, and how each one runs.
//!
//! A privileged test is a file of `tdtrace/tests` whose `[[test]]` entry asks for a feature, which
//! plain `cargo test` does not have: `required-features = ["test-root"]` or `["test-kvm"]`. Those with
//! `["test-attach"]` run in the lab.

use std::process::Command;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use serde_json::Value;
use xtask::toolchain::EbpfToolchain;

use super::{Context, Tally, output, privileges};
use crate::{
    lab, licences, progress,
    workspace::{self, TEST_FEATURES},
};

/// The release whose lints count. A later compiler knows more of them; their warnings are shown to
/// those who build with it and fail nothing.
const LINTS: (u32, u32) = (1, 95);

/// A kind of tests.
pub(crate) struct Kind {
    /// Its name for `--without`, `--only` and the summary.
    pub(crate) name: &'static str,
    /// Whether there are tests of it.
    pub(crate) exists: fn(&Context) -> bool,
    /// What the machine lacks for it, as a sentence.
    pub(crate) missing: fn(&Context) -> Option<String>,
    /// Runs it and prints its lines.
    pub(crate) run: fn(&Context) -> Result<Tally>,
}

/// In the order they run: the quick ones first. A new kind is a new entry.
pub(crate) const ALL: &[Kind] = &[
    Kind { name: "format", exists: always, missing: nothing, run: |_| format() },
    Kind { name: "licences", exists: always, missing: nothing, run: licences },
    Kind { name: "clippy", exists: always, missing: nothing, run: clippy },
    Kind { name: "unit", exists: always, missing: nothing, run: unit },
    Kind { name: "docs", exists: always, missing: nothing, run: docs },
    Kind {
        name: "root",
        exists: |context| !targets(context, Some("test-root")).is_empty(),
        missing: |_| privileges::for_bpf(),
        run: |context| privileged(context, "root", "test-root"),
    },
    Kind {
        name: "kvm",
        exists: |context| !targets(context, Some("test-kvm")).is_empty(),
        missing: |_| privileges::for_kvm(),
        run: |context| privileged(context, "kvm", "test-kvm"),
    },
    Kind { name: "lab", exists: always, missing: lab_missing, run: |_| lab() },
];

/// The names that the command line takes.
pub(super) fn names() -> PossibleValuesParser {
    PossibleValuesParser::new(ALL.iter().map(|kind| kind.name))
}

fn always(_: &Context) -> bool {
    true
}

fn nothing(_: &Context) -> Option<String> {
    None
}

/// Cargo for all crates but the eBPF one, with the features of all tests, so that nothing is
/// compiled twice.
fn cargo(verb: &str) -> Command {
    let mut command = workspace::cargo();
    command.args([verb, "--locked", "--workspace", "--exclude", "tdtrace-ebpf"]);
    command.args(["--features", TEST_FEATURES]);
    command
}

fn format() -> Result<Tally> {
    let mut command = workspace::cargo();
    command.args(["fmt", "--all", "--check", "--", "--color", "never"]);
    check("format", command)
}

fn licences(context: &Context) -> Result<Tally> {
    progress::begin("licences");
    let found = licences::check(&context.metadata)?;
    if found.refused.is_empty() {
        progress::end(&format!("{} packages", found.packages));
        return Ok(Tally::default());
    }
    progress::end("failed");
    for line in &found.refused {
        println!("    {line}");
    }
    Ok(Tally { passed: 0, failed: 1 })
}

fn clippy(context: &Context) -> Result<Tally> {
    let mut user = cargo("clippy");
    user.arg("--all-targets");
    let toolchain = EbpfToolchain::load()?;
    let mut ebpf = toolchain.clippy();
    ebpf.current_dir(workspace::root());
    ebpf.arg("--target-dir").arg(workspace::target().join("ebpf"));
    if warnings_fail(context) {
        user.args(["--", "-D", "warnings"]);
        ebpf.args(["--", "-D", "warnings"]);
    }
    let tally = check("clippy", user)?;
    let more = check("clippy of the eBPF crate", ebpf)?;
    Ok(Tally { passed: 0, failed: tally.failed + more.failed })
}

fn docs(context: &Context) -> Result<Tally> {
    let mut command = cargo("doc");
    // With `--examples` dev-dependencies count, and their features are those of the other kinds.
    command.args(["--no-deps", "--lib", "--examples", "--document-private-items"]);
    if warnings_fail(context) {
        // Private items are always documented, so a link to one holds.
        command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    }
    check("docs", command)
}

fn warnings_fail(context: &Context) -> bool {
    context.active.version.minor() <= LINTS
}

/// What the lab takes that cannot be fetched here.
fn lab_missing(_: &Context) -> Option<String> {
    lab::missing()
}

/// The scenarios in the lab VM that take seconds; the rest is for `cargo xtask lab`.
fn lab() -> Result<Tally> {
    let svm = || lab::run_svm(&lab::Options::default());
    let attach = || lab::run_attach(&lab::Options::default());
    let mut tally = Tally::default();
    for (name, scenario) in
        [("svm", svm as fn() -> Result<()>), ("attach", attach), ("guest", lab::run_guest)]
    {
        println!("lab: scenario {name}");
        match scenario() {
            Ok(()) => tally.passed += 1,
            Err(error) => {
                println!("    failed: {error:#}");
                tally.failed += 1;
            }
        }
    }
    Ok(tally)
}

/// A command that says yes or no.
fn check(name: &str, command: Command) -> Result<Tally> {
    progress::begin(name);
    let finished = progress::run_hidden(command)?;
    let elapsed = progress::seconds(finished.elapsed);
    if finished.status.success() {
        progress::end(&format!("ok {elapsed}"));
        return Ok(Tally::default());
    }
    progress::end(&format!("failed {elapsed}"));
    print!("{}", output::without_passed(&finished.output));
    Ok(Tally { passed: 0, failed: 1 })
}

fn unit(context: &Context) -> Result<Tally> {
    let mut command = cargo("test");
    command.args(["--no-fail-fast", "--lib", "--bins"]);
    for name in targets(context, None) {
        command.args(["--test", name]);
    }
    let code = tests("unit", command)?;
    let mut command = cargo("test");
    command.args(["--no-fail-fast", "--doc"]);
    let examples = tests("examples in the docs", command)?;
    Ok(Tally { passed: code.passed + examples.passed, failed: code.failed + examples.failed })
}

/// One after the other: they share the kernel.
fn privileged(context: &Context, kind: &str, feature: &str) -> Result<Tally> {
    let mut command = cargo("test");
    command.arg("--no-fail-fast");
    for name in targets(context, Some(feature)) {
        command.args(["--test", name]);
    }
    command.args(["--", "--test-threads=1"]);
    let tally = tests(kind, command)?;
    if tally == Tally::default() {
        bail!("the files of kind {kind} hold no test");
    }
    Ok(tally)
}

/// A `cargo test` whose tests are counted.
fn tests(name: &str, mut command: Command) -> Result<Tally> {
    progress::begin(name);
    // Snapshots are compared; the source tree is not written to.
    command.env("INSTA_UPDATE", "no");
    let finished = progress::run_hidden(command)?;
    let elapsed = progress::seconds(finished.elapsed);
    let mut tally = output::tally(&finished.output);
    if finished.status.success() {
        progress::end(&format!("{} passed {elapsed}", tally.passed));
        return Ok(tally);
    }
    // One that did not compile prints no result.
    tally.failed = tally.failed.max(1);
    progress::end(&format!("{} passed, {} failed {elapsed}", tally.passed, tally.failed));
    print!("{}", output::without_passed(&finished.output));
    Ok(tally)
}

/// The integration tests that ask for `feature`; with `None` those that ask for none.
fn targets<'a>(context: &'a Context, feature: Option<&str>) -> Vec<&'a str> {
    integration_tests(&context.metadata)
        .filter(|target| match feature {
            Some(feature) => required_features(target).any(|required| required == feature),
            None => required_features(target).next().is_none(),
        })
        .map(|target| workspace::text(target, "name"))
        .collect()
}

fn integration_tests(metadata: &Value) -> impl Iterator<Item = &Value> {
    let members = metadata.get("workspace_members").and_then(Value::as_array);
    let is_member = move |package: &&Value| {
        members.is_some_and(|members| members.iter().any(|id| Some(id) == package.get("id")))
    };
    array(metadata, "packages")
        .filter(is_member)
        .flat_map(|package| array(package, "targets"))
        .filter(|target| array(target, "kind").any(|kind| kind == "test"))
}

fn required_features(target: &Value) -> impl Iterator<Item = &str> {
    array(target, "required-features").filter_map(Value::as_str)
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value.get(key).and_then(Value::as_array).into_iter().flatten()
}

/// Holds the names of the test files against what they ask for: without the feature a privileged
/// test would fail in plain `cargo test`, with an unknown one it would never run.
///
/// # Errors
/// Naming the first entry of `tdtrace/Cargo.toml` that is wrong.
pub(super) fn check_declarations(context: &Context) -> Result<()> {
    for target in integration_tests(&context.metadata) {
        let name = workspace::text(target, "name");
        let feature = match name.split('_').next() {
            Some("root") => Some("test-root"),
            Some("kvm") => Some("test-kvm"),
            Some("attach") => Some("test-attach"),
            _ => None,
        };
        let required: Vec<&str> = required_features(target).collect();
        if required != feature.iter().copied().collect::<Vec<_>>() {
            let wanted: Vec<&str> = feature.into_iter().collect();
            bail!(
                "the test {name} has required-features = {required:?} in its Cargo.toml; \
                 its name asks for {wanted:?}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::setup::Rustc;

    fn context(targets: &Value) -> Context {
        let metadata = json!({
            "workspace_members": ["own"],
            "packages": [
                { "id": "own", "targets": targets },
                { "id": "other", "targets": [{ "name": "theirs", "kind": ["test"] }] },
            ],
        });
        Context { metadata, active: Rustc::active().unwrap() }
    }

    #[test]
    fn a_test_belongs_to_the_kind_whose_feature_it_requires() {
        let context = context(&json!([
            { "name": "tdtrace", "kind": ["lib"] },
            { "name": "golden", "kind": ["test"] },
            { "name": "kvm_counting", "kind": ["test"], "required-features": ["test-kvm"] },
            { "name": "root_load", "kind": ["test"], "required-features": ["test-root"] },
        ]));
        assert_eq!(targets(&context, None), ["golden"]);
        assert_eq!(targets(&context, Some("test-kvm")), ["kvm_counting"]);
        assert_eq!(targets(&context, Some("test-root")), ["root_load"]);
        check_declarations(&context).unwrap();
    }

    #[test]
    fn a_kind_without_tests_does_not_exist() {
        let context = context(&json!([{ "name": "golden", "kind": ["test"] }]));
        let names: Vec<&str> =
            ALL.iter().filter(|kind| (kind.exists)(&context)).map(|kind| kind.name).collect();
        assert_eq!(names, ["format", "licences", "clippy", "unit", "docs", "lab"]);
    }

    #[test]
    fn a_privileged_test_without_its_feature_is_refused_by_name() {
        let context = context(&json!([{ "name": "kvm_counting", "kind": ["test"] }]));
        let error = check_declarations(&context).unwrap_err().to_string();
        assert!(error.contains("kvm_counting") && error.contains("test-kvm"), "{error}");
    }

    #[test]
    fn a_test_that_no_kind_runs_is_refused() {
        let odd = json!([{ "name": "odd", "kind": ["test"], "required-features": ["test-odd"] }]);
        assert!(check_declarations(&context(&odd)).is_err());
    }
}
