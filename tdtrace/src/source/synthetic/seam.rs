//! SEAMCALLs that nobody makes: the program that does what those on the wrappers do is run with their
//! arguments.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{RawTracePointRunOptions, TestRun as _};
use tdtrace_common::{
    seam::{ARGUMENTS, Arguments, FUNCTIONS, WRAPPERS, Wrapper, zaps},
    synthetic::SyntheticCpu,
};

use super::{Cpu, Synthetic};

/// The program.
pub(super) const TWIN: &str = "synthetic_seamcall";

/// Where the wrappers of Linux 7.3 have their arguments: `(td, gpa, level, …)` where a level is.
pub(super) fn arguments() -> [Arguments; FUNCTIONS] {
    let mut all = [Arguments::NONE; FUNCTIONS];
    for (arguments, wrapper) in all.iter_mut().zip(WRAPPERS) {
        // MEM.SEPT.ADD, MEM.PAGE.AUG, MEM.RANGE.BLOCK and MEM.PAGE.REMOVE.
        let level = matches!(wrapper.leaf, 3 | 6 | 7 | 29).then_some(2);
        *arguments = Arguments {
            gpa: wrapper.gpa,
            level: level.unwrap_or(Arguments::NONE.level),
            base: 1,
            zaps: u8::from(zaps(wrapper.leaf)),
        };
    }
    all
}

/// A moment of a call of a wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seamcall {
    /// Its beginning, with the first arguments.
    Enter([u64; ARGUMENTS]),
    /// Its return by fexit, which has the arguments, with the status.
    Return([u64; ARGUMENTS], u64),
    /// The same by kretprobe, which does not.
    ReturnAlone(u64),
}

impl Synthetic {
    /// Attaches the programs of the wrapper called `name` to another function of the running kernel, by
    /// fentry and fexit or by kprobe and kretprobe: what runs attached only, on a kernel without wrappers.
    /// For a load that is not told the time.
    ///
    /// # Errors
    /// When there is no such wrapper, or the kernel does not allow it.
    pub fn attach_wrapper(
        &mut self,
        name: &str,
        function: &'static str,
        by_fentry: bool,
    ) -> Result<()> {
        let wrapper = wrapper(name)?;
        self.counters.loaded_mut().attach_wrapper_to(wrapper, function, by_fentry)
    }

    /// Lets the kernel call `bpf_fentry_test1` and so on, each once
    /// (`net/bpf/test_run.c:bpf_prog_test_run_tracing`), by way of the wrapper called `name`, which is
    /// attached by fentry to any function.
    ///
    /// # Errors
    /// When it is not, or the kernel does not do so.
    pub fn run_attached(&self, name: &str) -> Result<()> {
        let [_, fexit, ..] = wrapper(name)?.programs;
        let program = self.counters.loaded().function_program(fexit)?.as_fd().as_raw_fd();
        let mut attribute = [0_u32; 32];
        attribute[0] = program.cast_unsigned();
        // SAFETY: the attribute is as long as the call is told, and names nothing but the program.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, TEST_RUN, &raw const attribute, size_of_val(&attribute))
        };
        ensure!(result == 0, "the kernel does not run {fexit}: {}", io::Error::last_os_error());
        Ok(())
    }
}

/// `BPF_PROG_TEST_RUN` (`include/uapi/linux/bpf.h`); aya runs no programs of this type.
const TEST_RUN: libc::c_long = 10;

fn wrapper(name: &str) -> Result<&'static Wrapper> {
    let found = WRAPPERS.iter().find(|known| known.name == name);
    found.with_context(|| format!("there is no wrapper {name}"))
}

impl Cpu<'_> {
    /// Lets thread `tid` of process `pid` call the wrapper called `name` at `now`.
    ///
    /// # Errors
    /// When there is no such wrapper, or the kernel does not run the program.
    pub fn seamcall(
        &self,
        name: &str,
        call: Seamcall,
        (pid, tid): (u32, u32),
        now: u64,
    ) -> Result<()> {
        self.set(offset_of!(SyntheticCpu, now), now);
        self.set(offset_of!(SyntheticCpu, pid_tgid), u64::from(pid) << 32 | u64::from(tid));
        let number = WRAPPERS.iter().position(|wrapper| wrapper.name == name);
        let number = number.with_context(|| format!("there is no wrapper {name}"))?;
        let (phase, arguments, status) = match call {
            Seamcall::Enter(arguments) => (0, arguments, 0),
            Seamcall::Return(arguments, status) => (1, arguments, status),
            Seamcall::ReturnAlone(status) => (2, [0; ARGUMENTS], status),
        };
        let mut options = RawTracePointRunOptions::new();
        options.args[..3].copy_from_slice(&[number as u64, phase, status]);
        options.args[3..3 + ARGUMENTS].copy_from_slice(&arguments);
        let program = self.machine.programs.get(TWIN).context("the program is not loaded")?;
        program.test_run(options).context("the program does not run")?;
        Ok(())
    }
}
