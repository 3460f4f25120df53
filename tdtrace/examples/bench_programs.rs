//! What each program costs per run, measured by the kernel: for `cargo xtask bench`, which knows
//! what to make of the numbers.
//!
//! Next to each program, on the same tracepoint and in the same run, sit an empty one and one that
//! only reads the clock: the kernel's measuring costs as much as the programs do. What an exit of a TD
//! costs is measured without one: the programs run on a made-up TD by `BPF_PROG_TEST_RUN`, and so do the
//! two that they are compared with. Prints one JSON object with the sums of every round.

use std::sync::atomic::AtomicBool;

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::RawTracePoint,
    sys::{Stats, enable_stats},
};
use clap::Parser;
use serde_json::{Value, json};
use tdtrace::{
    probe::table::PROBES,
    source::{
        counting::cost::{self, Cost},
        live::{Live, Options},
        synthetic::{Event, FIRST_PID, Registers, Synthetic, SyntheticOptions, Vcpu},
    },
    workload::{self, Counts, Kind, Plan},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tdtrace-ebpf.o"));

#[derive(Debug, Parser)]
struct Cli {
    /// Rounds; the first, which warms up, is not among them
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// Accesses of each kind in a round
    #[arg(long, default_value_t = 20_000)]
    accesses: u64,
    /// The CPU on which the guest runs
    #[arg(long)]
    cpu: usize,
    /// Instructions of a program that is loaded before all others and never runs: they lie elsewhere then
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..4096))]
    filler: u32,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    pin(cli.cpu)?;
    // For the whole machine, until this is dropped.
    let _stats = enable_stats(Stats::RunTime)
        .context("the kernel does not measure programs, which takes CAP_SYS_ADMIN")?;
    let _filler = cost::filler(cli.filler)?;
    // Who comes first on a tracepoint also pays for all that the kernel has to fetch for any program.
    // That is nobody's here. A tracepoint that this kernel does not have has no program of ours either.
    let _first: Vec<_> =
        PROBES.iter().filter_map(|probe| Floor::attach(probe.tracepoint).ok()).collect();
    let live = Live::open(Options::default())?;
    // A program has its tracepoint's name.
    let floors = live
        .costs()?
        .into_iter()
        .map(|cost| Floor::attach(&cost.name))
        .collect::<Result<Vec<_>>>()?;
    let plan = Plan {
        counts: Kind::WITHOUT_HALT.into_iter().map(|kind| (kind, cli.accesses)).collect::<Counts>(),
        ..Plan::default()
    };
    let runs = TestRuns::new(cli.cpu)?;
    let mut rounds = Vec::new();
    for round in 0..=cli.rounds {
        let before = read(&live, &floors)?;
        workload::run(&plan, &AtomicBool::new(false))?;
        let after = read(&live, &floors)?;
        let mut rows: Vec<Value> = after.iter().zip(&before).map(Row::since).collect();
        rows.extend(runs.round(cli.accesses)?);
        if round > 0 {
            rounds.push(rows);
        }
    }
    println!("{}", json!({ "schema": 1, "cpu": cli.cpu, "rounds": rounds }));
    Ok(())
}

/// Keeps this process and the threads that it will start on `cpu`.
fn pin(cpu: usize) -> Result<()> {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if cpu >= 8 * size_of_val(&set) {
        bail!("there is no CPU {cpu}");
    }
    // SAFETY: the number is within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: a set of the size that is given.
    if unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } != 0 {
        return Err(std::io::Error::last_os_error()).with_context(|| format!("CPU {cpu}"));
    }
    Ok(())
}

/// The two programs that a program is compared with, attached where it is.
struct Floor(Ebpf);

impl Floor {
    /// Each tracepoint has programs of its own, because the kernel sums by program.
    fn attach(tracepoint: &str) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("the kernel refuses the object")?;
        for name in ["floor_empty", "floor_clock"] {
            let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
            let program: &mut RawTracePoint = program.try_into()?;
            program.load().with_context(|| format!("the kernel refuses {name}"))?;
            program.attach(tracepoint).with_context(|| format!("{name} on {tracepoint}"))?;
        }
        Ok(Self(ebpf))
    }

    fn cost(&self, name: &str) -> Result<Cost> {
        cost::of(name, self.0.program(name).with_context(|| format!("no program {name}"))?)
    }
}

