//! Allowlists: which findings somebody knows of and accepts, why, and until when. Pure.
//!
//! TOML with `[[allow]]` entries. It is read key by key and not by a derived reader, so that each
//! mistake is said with its line.

use std::{fmt, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{date::Date, fail_on, place::Place};
use crate::{model::guest::finding::Rule, sites::devices::Device};

/// Bytes of an allowlist at most.
pub const BYTES_MAX: usize = 1 << 20;
/// Entries of all allowlists together at most.
pub const ENTRIES_MAX: usize = 4096;
/// Names in one list at most.
const NAMES_MAX: usize = 256;
/// Bytes of a name at most; the kernel's own are shorter than 512.
const NAME_MAX: usize = 512;
/// Bytes of a reason at most.
const REASON_MAX: usize = 4096;

/// An entry: findings that all its conditions apply to are allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The allowlist's name.
    pub file: Arc<str>,
    /// Line of its `[[allow]]`, from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
    /// The last day on which it allows anything, in UTC.
    pub expires: Option<Date>,
    /// One of these rules; empty for all.
    rules: Vec<Rule>,
    /// One of these functions; empty for all. So with the others.
    symbols: Vec<String>,
    modules: Vec<String>,
    drivers: Vec<String>,
    pci: Vec<Pci>,
}

/// A PCI device as an entry names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pci {
    /// Vendor and device, such as `8086:10d3`.
    Id(String),
    /// Domain, bus, device and function, such as `0000:00:04.0`.
    Address(String),
}

/// What is wrong with an allowlist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Mistake {
    file: Arc<str>,
    line: usize,
    what: String,
}

impl Entry {
    /// Whether it allows nothing any more on `today`.
    #[must_use]
    pub fn is_expired(&self, today: Date) -> bool {
        self.expires.is_some_and(|last| today > last)
    }

    /// Whether all its conditions apply to a finding of `rule` at `place`.
    #[must_use]
    pub fn applies(&self, rule: Rule, place: Place<'_>) -> bool {
        let any = |names: &[String], is: &dyn Fn(&str) -> bool| {
            names.is_empty() || names.iter().any(|name| is(name))
        };
        let device = place.device();
        (self.rules.is_empty() || self.rules.contains(&rule))
            && any(&self.symbols, &|name| place.is_in(name))
            && any(&self.modules, &|name| place.module().is_some_and(|of| of == name))
            && any(&self.drivers, &|name| {
                device.and_then(|device| device.driver.as_deref()).is_some_and(|of| of == name)
            })
            && (self.pci.is_empty()
                || self.pci.iter().any(|pci| device.is_some_and(|of| pci.is(of))))
    }
}

impl fmt::Display for Entry {
    /// `FILE:LINE`, as editors and CI systems find it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Pci {
    /// Reads `8086:10d3`, `0000:00:04.0` or `00:04.0`, which is in domain 0.
    fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str, digits: usize| {
            text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let lower = text.to_ascii_lowercase();
        match *lower.split(':').collect::<Vec<_>>() {
            [vendor, device] if hex(vendor, 4) && hex(device, 4) => Some(Self::Id(lower)),
            [.., bus, slot] if lower.matches(':').count() <= 2 => {
                let (device, function) = slot.split_once('.')?;
                let function_is_one = matches!(function.as_bytes(), [b'0'..=b'7']);
                let domain = lower.strip_suffix(&format!(":{bus}:{slot}")).unwrap_or("0000");
                // Domains of virtual buses have more than four digits.
                let domain_is_one = (4..=8).any(|digits| hex(domain, digits));
                (hex(bus, 2) && hex(device, 2) && function_is_one && domain_is_one)
                    .then(|| Self::Address(format!("{domain}:{bus}:{slot}")))
            }
            _ => None,
        }
    }

    fn is(&self, device: &Device) -> bool {
        let (name, of) = match self {
            Self::Id(id) => (id, &device.id),
            Self::Address(address) => (address, &device.pci),
        };
        of.as_ref().is_some_and(|of| of.eq_ignore_ascii_case(name))
    }
}

/// Reads an allowlist; `file` is what mistakes name it.
///
/// # Errors
/// One sentence with the line for the first mistake: no TOML, a key that is not known, a value of the
/// wrong kind, no reason, no condition, an unknown rule, or too much of anything.
pub fn parse(file: &str, text: &str) -> Result<Vec<Entry>, Mistake> {
    let reader = Reader { file: file.into(), text };
    if text.len() > BYTES_MAX {
        return Err(reader.mistake(0, format!("it has more than {BYTES_MAX} bytes; split it")));
    }
    let document = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        reader.mistake(at, format!("it is no TOML: {}", shown(error.message())))
    })?;
    let mut entries = Vec::new();
    for (key, value) in document.get_ref() {
        let at = key.span().start;
        if key.get_ref() != "allow" {
            let key = shown(key.get_ref());
            return Err(reader.mistake(at, format!("`{key}` is not known; give [[allow]] entries")));
        }
        let DeValue::Array(list) = value.get_ref() else {
            return Err(reader.mistake(at, "write [[allow]] with two brackets"));
        };
        if list.len() > ENTRIES_MAX {
            return Err(reader.mistake(at, format!("there are more than {ENTRIES_MAX} entries")));
        }
        for value in list {
            entries.push(reader.entry(value)?);
        }
    }
    Ok(entries)
}

