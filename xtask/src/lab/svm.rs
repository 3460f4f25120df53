//! Scenario `svm`: KVM guests nested in the lab VM, on the AMD virtualization that QEMU emulates.
//!
//! First the kernel's own trace and tdtrace take the times of one guest, and must agree. Then, in one
//! run, tracefs histograms and tdtrace count the same KVM events; the workloads know what they
//! made. All three must agree, for every thread and every item.

mod counts;
mod hist;
mod json;

use anyhow::{Context as _, Result, bail};
use tdtrace_common::{counters::Class, svm};

use super::{
    Options,
    initramfs::{Archive, SCENARIO},
    prepare, read,
    times::{self, Line},
    vm::Report,
};

use self::{
    counts::{Item, Lost, Row, Thread, Threads, compare, unaccounted},
    hist::EVENTS,
};

/// Guests of one `tdtrace workload`.
struct Guests {
    /// The file with its JSON, without `.json`.
    name: &'static str,
    /// What each vCPU is asked for: the option, its name in the JSON, how many.
    asked: &'static [(&'static str, &'static str, u64)],
    /// Further options.
    options: &'static str,
    /// How many events of a class each of its threads has at least, as tracefs counts them.
    least: &'static [(Class, u64)],
    vms: u64,
    vcpus: u64,
}

/// The guests, one workload after the other. The first have more vCPUs than the lab VM has CPUs, so that
/// they also preempt each other and migrate.
const GUESTS: [Guests; 3] = [
    Guests {
        name: "exits",
        asked: &[
            ("--pio", "pio_out", 1500),
            ("--pio-in", "pio_in", 700),
            ("--mmio-write", "mmio_write", 1500),
            ("--mmio-read", "mmio_read", 500),
            ("--fast-mmio", "fast_mmio", 900),
            ("--cpuid", "cpuid", 1500),
            ("--msr", "msr_read", 1000),
            ("--msr-write", "msr_write", 300),
            ("--hlt", "hlt", 100),
        ],
        options: "",
        least: &[],
        vms: 2,
        vcpus: 2,
    },
    Guests {
        name: "interrupts",
        asked: &[
            ("--halt", "halt", 300),
            ("--pio", "pio_out", 200),
            ("--msr-write", "msr_write", 50),
        ],
        options: "--halt-us 300",
        // An exit that breaks into a delivery makes KVM inject once more.
        least: &[(Class::Interrupt, 300), (Class::Halt, 1)],
        vms: 1,
        vcpus: 2,
    },
    Guests {
        name: "kicks",
        asked: &[("--halt", "halt", 200)],
        options: "--halt-us 100 --wake kick",
        least: &[(Class::Halt, 1)],
        vms: 2,
        vcpus: 1,
    },
];

/// The workload whose durations are compared: as many vCPUs as the lab VM has CPUs.
const TIMED_GUEST: &str = "--pio 300 --pio-in 200 --mmio-read 200 --cpuid 500 --msr 300 --halt 150 \
                           --halt-us 500 --vcpus 2";

/// Runs the scenario and prints the comparison.
///
/// # Errors
/// When the VM cannot be prepared or fails, or when a number differs.
pub(super) fn run(options: &Options) -> Result<()> {
    let base = prepare(options, &["kvm-amd"])?;
    let vm = base.vm("svm", &[&scenario(&read(&options.tdtrace()?)?)?]);
    let report = vm.run()?;
    let files = || format!("the files are in {}", vm.dir.display());
    let times = timed(&report).with_context(files)?;
    let (rows, lost) = judge(&report).with_context(files)?;
    let differ = times::print(&times, true) + print_counts(&rows, &lost);
    println!(
        "kernel {}: {} times and {} counts, {differ} differ, {} events lost and counted; {}",
        report.text("release")?.trim(),
        times.len(),
        rows.len(),
        lost.values().sum::<u64>(),
        report.times()
    );
    if differ > 0 {
        bail!("{differ} numbers differ; {}", files());
    }
    Ok(())
}

