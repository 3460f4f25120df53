//! Checks of BTF and of the structure members that the programs read.

use tdtrace_common::layout::KernelLayout;

use super::{BtfSource, Check, FieldReport, Layout, Status};
use crate::kernel::{
    Facts, Seen,
    btf::{BtfModule, BtfSet},
    kvm::{Flavour, Presence},
};

/// Where a group of fields is of use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Everywhere,
    Vmx,
    Tdx,
    Svm,
}

/// Fields that together make one thing visible.
struct Group {
    name: &'static str,
    used: Use,
    /// What is off without them.
    off: &'static str,
    /// Alternatives, of which one must be complete; kernels differ.
    forms: &'static [&'static [&'static str]],
}

/// The finding about a group that is complete.
pub(super) const FOUND: &str = "found";
/// Finds the vCPU that runs on this CPU; nothing works without.
const CURRENT_VCPU: &str = "current_vcpu";
/// Reads the reason of a VM exit on VMX.
pub(super) const VMX_REASON: &str = "vmx_reason";
/// Reads what a TD came out with.
pub(super) const TD_EXITS: &str = "td_exits";
/// Reads the code of a VM exit on SVM.
pub(super) const SVM_REASON: &str = "svm_reason";

const GROUPS: &[Group] = &[
    Group {
        name: CURRENT_VCPU,
        used: Use::Everywhere,
        off: "events belong to no vCPU, so no probe is of use",
        forms: &[&["task_preempt_notifiers", "vcpu_preempt_link", "vcpu_kvm", "vcpu_id"]],
    },
    Group {
        name: "thread",
        used: Use::Everywhere,
        off: "programs ask for the thread by a call, which takes a little longer",
        forms: &[&["task_pid", "task_tgid"]],
    },
    Group {
        name: "vm_owner",
        used: Use::Everywhere,
        off: "VMs are not named after their process",
        forms: &[&["kvm_userspace_pid", "task_group_leader", "task_comm"]],
    },
    Group {
        name: "vm_identity",
        used: Use::Everywhere,
        off: "VMs that one process makes one after another may be taken for one",
        forms: &[&["kvm_debugfs_dentry", "dentry_inode", "inode_number"], &["kvm_clock_offset"]],
    },
    Group {
        name: "vm_kind",
        used: Use::Everywhere,
        off: "TDs and other VMs look alike",
        forms: &[&["kvm_vm_type"]],
    },
    Group {
        name: "shared_bit",
        used: Use::Tdx,
        off: "private and shared addresses of a TD look alike",
        forms: &[&["kvm_gfn_direct_bits"]],
    },
    Group {
        name: "given_up",
        used: Use::Tdx,
        off: "a TD that KVM has given up looks like an idle one",
        forms: &[&["kvm_vm_bugged", "kvm_vm_dead"]],
    },
    Group {
        name: "machine_check",
        used: Use::Tdx,
        off: "machine checks are counted without their page",
        forms: &[&["mce_status", "mce_addr", "mce_bank"]],
    },
    Group {
        name: "kvm_counts",
        used: Use::Everywhere,
        off: "no comparison with what KVM counts itself",
        forms: &[&[
            "stat_exits",
            "stat_fpu_reload",
            "stat_io_exits",
            "stat_mmio_exits",
            "stat_irq_exits",
            "stat_signal_exits",
            "stat_hypercalls",
        ]],
    },
    Group {
        name: "waiting_time",
        used: Use::Everywhere,
        off: "time in which a vCPU waits for a CPU counts as the kernel's or the VMM's",
        forms: &[&["task_run_delay"]],
    },
    Group {
        name: VMX_REASON,
        used: Use::Vmx,
        off: "VM exits are counted without their reason",
        forms: &[&["vmx_exit_reason"], &["vmx_vt", "vt_exit_reason"]],
    },
    Group {
        name: TD_EXITS,
        used: Use::Tdx,
        off: "exits of TDs are counted without their TDVMCALL leaf",
        forms: &[&[
            "tdx_vt",
            "tdx_vp_enter_args",
            "tdx_vp_enter_ret",
            "tdx_args_r10",
            "tdx_args_r11",
            "tdx_args_r12",
            "tdx_args_r13",
            "tdx_args_r14",
            "tdx_ext_exit_qualification",
            "tdx_exit_gpa",
            "vt_exit_reason",
            "vt_exit_intr_info",
        ]],
    },
    Group {
        name: SVM_REASON,
        used: Use::Svm,
        off: "VM exits are counted without their code",
        forms: &[&["svm_vmcb", "vmcb_exit_code"]],
    },
    Group {
        name: "memory_size",
        used: Use::Tdx,
        off: "how much memory a VM has is not known, nor how much of it is still to be mapped",
        forms: &[&["kvm_memslot_pages"]],
    },
    Group {
        name: "memory_fault",
        used: Use::Everywhere,
        off: "memory faults are counted without their address and kind",
        forms: &[&["vcpu_run", "run_fault_flags", "run_fault_gpa"]],
    },
    Group {
        name: "open_files",
        used: Use::Everywhere,
        off: "attributes come from a tracepoint that does not tell their VM, holes are not seen",
        forms: &[&["file_private_data"]],
    },
    Group {
        name: "guest_memfd",
        used: Use::Tdx,
        off: "memory of guest_memfd that a VMM gives back is not seen",
        forms: &[&["gmem_kvm"], &["gmem_file_kvm"]],
    },
    Group {
        name: "guest_memfd_pages",
        used: Use::Tdx,
        off: "whose memory breaks is not seen until it is touched",
        forms: &[
            &["gmem_entry", "mapping_files"],
            &["gmem_file_entry", "mapping_host", "gmem_inode_inode", "gmem_inode_files"],
        ],
    },
    Group {
        name: "system_calls",
        used: Use::Everywhere,
        off: "--trace-ioctl sees nothing",
        forms: &[&["regs_orig_ax", "regs_si", "regs_dx"]],
    },
];

impl Group {
    fn fields(&self) -> impl Iterator<Item = &'static str> {
        self.forms.iter().copied().flatten().copied()
    }

