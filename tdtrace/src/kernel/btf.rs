//! BTF of a kernel: what its structures look like and which functions it has.
//!
//! A parser of our own: it reads split BTF (that of a module, over vmlinux) and computes member
//! offsets, which no permissively licensed crate does. May touch files ([`BtfSet`]) and bytes; knows
//! nothing of probes.
//!
//! The bytes may be hostile. Parsing takes one pass, keeps four bytes a type beside the file, and
//! checks every name and type id; lookups bound the steps they take.

mod elf;
mod error;
mod file;
mod format;
mod function;
mod member;
mod set;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

pub use error::BtfError;
pub use file::{read_btf_bytes, unpack_btf};
use format::{Kind, Record, Sections, Stray};
pub use function::{Parameter, Returned};
pub use member::{MemberInfo, MemberKind};
pub use set::{BtfModule, BtfSet};

/// Bytes of a name that its hash covers; names may be as long as the file.
const HASHED: usize = 64;

/// Parsed BTF, alone or split over a base.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    sections: Sections,
    /// Where each of our own types starts in `bytes`.
    starts: Vec<u32>,
    /// What ids and offsets below `first_id` and `first_name` refer to.
    base: Option<Arc<Self>>,
    first_id: u32,
    first_name: u32,
    aggregates: NameIndex,
    functions: NameIndex,
    typedefs: NameIndex,
    enums: NameIndex,
}

/// Our own types of some kinds as (hash of the name, id), ascending; built at the first question.
type NameIndex = OnceLock<Box<[(u32, u32)]>>;

