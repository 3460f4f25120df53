//! What the guest kernel's #VE handler makes of an instruction that touched MMIO.

use super::{Insn, MAX_LEN, Undecodable, decode};

/// An MMIO access `insn_decode_mmio()` recognises (`enum insn_mmio_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MmioForm {
    /// Register to memory.
    Write,
    /// Immediate to memory.
    WriteImm,
    /// Memory to register.
    Read,
    /// Memory to register, zero-extended.
    ReadZx,
    /// Memory to register, sign-extended.
    ReadSx,
    /// Memory to memory: recognised, but the handler refuses it.
    Movs,
}

/// The MMIO form of an instruction and the bytes it accesses: 1, 2, 4 or 8.
///
/// The kernel looks at the first two opcode bytes and nothing else: not at the map a VEX, EVEX,
/// XOP or REX2 prefix selects, not at LOCK or REP, not at ModRM.reg, not at whether the operand is
/// memory (arch/x86/lib/insn-eval.c).
#[must_use]
pub fn mmio(insn: &Insn) -> Option<(MmioForm, u8)> {
    let full = insn.operand_size;
    Some(match insn.opcode {
        [0x88, ..] => (MmioForm::Write, 1),
        [0x89, ..] => (MmioForm::Write, full),
        [0xc6, ..] => (MmioForm::WriteImm, 1),
        [0xc7, ..] => (MmioForm::WriteImm, full),
        [0x8a, ..] => (MmioForm::Read, 1),
        [0x8b, ..] => (MmioForm::Read, full),
        [0xa4, ..] => (MmioForm::Movs, 1),
        [0xa5, ..] => (MmioForm::Movs, full),
        [0x0f, 0xb6, _] => (MmioForm::ReadZx, 1),
        [0x0f, 0xb7, _] => (MmioForm::ReadZx, 2),
        [0x0f, 0xbe, _] => (MmioForm::ReadSx, 1),
        [0x0f, 0xbf, _] => (MmioForm::ReadSx, 2),
        _ => return None,
    })
}

/// The kernel's verdict on an instruction that touched MMIO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It has an MMIO form.
    Mmio {
        /// Which one.
        form: MmioForm,
        /// Bytes accessed: 1, 2, 4 or 8.
        size: u8,
    },
    /// It decodes but has no MMIO form.
    Failed,
    /// It does not decode.
    Undecodable,
}

impl Verdict {
    /// The verdict on what [`decode()`] returned.
    #[must_use]
    pub fn of(decoded: &Result<Insn, Undecodable>) -> Self {
        match decoded.as_ref().map(mmio) {
            Ok(Some((form, size))) => Self::Mmio { form, size },
            Ok(None) => Self::Failed,
            Err(_) => Self::Undecodable,
        }
    }

    /// Its name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmio { form, .. } => match form {
                MmioForm::Write => "WRITE",
                MmioForm::WriteImm => "WRITE_IMM",
                MmioForm::Read => "READ",
                MmioForm::ReadZx => "READ_ZX",
                MmioForm::ReadSx => "READ_SX",
                MmioForm::Movs => "MOVS",
            },
            Self::Failed => "FAILED",
            Self::Undecodable => "UNDECODABLE",
        }
    }

    /// Bytes accessed; 0 without an MMIO form.
    #[must_use]
    pub const fn size(self) -> u8 {
        match self {
            Self::Mmio { size, .. } => size,
            Self::Failed | Self::Undecodable => 0,
        }
    }

    /// Whether the #VE handler goes on to emulate the access (`handle_mmio()` in
    /// arch/x86/coco/tdx/tdx.c). It may still refuse it for other reasons, such as an access that
    /// crosses a page.
    #[must_use]
    pub const fn survives(self) -> bool {
        match self {
            Self::Mmio { form, .. } => !matches!(form, MmioForm::Movs),
            Self::Failed | Self::Undecodable => false,
        }
    }
}

/// What the kernel would say if an instruction stood in front of its #VE handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Length of the instruction in bytes; none if it does not decode.
    pub len: Option<u8>,
    /// Whether `bytes` end within the instruction, so that zeros stood in for the rest.
    pub truncated: bool,
}

/// Judges the instruction at the start of `bytes`.
///
/// The handler always fetches 15 bytes. Where fewer are given and the instruction needs more, the
/// missing ones count as zero and the judgement is marked as truncated: the form mostly depends
/// on the opcode alone.
#[must_use]
pub fn judge(bytes: &[u8]) -> Judgement {
    let mut decoded = decode(bytes);
    let truncated = decoded == Err(Undecodable::Incomplete) && bytes.len() < MAX_LEN;
    if truncated {
        let mut fetched = [0; MAX_LEN];
        fetched[..bytes.len()].copy_from_slice(bytes);
        decoded = decode(&fetched);
    }
    Judgement { verdict: Verdict::of(&decoded), len: decoded.ok().map(|insn| insn.len), truncated }
}
