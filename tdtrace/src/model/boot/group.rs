//! Which group of a boot an exit belongs to.

use tdtrace_common::{
    counters::{Class, REASON_SVM_HIGH, REASON_UNDEFINED},
    td::TdExit,
};

use crate::model::{counts::add, sample::Isa, sample::VcpuSample, snapshot::class_of};

/// How many groups there are.
pub const GROUPS: usize = 14;

/// What an exit was for, as far as it matters in a boot. Each exit is in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Port I/O on QEMU's `fw_cfg`: the firmware fetches tables, kernel, initrd. Told apart of TDs only,
    /// of which each exit has one place.
    FwCfg,
    /// Other port I/O.
    Pio,
    /// MMIO.
    Mmio,
    /// RDMSR and WRMSR.
    Msr,
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// MapGPA: conversions.
    MapGpa,
    /// EPT violations on private memory, accepted or not.
    Accept,
    /// Other EPT violations: on shared memory, or of a VM that is no TD.
    Ept,
    /// Interrupts, NMIs, windows for them, and the preemption timer.
    Interrupt,
    /// GetQuote.
    Quote,
    /// Other TDVMCALLs and hypercalls.
    Call,
    /// TDH.VP.ENTER came back with a status: busy operands above all.
    Status,
    /// All else; on a KVM without exit reasons all there is.
    Other,
}

impl Group {
    /// Every group, in the order in which a bar stacks them: about that in which a boot has them.
    pub const ALL: [Self; GROUPS] = [
        Self::FwCfg,
        Self::Pio,
        Self::Mmio,
        Self::Msr,
        Self::Cpuid,
        Self::Halt,
        Self::MapGpa,
        Self::Accept,
        Self::Ept,
        Self::Interrupt,
        Self::Quote,
        Self::Call,
        Self::Status,
        Self::Other,
    ];

