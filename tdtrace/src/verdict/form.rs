//! What an instruction does to memory or ports, as far as accessors can be told by it. Pure.

use crate::decode::insn::{self, Encoding, Insn, MAX_LEN, Undecodable};

/// The form of an instruction; sizes are in bytes, 1, 2, 4 or 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// MOV from memory to a register (8A, 8B).
    Load(u8),
    /// MOV from a register to memory (88, 89).
    Store(u8),
    /// MOV of a constant to memory (C6, C7).
    StoreConstant(u8),
    /// MOVZX or MOVSX from memory (0F B6, B7, BE, BF); what is read.
    LoadExtended(u8),
    /// MOVS, with REP or without.
    Movs,
    /// 66 0F 38 F8.
    Movdir64b,
    /// IN; none if the bytes do not tell its size.
    In(u8),
    /// OUT.
    Out(u8),
    /// INS or OUTS, with REP or without.
    StringPort,
    /// Another instruction that touches memory, by its name.
    Other(&'static str),
    /// An instruction that touches no memory.
    NoMemory,
    /// Bytes that the kernel reads as no instruction.
    Undecodable,
    /// No bytes.
    Unknown,
}

impl Form {
    /// The form of the instruction at the start of `bytes`, of which 15 count. Where the bytes end
    /// within it, its opcode decides.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Unknown;
        }
        let mut decoded = insn::decode(bytes);
        if decoded == Err(Undecodable::Incomplete) && bytes.len() < MAX_LEN {
            let mut fetched = [0; MAX_LEN];
            fetched[..bytes.len()].copy_from_slice(bytes);
            decoded = insn::decode(&fetched);
        }
        decoded.map_or(Self::Undecodable, |insn| of(&insn))
    }

    /// Whether it is a port instruction.
    #[must_use]
    pub const fn is_port(self) -> bool {
        matches!(self, Self::In(_) | Self::Out(_) | Self::StringPort)
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Load(_) | Self::Store(_) => "MOV",
            Self::StoreConstant(_) => "MOV of a constant",
            Self::LoadExtended(_) => "MOVZX or MOVSX",
            Self::Movs => "MOVS",
            Self::Movdir64b => "MOVDIR64B",
            Self::In(_) => "IN",
            Self::Out(_) => "OUT",
            Self::StringPort => "INS or OUTS",
            Self::Other(name) => name,
            Self::NoMemory => "an instruction without a memory operand",
            Self::Undecodable => "no instruction that the kernel knows",
            Self::Unknown => "an unknown instruction",
        }
    }

    /// Whether an accessor of `io.h` or of an architecture's driver can hold it: the assembly of
    /// all of them is MOV between memory and a register, MOVS or MOVDIR64B.
    #[must_use]
    pub const fn can_be_accessor(self) -> bool {
        matches!(self, Self::Load(_) | Self::Store(_) | Self::Movs | Self::Movdir64b)
    }
}