/// Runs of `kvm_exit` and `kvm_entry` on a TD and on a VM that is none.
struct TestRuns {
    synthetic: Synthetic,
    cpu: u32,
    td: Vcpu,
    plain: Vcpu,
}

impl TestRuns {
    fn new(cpu: usize) -> Result<Self> {
        let cpu = u32::try_from(cpu).context("there are not so many CPUs")?;
        let options = SyntheticOptions { real: true, ..SyntheticOptions::default() };
        let mut synthetic = Synthetic::load(options)?;
        let td = synthetic.td(FIRST_PID, "td")?;
        let vm = synthetic.vm(FIRST_PID + 1, "vm", 0)?;
        let td = synthetic.vcpu(td, 0, FIRST_PID, FIRST_PID)?;
        let plain = synthetic.vcpu(vm, 0, FIRST_PID + 1, FIRST_PID + 1)?;
        Ok(Self { synthetic, cpu, td, plain })
    }

    /// `exits` exits and entries of each, all programs in turns.
    fn round(&self, exits: u64) -> Result<Vec<Value>> {
        let td = self.measure(self.td, exits, ["kvm_exit", "kvm_entry"], "TD")?;
        let plain = self.measure(self.plain, exits, ["kvm_exit"], "VMX")?;
        Ok(td.into_iter().chain(plain).collect())
    }

    fn measure<const N: usize>(
        &self,
        vcpu: Vcpu,
        exits: u64,
        programs: [&str; N],
        kind: &str,
    ) -> Result<Vec<Value>> {
        let read = || programs.iter().map(|name| self.row(name, kind)).collect::<Result<Vec<_>>>();
        let (cpu, kinds) = (self.synthetic.cpu(self.cpu), kinds());
        let before = read()?;
        for (_, registers) in (0..exits).zip(kinds.iter().cycle()) {
            cpu.fire(vcpu, Event::Entry(0), 0, 0)?;
            cpu.fire(vcpu, Event::Exit(*registers), 0, 0)?;
            self.synthetic.run_floors()?;
        }
        Ok(read()?.iter().zip(&before).map(Row::since).collect())
    }

    fn row(&self, name: &str, kind: &str) -> Result<Row> {
        let mut program = self.synthetic.cost(name)?;
        program.name = format!("{name} ({kind}, test run)");
        let floor = |name| self.synthetic.cost(name);
        Ok(Row { program, empty: floor("floor_empty")?, clock: floor("floor_clock")? })
    }
}

/// What guests do most: interrupts, MMIO, MSRs, halts.
fn kinds() -> [Registers; 4] {
    let call = |kvm_reason, r11, r12, r13, r14| Registers {
        ret: 77,
        kvm_reason,
        r11,
        r12,
        r13,
        r14,
        ..Registers::default()
    };
    [
        Registers { ret: 1, kvm_reason: 1, intr_info: 0x8000_00ec, ..Registers::default() },
        call(49, 48, 4, 1, 1 << 51 | 0xfec0_0000),
        call(32, 32, 0x6e0, 0, 0),
        call(12, 12, 0, 0, 0),
    ]
}

/// A program and what sits beside it.
struct Row {
    program: Cost,
    empty: Cost,
    clock: Cost,
}

impl Row {
    /// What came in between two readings of the same row.
    fn since((after, before): (&Self, &Self)) -> Value {
        let sums = |after: &Cost, before: &Cost| {
            json!({
                "runs": after.runs - before.runs,
                "nanoseconds": after.nanoseconds - before.nanoseconds,
            })
        };
        json!({
            "name": after.program.name,
            "instructions": after.program.instructions,
            "program": sums(&after.program, &before.program),
            "empty": sums(&after.empty, &before.empty),
            "clock": sums(&after.clock, &before.clock),
        })
    }
}

fn read(live: &Live, floors: &[Floor]) -> Result<Vec<Row>> {
    let programs = live.costs()?.into_iter().zip(floors);
    programs
        .map(|(program, floor)| {
            Ok(Row {
                program,
                empty: floor.cost("floor_empty")?,
                clock: floor.cost("floor_clock")?,
            })
        })
        .collect()
}
