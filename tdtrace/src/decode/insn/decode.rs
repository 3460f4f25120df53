//! The decoder: prefixes, opcode, ModRM, SIB, displacement, immediate, in that order.

use super::{
    Encoding, Insn, MAX_LEN, ModRm, Prefixes, Undecodable,
    attr::{Attr, EVEX_ONLY, FORCE64, INVALID64, Immediate, MODRM, SCALABLE, VECTOR, VECTOR_ONLY},
    map::{Simd, resolve},
    table,
};

/// UD2 and three letters: they ask a hypervisor to emulate the next instruction. The kernel takes
/// the five bytes for a prefix of it.
const EMULATE_PREFIXES: [[u8; 5]; 2] = [*b"\x0f\x0bxen", *b"\x0f\x0bkvm"];

/// Distinct legacy prefixes the kernel remembers; one more is taken for the opcode.
const MAX_DISTINCT_PREFIXES: u32 = 4;

struct Decoder<'a> {
    code: &'a [u8],
    insn: Insn,
    attr: Attr,
}

pub(super) fn decode(bytes: &[u8]) -> Result<Insn, Undecodable> {
    let code = bytes.get(..MAX_LEN).unwrap_or(bytes);
    let mut decoder = Decoder { code, insn: Insn::EMPTY, attr: Attr::NONE };
    decoder.prefixes()?;
    decoder.encoding()?;
    decoder.opcode()?;
    decoder.modrm()?;
    decoder.address()?;
    decoder.immediate()?;
    Ok(decoder.insn)
}