    /// The letter in bars.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::FwCfg => 'F',
            Self::Pio => 'P',
            Self::Mmio => 'M',
            Self::Msr => 'R',
            Self::Cpuid => 'C',
            Self::Halt => 'H',
            Self::MapGpa => 'G',
            Self::Accept => 'A',
            Self::Ept => 'E',
            Self::Interrupt => 'I',
            Self::Quote => 'Q',
            Self::Call => 'V',
            Self::Status => 'B',
            Self::Other => 'o',
        }
    }

    /// The name in tables.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::FwCfg => "fw_cfg",
            Self::Pio => "PIO",
            Self::Mmio => "MMIO",
            Self::Msr => "MSR",
            Self::Cpuid => "CPUID",
            Self::Halt => "HLT",
            Self::MapGpa => "MapGPA",
            Self::Accept => "EPT private",
            Self::Ept => "EPT other",
            Self::Interrupt => "interrupt",
            Self::Quote => "GetQuote",
            Self::Call => "other call",
            Self::Status => "busy",
            Self::Other => "other",
        }
    }

    /// The name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FwCfg => "fw_cfg",
            Self::Pio => "pio",
            Self::Mmio => "mmio",
            Self::Msr => "msr",
            Self::Cpuid => "cpuid",
            Self::Halt => "hlt",
            Self::MapGpa => "map_gpa",
            Self::Accept => "ept_private",
            Self::Ept => "ept_other",
            Self::Interrupt => "interrupt",
            Self::Quote => "get_quote",
            Self::Call => "tdvmcall_other",
            Self::Status => "vp_enter_status",
            Self::Other => "other",
        }
    }

    /// The group of index `index` of `VcpuSlot::reasons`. Ports are not known here.
    #[must_use]
    pub fn of(index: u32, isa: Isa) -> Self {
        match isa {
            Isa::Vmx => TdExit::from_reason_index(index as usize)
                .map_or_else(|| Self::of_vmx(index), Self::of_td),
            Isa::Svm => Self::of_svm(index),
            Isa::Software => Self::Other,
        }
    }

    const fn of_td(exit: TdExit) -> Self {
        match exit {
            TdExit::Cpuid => Self::Cpuid,
            TdExit::Hlt => Self::Halt,
            TdExit::IoIn | TdExit::IoOut => Self::Pio,
            TdExit::Rdmsr | TdExit::Wrmsr => Self::Msr,
            TdExit::MmioRead | TdExit::MmioWrite => Self::Mmio,
            TdExit::MapShared | TdExit::MapPrivate => Self::MapGpa,
            TdExit::GetQuote => Self::Quote,
            TdExit::Wbinvd
            | TdExit::Pconfig
            | TdExit::GetInfo
            | TdExit::FatalError
            | TdExit::SetupNotify
            | TdExit::Service
            | TdExit::UnknownLeaf
            | TdExit::KvmHypercall => Self::Call,
            TdExit::BusySept
            | TdExit::BusyEpoch
            | TdExit::Busy
            | TdExit::PreviousEpoch
            | TdExit::DeadVcpu
            | TdExit::DeadTd
            | TdExit::Inaccessible
            | TdExit::WrongApicMode
            | TdExit::Interrupted
            | TdExit::NotAssociated
            | TdExit::SoftwareError
            | TdExit::OtherStatus => Self::Status,
            TdExit::EptPrivate | TdExit::EptPending => Self::Accept,
            TdExit::EptShared => Self::Ept,
        }
    }

    /// Basic exit reasons of the SDM, volume 3D, appendix C. Of a TD whose registers cannot be read KVM's
    /// translation is what there is: 77 for most TDVMCALLs, 0xdead for a status.
    const fn of_vmx(index: u32) -> Self {
        match index {
            0 | 1 | 7 | 8 | 52 => Self::Interrupt,
            10 => Self::Cpuid,
            12 => Self::Halt,
            18 | 77 => Self::Call,
            30 => Self::Pio,
            31 | 32 | 84 | 85 => Self::Msr,
            48 => Self::Ept,
            49 => Self::Mmio,
            _ if index == REASON_UNDEFINED as u32 => Self::Status,
            _ => Self::Other,
        }
    }

    /// Exit codes of the APM, volume 2, appendix C. MMIO is a nested page fault there like any other.
    const fn of_svm(index: u32) -> Self {
        const NPF: u32 = REASON_SVM_HIGH as u32;
        const VMGEXIT: u32 = NPF + 3;
        match index {
            0x60 | 0x61 | 0x64 => Self::Interrupt,
            0x72 => Self::Cpuid,
            0x78 => Self::Halt,
            0x7b => Self::Pio,
            0x7c => Self::Msr,
            0x81 | VMGEXIT => Self::Call,
            NPF => Self::Ept,
            _ => Self::Other,
        }
    }
}

/// Exits of `vcpu` by [`Group`] since it was first seen.
pub(super) fn exits(vcpu: &VcpuSample, isa: Isa, is_td: bool) -> [u64; GROUPS] {
    let mut groups = [0; GROUPS];
    if isa == Isa::Software {
        let own = vcpu.kvm.map_or(0, |(first, last)| last.exits.saturating_sub(first.exits));
        groups[Group::Other as usize] = own;
        return groups;
    }
    for (index, count) in &vcpu.reasons {
        add(&mut groups[Group::of(*index, isa) as usize], *count);
    }
    if is_td {
        // The place is written after the reason: at times one of an exit that is not there yet.
        let fw_cfg = fw_cfg(vcpu).min(groups[Group::Pio as usize]);
        groups[Group::Pio as usize] -= fw_cfg;
        groups[Group::FwCfg as usize] = fw_cfg;
    }
    groups
}

