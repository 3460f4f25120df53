//! The symbols of a kernel from `/proc/kallsyms`, or the functions of a file's symbol table: functions
//! by address and by name, variables by name.
//!
//! Reads two files; the rest is pure. The text is the kernel's own, names in it are modules' choice.

use std::{collections::HashMap, fs::File, io::Read as _, ops::Range, path::Path};

use anyhow::{Context as _, Result};

/// Bytes that are read at most: some 250,000 symbols have 15 MB.
const LIMIT: u64 = 256 << 20;

/// How far behind its beginning the last function may reach.
const LAST: u64 = 1 << 20;

/// A function without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) address: u64,
    /// Bytes; 0 if that is not known.
    pub(crate) size: u64,
    pub(crate) global: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    symbol: Symbol,
    /// Where in the text the name begins, and its length.
    name: (u32, u32),
    module: Option<u32>,
}

/// Functions sorted by address, and all symbols of a kernel by name.
#[derive(Debug, Clone, Default)]
pub struct Symbols {
    /// All of `/proc/kallsyms`, or the names of a file's functions.
    text: String,
    entries: Vec<Entry>,
    modules: Vec<String>,
    /// Where modules' code begins and must end, by name.
    ranges: HashMap<String, Range<u64>>,
    is_hidden: bool,
}