    fn is_complete(&self, layout: Layout<'_>) -> bool {
        let has = |name: &&str| layout.is_some_and(|resolved| resolved.member(name).is_some());
        self.forms.iter().any(|form| form.iter().all(has))
    }
}

impl Use {
    /// Whether it matters on this machine, or on the kernel whose BTF was given.
    fn is_here(self, facts: &Facts, btf: &BtfSource) -> bool {
        if let (false, Ok(set)) = (btf.files.is_empty(), &btf.set) {
            let (vmx, svm) = (describes(set, "vcpu_vmx"), describes(set, "vcpu_svm"));
            return match self {
                Self::Everywhere => true,
                Self::Vmx => vmx || !svm,
                Self::Tdx => describes(set, "vcpu_tdx") || (!vmx && !svm),
                Self::Svm => svm || !vmx,
            };
        }
        match self {
            Self::Everywhere => true,
            Self::Vmx => facts.flavour() == Flavour::Intel,
            Self::Tdx => facts.kvm.tdx == Seen::Is(true),
            Self::Svm => facts.flavour() == Flavour::Amd,
        }
    }

    fn absence(self) -> &'static str {
        match self {
            Self::Everywhere => "not needed here",
            Self::Vmx => "not needed: kvm_intel does not run here",
            Self::Tdx => "not needed: kvm_intel does not run TDs here",
            Self::Svm => "not needed: kvm_amd does not run here",
        }
    }
}

fn describes(set: &BtfSet, structure: &str) -> bool {
    set.vmlinux.has_struct(structure)
        || BtfModule::ALL
            .into_iter()
            .filter_map(|module| set.module(module))
            .any(|btf| btf.has_struct(structure))
}

/// Whether the group called `name` matters here and is not complete: what is off then.
pub(super) fn lacking(
    name: &str,
    facts: &Facts,
    btf: &BtfSource,
    layout: Layout<'_>,
) -> Option<&'static str> {
    GROUPS
        .iter()
        .find(|group| group.name == name)
        .filter(|group| group.used.is_here(facts, btf) && !group.is_complete(layout))
        .map(|group| group.off)
}

/// The checks of section `btf`.
pub(super) fn btf(facts: &Facts, btf: &BtfSource) -> Vec<Check> {
    const NAME: &str = "vmlinux";
    let set = match &btf.set {
        Ok(set) => set,
        Err(reason) => {
            return vec![
                Check::missing(
                    NAME,
                    reason.clone(),
                    "use a kernel with CONFIG_DEBUG_INFO_BTF, or give its BTF with --btf FILE",
                )
                .blocking(),
            ];
        }
    };
    let mut checks = vec![Check::ok(NAME, format!("{} types", set.vmlinux.type_count()))];
    if !btf.files.is_empty() {
        checks.push(Check::ok("files", btf.files.join(", ")));
    }
    checks
        .extend(BtfModule::ALL.into_iter().filter_map(|module| of_module(facts, btf, set, module)));
    checks
}

