//! Where the programs find fields in kernel structures.
//!
//! The user side resolves every offset from BTF (vmlinux and the split BTF of the kvm modules) and puts
//! it into the instructions, see [`crate::constant`]; those of a guest it passes in a read-only global. No
//! offset stands in the source; a field that BTF does not have is [`ABSENT`], and what needs it is off.

/// The offset of a field that the running kernel does not have.
pub const ABSENT: u32 = u32::MAX;

/// One field of [`KernelLayout`]: what it is called here and where BTF has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The member of [`KernelLayout`].
    pub name: &'static str,
    /// `struct.member[.member…]` in BTF; embedded structures are followed, pointers are not.
    pub path: &'static str,
    /// Whose BTF has the structure: `vmlinux`, `kvm`, `kvm_intel` or `kvm_amd`. A kernel with KVM
    /// built in has all of them in vmlinux.
    pub module: &'static str,
}

macro_rules! layout {
    ($(#[$about:meta])* $layout:ident: $($(#[$doc:meta])* $name:ident = $path:literal in $module:literal;)*) => {
        $(#[$about])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $layout {
            $($(#[$doc])* pub $name: u32,)*
        }

        impl $layout {
            /// Every field, in the order of the structure.
            pub const FIELDS: &'static [Field] =
                &[$(Field { name: stringify!($name), path: $path, module: $module },)*];

            /// A layout in which nothing was found.
            pub const EMPTY: Self = Self { $($name: ABSENT,)* };

            /// Sets the field called `name`; `false` if there is no such field.
            pub fn set(&mut self, name: &str, offset: u32) -> bool {
                match name {
                    $(stringify!($name) => self.$name = offset,)*
                    _ => return false,
                }
                true
            }

            /// The offset of the field called `name`, if the kernel has it.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<u32> {
                let offset = match name {
                    $(stringify!($name) => self.$name,)*
                    _ => return None,
                };
                (offset != ABSENT).then_some(offset)
            }
        }

        const _: () = assert!(size_of::<$layout>() == 4 * $layout::FIELDS.len());

        #[cfg(feature = "user")]
        // SAFETY: repr(C), only u32 members, so no padding and every bit pattern is valid.
        unsafe impl aya::Pod for $layout {}
    };
}

layout! {
    /// Byte offsets of structure members in a kernel that runs VMs, [`ABSENT`] where there is none.
    KernelLayout:
    /// The first preempt notifier of a task: inside KVM_RUN that of its vCPU.
    task_preempt_notifiers = "task_struct.preempt_notifiers.first" in "vmlinux";
    /// The number of a task (pid_t).
    task_pid = "task_struct.pid" in "vmlinux";
    /// The number of its process (pid_t).
    task_tgid = "task_struct.tgid" in "vmlinux";
    /// The first thread of a task's process (pointer).
    task_group_leader = "task_struct.group_leader" in "vmlinux";
    /// A task's name, 16 bytes.
    task_comm = "task_struct.comm" in "vmlinux";
    /// How long a task has been ready to run without a CPU, in ns (unsigned long long).
    task_run_delay = "task_struct.sched_info.run_delay" in "vmlinux";
    /// Where a vCPU's notifier is linked into that list.
    vcpu_preempt_link = "kvm_vcpu.preempt_notifier.link" in "vmlinux";
    /// The VM of a vCPU (pointer).
    vcpu_kvm = "kvm_vcpu.kvm" in "vmlinux";
    /// The vCPU number that the VMM chose (int).
    vcpu_id = "kvm_vcpu.vcpu_id" in "vmlinux";
    /// KVM's own count of VM exits of a vCPU (u64).
    stat_exits = "kvm_vcpu.stat.exits" in "vmlinux";
    /// KVM's own count of guest FPU unloads, one per KVM_RUN (u64).
    stat_fpu_reload = "kvm_vcpu.stat.fpu_reload" in "vmlinux";
    /// KVM's own count of port I/O exits (u64).
    stat_io_exits = "kvm_vcpu.stat.io_exits" in "vmlinux";
    /// KVM's own count of MMIO exits to user space (u64).
    stat_mmio_exits = "kvm_vcpu.stat.mmio_exits" in "vmlinux";
    /// KVM's own count of exits for a host interrupt (u64).
    stat_irq_exits = "kvm_vcpu.stat.irq_exits" in "vmlinux";
    /// KVM's own count of KVM_RUNs that a signal ended (u64).
    stat_signal_exits = "kvm_vcpu.stat.signal_exits" in "vmlinux";
    /// KVM's own count of hypercalls (u64).
    stat_hypercalls = "kvm_vcpu.stat.hypercalls" in "vmlinux";
    /// The process that created the VM (pid_t).
    kvm_userspace_pid = "kvm.userspace_pid" in "vmlinux";
    /// KVM found a bug of its own in this VM (bool).
    kvm_vm_bugged = "kvm.vm_bugged" in "vmlinux";
    /// The VM cannot run any more (bool).
    kvm_vm_dead = "kvm.vm_dead" in "vmlinux";
    /// What kind of VM it is, `KVM_X86_*_VM` (u8 or unsigned long, low byte read).
    kvm_vm_type = "kvm.arch.vm_type" in "vmlinux";
    /// The VM's directory in debugfs (pointer, or an error).
    kvm_debugfs_dentry = "kvm.debugfs_dentry" in "vmlinux";
    /// The inode of a directory entry (pointer).
    dentry_inode = "dentry.d_inode" in "vmlinux";
    /// The number of an inode (unsigned long or u64).
    inode_number = "inode.i_ino" in "vmlinux";
    /// The VM's kvmclock against the host's clock (s64): minus the time of its creation until
    /// KVM_SET_CLOCK.
    kvm_clock_offset = "kvm.arch.kvmclock_offset" in "vmlinux";
    /// The shared bit of a TD in units of frames, 0 for other VMs (gfn_t).
    kvm_gfn_direct_bits = "kvm.arch.gfn_direct_bits" in "vmlinux";
    /// The VMX exit reason up to 6.15 (union vmx_exit_reason, u32).
    vmx_exit_reason = "vcpu_vmx.exit_reason" in "kvm_intel";
    /// The part that `vcpu_vmx` and `vcpu_tdx` share since 6.16, as seen from `vcpu_vmx`.
    vmx_vt = "vcpu_vmx.vt" in "kvm_intel";
    /// The same part, as seen from `vcpu_tdx`.
    tdx_vt = "vcpu_tdx.vt" in "kvm_intel";
    /// The exit reason in that part (union vmx_exit_reason, u32).
    vt_exit_reason = "vcpu_vt.exit_reason" in "kvm_intel";
    /// The interruption information in that part (u32); of a TD, R9.
    vt_exit_intr_info = "vcpu_vt.exit_intr_info" in "kvm_intel";
    /// The extended exit qualification of a TD (u64).
    tdx_ext_exit_qualification = "vcpu_tdx.ext_exit_qualification" in "kvm_intel";
    /// The guest physical address of a TD's exit (gpa_t).
    tdx_exit_gpa = "vcpu_tdx.exit_gpa" in "kvm_intel";
    /// Register values with which a TD came out of TDH.VP.ENTER.
    tdx_vp_enter_args = "vcpu_tdx.vp_enter_args" in "kvm_intel";
    /// The status of TDH.VP.ENTER (u64).
    tdx_vp_enter_ret = "vcpu_tdx.vp_enter_ret" in "kvm_intel";
    /// R10 among those registers: 0 for a TDVMCALL of the GHCI.
    tdx_args_r10 = "tdx_module_args.r10" in "vmlinux";
    /// R11 among those registers: the TDVMCALL leaf.
    tdx_args_r11 = "tdx_module_args.r11" in "vmlinux";
    /// R12 among those registers: the first argument.
    tdx_args_r12 = "tdx_module_args.r12" in "vmlinux";
    /// R13 among those registers: the second argument.
    tdx_args_r13 = "tdx_module_args.r13" in "vmlinux";
    /// R14 among those registers: the third argument.
    tdx_args_r14 = "tdx_module_args.r14" in "vmlinux";
    /// The status of a machine check (u64).
    mce_status = "mce.status" in "vmlinux";
    /// The address that it names (u64).
    mce_addr = "mce.addr" in "vmlinux";
    /// The bank that reports it (u8).
    mce_bank = "mce.bank" in "vmlinux";
    /// The VMCB of an SVM vCPU (pointer).
    svm_vmcb = "vcpu_svm.vmcb" in "kvm_amd";
    /// The exit code in a VMCB (low 32 bits).
    vmcb_exit_code = "vmcb.control.exit_code" in "kvm_amd";
    /// Pages in the memory slots of a VM (unsigned long).
    kvm_memslot_pages = "kvm.nr_memslot_pages" in "vmlinux";
    /// What KVM and the VMM share of a vCPU (pointer).
    vcpu_run = "kvm_vcpu.run" in "vmlinux";
    /// What a memory fault there is about: bit 3 set for private memory (u64).
    run_fault_flags = "kvm_run.memory_fault.flags" in "vmlinux";
    /// The guest physical address of that fault (u64).
    run_fault_gpa = "kvm_run.memory_fault.gpa" in "vmlinux";
    /// The number of the system call that registers of user mode were saved for (unsigned long).
    regs_orig_ax = "pt_regs.orig_ax" in "vmlinux";
    /// Its second argument (unsigned long).
    regs_si = "pt_regs.si" in "vmlinux";
    /// Its third argument (unsigned long).
    regs_dx = "pt_regs.dx" in "vmlinux";
    /// What an open file stands for: of a VM its `struct kvm` (pointer).
    file_private_data = "file.private_data" in "vmlinux";
    /// The VM of a guest_memfd that is open, up to Linux 6.18 (pointer).
    gmem_kvm = "kvm_gmem.kvm" in "vmlinux";
    /// The same in later kernels.
    gmem_file_kvm = "gmem_file.kvm" in "vmlinux";
    /// Where an open guest_memfd is linked into the list of its file's, up to Linux 6.18.
    gmem_entry = "kvm_gmem.entry" in "vmlinux";
    /// The same in later kernels.
    gmem_file_entry = "gmem_file.entry" in "vmlinux";
    /// That list, up to Linux 6.18: of a mapping of pages, which is a file's (struct list_head).
    mapping_files = "address_space.i_private_list" in "vmlinux";
    /// The file of such a mapping (pointer).
    mapping_host = "address_space.host" in "vmlinux";
    /// The file in what guest_memfd has of it.
    gmem_inode_inode = "gmem_inode.vfs_inode" in "vmlinux";
    /// That list there, in later kernels (struct list_head).
    gmem_inode_files = "gmem_inode.gmem_file_list" in "vmlinux";
}

layout! {
    /// Byte offsets of structure members in the kernel of a guest, [`ABSENT`] where there is none.
    GuestLayout:
    /// Why a #VE was raised: a VMX exit reason (u64).
    ve_exit_reason = "ve_info.exit_reason" in "vmlinux";
    /// The exit qualification (u64).
    ve_exit_qual = "ve_info.exit_qual" in "vmlinux";
    /// Guest linear address of an EPT violation (u64).
    ve_gla = "ve_info.gla" in "vmlinux";
    /// Guest physical address of an EPT violation, shared bit included (u64).
    ve_gpa = "ve_info.gpa" in "vmlinux";
    /// Bytes of the instruction; undefined for EPT violations (u32).
    ve_instr_len = "ve_info.instr_len" in "vmlinux";
    /// VMX instruction information (u32).
    ve_instr_info = "ve_info.instr_info" in "vmlinux";
    /// RAX of what was interrupted (unsigned long).
    regs_ax = "pt_regs.ax" in "vmlinux";
    /// RCX of what was interrupted (unsigned long).
    regs_cx = "pt_regs.cx" in "vmlinux";
    /// RIP of what was interrupted (unsigned long).
    regs_ip = "pt_regs.ip" in "vmlinux";
    /// CS of what was interrupted (u16 or unsigned long, low bits read).
    regs_cs = "pt_regs.cs" in "vmlinux";
    /// RFLAGS of what was interrupted (unsigned long).
    regs_flags = "pt_regs.flags" in "vmlinux";
    /// The nesting of interrupts in the per-CPU block that Linux 6.2 to 6.14 keep it in (int).
    pcpu_hot_preempt_count = "pcpu_hot.preempt_count" in "vmlinux";
}

impl GuestLayout {
    /// What a kernel without BTF is assumed to have. `struct ve_info` is the same in Linux 6.1, 6.12
    /// and 7.3 (`arch/x86/include/asm/tdx.h`), and `struct pt_regs` is the order in which the entry
    /// code pushes registers on x86-64 (`arch/x86/include/asm/ptrace.h`).
    pub const ASSUMED: Self = Self {
        ve_exit_reason: 0,
        ve_exit_qual: 8,
        ve_gla: 16,
        ve_gpa: 24,
        ve_instr_len: 32,
        ve_instr_info: 36,
        regs_ax: 80,
        regs_cx: 88,
        regs_ip: 128,
        regs_cs: 136,
        regs_flags: 144,
        pcpu_hot_preempt_count: ABSENT,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_can_be_set_and_read_by_its_name() {
        let mut layout = KernelLayout::EMPTY;
        for (offset, field) in (0_u32..).zip(KernelLayout::FIELDS) {
            assert_eq!(layout.get(field.name), None);
            assert!(layout.set(field.name, offset));
            assert_eq!(layout.get(field.name), Some(offset));
        }
        assert!(!layout.set("nothing", 1));
    }

    #[test]
    fn the_assumed_layout_of_a_guest_lies_within_the_structures_and_no_two_fields_overlap() {
        let place = |name| GuestLayout::ASSUMED.get(name);
        for (prefix, size) in [("ve_", 40), ("regs_", 168)] {
            let names = GuestLayout::FIELDS.iter().map(|field| field.name);
            let mut offsets: [Option<u32>; 6] = [None; 6];
            for (at, name) in names.filter(|name| name.starts_with(prefix)).enumerate() {
                let offset = place(name).unwrap();
                assert!(offset + 4 <= size && !offsets.contains(&Some(offset)), "{name}");
                offsets[at] = Some(offset);
            }
        }
        assert_eq!(place("pcpu_hot_preempt_count"), None);
    }
}
