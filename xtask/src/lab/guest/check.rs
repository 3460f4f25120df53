//! The step `check`: `tdtrace check` over the lab's driver, with its struct over the registers, must
//! fail with the right line, and pass with an allowlist.

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use super::{
    Seen,
    steps::{DRIVER_ROUNDS, Sizes, expect, run},
};

/// The driver may, until the end of days; nothing needs the second entry.
const ALLOW: &str = "[[allow]]\\nmodule = \\\"tdlab-drv\\\"\\nreason = \\\"the lab\\\"\\nexpires = 9999-12-31\\n\
                     [[allow]]\\nsymbol = \\\"labnic_gone\\\"\\nreason = \\\"was there once\\\"\\n";

/// The statement that is read, changed and written in one instruction, and its function.
const STATEMENT: &str = "nic.regs->irq_mask |= LABNIC_IRQ_RX;";
const FUNCTION: &str = "labnic_enable_irq";
const SOURCE: &str = include_str!("../../../lab/tdlab/tdlab_drv.c");

/// Fails with findings, passes with an allowlist, and says that a command failed.
pub(super) fn command() -> String {
    let driver = run("driver", DRIVER_ROUNDS);
    let check = "tdtrace check --guest --module /lab/tdlab_drv.ko";
    format!(
        "{check} -o $OUT/text --sarif $OUT/sarif --junit $OUT/junit -- sh -c '{driver}'; \
         [ $? = 3 ] || exit 1; \
         printf '%b' \"{ALLOW}\" >$OUT/allow.toml; \
         {check} --allow $OUT/allow.toml -o $OUT/allowed --json $OUT/json -- sh -c '{driver}' || exit 2; \
         {check} -o $OUT/failed -- sh -c 'exit 7'; [ $? = 4 ] || exit 3"
    )
}

/// What the step must have left.
pub(super) fn check(seen: &Seen, _: Sizes) -> Result<()> {
    let text = |name: &str| {
        let file = seen.files.get(name).ok_or_else(|| anyhow!("there is no {name}"))?;
        str::from_utf8(file).with_context(|| format!("{name} is no text"))
    };
    let sarif: Value = serde_json::from_str(text("sarif")?).context("the SARIF")?;
    check_sarif(&sarif)?;
    let junit = text("junit")?;
    if !junit.contains("name=\"undecodable-mmio\" time=\"0\">\n<failure ") {
        bail!("JUnit has no failure of undecodable-mmio: {junit}");
    }
    let json: Value = serde_json::from_str(text("json")?).context("the JSON")?;
    let number = |name: &str| json[name].as_u64().unwrap_or(u64::MAX);
    expect("findings that fail in spite of the allowlist", number("failing"), 0)?;
    if number("allowed") == 0 {
        bail!("nothing was allowed");
    }
    let unused = json["unused"].as_array().map_or(0, Vec::len) as u64;
    expect("entries that nothing needed", unused, 1)?;
    if !text("failed")?.contains("the command failed with exit code 7") {
        bail!("that the command failed is not said");
    }
    Ok(())
}

fn check_sarif(sarif: &Value) -> Result<()> {
    let results = sarif["runs"][0]["results"].as_array().ok_or_else(|| anyhow!("no results"))?;
    let function = |result: &Value| {
        result.pointer("/locations/0/logicalLocations/0/name").and_then(Value::as_str)
            == Some(FUNCTION)
    };
    let result = results
        .iter()
        .find(|result| result["ruleId"] == "undecodable-mmio" && function(result))
        .ok_or_else(|| anyhow!("SARIF has no undecodable-mmio in {FUNCTION}"))?;
    let at = |pointer: &str| {
        result.pointer(pointer).ok_or_else(|| anyhow!("the result has no {pointer}: {result}"))
    };
    let line = at("/locations/0/physicalLocation/region/startLine")?.as_u64();
    let expected = SOURCE.lines().position(|line| line.trim() == STATEMENT).map(|at| at as u64 + 1);
    if line != expected || line.is_none() {
        bail!("the result is at line {line:?} instead of {expected:?}");
    }
    let file = at("/locations/0/physicalLocation/artifactLocation/uri")?.as_str();
    if !file.is_some_and(|file| file.ends_with("/tdlab_drv.c") || file == "tdlab_drv.c") {
        bail!("the result is in {file:?}");
    }
    for (pointer, expected) in [
        ("/level", "error"),
        ("/locations/0/logicalLocations/1/name", "tdlab_drv"),
        ("/partialFingerprints/tdtrace~1v1", "undecodable-mmio/tdlab_drv/labnic_enable_irq/OR/0"),
    ] {
        if at(pointer)? != expected {
            bail!("{pointer} is {} instead of {expected:?}", at(pointer)?);
        }
    }
    if at("/properties/evidence")?.as_array().is_none_or(Vec::is_empty) {
        bail!("the result has no evidence");
    }
    Ok(())
}
