//! `tdtrace workload`.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::{
    runtime, select,
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

use crate::workload::{self, Counts, Kind, Made, Plan, Wake};

/// Make an exact number of VM exits with a KVM guest of its own
#[derive(Debug, clap::Args)]
#[command(after_long_help = RULES)]
pub(super) struct Args {
    /// OUTs, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pio: u64,
    /// INs, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pio_in: u64,
    /// Writes to an address without memory, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    mmio_write: u64,
    /// Reads from an address without memory, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    mmio_read: u64,
    /// Writes that an ioeventfd takes, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    fast_mmio: u64,
    /// CPUIDs, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    cpuid: u64,
    /// RDMSRs, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    msr: u64,
    /// WRMSRs, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    msr_write: u64,
    /// HLTs, per vCPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    hlt: u64,
    /// HLTs that the kernel serves until an interrupt comes, per vCPU; not together with --hlt
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    halt: u64,
    /// How long such a halt lasts at least; about twice as long at most
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 200)]
    halt_us: u32,
    /// What ends it: interrupt, or kick (KVM's PV unhalt), which also works where a KVM delivers no
    /// interrupts to such a guest
    #[arg(long, value_name = "HOW", default_value = "interrupt", value_parser = wake)]
    wake: Wake,
    /// VMs
    #[arg(long, value_name = "N", default_value_t = 1)]
    vms: u32,
    /// vCPUs of each VM
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpus: u32,
    /// Accesses per second and vCPU at most [default: as fast as it can]
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Repeat the counts until this time is over
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Cycle through this many ports, addresses, CPUID leaves and MSRs
    #[arg(long, value_name = "N", default_value_t = 1)]
    places: u32,
    /// First port; the next is 0x10 further
    #[arg(long, value_name = "PORT", default_value = "0x500", value_parser = port)]
    port: u16,
    /// Bytes of a port access: 1, 2 or 4
    #[arg(long, value_name = "BYTES", default_value_t = 1)]
    pio_size: u32,
    /// First address that is written; reads are 0x1000 further, ioeventfds 0x2000
    #[arg(long, value_name = "GPA", default_value = "0xd0000000", value_parser = number)]
    gpa: u32,
    /// Bytes of an MMIO access: 1, 2 or 4
    #[arg(long, value_name = "BYTES", default_value_t = 4)]
    mmio_size: u32,
}

/// What the numbers mean in terms of trace events; measured, see `tests/kvm_workload.rs`.
const RULES: &str = "\
What an access is in the kernel's trace events:
  --pio         kvm_pio once (write); KVM_RUN returns with KVM_EXIT_IO
  --pio-in      kvm_pio once (read), at the next KVM_RUN, when the answer is there; KVM_EXIT_IO
  --mmio-write  kvm_mmio once (type 2); KVM_EXIT_MMIO
  --mmio-read   kvm_mmio TWICE: type 0 when nothing in the kernel serves it, type 1 at the next
                KVM_RUN, when the answer is there; KVM_EXIT_MMIO once. Here every read is counted
                once, and every read is completed
  --fast-mmio   kvm_fast_mmio or kvm_mmio (type 2), once together; no return. kvm_intel finds the
                ioeventfd before it decodes the instruction (kvm_fast_mmio), but not at the first
                write to a page. Other KVMs always show kvm_mmio
  --cpuid       kvm_cpuid once; no return
  --msr         kvm_msr once (read); no return
  --msr-write   kvm_msr once (write); no return
  --hlt         KVM_EXIT_HLT: there is no interrupt controller in the kernel
  --halt        kvm_exit (HLT) once; kvm_vcpu_wakeup once, unless what ends the halt is faster than
                the way into it; no return. With --wake interrupt also kvm_inj_virq (vector 0x40)
                once, more often if an exit breaks into the delivery, and for the handler's end of
                interrupt kvm_msr once (write, 0x80b); none of them where the CPU has a virtual
                APIC. \"interrupts\" is what the guest's handler counted. With --wake kick no more

KVM_RUN: kvm_fpu (load), kvm_fpu (unload) and kvm_userspace_exit once for each of kvm_run_calls.
Those that a signal ended (errno -4) are in \"interrupted\", the others in kvm_run_returns.

A slice ends with one more HLT, or with --halt one more OUT to port 0xf4, as \"sign_off\" says;
counted in \"sign_offs\" and not in \"hlt\" or \"pio_out\". Without --rate and
--seconds there is one slice; a rate has up to 100 per second. kvm_exit and kvm_entry are more than
the accesses: interrupts of the host and first touches of memory are exits as well.