impl Decoder<'_> {
    /// The byte `ahead` bytes after the next one.
    fn peek(&self, ahead: usize) -> Result<u8, Undecodable> {
        let at = usize::from(self.insn.len) + ahead;
        self.code.get(at).copied().ok_or(Undecodable::Incomplete)
    }

    fn next(&mut self) -> Result<u8, Undecodable> {
        let byte = self.peek(0)?;
        self.insn.len += 1;
        Ok(byte)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Undecodable> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.next()?;
        }
        Ok(bytes)
    }

    fn prefixes(&mut self) -> Result<(), Undecodable> {
        if let Some(marker) = self.code.first_chunk()
            && EMULATE_PREFIXES.contains(marker)
        {
            self.insn.emulate_prefix = true;
            self.insn.len = 5;
        }
        while let byte = self.peek(0)?
            && let Some(bit) = Prefixes::bit(byte)
        {
            let prefixes = &mut self.insn.prefixes;
            if prefixes.seen & bit == 0 {
                if prefixes.seen.count_ones() == MAX_DISTINCT_PREFIXES {
                    break;
                }
                prefixes.seen |= bit;
                match byte {
                    0x66 => self.insn.operand_size = 2,
                    0x67 => self.insn.address_size = 4,
                    _ => {}
                }
            }
            prefixes.last = byte;
            prefixes.len += 1;
            self.insn.len += 1;
        }
        Ok(())
    }

    /// REX, REX2 or vector prefix. Behind a REX prefix the kernel does not look for the latter: it
    /// takes C4, C5, 62 and 8F for the opcodes they were before.
    fn encoding(&mut self) -> Result<(), Undecodable> {
        let first = self.peek(0)?;
        let (encoding, wide) = match first {
            0x40..=0x4f => {
                self.insn.len += 1;
                (Encoding::Rex(first), first & 0x08 != 0)
            }
            0xd5 => {
                let [_, payload] = self.take()?;
                (Encoding::Rex2(payload), payload & 0x08 != 0)
            }
            0xc5 => {
                let [_, payload] = self.take()?;
                (Encoding::Vex2(payload), false)
            }
            0xc4 => {
                let [_, p0, p1] = self.take()?;
                (Encoding::Vex3([p0, p1]), p1 & 0x80 != 0)
            }
            // The kernel reads W where EVEX keeps the zeroing bit, in the last payload byte.
            0x62 => {
                let [_, p0, p1, p2] = self.take()?;
                (Encoding::Evex([p0, p1, p2]), p2 & 0x80 != 0)
            }
            // With a zero where ModRM.reg would be it is POP.
            0x8f if ModRm(self.peek(1)?).reg() != 0 => {
                let [_, p0, p1] = self.take()?;
                (Encoding::Xop([p0, p1]), p1 & 0x80 != 0)
            }
            _ => return Ok(()),
        };
        self.insn.encoding = encoding;
        if wide {
            self.insn.operand_size = 8;
        }
        Ok(())
    }

    fn opcode(&mut self) -> Result<(), Undecodable> {
        let opcode = self.opcode_byte()?;
        self.attr = match self.insn.encoding {
            Encoding::Legacy | Encoding::Rex(_) => self.legacy_attr(opcode)?,
            // Neither escapes nor opcodes that are invalid or need a vector prefix stop REX2.
            Encoding::Rex2(payload) if payload & 0x80 != 0 => {
                table::MAP_0F.legacy(opcode, self.simd())
            }
            Encoding::Rex2(_) => table::ONE_BYTE.legacy(opcode, 0),
            Encoding::Vex2(_) | Encoding::Vex3(_) | Encoding::Evex(_) => {
                self.vector_attr(opcode)?
            }
            Encoding::Xop([p0, _]) => {
                let map = match p0 & 0x1f {
                    0x08 => &table::XOP_8,
                    0x09 => &table::XOP_9,
                    0x0a => &table::XOP_A,
                    _ => return Err(Undecodable::Invalid),
                };
                let attr = map.legacy(opcode, 0);
                if !attr.has(VECTOR) {
                    return Err(Undecodable::Invalid);
                }
                attr
            }
        };
        Ok(())
    }

    fn opcode_byte(&mut self) -> Result<u8, Undecodable> {
        let byte = self.next()?;
        if let Some(slot) = self.insn.opcode.get_mut(usize::from(self.insn.opcode_len)) {
            *slot = byte;
            self.insn.opcode_len += 1;
        }
        Ok(byte)
    }

    fn legacy_attr(&mut self, opcode: u8) -> Result<Attr, Undecodable> {
        let mut attr = table::ONE_BYTE.legacy(opcode, 0);
        // Decodes, but as a lone opcode.
        if attr.has(INVALID64) {
            return Ok(Attr::NONE);
        }
        if opcode == 0x0f {
            let simd = self.simd();
            attr = match self.opcode_byte()? {
                0x38 => table::MAP_0F38.legacy(self.opcode_byte()?, simd),
                0x3a => table::MAP_0F3A.legacy(self.opcode_byte()?, simd),
                opcode => table::MAP_0F.legacy(opcode, simd),
            };
        }
        if attr.has(VECTOR_ONLY | EVEX_ONLY) {
            return Err(Undecodable::Invalid);
        }
        Ok(attr)
    }

    /// Attributes behind VEX or EVEX. The kernel uses one set of maps for both, so that it takes
    /// VEX where EVEX is not demanded, and EVEX wherever VEX is allowed.
    fn vector_attr(&mut self, opcode: u8) -> Result<Attr, Undecodable> {
        let (map, evex, word) = match self.insn.encoding {
            Encoding::Vex3([p0, p1]) => (p0 & 0x1f, false, p1 & 0x80 == 0),
            Encoding::Evex([p0, p1, _]) => (p0 & 0x07, true, p1 & 0x80 == 0),
            _ => (1, false, true),
        };
        let map = match map {
            1 => &table::MAP_0F,
            2 => &table::MAP_0F38,
            3 => &table::MAP_0F3A,
            4 => &table::MAP_4,
            5 => &table::MAP_5,
            6 => &table::MAP_6,
            7 => &table::MAP_7,
            _ => return Err(Undecodable::Invalid),
        };
        let pp = self.simd();
        let attr = map.vector(opcode, pp);
        // A group answers for itself, once its ModRM byte is known.
        let allowed = attr.has(VECTOR) || attr.group != 0;
        if !allowed || (attr.has(EVEX_ONLY) && !evex) {
            return Err(Undecodable::Invalid);
        }
        if attr.has(SCALABLE) && word && pp == 1 {
            self.insn.operand_size = 2;
        }
        Ok(attr)
    }

    /// Mandatory prefix: the pp field of a vector prefix, otherwise the last legacy prefix.
    fn simd(&self) -> Simd {
        match self.insn.encoding {
            Encoding::Vex2(payload) => usize::from(payload & 3),
            Encoding::Vex3([_, p1]) | Encoding::Evex([_, p1, _]) | Encoding::Xop([_, p1]) => {
                usize::from(p1 & 3)
            }
            Encoding::Legacy | Encoding::Rex(_) | Encoding::Rex2(_) => {
                match self.insn.prefixes.last {
                    0x66 => 1,
                    0xf3 => 2,
                    0xf2 => 3,
                    _ => 0,
                }
            }
        }
    }

    fn modrm(&mut self) -> Result<(), Undecodable> {
        if self.attr.has(MODRM) {
            let modrm = ModRm(self.next()?);
            self.insn.modrm = Some(modrm);
            self.attr = resolve(self.attr, modrm.reg(), self.simd());
            if self.insn.encoding.is_vector() && !self.attr.has(VECTOR) {
                return Err(Undecodable::Invalid);
            }
        }
        if self.attr.has(FORCE64) {
            self.insn.operand_size = 8;
        }
        Ok(())
    }

    /// SIB byte and displacement.
    fn address(&mut self) -> Result<(), Undecodable> {
        let Some(modrm) = self.insn.modrm else { return Ok(()) };
        if modrm.mode() == 3 {
            return Ok(());
        }
        let mut base = modrm.rm();
        if base == 4 {
            let sib = self.next()?;
            self.insn.sib = Some(sib);
            base = sib & 7;
        }
        match modrm.mode() {
            1 => {
                self.insn.displacement = i32::from(i8::from_le_bytes(self.take()?));
                self.insn.displacement_len = 1;
            }
            // RIP-relative without a SIB byte, no base register with one.
            mode if mode == 2 || base == 5 => {
                self.insn.displacement = i32::from_le_bytes(self.take()?);
                self.insn.displacement_len = 4;
            }
            _ => {}
        }
        Ok(())
    }

    fn immediate(&mut self) -> Result<(), Undecodable> {
        let size = self.insn.operand_size;
        let len = match (self.attr.immediate, size) {
            (Immediate::None, _) => 0,
            (Immediate::Byte, _) => 1,
            (Immediate::Word, _) | (Immediate::Operand | Immediate::Whole, 2) => 2,
            (Immediate::WordByte, _) => 3,
            (Immediate::Dword | Immediate::Operand, _) | (Immediate::FarPointer, 2) => 4,
            // No pointer is 16:64; the kernel reports it as if bytes were missing.
            (Immediate::FarPointer, 8) => return Err(Undecodable::Incomplete),
            (Immediate::FarPointer, _) => 6,
            (Immediate::Whole, _) => size,
            (Immediate::Address, _) => self.insn.address_size,
        };
        let mut bytes = [0; 8];
        for byte in bytes.iter_mut().take(usize::from(len)) {
            *byte = self.next()?;
        }
        if len > 0 {
            let unused = 64 - 8 * u32::from(len);
            self.insn.immediate = i64::from_le_bytes(bytes) << unused >> unused;
            self.insn.immediate_len = len;
        }
        Ok(())
    }
}
