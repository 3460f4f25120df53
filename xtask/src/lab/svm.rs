//! Scenario `svm`: KVM guests nested in the lab VM, on the AMD virtualization that QEMU emulates.
//!
//! In one run tracefs histograms and tdtrace count the same KVM events; the workload knows what it
//! made. All three must agree, for every thread and every item.

mod counts;
mod hist;
mod json;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::{
    Base, Options, binary,
    initramfs::{Archive, SCENARIO},
    prepare,
    vm::{Report, Vm},
};

use self::{
    counts::{Lost, Row, Threads, compare, unaccounted},
    hist::EVENTS,
};

/// What each vCPU is asked for: the workload's option, its name in the workload's JSON, how many.
const ASKED: [(&str, &str, u64); 9] = [
    ("--pio", "pio_out", 2000),
    ("--pio-in", "pio_in", 700),
    ("--mmio-write", "mmio_write", 2000),
    ("--mmio-read", "mmio_read", 500),
    ("--fast-mmio", "fast_mmio", 900),
    ("--cpuid", "cpuid", 2000),
    ("--msr", "msr_read", 1000),
    ("--msr-write", "msr_write", 300),
    ("--hlt", "hlt", 100),
];

/// More vCPUs than the lab VM has CPUs, so that they also preempt each other and migrate.
const VMS: u64 = 2;
const VCPUS: u64 = 2;

/// Runs the scenario and prints the comparison.
///
/// # Errors
/// When the VM cannot be prepared or fails, or when a count differs.
pub(super) fn run(options: &Options) -> Result<()> {
    let Base { kernel, archive, limit } = prepare(options, &["kvm-amd"])?;
    let tdtrace = match &options.tdtrace {
        Some(file) => file.clone(),
        None => binary::build()?,
    };
    let dir = binary::target_dir()?.join("lab").join(format!("svm-{}", kernel.release));
    let vm = Vm {
        vmlinuz: kernel.vmlinuz,
        initramfs: vec![archive, scenario(&tdtrace)?],
        dir: dir.clone(),
        limit,
    };
    let report = vm.run()?;
    let (rows, lost) =
        judge(&report).with_context(|| format!("the files are in {}", dir.display()))?;
    println!("{}", Row::header());
    for row in rows.iter().filter(|row| !row.is_empty()) {
        println!("{row}{}", if row.agrees(&lost) { "" } else { "  differs" });
    }
    let unaccounted = unaccounted(&rows, &lost);
    for line in &unaccounted {
        println!("{line}");
    }
    let differ = rows.iter().filter(|row| !row.agrees(&lost)).count() + unaccounted.len();
    println!(
        "kernel {}: {} counts, {differ} differ, {} events lost and counted; {}",
        report.text("release")?.trim(),
        rows.len(),
        lost.values().sum::<u64>(),
        report.times()
    );
    if differ > 0 {
        bail!("{differ} counts differ; the files are in {}", dir.display());
    }
    Ok(())
}

fn scenario(tdtrace: &Path) -> Result<Vec<u8>> {
    let program =
        fs::read(tdtrace).with_context(|| format!("{} cannot be read", tdtrace.display()))?;
    let mut archive = Archive::default();
    archive.file(SCENARIO, include_bytes!("svm/svm.sh"))?;
    archive.file("lab/events", events().as_bytes())?;
    archive.file("lab/workload", workload().as_bytes())?;
    archive.program("bin/tdtrace", &program)?;
    archive.finish()
}

/// Lines of `<group> <event> <keys>` for the script.
fn events() -> String {
    EVENTS.iter().map(|event| format!("{} {} {}\n", event.group, event.name, event.keys)).collect()
}

/// The workload's arguments.
fn workload() -> String {
    let counts: String =
        ASKED.iter().map(|(option, _, count)| format!("{option} {count} ")).collect();
    format!("{counts}--vms {VMS} --vcpus {VCPUS}\n")
}

fn judge(report: &Report) -> Result<(Vec<Row>, Lost)> {
    let mut tracefs = Threads::new();
    for event in &EVENTS {
        event.read(report.text(&format!("hist/{}", event.name))?, &mut tracefs)?;
    }
    let stat = json::stat(report.text("stat.json")?)?;
    let asked = ASKED.map(|(_, name, count)| (name, count));
    let workload = json::workload(report.text("work.json")?, &asked)?;
    if workload.len() as u64 != VMS * VCPUS {
        bail!("the workload ran {} vCPUs of {}", workload.len(), VMS * VCPUS);
    }
    Ok((compare(tracefs, stat.threads, &stat.outside, &workload)?, stat.lost))
}
