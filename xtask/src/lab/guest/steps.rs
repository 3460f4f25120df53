//! The steps of the guest scenario: what runs in the VM, and what must come of it beside what every
//! step must fulfil. To add a step, add an entry to [`ALL`].

use anyhow::{Result, bail};

use super::{Seen, truth::Context};

/// Where the module takes scenarios.
const RUN: &str = "/sys/kernel/debug/tdlab/run";

/// How often each shape is run.
const SHAPES: u64 = 3;
/// Shapes that the kernel emulates, and those that it does not (xtask/lab/tdlab/instructions.S).
const HANDLED_SHAPES: u64 = 26;
const FAILED_SHAPES: u64 = 12;
const USER_CPUIDS: u64 = 200;
const IRQ_ROUNDS: u64 = 200;
const DRIVER_ROUNDS: u64 = 20;

/// What the steps can be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// #VEs of the step `storm`.
    pub(super) storm: u64,
}

/// A step.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Its name, also that of its directory in the report.
    pub(super) name: &'static str,
    /// Whether each #VE is compared, or only their numbers.
    pub(super) traced: bool,
    /// What the VM's shell runs.
    pub(super) command: fn(Sizes) -> String,
    /// What must have come of it.
    pub(super) check: fn(&Seen, Sizes) -> Result<()>,
}

/// All steps, in the order in which they run.
pub(super) const ALL: &[Step] = &[
    Step { name: "shapes", traced: true, command: |_| run("shapes", SHAPES), check: shapes },
    Step { name: "user", traced: true, command: |_| user_command(), check: user },
    Step { name: "driver", traced: true, command: |_| run("driver", DRIVER_ROUNDS), check: driver },
    Step { name: "irq", traced: true, command: |_| run("irq", IRQ_ROUNDS), check: irq },
    Step { name: "storm", traced: false, command: |sizes| run("storm", sizes.storm), check: storm },
    Step { name: "convert", traced: true, command: |_| run("convert", 1), check: convert },
];

fn run(scenario: &str, count: u64) -> String {
    format!("echo {scenario} {count} >{RUN}")
}

/// Two programs that end well, and two that must not: 139 is SIGSEGV.
fn user_command() -> String {
    format!(
        "echo user 1 >{RUN} && /lab/user cpuid {USER_CPUIDS} || exit 1; \
         for what in wbinvd in; do /lab/user $what; [ $? = 139 ] || exit 2; done; \
         echo user 0 >{RUN}"
    )
}

fn expect(what: &str, found: u64, expected: u64) -> Result<()> {
    if found != expected {
        bail!("{what}: {found} instead of {expected}");
    }
    Ok(())
}

fn shapes(seen: &Seen, _: Sizes) -> Result<()> {
    expect("handled", seen.totals.of("handled"), SHAPES * HANDLED_SHAPES)?;
    expect("failed", seen.totals.of("failed"), SHAPES * FAILED_SHAPES)
}

fn user(seen: &Seen, _: Sizes) -> Result<()> {
    expect("in user mode", seen.in_context(Context::User), USER_CPUIDS + 2)?;
    expect("handled", seen.totals.of("handled"), USER_CPUIDS)?;
    // Leaves outside of 0x4000_0000 are answered by the kernel itself.
    expect("TDVMCALLs for CPUID", seen.totals.of("vmcall.10"), USER_CPUIDS / 2)
}

fn driver(seen: &Seen, _: Sizes) -> Result<()> {
    expect("read-modify-write in labnic_enable_irq", seen.failed_in("labnic_enable_irq"), 1)?;
    expect(
        "in hard interrupts",
        seen.in_functions("labnic_isr", Context::Hardirq),
        2 * DRIVER_ROUNDS,
    )?;
    expect(
        "sign-extending loads and others in labnic_stat",
        seen.in_functions("labnic_stat", Context::Task),
        4 * DRIVER_ROUNDS,
    )?;
    if seen.in_context(Context::Softirq) < 4 * DRIVER_ROUNDS {
        bail!("{} #VEs in soft interrupts", seen.in_context(Context::Softirq));
    }
    Ok(())
}

fn irq(seen: &Seen, _: Sizes) -> Result<()> {
    expect("in hard interrupts", seen.in_context(Context::Hardirq), 2 * IRQ_ROUNDS)?;
    expect("in soft interrupts", seen.in_context(Context::Softirq), 2 * IRQ_ROUNDS)?;
    expect("failed", seen.totals.of("failed"), IRQ_ROUNDS)?;
    if seen.in_context(Context::Task) <= IRQ_ROUNDS {
        bail!("no #VE of the task while the timer ticked");
    }
    Ok(())
}

fn storm(seen: &Seen, sizes: Sizes) -> Result<()> {
    expect("raised", seen.totals.of("ve"), sizes.storm)?;
    expect("handled", seen.totals.of("handled"), sizes.storm)
}

fn convert(seen: &Seen, _: Sizes) -> Result<()> {
    expect("raised", seen.totals.of("ve"), 0)?;
    // A page; 2 MiB in two parts each way; refused, and made private again.
    expect("TDVMCALLs MapGPA", seen.totals.of("vmcall.65537"), 2 + 4 + 2)?;
    expect("MapGPA that had to go on or was refused", seen.totals.of("vmcall.65537.failed"), 3)?;
    expect("accepts", seen.totals.of("tdcall.6"), 1 + 513 + 4)?;
    expect("accepts that were refused", seen.totals.of("tdcall.6.failed"), 1)
}