impl Btf {
    /// Parses BTF that stands alone, such as vmlinux's.
    ///
    /// # Errors
    /// The bytes are not BTF, are damaged, or are split BTF (which speaks of types and names that
    /// only its base has).
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let scan = scan(&bytes, None)?;
        Ok(Self::from_scan(bytes, scan, None))
    }

    /// Parses split BTF over `base`: type ids from `base.type_count()`, string offsets from
    /// `base.string_length()`.
    ///
    /// Where a file may be split or stand alone, use [`Btf::parse_module`].
    ///
    /// # Errors
    /// The bytes are not BTF or do not belong to this base.
    pub fn parse_split(bytes: Vec<u8>, base: Arc<Self>) -> Result<Self, BtfError> {
        let scan = scan(&bytes, Some(&base))?;
        Ok(Self::from_scan(bytes, scan, Some(base)))
    }

    /// Parses BTF that stands alone or, if it does not, is split over `base`.
    ///
    /// Split BTF never stands alone: its own types are numbered from behind those of the base.
    ///
    /// # Errors
    /// The bytes are not BTF, or are split BTF of another base.
    pub fn parse_module(bytes: Vec<u8>, base: Arc<Self>) -> Result<Self, BtfError> {
        match scan(&bytes, None) {
            Ok(scan) => Ok(Self::from_scan(bytes, scan, None)),
            Err(_) => Self::parse_split(bytes, base),
        }
    }

    fn from_scan(bytes: Vec<u8>, scan: Scan, base: Option<Arc<Self>>) -> Self {
        let (first_id, first_name) = firsts(base.as_deref());
        Self {
            bytes,
            sections: scan.sections,
            starts: scan.starts,
            base,
            first_id,
            first_name,
            aggregates: NameIndex::new(),
            functions: NameIndex::new(),
            typedefs: NameIndex::new(),
            enums: NameIndex::new(),
        }
    }

    /// Whether this is split BTF.
    #[must_use]
    pub fn is_split(&self) -> bool {
        self.base.is_some()
    }

    /// Number of types, void and those of the base included; also the first id of BTF split over
    /// this.
    #[must_use]
    pub fn type_count(&self) -> u32 {
        // `scan` has checked that the sum fits.
        self.first_id.saturating_add(u32::try_from(self.starts.len()).unwrap_or(u32::MAX))
    }

    /// Bytes of strings, those of the base included.
    #[must_use]
    pub fn string_length(&self) -> u32 {
        let own = u32::try_from(self.sections.strings.len()).unwrap_or(u32::MAX);
        self.first_name.saturating_add(own)
    }

    /// Whether a function of this name is described. Assembly and `noinstr` functions are too: being
    /// here does not make a function attachable.
    #[must_use]
    pub fn has_func(&self, name: &str) -> bool {
        self.has(name, |btf| &btf.functions, |kind| kind == Kind::Func)
    }

    /// The id of a function of this name that is described here, not in the base.
    #[must_use]
    pub fn func_id(&self, name: &str) -> Option<u32> {
        self.own_named(name, &self.functions, |kind| kind == Kind::Func).first().copied()
    }

    /// Whether a typedef of this name exists. A kernel has `btf_trace_NAME` for each tracepoint.
    #[must_use]
    pub fn has_typedef(&self, name: &str) -> bool {
        self.has(name, |btf| &btf.typedefs, |kind| kind == Kind::Typedef)
    }

    /// Whether an enum of this name exists.
    #[must_use]
    pub fn has_enum(&self, name: &str) -> bool {
        let wanted = |kind| matches!(kind, Kind::Enum | Kind::Enum64);
        self.has(name, |btf| &btf.enums, wanted)
    }

    /// Whether a complete struct or union of this name exists, here or in the base.
    #[must_use]
    pub fn has_struct(&self, name: &str) -> bool {
        self.chain().any(|btf| !btf.own_structs(name).is_empty())
    }

    /// Whether a complete struct or union of this name exists here and not only in the base.
    #[must_use]
    pub fn has_own_struct(&self, name: &str) -> bool {
        !self.own_structs(name).is_empty()
    }

    /// The size of the struct or union called `name` in bytes.
    ///
    /// # Errors
    /// There is none that is complete, or several of different size.
    pub fn struct_size(&self, name: &str) -> Result<u32, BtfError> {
        let mut size = None;
        for id in self.structs(name) {
            let Some(record) = self.record(id) else { continue };
            if size.is_some_and(|known| known != record.value) {
                return Err(BtfError::Ambiguous { name: name.into(), path: "its size".into() });
            }
            size = Some(record.value);
        }
        size.ok_or_else(|| BtfError::NoStruct { name: name.into() })
    }

    /// Where the member at `path` (`struct.member[.member…]`) lies, how large and of what kind it is.
    ///
    /// Embedded structs and unions are followed, anonymous ones too, pointers are not. Forward
    /// declarations do not count, and a module's own struct hides the base's of that name. Of several
    /// structs of one name those without such a member are other structs; those with it must agree.
    ///
    /// # Errors
    /// No such struct or member, a bitfield, disagreeing structs, or damaged BTF.
    pub fn member(&self, path: &str) -> Result<MemberInfo, BtfError> {
        member::resolve(self, path)
    }

    /// The byte offset of the member at `path`; see [`Btf::member`].
    ///
    /// # Errors
    /// As [`Btf::member`].
    pub fn member_offset(&self, path: &str) -> Result<u32, BtfError> {
        self.member(path).map(|info| info.offset)
    }

    /// This BTF, then its base, and so on.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |btf| btf.base.as_deref())
    }

    /// The ids of all complete structs and unions called `name`. Those of a module hide those of its
    /// base: it is the module's code that was compiled with them.
    fn structs(&self, name: &str) -> Vec<u32> {
        self.chain()
            .map(|btf| btf.own_structs(name))
            .find(|ids| !ids.is_empty())
            .unwrap_or_default()
    }

    fn own_structs(&self, name: &str) -> Vec<u32> {
        self.own_named(name, &self.aggregates, |kind| matches!(kind, Kind::Struct | Kind::Union))
    }

    fn has(
        &self,
        name: &str,
        index: fn(&Self) -> &NameIndex,
        wanted: impl Fn(Kind) -> bool + Copy,
    ) -> bool {
        self.chain().any(|btf| !btf.own_named(name, index(btf), wanted).is_empty())
    }

    /// The ids of our own types of the wanted kinds that are called `name`.
    fn own_named(&self, name: &str, index: &NameIndex, wanted: impl Fn(Kind) -> bool) -> Vec<u32> {
        let index = index.get_or_init(|| self.build_index(wanted));
        let hash = hash(name.as_bytes());
        let start = index.partition_point(|(other, _)| *other < hash);
        index[start..]
            .iter()
            .take_while(|(other, _)| *other == hash)
            .map(|(_, id)| *id)
            .filter(|id| self.record(*id).is_some_and(|record| self.is_name(record.name, name)))
            .collect()
    }

    fn build_index(&self, wanted: impl Fn(Kind) -> bool) -> Box<[(u32, u32)]> {
        let mut index = Vec::new();
        for (id, start) in (self.first_id..).zip(&self.starts) {
            if let Some((record, _)) = format::record(&self.bytes, &self.sections, *start as usize)
                && wanted(record.kind)
                && record.name != 0
            {
                index.push((hash(self.name_from(record.name)), id));
            }
        }
        index.sort_unstable();
        index.into_boxed_slice()
    }

    /// The record of type `id`, ours or the base's; `None` for void and ids that do not exist.
    fn record(&self, id: u32) -> Option<Record<'_>> {
        let btf = self.chain().find(|btf| id >= btf.first_id)?;
        let start = *btf.starts.get((id - btf.first_id) as usize)?;
        format::record(&btf.bytes, &btf.sections, start as usize).map(|(record, _)| record)
    }

    /// The strings from `offset` on; the name is what comes before the first NUL.
    fn name_from(&self, offset: u32) -> &[u8] {
        let Some(btf) = self.chain().find(|btf| offset >= btf.first_name) else { return &[] };
        btf.bytes
            .get(btf.sections.strings.clone())
            .and_then(|strings| strings.get((offset - btf.first_name) as usize..))
            .unwrap_or_default()
    }

    fn is_name(&self, offset: u32, name: &str) -> bool {
        let text = self.name_from(offset);
        text.get(name.len()) == Some(&0) && text.starts_with(name.as_bytes())
    }
}

