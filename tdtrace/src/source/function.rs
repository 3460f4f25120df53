//! Attaching to functions of the kernel: by fentry and fexit, or by kprobe and kretprobe where those are
//! not to be had.

use anyhow::{Context as _, Result};
use aya::{
    Btf, Ebpf,
    programs::{FEntry, FExit, KProbe, Program, ProgramError, kprobe::KProbeError, links::FdLink},
    sys::SyscallError,
};

use super::counting::attach::load_failure;
use crate::probe::guest::Pair;

/// A function and the programs on it.
#[derive(Clone, Copy)]
pub(super) struct Function {
    /// The function.
    pub(super) name: &'static str,
    /// The module that has it; `None` for the kernel itself.
    pub(super) module: Option<&'static str>,
    /// Programs of fentry and fexit.
    pub(super) fentry: Option<Pair>,
    /// Programs of kprobe and kretprobe.
    pub(super) kprobe: Option<Pair>,
}

/// What was attached.
#[derive(Default)]
pub(super) struct Attached {
    /// `fentry` or `kprobe`; `None` for nothing.
    pub(super) how: Option<&'static str>,
    /// Why nothing, or why not by fentry.
    pub(super) why: Option<String>,
    /// The programs.
    pub(super) programs: Vec<&'static str>,
    /// Links of those that are kprobes, as far as the kernel has such links.
    pub(super) kprobes: Vec<(&'static str, FdLink)>,
}

/// Attaches to `function`; without `btf`, which then says why, by kprobe only.
pub(super) fn attach(ebpf: &mut Ebpf, function: Function, btf: Result<&Btf, &str>) -> Attached {
    let Function { name, module, fentry, kprobe } = function;
    let mut why = None;
    if let Some(pair) = fentry {
        match btf
            .map_err(str::to_owned)
            .and_then(|btf| attach_pair(ebpf, pair, |program| attach_fentry(program, name, btf)))
        {
            Ok(attached) => return Attached { how: Some("fentry"), ..attached },
            Err(error) => why = Some(error),
        }
    }
    if let Some(pair) = kprobe {
        match attach_pair(ebpf, pair, |program| attach_kprobe(program, name, module)) {
            Ok(attached) => return Attached { how: Some("kprobe"), why, ..attached },
            // Where there are none at all, what fentry says is more.
            Err(error) => {
                let is_more = why.is_some() && error == NO_KPROBES;
                why = if is_more { why } else { Some(error) };
            }
        }
    }
    Attached { why, ..Attached::default() }
}

/// Attaches both programs of `pair`, or none.
fn attach_pair(
    ebpf: &mut Ebpf,
    pair: Pair,
    attach: impl Fn(&mut Program) -> Result<Option<FdLink>, String>,
) -> Result<Attached, String> {
    let mut attached = Attached::default();
    let names = || pair.entry.into_iter().chain([pair.exit]);
    for name in names() {
        let program = program(ebpf, name).map_err(|error| format!("{error:#}"))?;
        match attach(program) {
            Ok(link) => attached.kprobes.extend(link.map(|link| (name, link))),
            Err(why) => {
                // Nothing is attached if it was the first; loaded, it is quicker next time.
                let is_first = Some(name) == names().next();
                for name in names().filter(|_| !is_first) {
                    if let Some(program) = ebpf.program_mut(name) {
                        // One that was not loaded has nothing to be taken away.
                        let _ = unload(program);
                    }
                }
                return Err(why);
            }
        }
    }
    attached.programs.extend(names());
    Ok(attached)
}

fn unload(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::FEntry(program) => program.unload(),
        Program::FExit(program) => program.unload(),
        Program::KProbe(program) => program.unload(),
        _ => Ok(()),
    }
}

/// Program `name` of the object.
pub(super) fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Program> {
    ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))
}

fn attach_fentry(
    program: &mut Program,
    function: &str,
    btf: &Btf,
) -> Result<Option<FdLink>, String> {
    let result = match program {
        Program::FEntry(program) => load_fentry(program, function, btf),
        Program::FExit(program) => load_fexit(program, function, btf),
        _ => return Err(format!("the program on {function} is of another type")),
    };
    result.map(|()| None).map_err(|error| failure(&error, function, None))
}

fn load_fentry(program: &mut FEntry, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(function, btf)?;
    program.attach().map(drop)
}

fn load_fexit(program: &mut FExit, function: &str, btf: &Btf) -> Result<(), ProgramError> {
    program.load(function, btf)?;
    program.attach().map(drop)
}

fn attach_kprobe(
    program: &mut Program,
    function: &str,
    module: Option<&str>,
) -> Result<Option<FdLink>, String> {
    let Program::KProbe(program) = program else {
        return Err(format!("the program on {function} is of another type"));
    };
    let result = load_kprobe(program, function);
    result.map_err(|error| failure(&error, function, module))
}

fn load_kprobe(program: &mut KProbe, function: &str) -> Result<Option<FdLink>, ProgramError> {
    match program.load() {
        // From an earlier attempt, before the module was there.
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(error),
    }
    let link = program.attach(function, 0)?;
    if let Ok(link) = FdLink::try_from(program.take_link(link)?) {
        return Ok(Some(link));
    }
    // The kernel has no links for it, and what was attached is gone with the attempt.
    program.attach(function, 0).map(|_| None)
}

/// A kernel without CONFIG_KPROBE_EVENTS.
const NO_KPROBES: &str = "this kernel has no kprobes";

/// Why a program is not attached to `place`, a function or a tracepoint.
pub(super) fn failure(error: &ProgramError, place: &str, module: Option<&str>) -> String {
    let absent = || match module {
        Some(module) => format!("there is no {place}; is the module {module} loaded?"),
        None => format!("this kernel has no {place}"),
    };
    match error {
        ProgramError::LoadError { .. } => load_failure(error),
        ProgramError::SyscallError(SyscallError { io_error, .. }) => {
            match io_error.raw_os_error() {
                Some(libc::ENOENT) => absent(),
                Some(libc::EADDRNOTAVAIL) => {
                    format!("this kernel has several functions called {place}")
                }
                _ => format!("{place} cannot be attached to: {io_error}"),
            }
        }
        ProgramError::Btf(_) => absent(),
        ProgramError::KProbeError(KProbeError::FileError { io_error, .. })
            if io_error.kind() == std::io::ErrorKind::NotFound =>
        {
            NO_KPROBES.to_owned()
        }
        other => format!("{place} cannot be attached to: {other}"),
    }
}
