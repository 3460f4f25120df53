//! A TD guest's #VE: what its kernel does with the information about it.

use serde::Serialize;

use super::{
    bits::Hex,
    exit::{self, VmxExit},
    gpa::{self, Gpa, SharedBit, Sharing},
    qualification::{self, Ept, Io},
};

/// The information about a #VE (`struct ve_info`, `arch/x86/include/asm/tdx.h`), as far as it is
/// known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Info {
    /// The VMX exit reason.
    pub reason: u32,
    /// The exit qualification.
    pub qualification: u64,
    /// Guest linear address of an EPT violation.
    pub gla: Option<u64>,
    /// Guest physical address of an EPT violation, shared bit included.
    pub gpa: Option<u64>,
    /// R10 of TDG.VP.VEINFO.GET: the instruction's length in bytes in bits 31:0, the VMX
    /// instruction information in bits 63:32.
    pub instruction: Option<u64>,
    /// Whether the instruction ran in user mode.
    pub user: bool,
}

/// How a #VE ends for who caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// The kernel emulates the instruction.
    Emulated,
    /// Something that is not in the information decides.
    Depends,
    /// SIGSEGV, or in kernel mode the exception table or an oops.
    Fault,
    /// The kernel panics.
    Panic,
}

impl Fate {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Depends => "depends",
            Self::Fault => "fault",
            Self::Panic => "panic",
        }
    }
}

/// The TDVMCALL that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Next {
    /// Its leaf (R11).
    pub leaf: u32,
    /// The leaf's name.
    pub name: &'static str,
}

/// The length of the instruction and what VMX says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Instruction {
    /// Bytes; undefined for EPT violations.
    pub length: u32,
    /// VMX instruction information.
    pub info: Hex,
}

/// A #VE taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ve {
    /// The exit reason: `value`, `basic`, `name` and so on.
    pub reason: VmxExit,
    /// The exit qualification as given.
    pub qualification: Hex,
    /// The qualification of a port access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io: Option<Io>,
    /// The qualification of an EPT violation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ept: Option<Ept>,
    /// Guest linear address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gla: Option<Hex>,
    /// Guest physical address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpa: Option<Gpa>,
    /// The instruction's length and information.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instruction: Option<Instruction>,
    /// Whether it came from user mode.
    pub user: bool,
    /// How it ends.
    pub fate: Fate,
    /// What the guest's kernel does, in words.
    pub kernel: &'static str,
    /// The TDVMCALL that follows; under [`Fate::Depends`] only if it comes to that.
    pub tdvmcall: Option<Next>,
}

/// Takes the information about a #VE apart.
#[must_use]
pub fn decode(info: &Info, shared_bit: Option<SharedBit>) -> Ve {
    let mut reason = exit::vmx(info.reason);
    // What KVM means by the number does not matter in the guest.
    reason.td = None;
    let io = (info.reason == 30).then(|| qualification::io(info.qualification));
    let gpa = info.gpa.map(|value| gpa::gpa(value, shared_bit));
    let sharing = gpa.map_or(Sharing::Unknown, |gpa| gpa.sharing);
    let string = io.as_ref().is_some_and(|io| io.string);
    let (fate, kernel, tdvmcall) = if info.user {
        in_user_mode(info.reason)
    } else {
        match info.reason {
            30 if string => (Fate::Fault, "string I/O is not emulated: the kernel fails it", None),
            48 => of_ept_violation(sharing, info.gla),
            reason => in_kernel_mode(reason),
        }
    };
    Ve {
        reason,
        qualification: Hex(info.qualification),
        io,
        ept: (info.reason == 48).then(|| qualification::ept(info.qualification)),
        gla: info.gla.map(Hex),
        gpa,
        instruction: info
            .instruction
            .map(|word| Instruction { length: word as u32, info: Hex(word >> 32) }),
        user: info.user,
        fate,
        kernel,
        tdvmcall,
    }
}