/// A text from a file as an error shows it: one line, not too long.
fn shown(text: &str) -> String {
    text.chars().take(120).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The file that is read.
struct Reader<'a> {
    file: Arc<str>,
    text: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    /// Line of a byte, from 1.
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn mistake(&self, at: usize, what: impl Into<String>) -> Mistake {
        Mistake { file: Arc::clone(&self.file), line: self.line(at), what: what.into() }
    }

    fn entry(&self, value: &Value<'_>) -> Result<Entry, Mistake> {
        let at = value.span().start;
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.mistake(at, "an entry is a table; write [[allow]] before its keys"));
        };
        let mut entry = Entry {
            file: Arc::clone(&self.file),
            line: self.line(at),
            reason: String::new(),
            expires: None,
            rules: Vec::new(),
            symbols: Vec::new(),
            modules: Vec::new(),
            drivers: Vec::new(),
            pci: Vec::new(),
        };
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            match name {
                "rule" => entry.rules = self.each(name, value, Self::rule)?,
                "symbol" => entry.symbols = self.each(name, value, |_, _, text| Ok(text.into()))?,
                // The kernel's own names have an underscore where files may have a hyphen.
                "module" => {
                    entry.modules =
                        self.each(name, value, |_, _, text| Ok(text.replace('-', "_")))?;
                }
                "driver" => entry.drivers = self.each(name, value, |_, _, text| Ok(text.into()))?,
                "pci" => entry.pci = self.each(name, value, Self::pci)?,
                "reason" => entry.reason = self.reason(value)?,
                "expires" => entry.expires = Some(self.expires(value)?),
                _ => {
                    let what = format!(
                        "`{}` is not known; there are rule, symbol, module, driver, pci, reason and \
                         expires",
                        shown(name)
                    );
                    return Err(self.mistake(key.span().start, what));
                }
            }
        }
        if entry.reason.is_empty() {
            return Err(self.mistake(at, "an entry needs `reason = \"…\"`: why is it allowed?"));
        }
        let conditions = [&entry.symbols, &entry.modules, &entry.drivers];
        if entry.rules.is_empty() && entry.pci.is_empty() && conditions.iter().all(|c| c.is_empty())
        {
            let what = "an entry without conditions would allow everything; give rule, symbol, \
                        module, driver or pci";
            return Err(self.mistake(at, what));
        }
        Ok(entry)
    }

    /// A string or a list of them, each read by `read`.
    fn each<T>(
        &self,
        key: &str,
        value: &Value<'_>,
        read: impl Fn(&Self, usize, &str) -> Result<T, Mistake>,
    ) -> Result<Vec<T>, Mistake> {
        let at = value.span().start;
        let one = |value: &Value<'_>| match value.get_ref() {
            DeValue::String(text) if !text.is_empty() && text.len() <= NAME_MAX => {
                read(self, value.span().start, text)
            }
            DeValue::String(_) => Err(self.mistake(
                value.span().start,
                format!("a name of `{key}` is empty or longer than {NAME_MAX} bytes"),
            )),
            _ => Err(self.mistake(
                value.span().start,
                format!("`{key}` is a string in quotes, or a list of them"),
            )),
        };
        match value.get_ref() {
            DeValue::Array(list) if list.is_empty() => {
                Err(self.mistake(at, format!("the list of `{key}` is empty; leave it out for all")))
            }
            DeValue::Array(list) if list.len() > NAMES_MAX => {
                Err(self
                    .mistake(at, format!("the list of `{key}` has more than {NAMES_MAX} names")))
            }
            DeValue::Array(list) => list.iter().map(one).collect(),
            _ => Ok(vec![one(value)?]),
        }
    }

    fn rule(&self, at: usize, name: &str) -> Result<Rule, Mistake> {
        fail_on::rule(name).ok_or_else(|| {
            let what =
                format!("there is no rule `{}`; `tdtrace check --rules` lists them", shown(name));
            self.mistake(at, what)
        })
    }

    fn pci(&self, at: usize, text: &str) -> Result<Pci, Mistake> {
        Pci::parse(text).ok_or_else(|| {
            let what = format!(
                "`{}` is no PCI device; give vendor and device as in \"8086:10d3\" or an address as \
                 in \"0000:00:04.0\"",
                shown(text)
            );
            self.mistake(at, what)
        })
    }

    fn reason(&self, value: &Value<'_>) -> Result<String, Mistake> {
        match value.get_ref() {
            DeValue::String(text) if text.len() > REASON_MAX => Err(self
                .mistake(value.span().start, format!("a reason has {REASON_MAX} bytes at most"))),
            DeValue::String(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            _ => {
                let what = "`reason` is a string in quotes that says why it is allowed";
                Err(self.mistake(value.span().start, what))
            }
        }
    }

    fn expires(&self, value: &Value<'_>) -> Result<Date, Mistake> {
        let day = match value.get_ref() {
            DeValue::Datetime(datetime) if datetime.time.is_none() => datetime.date,
            _ => None,
        };
        // That there is such a day has been looked at by the TOML reader.
        day.map(|day| Date { year: day.year, month: day.month, day: day.day }).ok_or_else(|| {
            let what = "`expires` is a day without quotes, as in 2027-03-01";
            self.mistake(value.span().start, what)
        })
    }
}

#[cfg(test)]
mod tests;
