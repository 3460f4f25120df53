//! x86-64 instructions as a TDX guest kernel reads them: `insn_decode()` in 64-bit mode and
//! `insn_decode_mmio()`, whose verdict decides whether a #VE on MMIO is emulated.
//!
//! This is not a disassembler. It says what Linux says, with Linux's mistakes: the guest dies or
//! lives by them. Reference is 7.3. 6.12 differs for instructions that compilers do not emit
//! here: it has no XOP, reads vector prefixes also behind REX, and gives opcodes that are invalid
//! in 64-bit mode the operands they had in 32-bit mode.
//!
//! Bytes in, meaning out: no I/O, no allocation, no panic for any input.

mod attr;
mod decode;
mod map;
mod mmio;
mod table;
#[cfg(test)]
mod tests;

pub use mmio::{Judgement, MmioForm, Verdict, judge, mmio};

/// Longest instruction in bytes; the kernel fetches as many and ignores what follows.
pub const MAX_LEN: usize = 15;

/// Why `insn_decode()` fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// The bytes end, or 15 are reached, before the instruction does (`-ENODATA`).
    #[error("the instruction is longer than its bytes")]
    Incomplete,
    /// No instruction the kernel knows has this prefix and opcode (`-EINVAL`).
    #[error("the kernel knows no such instruction")]
    Invalid,
}

/// Reads the instruction at the start of `bytes`, of which 15 count.
///
/// # Errors
///
/// Where `insn_decode(…, bytes.len(), INSN_MODE_64)` fails (arch/x86/lib/insn.c).
pub fn decode(bytes: &[u8]) -> Result<Insn, Undecodable> {
    decode::decode(bytes)
}

/// A decoded instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Length in bytes, 1 to 15.
    pub len: u8,
    /// Whether the five bytes of a Xen or KVM emulation marker come first.
    pub emulate_prefix: bool,
    /// Legacy prefixes.
    pub prefixes: Prefixes,
    /// REX, REX2 or vector prefix.
    pub encoding: Encoding,
    /// Opcode with its escapes (`0f`, `0f 38`, `0f 3a`), padded with zeros. One byte for every
    /// encoding but legacy and REX, whose map is then in the prefix.
    pub opcode: [u8; 3],
    /// Bytes of `opcode` in use, 1 to 3.
    pub opcode_len: u8,
    /// ModRM byte.
    pub modrm: Option<ModRm>,
    /// SIB byte.
    pub sib: Option<u8>,
    /// Displacement, sign-extended; 0 without one.
    pub displacement: i32,
    /// Bytes of the displacement: 0, 1 or 4.
    pub displacement_len: u8,
    /// Immediate or absolute address, sign-extended from `immediate_len`; 0 without one. A far
    /// pointer has its selector on top, ENTER its nesting level.
    pub immediate: i64,
    /// Bytes of the immediate: 0 to 4, 6 or 8.
    pub immediate_len: u8,
    /// Operand size in bytes as the kernel computes it: 2, 4 or 8. Byte opcodes have it, too.
    pub operand_size: u8,
    /// Address size in bytes: 4 or 8.
    pub address_size: u8,
}

impl Insn {
    const EMPTY: Self = Self {
        len: 0,
        emulate_prefix: false,
        prefixes: Prefixes { seen: 0, len: 0, last: 0 },
        encoding: Encoding::Legacy,
        opcode: [0; 3],
        opcode_len: 0,
        modrm: None,
        sib: None,
        displacement: 0,
        displacement_len: 0,
        immediate: 0,
        immediate_len: 0,
        operand_size: 4,
        address_size: 8,
    };

    /// Whether its ModRM byte names memory. String and `moffs` forms have no ModRM byte.
    #[must_use]
    pub fn has_memory_operand(&self) -> bool {
        self.modrm.is_some_and(|modrm| modrm.mode() != 3)
    }

    /// Whether its memory operand is relative to the next instruction.
    #[must_use]
    pub fn is_rip_relative(&self) -> bool {
        self.modrm.is_some_and(|modrm| modrm.mode() == 0 && modrm.rm() == 5)
    }
}

/// A ModRM byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModRm(pub u8);

impl ModRm {
    /// The mod field, 0 to 3; 3 names a register instead of memory.
    #[must_use]
    pub const fn mode(self) -> u8 {
        self.0 >> 6
    }

    /// The reg field, 0 to 7: a register, or the member of an opcode group.
    #[must_use]
    pub const fn reg(self) -> u8 {
        self.0 >> 3 & 7
    }

    /// The r/m field, 0 to 7.
    #[must_use]
    pub const fn rm(self) -> u8 {
        self.0 & 7
    }
}

/// What stands between the legacy prefixes and the opcode, without its first byte where that is
/// always the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Nothing.
    Legacy,
    /// REX, 40 to 4F.
    Rex(u8),
    /// D5 and a payload byte.
    Rex2(u8),
    /// C5 and a payload byte.
    Vex2(u8),
    /// C4 and two payload bytes.
    Vex3([u8; 2]),
    /// 62 and three payload bytes.
    Evex([u8; 3]),
    /// 8F and two payload bytes.
    Xop([u8; 2]),
}

impl Encoding {
    /// Whether it is VEX, EVEX or XOP.
    #[must_use]
    pub const fn is_vector(self) -> bool {
        matches!(self, Self::Vex2(_) | Self::Vex3(_) | Self::Evex(_) | Self::Xop(_))
    }
}

/// The legacy prefixes of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixes {
    /// One bit for each prefix seen, by its place in [`LEGACY_PREFIXES`].
    seen: u16,
    /// Number of prefix bytes, repeated ones included.
    pub len: u8,
    /// The last one, 0 without any; the kernel reads a mandatory prefix from it.
    pub last: u8,
}

const LEGACY_PREFIXES: [u8; 11] =
    [0x66, 0xf3, 0xf2, 0xf0, 0x2e, 0x3e, 0x26, 0x64, 0x65, 0x36, 0x67];

impl Prefixes {
    fn bit(prefix: u8) -> Option<u16> {
        LEGACY_PREFIXES.iter().position(|&known| known == prefix).map(|at| 1 << at)
    }

    /// Whether `prefix` is among them.
    #[must_use]
    pub fn contains(self, prefix: u8) -> bool {
        Self::bit(prefix).is_some_and(|bit| self.seen & bit != 0)
    }

    /// Whether LOCK is among them.
    #[must_use]
    pub fn lock(self) -> bool {
        self.contains(0xf0)
    }

    /// Whether REP or REPNE is among them.
    #[must_use]
    pub fn repeat(self) -> bool {
        self.contains(0xf3) || self.contains(0xf2)
    }

    /// The FS or GS override, the only ones with a meaning in 64-bit mode; none if both are
    /// there, which the kernel refuses.
    #[must_use]
    pub fn segment(self) -> Option<Segment> {
        match (self.contains(0x64), self.contains(0x65)) {
            (true, false) => Some(Segment::Fs),
            (false, true) => Some(Segment::Gs),
            _ => None,
        }
    }
}

/// A segment override that changes the address in 64-bit mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// 64: thread-local data of user space.
    Fs,
    /// 65: per-CPU data of the kernel.
    Gs,
}
