//! TDs for a look at the screens: synthetic ones with a life of their own, run through the loaded
//! programs.
//!
//! Every number that they lead to was counted by the programs; only what the guests do is made up, by
//! [`character`]. Nothing runs between two samples: at each one, what would have happened since the
//! last is fired.

mod character;

use std::{collections::BTreeMap, mem, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tdtrace_common::ledger::PRIVATE;

use self::character::{CHARACTERS, Character, Deed, HYPERCALL, RETRY, SHARED, Then};
use super::{
    Source, monotonic,
    synthetic::{Cpu, Event, FIRST_PID, Synthetic, SyntheticOptions, Vcpu},
};
use crate::model::sample::{Sample, VmKey};

/// What lies further back than this is not made up for: a sample that comes late shows less.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The exits that were fired of a vCPU, by index of `VcpuSlot::reasons`.
pub type Fired = BTreeMap<u32, u64>;

/// Synthetic TDs as a source.
pub struct Demo {
    synthetic: Synthetic,
    vcpus: Vec<Living>,
    began: Duration,
    detail: Option<VmKey>,
}

/// A vCPU with its own clock.
struct Living {
    vcpu: Vcpu,
    character: &'static Character,
    random: Random,
    began: u64,
    now: u64,
    run_delay: u64,
    fired: Fired,
}

impl Demo {
    /// Loads the programs once more and makes the TDs. With the same `seed` they do the same.
    ///
    /// # Errors
    /// No privilege, or a kernel that refuses eBPF.
    pub fn new(seed: u64, timed: bool, slower_than: Option<Duration>) -> Result<Self> {
        let vcpus = CHARACTERS.iter().map(|character| character.vcpus).sum();
        let tds = CHARACTERS.len() as u32;
        let options = SyntheticOptions {
            max_vcpus: 4 * vcpus,
            tds,
            vcpus,
            timed,
            slower_than,
            ..SyntheticOptions::default()
        };
        let mut synthetic = Synthetic::load(options)?;
        let began = monotonic();
        let mut living = Vec::new();
        let mut pid = FIRST_PID;
        for character in CHARACTERS {
            let td = synthetic.td(pid, character.name)?;
            for id in 0..character.vcpus {
                let tid = pid + 1 + id;
                living.push(Living {
                    vcpu: synthetic.vcpu(td, id, pid, tid)?,
                    character,
                    random: Random(seed ^ u64::from(tid).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                    began: nanos(began),
                    now: nanos(began),
                    run_delay: 0,
                    fired: Fired::new(),
                });
            }
            pid += 1 + character.vcpus;
        }
        let stay = Stay::here()?;
        let cpu = synthetic.cpu(stay.cpu);
        living.iter_mut().try_for_each(|vcpu| vcpu.begin(&cpu))?;
        Ok(Self { synthetic, vcpus: living, began, detail: None })
    }

    /// What was fired so far, by thread.
    pub fn fired(&self) -> impl Iterator<Item = (u32, &Fired)> {
        self.vcpus.iter().map(|living| (living.vcpu.tid, &living.fired))
    }

    /// Lets the vCPUs live up to `now`.
    fn live(&mut self, now: Duration) -> Result<()> {
        let (now, earliest) = (nanos(now), nanos(now.saturating_sub(CATCH_UP)));
        let stay = Stay::here()?;
        let cpu = self.synthetic.cpu(stay.cpu);
        self.vcpus.iter_mut().try_for_each(|vcpu| vcpu.live(&cpu, earliest, now))
    }
}

impl Source for Demo {
    fn sample(&mut self) -> Result<Sample> {
        let now = monotonic();
        self.live(now)?;
        let mut sample = self.synthetic.sample(now, self.detail)?;
        sample.at = now.saturating_sub(self.began);
        // It makes up TDs, not their host.
        sample.seam = Arc::default();
        let began = self.began;
        sample.slow.iter_mut().for_each(|slow| slow.at = slow.at.saturating_sub(began));
        sample.vms.iter_mut().for_each(|vm| vm.ledger.begin_at(self.began));
        Ok(sample)
    }

    fn detail(&mut self, vm: Option<VmKey>) {
        self.detail = vm;
    }
}

impl Living {
    fn fire(&mut self, cpu: &Cpu<'_>, event: Event, after: u64) -> Result<()> {
        self.now += after;
        cpu.fire(self.vcpu, event, self.now, self.run_delay)
    }

    fn begin(&mut self, cpu: &Cpu<'_>) -> Result<()> {
        self.fire(cpu, Event::RunBegin, 0)?;
        let kernel = self.random.about(1_500);
        self.fire(cpu, Event::Entry(0), kernel)
    }

    /// Exits and enters again until its clock has come to `now`.
    fn live(&mut self, cpu: &Cpu<'_>, earliest: u64, now: u64) -> Result<()> {
        self.now = self.now.max(earliest);
        while self.now < now {
            let (deed, guest_ns) = self.character.deed(self.now - self.began, self.random.next());
            let guest = self.random.about(guest_ns);
            self.exit(cpu, deed, guest)?;
        }
        Ok(())
    }

    fn exit(&mut self, cpu: &Cpu<'_>, deed: &Deed, guest: u64) -> Result<()> {
        let registers = deed.registers(self.random.next());
        let kernel = self.random.about(deed.kernel_ns);
        self.fire(cpu, Event::Exit(registers), guest)?;
        *self.fired.entry(deed.class).or_default() += 1;
        let mut answer = Event::Entry(0);
        match deed.then {
            Then::Enter => {}
            Then::Halt(ns) => {
                let halted = self.random.about(ns);
                self.fire(cpu, Event::Wakeup(halted, true), halted)?;
            }
            Then::Return(reason, ns) => {
                self.fire(cpu, Event::RunEnd, kernel / 2)?;
                self.fire(cpu, Event::UserspaceExit(reason, 0), 300)?;
                let vmm = self.random.about(ns);
                self.fire(cpu, Event::RunBegin, vmm)?;
            }
            Then::Fault => {
                self.fire(cpu, Event::PageFault(registers.gpa, 2), kernel / 4)?;
                self.fire(cpu, Event::SpteSet(1, 0, SPTE_PRESENT), kernel / 4)?;
            }
            Then::Answer(of, status) => {
                answer = Event::Entry(if self.random.below(of) == 0 { status } else { 0 });
            }
            Then::Convert(of, ns) => {
                self.convert(cpu, HYPERCALL, (registers.r12, registers.r13), ns)?;
                if self.random.below(of) == 0 {
                    answer = Event::EntryAt(RETRY, registers.r12 + registers.r13 / 2);
                }
            }
            Then::Fail(ns) => {
                self.fire(cpu, Event::RunEnd, kernel / 2)?;
                self.fire(cpu, Event::MemoryFault(PRIVATE, registers.gpa, -libc::EFAULT), 300)?;
                self.set_attributes(cpu, (registers.gpa, 4096), PRIVATE, ns)?;
            }
        }
        if self.random.below(500) == 0 {
            let waited = self.random.about(20_000);
            self.run_delay += waited;
            self.now += waited;
        }
        self.fire(cpu, answer, kernel)
    }

    /// KVM_RUN comes back with `reason`, and the VMM converts `bytes` from an address on.
    fn convert(
        &mut self,
        cpu: &Cpu<'_>,
        reason: u32,
        (start, bytes): (u64, u64),
        ns: u64,
    ) -> Result<()> {
        self.fire(cpu, Event::RunEnd, 1_000)?;
        self.fire(cpu, Event::UserspaceExit(reason, 0), 300)?;
        let attributes = if start & SHARED == 0 { PRIVATE } else { 0 };
        self.set_attributes(cpu, (start & !SHARED, bytes), attributes, ns)
    }

    /// The VMM, in the thread of the vCPU, sets attributes and enters again.
    fn set_attributes(
        &mut self,
        cpu: &Cpu<'_>,
        (start, bytes): (u64, u64),
        attributes: u64,
        ns: u64,
    ) -> Result<()> {
        let vmm = self.random.about(ns);
        let frames = Event::Attributes(start >> 12, (start + bytes) >> 12, attributes);
        self.fire(cpu, frames, vmm / 2)?;
        self.fire(cpu, Event::RunBegin, vmm / 2)
    }
}

/// An entry of the page table that maps something.
const SPTE_PRESENT: u64 = 1 << 11;

/// A generator that a seed decides (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// A duration of about `ns` with a long tail: half as much to twice as much, one in a hundred eight
    /// times as much.
    fn about(&mut self, ns: u64) -> u64 {
        let spread = ns / 2 + self.below(ns.max(1));
        if self.below(100) == 0 { 8 * spread } else { spread }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Keeps this thread on the CPU where it is, until dropped.
struct Stay {
    cpu: u32,
    before: libc::cpu_set_t,
}

impl Stay {
    fn here() -> Result<Self> {
        // SAFETY: plain numbers, for which zero is valid.
        let (mut before, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { mem::zeroed() };
        // SAFETY: no preconditions.
        let cpu = u32::try_from(unsafe { libc::sched_getcpu() }).context("which CPU this is")?;
        // SAFETY: both sets are as long as the calls are told; the number is of a CPU that there is.
        let result = unsafe {
            libc::CPU_SET(cpu as usize, &mut one);
            libc::sched_getaffinity(0, size_of_val(&before), &raw mut before)
                | libc::sched_setaffinity(0, size_of_val(&one), &raw const one)
        };
        if result != 0 {
            return Err(std::io::Error::last_os_error())
                .context("this thread cannot stay on a CPU");
        }
        Ok(Self { cpu, before })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // SAFETY: the set that was there before. If it fails, the thread stays where it is.
        unsafe { libc::sched_setaffinity(0, size_of_val(&self.before), &raw const self.before) };
    }
}