/// How many counts differ.
fn print_counts(rows: &[Row], lost: &Lost) -> usize {
    println!("{}", Row::header());
    for row in rows.iter().filter(|row| !row.is_empty()) {
        println!("{row}{}", if row.agrees(lost) { "" } else { "  differs" });
    }
    let unaccounted = unaccounted(rows, lost);
    for line in &unaccounted {
        println!("{line}");
    }
    rows.iter().filter(|row| !row.agrees(lost)).count() + unaccounted.len()
}

fn scenario(tdtrace: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.file(SCENARIO, include_bytes!("svm/svm.sh"))?;
    archive.file("lab/events", events().as_bytes())?;
    archive.file("lab/guests", guests().as_bytes())?;
    archive.file("lab/timed_guest", TIMED_GUEST.as_bytes())?;
    times::pack(&mut archive)?;
    archive.program("bin/tdtrace", tdtrace)?;
    archive.finish()
}

/// Lines of `<group> <event> <keys>` for the script.
fn events() -> String {
    EVENTS.iter().map(|event| format!("{} {} {}\n", event.group, event.name, event.keys)).collect()
}

/// Lines of `<name> <arguments of the workload>` for the script.
fn guests() -> String {
    GUESTS.iter().map(Guests::line).collect()
}

impl Guests {
    fn line(&self) -> String {
        let counts: String =
            self.asked.iter().map(|(option, _, count)| format!("{option} {count} ")).collect();
        let Self { name, options, vms, vcpus, .. } = self;
        format!("{name} {counts}--vms {vms} --vcpus {vcpus} {options}\n")
    }

    /// What its workload says it made.
    fn made(&self, report: &Report) -> Result<Threads> {
        let asked: Vec<_> = self.asked.iter().map(|(_, name, count)| (*name, *count)).collect();
        let made = json::workload(report.text(&format!("{}.json", self.name))?, &asked)?;
        if made.len() as u64 != self.vms * self.vcpus {
            bail!("{} ran {} vCPUs of {}", self.name, made.len(), self.vms * self.vcpus);
        }
        Ok(made)
    }

    /// Whether tracefs saw what is to be proven in every thread of `made`.
    fn check_least(&self, made: &Threads, tracefs: &Threads) -> Result<()> {
        for tid in made.keys() {
            for (class, least) in self.least {
                let counts = tracefs.get(tid).map(|thread| &thread.counts);
                let count = counts.and_then(|counts| counts.get(&Item::Class(*class)));
                if count.is_none_or(|count| count < least) {
                    bail!("thread {tid} of {} had {count:?} {}", self.name, class.name());
                }
            }
        }
        Ok(())
    }
}

/// The times of the first guest, by its trace and by tdtrace.
fn timed(report: &Report) -> Result<Vec<Line>> {
    let stat = serde_json::from_str(report.text("times.json")?).context("times.json is no JSON")?;
    times::compare(report, &stat, |_, code| Ok(exit_name(code)))
}

fn exit_name(code: u32) -> String {
    svm::exit_code(code).map_or_else(|| format!("{code:#x}"), str::to_owned)
}

fn judge(report: &Report) -> Result<(Vec<Row>, Lost)> {
    let mut tracefs = Threads::new();
    for event in &EVENTS {
        event.read(report.text(&format!("hist/{}", event.name))?, &mut tracefs)?;
    }
    let stat = json::stat(report.text("stat.json")?)?;
    let (mut workload, mut vms) = (Threads::new(), 0);
    for guests in &GUESTS {
        let made = guests.made(report)?;
        guests.check_least(&made, &tracefs)?;
        // Each workload numbers its VMs from 0 on.
        workload.extend(
            made.into_iter()
                .map(|(tid, thread)| (tid, Thread { vm: thread.vm.map(|vm| vm + vms), ..thread })),
        );
        vms += guests.vms;
    }
    Ok((compare(tracefs, stat.threads, &stat.outside, &workload)?, stat.lost))
}
