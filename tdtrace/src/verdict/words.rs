//! The sentences of verdicts. Pure.

use super::{
    Access, Frame, Kind, Target,
    accessors::{self, Accessor, Class, KERNEL},
    form::Form,
};

pub(super) const NO_DEBUG_INFO: &str =
    "There is no debug information for this address, so inlined functions are not known.";
pub(super) const NO_BYTES: &str = "The bytes of the instruction are not known.";
pub(super) const MOVS: &str =
    "MOVS copies memory to memory: memcpy() or a struct that is assigned.";
pub(super) const SHARED_RAM: &str =
    "The address is System RAM: shared memory that the VMM does not map, not a device.";
pub(super) const STRING_PORT: &str =
    "INS and OUTS move memory to and from a port; the insX and outsX of io.h do without in a TD.";
pub(super) const PORT_WITHOUT_CHAIN: &str =
    "IN and OUT come from inX and outX or from assembly elsewhere; the instruction does not tell.";
pub(super) const ASSEMBLY: &str = "No compiler emits IN or OUT by itself, so it is assembly.";

/// `a ← b ← c`, the innermost first.
pub(super) fn chain(chain: &[Frame]) -> String {
    let names: Vec<_> = chain.iter().map(|frame| frame.function.as_str()).collect();
    names.join(" ← ")
}

pub(super) fn accessor(frames: &[Frame], frame: &Frame, accessor: &Accessor) -> String {
    let Accessor { name, emits, file, line, .. } = accessor;
    let what = match accessor.class {
        Class::Io => "an accessor of io.h",
        Class::IoNotTdSafe => "an accessor of io.h that a TD cannot emulate",
        Class::Arch => "an accessor of the architecture",
    };
    let place = match (&frame.file, frame.line) {
        (Some(file), Some(line)) => format!(", here at {file}:{line}"),
        _ => String::new(),
    };
    format!(
        "{} is in the chain {}: {what} ({file}:{line} of Linux {KERNEL}, emits {emits}){place}.",
        name,
        chain(frames)
    )
}

/// What to say where an accessor's frame holds a form that no accessor has.
pub(super) fn odd_form(accessor: &Accessor, form: Form) -> Option<String> {
    let known = !matches!(form, Form::Unknown) && !form.can_be_accessor();
    known.then(|| {
        format!(
            "{} is not what {} emits ({}): it is code around the access that the compiler counts \
             as part of it, or the bytes are of another place.",
            capital(form.name()),
            accessor.name,
            accessor.emits
        )
    })
}

pub(super) fn no_accessor(frames: &[Frame]) -> String {
    if frames.is_empty() {
        return "Debug information knows no function here, so none that is an accessor.".into();
    }
    format!("No accessor is in the chain {}.", chain(frames))
}

/// A function that has an accessor's name and is none.
pub(super) fn namesake(frame: &Frame) -> Option<String> {
    let accessor = accessors::by_name(&frame.function)?;
    let file = frame.file.as_deref()?;
    Some(format!("The {} of {file} is not the one of {}.", frame.function, accessor.file))
}

pub(super) fn copies(frame: &Frame) -> String {
    format!("{} copies memory and knows nothing of devices.", frame.function)
}

pub(super) fn no_memory(form: Form) -> String {
    let name = form.name();
    format!("The bytes are {name}, which no #VE on memory comes from: look at the address again.")
}

pub(super) fn could_be_either(form: Form) -> String {
    match form {
        Form::Movs => {
            "MOVS is memcpy() or a struct that is assigned, but __iowrite32_copy has it, \
                       too."
                .into()
        }
        Form::Movdir64b => "MOVDIR64B is what iosubmit_cmds512 has, and other code, too.".into(),
        _ => "A plain MOV is what read* and write* emit, and any pointer dereference, too.".into(),
    }
}

