//! From `struct.member.member` to a byte offset.
//!
//! Pure: walks parsed BTF. The types may form circles or trees without end, so a walk counts its
//! steps and gives up.

use super::{
    Btf, BtfError,
    format::{self, Kind, Record},
};

/// Members and modifiers that one question may visit. `task_struct` has some 300 members.
const STEPS: u32 = 1 << 20;
/// Anonymous structs within each other, and modifiers or arrays in a row.
const DEPTH: u32 = 64;
/// Bytes of a pointer, which BTF does not tell; only x86-64 kernels are read.
const POINTER: u64 = 8;

/// Where a member lies and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct MemberInfo {
    /// Bytes from the start of the outermost struct.
    pub offset: u32,
    /// Bytes of the member.
    pub size: u32,
    /// What it is, behind typedefs and qualifiers.
    pub kind: MemberKind,
}

/// What a member is, behind typedefs and qualifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberKind {
    /// An integer, `bool` and `char` included.
    Integer,
    /// A floating point number.
    Float,
    /// An enum.
    Enum,
    /// A pointer.
    Pointer,
    /// An array.
    Array,
    /// An embedded struct.
    Struct,
    /// An embedded union.
    Union,
}

impl MemberKind {
    fn noun(self) -> &'static str {
        match self {
            Self::Integer => "an integer",
            Self::Float => "a floating point number",
            Self::Enum => "an enum",
            Self::Pointer => "a pointer",
            Self::Array => "an array",
            Self::Struct => "a struct",
            Self::Union => "a union",
        }
    }
}

