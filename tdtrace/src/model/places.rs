//! Names of well-known places: ports, MMIO ranges, MSRs, CPUID leaves, hypercalls.
//!
//! Sources: the PC's fixed I/O map (Intel ICH9 datasheet, chapter 9), QEMU's q35 and fw_cfg
//! (`docs/specs`), Intel SDM volume 3A table 11-6 (x2APIC) and volume 4 (MSRs), volume 2A (CPUID),
//! AMD APM volume 2 appendix A, `arch/x86/include/uapi/asm/kvm_para.h`, the Hyper-V TLFS.

use std::borrow::Cow;

use tdtrace_common::{
    counters::Class,
    kvm,
    td::{REASON_TD, TdExit},
    tdx,
};

use super::{
    sample::Isa,
    snapshot::{reason_name, userspace_name},
};
use crate::decode::{pferr, qualification};

/// A range of addresses, both ends included, with its name.
type Range = (u64, u64, &'static str);

const PORTS: &[Range] = &[
    (0x00, 0x0f, "DMA"),
    (0x20, 0x21, "PIC"),
    (0x40, 0x43, "PIT"),
    (0x60, 0x60, "keyboard"),
    (0x61, 0x61, "NMI status, speaker"),
    (0x64, 0x64, "keyboard"),
    (0x70, 0x71, "RTC, CMOS"),
    (0x80, 0x80, "POST code"),
    (0x92, 0x92, "fast A20, reset"),
    (0xa0, 0xa1, "PIC 2"),
    (0xb2, 0xb3, "APM, SMI"),
    (0xf4, 0xf4, "debug exit"),
    (0x170, 0x177, "IDE 2"),
    (0x1f0, 0x1f7, "IDE"),
    (0x2e8, 0x2ef, "COM4"),
    (0x2f8, 0x2ff, "COM2"),
    (0x378, 0x37f, "LPT"),
    (0x3b0, 0x3df, "VGA"),
    (0x3e8, 0x3ef, "COM3"),
    (0x3f8, 0x3ff, "COM1"),
    (0x402, 0x402, "debug console"),
    (0x4d0, 0x4d1, "PIC trigger mode"),
    (0x510, 0x511, "fw_cfg"),
    (0x514, 0x51b, "fw_cfg DMA"),
    (0x600, 0x67f, "ACPI PM (q35)"),
    (0xcf8, 0xcf8, "PCI config address"),
    (0xcf9, 0xcf9, "reset"),
    (0xcfc, 0xcff, "PCI config data"),
    (0x5658, 0x5659, "VMware backdoor"),
];

const MMIO: &[Range] = &[
    (0xb_8000, 0xb_ffff, "VGA text"),
    (0xfec0_0000, 0xfec0_0fff, "I/O APIC"),
    (0xfed0_0000, 0xfed0_03ff, "HPET"),
    (0xfed4_0000, 0xfed4_4fff, "TPM"),
    (0xfee0_0020, 0xfee0_0023, "APIC ID"),
    (0xfee0_0080, 0xfee0_0083, "APIC TPR"),
    (0xfee0_00b0, 0xfee0_00b3, "APIC EOI"),
    (0xfee0_0300, 0xfee0_0313, "APIC ICR"),
    (0xfee0_0320, 0xfee0_0323, "APIC LVT timer"),
    (0xfee0_0380, 0xfee0_0383, "APIC timer count"),
    (0xfee0_0000, 0xfee0_0fff, "APIC"),
];

/// What a memory fault was on.
const MEMORY: &[Range] = &[(0, 0, "shared memory"), (1, 1, "private memory")];

const MSRS: &[Range] = &[
    (0x10, 0x10, "TSC"),
    (0x1b, 0x1b, "APIC_BASE"),
    (0x3a, 0x3a, "FEATURE_CONTROL"),
    (0x3b, 0x3b, "TSC_ADJUST"),
    (0x48, 0x48, "SPEC_CTRL"),
    (0x49, 0x49, "PRED_CMD"),
    (0x8b, 0x8b, "UCODE_REV"),
    (0xce, 0xce, "PLATFORM_INFO"),
    (0xe1, 0xe1, "UMWAIT_CONTROL"),
    (0xfe, 0xfe, "MTRRCAP"),
    (0x10a, 0x10a, "ARCH_CAPABILITIES"),
    (0x10b, 0x10b, "FLUSH_CMD"),
    (0x122, 0x122, "TSX_CTRL"),
    (0x174, 0x176, "SYSENTER"),
    (0x179, 0x17a, "MCG"),
    (0x186, 0x18d, "PERFEVTSEL"),
    (0x1a0, 0x1a0, "MISC_ENABLE"),
    (0x1b0, 0x1b0, "ENERGY_PERF_BIAS"),
    (0x1d9, 0x1d9, "DEBUGCTL"),
    (0x200, 0x26f, "MTRR"),
    (0x277, 0x277, "PAT"),
    (0x2ff, 0x2ff, "MTRR_DEF_TYPE"),
    (0x309, 0x30b, "FIXED_CTR"),
    (0x345, 0x345, "PERF_CAPABILITIES"),
    (0x38d, 0x390, "PERF_GLOBAL"),
    (0x400, 0x47f, "MCi"),
    (0x4c1, 0x4c8, "PMC"),
    (0x6e0, 0x6e0, "TSC_DEADLINE"),
    (0x770, 0x777, "HWP"),
    (0x802, 0x802, "x2APIC ID"),
    (0x808, 0x808, "x2APIC TPR"),
    (0x80b, 0x80b, "x2APIC EOI"),
    (0x80d, 0x80d, "x2APIC LDR"),
    (0x80f, 0x80f, "x2APIC SVR"),
    (0x828, 0x828, "x2APIC ESR"),
    (0x830, 0x830, "x2APIC ICR"),
    (0x832, 0x832, "x2APIC LVT timer"),
    (0x838, 0x838, "x2APIC timer count"),
    (0x839, 0x839, "x2APIC timer current"),
    (0x83e, 0x83e, "x2APIC timer divide"),
    (0x83f, 0x83f, "x2APIC self IPI"),
    (0x800, 0x8ff, "x2APIC"),
    (0xda0, 0xda0, "XSS"),
    (0x4000_0000, 0x4000_0118, "Hyper-V"),
    (0x4b56_4d00, 0x4b56_4d00, "KVM_WALL_CLOCK_NEW"),
    (0x4b56_4d01, 0x4b56_4d01, "KVM_SYSTEM_TIME_NEW"),
    (0x4b56_4d02, 0x4b56_4d02, "KVM_ASYNC_PF_EN"),
    (0x4b56_4d03, 0x4b56_4d03, "KVM_STEAL_TIME"),
    (0x4b56_4d04, 0x4b56_4d04, "KVM_PV_EOI_EN"),
    (0x4b56_4d05, 0x4b56_4d05, "KVM_POLL_CONTROL"),
    (0x4b56_4d06, 0x4b56_4d06, "KVM_ASYNC_PF_INT"),
    (0x4b56_4d07, 0x4b56_4d07, "KVM_ASYNC_PF_ACK"),
    (0x4b56_4d08, 0x4b56_4d08, "KVM_MIGRATION_CONTROL"),
    (0xc000_0080, 0xc000_0080, "EFER"),
    (0xc000_0081, 0xc000_0084, "SYSCALL"),
    (0xc000_0100, 0xc000_0102, "FS/GS base"),
    (0xc000_0103, 0xc000_0103, "TSC_AUX"),
    (0xc001_0000, 0xc001_0007, "PERF (AMD)"),
    (0xc001_0015, 0xc001_0015, "HWCR"),
    (0xc001_0114, 0xc001_0114, "VM_CR"),
    (0xc001_0130, 0xc001_0130, "SEV_ES_GHCB"),
    (0xc001_1029, 0xc001_1029, "DE_CFG"),
];

const CPUID: &[Range] = &[
    (0x0, 0x0, "vendor"),
    (0x1, 0x1, "features"),
    (0x2, 0x2, "caches and TLBs"),
    (0x4, 0x4, "cache parameters"),
    (0x5, 0x5, "MONITOR"),
    (0x6, 0x6, "power"),
    (0x7, 0x7, "extended features"),
    (0xa, 0xa, "PMU"),
    (0xb, 0xb, "topology"),
    (0xd, 0xd, "XSAVE"),
    (0x12, 0x12, "SGX"),
    (0x14, 0x14, "PT"),
    (0x15, 0x16, "frequency"),
    (0x18, 0x18, "TLB parameters"),
    (0x1a, 0x1a, "hybrid"),
    (0x1f, 0x1f, "topology v2"),
    (0x21, 0x21, "TDX"),
    (0x4000_0000, 0x4000_0000, "hypervisor"),
    (0x4000_0001, 0x4000_0001, "KVM features"),
    (0x4000_0010, 0x4000_0010, "TSC frequency"),
    (0x8000_0000, 0x8000_0000, "highest extended leaf"),
    (0x8000_0001, 0x8000_0001, "extended features"),
    (0x8000_0002, 0x8000_0004, "brand"),
    (0x8000_0007, 0x8000_0007, "invariant TSC"),
    (0x8000_0008, 0x8000_0008, "address sizes"),
    (0x8000_001d, 0x8000_001d, "cache parameters (AMD)"),
    (0x8000_001e, 0x8000_001e, "topology (AMD)"),
    (0x8000_001f, 0x8000_001f, "memory encryption"),
];

/// How a halt ended.
const HALTS: &[Range] = &[(0, 0, "polled"), (1, 1, "slept")];

/// Levels of a page table.
const LEVELS: &[Range] = &[(1, 1, "4K"), (2, 2, "2M"), (3, 3, "1G"), (4, 4, "512G")];

/// Vectors of a guest that are no device's; those of Linux from `arch/x86/include/asm/irq_vectors.h`.
const EXCEPTIONS: &[Range] = &[
    (0, 31, "exception"),
    (0x80, 0x80, "int 0x80"),
    (0xec, 0xec, "local timer (Linux)"),
    (0xfb, 0xfb, "call function (Linux)"),
    (0xfc, 0xfc, "call function single (Linux)"),
    (0xfd, 0xfd, "reschedule (Linux)"),
    (0xff, 0xff, "spurious"),
];

/// Vectors of the host, which is Linux (`arch/x86/include/asm/irq_vectors.h`).
const HOST_VECTORS: &[Range] = &[
    (0xec, 0xec, "local timer"),
    (0xf0, 0xf0, "posted interrupt, nested"),
    (0xf1, 0xf1, "posted interrupt, wake up"),
    (0xf2, 0xf2, "posted interrupt"),
    (0xf4, 0xf4, "deferred error"),
    (0xf6, 0xf6, "irq work"),
    (0xf7, 0xf7, "platform"),
    (0xf8, 0xf8, "reboot"),
    (0xf9, 0xf9, "threshold"),
    (0xfa, 0xfa, "thermal"),
    (0xfb, 0xfb, "call function"),
    (0xfc, 0xfc, "call function single"),
    (0xfd, 0xfd, "reschedule"),
    (0xff, 0xff, "spurious"),
];

/// What a place is: its name, and of a TD's answers and returns what they answer and come from.
#[must_use]
pub fn what(class: Class, address: u64, size: u32, isa: Isa) -> Option<Cow<'static, str>> {
    match class {
        Class::TdAnswer => {
            let exit = TdExit::from_reason_index(REASON_TD + size as usize)?;
            let status = tdx::tdvmcall_status(address)
                .map_or_else(|| format!("{address:#x}"), str::to_owned);
            Some(format!("{}: {status}", exit.name().trim_start_matches("TDVMCALL ")).into())
        }
        Class::TdReturn => {
            let became = userspace_name(u32::try_from(address).ok()?);
            Some(format!("{} → {became}", reason_name(size, isa)).into())
        }
        Class::MemoryFault => {
            let memory = name(class, address, isa)?;
            Some(match size {
                14 => format!("{memory}: EFAULT").into(),
                133 => format!("{memory}: EHWPOISON").into(),
                errno => format!("{memory}: errno {errno}").into(),
            })
        }
        _ => name(class, address, isa),
    }
}

