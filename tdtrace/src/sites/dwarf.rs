//! The chain of inlined functions at an address, from debug information. Reads what an [`Image`]
//! maps, unit by unit as it is asked for.

use std::{cell::RefCell, collections::HashSet, ops::Range, sync::Arc};

use addr2line::Context;
use anyhow::{Context as _, Result, bail};
use gimli::DebugInfoOffset;

use super::{bytes::Bytes, image::Image};
use crate::verdict::Frame;

/// How gimli reads sections.
pub(super) type Reader = gimli::EndianReader<gimli::LittleEndian, Bytes>;

/// Entries within entries that are followed. Compilers stay below 100; the parser recurses.
const DEPTH_LIMIT: isize = 1000;
/// Functions inlined into each other at one address that are listed.
const CHAIN_LIMIT: usize = 256;

/// The debug information of one image.
pub struct Lines {
    dwarf: Arc<gimli::Dwarf<Reader>>,
    context: Context<Reader>,
    /// Addresses of units; those that name none come last and may be of any address.
    units: Vec<(Range<u64>, DebugInfoOffset)>,
    /// Units whose entries are not nested too deeply.
    sound: RefCell<HashSet<DebugInfoOffset>>,
}

impl Lines {
    /// Reads the heads of all units of `image`.
    ///
    /// # Errors
    /// There is no debug information, or it is not sound.
    pub fn of(image: &Image) -> Result<Self> {
        let shown = image.path().display();
        if !image.has_debug_info() {
            bail!("{shown} has no debug information");
        }
        let dwarf = image.dwarf().with_context(|| format!("debug information of {shown}"))?;
        let dwarf = Arc::new(dwarf);
        let units = units(&dwarf).with_context(|| format!("debug information of {shown}"))?;
        let context = Context::from_arc_dwarf(Arc::clone(&dwarf))
            .with_context(|| format!("debug information of {shown}"))?;
        Ok(Self { dwarf, context, units, sound: RefCell::default() })
    }

    /// The functions that the instruction at `address` belongs to, the innermost first; empty if
    /// debug information knows none there.
    ///
    /// # Errors
    /// The debug information is not sound.
    pub fn chain(&self, address: u64) -> Result<Vec<Frame>> {
        for (_, unit) in self.units.iter().filter(|(range, _)| range.contains(&address)) {
            self.ensure_sound(*unit)?;
        }
        let mut frames = self.context.find_frames(address).skip_all_loads()?;
        let mut chain = Vec::new();
        while let Some(frame) = frames.next()? {
            let Some(function) = frame.function else { continue };
            let (file, line) = frame.location.map_or((None, None), |at| (at.file, at.line));
            let function = function.raw_name()?.into_owned();
            let file = file.map(|path| tidy(path).to_owned());
            chain.push(Frame { function, file, line: line.filter(|line| *line != 0) });
            if chain.len() == CHAIN_LIMIT {
                break;
            }
        }
        Ok(chain)
    }

    /// File and line of the instruction at `address`, known for assembly, too.
    #[must_use]
    pub fn line(&self, address: u64) -> Option<(String, u32)> {
        let location = self.context.find_location(address).ok()??;
        Some((tidy(location.file?).to_owned(), location.line?))
    }

    fn ensure_sound(&self, unit: DebugInfoOffset) -> Result<()> {
        if self.sound.borrow().contains(&unit) {
            return Ok(());
        }
        let header = self.dwarf.debug_info.header_from_offset(unit)?;
        let unit_of = self.dwarf.unit(header)?;
        let mut entries = unit_of.entries_raw(None)?;
        while !entries.is_empty() {
            if entries.next_depth() > DEPTH_LIMIT {
                bail!("debug information is damaged: entries are nested deeper than {DEPTH_LIMIT}");
            }
            if let Some(abbreviation) = entries.read_abbreviation()? {
                entries.skip_attributes(abbreviation.attributes())?;
            }
        }
        self.sound.borrow_mut().insert(unit);
        Ok(())
    }
}

/// The units and their addresses.
fn units(dwarf: &gimli::Dwarf<Reader>) -> gimli::Result<Vec<(Range<u64>, DebugInfoOffset)>> {
    let mut units = Vec::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let Some(offset) = header.debug_info_offset() else { continue };
        let Ok(unit) = dwarf.unit(header) else { continue };
        let before = units.len();
        if let Ok(ranges) = ranges(dwarf, &unit) {
            units.extend(ranges.into_iter().map(|range| (range, offset)));
        }
        if units.len() == before {
            units.push((0..u64::MAX, offset));
        }
    }
    Ok(units)
}

/// The addresses that the unit names in its first entry. gimli's own `unit_ranges` adds without
/// looking, and damaged files make it overflow.
fn ranges(
    dwarf: &gimli::Dwarf<Reader>,
    unit: &gimli::Unit<Reader>,
) -> gimli::Result<Vec<Range<u64>>> {
    let mut entries = unit.entries();
    let Some(root) = entries.next_dfs()? else { return Ok(Vec::new()) };
    let mut ranges = Vec::new();
    if let Some(value) = root.attr_value(gimli::DW_AT_ranges)
        && let Some(offset) = dwarf.attr_ranges_offset(unit, value)?
    {
        let mut list = dwarf.ranges(unit, offset)?;
        while let Some(range) = list.next()? {
            ranges.push(range.begin..range.end);
        }
    } else if let Some(high) = root.attr_value(gimli::DW_AT_high_pc) {
        let end = match high {
            gimli::AttributeValue::Addr(end) => Some(end),
            high => high.udata_value().and_then(|size| unit.low_pc.checked_add(size)),
        };
        ranges.extend(end.map(|end| unit.low_pc..end));
    }
    Ok(ranges)
}

/// Directories at the top of the kernel's tree.
const TOP: &[&str] = &[
    "arch", "block", "certs", "crypto", "drivers", "fs", "include", "init", "io_uring", "ipc",
    "kernel", "lib", "mm", "net", "rust", "samples", "security", "sound", "tools", "virt",
];

/// The path from the top of the kernel's tree on, where that can be seen: behind a directory such
/// as `linux-6.12.117`. Between the two there may be one that the kernel was built in.
fn tidy(path: &str) -> &str {
    let rest = match path.rfind("/linux-") {
        Some(at) => match path[at + 1..].find('/') {
            Some(slash) => &path[at + 1 + slash + 1..],
            None => return path,
        },
        // Debian's paths are relative.
        None if path.starts_with("debian/build/") => path,
        None => return path.trim_start_matches("./"),
    };
    let mut start = 0;
    for part in rest.split('/') {
        if TOP.contains(&part) {
            return &rest[start..];
        }
        start += part.len() + 1;
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_top_of_the_kernels_tree() {
        for (path, tidied) in [
            ("/build/path/linux-6.12.117/arch/x86/include/asm/io.h", "arch/x86/include/asm/io.h"),
            ("/b/linux-6.12/debian/build/build_amd64/lib/iomap.c", "lib/iomap.c"),
            ("debian/build/build_amd64_none/arch/x86/pci/i386.c", "arch/x86/pci/i386.c"),
            ("/build/linux-6.12/./kernel/fork.c", "kernel/fork.c"),
            ("./arch/x86/include/asm/io.h", "arch/x86/include/asm/io.h"),
            ("/home/me/acme/nic.c", "/home/me/acme/nic.c"),
            ("/x/linux-6.1", "/x/linux-6.1"),
            ("/x/linux-6.1/odd.c", "odd.c"),
            ("", ""),
        ] {
            assert_eq!(tidy(path), tidied);
        }
    }
}
