//! The probes of a host as data: what each shows, and what it needs.
//!
//! Pure. Attaching is done elsewhere; `tdtrace doctor` judges from this table without attaching.

use super::guest::Pair;
use crate::model::sample::ProbeState;

/// One probe on a raw tracepoint of KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Its name to users and the name of its program.
    pub name: &'static str,
    /// The tracepoint, found by this name in the kernel and in modules.
    pub tracepoint: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// What stays invisible without it.
    pub hidden_without: &'static str,
    /// Fields of [`tdtrace_common::layout::KernelLayout`] without which it is not attached.
    pub needs: &'static [&'static str],
}

impl Probe {
    /// Its state while it counts.
    #[must_use]
    pub fn state(&self) -> ProbeState {
        ProbeState {
            name: self.name.to_owned(),
            missing: None,
            hides: self.hidden_without.to_owned(),
        }
    }

    /// Its state while it does not, for this reason.
    #[must_use]
    pub fn missing_for(&self, why: &str) -> ProbeState {
        ProbeState { missing: Some(why.to_owned()), ..self.state() }
    }
}

/// One probe on a function of KVM: by fentry where KVM is part of the kernel, else by kprobe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionProbe {
    /// The function, and its name to users.
    pub name: &'static str,
    /// Programs of fentry and fexit.
    pub fentry: Pair,
    /// Programs of kprobe and kretprobe.
    pub kprobe: Pair,
    /// What it shows.
    pub shows: &'static str,
    /// What stays invisible without it.
    pub hidden_without: &'static str,
    /// Fields of [`tdtrace_common::layout::KernelLayout`] without which it is not attached: of each list one
    /// is enough.
    pub needs: &'static [&'static [&'static str]],
}

impl FunctionProbe {
    /// Its state while it counts, or does not for this reason.
    #[must_use]
    pub fn state(&self, missing: Option<String>) -> ProbeState {
        ProbeState { name: self.name.to_owned(), missing, hides: self.hidden_without.to_owned() }
    }
}

/// What is taken instead of [`PROBES`]' `kvm_vm_set_mem_attributes` where it can be attached: it knows the VM,
/// and is there before the tracepoint came.
pub const SET_ATTRIBUTES_BY_FUNCTION: FunctionProbe = FunctionProbe {
    name: "kvm_vm_ioctl",
    fentry: Pair { entry: None, exit: "kvm_vm_ioctl_fexit" },
    kprobe: Pair { entry: Some("kvm_vm_ioctl_kprobe"), exit: "kvm_vm_ioctl_kretprobe" },
    shows: "memory that the VMM makes private or shared, with its VM",
    hidden_without: HIDDEN_ATTRIBUTES,
    needs: &[&["file_private_data"], &["vcpu_kvm"], &["vcpu_id"]],
};

/// What the VMM gives back of guest_memfd.
pub const PUNCH_HOLES: FunctionProbe = FunctionProbe {
    name: "kvm_gmem_fallocate",
    fentry: Pair { entry: None, exit: "kvm_gmem_fallocate_fexit" },
    kprobe: Pair { entry: Some("kvm_gmem_fallocate_kprobe"), exit: "kvm_gmem_fallocate_kretprobe" },
    shows: "memory of guest_memfd that the VMM gives back",
    hidden_without: "how much private memory the VMM gives back",
    needs: &[&["gmem_kvm", "gmem_file_kvm"], &["file_private_data"], &["vcpu_kvm"], &["vcpu_id"]],
};

/// Whose memory breaks.
pub const BROKEN_PAGES: FunctionProbe = FunctionProbe {
    name: "kvm_gmem_error_folio",
    fentry: Pair { entry: None, exit: "kvm_gmem_error_folio_fexit" },
    kprobe: Pair {
        entry: Some("kvm_gmem_error_folio_kprobe"),
        exit: "kvm_gmem_error_folio_kretprobe",
    },
    shows: "pages of guest_memfd that break, with their VM",
    hidden_without: "whose private memory breaks, until it is touched",
    needs: &[
        &["gmem_kvm", "gmem_file_kvm"],
        &["gmem_entry", "gmem_file_entry"],
        &["mapping_files", "gmem_inode_files"],
        &["vcpu_kvm"],
        &["vcpu_id"],
    ],
};

/// All probes on functions of KVM.
pub const FUNCTION_PROBES: [FunctionProbe; 3] =
    [SET_ATTRIBUTES_BY_FUNCTION, PUNCH_HOLES, BROKEN_PAGES];

/// Those that stand in for no other probe.
pub const GUEST_MEMFD_PROBES: [&FunctionProbe; 2] = [&PUNCH_HOLES, &BROKEN_PAGES];

/// What nobody sees without any source of attributes.
const HIDDEN_ATTRIBUTES: &str = "what the VMM converts, whether the guest asked for it or not";

/// The states of all probes while all of them count.
#[must_use]
pub fn all_counting() -> Vec<ProbeState> {
    let functions = GUEST_MEMFD_PROBES.map(|probe| probe.state(None));
    PROBES.iter().map(Probe::state).chain(functions).collect()
}

/// The states of all probes while none of them counts, for this reason.
#[must_use]
pub fn all_missing_for(why: &str) -> Vec<ProbeState> {
    let tracepoints = PROBES.iter().map(|probe| probe.missing_for(why));
    let functions = GUEST_MEMFD_PROBES.map(|probe| probe.state(Some(why.to_owned())));
    tracepoints.chain(functions).collect()
}