/// Accesses to the ports of `fw_cfg`: selector and data, and DMA (QEMU, `docs/specs/fw_cfg.rst`).
fn fw_cfg(vcpu: &VcpuSample) -> u64 {
    let mut sum = 0;
    for (place, count) in &vcpu.hotspots {
        if matches!(place.address, 0x510..=0x511 | 0x514..=0x51b)
            && matches!(class_of(place), Some(Class::PioIn | Class::PioOut))
        {
            add(&mut sum, *count);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        snapshot::reason_name,
        testing::{place, vcpu},
    };

    #[test]
    fn letters_names_and_titles_are_those_of_one_group_each() {
        for (index, group) in Group::ALL.into_iter().enumerate() {
            assert_eq!(group as usize, index);
            for other in &Group::ALL[..index] {
                assert_ne!(group.letter(), other.letter());
                assert_ne!(group.name(), other.name());
                assert_ne!(group.title(), other.title());
            }
        }
    }

    #[test]
    fn numbers_of_exits_are_of_the_group_that_their_names_say() {
        for (index, isa, name, group) in [
            (1, Isa::Vmx, "EXTERNAL_INTERRUPT", Group::Interrupt),
            (52, Isa::Vmx, "PREEMPTION_TIMER", Group::Interrupt),
            (10, Isa::Vmx, "CPUID", Group::Cpuid),
            (12, Isa::Vmx, "HLT", Group::Halt),
            (30, Isa::Vmx, "IO_INSTRUCTION", Group::Pio),
            (32, Isa::Vmx, "MSR_WRITE", Group::Msr),
            (85, Isa::Vmx, "MSR_WRITE_IMM", Group::Msr),
            (48, Isa::Vmx, "EPT_VIOLATION", Group::Ept),
            (49, Isa::Vmx, "EPT_MISCONFIG", Group::Mmio),
            (77, Isa::Vmx, "TDCALL", Group::Call),
            (190, Isa::Vmx, "UNDEFINED", Group::Status),
            (28, Isa::Vmx, "CR_ACCESS", Group::Other),
            (192 + 11, Isa::Vmx, "TDVMCALL MapGPA to shared", Group::MapGpa),
            (192 + 34, Isa::Vmx, "EPT_VIOLATION not accepted", Group::Accept),
            (0x60, Isa::Svm, "INTR", Group::Interrupt),
            (0x72, Isa::Svm, "CPUID", Group::Cpuid),
            (0x78, Isa::Svm, "HLT", Group::Halt),
            (0x7b, Isa::Svm, "IOIO", Group::Pio),
            (0x7c, Isa::Svm, "MSR", Group::Msr),
            (0x81, Isa::Svm, "VMMCALL", Group::Call),
            (176, Isa::Svm, "NPF", Group::Ept),
            (179, Isa::Svm, "VMGEXIT", Group::Call),
        ] {
            assert_eq!(reason_name(index, isa), name);
            assert_eq!(Group::of(index, isa), group, "{name}");
        }
        for exit in TdExit::ALL {
            let group = Group::of(exit.reason_index() as u32, Isa::Vmx);
            assert_ne!(group, Group::Other, "{}", exit.name());
        }
    }

    #[test]
    fn ports_of_fw_cfg_are_told_apart_of_a_td_and_of_no_other_vm() {
        let mut one = vcpu(0, 0, 0, 0);
        one.reasons = vec![(TdExit::IoIn.reason_index() as u32, 70), (30, 5)];
        one.hotspots = vec![
            (place(Class::PioIn, 0x511, 1), 40),
            (place(Class::PioOut, 0x518, 4), 3),
            (place(Class::PioOut, 0x3f8, 1), 27),
            (place(Class::MmioWrite, 0x511, 4), 1_000),
        ];
        let of =
            |groups: [u64; GROUPS]| (groups[Group::FwCfg as usize], groups[Group::Pio as usize]);
        assert_eq!(of(exits(&one, Isa::Vmx, true)), (43, 32));
        assert_eq!(of(exits(&one, Isa::Vmx, false)), (0, 75));
        // A place that is ahead of its exit.
        one.hotspots[0].1 = 90;
        assert_eq!(of(exits(&one, Isa::Vmx, true)), (75, 0));
    }

    #[test]
    fn a_kvm_without_exit_reasons_has_exits_of_one_group() {
        let one = vcpu(0, 0, 0, 3);
        let groups = exits(&one, Isa::Software, false);
        assert_eq!(groups[Group::Other as usize], 3 * 1500);
        assert_eq!(groups.iter().sum::<u64>(), 3 * 1500);
    }
}
