//! The bytes of BTF: header, sections and type records, as `include/uapi/linux/btf.h` lays them out.
//!
//! Touches only the bytes it is given. Everything in them may be hostile, so every read is checked
//! and nothing is reserved before the bytes that fill it have been seen.
//!
//! A record is three words (`name_off`, `info`, `size` or `type`) and a tail whose length depends on
//! the kind. `info` has the count of elements in its low bits, the kind above bit 24 and a flag in
//! bit 31. Up to Linux 6.x the count has 16 bits and the kind 5, with zeros between them; newer
//! kernels widen both to 24 and 7 bits, and a header of 32 bytes then names a section with the tail
//! lengths, so that kinds unknown to a reader can be stepped over.

use std::ops::Range;

use super::BtfError;

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
const HEADER_WITH_LAYOUT: usize = 32;
/// Words of a record before its tail.
const HEAD: usize = 12;

/// What a type record describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    Datasec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
    /// A kind that came after this program; its length is known from the layout section.
    Unknown,
}

impl Kind {
    fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Int,
            2 => Self::Ptr,
            3 => Self::Array,
            4 => Self::Struct,
            5 => Self::Union,
            6 => Self::Enum,
            7 => Self::Fwd,
            8 => Self::Typedef,
            9 => Self::Volatile,
            10 => Self::Const,
            11 => Self::Restrict,
            12 => Self::Func,
            13 => Self::FuncProto,
            14 => Self::Var,
            15 => Self::Datasec,
            16 => Self::Float,
            17 => Self::DeclTag,
            18 => Self::TypeTag,
            19 => Self::Enum64,
            _ => Self::Unknown,
        }
    }

    /// Bytes of the tail: a fixed part and a part for each counted element.
    fn tail(self) -> (usize, usize) {
        match self {
            Self::Int | Self::Var | Self::DeclTag => (4, 0),
            Self::Array => (12, 0),
            Self::Struct | Self::Union | Self::Datasec | Self::Enum64 => (0, 12),
            Self::Enum | Self::FuncProto => (0, 8),
            Self::Ptr
            | Self::Fwd
            | Self::Typedef
            | Self::Volatile
            | Self::Const
            | Self::Restrict
            | Self::Func
            | Self::Float
            | Self::TypeTag
            | Self::Unknown => (0, 0),
        }
    }

    /// Whether the third word is a type id and not a size.
    fn refers(self) -> bool {
        matches!(
            self,
            Self::Ptr
                | Self::Typedef
                | Self::Volatile
                | Self::Const
                | Self::Restrict
                | Self::Func
                | Self::FuncProto
                | Self::Var
                | Self::DeclTag
                | Self::TypeTag
        )
    }

    /// Whether the type is its target with a word added, so that a path looks through it.
    pub(super) fn is_transparent(self) -> bool {
        matches!(
            self,
            Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag
        )
    }
}

/// One type record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    /// Offset of the name in the strings, 0 for none.
    pub(super) name: u32,
    pub(super) kind: Kind,
    /// Bit 31 of `info`: the members carry bitfield sizes (struct, union).
    pub(super) flag: bool,
    /// Size in bytes or type id, as the kind says.
    pub(super) value: u32,
    /// What follows the three words.
    pub(super) tail: &'a [u8],
}

impl Record<'_> {
    /// The `index`-th word of the tail.
    pub(super) fn word(&self, index: usize) -> Option<u32> {
        u32_at(self.tail, index.checked_mul(4)?)
    }
}

/// One member of a struct or union.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) name: u32,
    pub(super) type_id: u32,
    pub(super) bit_offset: u32,
    /// Bits of a bitfield, 0 for a plain member.
    pub(super) bits: u32,
}

/// The members of a struct or union record.
pub(super) fn members<'a>(record: &Record<'a>) -> impl Iterator<Item = Member> + use<'a> {
    let flag = record.flag;
    record.tail.chunks_exact(12).map(move |chunk| {
        let word = |at| u32_at(chunk, at).unwrap_or_default();
        let place = word(8);
        Member {
            name: word(0),
            type_id: word(4),
            bit_offset: if flag { place & 0x00ff_ffff } else { place },
            bits: if flag { place >> 24 } else { 0 },
        }
    })
}

/// Where the sections of a BTF file are, as byte ranges of the file.
#[derive(Clone, Debug)]
pub(super) struct Sections {
    pub(super) types: Range<usize>,
    pub(super) strings: Range<usize>,
    layout: Option<Range<usize>>,
}

