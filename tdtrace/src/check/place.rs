//! Where a finding is: function, module, source line, device. Pure.

use crate::{
    model::guest::{
        finding::{Finding, Subject},
        snapshot::{Call, GuestSnapshot, Site},
    },
    sites::devices::Device,
    verdict::{Frame, form::Form},
};

/// What a finding is about, looked up.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// An instruction.
    Site(&'a Site),
    /// A caller of conversions and the like.
    Call(&'a Call),
    /// The guest as a whole.
    Guest,
}

impl<'a> Place<'a> {
    /// The place of `finding`. One that names what is not in the snapshot is about the guest.
    #[must_use]
    pub fn of(finding: &Finding, snapshot: &'a GuestSnapshot) -> Self {
        match finding.subject {
            Subject::Site { index } => snapshot.sites.get(index).map(Self::Site),
            Subject::Call { index } => snapshot.calls.get(index).map(Self::Call),
            Subject::Guest => None,
        }
        .unwrap_or(Self::Guest)
    }

    /// The functions that were inlined there, the innermost first, with the one that holds them as the
    /// last; empty without debug information.
    #[must_use]
    pub fn chain(self) -> &'a [Frame] {
        match self {
            Self::Site(site) => site.code.as_ref().and_then(|code| code.chain.as_deref()),
            Self::Call(_) | Self::Guest => None,
        }
        .unwrap_or_default()
    }

    /// The function that it lies in by the symbol table, or the caller; what the compiler appended
    /// (`.constprop.0`, `.part.0`) is left out, since the next build may not.
    #[must_use]
    pub fn function(self) -> Option<&'a str> {
        let name = match self {
            Self::Site(site) if site.user => None,
            Self::Site(site) => site
                .code
                .as_ref()
                .and_then(|code| code.function.as_deref())
                .or_else(|| site.symbol.as_deref().map(without_offset)),
            Self::Call(call) => call.caller.as_deref().map(without_offset),
            Self::Guest => None,
        };
        name.map(without_suffix)
    }

    /// The module; none for the kernel itself.
    #[must_use]
    pub fn module(self) -> Option<&'a str> {
        let text = match self {
            Self::Site(site) => {
                if let Some(module) = site.code.as_ref().and_then(|code| code.module.as_deref()) {
                    return Some(module);
                }
                site.symbol.as_deref().filter(|_| !site.user)
            }
            Self::Call(call) => call.caller.as_deref(),
            Self::Guest => None,
        };
        text.and_then(|text| text.split_once('[')).map(|(_, module)| module.trim_end_matches(']'))
    }

    /// The device that it touched.
    #[must_use]
    pub fn device(self) -> Option<&'a Device> {
        match self {
            Self::Site(site) => site.device.as_deref(),
            Self::Call(_) | Self::Guest => None,
        }
    }

    /// The line to look at: the innermost one that is not in a header, since an accessor or a copy that
    /// was inlined is not what has to change; else the innermost.
    #[must_use]
    pub fn line(self) -> Option<(&'a str, u32)> {
        let lines = |frame: &'a Frame| {
            let file = frame.file.as_deref().filter(|file| !file.is_empty());
            Some((file?, frame.line?))
        };
        let mut known = self.chain().iter().filter_map(lines);
        let first = known.clone().next();
        known.find(|(file, _)| !file.ends_with(".h")).or(first)
    }

    /// Function, offset and module; else the address and whose it is; `None` for the guest.
    #[must_use]
    pub fn text(self) -> Option<String> {
        match self {
            Self::Site(site) => Some(site.place()),
            Self::Call(call) => {
                Some(call.caller.as_deref().unwrap_or("an unknown caller").to_owned())
            }
            Self::Guest => None,
        }
    }

    /// What distinguishes it from others of the same rule and function, and stays in other builds: the
    /// instruction's form and size, or the operation.
    #[must_use]
    pub fn form(self) -> String {
        match self {
            Self::Site(site) => match Form::of(&site.bytes) {
                Form::Unknown => site.name.to_owned(),
                form @ (Form::Load(size)
                | Form::Store(size)
                | Form::StoreConstant(size)
                | Form::LoadExtended(size)
                | Form::In(size)
                | Form::Out(size)) => format!("{} {size}", form.name()),
                form => form.name().to_owned(),
            },
            Self::Call(call) => call.operation.name().to_owned(),
            Self::Guest => "guest".to_owned(),
        }
    }

    /// Whether `function` is one of those that it lies in: any of the chain, or the symbol. Names
    /// without a dot stand for those with what a compiler appended, too.
    #[must_use]
    pub fn is_in(self, function: &str) -> bool {
        let is = |name: &str| name == function || without_suffix(name) == function;
        self.chain().iter().any(|frame| is(&frame.function))
            || match self {
                Self::Site(site) if site.user => false,
                Self::Site(site) => {
                    let code = site.code.as_ref().and_then(|code| code.function.as_deref());
                    code.is_some_and(is)
                        || site.symbol.as_deref().map(without_offset).is_some_and(is)
                }
                Self::Call(call) => call.caller.as_deref().map(without_offset).is_some_and(is),
                Self::Guest => false,
            }
    }
}