type Verdict = (Fate, &'static str, Option<Next>);

const fn next(leaf: u32, name: &'static str) -> Option<Next> {
    Some(Next { leaf, name })
}

const CPUID: Verdict = (
    Fate::Depends,
    "leaves 0x40000000 to 0x4fffffff (EAX) are asked of the host, others are answered with zeros",
    next(10, "CPUID"),
);

/// Source: `virt_exception_user` (`arch/x86/coco/tdx/tdx.c`, Linux 6.12 and 7.3).
const fn in_user_mode(reason: u32) -> Verdict {
    match reason {
        10 => CPUID,
        _ => (Fate::Fault, "only CPUID is emulated for user mode: SIGSEGV", None),
    }
}

/// Source: `virt_exception_kernel` (`arch/x86/coco/tdx/tdx.c`, Linux 6.12 and 7.3), all but what
/// hangs on qualification and addresses.
const fn in_kernel_mode(reason: u32) -> Verdict {
    match reason {
        10 => CPUID,
        12 => (
            Fate::Emulated,
            "the host is asked to wait; Linux 7.3 fails it if interrupts are on",
            next(12, "HLT"),
        ),
        30 => (Fate::Emulated, "the host is asked for the port access", next(30, "IO")),
        31 => (
            Fate::Emulated,
            "the host is asked; if it refuses, exception table or oops",
            next(31, "RDMSR"),
        ),
        32 => (
            Fate::Emulated,
            "the host is asked; if it refuses, exception table or oops",
            next(32, "WRMSR"),
        ),
        _ => (Fate::Fault, "the kernel logs \"Unexpected #VE\": exception table or oops", None),
    }
}

/// Source: `virt_exception_kernel`, `handle_mmio` (`arch/x86/coco/tdx/tdx.c`, Linux 6.12 and 7.3).
fn of_ept_violation(sharing: Sharing, gla: Option<u64>) -> Verdict {
    let mmio = next(48, "MMIO");
    match (sharing, gla) {
        (Sharing::Private, _) => (
            Fate::Panic,
            "\"Unexpected EPT-violation on private memory\"; Linux 6.1 does not check and tries \
             MMIO",
            None,
        ),
        // Linear addresses of the kernel have bit 63 set.
        (_, Some(gla)) if gla >> 63 == 0 => {
            (Fate::Fault, "MMIO at a user address is not emulated: the kernel fails it", None)
        }
        (Sharing::Shared, _) => (
            Fate::Depends,
            "MMIO: the instruction decides, see tdtrace decode insn; an access across two pages \
             fails",
            mmio,
        ),
        (Sharing::Unknown, _) => (
            Fate::Depends,
            "at a shared address MMIO, as the instruction decides; at a private one the kernel \
             panics",
            mmio,
        ),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fate(info: Info) -> (Fate, Option<u32>) {
        let ve = decode(&info, None);
        (ve.fate, ve.tdvmcall.map(|next| next.leaf))
    }

    #[test]
    fn the_kernels_own_instructions_are_emulated_by_their_tdvmcall() {
        for reason in [12, 30, 31, 32] {
            let info = Info { reason, ..Info::default() };
            assert_eq!(fate(info), (Fate::Emulated, Some(reason)));
        }
        let cpuid = Info { reason: 10, ..Info::default() };
        assert_eq!(fate(cpuid), (Fate::Depends, Some(10)));
    }

    #[test]
    fn user_mode_gets_cpuid_and_nothing_else() {
        for reason in [12, 18, 30, 31, 32, 48, 54] {
            let info = Info { reason, user: true, ..Info::default() };
            assert_eq!(fate(info), (Fate::Fault, None));
        }
        let cpuid = Info { reason: 10, user: true, ..Info::default() };
        assert_eq!(fate(cpuid), (Fate::Depends, Some(10)));
    }

    #[test]
    fn string_io_and_unexpected_reasons_fail() {
        let string = Info { reason: 30, qualification: 0x3f8_0010, ..Info::default() };
        assert_eq!(fate(string), (Fate::Fault, None));
        assert!(decode(&string, None).io.is_some_and(|io| io.string && io.port == 0x3f8));
        for reason in [13, 18, 36, 39, 54, 1 << 31 | 12] {
            assert_eq!(fate(Info { reason, ..Info::default() }), (Fate::Fault, None));
        }
    }

    #[test]
    fn an_ept_violation_hangs_on_the_address() {
        let kernel = Some(0xffff_c900_0000_0000);
        let at = |gpa, gla| Info { reason: 48, qualification: 2, gpa, gla, ..Info::default() };
        assert_eq!(fate(at(Some(0x1000), kernel)), (Fate::Panic, None));
        assert_eq!(fate(at(Some(1 << 51), kernel)), (Fate::Depends, Some(48)));
        assert_eq!(fate(at(Some(1 << 51), Some(0x7fff_0000))), (Fate::Fault, None));
        assert_eq!(fate(at(None, None)), (Fate::Depends, Some(48)));
        let ve = decode(&at(Some(1 << 47), kernel), Some(SharedBit::Bit47));
        assert!(ve.kernel.contains("decode insn"));
        assert_eq!(ve.ept.unwrap().flags, ["write"]);
    }

    #[test]
    fn the_instruction_word_is_split() {
        let info = Info { reason: 12, instruction: Some(7 << 32 | 1), ..Info::default() };
        let instruction = decode(&info, None).instruction.unwrap();
        assert_eq!((instruction.length, instruction.info), (1, Hex(7)));
    }

    proptest! {
        #[test]
        fn everything_given_is_still_there(
            reason in prop_oneof![0..90_u32, any::<u32>()],
            qualification: u64,
            gla: Option<u64>,
            gpa: Option<u64>,
            instruction: Option<u64>,
            user: bool,
        ) {
            let info = Info { reason, qualification, gla, gpa, instruction, user };
            let ve = decode(&info, None);
            prop_assert_eq!(ve.reason.value, Hex(reason.into()));
            prop_assert_eq!(ve.qualification, Hex(qualification));
            prop_assert_eq!(ve.gla, gla.map(Hex));
            prop_assert_eq!(ve.gpa.map(|gpa| gpa.value), gpa.map(Hex));
            let word = ve.instruction.map(|insn| u64::from(insn.length) | insn.info.0 << 32);
            prop_assert_eq!(word, instruction);
            prop_assert!(ve.tdvmcall.is_none() || matches!(ve.fate, Fate::Emulated | Fate::Depends));
        }
    }
}
