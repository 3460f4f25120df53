//! Functions by address and by name, from `/proc/kallsyms` or from a symbol table. Pure.

use std::collections::HashMap;

/// Text of kallsyms that is read at most; a large kernel has some 20 MB of it.
pub const LIMIT: u64 = 256 << 20;

/// How far behind its beginning the last function may reach.
const LAST: u64 = 1 << 20;

/// A function without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Symbol {
    pub(super) address: u64,
    /// Bytes; 0 if that is not known.
    pub(super) size: u64,
    pub(super) global: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    symbol: Symbol,
    name: (u32, u32),
    module: Option<u32>,
}

/// Functions, sorted by address.
#[derive(Debug, Default)]
pub struct Symbols {
    names: String,
    modules: Vec<String>,
    numbers: HashMap<String, u32>,
    entries: Vec<Entry>,
}

/// A function, and how far behind its beginning an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name; several may have it.
    pub name: &'a str,
    /// The module that it is of; none for the kernel itself.
    pub module: Option<&'a str>,
    /// Where it begins.
    pub address: u64,
    /// Bytes up to the next function, or as the symbol table says.
    pub size: u64,
}

/// Why there are no symbols.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SymbolsError {
    /// Every address is zero.
    #[error(
        "the kernel hides its addresses (all of /proc/kallsyms is zero); run as root with \
         CAP_SYSLOG, and with kernel.kptr_restrict at 0 or 1"
    )]
    Hidden,
    /// No function in the text.
    #[error("there is no function in /proc/kallsyms; this kernel is built without CONFIG_KALLSYMS")]
    Empty,
}

impl Symbols {
    /// Reads the text of `/proc/kallsyms`. Lines that are not understood are skipped.
    ///
    /// # Errors
    /// There is no function in it, or all addresses are hidden.
    pub fn parse_kallsyms(text: &str) -> Result<Self, SymbolsError> {
        let mut symbols = Self::default();
        let mut hidden = false;
        for line in text.lines() {
            let Some((address, kind, name, module)) = kallsyms_line(line) else { continue };
            if !matches!(kind, 't' | 'T' | 'w' | 'W') {
                continue;
            }
            if address == 0 {
                hidden = true;
                continue;
            }
            let global = matches!(kind, 'T' | 'W');
            symbols.push(name, module, Symbol { address, size: 0, global });
        }
        symbols.sort();
        match symbols.entries.is_empty() {
            true if hidden => Err(SymbolsError::Hidden),
            true => Err(SymbolsError::Empty),
            false => Ok(symbols),
        }
    }

    /// Adds a function; [`Self::sort`] comes before any look-up.
    pub(super) fn push(&mut self, name: &str, module: Option<&str>, symbol: Symbol) {
        let (Ok(start), Ok(length)) = (u32::try_from(self.names.len()), u32::try_from(name.len()))
        else {
            return;
        };
        if start.checked_add(length).is_none() {
            return;
        }
        self.names.push_str(name);
        let module = module.map(|module| self.number(module));
        self.entries.push(Entry { symbol, name: (start, length), module });
    }

    fn number(&mut self, module: &str) -> u32 {
        if let Some(number) = self.numbers.get(module) {
            return *number;
        }
        let number = self.modules.len() as u32;
        self.modules.push(module.to_owned());
        self.numbers.insert(module.to_owned(), number);
        number
    }

