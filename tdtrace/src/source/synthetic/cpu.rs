//! Firing events: what the kernel would have left in memory is written, then the program of the
//! tracepoint runs with its arguments.

use std::{collections::HashMap, mem::offset_of};

use anyhow::{Context as _, Result};
use aya::programs::{RawTracePoint, RawTracePointRunOptions, TestRun as _};
use tdtrace_common::{poison::PoisonSource, synthetic::SyntheticCpu};

use super::{Registers, Vcpu, memory::Memory, td::Structures};
use crate::{
    probe::table::{PROBES, SET_ATTRIBUTES_BY_IOCTL},
    source::counting::{load::Loaded, slots::MappedArray},
};

/// An event of a tracepoint, with the arguments of its `TP_PROTO` that the programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `kvm_entry`; before it KVM answers a TDVMCALL with this status.
    Entry(u64),
    /// The same of a TDVMCALL that KVM leaves with an address in R11 as well.
    EntryAt(u64, u64),
    /// `kvm_exit`.
    Exit(Registers),
    /// `kvm_fpu(1)`.
    RunBegin,
    /// `kvm_fpu(0)`.
    RunEnd,
    /// `kvm_userspace_exit(reason, errno)`.
    UserspaceExit(u32, i32),
    /// `kvm_userspace_exit` of a memory fault: flags, guest physical address, errno (negative).
    MemoryFault(u64, u64, i32),
    /// `kvm_pio(rw, port, size)`.
    Pio(u32, u32, u32),
    /// `kvm_mmio(type, len, gpa)`.
    Mmio(u32, u32, u64),
    /// `kvm_fast_mmio(gpa)`.
    FastMmio(u64),
    /// `kvm_cpuid(function)`.
    Cpuid(u32),
    /// `kvm_msr(write, ecx)`.
    Msr(bool, u32),
    /// `kvm_hypercall(nr)`.
    Hypercall(u64),
    /// `kvm_page_fault(vcpu, address, error_code)`.
    PageFault(u64, u64),
    /// `handle_mmio_page_fault(addr, gfn)`.
    MmioFault(u64),
    /// `kvm_tdp_mmu_spte_changed`, by level.
    SpteChanged(u32),
    /// The same with what the entry was and is: level, old, new.
    SpteSet(u32, u64, u64),
    /// `kvm_vm_set_mem_attributes(start, end, attributes)`, in the thread of this vCPU, which it does not
    /// run.
    Attributes(u64, u64, u64),
    /// `sys_exit` of this system call with these second and third arguments, and its result.
    SysExit(u64, u64, u64, i64),
    /// `kvm_vcpu_wakeup(ns, waited)`.
    Wakeup(u64, bool),
    /// `kvm_halt_poll_ns`, by the new value.
    HaltPoll(u32),
    /// `kvm_inj_virq(vector)`.
    Interrupt(u32),
    /// `kvm_apicv_accept_irq`.
    InterruptPosted,
    /// `memory_failure_event(pfn, type, result)`.
    MemoryFailure(u64, u32, u32),
}

impl Event {
    /// Program and arguments for an event of `vcpu`; `regs` is where registers of user mode are.
    fn call(self, vcpu: u64, regs: u64) -> (&'static str, [u64; 5]) {
        match self {
            Self::Entry(_) | Self::EntryAt(..) => ("kvm_entry", [vcpu, 0, 0, 0, 0]),
            Self::Exit(_) => ("kvm_exit", [vcpu, 1, 0, 0, 0]),
            Self::RunBegin => ("kvm_fpu", [1, 0, 0, 0, 0]),
            Self::RunEnd => ("kvm_fpu", [0; 5]),
            Self::UserspaceExit(reason, errno) => {
                ("kvm_userspace_exit", [reason.into(), u64::from(errno.cast_unsigned()), 0, 0, 0])
            }
            Self::MemoryFault(_, _, errno) => {
                ("kvm_userspace_exit", [39, u64::from(errno.cast_unsigned()), 0, 0, 0])
            }
            Self::Pio(rw, port, size) => ("kvm_pio", [rw.into(), port.into(), size.into(), 1, 0]),
            Self::Mmio(kind, len, gpa) => ("kvm_mmio", [kind.into(), len.into(), gpa, 0, 0]),
            Self::FastMmio(gpa) => ("kvm_fast_mmio", [gpa, 0, 0, 0, 0]),
            Self::Cpuid(function) => ("kvm_cpuid", [function.into(), 0, 0, 0, 0]),
            Self::Msr(write, index) => ("kvm_msr", [write.into(), index.into(), 0, 0, 0]),
            Self::Hypercall(number) => ("kvm_hypercall", [number, 0, 0, 0, 0]),
            Self::PageFault(address, code) => ("kvm_page_fault", [vcpu, address, code, 0, 0]),
            Self::MmioFault(gfn) => ("handle_mmio_page_fault", [0, gfn, 0, 0, 0]),
            Self::SpteChanged(level) => ("kvm_tdp_mmu_spte_changed", [0, 0, level.into(), 0, 0]),
            Self::SpteSet(level, old, new) => {
                ("kvm_tdp_mmu_spte_changed", [0, 0, level.into(), old, new])
            }
            Self::Attributes(start, end, attributes) => {
                ("kvm_vm_set_mem_attributes", [start, end, attributes, 0, 0])
            }
            Self::SysExit(.., result) => {
                ("sys_exit_set_attributes", [regs, result.cast_unsigned(), 0, 0, 0])
            }
            Self::Wakeup(ns, waited) => ("kvm_vcpu_wakeup", [ns, waited.into(), 1, 0, 0]),
            Self::HaltPoll(new) => ("kvm_halt_poll_ns", [1, 0, new.into(), 0, 0]),
            Self::Interrupt(vector) => ("kvm_inj_virq", [vector.into(), 0, 0, 0, 0]),
            Self::InterruptPosted => ("kvm_apicv_accept_irq", [0; 5]),
            Self::MemoryFailure(pfn, kind, result) => {
                ("memory_failure_event", [pfn, kind.into(), result.into(), 0, 0])
            }
        }
    }
}