/// What one pass over a file finds.
struct Scan {
    sections: Sections,
    starts: Vec<u32>,
}

/// First id and first string offset of what is split over `base`. Id 0 is void.
fn firsts(base: Option<&Btf>) -> (u32, u32) {
    base.map_or((1, 0), |base| (base.type_count(), base.string_length()))
}

fn scan(bytes: &[u8], base: Option<&Btf>) -> Result<Scan, BtfError> {
    let sections = format::sections(bytes, base.is_some())?;
    let (first_id, first_name) = firsts(base);
    let mut starts = Vec::new();
    let mut at = sections.types.start;
    let mut next_id = first_id;
    while at < sections.types.end {
        let Some((_, end)) = format::record(bytes, &sections, at) else {
            return Err(format::unreadable(bytes, &sections, at, next_id));
        };
        starts.push(u32::try_from(at).map_err(|_| BtfError::TooLarge)?);
        next_id = next_id.checked_add(1).ok_or(BtfError::TooLarge)?;
        at = end;
    }
    let names = u32::try_from(sections.strings.len())
        .ok()
        .and_then(|own| own.checked_add(first_name))
        .ok_or(BtfError::TooLarge)?;
    let own = &bytes[sections.strings.clone()];
    let is_name = |offset: u32| match base {
        None => offset < names,
        Some(base) => starts_name(base, own, offset),
    };
    for (id, start) in (first_id..).zip(&starts) {
        let Some((record, _)) = format::record(bytes, &sections, *start as usize) else {
            return Err(BtfError::TypeCut { id });
        };
        format::refers_within(&record, is_name, next_id).map_err(|stray| match stray {
            Stray::Name(offset) => BtfError::StrayName { id, offset, length: names },
            Stray::Type(target) => BtfError::StrayType { id, target, count: next_id },
        })?;
    }
    Ok(Scan { sections, starts })
}

/// Whether a string starts at `offset` of the strings of `base` followed by `own`.
///
/// Split BTF does not say which base it wants. Over another one its names come to lie in the middle of
/// strings, where those that wrote BTF never put one.
fn starts_name(base: &Btf, own: &[u8], offset: u32) -> bool {
    match offset.checked_sub(base.string_length()) {
        Some(0) => !own.is_empty(),
        Some(at) => (at as usize) < own.len() && own.get(at as usize - 1) == Some(&0),
        None => offset == 0 || base.name_from(offset - 1).first() == Some(&0),
    }
}

/// FNV-1a over the first bytes of a name, up to its NUL.
fn hash(name: &[u8]) -> u32 {
    name.iter()
        .take(HASHED)
        .take_while(|byte| **byte != 0)
        .fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
