//! Scenario `attach`: the tests that attach to functions of the kernel, where this machine's may not
//! allow it.

use anyhow::{Result, ensure};

use crate::binary;

use super::{
    Options,
    initramfs::{Archive, SCENARIO},
    prepare, read,
};

/// The test, and the feature that it asks for.
const TEST: &str = "attach_seam";
const FEATURE: &str = "test-attach";

/// What the VM does.
const SCRIPT: &str =
    "attach_seam --test-threads 1 >/out/tests 2>&1\nstatus=$?\ncat /out/tests\nexit $status\n";

/// Runs the scenario and says what was seen.
///
/// # Errors
/// When the VM cannot be prepared or fails, or when a test does.
pub(super) fn run(options: &Options) -> Result<()> {
    let base = prepare(options, &[])?;
    let program = read(&binary::build_test(TEST, FEATURE)?)?;
    let mut scenario = Archive::default();
    scenario.file(SCENARIO, SCRIPT.as_bytes())?;
    scenario.program(&format!("bin/{TEST}"), &program)?;
    let vm = base.vm("attach", &[&scenario.finish()?]);
    let report = vm.run()?;
    let passed = report.text("tests")?.lines().filter(|line| line.ends_with(" ... ok")).count();
    ensure!(passed > 0, "no test ran; the files are in {}", vm.dir.display());
    println!("kernel {}: {passed} tests of {TEST} passed; {}", base.kernel.release, report.times());
    Ok(())
}
