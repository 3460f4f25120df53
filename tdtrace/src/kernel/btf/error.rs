//! Why BTF cannot be read, or why a path in it has no answer.

/// An error of the BTF parser and of lookups in parsed BTF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The magic number is another one.
    #[error("not BTF: it starts with 0x{magic:04x}, not 0xeb9f")]
    NotBtf {
        /// The first two bytes.
        magic: u16,
    },
    /// The file is of a big-endian machine.
    #[error("BTF of a big-endian machine; only x86-64 kernels are read")]
    BigEndian,
    /// The format version is not 1.
    #[error("BTF of version {version}; this program reads version 1")]
    Version {
        /// The version found.
        version: u8,
    },
    /// The header does not fit.
    #[error("BTF is cut off: no whole header in {length} bytes")]
    Short {
        /// Bytes of the file.
        length: usize,
    },
    /// A section lies outside the file.
    #[error("BTF is damaged: its {section} section lies outside the {length} bytes of the file")]
    Section {
        /// Which section.
        section: &'static str,
        /// Bytes of the file.
        length: usize,
    },
    /// The strings do not start or end with a NUL.
    #[error(
        "BTF's strings do not start and end with a NUL: it is split BTF without its base, or damaged"
    )]
    Strings,
    /// There are more types than a type id can number, or more strings than an offset can reach.
    #[error("BTF with its base is too large: type ids or string offsets exceed 32 bits")]
    TooLarge,
    /// A kind that nobody told the length of.
    #[error(
        "BTF type {id} is of kind {kind}, which this program does not know and the file does not \
         describe"
    )]
    UnknownKind {
        /// The type id.
        id: u32,
        /// The kind's number.
        kind: u32,
    },
    /// A record runs over the end of its section.
    #[error("BTF is cut off within type {id}")]
    TypeCut {
        /// The type id.
        id: u32,
    },
    /// No string starts where a name should: the file is split BTF of another base, or damaged.
    #[error(
        "BTF type {id} has its name at {offset}, where none of the {length} bytes of strings starts \
         one: the file is split BTF that wants another base, or damaged"
    )]
    StrayName {
        /// The type id.
        id: u32,
        /// The offset of the name.
        offset: u32,
        /// Bytes of strings, those of the base included.
        length: u32,
    },
    /// A type id does not exist: the file is split BTF of another base, or damaged.
    #[error(
        "BTF type {id} refers to type {target} of {count}: the file is split BTF that wants \
         another base, or damaged"
    )]
    StrayType {
        /// The type id.
        id: u32,
        /// The id it refers to.
        target: u32,
        /// Number of types, void and those of the base included.
        count: u32,
    },
    /// A path that is not `struct.member[.member…]`.
    #[error("`{path}` is not of the form struct.member")]
    Path {
        /// The path.
        path: String,
    },
    /// No complete struct or union has this name.
    #[error("no struct {name} in BTF")]
    NoStruct {
        /// The name.
        name: String,
    },
    /// The struct has no such member.
    #[error("struct {structure} has no member {member}")]
    NoMember {
        /// What was searched: the struct and the members on the way to it.
        structure: String,
        /// The member.
        member: String,
    },
    /// A path goes on behind a member that embeds nothing.
    #[error("{member} is {what}; only embedded structs are followed")]
    NotEmbedded {
        /// The member.
        member: String,
        /// What it is.
        what: &'static str,
    },
    /// The member is a bitfield and has no byte offset.
    #[error("{path} is a bitfield; it has no byte offset")]
    Bitfield {
        /// The path.
        path: String,
    },
    /// Several structs of this name exist and place the member differently.
    #[error("BTF has several structs {name}, and they disagree about {path}")]
    Ambiguous {
        /// The struct.
        name: String,
        /// The path, or `its size`.
        path: String,
    },
    /// The types on the way are nested beyond reason or in a circle.
    #[error("the types of {path} are nested too deeply or in a circle; BTF is damaged")]
    Endless {
        /// The path.
        path: String,
    },
    /// The member's place or size contradicts the struct around it.
    #[error("{path} does not lie within its struct; BTF is damaged")]
    Outside {
        /// The path.
        path: String,
    },
}

impl BtfError {
    /// Whether it is what split BTF fails with when its base is missing or another one.
    #[must_use]
    pub const fn wants_base(&self) -> bool {
        matches!(self, Self::Strings | Self::StrayName { .. } | Self::StrayType { .. })
    }
}