/// What events come from. It is apart from what reads the counters, so that these can be read while events
/// are fired.
pub struct Machine {
    cpus: MappedArray<SyntheticCpu>,
    pub(super) memory: Memory,
    pub(super) structures: Structures,
    pub(super) programs: HashMap<&'static str, RawTracePoint>,
}

impl Machine {
    /// The machine of `loaded`, whose programs have been loaded.
    pub(super) fn new(loaded: &Loaded, structures: Structures) -> Result<Self> {
        let cpus = MappedArray::writable(loaded.map("SYNTHETIC_CPUS")?)?;
        let memory = Memory::new(loaded, &cpus)?;
        let mut programs = HashMap::new();
        for name in PROBES
            .iter()
            .map(|probe| probe.name)
            .chain([super::seam::TWIN, super::vmm::TWIN, SET_ATTRIBUTES_BY_IOCTL.name])
            .chain(PoisonSource::ALL.map(PoisonSource::tracepoint))
        {
            let info = loaded.program(name)?.info()?;
            programs.insert(name, RawTracePoint::from_program_info(info, name.into())?);
        }
        Ok(Self { cpus, memory, structures, programs })
    }

    /// The CPU with this number, to fire events on. The calling thread must stay there.
    #[must_use]
    pub fn cpu(&self, number: u32) -> Cpu<'_> {
        Cpu { machine: self, number }
    }
}

/// A CPU that events come from. Its programs see the time, the thread and the vCPU that were set last.
pub struct Cpu<'s> {
    pub(super) machine: &'s Machine,
    number: u32,
}

impl Cpu<'_> {
    pub(super) fn set(&self, offset: usize, value: u64) {
        let word = (self.number as usize * size_of::<SyntheticCpu>() + offset) / 8;
        self.machine.cpus.store(word, value);
    }

    /// Fires `event` of `vcpu` at `now`, its thread having waited `run_delay` nanoseconds for CPUs so
    /// far.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn fire(&self, vcpu: Vcpu, event: Event, now: u64, run_delay: u64) -> Result<()> {
        self.set(offset_of!(SyntheticCpu, now), now);
        self.set(offset_of!(SyntheticCpu, run_delay), run_delay);
        let pid_tgid = u64::from(vcpu.pid) << 32 | u64::from(vcpu.tid);
        self.set(offset_of!(SyntheticCpu, pid_tgid), pid_tgid);
        // `kvm_userspace_exit` comes after `vcpu_put`.
        let loaded = !matches!(
            event,
            Event::UserspaceExit(..)
                | Event::MemoryFault(..)
                | Event::Attributes(..)
                | Event::SysExit(..)
        );
        self.set(offset_of!(SyntheticCpu, vcpu), if loaded { vcpu.address } else { 0 });
        let Machine { structures, memory, programs, .. } = self.machine;
        match event {
            Event::Exit(registers) => structures.exit(memory, vcpu.address, &registers),
            Event::Entry(status) => structures.answer(memory, vcpu.address, status),
            Event::EntryAt(status, next) => {
                structures.answer(memory, vcpu.address, status);
                structures.answer_at(memory, vcpu.address, next);
            }
            // In the room of `kvm_run`, which is larger.
            Event::SysExit(number, second, third, _) => {
                structures.system_call(memory, vcpu.run, [number, second, third]);
            }
            Event::MemoryFault(flags, gpa, _) => structures.fault(memory, vcpu.run, flags, gpa),
            Event::RunEnd => structures.run(memory, vcpu.address),
            _ => {}
        }
        let (name, arguments) = event.call(vcpu.address, vcpu.run);
        let mut options = RawTracePointRunOptions::new();
        options.args[..arguments.len()].copy_from_slice(&arguments);
        let program = programs.get(name).with_context(|| format!("there is no program {name}"))?;
        program.test_run(options).with_context(|| format!("{name} does not run"))?;
        Ok(())
    }

    /// KVM counts a hypercall of `vcpu`, as it does before the tracepoint.
    pub fn count_hypercall(&self, vcpu: Vcpu) {
        self.machine.structures.hypercall(&self.machine.memory, vcpu.address);
    }
}