With --seconds the counts say what one round is; small rounds share a slice. SIGINT and SIGTERM end
the work early, and what was made until then is exact.";

pub(super) fn run(args: Args) -> Result<ExitCode> {
    let plan = args.plan();
    plan.check()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("the signal handling cannot be started")?;
    let made = runtime.block_on(carry_out(plan))?;
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &made)
        .map_err(anyhow::Error::from)
        .and_then(|()| Ok(writeln!(out)?))
        .context("the result cannot be written to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `plan` on a thread of its own; SIGINT and SIGTERM end it early.
async fn carry_out(plan: Plan) -> Result<Made> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be caught")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be caught")?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut work = spawn_blocking({
        let stop = Arc::clone(&stop);
        move || workload::run(&plan, &stop)
    });
    loop {
        select! {
            made = &mut work => return made.context("the workload's thread ended badly")?,
            _ = interrupt.recv() => stop.store(true, Relaxed),
            _ = terminate.recv() => stop.store(true, Relaxed),
        }
    }
}

impl Args {
    fn plan(self) -> Plan {
        let counts = Counts::from_iter([
            (Kind::PioOut, self.pio),
            (Kind::PioIn, self.pio_in),
            (Kind::MmioWrite, self.mmio_write),
            (Kind::MmioRead, self.mmio_read),
            (Kind::FastMmio, self.fast_mmio),
            (Kind::Cpuid, self.cpuid),
            (Kind::MsrRead, self.msr),
            (Kind::MsrWrite, self.msr_write),
            (Kind::Hlt, self.hlt),
            (Kind::Halt, self.halt),
        ]);
        Plan {
            counts,
            vms: self.vms,
            vcpus: self.vcpus,
            rate: self.rate,
            time: self.seconds,
            places: self.places,
            port: self.port,
            pio_size: self.pio_size,
            gpa: self.gpa,
            mmio_size: self.mmio_size,
            halt_us: self.halt_us,
            wake: self.wake,
        }
    }
}

/// A decimal number, or a hexadecimal one after 0x.
fn number(text: &str) -> Result<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|_| anyhow!("not a number of 32 bits; give digits, or 0x and hexadecimal digits"))
}

fn wake(text: &str) -> Result<Wake> {
    match text {
        "interrupt" => Ok(Wake::Interrupt),
        "kick" => Ok(Wake::Kick),
        _ => Err(anyhow!("not a way to wake; give interrupt or kick")),
    }
}

fn port(text: &str) -> Result<u16> {
    u16::try_from(number(text)?).map_err(|_| anyhow!("a port has 16 bits; give at most 0xffff"))
}

fn seconds(text: &str) -> Result<Duration> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| anyhow!("not a time; give seconds, like 10 or 0.5"))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    fn plan(line: &str) -> Result<Plan, clap::Error> {
        let command = Args::augment_args(clap::Command::new("workload").no_binary_name(true));
        let matches = command.try_get_matches_from(line.split_whitespace())?;
        Ok(Args::from_arg_matches(&matches)?.plan())
    }

    #[test]
    fn every_count_reaches_its_kind() {
        let plan = plan(
            "--pio 1 --pio-in 2 --mmio-write 3 --mmio-read 4 --fast-mmio 5 --cpuid 6 --msr 7 \
             --msr-write 8 --hlt 9 --halt 10",
        )
        .unwrap();
        assert_eq!(plan.counts, Kind::ALL.into_iter().zip(1..).collect());
    }

    #[test]
    fn without_options_the_plan_is_the_default() {
        assert_eq!(plan("").unwrap(), Plan::default());
    }

    #[test]
    fn ports_and_addresses_are_hexadecimal_after_0x() {
        let plan = plan("--port 0x600 --gpa 4026531840 --seconds 0.5 --rate 7").unwrap();
        assert_eq!((plan.port, plan.gpa, plan.rate), (0x600, 0xf000_0000, Some(7)));
        assert_eq!(plan.time, Some(Duration::from_millis(500)));
    }

    #[test]
    fn values_that_are_none_are_refused_with_what_to_give() {
        for (line, hint) in [
            ("--port 0x10000", "0xffff"),
            ("--gpa 0xfoo", "0x"),
            ("--gpa 0x100000000", "32 bits"),
            ("--seconds=-1", "10 or 0.5"),
            ("--seconds soon", "10 or 0.5"),
            ("--wake up", "interrupt or kick"),
        ] {
            let error = plan(line).unwrap_err().to_string();
            assert!(error.contains(hint), "{line}: {error}");
        }
    }
}
