//! What an exit of a TD is: a TDVMCALL with its leaf, a KVM hypercall, a status of TDH.VP.ENTER, or
//! an EPT violation of a kind. KVM's own exit reason folds these together.

use crate::tdx;

mod instruction;

pub use instruction::{Access, Instruction};

/// The first index of [`crate::counters::VcpuSlot::reasons`] that is a [`TdExit`]; exits of TDs that
/// are none have the index of their VMX exit reason.
pub const REASON_TD: usize = 192;

/// The first index of [`crate::counters::VcpuSlot::reasons`] that is no reason: from here on stand the TDVMCALLs
/// that KVM answered with SUCCESS, by [`TdExit`]. They are nearly all of them, and a number is found faster
/// than a place.
pub const ANSWERED: usize = 232;

/// Words of a `vcpu_tdx` that are read at once at an exit, from the exit reason on: all that are wanted lie
/// there on Linux 7.3.
pub type TdWindow = [u64; 27];

/// The part of TDH.VP.ENTER's result that is the exit reason.
const REASON_MASK: u64 = 0xffff_ffff;

macro_rules! td_exits {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// A kind of exit that only TDs have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum TdExit {
            $($(#[$doc])* $name = $number,)*
        }

        impl TdExit {
            /// Every kind, ascending by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in reports and JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

td_exits! {
    /// CPUID.
    Cpuid = 0, "TDVMCALL CPUID";
    /// HLT.
    Hlt = 1, "TDVMCALL HLT";
    /// Port read.
    IoIn = 2, "TDVMCALL IO in";
    /// Port write.
    IoOut = 3, "TDVMCALL IO out";
    /// RDMSR.
    Rdmsr = 4, "TDVMCALL RDMSR";
    /// WRMSR.
    Wrmsr = 5, "TDVMCALL WRMSR";
    /// MMIO read.
    MmioRead = 6, "TDVMCALL MMIO read";
    /// MMIO write.
    MmioWrite = 7, "TDVMCALL MMIO write";
    /// WBINVD.
    Wbinvd = 8, "TDVMCALL WBINVD";
    /// PCONFIG.
    Pconfig = 9, "TDVMCALL PCONFIG";
    /// Which TDVMCALLs there are.
    GetInfo = 10, "TDVMCALL GetTdVmCallInfo";
    /// Conversion to shared.
    MapShared = 11, "TDVMCALL MapGPA to shared";
    /// Conversion to private.
    MapPrivate = 12, "TDVMCALL MapGPA to private";
    /// Submission of a request for a quote.
    GetQuote = 13, "TDVMCALL GetQuote";
    /// The guest gives up.
    FatalError = 14, "TDVMCALL ReportFatalError";
    /// The guest says with which interrupt it wants to be notified.
    SetupNotify = 15, "TDVMCALL SetupEventNotifyInterrupt";
    /// A service TD is asked.
    Service = 16, "TDVMCALL Service";
    /// A leaf that has no name here.
    UnknownLeaf = 17, "TDVMCALL unknown leaf";
    /// R10 is not 0: a hypercall of KVM.
    KvmHypercall = 18, "KVM hypercall";
    /// OPERAND_BUSY: the S-EPT.
    BusySept = 20, "VP.ENTER OPERAND_BUSY (SEPT)";
    /// OPERAND_BUSY: the TD's epoch, while TLBs are tracked.
    BusyEpoch = 21, "VP.ENTER OPERAND_BUSY (TD_EPOCH)";
    /// OPERAND_BUSY of another operand.
    Busy = 22, "VP.ENTER OPERAND_BUSY";
    /// PREVIOUS_TLB_EPOCH_BUSY.
    PreviousEpoch = 23, "VP.ENTER PREVIOUS_TLB_EPOCH_BUSY";
    /// NON_RECOVERABLE_VCPU.
    DeadVcpu = 24, "VP.ENTER NON_RECOVERABLE_VCPU";
    /// NON_RECOVERABLE_TD.
    DeadTd = 25, "VP.ENTER NON_RECOVERABLE_TD";
    /// NON_RECOVERABLE_TD_NON_ACCESSIBLE.
    Inaccessible = 26, "VP.ENTER NON_RECOVERABLE_TD_NON_ACCESSIBLE";
    /// NON_RECOVERABLE_TD_WRONG_APIC_MODE.
    WrongApicMode = 27, "VP.ENTER NON_RECOVERABLE_TD_WRONG_APIC_MODE";
    /// INTERRUPTED_RESUMABLE.
    Interrupted = 28, "VP.ENTER INTERRUPTED_RESUMABLE";
    /// VCPU_NOT_ASSOCIATED.
    NotAssociated = 29, "VP.ENTER VCPU_NOT_ASSOCIATED";
    /// The SEAMCALL instruction itself failed.
    SoftwareError = 30, "VP.ENTER software error";
    /// A status that has no kind here.
    OtherStatus = 31, "VP.ENTER other status";
    /// EPT violation on private memory.
    EptPrivate = 32, "EPT_VIOLATION private";
    /// EPT violation on shared memory.
    EptShared = 33, "EPT_VIOLATION shared";
    /// EPT violation on private memory that the guest has not accepted.
    EptPending = 34, "EPT_VIOLATION not accepted";
}

/// A register of a TD's exit, or what else says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// RAX: what TDH.VP.ENTER returned.
    Ret,
    /// R10: 0 for a TDVMCALL of the GHCI.
    R10,
    /// R11: the leaf.
    R11,
    /// R12: the first argument.
    R12,
    /// R13: the second argument.
    R13,
    /// R14: the third argument.
    R14,
    /// Extended exit qualification.
    ExtQualification,
    /// The guest physical address of an EPT violation, with the shared bit.
    Gpa,
    /// R9, the interruption information: bits 7:0 are the vector.
    IntrInfo,
}

/// An exit of a TD. A register is read when it is asked for: most kinds need few.
#[derive(Clone, Copy)]
pub struct TdRegisters<F> {
    /// Reads one.
    pub read: F,
    /// The bit that makes a guest physical address a shared one, 0 if it is not known.
    pub shared_bit: u64,
}

/// Extended exit qualification, bits 3:0: the page is pending.
const PENDING: u64 = 6;

impl<F: Fn(Register) -> u64> TdRegisters<F> {
    /// One register.
    #[inline(always)]
    pub fn get(&self, register: Register) -> u64 {
        (self.read)(register)
    }

    /// The VMX exit reason that TDH.VP.ENTER returned, `None` if it returned another status.
    #[must_use]
    #[inline(always)]
    pub fn exit_reason(&self) -> Option<u32> {
        let ret = self.get(Register::Ret);
        (ret >> 32 == 0).then_some((ret & REASON_MASK) as u32 & 0xffff)
    }

    /// What kind of exit it is; `None` for one that other VMs have as well.
    #[must_use]
    #[inline(always)]
    pub fn kind(&self) -> Option<TdExit> {
        match self.exit_reason() {
            None => Some(self.status()),
            Some(TDCALL) if self.get(Register::R10) != 0 => Some(TdExit::KvmHypercall),
            Some(TDCALL) => Some(self.leaf()),
            Some(EPT_VIOLATION) => Some(self.violation()),
            Some(_) => None,
        }
    }

    #[inline(always)]
    fn leaf(&self) -> TdExit {
        match self.get(Register::R11) {
            MAP_GPA if self.get(Register::R12) & self.shared_bit != 0 => TdExit::MapShared,
            leaf => call(leaf, self.get(Register::R13) & WRITES != 0),
        }
    }

    #[inline(always)]
    fn status(&self) -> TdExit {
        let ret = self.get(Register::Ret);
        let operand = (ret & REASON_MASK) as u32;
        if ret & tdx::SW_ERROR == tdx::SW_ERROR {
            return TdExit::SoftwareError;
        }
        match (ret >> 32) as u32 {
            0x8000_0200 => match operand {
                0x92 => TdExit::BusySept,
                0xa9 => TdExit::BusyEpoch,
                _ => TdExit::Busy,
            },
            0x8000_0201 => TdExit::PreviousEpoch,
            0x4000_0001 => TdExit::DeadVcpu,
            0x4000_0002 => TdExit::DeadTd,
            0x6000_0005 => TdExit::Inaccessible,
            0x6000_0007 => TdExit::WrongApicMode,
            0x8000_0003 => TdExit::Interrupted,
            0x8000_0702 => TdExit::NotAssociated,
            _ => TdExit::OtherStatus,
        }
    }

    #[inline(always)]
    fn violation(&self) -> TdExit {
        if self.get(Register::Gpa) & self.shared_bit != 0 {
            TdExit::EptShared
        } else if self.get(Register::ExtQualification) & 0xf == PENDING {
            TdExit::EptPending
        } else {
            TdExit::EptPrivate
        }
    }
}

/// What a TDVMCALL leaf is that `writes` or does not, if that is a difference. MapGPA is taken for one to
/// private.
#[inline(always)]
const fn call(leaf: u64, writes: bool) -> TdExit {
    match leaf {
        10 => TdExit::Cpuid,
        12 => TdExit::Hlt,
        30 if writes => TdExit::IoOut,
        30 => TdExit::IoIn,
        31 => TdExit::Rdmsr,
        32 => TdExit::Wrmsr,
        48 if writes => TdExit::MmioWrite,
        48 => TdExit::MmioRead,
        54 => TdExit::Wbinvd,
        65 => TdExit::Pconfig,
        GET_INFO => TdExit::GetInfo,
        MAP_GPA => TdExit::MapPrivate,
        GET_QUOTE => TdExit::GetQuote,
        FATAL_ERROR => TdExit::FatalError,
        SETUP_NOTIFY => TdExit::SetupNotify,
        0x10005 => TdExit::Service,
        _ => TdExit::UnknownLeaf,
    }
}

/// R13 of a call for an access: 1 writes, 0 reads. KVM refuses all else (`tdx.c:tdx_emulate_io`,
/// `tdx_emulate_mmio`).
const WRITES: u64 = 1;

/// VMX exit reason: a TDVMCALL.
pub const TDCALL: u32 = 77;
const EPT_VIOLATION: u32 = 48;
const GET_INFO: u64 = tdx::GET_TD_VM_CALL_INFO as u64;
const MAP_GPA: u64 = tdx::MAP_GPA as u64;
const GET_QUOTE: u64 = tdx::GET_QUOTE as u64;
const FATAL_ERROR: u64 = tdx::REPORT_FATAL_ERROR as u64;
const SETUP_NOTIFY: u64 = tdx::SETUP_EVENT_NOTIFY as u64;

impl TdExit {
    /// Its index of [`crate::counters::VcpuSlot::reasons`].
    #[must_use]
    pub const fn reason_index(self) -> usize {
        REASON_TD + self as usize
    }

    /// The kind with this index of [`crate::counters::VcpuSlot::reasons`].
    #[must_use]
    pub fn from_reason_index(index: usize) -> Option<Self> {
        let number = index.checked_sub(REASON_TD)?;
        Self::ALL.iter().copied().find(|exit| *exit as usize == number)
    }

    /// Whether it is a TDVMCALL of the GHCI, which KVM answers with a status.
    #[must_use]
    #[inline(always)]
    pub const fn is_tdvmcall(self) -> bool {
        (self as u8) < Self::KvmHypercall as u8
    }
}

const _: () = assert!(TdExit::EptPending.reason_index() < ANSWERED);
const _: () = assert!(ANSWERED + TdExit::KvmHypercall as usize <= crate::counters::REASONS);

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: u64 = 1 << 51;

    /// The kind of an exit with these registers; all others are 0.
    fn kind(registers: &[(Register, u64)]) -> Option<TdExit> {
        let read = |wanted| {
            registers
                .iter()
                .find(|(register, _)| *register == wanted)
                .map_or(0, |(_, value)| *value)
        };
        TdRegisters { read, shared_bit: SHARED }.kind()
    }

    fn call(r11: u64, r12: u64, r13: u64) -> [(Register, u64); 4] {
        [(Register::Ret, 77), (Register::R11, r11), (Register::R12, r12), (Register::R13, r13)]
    }

    #[test]
    fn every_leaf_is_a_kind_of_its_own() {
        for (leaf, name) in tdx::TDVMCALL_LEAVES {
            let kind = kind(&call(u64::from(*leaf), 0, 0)).unwrap();
            assert!(kind.is_tdvmcall() && kind.name().contains(name), "{leaf:#x} is {kind:?}");
        }
        assert_eq!(kind(&call(0x10009, 0, 0)), Some(TdExit::UnknownLeaf));
    }

    #[test]
    fn directions_are_told_apart() {
        assert_eq!(kind(&call(48, 4, 0)), Some(TdExit::MmioRead));
        assert_eq!(kind(&call(48, 4, 1)), Some(TdExit::MmioWrite));
        assert_eq!(kind(&call(30, 1, 1)), Some(TdExit::IoOut));
        assert_eq!(kind(&call(0x10001, SHARED | 0x1000, 0)), Some(TdExit::MapShared));
        assert_eq!(kind(&call(0x10001, 0x1000, 0)), Some(TdExit::MapPrivate));
    }

    #[test]
    fn a_hypercall_of_kvm_is_no_tdvmcall_leaf() {
        let registers = [(Register::Ret, 77), (Register::R10, 12), (Register::R11, 0x10001)];
        assert_eq!(kind(&registers), Some(TdExit::KvmHypercall));
    }

    #[test]
    fn a_status_outranks_the_registers() {
        for (status, expected) in [
            (0x8000_0200_0000_0092, TdExit::BusySept),
            (0x8000_0200_0000_00a9, TdExit::BusyEpoch),
            (0x8000_0200_0000_0001, TdExit::Busy),
            (0x4000_0002_0000_0000, TdExit::DeadTd),
            (0x6000_0005_0000_0000, TdExit::Inaccessible),
            (tdx::SW_ERROR | 0xd, TdExit::SoftwareError),
            (0xc000_0100_0000_0001, TdExit::OtherStatus),
        ] {
            let mut registers = call(48, 4, 0);
            registers[0].1 = status;
            assert_eq!(kind(&registers), Some(expected));
        }
    }

    #[test]
    fn violations_are_split_by_the_shared_bit_and_by_acceptance() {
        let violation = |gpa, qualification| {
            kind(&[
                (Register::Ret, 48),
                (Register::Gpa, gpa),
                (Register::ExtQualification, qualification),
            ])
        };
        assert_eq!(violation(SHARED | 0x1000, 6), Some(TdExit::EptShared));
        assert_eq!(violation(0x1000, 6), Some(TdExit::EptPending));
        assert_eq!(violation(0x1000, 0), Some(TdExit::EptPrivate));
        assert_eq!(kind(&[(Register::Ret, 1)]), None);
    }

    #[test]
    fn an_index_is_that_of_its_kind() {
        for exit in TdExit::ALL {
            assert_eq!(TdExit::from_reason_index(exit.reason_index()), Some(*exit));
        }
        assert_eq!(TdExit::from_reason_index(77), None);
        assert_eq!(TdExit::from_reason_index(REASON_TD + 19), None);
    }
}