/// What stands in for both where neither is to be had, if it is asked for: every system call of the machine
/// pays for it.
pub const SET_ATTRIBUTES_BY_IOCTL: Probe = Probe {
    name: "sys_exit_set_attributes",
    tracepoint: "sys_exit",
    shows: "memory that the VMM makes private or shared, by its system call",
    hidden_without: HIDDEN_ATTRIBUTES,
    needs: &["vcpu_kvm", "vcpu_id", "regs_orig_ax", "regs_si", "regs_dx"],
};

/// The probe that [`SET_ATTRIBUTES_BY_FUNCTION`] and [`SET_ATTRIBUTES_BY_IOCTL`] stand in for.
pub const SET_ATTRIBUTES: &str = "kvm_vm_set_mem_attributes";

/// To whom an event belongs, where the tracepoint carries no vCPU.
const CURRENT_VCPU: &[&str] =
    &["task_preempt_notifiers", "vcpu_preempt_link", "vcpu_kvm", "vcpu_id"];
/// The same where it does.
const GIVEN_VCPU: &[&str] = &["vcpu_kvm", "vcpu_id"];

/// All probes, in the order in which they are shown.
pub const PROBES: &[Probe] = &[
    Probe {
        name: "kvm_exit",
        tracepoint: "kvm_exit",
        shows: "VM exits by reason",
        hidden_without: "how often and why vCPUs leave the guest",
        needs: GIVEN_VCPU,
    },
    Probe {
        name: "kvm_entry",
        tracepoint: "kvm_entry",
        shows: "VM entries",
        hidden_without: "how long an exit takes until the guest runs again",
        needs: GIVEN_VCPU,
    },
    Probe {
        name: "kvm_fpu",
        tracepoint: "kvm_fpu",
        shows: "start and end of each KVM_RUN",
        hidden_without: "to which vCPU a return to the VMM belongs",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_userspace_exit",
        tracepoint: "kvm_userspace_exit",
        shows: "why KVM_RUN came back to the VMM",
        hidden_without: "which exits the VMM serves, and how long it takes",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_pio",
        tracepoint: "kvm_pio",
        shows: "port I/O by port",
        hidden_without: "which ports a guest uses",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_mmio",
        tracepoint: "kvm_mmio",
        shows: "MMIO by guest physical address",
        hidden_without: "which device addresses a guest uses",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_fast_mmio",
        tracepoint: "kvm_fast_mmio",
        shows: "MMIO writes that only signal an eventfd",
        hidden_without: "doorbells of devices such as vhost",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_cpuid",
        tracepoint: "kvm_cpuid",
        shows: "CPUID by leaf",
        hidden_without: "which CPUID leaves a guest asks for",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_msr",
        tracepoint: "kvm_msr",
        shows: "MSR reads and writes by index",
        hidden_without: "which MSRs a guest uses",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_hypercall",
        tracepoint: "kvm_hypercall",
        shows: "KVM hypercalls by number",
        hidden_without: "which hypercalls a guest makes",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_page_fault",
        tracepoint: "kvm_page_fault",
        shows: "faults of a guest on its memory, by kind",
        hidden_without: "how often KVM has to map memory",
        needs: GIVEN_VCPU,
    },
    Probe {
        name: "handle_mmio_page_fault",
        tracepoint: "handle_mmio_page_fault",
        shows: "faults on addresses that KVM knows as MMIO",
        hidden_without: "how many of the faults are MMIO, on SVM",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_tdp_mmu_spte_changed",
        tracepoint: "kvm_tdp_mmu_spte_changed",
        shows: "changed entries of a guest's page table, by level",
        hidden_without: "how guest memory is mapped and taken away",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_vcpu_wakeup",
        tracepoint: "kvm_vcpu_wakeup",
        shows: "halts and how long they took",
        hidden_without: "how much of the kernel's time is a halted guest",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_halt_poll_ns",
        tracepoint: "kvm_halt_poll_ns",
        shows: "how long KVM polls before a halted vCPU sleeps",
        hidden_without: "that KVM changes its polling",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_inj_virq",
        tracepoint: "kvm_inj_virq",
        shows: "interrupts injected into a guest, by vector",
        hidden_without: "which interrupts a guest gets; never seen for TDs",
        needs: CURRENT_VCPU,
    },
    Probe {
        name: "kvm_apicv_accept_irq",
        tracepoint: "kvm_apicv_accept_irq",
        shows: "interrupts posted to guests, all VMs together",
        hidden_without: "how many interrupts are posted without an exit",
        needs: &[],
    },
    Probe {
        name: "kvm_nested_vmexit",
        tracepoint: "kvm_nested_vmexit",
        shows: "exits from L2, by reason",
        hidden_without: "which of a VM's exits come from a guest of its own",
        needs: GIVEN_VCPU,
    },
    Probe {
        name: SET_ATTRIBUTES,
        tracepoint: "kvm_vm_set_mem_attributes",
        shows: "memory that the VMM makes private or shared",
        hidden_without: HIDDEN_ATTRIBUTES,
        needs: GIVEN_VCPU,
    },
];

#[cfg(test)]
mod tests {
    use tdtrace_common::layout::KernelLayout;

    use super::*;

    #[test]
    fn every_needed_field_exists_and_names_are_unique() {
        for (index, probe) in PROBES.iter().enumerate() {
            for need in probe.needs {
                assert!(KernelLayout::FIELDS.iter().any(|field| field.name == *need), "{need}");
            }
            assert!(PROBES[..index].iter().all(|other| other.name != probe.name));
        }
        for probe in FUNCTION_PROBES {
            for need in probe.needs.iter().copied().flatten() {
                assert!(KernelLayout::FIELDS.iter().any(|field| field.name == *need), "{need}");
            }
            assert!(PROBES.iter().all(|other| other.name != probe.name));
        }
    }
}
