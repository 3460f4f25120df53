//! TDX numbers and names: TDCALL leaves, TDVMCALL leaves and statuses, SEAMCALL leaves and
//! statuses, operand ids and S-EPT entry states.
//!
//! Source: `arch/x86/include/asm/shared/tdx.h`, `asm/shared/tdx_errno.h`, `asm/tdx.h`,
//! `arch/x86/virt/vmx/tdx/tdx.h` and `arch/x86/kvm/vmx/tdx_arch.h` (Linux 7.3). Some numbers come
//! from Intel's specifications only (TDX module ABI, GHCI) and were not seen in a kernel: the
//! TDCALL leaves 5, 9 to 11, 18, 20 and 22 to 27, the TDVMCALL leaves 54, 65 and 0x10005 and the
//! TDVMCALL status GPA_INUSE.

/// SEAMCALL status bit 63: the call failed.
pub const ERROR: u64 = 1 << 63;

/// SEAMCALL status bit 62: trying again does not help.
pub const NON_RECOVERABLE: u64 = 1 << 62;

/// Bits 63 and 47:40 of a status that the kernel made itself, because the SEAMCALL never reached
/// the module.
pub const SW_ERROR: u64 = ERROR | 0xff << 40;

/// Bits 31:0 under [`SW_ERROR`] when SEAMCALL failed with VMfailInvalid: no module is loaded.
pub const VMFAILINVALID: u32 = 0xffff_0000;

/// The SEAMCALL leaf that enters a TD's vCPU; its status carries a VMX exit reason.
pub const VP_ENTER: u32 = 0;

/// First of the TDVMCALL leaves that are no instruction.
pub const GET_TD_VM_CALL_INFO: u32 = 0x10000;
/// TDVMCALL leaf: make a range of guest memory private or shared.
pub const MAP_GPA: u32 = 0x10001;
/// TDVMCALL leaf: have a report signed.
pub const GET_QUOTE: u32 = 0x10002;
/// TDVMCALL leaf: the guest gives up.
pub const REPORT_FATAL_ERROR: u32 = 0x10003;
/// TDVMCALL leaf: the interrupt by which the VMM tells that a quote is ready.
pub const SETUP_EVENT_NOTIFY: u32 = 0x10004;

/// TDCALL leaf (RAX), ascending by number.
pub const TDCALL_LEAVES: &[(u32, &str)] = &[
    (0, "TDG.VP.VMCALL"),
    (1, "TDG.VP.INFO"),
    (2, "TDG.MR.RTMR.EXTEND"),
    (3, "TDG.VP.VEINFO.GET"),
    (4, "TDG.MR.REPORT"),
    (5, "TDG.VP.CPUIDVE.SET"),
    (6, "TDG.MEM.PAGE.ACCEPT"),
    (7, "TDG.VM.RD"),
    (8, "TDG.VM.WR"),
    (9, "TDG.VP.RD"),
    (10, "TDG.VP.WR"),
    (11, "TDG.SYS.RD"),
    (18, "TDG.SERVTD.RD"),
    (20, "TDG.SERVTD.WR"),
    (22, "TDG.MR.VERIFYREPORT"),
    (23, "TDG.MEM.PAGE.ATTR.RD"),
    (24, "TDG.MEM.PAGE.ATTR.WR"),
    (25, "TDG.VP.ENTER"),
    (26, "TDG.VP.INVEPT"),
    (27, "TDG.VP.INVGLA"),
];

/// TDVMCALL leaf (R11 with R10 = 0), ascending by number. Those of instructions are the VMX exit
/// reasons of these.
pub const TDVMCALL_LEAVES: &[(u32, &str)] = &[
    (10, "CPUID"),
    (12, "HLT"),
    (30, "IO"),
    (31, "RDMSR"),
    (32, "WRMSR"),
    (48, "MMIO"),
    (54, "WBINVD"),
    (65, "PCONFIG"),
    (GET_TD_VM_CALL_INFO, "GetTdVmCallInfo"),
    (MAP_GPA, "MapGPA"),
    (GET_QUOTE, "GetQuote"),
    (REPORT_FATAL_ERROR, "ReportFatalError"),
    (SETUP_EVENT_NOTIFY, "SetupEventNotifyInterrupt"),
    (0x10005, "Service"),
];

/// TDVMCALL status (R10 on return), ascending by number.
pub const TDVMCALL_STATUSES: &[(u64, &str)] = &[
    (0, "SUCCESS"),
    (1, "RETRY"),
    (0x8000_0000_0000_0000, "INVALID_OPERAND"),
    (0x8000_0000_0000_0001, "GPA_INUSE"),
    (0x8000_0000_0000_0002, "ALIGN_ERROR"),
    (0x8000_0000_0000_0003, "SUBFUNC_UNSUPPORTED"),
];

