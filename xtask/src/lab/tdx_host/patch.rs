//! Makes a copy of kvm-intel.ko that loads where there is no VMX: its init function does not run, and
//! what belongs to it stays in memory, so that `xtask/lab/tdhost` can do its work. Pure.
//!
//! Only names and one relocation of the ELF object change; nothing moves.

use anyhow::{Result, anyhow, ensure};

/// The relocations of `struct module`, whose `init` names the function to run.
const THIS_MODULE: &str = ".rela.gnu.linkonce.this_module";

/// What module loaders free or protect after init by the section's name, and the name without that;
/// of the same length.
const RENAMED: [(&str, &str); 2] =
    [(".init.", ".kept."), (".data..ro_after_init", ".data..rw_after_init")];

/// Bytes of a relocation with addend, and where its type and symbol are.
const RELA: usize = 24;
const RELA_INFO: usize = 8;
/// Bytes of a symbol; its name comes first.
const SYMBOL: usize = 24;

/// A section header of a 64-bit little-endian object.
#[derive(Clone, Copy, Debug)]
struct Section {
    /// Offset of the name in the string table of the sections.
    name: usize,
    offset: usize,
    size: usize,
    /// The section that this one refers to.
    link: usize,
}

/// `object` without its init function and with all sections kept.
///
/// # Errors
/// When it is not an ELF object as kbuild makes them, or has no init function.
pub(super) fn without_init(mut object: Vec<u8>) -> Result<Vec<u8>> {
    let sections = sections(&object).ok_or_else(|| anyhow!("kvm-intel.ko is no ELF object"))?;
    let names = number(&object, 0x3e, 2).and_then(|index| sections.get(index).copied());
    let names = names.ok_or_else(|| anyhow!("kvm-intel.ko has no section names"))?;
    let init = init_relocation(&object, &sections, names)
        .ok_or_else(|| anyhow!("kvm-intel.ko has no init function"))?;
    // Type and symbol 0: no relocation.
    object[init..init + 8].fill(0);
    let range = names.offset..names.offset + names.size;
    let table = object.get_mut(range).ok_or_else(|| anyhow!("kvm-intel.ko is cut"))?;
    for (before, after) in RENAMED {
        let renamed = rename(table, before.as_bytes(), after.as_bytes());
        ensure!(renamed > 0, "kvm-intel.ko has no section {before}");
    }
    Ok(object)
}

/// Where the type and the symbol of the relocation of `init_module` are.
fn init_relocation(object: &[u8], sections: &[Section], names: Section) -> Option<usize> {
    let this = sections.iter().find(|section| {
        string(object, names, section.name).is_some_and(|name| name == THIS_MODULE.as_bytes())
    })?;
    let symbols = sections.get(this.link)?;
    let strings = *sections.get(symbols.link)?;
    (0..this.size / RELA).map(|index| this.offset + index * RELA + RELA_INFO).find(|info| {
        let symbol = number(object, info + 4, 4).unwrap_or(0);
        number(object, symbols.offset + symbol * SYMBOL, 4)
            .and_then(|name| string(object, strings, name))
            .is_some_and(|name| name == b"init_module")
    })
}

/// Replaces `before` by `after` wherever it begins a name or follows `.rela`; how often.
fn rename(table: &mut [u8], before: &[u8], after: &[u8]) -> usize {
    let mut count = 0;
    for at in 0..table.len().saturating_sub(before.len()) {
        let begins = at == 0 || table[at - 1] == 0 || table[..at].ends_with(b"\0.rela");
        if begins && table[at..].starts_with(before) {
            table[at..at + after.len()].copy_from_slice(after);
            count += 1;
        }
    }
    count
}

fn sections(object: &[u8]) -> Option<Vec<Section>> {
    if object.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry, count) =
        (number(object, 0x28, 8)?, number(object, 0x3a, 2)?, number(object, 0x3c, 2)?);
    (0..count)
        .map(|index| {
            let header = table.checked_add(index.checked_mul(entry)?)?;
            let field = |at, bytes| number(object, header.checked_add(at)?, bytes);
            let section = Section {
                name: field(0, 4)?,
                offset: field(0x18, 8)?,
                size: field(0x20, 8)?,
                link: field(0x28, 4)?,
            };
            // Nothing that is added up later runs over.
            (section.offset.checked_add(section.size)? <= object.len() || section.name == 0)
                .then_some(section)
                .or(Some(Section { size: 0, ..section }))
        })
        .collect()
}

fn string(object: &[u8], table: Section, at: usize) -> Option<&[u8]> {
    let table = object.get(table.offset..table.offset.checked_add(table.size)?)?;
    table.get(at..)?.split(|byte| *byte == 0).next()
}

fn number(object: &[u8], at: usize, bytes: usize) -> Option<usize> {
    let field = object.get(at..at.checked_add(bytes)?)?;
    let value = field.iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    usize::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_at_their_beginning_and_behind_rela_only() {
        let mut table = b"\0.rela.init.text\0.init.data\0.x.init.y\0".to_vec();
        assert_eq!(rename(&mut table, b".init.", b".kept."), 2);
        assert_eq!(table, b"\0.rela.kept.text\0.kept.data\0.x.init.y\0");
    }

    #[test]
    fn replacements_are_as_long_as_what_they_replace() {
        assert!(RENAMED.iter().all(|(before, after)| before.len() == after.len()));
    }

    #[test]
    fn what_is_no_module_is_an_error_and_no_panic() {
        assert!(without_init(Vec::new()).is_err());
        assert!(without_init(b"\x7fELF\x02\x01".to_vec()).is_err());
        let mut wild = vec![0xff; 256];
        wild[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(without_init(wild).is_err());
    }
}
