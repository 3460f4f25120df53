//! A place in kernel code as people write it. Pure.

use std::str::FromStr;

/// An address, or a function and an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An address.
    Address(u64),
    /// Something like `nvme_poll+0x3c/0x120 [nvme]`.
    Symbol {
        /// The function.
        name: String,
        /// Bytes behind its beginning.
        offset: u64,
        /// Bytes of the function, as an oops names them.
        size: Option<u64>,
        /// The module.
        module: Option<String>,
    },
}

/// What is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no place in the kernel; give 0x and an address, or a function as in nvme_poll+0x3c"
)]
pub struct NoPlace(String);

impl FromStr for Place {
    type Err = NoPlace;

    /// Reads `0x…` (or 16 bare hex digits), `function`, `function+0x3c`, `function+0x3c/0x120`,
    /// each of them with `[module]` behind it or `module:` before it.
    fn from_str(text: &str) -> Result<Self, NoPlace> {
        parse(text.trim()).ok_or_else(|| NoPlace(text.chars().take(80).collect()))
    }
}

fn parse(text: &str) -> Option<Place> {
    if let Some(address) = address(text) {
        return Some(Place::Address(address));
    }
    let (text, module) = match text.split_once('[') {
        Some((text, module)) => (text.trim_end(), Some(module.strip_suffix(']')?)),
        None => match text.split_once(':') {
            Some((module, text)) => (text, Some(module)),
            None => (text, None),
        },
    };
    let (name, rest) = text.split_once('+').map_or((text, None), |(name, rest)| (name, Some(rest)));
    let (offset, size) = match rest.map(|rest| rest.split_once('/').unwrap_or((rest, ""))) {
        Some((offset, "")) => (number(offset)?, None),
        Some((offset, size)) => (number(offset)?, Some(number(size)?)),
        None => (0, None),
    };
    let is_name = |text: &str| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|first| !first.is_ascii_digit())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.$-".contains(&byte))
    };
    // Versions that some kernels put behind a module's name, as in [nvme(E)] or [nvme 1234abcd].
    let module = module.map(|module| module.split(['(', ' ']).next().unwrap_or_default());
    if !is_name(name)
        || module.is_some_and(|module| !is_name(&format!("_{module}")) || module.is_empty())
    {
        return None;
    }
    let module = module.map(|module| module.replace('-', "_"));
    Some(Place::Symbol { name: name.to_owned(), offset, size, module })
}

/// An address with 0x, or as logs print them: 16 hex digits.
fn address(text: &str) -> Option<u64> {
    let bare = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(&digits.replace('_', ""), 16).ok(),
        None => bare.then(|| u64::from_str_radix(text, 16).ok()).flatten(),
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn symbol(name: &str, offset: u64, size: Option<u64>, module: Option<&str>) -> Place {
        Place::Symbol { name: name.into(), offset, size, module: module.map(Into::into) }
    }

    #[test]
    fn places_are_read_as_an_oops_prints_them() {
        for (text, place) in [
            ("0xffffffff81000010", Place::Address(0xffff_ffff_8100_0010)),
            ("ffffffff81000010", Place::Address(0xffff_ffff_8100_0010)),
            ("nvme_poll", symbol("nvme_poll", 0, None, None)),
            ("nvme_poll+60", symbol("nvme_poll", 60, None, None)),
            ("nvme_poll+0x3c/0x120", symbol("nvme_poll", 0x3c, Some(0x120), None)),
            ("nvme_poll+0x3c/0x120 [nvme]", symbol("nvme_poll", 0x3c, Some(0x120), Some("nvme"))),
            ("acme_isr+0x1 [acme-nic(OE)]", symbol("acme_isr", 1, None, Some("acme_nic"))),
            ("nvme:nvme_poll+1", symbol("nvme_poll", 1, None, Some("nvme"))),
            ("foo.constprop.0", symbol("foo.constprop.0", 0, None, None)),
        ] {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in ["", "12", "0x", "a+", "a+zz", "a b", "a [", "a []", "a+1/q", "[nvme]"] {
            let error = text.parse::<Place>().unwrap_err().to_string();
            assert!(error.contains("is no place in the kernel"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_refused(text in any::<String>()) {
            drop(text.parse::<Place>());
        }
    }
}
