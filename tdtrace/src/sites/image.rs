//! An ELF image of a kernel or of a module: its build id, symbols, code and debug sections. Reads
//! one file, lazily.
//!
//! A module on disk is relocatable: none of its sections has an address. Each gets one here, so
//! that symbols, code and debug information agree; addresses in the running kernel are translated
//! section by section.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use object::{
    Architecture, CompressionFormat, Object as _, ObjectKind, ObjectSection as _,
    ObjectSymbol as _, RelocationFlags, RelocationTarget, SectionKind, SymbolKind, elf,
};

use super::bytes::{self, Bytes};
use crate::kernel::symbols::{Symbol, Symbols};

/// Where the first section of a module is put.
const MODULE_BASE: u64 = 0x10_0000;
const PAGE: u64 = 4096;
/// Bytes of an entry of the exception table (`arch/x86/include/asm/extable.h`).
const TABLE_ENTRY: u64 = 12;
/// Symbols that are read at most; a large kernel has some 300,000.
const SYMBOLS_LIMIT: usize = 4 << 20;

/// A section that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Its addresses in the image.
    pub addresses: Range<u64>,
    index: usize,
    file: Option<(u64, u64)>,
}

/// An ELF file of a kernel or module.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    bytes: Bytes,
    is_module: bool,
    build_id: Option<Vec<u8>>,
    sections: Vec<Section>,
}

