//! What a VMM does to memory, without a VMM: the program that does what those on functions of KVM do is run
//! with their arguments.

use std::mem::offset_of;

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf,
    programs::{RawTracePointRunOptions, TestRun as _},
};
use tdtrace_common::synthetic::SyntheticCpu;

use super::{Cpu, Synthetic, Vcpu};
use crate::probe::table::FunctionProbe;

/// The program.
pub(super) const TWIN: &str = "synthetic_vmm_call";

/// A function of KVM, with the arguments after the open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmmCall {
    /// `kvm_vm_ioctl(file, command, argument)`.
    Ioctl(u32, u64),
    /// `kvm_gmem_fallocate(file, mode, offset, length)`, of the VM's guest_memfd.
    Fallocate(u32, u64, u64),
    /// `kvm_gmem_error_folio(mapping, folio)`, of the pages of the VM's guest_memfd, or of nobody's.
    ErrorFolio(bool),
}

/// A moment of such a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Its beginning.
    Begin,
    /// Its return by fexit, which has the arguments, with the result.
    Return(i64),
    /// The same by kretprobe, which does not.
    ReturnAlone(i64),
}

impl Synthetic {
    /// Attaches the programs of `probe` to another function of the running kernel, by fexit or by kprobe and
    /// kretprobe: what runs attached only. For a load that is not told the time.
    ///
    /// # Errors
    /// When the kernel does not allow it.
    pub fn attach_probe(
        &mut self,
        probe: &'static FunctionProbe,
        function: &'static str,
        by_fentry: bool,
    ) -> Result<()> {
        let btf = Btf::from_sys_fs()?;
        let no = "kprobes were asked for".to_owned();
        let btf = if by_fentry { Ok(&btf) } else { Err(&no) };
        let missing = self.counters.loaded_mut().attach_function_to(probe, function, btf);
        missing.map_or(Ok(()), |why| bail!("{why}"))
    }

    /// How often the program at the return of `probe` ran so far, while the kernel's statistics are on
    /// (`BPF_ENABLE_STATS`).
    ///
    /// # Errors
    /// When it is not attached.
    pub fn runs(&self, probe: &FunctionProbe, by_fentry: bool) -> Result<u64> {
        let pair = if by_fentry { probe.fentry } else { probe.kprobe };
        Ok(self.cost(pair.exit)?.runs)
    }
}

impl Cpu<'_> {
    /// Lets the thread of `vcpu`, which it does not run, make `call` for the VM at `vm` at `now`.
    ///
    /// # Errors
    /// When the kernel does not run the program.
    pub fn vmm_call(
        &self,
        vcpu: Vcpu,
        vm: u64,
        (call, moment): (VmmCall, Moment),
        now: u64,
    ) -> Result<()> {
        self.set(offset_of!(SyntheticCpu, now), now);
        self.set(
            offset_of!(SyntheticCpu, pid_tgid),
            u64::from(vcpu.pid) << 32 | u64::from(vcpu.tid),
        );
        self.set(offset_of!(SyntheticCpu, vcpu), 0);
        let machine = self.machine;
        let (function, behind, [second, third, fourth]) = match call {
            VmmCall::Ioctl(command, argument) => (0, Some(vm), [command.into(), argument, 0]),
            VmmCall::Fallocate(mode, offset, length) => {
                let gmem = machine.structures.guest_memfd(&machine.memory, vcpu.run, vm);
                (1, Some(gmem), [mode.into(), offset, length])
            }
            VmmCall::ErrorFolio(is_open) => {
                machine.structures.mapping(&machine.memory, vcpu.run, is_open.then_some(vm));
                (2, None, [0; 3])
            }
        };
        if let Some(behind) = behind {
            machine.structures.open_file(&machine.memory, vcpu.run, behind);
        }
        let (phase, result) = match moment {
            Moment::Begin => (0, 0),
            Moment::Return(result) => (1, result),
            Moment::ReturnAlone(result) => (2, result),
        };
        let arguments = [vcpu.run, second, third, fourth];
        let mut options = RawTracePointRunOptions::new();
        options.args[..3].copy_from_slice(&[function, phase, result.cast_unsigned()]);
        options.args[3..3 + arguments.len()].copy_from_slice(&arguments);
        let program = machine.programs.get(TWIN).context("the program is not loaded")?;
        program.test_run(options).context("the program does not run")?;
        Ok(())
    }
}