    /// Sorts by address; of those at the same address, the one to name comes last: not a prefix
    /// for patching, global before local.
    pub(super) fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by_key(|entry| {
            let is_padding = self.name(entry).starts_with("__pfx_");
            (entry.symbol.address, !is_padding, entry.symbol.global)
        });
        self.entries = entries;
    }

    fn name(&self, entry: &Entry) -> &str {
        let (start, length) = (entry.name.0 as usize, entry.name.1 as usize);
        self.names.get(start..start + length).unwrap_or_default()
    }

    fn function(&self, at: usize) -> Option<Function<'_>> {
        let entry = self.entries.get(at)?;
        let Symbol { address, size, .. } = entry.symbol;
        let behind = self.entries.partition_point(|other| other.symbol.address <= address);
        let next = self.entries.get(behind).map_or(LAST, |next| next.symbol.address - address);
        let size = if size == 0 { next.min(LAST) } else { size };
        let module = entry.module.and_then(|number| self.modules.get(number as usize));
        Some(Function { name: self.name(entry), module: module.map(String::as_str), address, size })
    }

    /// Number of functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The function at `address`.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<Function<'_>> {
        let behind = self.entries.partition_point(|entry| entry.symbol.address <= address);
        let function = self.function(behind.checked_sub(1)?)?;
        (address - function.address < function.size).then_some(function)
    }

    /// All functions called `name`, in `module` if one is given; several functions of one address
    /// count once.
    #[must_use]
    pub fn named(&self, name: &str, module: Option<&str>) -> Vec<Function<'_>> {
        let mut found: Vec<Function<'_>> = (0..self.entries.len())
            .filter(|&at| self.entries.get(at).is_some_and(|entry| self.name(entry) == name))
            .filter_map(|at| self.function(at))
            .filter(|function| module.is_none() || function.module == module)
            .collect();
        found.dedup_by_key(|function| function.address);
        found
    }
}

/// Address, type, name and module of a line such as `ffffffffc0a01000 t nvme_poll\t[nvme]`.
fn kallsyms_line(line: &str) -> Option<(u64, char, &str, Option<&str>)> {
    let mut words = line.split_ascii_whitespace();
    let address = u64::from_str_radix(words.next()?, 16).ok()?;
    let mut kind = words.next()?.chars();
    let kind = (kind.next()?, kind.next());
    let name = words.next()?;
    let module = words.next().and_then(|word| word.strip_prefix('[')?.strip_suffix(']'));
    kind.1.is_none().then_some((address, kind.0, name, module))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "\
ffffffff81000000 T _text
ffffffff81000000 T __pfx_first
ffffffff81000010 T first
ffffffff81000010 t first_alias
ffffffff81000100 t twice
ffffffff81000180 D data
ffffffff81000200 t twice
ffffffffc0a00000 t twice\t[acme]
ffffffffc0a00040 t acme_isr\t[acme]
";

    #[test]
    fn an_address_is_in_the_function_before_it() {
        let symbols = Symbols::parse_kallsyms(TEXT).unwrap();
        let first = symbols.at(0xffff_ffff_8100_0020).unwrap();
        assert_eq!((first.name, first.address, first.size), ("first", 0xffff_ffff_8100_0010, 0xf0));
        let isr = symbols.at(0xffff_ffff_c0a0_004c).unwrap();
        assert_eq!((isr.name, isr.module), ("acme_isr", Some("acme")));
        assert_eq!(symbols.at(0x1000), None);
        assert_eq!(symbols.at(u64::MAX), None);
        assert_eq!(symbols.at(0xffff_ffff_8100_0000).unwrap().name, "_text");
    }

    #[test]
    fn a_name_may_belong_to_several_functions() {
        let symbols = Symbols::parse_kallsyms(TEXT).unwrap();
        assert_eq!(symbols.named("twice", None).len(), 3);
        let of_module = symbols.named("twice", Some("acme"));
        assert_eq!((of_module.len(), of_module[0].size), (1, 0x40));
        assert!(symbols.named("data", None).is_empty());
    }

    #[test]
    fn hidden_addresses_are_one_clear_sentence() {
        let hidden = "0000000000000000 T _text\n0000000000000000 t first\n";
        let error = Symbols::parse_kallsyms(hidden).unwrap_err();
        assert!(error.to_string().contains("kptr_restrict"), "{error}");
        assert_eq!(Symbols::parse_kallsyms("").unwrap_err(), SymbolsError::Empty);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-fTtW \\t\\[\\]\\n]{0,400}", ip: u64) {
            if let Ok(symbols) = Symbols::parse_kallsyms(&text) {
                if let Some(function) = symbols.at(ip) {
                    prop_assert!(function.address <= ip);
                }
                prop_assert!(symbols.named("t", None).len() <= symbols.len());
            }
        }
    }
}
