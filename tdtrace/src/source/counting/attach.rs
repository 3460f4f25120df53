//! Attaching the programs to what this kernel has. Each probe attaches by itself; one that does not is
//! listed with the reason and with what it hides.

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{ProgramError, RawTracePoint},
    sys::SyscallError,
};

use super::load::Loaded;
use crate::{
    kernel::layout::Resolved,
    model::sample::ProbeState,
    probe::table::{PROBES, Probe, SET_ATTRIBUTES, SET_ATTRIBUTES_BY_IOCTL},
};

impl Loaded {
    /// Attaches every probe that this kernel has. With `trace_ioctl` system calls are looked at where KVM has no
    /// tracepoint for what a VMM does.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn attach(&mut self, resolved: &Resolved, trace_ioctl: bool) -> Result<()> {
        let mut states = Vec::new();
        for probe in PROBES {
            let missing = match self.attach_probe(probe, resolved)? {
                Some(_) if probe.name == SET_ATTRIBUTES && trace_ioctl => {
                    self.attach_probe(&SET_ATTRIBUTES_BY_IOCTL, resolved)?
                }
                Some(why) if probe.name == SET_ATTRIBUTES => Some(format!(
                    "{why} (--trace-ioctl sees it, and every system call pays for that)"
                )),
                missing => missing,
            };
            states.push(ProbeState { missing, ..probe.state() });
        }
        if states.iter().all(|state| state.missing.is_some()) {
            let why = states.first().and_then(|state| state.missing.clone()).unwrap_or_default();
            bail!("no probe can be attached ({why}); `tdtrace doctor` says what to do");
        }
        self.probes = states.into();
        self.attach_seam();
        self.attach_poison()
    }

    /// Attaches `probe`; the reason if this kernel does not allow it.
    fn attach_probe(&mut self, probe: &Probe, resolved: &Resolved) -> Result<Option<String>> {
        for need in probe.needs {
            if let Some(why) = resolved.why_missing(need) {
                return Ok(Some(why.to_owned()));
            }
        }
        let program: &mut RawTracePoint = self
            .ebpf
            .program_mut(probe.name)
            .with_context(|| format!("the object has no program {}", probe.name))?
            .try_into()?;
        if let Err(error) = program.load() {
            return Ok(Some(load_failure(&error)));
        }
        Ok(program.attach(probe.tracepoint).err().map(|error| attach_failure(&error, probe)))
    }
}

pub(crate) fn load_failure(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            format!("the kernel refuses the program: {io_error}: {}", verdict(&log))
        }
        other => format!("the program cannot be loaded: {other}"),
    }
}

/// The line in which the verifier says why; its statistics follow it.
fn verdict(log: &str) -> &str {
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| {
            let statistics = ["processed ", "stack depth ", "verification time "];
            !line.is_empty() && !statistics.iter().any(|start| line.starts_with(start))
        })
        .unwrap_or("the verifier says nothing")
}

fn attach_failure(error: &ProgramError, probe: &Probe) -> String {
    let why = absent_or(error, probe.tracepoint);
    if is_absent(error) { format!("{why}; is kvm loaded?") } else { why }
}

/// Why nothing is attached to `tracepoint`.
pub(super) fn absent_or(error: &ProgramError, tracepoint: &str) -> String {
    if is_absent(error) {
        format!("this kernel has no tracepoint {tracepoint}")
    } else {
        format!("{tracepoint} cannot be attached: {error}")
    }
}

fn is_absent(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(libc::ENOENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_reason_is_found_before_its_statistics() {
        let log = "0: R1=ctx()\n5: (79) r0 = *(u64 *)(r3 +0)\nR3 unbounded memory access\nverification time 9 usec\nstack depth 48+152\nprocessed 6 insns (limit 1000000)\n\n";
        assert_eq!(verdict(log), "R3 unbounded memory access");
        assert_eq!(verdict(""), "the verifier says nothing");
    }
}