fn of(insn: &Insn) -> Form {
    let memory = insn.has_memory_operand();
    let size = insn.operand_size;
    if insn.encoding.is_vector() {
        return if memory { Form::Other("a vector instruction") } else { Form::NoMemory };
    }
    // Bit 7 of the payload selects the map of 0F; such opcodes have only one byte here.
    if matches!(insn.encoding, Encoding::Rex2(payload) if payload >> 7 == 1) {
        return if memory { Form::Other("an instruction with REX2") } else { Form::NoMemory };
    }
    match insn.opcode {
        [0xe4 | 0xec, ..] => Form::In(1),
        [0xe5 | 0xed, ..] => Form::In(size.min(4)),
        [0xe6 | 0xee, ..] => Form::Out(1),
        [0xe7 | 0xef, ..] => Form::Out(size.min(4)),
        [0x6c..=0x6f, ..] => Form::StringPort,
        [0xa4 | 0xa5, ..] => Form::Movs,
        [0xa0..=0xa3, ..] => Form::Other("MOV with an absolute address"),
        [0xa6 | 0xa7, ..] => Form::Other("CMPS"),
        [0xaa | 0xab, ..] => Form::Other("STOS"),
        [0xac | 0xad, ..] => Form::Other("LODS"),
        [0xae | 0xaf, ..] => Form::Other("SCAS"),
        [0x0f, 0x38, 0xf8] if memory && insn.prefixes.contains(0x66) => Form::Movdir64b,
        // LEA, multi-byte NOP and the hints of PREFETCH read nothing that could fault.
        [0x8d, ..] | [0x0f, 0x18..=0x1f | 0x0d, _] => Form::NoMemory,
        _ if !memory => Form::NoMemory,
        // No accessor has a LOCK, and with it a MOV does not execute.
        _ if insn.prefixes.lock() => Form::Other("a locked instruction"),
        [0x88, ..] => Form::Store(1),
        [0x89, ..] => Form::Store(size),
        [0x8a, ..] => Form::Load(1),
        [0x8b, ..] => Form::Load(size),
        [0xc6, ..] => Form::StoreConstant(1),
        [0xc7, ..] => Form::StoreConstant(size),
        [0x0f, 0xb6 | 0xbe, _] => Form::LoadExtended(1),
        [0x0f, 0xb7 | 0xbf, _] => Form::LoadExtended(2),
        _ => Form::Other(name(insn)),
    }
}

/// Names of the eight operations that share an opcode pattern or a group.
const ARITHMETIC: [&str; 8] = ["ADD", "OR", "ADC", "SBB", "AND", "SUB", "XOR", "CMP"];
const UNARY: [&str; 8] = ["TEST", "TEST", "NOT", "NEG", "MUL", "IMUL", "DIV", "IDIV"];
const INCREMENT: [&str; 8] = ["INC", "DEC", "CALL", "CALL", "JMP", "JMP", "PUSH", "a far call"];

/// The name of another instruction with a memory operand, roughly where it is rare.
fn name(insn: &Insn) -> &'static str {
    let member = insn.modrm.map_or(0, |modrm| usize::from(modrm.reg()));
    match insn.opcode {
        [opcode @ 0x00..=0x3f, 0, 0] if opcode & 7 < 4 => ARITHMETIC[usize::from(opcode >> 3)],
        [0x63, ..] => "MOVSXD",
        [0x69 | 0x6b, ..] | [0x0f, 0xaf, _] => "IMUL",
        [0x80..=0x83, ..] => ARITHMETIC[member],
        [0x84 | 0x85, ..] => "TEST",
        [0x86 | 0x87, ..] => "XCHG",
        [0x8f, ..] => "POP",
        [0xc0 | 0xc1 | 0xd0..=0xd3, ..] => "a shift",
        [0xd8..=0xdf, ..] => "an x87 instruction",
        [0xf6 | 0xf7, ..] => UNARY[member],
        [0xfe | 0xff, ..] => INCREMENT[member],
        [0x0f, 0x40..=0x4f, _] => "CMOV",
        [0x0f, 0x90..=0x9f, _] => "SETcc",
        [0x0f, 0xa3 | 0xab | 0xb3 | 0xbb | 0xba, _] => "BT",
        [0x0f, 0xb0 | 0xb1, _] => "CMPXCHG",
        [0x0f, 0xb8, _] => "POPCNT",
        [0x0f, 0xbc | 0xbd, _] => "a bit scan",
        [0x0f, 0xc0 | 0xc1, _] => "XADD",
        [0x0f, 0xc3, _] => "MOVNTI",
        [0x0f, 0xc7, _] => "CMPXCHG8B or its group",
        [0x0f, 0xae, _] => "FXSAVE or its group",
        [0x0f, 0x38, 0xf0 | 0xf1] => "MOVBE or CRC32",
        [0x0f, 0x38, 0xf9] => "MOVDIRI",
        [0x0f, 0x10..=0x17 | 0x28..=0x2f | 0x50..=0x7f | 0xc2..=0xff, _] => "an SSE instruction",
        _ => "another instruction",
    }
}