/// SEAMCALL leaf (RAX bits 15:0), ascending by number.
pub const SEAMCALL_LEAVES: &[(u32, &str)] = &[
    (VP_ENTER, "TDH.VP.ENTER"),
    (1, "TDH.MNG.ADDCX"),
    (2, "TDH.MEM.PAGE.ADD"),
    (3, "TDH.MEM.SEPT.ADD"),
    (4, "TDH.VP.ADDCX"),
    (6, "TDH.MEM.PAGE.AUG"),
    (7, "TDH.MEM.RANGE.BLOCK"),
    (8, "TDH.MNG.KEY.CONFIG"),
    (9, "TDH.MNG.CREATE"),
    (10, "TDH.VP.CREATE"),
    (11, "TDH.MNG.RD"),
    (16, "TDH.MR.EXTEND"),
    (17, "TDH.MR.FINALIZE"),
    (18, "TDH.VP.FLUSH"),
    (19, "TDH.MNG.VPFLUSHDONE"),
    (20, "TDH.MNG.KEY.FREEID"),
    (21, "TDH.MNG.INIT"),
    (22, "TDH.VP.INIT"),
    (24, "TDH.PHYMEM.PAGE.RDMD"),
    (26, "TDH.VP.RD"),
    (28, "TDH.PHYMEM.PAGE.RECLAIM"),
    (29, "TDH.MEM.PAGE.REMOVE"),
    (31, "TDH.SYS.KEY.CONFIG"),
    (33, "TDH.SYS.INIT"),
    (34, "TDH.SYS.RD"),
    (35, "TDH.SYS.LP.INIT"),
    (36, "TDH.SYS.TDMR.INIT"),
    (38, "TDH.MEM.TRACK"),
    (40, "TDH.PHYMEM.CACHE.WB"),
    (41, "TDH.PHYMEM.PAGE.WBINVD"),
    (43, "TDH.VP.WR"),
    (45, "TDH.SYS.CONFIG"),
    (52, "TDH.SYS.SHUTDOWN"),
    (53, "TDH.SYS.UPDATE"),
    (69, "TDH.SYS.DISABLE"),
];

/// Bits 63:32 of a SEAMCALL status, ascending.
pub const SEAMCALL_STATUSES: &[(u32, &str)] = &[
    (0, "SUCCESS"),
    (0x0000_0815, "KEY_CONFIGURED"),
    (0x0000_0821, "NO_HKID_READY_TO_WBCACHE"),
    (0x4000_0001, "NON_RECOVERABLE_VCPU"),
    (0x4000_0002, "NON_RECOVERABLE_TD"),
    (0x6000_0005, "NON_RECOVERABLE_TD_NON_ACCESSIBLE"),
    (0x6000_0007, "NON_RECOVERABLE_TD_WRONG_APIC_MODE"),
    (0x8000_0003, "INTERRUPTED_RESUMABLE"),
    (0x8000_0200, "OPERAND_BUSY"),
    (0x8000_0201, "PREVIOUS_TLB_EPOCH_BUSY"),
    (0x8000_0202, "SYS_BUSY"),
    (0x8000_0203, "RND_NO_ENTROPY"),
    (0x8000_0702, "VCPU_NOT_ASSOCIATED"),
    (0x8000_0800, "KEY_GENERATION_FAILED"),
    (0x8000_0824, "FLUSHVP_NOT_DONE"),
    (0xc000_0100, "OPERAND_INVALID"),
    (0xc000_0300, "PAGE_METADATA_INCORRECT"),
    (0xc000_0811, "KEY_STATE_INCORRECT"),
    (0xc000_0b00, "EPT_WALK_FAILED"),
    (0xc000_0b0d, "EPT_ENTRY_STATE_INCORRECT"),
    (0xc000_0c02, "METADATA_FIELD_NOT_READABLE"),
];

/// The operand that a SEAMCALL status speaks of (bits 31:0), ascending.
pub const OPERANDS: &[(u32, &str)] =
    &[(0x01, "RCX"), (0x80, "TDR"), (0x92, "SEPT"), (0xa9, "TD_EPOCH")];

/// State of an S-EPT entry in the details of a failed SEAMCALL (bits 15:8), ascending.
pub const SEPT_STATES: &[(u32, &str)] =
    &[(0, "FREE"), (1, "BLOCKED"), (2, "PENDING"), (3, "PENDING_BLOCKED"), (4, "PRESENT")];

/// The name of TDCALL leaf `leaf`.
#[must_use]
pub fn tdcall_leaf(leaf: u32) -> Option<&'static str> {
    crate::name_in(TDCALL_LEAVES, leaf)
}

/// The name of TDVMCALL leaf `leaf`.
#[must_use]
pub fn tdvmcall_leaf(leaf: u32) -> Option<&'static str> {
    crate::name_in(TDVMCALL_LEAVES, leaf)
}

/// The name of what a TDVMCALL returned in R10.
#[must_use]
pub fn tdvmcall_status(status: u64) -> Option<&'static str> {
    crate::name_in(TDVMCALL_STATUSES, status)
}

/// The name of SEAMCALL leaf `leaf`, without its version.
#[must_use]
pub fn seamcall_leaf(leaf: u32) -> Option<&'static str> {
    crate::name_in(SEAMCALL_LEAVES, leaf)
}

/// The name of a SEAMCALL status by its bits 63:32.
#[must_use]
pub fn seamcall_status(high: u32) -> Option<&'static str> {
    crate::name_in(SEAMCALL_STATUSES, high)
}

/// The name of the operand with this id.
#[must_use]
pub fn operand(id: u32) -> Option<&'static str> {
    crate::name_in(OPERANDS, id)
}

/// The name of an S-EPT entry's state.
#[must_use]
pub fn sept_state(state: u32) -> Option<&'static str> {
    crate::name_in(SEPT_STATES, state)
}
