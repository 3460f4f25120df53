//! What one cell of an opcode map says about its opcode. Pure constants; touches nothing.

/// Immediate operand of an opcode, by what its length depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Immediate {
    None,
    Byte,
    Word,
    Dword,
    /// 2 bytes with 16-bit operands, otherwise 4.
    Operand,
    /// As long as the operand: 2, 4 or 8 bytes.
    Whole,
    /// Offset of the operand's size plus a 16-bit selector.
    FarPointer,
    /// A word and a byte: ENTER.
    WordByte,
    /// Absolute address of the address size: MOV to and from the accumulator.
    Address,
}

/// Takes a ModRM byte.
pub(super) const MODRM: u8 = 1 << 0;
/// Its operand is 64 bits wide in 64-bit mode, whatever the prefixes say.
pub(super) const FORCE64: u8 = 1 << 1;
/// Allowed with a VEX, EVEX or XOP prefix.
pub(super) const VECTOR: u8 = 1 << 2;
/// Not allowed without such a prefix.
pub(super) const VECTOR_ONLY: u8 = 1 << 3;
/// Not allowed without an EVEX prefix.
pub(super) const EVEX_ONLY: u8 = 1 << 4;
/// With EVEX, pp = 66 and W = 0 make its operand 16 bits wide.
pub(super) const SCALABLE: u8 = 1 << 5;
/// Does not exist in 64-bit mode.
pub(super) const INVALID64: u8 = 1 << 6;

/// Attributes of one opcode in one opcode map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attr {
    pub(super) flags: u8,
    pub(super) immediate: Immediate,
    /// 1 + index of the opcode's group in `maps::GROUPS`; 0 without a group.
    pub(super) group: u8,
}

impl Attr {
    /// An opcode without operands, or one the kernel's map does not know: it decodes all the same.
    pub(super) const NONE: Self = Self::new(0, Immediate::None);

    const fn new(flags: u8, immediate: Immediate) -> Self {
        Self { flags, immediate, group: 0 }
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.flags == 0 && matches!(self.immediate, Immediate::None) && self.group == 0
    }

    /// What a letter of the opcode maps means.
    ///
    /// | ModRM | ModRM, imm8 | prefixes |
    /// |---|---|---|
    /// | `m` | `M` | legacy only |
    /// | `v` | `V` | legacy, VEX, EVEX or XOP |
    /// | `x` | `X` | VEX or EVEX only |
    /// | `e` | `E` | EVEX only |
    /// | `s` | `S` | EVEX only, scalable |
    ///
    /// The others are listed below. A letter outside the alphabet fails the build: this function
    /// is only called for constants.
    pub(super) const fn of(letter: u8) -> Self {
        const SCALED: u8 = MODRM | VECTOR | EVEX_ONLY | SCALABLE;
        use Immediate as I;
        match letter {
            b'.' => Self::NONE,
            b'm' => Self::new(MODRM, I::None),
            b'M' => Self::new(MODRM, I::Byte),
            b'v' => Self::new(MODRM | VECTOR, I::None),
            b'V' => Self::new(MODRM | VECTOR, I::Byte),
            b'x' => Self::new(MODRM | VECTOR | VECTOR_ONLY, I::None),
            b'X' => Self::new(MODRM | VECTOR | VECTOR_ONLY, I::Byte),
            b'e' => Self::new(MODRM | VECTOR | EVEX_ONLY, I::None),
            b'E' => Self::new(MODRM | VECTOR | EVEX_ONLY, I::Byte),
            b's' => Self::new(SCALED, I::None),
            b'S' => Self::new(SCALED, I::Byte),
            // ModRM with a longer immediate.
            b'Z' => Self::new(MODRM, I::Operand),
            b'Y' => Self::new(SCALED, I::Operand),
            b'd' => Self::new(MODRM | VECTOR, I::Dword),
            // An immediate alone.
            b'b' => Self::new(0, I::Byte),
            b'z' => Self::new(0, I::Operand),
            b'q' => Self::new(0, I::Whole),
            b'w' => Self::new(0, I::Word),
            b'n' => Self::new(0, I::WordByte),
            b'o' => Self::new(0, I::Address),
            // Stack and near branches: always 64 bits wide.
            b'r' => Self::new(FORCE64, I::None),
            b'R' => Self::new(FORCE64 | MODRM, I::None),
            b'j' => Self::new(FORCE64, I::Byte),
            b'J' => Self::new(FORCE64, I::Operand),
            b'h' => Self::new(FORCE64, I::Word),
            // Gone in 64-bit mode. What they took before shows again behind a REX2 prefix.
            b'i' => Self::new(INVALID64, I::None),
            b'y' => Self::new(INVALID64, I::Byte),
            b'f' => Self::new(INVALID64, I::FarPointer),
            b'I' => Self::new(INVALID64 | MODRM, I::Byte),
            // VEX allowed, nothing follows: EMMS, VZEROUPPER.
            b'k' => Self::new(VECTOR, I::None),
            _ => panic!("a letter outside the alphabet of the opcode maps"),
        }
    }

    /// This opcode's attributes with those its group adds for one value of ModRM.reg.
    pub(super) const fn with(self, member: Self) -> Self {
        let immediate = match member.immediate {
            Immediate::None => self.immediate,
            immediate => immediate,
        };
        Self { flags: self.flags | member.flags, immediate, group: self.group }
    }
}
