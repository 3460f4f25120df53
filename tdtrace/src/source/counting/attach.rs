//! Attaching the programs to what this kernel has. Each probe attaches by itself; one that does not is
//! listed with the reason and with what it hides.

use anyhow::{Context as _, Result, bail};
use aya::{
    Btf,
    programs::{ProgramError, RawTracePoint},
    sys::SyscallError,
};

use super::{load::Loaded, losses::misses};
use crate::{
    kernel::layout::Resolved,
    model::sample::ProbeState,
    probe::table::{
        FunctionProbe, GUEST_MEMFD_PROBES, PROBES, Probe, SET_ATTRIBUTES,
        SET_ATTRIBUTES_BY_FUNCTION, SET_ATTRIBUTES_BY_IOCTL,
    },
    source::function::{self, Attached, Function},
};

impl Loaded {
    /// Attaches every probe that this kernel has. With `trace_ioctl` system calls are looked at where nothing else
    /// tells what a VMM does.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn attach(&mut self, resolved: &Resolved, trace_ioctl: bool) -> Result<()> {
        let btf = Btf::from_sys_fs().map_err(|error| error.to_string());
        let mut states = Vec::new();
        for probe in PROBES {
            let missing = if probe.name == SET_ATTRIBUTES {
                self.attach_attributes(probe, resolved, trace_ioctl, btf.as_ref())?
            } else {
                self.attach_probe(probe, resolved)?
            };
            states.push(ProbeState { missing, ..probe.state() });
        }
        // Attributes alone belong to no VM.
        let counts = |state: &ProbeState| state.missing.is_none() && state.name != SET_ATTRIBUTES;
        if !states.iter().any(counts) {
            let why = states.first().and_then(|state| state.missing.clone()).unwrap_or_default();
            bail!("no probe can be attached ({why}); `tdtrace doctor` says what to do");
        }
        for probe in GUEST_MEMFD_PROBES {
            let missing = self.attach_function(probe, resolved, btf.as_ref());
            states.push(probe.state(missing));
        }
        self.probes = states.into();
        self.attach_seam(btf.as_ref());
        self.attach_poison()
    }

    /// Attaches one source of attributes and no other, so that nothing counts twice: the function, which
    /// knows the VM, else the tracepoint `probe`, else, if asked for, the system call.
    fn attach_attributes(
        &mut self,
        probe: &Probe,
        resolved: &Resolved,
        trace_ioctl: bool,
        btf: Result<&Btf, &String>,
    ) -> Result<Option<String>> {
        let by_function = &SET_ATTRIBUTES_BY_FUNCTION;
        let Some(not_by_function) = self.attach_function(by_function, resolved, btf) else {
            return Ok(None);
        };
        match self.attach_probe(probe, resolved)? {
            Some(_) if trace_ioctl => self.attach_probe(&SET_ATTRIBUTES_BY_IOCTL, resolved),
            Some(why) => Ok(Some(format!(
                "{why}; {}: {not_by_function} (--trace-ioctl sees it, and every system call pays for that)",
                by_function.name
            ))),
            None => Ok(None),
        }
    }

    /// Attaches `probe`; the reason if this kernel does not allow it.
    fn attach_function(
        &mut self,
        probe: &'static FunctionProbe,
        resolved: &Resolved,
        btf: Result<&Btf, &String>,
    ) -> Option<String> {
        if let Some(why) = resolved.why_lacking(probe.needs) {
            return Some(why.to_owned());
        }
        self.attach_function_to(probe, probe.name, btf)
    }

    /// Attaches the programs of `probe` to the function `name`; the reason if this kernel does not allow it.
    pub(crate) fn attach_function_to(
        &mut self,
        probe: &'static FunctionProbe,
        name: &'static str,
        btf: Result<&Btf, &String>,
    ) -> Option<String> {
        let function = Function {
            name,
            module: Some("kvm"),
            fentry: Some(probe.fentry),
            kprobe: Some(probe.kprobe),
        };
        let attached = function::attach(&mut self.ebpf, function, btf.map_err(String::as_str));
        if attached.how.is_none() {
            return Some(attached.why.unwrap_or_default());
        }
        self.functions.push((probe, attached));
        None
    }

    /// How the probe on function `name` is attached: `fentry` or `kprobe`; `None` if it is not.
    pub(crate) fn attached_by(&self, name: &str) -> Option<&'static str> {
        self.functions.iter().find(|(probe, _)| probe.name == name)?.1.how
    }

    /// Calls that the programs of a probe missed, of whatever kind.
    pub(super) fn missed_by(&self, attached: &Attached) -> Result<u64> {
        let mut missed = 0;
        for name in &attached.programs {
            let link = attached.kprobes.iter().find(|(of, _)| of == name).map(|(_, link)| link);
            missed += misses(self.function_program(name)?, link)?;
        }
        Ok(missed)
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