/// Why an accessor cannot have the form; nothing for those that it can have.
pub(super) fn foreign_form(form: Form) -> Option<String> {
    let known = !matches!(form, Form::Unknown) && !form.can_be_accessor();
    known.then(|| {
        let name = capital(form.name());
        format!(
            "{name} cannot come from read* or write*: they emit MOV between memory and a register \
             and nothing else."
        )
    })
}

/// `text` as a sentence begins.
fn capital(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or(String::new(), |first| first.to_uppercase().chain(rest).collect())
}

/// What the symbol's name suggests, without making it a verdict.
pub(super) fn symbol(symbol: Option<&str>) -> Option<String> {
    let symbol = symbol?;
    Some(match accessors::by_name(symbol) {
        Some(accessor) => {
            format!("The function is called {symbol}, as an accessor of {} is.", accessor.file)
        }
        None => format!("The function is {symbol}; an accessor may be inlined there."),
    })
}

pub(super) fn user_space(target: &Target) -> String {
    match target {
        Target::Port(_) => "The port instruction ran in user mode: ioperm() and iopl() permit it \
                            in a TD, too, and then each IN or OUT raises #VE."
            .into(),
        Target::Memory { .. } => "The access came from user mode, through a mapping of a device \
                                  or of shared memory."
            .into(),
    }
}

/// What to do about an access.
pub(super) fn advice(kind: Kind, form: Form, access: &Access<'_>) -> String {
    if matches!(access.target, Target::Memory { ram: true, .. }) {
        return "look at the VMM: it took shared memory away that the guest still uses".into();
    }
    let port = matches!(access.target, Target::Port(_));
    match kind {
        Kind::IoAccessor if form == Form::Movs => {
            "a TD copies without MOVS here; find out why CC_ATTR_GUEST_UNROLL_STRING_IO is not set"
                .into()
        }
        Kind::IoAccessor | Kind::ArchAccessor if port => {
            "nothing to change; fewer accesses are faster, each is a TDVMCALL".into()
        }
        Kind::IoAccessor | Kind::ArchAccessor => {
            "nothing to change; fewer accesses are faster, each is a #VE and a TDVMCALL".into()
        }
        Kind::IoAccessorNotTdSafe if form == Form::Movdir64b => {
            "do not submit by MOVDIR64B in a TD; write the registers with writeq()".into()
        }
        Kind::IoAccessorNotTdSafe => "use memcpy_toio() or a loop of writel() in a TD".into(),
        Kind::PointerDereference => dereference(form),
        Kind::MemcpyOnIomem => {
            "use memcpy_fromio() or memcpy_toio(), which a TD does byte by byte".into()
        }
        Kind::StringPortIo => "use insb() … outsl() of io.h, which a TD unrolls".into(),
        Kind::InlineAssembly => "use inb() … outl() of io.h".into(),
        Kind::UserSpace if port => {
            "leave the port to a driver; lockdown=integrity makes ioperm() and iopl() fail".into()
        }
        Kind::UserSpace => "leave the device to a driver of the kernel".into(),
        Kind::Undecided if matches!(form, Form::NoMemory) => {
            "check that address and bytes belong together".into()
        }
        Kind::Undecided => {
            "install the kernel's debug information, or give it with --vmlinux and --debug-dir"
                .into()
        }
    }
}

fn dereference(form: Form) -> String {
    let letter = |size| match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    };
    match form {
        Form::Load(size) => format!("read it with read{}()", letter(size)),
        Form::LoadExtended(size) => format!("read it with read{}() and extend that", letter(size)),
        Form::Store(size) | Form::StoreConstant(size) => {
            format!("write it with write{}()", letter(size))
        }
        Form::Other("TEST" | "CMP" | "BT") => "read it with readl() and test the value".into(),
        Form::Other("STOS") => "fill it with memset_io()".into(),
        Form::Other("LODS") => "read it with memcpy_fromio()".into(),
        _ => "read with readl(), change the value, write it back with writel()".into(),
    }
}