/// A function.
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
    /// Those of the machine at `root`, from its `/proc/kallsyms` and `/proc/modules`.
    ///
    /// # Errors
    /// The file cannot be read, or the kernel does not tell addresses to this process.
    pub fn read(root: &Path) -> Result<Self> {
        let mut bytes = Vec::new();
        File::open(root.join("proc/kallsyms"))
            .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
            .context("/proc/kallsyms cannot be read; is procfs mounted?")?;
        let text = String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut symbols = Self::parse(text);
        symbols.ensure_known()?;
        // Without it code of a module that has gone may be taken for that of the one before it.
        let modules = std::fs::read_to_string(root.join("proc/modules"));
        symbols.set_modules(&modules.unwrap_or_default());
        Ok(symbols)
    }

    /// Takes the text of `/proc/modules`: `name size count users state address` a line. The size is that
    /// of code and data together, so it bounds the code.
    fn set_modules(&mut self, text: &str) {
        let module = |line: &str| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let size: u64 = words.get(1)?.parse().ok()?;
            let begin = u64::from_str_radix(words.get(5)?.trim_start_matches("0x"), 16).ok()?;
            Some((words.first()?.to_string(), begin..begin.checked_add(size)?))
        };
        self.ranges = text.lines().filter_map(module).collect();
    }

    /// Takes the text of `/proc/kallsyms`. Lines that are not understood are skipped.
    #[must_use]
    pub fn parse(text: String) -> Self {
        let mut symbols = Self::default();
        let mut numbers = HashMap::new();
        for line in text.lines() {
            let Some((address, kind, name, module)) = kallsyms_line(line) else { continue };
            if !matches!(kind, 't' | 'T' | 'w' | 'W') {
                continue;
            }
            if address == 0 {
                symbols.is_hidden = true;
                continue;
            }
            let start = name.as_ptr() as usize - text.as_ptr() as usize;
            let (Ok(start), Ok(length)) = (u32::try_from(start), u32::try_from(name.len())) else {
                break;
            };
            let module = module.map(|module| {
                *numbers.entry(module).or_insert_with(|| {
                    symbols.modules.push(module.to_owned());
                    symbols.modules.len() as u32 - 1
                })
            });
            let symbol = Symbol { address, size: 0, global: matches!(kind, 'T' | 'W') };
            symbols.entries.push(Entry { symbol, name: (start, length), module });
        }
        symbols.text = text;
        symbols.sort();
        symbols
    }

    /// That there are functions.
    fn ensure_known(&self) -> Result<(), SymbolsError> {
        match self.entries.is_empty() {
            true if self.is_hidden => Err(SymbolsError::Hidden),
            true => Err(SymbolsError::Empty),
            false => Ok(()),
        }
    }

    /// Adds a function of a file; [`Self::sort`] comes before any look-up.
    pub(crate) fn push(&mut self, name: &str, symbol: Symbol) {
        let (Ok(start), Ok(length)) = (u32::try_from(self.text.len()), u32::try_from(name.len()))
        else {
            return;
        };
        if start.checked_add(length).is_none() {
            return;
        }
        self.text.push_str(name);
        self.entries.push(Entry { symbol, name: (start, length), module: None });
    }

    /// Sorts by address; of those at the same address, the one to name comes last: not a prefix
    /// for patching, global before local.
    pub(crate) fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_by_key(|entry| {
            let is_padding = self.name_of(entry).starts_with("__pfx_");
            (entry.symbol.address, !is_padding, entry.symbol.global)
        });
        self.entries = entries;
    }

    fn name_of(&self, entry: &Entry) -> &str {
        let (start, length) = (entry.name.0 as usize, entry.name.1 as usize);
        self.text.get(start..start + length).unwrap_or_default()
    }

    fn function(&self, at: usize) -> Option<Function<'_>> {
        let entry = self.entries.get(at)?;
        let Symbol { address, size, .. } = entry.symbol;
        let behind = self.entries.partition_point(|other| other.symbol.address <= address);
        let next = self.entries.get(behind).map_or(LAST, |next| next.symbol.address - address);
        let size = if size == 0 { next.min(LAST) } else { size };
        let module = entry.module.and_then(|number| self.modules.get(number as usize));
        Some(Function {
            name: self.name_of(entry),
            module: module.map(String::as_str),
            address,
            size,
        })
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
            .filter(|&at| self.entries.get(at).is_some_and(|entry| self.name_of(entry) == name))
            .filter_map(|at| self.function(at))
            .filter(|function| module.is_none() || function.module == module)
            .collect();
        found.dedup_by_key(|function| function.address);
        found
    }

    /// The function at `address`, as `name+0x12 [module]`; none where its module's code cannot be.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<String> {
        let Function { name, module, address: begin, .. } = self.at(address)?;
        let offset = address - begin;
        let printable = |text: &str| text.replace(char::is_control, " ");
        let Some(module) = module else { return Some(format!("{}+{offset:#x}", printable(name))) };
        if self.ranges.get(module).is_some_and(|range| !range.contains(&address)) {
            return None;
        }
        Some(format!("{}+{offset:#x} [{}]", printable(name), printable(module)))
    }

    /// The address of the only symbol called `name`, outside of modules; per-CPU variables may have
    /// small ones. `None` if there is none, or several.
    #[must_use]
    pub fn address(&self, name: &str) -> Option<u64> {
        let mut found = self.text.lines().filter_map(|line| {
            let (address, rest) = line.split_once(' ')?;
            (rest.get(2..)? == name).then(|| u64::from_str_radix(address, 16).ok())?
        });
        let first = found.next()?;
        found.next().is_none().then_some(first)
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
        let symbols = Symbols::parse(TEXT.to_owned());
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
        let symbols = Symbols::parse(TEXT.to_owned());
        assert_eq!(symbols.named("twice", None).len(), 3);
        let of_module = symbols.named("twice", Some("acme"));
        assert_eq!((of_module.len(), of_module[0].size), (1, 0x40));
        assert!(symbols.named("data", None).is_empty());
    }

    #[test]
    fn hidden_addresses_are_one_clear_sentence() {
        let hidden = "0000000000000000 T _text\n0000000000000000 t first\n";
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let kallsyms = root.path().join("proc/kallsyms");
        std::fs::write(&kallsyms, hidden).unwrap();
        let error = Symbols::read(root.path()).unwrap_err().to_string();
        assert!(error.contains("kptr_restrict"), "{error}");
        std::fs::write(&kallsyms, "").unwrap();
        let error = Symbols::read(root.path()).unwrap_err().downcast::<SymbolsError>().unwrap();
        assert_eq!(error, SymbolsError::Empty);
    }

    const KERNEL: &str = "000000000003c440 A pcpu_hot\nffffffff81000000 T _stext\n\
        ffffffff81000100 t twice\nffffffff81000200 t twice\nffffffff82000000 D cc_mask\n\
        nonsense\nffffffffc0001000 t probe\t[acme]\n";

    #[test]
    fn an_address_has_the_function_that_begins_before_it() {
        let symbols = Symbols::parse(KERNEL.to_owned());
        assert_eq!(symbols.name(0xffff_ffff_8100_0010).unwrap(), "_stext+0x10");
        assert_eq!(symbols.name(0xffff_ffff_8100_0200).unwrap(), "twice+0x0");
        assert_eq!(symbols.name(0xffff_ffff_c000_1004).unwrap(), "probe+0x4 [acme]");
        assert_eq!(symbols.name(0xffff_ffff_80ff_ffff), None);
        assert_eq!(symbols.name(0xffff_ffff_d000_0000), None);
    }

    #[test]
    fn code_behind_the_end_of_a_module_has_no_name() {
        let mut symbols = Symbols::parse(KERNEL.to_owned());
        symbols.set_modules("acme 8192 0 - Live 0xffffffffc0000000 (OE)\nnonsense\n");
        assert_eq!(symbols.name(0xffff_ffff_c000_1004).unwrap(), "probe+0x4 [acme]");
        assert_eq!(symbols.name(0xffff_ffff_c000_2000), None);
    }

    #[test]
    fn a_name_has_an_address_if_it_is_the_only_one() {
        let symbols = Symbols::parse(KERNEL.to_owned());
        assert_eq!(symbols.address("cc_mask"), Some(0xffff_ffff_8200_0000));
        assert_eq!(symbols.address("pcpu_hot"), Some(0x3c440));
        assert_eq!(symbols.address("twice"), None);
        assert_eq!(symbols.address("mask"), None);
    }

    #[test]
    fn of_several_names_of_an_address_the_one_that_others_use_is_shown() {
        let symbols = Symbols::parse(TEXT.to_owned());
        assert_eq!(symbols.name(0xffff_ffff_8100_0004).unwrap(), "_text+0x4");
        assert_eq!(symbols.name(0xffff_ffff_8100_0014).unwrap(), "first+0x4");
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[0-9a-fTtW \\t\\[\\]\\n]{0,400}", ip: u64) {
            let symbols = Symbols::parse(text);
            if let Some(function) = symbols.at(ip) {
                prop_assert!(function.address <= ip);
            }
            prop_assert!(symbols.named("t", None).len() <= symbols.entries.len());
            prop_assert!(symbols.name(ip).is_none_or(|name| name.contains("+0x")));
        }
    }
}
