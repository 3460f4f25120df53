//! The offsets of a kernel's structure members, resolved from its BTF.
//!
//! Reads BTF through [`BtfSet`] and fills the [`KernelLayout`] that the programs get as a global.

use tdtrace_common::layout::{Field, KernelLayout};

use super::btf::{Btf, BtfError, BtfModule, BtfSet, MemberInfo};

/// A layout and what could not be found for it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The offsets in bytes; absent ones are [`tdtrace_common::layout::ABSENT`].
    pub layout: KernelLayout,
    /// Every field that was found, in the order of [`KernelLayout::FIELDS`].
    pub found: Vec<(Field, MemberInfo)>,
    /// Every field that was not, with the reason.
    pub missing: Vec<(Field, String)>,
}

impl Resolved {
    /// Where the field called `name` lies and how large it is, if it was found. Sizes differ between
    /// kernels too: `kvm_vm_type` is a byte or a word.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<MemberInfo> {
        self.found.iter().find(|(field, _)| field.name == name).map(|(_, info)| *info)
    }

    /// Why something is missing of which each list of `needs` names alternatives, if it is.
    #[must_use]
    pub fn why_lacking(&self, needs: &[&[&str]]) -> Option<&str> {
        let lacks = |names: &&[&str]| names.iter().all(|name| self.why_missing(name).is_some());
        let lacking = needs.iter().find(|names| lacks(names));
        lacking.and_then(|names| self.why_missing(names.first()?))
    }

    /// Why the field called `name` is missing, if it is.
    #[must_use]
    pub fn why_missing(&self, name: &str) -> Option<&str> {
        self.missing.iter().find(|(field, _)| field.name == name).map(|(_, why)| why.as_str())
    }
}

/// Resolves every field of [`KernelLayout`] from `set`. A field that BTF does not have is no error; it is in
/// [`Resolved::missing`].
#[must_use]
pub fn resolve(set: &BtfSet) -> Resolved {
    let mut resolved =
        Resolved { layout: KernelLayout::EMPTY, found: Vec::new(), missing: Vec::new() };
    for field in KernelLayout::FIELDS {
        match find(set, field) {
            Ok(info) => {
                resolved.layout.set(field.name, info.offset);
                resolved.found.push((*field, info));
            }
            Err(why) => resolved.missing.push((*field, why)),
        }
    }
    resolved
}

/// Looks where the field belongs, then wherever else the structure may be described: vmlinux has
/// those of a built-in module, and a module has those of KVM that vmlinux only declares.
fn find(set: &BtfSet, field: &Field) -> Result<MemberInfo, String> {
    let home = BtfModule::ALL.into_iter().find(|module| module.name() == field.module);
    let mut places: Vec<&Btf> = Vec::new();
    match home {
        Some(home) => places.extend(set.module(home)),
        None => {
            places.push(&set.vmlinux);
            places.extend(BtfModule::ALL.into_iter().filter_map(|module| set.module(module)));
        }
    }
    if home.is_some() {
        places.push(&set.vmlinux);
    }
    let mut reason = None;
    for btf in places {
        match btf.member(field.path) {
            Ok(info) => return Ok(info),
            // A struct that is nowhere says less than a member that is not in its struct.
            Err(error @ BtfError::NoStruct { .. }) => {
                reason.get_or_insert(error);
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let reason = reason.map_or_else(String::new, |error| error.to_string());
    match home {
        Some(home) if set.module(home).is_none() => Err(missing_module(set, home, &reason)),
        _ => Err(reason),
    }
}

fn missing_module(set: &BtfSet, module: BtfModule, reason: &str) -> String {
    let name = module.name();
    match set.unusable.iter().find(|(other, _)| *other == module) {
        Some((_, why)) => format!("BTF of {name} is of no use: {why}"),
        None => format!("{reason} of vmlinux, and {name} has no BTF of its own"),
    }
}