fn of_module(facts: &Facts, btf: &BtfSource, set: &BtfSet, module: BtfModule) -> Option<Check> {
    let name = module.name();
    if let Some(own) = set.module(module) {
        let kind = if own.is_split() { "split over vmlinux" } else { "stands alone" };
        return Some(Check::ok(name, kind));
    }
    if let Some((_, reason)) = set.unusable.iter().find(|(other, _)| *other == module) {
        return Some(Check::limited(
            name,
            format!("of no use: {reason}"),
            "give it with --module-btf FILE, and report the kernel's release",
        ));
    }
    let presence = match module {
        BtfModule::Kvm => facts.kvm.kvm,
        BtfModule::KvmIntel => facts.kvm.kvm_intel,
        BtfModule::KvmAmd => facts.kvm.kvm_amd,
    };
    match presence {
        _ if !btf.files.is_empty() => None,
        Presence::Absent => None,
        Presence::BuiltIn => Some(Check::ok(name, "built in: its types are in vmlinux")),
        Presence::Loaded => Some(Check::limited(
            name,
            "loaded, and without BTF",
            "use a kernel with CONFIG_DEBUG_INFO_BTF_MODULES, or give it with --module-btf FILE",
        )),
    }
}

/// The checks of section `layout`: one a group.
pub(super) fn layout(facts: &Facts, btf: &BtfSource, layout: Layout<'_>) -> Vec<Check> {
    GROUPS
        .iter()
        .map(|group| {
            if group.is_complete(layout) {
                return Check::ok(group.name, FOUND);
            }
            if !group.used.is_here(facts, btf) {
                return Check::ok(group.name, group.used.absence());
            }
            let needed = group.name == CURRENT_VCPU;
            let status = if needed { Status::Missing } else { Status::Limited };
            let (reason, next) = reason(group, btf, layout);
            Check::new(group.name, status, format!("{}: {reason}", group.off), next)
        })
        .collect()
}

/// Why a group is not complete, and what to do.
fn reason(group: &Group, btf: &BtfSource, layout: Layout<'_>) -> (String, &'static str) {
    let (Some(resolved), Ok(set)) = (layout, &btf.set) else {
        return (
            "no BTF".to_owned(),
            "use a kernel with CONFIG_DEBUG_INFO_BTF, or give its BTF with --btf FILE",
        );
    };
    // Of alternatives the last is that of the newest kernels.
    let newest = group.forms.last().copied().unwrap_or_default();
    let first = newest
        .iter()
        .find_map(|name| resolved.missing.iter().find(|(field, _)| field.name == *name));
    let Some((field, why)) = first else {
        return ("not found".to_owned(), "report the kernel's release");
    };
    let home = BtfModule::ALL.into_iter().find(|module| module.name() == field.module);
    let next = if home.is_some_and(|home| set.module(home).is_none()) {
        "give BTF of that module with --module-btf FILE"
    } else {
        "this kernel has other structures than tdtrace knows; report its release"
    };
    (why.clone(), next)
}

/// Every field of the layout.
pub(super) fn fields(btf: &BtfSource, layout: Layout<'_>) -> Vec<FieldReport> {
    let no_btf = btf.set.as_ref().err().map_or("no BTF", String::as_str);
    KernelLayout::FIELDS
        .iter()
        .map(|field| {
            let why = layout.map_or(Some(no_btf), |resolved| resolved.why_missing(field.name));
            FieldReport {
                name: field.name,
                path: field.path,
                module: field.module,
                group: group_of(field.name).map_or("", |group| group.name),
                found: layout.and_then(|resolved| resolved.member(field.name)),
                why: why.map(str::to_owned),
            }
        })
        .collect()
}

fn group_of(field: &str) -> Option<&'static Group> {
    GROUPS.iter().find(|group| group.fields().any(|name| name == field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_in_a_group_and_every_name_in_a_group_is_a_field() {
        for field in KernelLayout::FIELDS {
            assert!(group_of(field.name).is_some(), "{}", field.name);
        }
        for name in GROUPS.iter().flat_map(Group::fields) {
            assert!(KernelLayout::FIELDS.iter().any(|field| field.name == name), "{name}");
        }
    }
}