/// The name of what lies at `address` for accesses of `class`, if it is a well-known one. Ports and
/// addresses are those of a PC; a VMM may lay them out otherwise.
#[must_use]
pub fn name(class: Class, address: u64, isa: Isa) -> Option<Cow<'static, str>> {
    let table = match class {
        Class::PioIn | Class::PioOut => PORTS,
        Class::MmioReadUnsatisfied
        | Class::MmioRead
        | Class::MmioWrite
        | Class::FastMmio
        | Class::MmioFault => MMIO,
        Class::MsrRead | Class::MsrWrite => MSRS,
        Class::Cpuid => CPUID,
        Class::Halt => HALTS,
        Class::SpteChanged => LEVELS,
        Class::Interrupt | Class::InterruptPosted => EXCEPTIONS,
        Class::HostInterrupt => HOST_VECTORS,
        Class::MemoryFault => MEMORY,
        Class::TdAnswer | Class::TdReturn => return None,
        Class::Hypercall => {
            return kvm::hypercall(u32::try_from(address).ok()?).map(Cow::Borrowed);
        }
        Class::PageFault => return Some(fault(address, isa).into()),
        Class::NestedExit => return Some(reason_name(u32::try_from(address).ok()?, isa).into()),
        Class::UserspaceExit
        | Class::RunBegin
        | Class::RunEnd
        | Class::Entry
        | Class::Exit
        | Class::HaltPoll
        | Class::TdUnknownLeaf
        | Class::MemoryAttributes
        | Class::MemoryPunched
        | Class::TdFaultAgain => return None,
    };
    // In order: a register stands before the range that it is in.
    table
        .iter()
        .find(|(first, last, _)| (*first..=*last).contains(&address))
        .map(|(_, _, name)| Cow::Borrowed(*name))
}