impl Image {
    /// Opens the file at `path`.
    ///
    /// # Errors
    /// It cannot be read, or is no ELF file of an x86-64 kernel or module.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = Bytes::open(path)?;
        Self::parse(path.to_owned(), bytes)
            .with_context(|| format!("{} gives no sites", path.display()))
    }

    /// The image in `bytes`, said to come from `path`.
    ///
    /// # Errors
    /// They are no ELF file of an x86-64 kernel or module.
    pub fn parse(path: PathBuf, bytes: Bytes) -> Result<Self> {
        let (is_module, build_id, sections) = {
            let file = object::File::parse(&*bytes).context("it is no sound ELF file")?;
            ensure!(
                file.architecture() == Architecture::X86_64 && file.is_little_endian(),
                "it is not for x86-64"
            );
            let is_module = file.kind() == ObjectKind::Relocatable;
            let build_id = file.build_id().ok().flatten().map(<[u8]>::to_vec);
            (is_module, build_id, sections(&file, is_module))
        };
        Ok(Self { path, bytes, is_module, build_id, sections })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a module, whose addresses are not those of any kernel.
    #[must_use]
    pub const fn is_module(&self) -> bool {
        self.is_module
    }

    /// The build id, if the linker made one.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// The sections that are loaded.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// Bytes of the image at `address`, at most `length`; none where the file has none.
    #[must_use]
    pub fn read(&self, address: u64, length: usize) -> Option<&[u8]> {
        let section = self.sections.iter().find(|section| section.addresses.contains(&address))?;
        let (offset, size) = section.file?;
        let skip = address - section.addresses.start;
        let length = (length as u64).min(size.checked_sub(skip)?);
        let start = usize::try_from(offset.checked_add(skip)?).ok()?;
        self.bytes.get(start..start.checked_add(usize::try_from(length).ok()?)?)
    }

    /// The functions of its symbol table.
    #[must_use]
    pub fn functions(&self) -> Symbols {
        let Ok(file) = object::File::parse(&*self.bytes) else { return Symbols::default() };
        let mut symbols = Symbols::default();
        for symbol in file.symbols().take(SYMBOLS_LIMIT) {
            let Some(section) = symbol.section_index() else { continue };
            let Some(section) = self.sections.iter().find(|known| known.index == section.0) else {
                continue;
            };
            let Ok(name) = symbol.name() else { continue };
            let of_code = matches!(symbol.kind(), SymbolKind::Text | SymbolKind::Unknown);
            // Mapping symbols, section names and the like.
            if !of_code || name.is_empty() || name.starts_with('.') {
                continue;
            }
            let base = if self.is_module { section.addresses.start } else { 0 };
            let address = base.wrapping_add(symbol.address());
            let (size, global) = (symbol.size(), symbol.is_global());
            symbols.push(name, Symbol { address, size, global });
        }
        symbols.sort();
        symbols
    }

    /// The address of any symbol called `name`, functions or data.
    #[must_use]
    pub fn symbol(&self, name: &str) -> Option<u64> {
        let file = object::File::parse(&*self.bytes).ok()?;
        let found = file.symbols().take(SYMBOLS_LIMIT).find(|symbol| symbol.name() == Ok(name))?;
        Some(found.address())
    }

    /// The release of the kernel that the file is of: of a kernel's banner or a module's version
    /// magic.
    #[must_use]
    pub fn release(&self) -> Option<String> {
        let (text, before) = if self.is_module {
            let info = self.sections.iter().find(|section| section.name == ".modinfo")?;
            (self.read(info.addresses.start, 1 << 16)?, "vermagic=")
        } else {
            (self.read(self.symbol("linux_banner")?, 256)?, "Linux version ")
        };
        let text = String::from_utf8_lossy(text);
        let release = text[text.find(before)? + before.len()..].split([' ', '\0', '\n']).next()?;
        Some(release.to_owned())
    }

    /// Whether it has debug information.
    #[must_use]
    pub fn has_debug_info(&self) -> bool {
        let file = object::File::parse(&*self.bytes);
        file.is_ok_and(|file| file.section_by_name(".debug_info").is_some())
    }

    /// The debug section called `name`, relocated; empty if there is none.
    ///
    /// # Errors
    /// It is cut off or compressed in a way that is not read.
    pub fn debug_section(&self, name: &str) -> Result<Bytes> {
        let file = object::File::parse(&*self.bytes).context("it is no sound ELF file")?;
        let Some(section) = file.section_by_name(name) else { return Ok(Vec::new().into()) };
        let range = section.compressed_file_range().with_context(|| format!("{name} is odd"))?;
        let end = range.offset.checked_add(range.compressed_size);
        let content = end
            .and_then(|end| Some(usize::try_from(range.offset).ok()?..usize::try_from(end).ok()?))
            .and_then(|range| self.bytes.part(range))
            .with_context(|| format!("{name} is cut off"))?;
        let content = match range.format {
            CompressionFormat::None => content,
            CompressionFormat::Zstandard => {
                bytes::unpack(&content).with_context(|| format!("{name} is not sound zstd"))?
            }
            format => anyhow::bail!(
                "{name} is compressed ({format:?}); undo that with `objcopy \
                 --decompress-debug-sections`"
            ),
        };
        if !self.is_module {
            return Ok(content);
        }
        let mut relocated = content.to_vec();
        for (offset, relocation) in section.relocations() {
            self.relocate(&file, &mut relocated, offset, &relocation);
        }
        Ok(relocated.into())
    }

    /// Applies one relocation, if it is an absolute one; debug sections have no others that count.
    fn relocate(
        &self,
        file: &object::File<'_>,
        section: &mut [u8],
        offset: u64,
        relocation: &object::Relocation,
    ) {
        let Some(value) = self.target(file, relocation) else { return };
        let size = match relocation.flags() {
            RelocationFlags::Elf { r_type: elf::R_X86_64_64 } => 8,
            RelocationFlags::Elf { r_type: elf::R_X86_64_32 | elf::R_X86_64_32S } => 4,
            _ => return,
        };
        let Ok(start) = usize::try_from(offset) else { return };
        let place = start.checked_add(size).and_then(|end| section.get_mut(start..end));
        if let Some(place) = place {
            place.copy_from_slice(&value.to_le_bytes()[..size]);
        }
    }

    /// The instructions that the exception table names, sorted; none without a table.
    #[must_use]
    pub fn exception_table(&self) -> Option<Vec<u64>> {
        let table = self.sections.iter().find(|section| section.name == "__ex_table")?;
        let mut instructions = Vec::new();
        if self.is_module {
            // Relative offsets, which only the relocations know; the instruction's comes first.
            let file = object::File::parse(&*self.bytes).ok()?;
            let section = file.section_by_index(object::SectionIndex(table.index)).ok()?;
            let entries = section.relocations().filter(|(offset, _)| offset % TABLE_ENTRY == 0);
            instructions
                .extend(entries.filter_map(|(_, relocation)| self.target(&file, &relocation)));
        } else {
            let length = usize::try_from(table.addresses.end - table.addresses.start).ok()?;
            let content = self.read(table.addresses.start, length)?;
            let entries = content.chunks_exact(TABLE_ENTRY as usize);
            instructions.extend(entries.zip(0..).filter_map(|(entry, number): (&[u8], u64)| {
                let offset = i32::from_le_bytes(*entry.first_chunk()?);
                let place = table.addresses.start + number * TABLE_ENTRY;
                Some(place.wrapping_add_signed(offset.into()))
            }));
        }
        instructions.sort_unstable();
        Some(instructions)
    }

    /// The address that a relocation means.
    fn target(&self, file: &object::File<'_>, relocation: &object::Relocation) -> Option<u64> {
        let RelocationTarget::Symbol(index) = relocation.target() else { return None };
        let symbol = file.symbol_by_index(index).ok()?;
        let home = symbol.section_index().map(|index| index.0);
        let base = self.sections.iter().find(|section| Some(section.index) == home);
        let base = base.map_or(0, |section| section.addresses.start);
        Some(base.wrapping_add(symbol.address()).wrapping_add_signed(relocation.addend()))
    }

    /// Its debug information as gimli takes it.
    ///
    /// # Errors
    /// As [`Self::debug_section`].
    pub(super) fn dwarf(&self) -> Result<gimli::Dwarf<super::dwarf::Reader>> {
        gimli::Dwarf::load(|id| {
            // Only sections of split debug information and tables that are not needed are left out.
            let content = self.debug_section(id.name())?;
            Ok(gimli::EndianReader::new(content, gimli::LittleEndian))
        })
    }
}

fn sections(file: &object::File<'_>, is_module: bool) -> Vec<Section> {
    let mut next = MODULE_BASE;
    let mut sections = Vec::new();
    for section in file.sections() {
        let object::SectionFlags::Elf { sh_flags } = section.flags() else { continue };
        if sh_flags & u64::from(elf::SHF_ALLOC) == 0 || section.size() == 0 {
            continue;
        }
        let Ok(name) = section.name() else { continue };
        let start = if is_module { next } else { section.address() };
        let Some(end) = start.checked_add(section.size()) else { continue };
        let Some(after) = end.checked_next_multiple_of(PAGE) else { continue };
        next = after;
        let file =
            section.file_range().filter(|_| section.kind() != SectionKind::UninitializedData);
        let (name, index) = (name.to_owned(), section.index().0);
        sections.push(Section { name, addresses: start..end, index, file });
    }
    sections
}
