//! Whether an access came through an accessor that may touch a device, and what becomes of it.
//!
//! Instruction bytes and the names of functions in, a [`Verdict`] with its evidence in sentences
//! out: no I/O. [`crate::sites`] finds the names, [`crate::decode::insn`] reads the bytes.

pub mod accessors;
pub mod form;
mod judge;
mod survival;
#[cfg(test)]
mod tests;
mod words;

use serde::{Serialize, Serializer};

pub use judge::judge;
pub use survival::{Fate, Survival};

use crate::decode::{gpa::Sharing, qualification::Io};

/// A function that an instruction belongs to: the one that holds it or one that was inlined.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Frame {
    /// Name of the function as in its source.
    pub function: String,
    /// Source file as the compiler was given it; where in it the instruction, or the function
    /// inlined here, stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line in `file`, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
}

/// What an instruction touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Memory: an EPT violation (exit reason 48).
    Memory {
        /// Guest linear address.
        gla: Option<u64>,
        /// Whose memory the guest physical address lies in.
        sharing: Sharing,
        /// Whether it is System RAM and no device.
        ram: bool,
    },
    /// A port (exit reason 30); its qualification, if it is known.
    Port(Option<Io>),
}

impl Target {
    /// Memory of which no address is known.
    pub const MEMORY: Self = Self::Memory { gla: None, sharing: Sharing::Unknown, ram: false };

    /// What the instruction at the start of `bytes` can only have touched: a port if it is IN, OUT,
    /// INS or OUTS, else memory.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if form::Form::of(bytes).is_port() { Self::Port(None) } else { Self::MEMORY }
    }
}

/// Everything that is known about one access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access<'a> {
    /// Bytes at the instruction pointer, of which 15 count; empty if they are not known.
    pub bytes: &'a [u8],
    /// What was touched.
    pub target: Target,
    /// The functions that the instruction belongs to, the innermost first. `None` without debug
    /// information.
    pub chain: Option<&'a [Frame]>,
    /// The function by the symbol table, which knows nothing of inlined ones.
    pub symbol: Option<&'a str>,
    /// Whether it ran in user mode.
    pub user: bool,
    /// Whether the exception table has an entry for the instruction; `None` if that is not known.
    pub in_exception_table: Option<bool>,
}

impl<'a> Access<'a> {
    /// An access of the kernel's of which no more than the bytes and the chain is known.
    #[must_use]
    pub fn of(bytes: &'a [u8], chain: Option<&'a [Frame]>) -> Self {
        let target = Target::of(bytes);
        Self { bytes, target, chain, symbol: None, user: false, in_exception_table: None }
    }
}

/// How an access came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Through `io.h` and its kin.
    IoAccessor,
    /// Through `io.h`, with an instruction that a TD's kernel cannot emulate.
    IoAccessorNotTdSafe,
    /// Through an accessor that an architecture's driver brings: MMCONFIG, local APIC, I/O delay.
    ArchAccessor,
    /// Through a pointer, such as a struct laid over device registers.
    PointerDereference,
    /// Through a memory copy that knows nothing of devices.
    MemcpyOnIomem,
    /// INS or OUTS.
    StringPortIo,
    /// IN or OUT written as assembly beside the accessors.
    InlineAssembly,
    /// From user space.
    UserSpace,
    /// What is known does not tell.
    Undecided,
}

impl Kind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 9] = [
        Self::IoAccessor,
        Self::IoAccessorNotTdSafe,
        Self::ArchAccessor,
        Self::PointerDereference,
        Self::MemcpyOnIomem,
        Self::StringPortIo,
        Self::InlineAssembly,
        Self::UserSpace,
        Self::Undecided,
    ];

    /// Its name in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoAccessor => "io.h accessor",
            Self::IoAccessorNotTdSafe => "io.h accessor, not TD-safe",
            Self::ArchAccessor => "architecture accessor",
            Self::PointerDereference => "pointer dereference",
            Self::MemcpyOnIomem => "memcpy on __iomem",
            Self::StringPortIo => "string port I/O",
            Self::InlineAssembly => "inline assembly",
            Self::UserSpace => "user space",
            Self::Undecided => "undecided",
        }
    }

    /// Whether it went around the accessors, or through one that does not work in a TD: what a hunt
    /// for offenders reports.
    #[must_use]
    pub const fn is_offender(self) -> bool {
        !matches!(self, Self::IoAccessor | Self::ArchAccessor | Self::Undecided)
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The verdict on an access.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// How it came about.
    pub kind: Kind,
    /// Why, in sentences; the one that decides comes first.
    pub evidence: Vec<String>,
    /// What a TD's kernel makes of it.
    pub survives: Survival,
    /// What to do about it.
    pub advice: String,
}