/// What the error code of `kvm_page_fault` says: an exit qualification on VMX, else `PFERR_*`.
fn fault(code: u64, isa: Isa) -> String {
    let flags = match isa {
        Isa::Vmx => qualification::ept(code).flags,
        Isa::Svm | Isa::Software => pferr::decode(code).flags,
    };
    if flags.is_empty() { "read".to_owned() } else { flags.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(class: Class, address: u64) -> Option<String> {
        super::name(class, address, Isa::Vmx).map(Cow::into_owned)
    }

    #[test]
    fn a_register_is_found_before_its_range() {
        assert_eq!(name(Class::MsrWrite, 0x830), Some("x2APIC ICR".to_owned()));
        assert_eq!(name(Class::MsrWrite, 0x80e), Some("x2APIC".to_owned()));
        assert_eq!(name(Class::MmioWrite, 0xfee0_00b0), Some("APIC EOI".to_owned()));
        assert_eq!(name(Class::MmioRead, 0xfee0_0030), Some("APIC".to_owned()));
    }

    #[test]
    fn a_number_means_what_its_class_says() {
        assert_eq!(name(Class::PioOut, 0x3f8), Some("COM1".to_owned()));
        assert_eq!(name(Class::Cpuid, 0x21), Some("TDX".to_owned()));
        assert_eq!(name(Class::Hypercall, 12), Some("MAP_GPA_RANGE".to_owned()));
        assert_eq!(name(Class::Hypercall, u64::MAX), None);
        assert_eq!(name(Class::PioIn, 0x500), None);
    }

    #[test]
    fn a_fault_is_told_by_the_kind_of_kvm() {
        let fault = |isa| super::name(Class::PageFault, 0x2, isa).unwrap().into_owned();
        assert_eq!(fault(Isa::Vmx), "write");
        assert_eq!(fault(Isa::Svm), "write");
        assert_eq!(super::name(Class::PageFault, 0x4, Isa::Vmx).unwrap(), "fetch");
        assert_eq!(
            super::name(Class::PageFault, 0x1_0000_0004, Isa::Svm).unwrap(),
            "user guest-final"
        );
        assert_eq!(super::name(Class::NestedExit, 0x72, Isa::Svm).unwrap(), "CPUID");
    }

    #[test]
    fn what_a_td_was_answered_names_both() {
        let named = |class, address, size| what(class, address, size, Isa::Vmx).unwrap();
        assert_eq!(named(Class::TdAnswer, 1, TdExit::MapShared as u32), "MapGPA to shared: RETRY");
        assert_eq!(named(Class::TdAnswer, 77, TdExit::IoOut as u32), "IO out: 0x4d");
        let index = TdExit::MapShared.reason_index() as u32;
        assert_eq!(named(Class::TdReturn, 3, index), "TDVMCALL MapGPA to shared → HYPERCALL");
        assert_eq!(named(Class::MemoryFault, 1, 14), "private memory: EFAULT");
        assert_eq!(named(Class::MemoryFault, 0, 133), "shared memory: EHWPOISON");
        assert_eq!(named(Class::MsrWrite, 0x830, 0), "x2APIC ICR");
    }

    #[test]
    fn every_entry_can_be_found() {
        for (class, table) in [
            (Class::PioIn, PORTS),
            (Class::MmioRead, MMIO),
            (Class::MsrRead, MSRS),
            (Class::Cpuid, CPUID),
        ] {
            for (first, last, what) in table {
                assert!(first <= last);
                let found =
                    (*first..=*last).any(|address| name(class, address).as_deref() == Some(*what));
                assert!(found, "{what} is hidden by an entry before it");
            }
        }
    }
}