/// `name` of `name+0x12 [module]` and `name [module]`.
fn without_offset(text: &str) -> &str {
    text.split(['+', ' ']).next().unwrap_or(text)
}

/// `name` of `name.constprop.0`. What begins with a dot has no other name.
fn without_suffix(name: &str) -> &str {
    match name.find('.') {
        Some(at) if at > 0 => &name[..at],
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{call, frame, overlay, user};

    #[test]
    fn a_site_is_in_its_symbol_and_in_all_functions_that_were_inlined() {
        let site = overlay();
        let place = Place::Site(&site);
        for function in ["acme_isr", "acme_isr.constprop.0", "set_bits"] {
            assert!(place.is_in(function), "{function}");
        }
        for function in ["acme", "acme_isr.part.0", "acme_isr+0x12", "", "writel"] {
            assert!(!place.is_in(function), "{function}");
        }
        assert_eq!((place.function(), place.module()), (Some("acme_isr"), Some("acme_nic")));
    }

    #[test]
    fn without_code_the_symbol_tells_function_and_module() {
        let mut site = overlay();
        site.code = None;
        let place = Place::Site(&site);
        assert_eq!((place.function(), place.module()), (Some("acme_isr"), Some("acme_nic")));
        assert!(place.is_in("acme_isr") && !place.is_in("set_bits"));
        assert_eq!(place.line(), None);
    }

    #[test]
    fn a_caller_has_function_and_module_too() {
        let call = call("acme_alloc [acme_nic]");
        let place = Place::Call(&call);
        assert_eq!((place.function(), place.module()), (Some("acme_alloc"), Some("acme_nic")));
        assert!(place.is_in("acme_alloc"));
        assert_eq!(place.form(), "to_shared");
    }

    #[test]
    fn what_a_process_does_is_in_no_function_of_the_kernel() {
        let site = user("evil+0x1 [kvm]");
        let place = Place::Site(&site);
        assert_eq!((place.function(), place.module()), (None, None));
        assert!(!place.is_in("evil"));
    }

    #[test]
    fn the_line_to_look_at_is_not_in_a_header_unless_there_is_no_other() {
        let mut site = overlay();
        let chain = vec![
            frame("memcpy", Some(("./include/linux/fortify-string.h", 691))),
            frame("acme_copy", Some(("drivers/acme.c", 40))),
            frame("acme_isr", Some(("drivers/acme.c", 90))),
        ];
        let mut code = (*site.code.clone().unwrap()).clone();
        code.chain = Some(chain.clone());
        site.code = Some(code.clone().into());
        assert_eq!(Place::Site(&site).line(), Some(("drivers/acme.c", 40)));
        code.chain = Some(chain[..1].to_vec());
        site.code = Some(code.into());
        assert_eq!(Place::Site(&site).line(), Some(("./include/linux/fortify-string.h", 691)));
    }

    #[test]
    fn the_form_has_the_size_where_that_is_part_of_the_code() {
        let mut site = overlay();
        assert_eq!(Place::Site(&site).form(), "OR");
        site.bytes = vec![0x8b, 0x07];
        assert_eq!(Place::Site(&site).form(), "MOV 4");
        site.bytes.clear();
        assert_eq!(Place::Site(&site).form(), "EPT_VIOLATION");
    }
}
