//! The kernel's symbols from `/proc/kallsyms`: addresses by name, and the function that an address
//! lies in.
//!
//! Reads two files; the rest is pure. The text is the kernel's own, names in it are modules' choice.

use std::{collections::HashMap, fs::File, io::Read as _, ops::Range, path::Path};

use anyhow::{Context as _, Result, bail};

/// Bytes that are read at most: some 250,000 symbols have 15 MB.
const LIMIT: u64 = 256 << 20;

/// Symbols of a kernel and its modules.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    text: String,
    /// Address, and where in `text` name and module begin and end; ascending by address.
    functions: Vec<(u64, u32, u32)>,
    /// Modules by name, with where their code begins and must end.
    modules: HashMap<String, Range<u64>>,
}

impl Symbols {
    /// Those of the running kernel.
    ///
    /// # Errors
    /// The file cannot be read, or the kernel does not tell addresses to this process.
    pub fn running() -> Result<Self> {
        Self::read(Path::new("/proc/kallsyms"))
    }

    /// Those in the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or it has no addresses.
    pub fn read(path: &Path) -> Result<Self> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(LIMIT).read_to_string(&mut text))
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let mut symbols = Self::parse(text);
        if symbols.functions.is_empty() {
            bail!(
                "{} has no addresses; run it as root, with kernel.kptr_restrict below 2",
                path.display()
            );
        }
        // Without it code of a module that has gone may be taken for that of the one before it.
        let modules = path.with_file_name("modules");
        symbols.set_modules(&std::fs::read_to_string(modules).unwrap_or_default());
        Ok(symbols)
    }

    /// Takes the text of `/proc/modules`: `name size count users state address` a line. The size is that
    /// of code and data together, so it bounds the code.
    pub fn set_modules(&mut self, text: &str) {
        let module = |line: &str| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let size: u64 = words.get(1)?.parse().ok()?;
            let begin = u64::from_str_radix(words.get(5)?.trim_start_matches("0x"), 16).ok()?;
            Some((words.first()?.to_string(), begin..begin.checked_add(size)?))
        };
        self.modules = text.lines().filter_map(module).collect();
    }

    /// Takes the text of `/proc/kallsyms`: `address type name [module]` a line.
    #[must_use]
    pub fn parse(text: String) -> Self {
        let mut functions = Vec::new();
        for line in text.lines() {
            let begin = line.as_ptr() as usize - text.as_ptr() as usize;
            let mut words = line.splitn(3, ' ');
            let (Some(address), Some(kind), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Ok(address) = u64::from_str_radix(address, 16) else { continue };
            let at = begin + line.len() - name.len();
            if address >> 63 == 1
                && matches!(kind, "t" | "T" | "w" | "W")
                && let (Ok(at), Ok(end)) = (u32::try_from(at), u32::try_from(begin + line.len()))
            {
                functions.push((address, at, end));
            }
        }
        functions.sort_unstable();
        Self { text, functions, modules: HashMap::new() }
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

    /// The function that `address` lies in, as `name+0x12 [module]`.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<String> {
        let after = self.functions.partition_point(|(start, ..)| *start <= address);
        let (start, at, end) = *self.functions.get(after.checked_sub(1)?)?;
        let offset = address - start;
        // Far behind the last function of an image there is none.
        if offset > 1 << 20 {
            return None;
        }
        let words = self.text.get(at as usize..end as usize)?;
        let words: String = words.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Some(match words.split_once(' ') {
            Some((name, module)) => {
                let module = module.trim();
                let range = self.modules.get(module.trim_matches(['[', ']']));
                if range.is_some_and(|range| !range.contains(&address)) {
                    return None;
                }
                format!("{name}+{offset:#x} {module}")
            }
            None => format!("{words}+{offset:#x}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "000000000003c440 A pcpu_hot\nffffffff81000000 T _stext\n\
        ffffffff81000100 t twice\nffffffff81000200 t twice\nffffffff82000000 D cc_mask\n\
        nonsense\nffffffffc0001000 t probe\t[acme]\n";

    #[test]
    fn an_address_has_the_function_that_begins_before_it() {
        let symbols = Symbols::parse(TEXT.to_owned());
        assert_eq!(symbols.name(0xffff_ffff_8100_0010).unwrap(), "_stext+0x10");
        assert_eq!(symbols.name(0xffff_ffff_8100_0200).unwrap(), "twice+0x0");
        assert_eq!(symbols.name(0xffff_ffff_c000_1004).unwrap(), "probe+0x4 [acme]");
        assert_eq!(symbols.name(0xffff_ffff_80ff_ffff), None);
        assert_eq!(symbols.name(0xffff_ffff_d000_0000), None);
    }

    #[test]
    fn code_behind_the_end_of_a_module_has_no_name() {
        let mut symbols = Symbols::parse(TEXT.to_owned());
        symbols.set_modules("acme 8192 0 - Live 0xffffffffc0000000 (OE)\nnonsense\n");
        assert_eq!(symbols.name(0xffff_ffff_c000_1004).unwrap(), "probe+0x4 [acme]");
        assert_eq!(symbols.name(0xffff_ffff_c000_2000), None);
    }

    #[test]
    fn a_name_has_an_address_if_it_is_the_only_one() {
        let symbols = Symbols::parse(TEXT.to_owned());
        assert_eq!(symbols.address("cc_mask"), Some(0xffff_ffff_8200_0000));
        assert_eq!(symbols.address("pcpu_hot"), Some(0x3c440));
        assert_eq!(symbols.address("twice"), None);
        assert_eq!(symbols.address("mask"), None);
    }

    #[test]
    fn a_kernel_that_hides_addresses_is_said_to() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0000000000000000 T _stext\n").unwrap();
        let error = Symbols::read(file.path()).unwrap_err().to_string();
        assert!(error.contains("kptr_restrict"), "{error}");
    }
}