/// Reads the header and checks that the sections lie within the file.
///
/// `is_split` allows what only BTF over a base may have: no strings of its own, and a first string
/// that is not the empty one.
pub(super) fn sections(bytes: &[u8], is_split: bool) -> Result<Sections, BtfError> {
    let magic = u16_at(bytes, 0).ok_or(BtfError::Short { length: bytes.len() })?;
    if magic == MAGIC.swap_bytes() {
        return Err(BtfError::BigEndian);
    }
    if magic != MAGIC {
        return Err(BtfError::NotBtf { magic });
    }
    match bytes.get(2) {
        Some(1) => {}
        Some(&version) => return Err(BtfError::Version { version }),
        None => return Err(BtfError::Short { length: bytes.len() }),
    }
    let header = u32_at(bytes, 4).map_or(0, |length| length as usize);
    if header < HEADER || header > bytes.len() {
        return Err(BtfError::Short { length: bytes.len() });
    }
    let section = |at: usize, name: &'static str| {
        let range = (|| {
            let start = header.checked_add(u32_at(bytes, at)? as usize)?;
            let end = start.checked_add(u32_at(bytes, at + 4)? as usize)?;
            (end <= bytes.len()).then_some(start..end)
        })();
        range.ok_or(BtfError::Section { section: name, length: bytes.len() })
    };
    let types = section(8, "type")?;
    let strings = section(16, "string")?;
    let layout = if header >= HEADER_WITH_LAYOUT { Some(section(24, "layout")?) } else { None };
    let text = &bytes[strings.clone()];
    let sound = match (text.first(), text.last()) {
        (Some(first), Some(last)) => *last == 0 && (is_split || *first == 0),
        _ => is_split,
    };
    if !sound {
        return Err(BtfError::Strings);
    }
    Ok(Sections { types, strings, layout })
}

/// The record that starts at byte `at` of the file and the place behind it.
///
/// `None`: it is cut off, or of a kind whose length nothing tells.
pub(super) fn record<'a>(
    bytes: &'a [u8],
    sections: &Sections,
    at: usize,
) -> Option<(Record<'a>, usize)> {
    let types = bytes.get(..sections.types.end)?;
    let info = u32_at(types, at.checked_add(4)?)?;
    let kind = Kind::from_number(kind_number(info));
    let (fixed, element) = match kind {
        Kind::Unknown => unknown_tail(bytes, sections, kind_number(info))?,
        known => known.tail(),
    };
    let count = (info & 0x00ff_ffff) as usize;
    let start = at.checked_add(HEAD)?;
    let end = start.checked_add(fixed)?.checked_add(element.checked_mul(count)?)?;
    let record = Record {
        name: u32_at(types, at)?,
        kind,
        flag: info >> 31 == 1,
        value: u32_at(types, at.checked_add(8)?)?,
        tail: types.get(start..end)?,
    };
    Some((record, end))
}

/// Why no record could be read at byte `at`; `id` is its type id.
pub(super) fn unreadable(bytes: &[u8], sections: &Sections, at: usize, id: u32) -> BtfError {
    let number = at.checked_add(4).and_then(|at| u32_at(bytes, at)).map(kind_number);
    match number {
        Some(number)
            if Kind::from_number(number) == Kind::Unknown
                && unknown_tail(bytes, sections, number).is_none() =>
        {
            BtfError::UnknownKind { id, kind: number }
        }
        _ => BtfError::TypeCut { id },
    }
}

fn kind_number(info: u32) -> u32 {
    info >> 24 & 0x7f
}

/// The tail lengths of a kind this program does not know, from the layout section: per kind a byte
/// for the fixed part, a byte for each element and two unused ones.
fn unknown_tail(bytes: &[u8], sections: &Sections, number: u32) -> Option<(usize, usize)> {
    if number == 0 {
        return None;
    }
    let layout = bytes.get(sections.layout.clone()?)?;
    let entry = layout.get((number as usize).checked_mul(4)?..)?;
    Some((usize::from(*entry.first()?), usize::from(*entry.get(1)?)))
}

/// Whether every name and type that `record` speaks of exists.
pub(super) fn refers_within(
    record: &Record<'_>,
    is_name: impl Fn(u32) -> bool,
    types: u32,
) -> Result<(), Stray> {
    let name = |at: u32| if at == 0 || is_name(at) { Ok(()) } else { Err(Stray::Name(at)) };
    let target = |id: u32| if id < types { Ok(()) } else { Err(Stray::Type(id)) };
    name(record.name)?;
    if record.kind.refers() {
        target(record.value)?;
    }
    // Which words of each element are a name and a type.
    let (stride, has_name, type_at) = match record.kind {
        Kind::Array => {
            target(record.word(0).unwrap_or_default())?;
            return target(record.word(1).unwrap_or_default());
        }
        Kind::Struct | Kind::Union => (12, true, Some(4)),
        Kind::FuncProto => (8, true, Some(4)),
        Kind::Enum => (8, true, None),
        Kind::Enum64 => (12, true, None),
        Kind::Datasec => (12, false, Some(0)),
        _ => return Ok(()),
    };
    for element in record.tail.chunks_exact(stride) {
        if has_name {
            name(u32_at(element, 0).unwrap_or_default())?;
        }
        if let Some(at) = type_at {
            target(u32_at(element, at).unwrap_or_default())?;
        }
    }
    Ok(())
}

/// What a record refers to that does not exist.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stray {
    Name(u32),
    Type(u32),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The little-endian word at byte `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
