//! `KVM_EXIT_*`, KVM hypercalls and VM types: number and name.
//!
//! Source: `include/uapi/linux/kvm.h`, `include/uapi/linux/kvm_para.h`,
//! `arch/x86/include/uapi/asm/kvm.h` (Linux 7.3).

/// `KVM_EXIT_HLT`: the VMM is to halt the vCPU.
pub const EXIT_HLT: u32 = 5;

/// `KVM_X86_TDX_VM`: the VM is a TD.
pub const TDX_VM: u32 = 5;

/// Why `KVM_RUN` came back to the VMM (`kvm_run.exit_reason`), ascending by number.
pub const USERSPACE_EXITS: &[(u32, &str)] = &[
    (0, "UNKNOWN"),
    (1, "EXCEPTION"),
    (2, "IO"),
    (3, "HYPERCALL"),
    (4, "DEBUG"),
    (5, "HLT"),
    (6, "MMIO"),
    (7, "IRQ_WINDOW_OPEN"),
    (8, "SHUTDOWN"),
    (9, "FAIL_ENTRY"),
    (10, "INTR"),
    (11, "SET_TPR"),
    (12, "TPR_ACCESS"),
    (13, "S390_SIEIC"),
    (14, "S390_RESET"),
    (15, "DCR"),
    (16, "NMI"),
    (17, "INTERNAL_ERROR"),
    (18, "OSI"),
    (19, "PAPR_HCALL"),
    (20, "S390_UCONTROL"),
    (21, "WATCHDOG"),
    (22, "S390_TSCH"),
    (23, "EPR"),
    (24, "SYSTEM_EVENT"),
    (25, "S390_STSI"),
    (26, "IOAPIC_EOI"),
    (27, "HYPERV"),
    (28, "ARM_NISV"),
    (29, "X86_RDMSR"),
    (30, "X86_WRMSR"),
    (31, "DIRTY_RING_FULL"),
    (32, "AP_RESET_HOLD"),
    (33, "X86_BUS_LOCK"),
    (34, "XEN"),
    (35, "RISCV_SBI"),
    (36, "RISCV_CSR"),
    (37, "NOTIFY"),
    (38, "LOONGARCH_IOCSR"),
    (39, "MEMORY_FAULT"),
    (40, "TDX"),
    (41, "ARM_SEA"),
    (42, "ARM_LDST64B"),
    (43, "SNP_REQ_CERTS"),
];

/// KVM hypercall numbers (`KVM_HC_*`).
pub const HYPERCALLS: &[(u32, &str)] = &[
    (1, "VAPIC_POLL_IRQ"),
    (5, "KICK_CPU"),
    (9, "CLOCK_PAIRING"),
    (10, "SEND_IPI"),
    (11, "SCHED_YIELD"),
    (12, "MAP_GPA_RANGE"),
];

/// `kvm->arch.vm_type` (`KVM_X86_*_VM`).
pub const VM_TYPES: &[(u32, &str)] =
    &[(0, "plain"), (1, "SW-protected"), (2, "SEV"), (3, "SEV-ES"), (4, "SEV-SNP"), (5, "TD")];

/// The name of `KVM_EXIT_*` number `reason`.
#[must_use]
pub fn userspace_exit(reason: u32) -> Option<&'static str> {
    crate::name_in(USERSPACE_EXITS, reason)
}

/// The name of KVM hypercall `number`.
#[must_use]
pub fn hypercall(number: u32) -> Option<&'static str> {
    crate::name_in(HYPERCALLS, number)
}

/// The name of a VM type.
#[must_use]
pub fn vm_type(number: u32) -> Option<&'static str> {
    crate::name_in(VM_TYPES, number)
}
