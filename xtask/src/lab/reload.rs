//! Scenario `reload`: tdtrace is there before KVM and stays while a module of KVM is loaded anew.
//!
//! What it must have counted of the guests of both loads is known; that kvm itself cannot go while
//! tdtrace is attached is checked as well.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    Options,
    initramfs::{Archive, SCENARIO},
    prepare, read,
    vm::Report,
};

/// Port writes of the guests before and after the reload, as the script asks for them.
const PORT_WRITES: [u64; 2] = [500, 700];

/// Runs the scenario and says what was seen.
///
/// # Errors
/// When the VM cannot be prepared or fails, or when a guest was not counted as it should.
pub(super) fn run(options: &Options) -> Result<()> {
    let base = prepare(options, &["kvm-amd"])?;
    let program = read(&options.tdtrace()?)?;
    let mut scenario = Archive::default();
    scenario.file(SCENARIO, include_bytes!("reload/reload.sh"))?;
    scenario.program("bin/tdtrace", &program)?;
    let vm = base.vm("reload", &[&scenario.finish()?]);
    let report = vm.run()?;
    judge(&report).with_context(|| format!("the files are in {}", vm.dir.display()))?;
    println!(
        "kernel {}: a guest of each load of kvm_amd counted exactly, kvm pinned while attached; {}",
        base.kernel.release,
        report.times()
    );
    Ok(())
}

fn judge(report: &Report) -> Result<()> {
    let text = report.text("top.json")?;
    let last = text.lines().rfind(|line| line.ends_with('}')).context("top printed nothing")?;
    let last: Value = serde_json::from_str(last).context("top's last line is no JSON")?;
    counted(&last)?;
    let pinned = report.text("pinned")?;
    ensure!(pinned.trim() == "pinned", "kvm was unloaded under an attached program");
    Ok(())
}

/// The guests of both loads are there, ended, with what they made, and nothing was lost.
fn counted(last: &Value) -> Result<()> {
    let vms = last["vms"].as_array().context("top shows no list of VMs")?;
    let writes: Vec<_> = vms.iter().map(|vm| vm["counts"]["pio_out"].as_u64()).collect();
    if writes != PORT_WRITES.map(Some) {
        bail!("the guests made {PORT_WRITES:?} port writes, top shows {writes:?}");
    }
    for vm in vms {
        ensure!(vm["state"] == "ended", "a guest that ended is shown as running: {vm}");
        ensure!(vm["audit"]["agrees"] == true, "KVM's own count is another one: {vm}");
        // Named as SVM names it, although kvm_amd may be gone when the last sample is taken.
        ensure!(vm["exit_reasons"]["IOIO"] == vm["counts"]["pio_out"], "other reasons: {vm}");
    }
    ensure!(last["lost"]["total"] == 0, "events were lost: {}", last["lost"]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(writes: u64) -> Value {
        json!({
            "counts": {"pio_out": writes}, "state": "ended", "audit": {"agrees": true},
            "exit_reasons": {"IOIO": writes, "CPUID": 100, "HLT": 1},
        })
    }

    #[test]
    fn both_guests_must_be_there_with_what_they_made() {
        let shown = |vms: &[Value]| json!({"vms": vms, "lost": {"total": 0}});
        assert!(counted(&shown(&[vm(500), vm(700)])).is_ok());
        assert!(counted(&shown(&[vm(700)])).is_err());
        assert!(counted(&shown(&[vm(500), vm(699)])).is_err());
        let mut running = vm(700);
        running["state"] = "".into();
        assert!(counted(&shown(&[vm(500), running])).is_err());
        let mut lost = shown(&[vm(500), vm(700)]);
        lost["lost"]["total"] = 1.into();
        assert!(counted(&lost).is_err());
    }
}
