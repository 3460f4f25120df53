//! The verdict itself. The chain of inlined functions outranks the form of the instruction; where
//! neither decides, the verdict is *undecided*. Pure.

use super::{
    Access, Frame, Kind, Target, Verdict,
    accessors::{self, Accessor, Class},
    form::Form,
    survival, words,
};

/// Judges one access.
#[must_use]
pub fn judge(access: &Access<'_>) -> Verdict {
    let form = Form::of(access.bytes);
    let (kind, mut evidence) = match &access.target {
        _ if access.user => (Kind::UserSpace, vec![words::user_space(&access.target)]),
        Target::Port(io) => of_port(access, form, io.as_ref().is_some_and(|io| io.string)),
        Target::Memory { .. } => of_memory(access, form),
    };
    if let Target::Memory { ram: true, .. } = access.target {
        evidence.push(words::SHARED_RAM.into());
    }
    let survives = survival::of(access, form);
    let advice = words::advice(kind, form, access);
    Verdict { kind, evidence, survives, advice }
}

/// A frame and the accessor that it is.
type Found<'a> = (&'a Frame, Accessor);

/// The accessor in a chain that decides: one outside `io.h` or one that is not TD-safe comes before
/// those that it is made of, else the innermost.
fn deciding<'a>(chain: &'a [Frame], fits: impl Fn(&Accessor) -> bool) -> Option<Found<'a>> {
    let found = || {
        chain
            .iter()
            .filter_map(|frame| Some((frame, accessors::find(frame)?)))
            .filter(|(_, a)| fits(a))
    };
    let of_class = |class| found().find(|(_, accessor)| accessor.class == class);
    of_class(Class::Arch).or_else(|| of_class(Class::IoNotTdSafe)).or_else(|| found().next())
}

const fn kind_of(class: Class) -> Kind {
    match class {
        Class::Io => Kind::IoAccessor,
        Class::IoNotTdSafe => Kind::IoAccessorNotTdSafe,
        Class::Arch => Kind::ArchAccessor,
    }
}

fn of_memory(access: &Access<'_>, form: Form) -> (Kind, Vec<String>) {
    let Some(chain) = access.chain else { return without_chain(access, form) };
    if let Some((frame, accessor)) = deciding(chain, Accessor::touches_memory) {
        let mut evidence = vec![words::accessor(chain, frame, &accessor)];
        evidence.extend(words::odd_form(&accessor, form));
        return (kind_of(accessor.class), evidence);
    }
    let mut evidence = vec![words::no_accessor(chain)];
    evidence.extend(chain.iter().filter_map(words::namesake));
    let copy = chain.iter().find(|frame| accessors::is_copy(&frame.function));
    let kind = match (form, copy) {
        (Form::NoMemory | Form::In(_) | Form::Out(_) | Form::StringPort, _) => {
            evidence.insert(0, words::no_memory(form));
            return (Kind::Undecided, evidence);
        }
        (Form::Movs, _) => {
            evidence.insert(0, words::MOVS.into());
            Kind::MemcpyOnIomem
        }
        (Form::Load(_) | Form::Store(_) | Form::Unknown, Some(copy)) => {
            evidence.insert(0, words::copies(copy));
            Kind::MemcpyOnIomem
        }
        _ => Kind::PointerDereference,
    };
    if kind == Kind::PointerDereference {
        evidence.extend(words::foreign_form(form));
    }
    (kind, evidence)
}

/// What the form alone proves.
fn without_chain(access: &Access<'_>, form: Form) -> (Kind, Vec<String>) {
    match form {
        Form::NoMemory | Form::In(_) | Form::Out(_) | Form::StringPort => {
            (Kind::Undecided, vec![words::no_memory(form), words::NO_DEBUG_INFO.into()])
        }
        Form::Unknown => {
            let mut evidence = vec![words::NO_BYTES.into(), words::NO_DEBUG_INFO.into()];
            evidence.extend(words::symbol(access.symbol));
            (Kind::Undecided, evidence)
        }
        _ if form.can_be_accessor() => {
            let mut evidence = vec![words::could_be_either(form), words::NO_DEBUG_INFO.into()];
            evidence.extend(words::symbol(access.symbol));
            (Kind::Undecided, evidence)
        }
        _ => (Kind::PointerDereference, words::foreign_form(form).into_iter().collect()),
    }
}

fn of_port(access: &Access<'_>, form: Form, string: bool) -> (Kind, Vec<String>) {
    if string || form == Form::StringPort {
        let mut evidence = vec![words::STRING_PORT.to_owned()];
        if let Some(chain) = access.chain {
            let found = deciding(chain, Accessor::touches_ports);
            evidence.push(match found {
                Some((frame, accessor)) => words::accessor(chain, frame, &accessor),
                None => words::no_accessor(chain),
            });
        }
        return (Kind::StringPortIo, evidence);
    }
    let Some(chain) = access.chain else {
        let mut evidence = vec![words::PORT_WITHOUT_CHAIN.to_owned(), words::NO_DEBUG_INFO.into()];
        evidence.extend(words::symbol(access.symbol));
        return (Kind::Undecided, evidence);
    };
    match deciding(chain, Accessor::touches_ports) {
        Some((frame, accessor)) => {
            (kind_of(accessor.class), vec![words::accessor(chain, frame, &accessor)])
        }
        None => (Kind::InlineAssembly, vec![words::no_accessor(chain), words::ASSEMBLY.into()]),
    }
}
