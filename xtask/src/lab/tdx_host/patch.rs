//! Makes a copy of kvm-intel.ko that loads where there is no VMX: its init function does not run, and
//! what belongs to it stays in memory, so that `xtask/lab/tdhost` can do its work. Pure.
//!
//! Only names and one relocation of the ELF object change; nothing moves.

use std::{mem::offset_of, ops::Range};

use anyhow::{Context as _, Result, anyhow, ensure};
use object::{
    Endianness, SectionIndex,
    elf::{FileHeader64, Rela64},
    read::elf::{FileHeader as _, Rela as _, SectionHeader as _},
};

/// The relocations of `struct module`, whose `init` names the function to run.
const THIS_MODULE: &[u8] = b".rela.gnu.linkonce.this_module";

/// What module loaders free or protect after init by the section's name, and the name without that;
/// of the same length.
const RENAMED: [(&str, &str); 2] =
    [(".init.", ".kept."), (".data..ro_after_init", ".data..rw_after_init")];

/// `object` without its init function and with all sections kept.
///
/// # Errors
/// When it is not an ELF object as kbuild makes them, or has no init function.
pub(super) fn without_init(mut object: Vec<u8>) -> Result<Vec<u8>> {
    let Places { init, names } = places(&object).context("kvm-intel.ko")?;
    // Type and symbol 0: no relocation.
    object.get_mut(init).ok_or_else(|| anyhow!("kvm-intel.ko is cut"))?.fill(0);
    let table = object.get_mut(names).ok_or_else(|| anyhow!("kvm-intel.ko is cut"))?;
    for (before, after) in RENAMED {
        let renamed = rename(table, before.as_bytes(), after.as_bytes());
        ensure!(renamed > 0, "kvm-intel.ko has no section {before}");
    }
    Ok(object)
}

/// Where what is changed lies in the file.
struct Places {
    /// Type and symbol of the relocation of `init_module`.
    init: Range<usize>,
    /// The names of the sections.
    names: Range<usize>,
}

fn places(object: &[u8]) -> Result<Places> {
    let header = FileHeader64::<Endianness>::parse(object)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, object)?;
    let (_, this) = sections
        .section_by_name(endian, THIS_MODULE)
        .context("it has no relocations of its struct module")?;
    let (relocations, symbols) =
        this.rela(endian, object)?.context("the relocations of its struct module are none")?;
    let symbols = sections.symbol_table_by_index(endian, object, symbols)?;
    let is_init = |relocation: &Rela64<Endianness>| {
        let symbol = relocation.symbol(endian, false).and_then(|at| symbols.symbol(at).ok());
        let name = symbol.and_then(|symbol| symbols.symbol_name(endian, symbol).ok());
        name == Some(b"init_module")
    };
    let at = relocations.iter().position(is_init).context("it has no init function")?;
    let info = at * size_of::<Rela64<Endianness>>() + offset_of!(Rela64<Endianness>, r_info);
    let init = usize::try_from(this.sh_offset(endian))? + info;
    let names = sections.section(SectionIndex(header.shstrndx(endian, object)? as usize))?;
    let (offset, size) = names.file_range(endian).context("its sections have no names")?;
    let offset = usize::try_from(offset)?;
    let end = offset.checked_add(usize::try_from(size)?).context("the names have no end")?;
    Ok(Places { init: init..init + 8, names: offset..end })
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
        assert!(without_init(b"\x7fELF\x02\x01\x01".to_vec()).is_err());
        let mut wild = vec![0xff; 256];
        wild[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        assert!(without_init(wild).is_err());
    }
}