/// See [`Btf::member`].
pub(super) fn resolve(btf: &Btf, path: &str) -> Result<MemberInfo, BtfError> {
    let (name, members) = path
        .split_once('.')
        .filter(|_| path.split('.').all(|element| !element.is_empty()))
        .ok_or_else(|| BtfError::Path { path: path.into() })?;
    let mut walk = Walk { btf, path, steps: STEPS };
    let mut found = None;
    let mut refused = None;
    for id in btf.structs(name) {
        match walk.follow(id, name, members) {
            Ok(info) if found.is_some_and(|known| known != info) => {
                return Err(BtfError::Ambiguous { name: name.into(), path: path.into() });
            }
            Ok(info) => found = Some(info),
            Err(error @ BtfError::NoMember { .. }) => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match (found, refused) {
        (Some(info), _) => Ok(info),
        (None, Some(error)) => Err(error),
        (None, None) => Err(BtfError::NoStruct { name: name.into() }),
    }
}

/// A walk along one path.
struct Walk<'a> {
    btf: &'a Btf,
    path: &'a str,
    /// Steps left.
    steps: u32,
}

/// A member found in a struct or in the anonymous structs within it.
#[derive(Clone, Copy)]
struct Place {
    type_id: u32,
    /// Bits from the start of the struct that was searched.
    bit_offset: u64,
    bits: u32,
}

impl<'a> Walk<'a> {
    /// Goes from the struct `id` along `members`, which is not empty.
    fn follow(&mut self, id: u32, name: &str, members: &str) -> Result<MemberInfo, BtfError> {
        let whole = self.btf.record(id).map_or(0, |record| u64::from(record.value));
        let (mut id, mut bits, mut way) = (id, 0_u64, name.to_owned());
        let mut rest = members.split('.').peekable();
        while let Some(member) = rest.next() {
            let place = self.find(id, member, DEPTH)?.ok_or_else(|| BtfError::NoMember {
                structure: way.clone(),
                member: member.into(),
            })?;
            way.push('.');
            way.push_str(member);
            bits = bits.saturating_add(place.bit_offset);
            let (target, record) = self.plain(place.type_id)?;
            let kind = self.kind(&record)?;
            if rest.peek().is_some() {
                if !matches!(kind, MemberKind::Struct | MemberKind::Union) {
                    return Err(BtfError::NotEmbedded { member: way, what: kind.noun() });
                }
                id = target;
                continue;
            }
            let size = self.size(&record)?;
            if place.bits != 0 || is_old_bitfield(&record) || bits % 8 != 0 {
                return Err(BtfError::Bitfield { path: self.path.into() });
            }
            return self.within(bits / 8, size, whole, kind);
        }
        Err(BtfError::Path { path: self.path.into() })
    }

    /// A member that lies within its struct.
    fn within(
        &self,
        offset: u64,
        size: u64,
        whole: u64,
        kind: MemberKind,
    ) -> Result<MemberInfo, BtfError> {
        let outside = || BtfError::Outside { path: self.path.into() };
        if offset.saturating_add(size) > whole {
            return Err(outside());
        }
        Ok(MemberInfo {
            offset: u32::try_from(offset).map_err(|_| outside())?,
            size: u32::try_from(size).map_err(|_| outside())?,
            kind,
        })
    }

    /// Searches the struct `id`, and the anonymous structs and unions in it, for `name`.
    fn find(&mut self, id: u32, name: &str, depth: u32) -> Result<Option<Place>, BtfError> {
        let Some(record) = self.btf.record(id) else { return Ok(None) };
        for member in format::members(&record) {
            self.step()?;
            if member.name != 0 && !self.btf.is_name(member.name, "") {
                if self.btf.is_name(member.name, name) {
                    return Ok(Some(Place {
                        type_id: member.type_id,
                        bit_offset: u64::from(member.bit_offset),
                        bits: member.bits,
                    }));
                }
                continue;
            }
            let (target, inner) = self.plain(member.type_id)?;
            if !matches!(inner.kind, Kind::Struct | Kind::Union) {
                continue;
            }
            let deeper = depth.checked_sub(1).ok_or_else(|| self.endless())?;
            if let Some(place) = self.find(target, name, deeper)? {
                let bit_offset = place.bit_offset.saturating_add(u64::from(member.bit_offset));
                return Ok(Some(Place { bit_offset, ..place }));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    fn plain(&mut self, mut id: u32) -> Result<(u32, Record<'a>), BtfError> {
        for _ in 0..DEPTH {
            self.step()?;
            match self.btf.record(id) {
                Some(record) if record.kind.is_transparent() => id = record.value,
                Some(record) => return Ok((id, record)),
                None => return Err(BtfError::Outside { path: self.path.into() }),
            }
        }
        Err(self.endless())
    }

    fn kind(&self, record: &Record<'_>) -> Result<MemberKind, BtfError> {
        Ok(match record.kind {
            Kind::Int => MemberKind::Integer,
            Kind::Float => MemberKind::Float,
            Kind::Enum | Kind::Enum64 => MemberKind::Enum,
            Kind::Ptr => MemberKind::Pointer,
            Kind::Array => MemberKind::Array,
            Kind::Struct => MemberKind::Struct,
            Kind::Union => MemberKind::Union,
            _ => return Err(BtfError::Outside { path: self.path.into() }),
        })
    }

    /// Bytes of a type behind typedefs and qualifiers.
    fn size(&mut self, record: &Record<'_>) -> Result<u64, BtfError> {
        let (mut kind, mut value) = (record.kind, record.value);
        let (mut element, mut count) = (record.word(0), record.word(2));
        let mut times = 1_u64;
        for _ in 0..DEPTH {
            match kind {
                Kind::Ptr => return Ok(times.saturating_mul(POINTER)),
                Kind::Array => {
                    times = times.saturating_mul(u64::from(count.unwrap_or_default()));
                    let (_, inner) = self.plain(element.unwrap_or_default())?;
                    (kind, value) = (inner.kind, inner.value);
                    (element, count) = (inner.word(0), inner.word(2));
                }
                _ => return Ok(times.saturating_mul(u64::from(value))),
            }
        }
        Err(self.endless())
    }

    fn step(&mut self) -> Result<(), BtfError> {
        self.steps = self.steps.checked_sub(1).ok_or_else(|| self.endless())?;
        Ok(())
    }

    fn endless(&self) -> BtfError {
        BtfError::Endless { path: self.path.into() }
    }
}

/// Before `kind_flag`, bitfields were integers of odd width or with an offset of their own.
fn is_old_bitfield(record: &Record<'_>) -> bool {
    let encoding = record.word(0).unwrap_or_default();
    let (bits, offset) = (encoding & 0xff, encoding >> 16 & 0xff);
    record.kind == Kind::Int && (offset != 0 || u64::from(bits) != u64::from(record.value) * 8)
}
