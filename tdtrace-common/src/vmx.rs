//! VMX basic exit reasons: number and name.
//!
//! Source: `arch/x86/include/uapi/asm/vmx.h` (Linux 7.3); numbers that the header lacks (5, 11, 17,
//! 66, 69, 70, 72, 73, 78, 79) from the Intel SDM, volume 3, appendix C.

/// Bits 15:0 of an exit reason: the basic reason (`arch/x86/kvm/vmx/vmcs.h`, Intel SDM 26.9.1).
pub const BASIC_MASK: u32 = 0xffff;

/// What KVM 7.3 puts into the exit reason of a TD whose VP.ENTER never ran the vCPU
/// (`EXIT_REASON_UNDEFINED`, `arch/x86/include/asm/vmx.h`).
pub const UNDEFINED: u32 = 0xdead;

/// HLT: the guest has nothing to do.
pub const HLT: u32 = 12;

/// Number and name, ascending by number.
pub const EXIT_REASONS: &[(u32, &str)] = &[
    (0, "EXCEPTION_NMI"),
    (1, "EXTERNAL_INTERRUPT"),
    (2, "TRIPLE_FAULT"),
    (3, "INIT_SIGNAL"),
    (4, "SIPI_SIGNAL"),
    (5, "IO_SMI"),
    (6, "OTHER_SMI"),
    (7, "INTERRUPT_WINDOW"),
    (8, "NMI_WINDOW"),
    (9, "TASK_SWITCH"),
    (10, "CPUID"),
    (11, "GETSEC"),
    (12, "HLT"),
    (13, "INVD"),
    (14, "INVLPG"),
    (15, "RDPMC"),
    (16, "RDTSC"),
    (17, "RSM"),
    (18, "VMCALL"),
    (19, "VMCLEAR"),
    (20, "VMLAUNCH"),
    (21, "VMPTRLD"),
    (22, "VMPTRST"),
    (23, "VMREAD"),
    (24, "VMRESUME"),
    (25, "VMWRITE"),
    (26, "VMOFF"),
    (27, "VMON"),
    (28, "CR_ACCESS"),
    (29, "DR_ACCESS"),
    (30, "IO_INSTRUCTION"),
    (31, "MSR_READ"),
    (32, "MSR_WRITE"),
    (33, "INVALID_STATE"),
    (34, "MSR_LOAD_FAIL"),
    (36, "MWAIT"),
    (37, "MONITOR_TRAP_FLAG"),
    (39, "MONITOR"),
    (40, "PAUSE"),
    (41, "MCE_DURING_VMENTRY"),
    (43, "TPR_BELOW_THRESHOLD"),
    (44, "APIC_ACCESS"),
    (45, "EOI_INDUCED"),
    (46, "GDTR_IDTR"),
    (47, "LDTR_TR"),
    (48, "EPT_VIOLATION"),
    (49, "EPT_MISCONFIG"),
    (50, "INVEPT"),
    (51, "RDTSCP"),
    (52, "PREEMPTION_TIMER"),
    (53, "INVVPID"),
    (54, "WBINVD"),
    (55, "XSETBV"),
    (56, "APIC_WRITE"),
    (57, "RDRAND"),
    (58, "INVPCID"),
    (59, "VMFUNC"),
    (60, "ENCLS"),
    (61, "RDSEED"),
    (62, "PML_FULL"),
    (63, "XSAVES"),
    (64, "XRSTORS"),
    (66, "SPP"),
    (67, "UMWAIT"),
    (68, "TPAUSE"),
    (69, "LOADIWKEY"),
    (70, "ENCLV"),
    (72, "ENQCMD_PASID"),
    (73, "ENQCMDS_PASID"),
    (74, "BUS_LOCK"),
    (75, "NOTIFY"),
    (76, "SEAMCALL"),
    (77, "TDCALL"),
    (78, "RDMSRLIST"),
    (79, "WRMSRLIST"),
    (84, "MSR_READ_IMM"),
    (85, "MSR_WRITE_IMM"),
];

/// The name of basic exit reason `basic`, if it has one.
#[must_use]
pub fn exit_reason(basic: u32) -> Option<&'static str> {
    if basic == UNDEFINED {
        return Some("UNDEFINED");
    }
    crate::name_in(EXIT_REASONS, basic)
}
