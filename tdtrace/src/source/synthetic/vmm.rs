//! What a VMM does to memory, without a VMM: the program that does what those on functions of KVM do is run
//! with their arguments.

use std::mem::offset_of;

use anyhow::{Context as _, Result};
use aya::programs::{RawTracePointRunOptions, TestRun as _};
use tdtrace_common::synthetic::SyntheticCpu;

use super::{Cpu, Vcpu};

/// The program.
pub(super) const TWIN: &str = "synthetic_vmm_call";

/// A function of KVM, with the arguments after the open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmmCall {
    /// `kvm_vm_ioctl(file, command, argument)`.
    Ioctl(u32, u64),
    /// `kvm_gmem_fallocate(file, mode, offset, length)`, of the VM's guest_memfd.
    Fallocate(u32, u64, u64),
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
            VmmCall::Ioctl(command, argument) => (0, vm, [command.into(), argument, 0]),
            VmmCall::Fallocate(mode, offset, length) => {
                let gmem = machine.structures.guest_memfd(&machine.memory, vcpu.run, vm);
                (1, gmem, [mode.into(), offset, length])
            }
        };
        machine.structures.open_file(&machine.memory, vcpu.run, behind);
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
