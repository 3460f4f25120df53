//! What a TD's kernel makes of the access: its decoder's answer, quirks included, and the other
//! rules of its #VE handler (`handle_mmio`, `handle_io`, `virt_exception_user` in
//! `arch/x86/coco/tdx/tdx.c`; `ve_raise_fault` in `arch/x86/kernel/traps.c`). Pure.

use serde::Serialize;

use super::{Access, Frame, Target, form::Form};
use crate::decode::{
    gpa::Sharing,
    insn::{self, MmioForm, Verdict as Decoded},
};

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The kernel emulates the instruction.
    Emulated,
    /// The kernel fails it, and the exception table has a way out.
    Recovered,
    /// The kernel fails it: an oops, or the way out of the exception table if there is one.
    Fatal,
    /// The kernel panics.
    Panic,
    /// The process gets SIGSEGV.
    Signal,
    /// What is known does not tell.
    Unknown,
}

impl Fate {
    /// A word or two for tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated => "yes",
            Self::Recovered => "recovered",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Signal => "SIGSEGV",
            Self::Unknown => "unknown",
        }
    }
}

/// Whether the access survives, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Survival {
    /// How it ends.
    pub fate: Fate,
    /// Why, in a sentence.
    pub reason: String,
}

/// Bytes of a page.
const PAGE: u64 = 4096;

/// What becomes of `access` in a TD.
pub(super) fn of(access: &Access<'_>, form: Form) -> Survival {
    let (fate, reason) = match &access.target {
        _ if access.user => {
            (Fate::Signal, "only CPUID is emulated for user mode; the process gets SIGSEGV".into())
        }
        Target::Port(io) => of_port(form, io.as_ref().is_some_and(|io| io.string)),
        Target::Memory { sharing: Sharing::Private, .. } => (
            Fate::Panic,
            "the address is private: \"Unexpected EPT-violation on private memory\"; Linux 6.1 does \
             not check and tries MMIO"
                .into(),
        ),
        Target::Memory { gla, .. } => of_memory(access.bytes, *gla),
    };
    match fate {
        Fate::Fatal => failed(access, &reason),
        _ => Survival { fate, reason },
    }
}

fn of_port(form: Form, string: bool) -> (Fate, String) {
    match form {
        _ if string => (Fate::Fatal, "string I/O is not emulated (handle_io)".into()),
        Form::StringPort => (Fate::Fatal, "string I/O is not emulated (handle_io)".into()),
        _ => (Fate::Emulated, "the host is asked for the port access (handle_io)".into()),
    }
}

/// The checks of `handle_mmio()` in its order.
fn of_memory(bytes: &[u8], gla: Option<u64>) -> (Fate, String) {
    if bytes.is_empty() {
        return (Fate::Unknown, "it depends on the instruction, whose bytes are not known".into());
    }
    let judgement = insn::judge(bytes);
    let size = u64::from(judgement.verdict.size());
    match judgement.verdict {
        Decoded::Undecodable => {
            let reason = "the kernel's decoder knows no such instruction (insn_decode)";
            return (Fate::Fatal, reason.into());
        }
        Decoded::Failed => {
            let name = Form::of(bytes).name();
            let reason = format!("{name} is no MMIO form to the kernel (insn_decode_mmio)");
            return (Fate::Fatal, reason);
        }
        Decoded::Mmio { .. } => {}
    }
    if let Some(gla) = gla {
        if gla >> 63 == 0 {
            let reason = format!("{gla:#x} is a user address, which is not emulated (handle_mmio)");
            return (Fate::Fatal, reason);
        }
        if gla % PAGE + size > PAGE {
            let reason = format!("{size} bytes at {gla:#x} cross a page, which is not emulated");
            return (Fate::Fatal, reason + " (handle_mmio)");
        }
    }
    match judgement.verdict {
        Decoded::Mmio { form: MmioForm::Movs, .. } => {
            (Fate::Fatal, "MOVS is recognised and refused (handle_mmio)".into())
        }
        decoded => {
            let page = if gla.is_none() && size > 1 { ", unless it crosses a page" } else { "" };
            let name = decoded.name();
            let bytes = if size == 1 { "1 byte".to_owned() } else { format!("{size} bytes") };
            (Fate::Emulated, format!("the kernel emulates it as {name} of {bytes}{page}"))
        }
    }
}

/// Where a failed access goes: the exception table, then `die_addr()`.
fn failed(access: &Access<'_>, reason: &str) -> Survival {
    let zeropad = access.chain.and_then(|chain| chain.iter().find(|frame| is_zeropad(frame)));
    let (fate, way) = match (zeropad, access.in_exception_table) {
        (Some(_), _) => (
            Fate::Recovered,
            "load_unaligned_zeropad() may run over into the next page and recovers by its \
             exception table entry",
        ),
        (None, Some(true)) => (Fate::Recovered, "the exception table has a way out for it"),
        (None, Some(false)) => (Fate::Fatal, "the exception table has no entry for it: an oops"),
        (None, None) => (Fate::Fatal, "an oops, unless the exception table has a way out for it"),
    };
    Survival { fate, reason: format!("{reason}; {way}") }
}

/// `include/asm/word-at-a-time.h`.
fn is_zeropad(frame: &Frame) -> bool {
    frame.function == "load_unaligned_zeropad"
}
