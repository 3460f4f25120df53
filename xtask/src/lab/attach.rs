//! Scenario `attach`: the tests that attach to functions of the kernel, where this machine's may not
//! allow it.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{binary, workspace};

use super::{
    Base, Options,
    initramfs::{Archive, SCENARIO},
    prepare,
    vm::Vm,
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
    let Base { kernel, archive, limit } = prepare(options, &[])?;
    let test = binary::build_test(TEST, FEATURE)?;
    let program = fs::read(&test).with_context(|| format!("{} cannot be read", test.display()))?;
    let mut scenario = Archive::default();
    scenario.file(SCENARIO, SCRIPT.as_bytes())?;
    scenario.program(&format!("bin/{TEST}"), &program)?;
    let dir = workspace::target().join("lab").join(format!("attach-{}", kernel.release));
    let vm = Vm {
        vmlinuz: kernel.vmlinuz,
        initramfs: vec![archive, scenario.finish()?],
        dir: dir.clone(),
        limit,
    };
    let report = vm.run()?;
    let passed = report.text("tests")?.lines().filter(|line| line.ends_with(" ... ok")).count();
    ensure!(passed > 0, "no test ran; the files are in {}", dir.display());
    println!("kernel {}: {passed} tests of {TEST} passed; {}", kernel.release, report.times());
    Ok(())
}
