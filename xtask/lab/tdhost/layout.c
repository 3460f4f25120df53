// SPDX-License-Identifier: GPL-2.0
/* Where the fields that tdtrace reads lie, as the compiler has them. */
#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <asm/kvm_host.h>
#include <asm/mce.h>
#include <asm/ptrace.h>

#include "tdx.h"
#include "vmx.h"

#include "tdhost.h"

#define FIELD(type, member) { #type "." #member, offsetof(struct type, member) }

static const struct {
	const char *name;
	size_t offset;
} fields[] = {
	FIELD(task_struct, preempt_notifiers.first),
	FIELD(task_struct, group_leader),
	FIELD(task_struct, comm),
	FIELD(task_struct, pid),
	FIELD(task_struct, tgid),
	FIELD(task_struct, sched_info.run_delay),
	FIELD(kvm_vcpu, preempt_notifier.link),
	FIELD(kvm_vcpu, kvm),
	FIELD(kvm_vcpu, vcpu_id),
	FIELD(kvm_vcpu, run),
	FIELD(kvm_vcpu, stat.exits),
	FIELD(kvm_vcpu, stat.fpu_reload),
	FIELD(kvm_vcpu, stat.io_exits),
	FIELD(kvm_vcpu, stat.mmio_exits),
	FIELD(kvm_vcpu, stat.irq_exits),
	FIELD(kvm_vcpu, stat.signal_exits),
	FIELD(kvm_vcpu, stat.hypercalls),
	FIELD(kvm, userspace_pid),
	FIELD(kvm, debugfs_dentry),
	FIELD(kvm, nr_memslot_pages),
	FIELD(kvm, vm_bugged),
	FIELD(kvm, vm_dead),
	FIELD(kvm, arch.kvmclock_offset),
	FIELD(kvm, arch.vm_type),
	FIELD(kvm, arch.gfn_direct_bits),
	FIELD(kvm_run, memory_fault.flags),
	FIELD(kvm_run, memory_fault.gpa),
	FIELD(mce, status),
	FIELD(mce, addr),
	FIELD(mce, bank),
	FIELD(pt_regs, orig_ax),
	FIELD(pt_regs, si),
	FIELD(pt_regs, dx),
	FIELD(file, private_data),
	FIELD(address_space, host),
	FIELD(dentry, d_inode),
	FIELD(inode, i_ino),
	FIELD(vcpu_vmx, vt),
	FIELD(vcpu_vt, exit_reason),
	FIELD(vcpu_vt, exit_intr_info),
	FIELD(vcpu_tdx, vt),
	FIELD(vcpu_tdx, ext_exit_qualification),
	FIELD(vcpu_tdx, exit_gpa),
	FIELD(vcpu_tdx, vp_enter_args),
	FIELD(vcpu_tdx, vp_enter_ret),
	FIELD(tdx_module_args, r10),
	FIELD(tdx_module_args, r11),
	FIELD(tdx_module_args, r12),
	FIELD(tdx_module_args, r13),
	FIELD(tdx_module_args, r14),
};

static int layout_show(struct seq_file *file, void *unused)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(fields); i++)
		seq_printf(file, "%s %zu\n", fields[i].name, fields[i].offset);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(layout);

void tdhost_layout_file(struct dentry *dir)
{
	debugfs_create_file("layout", 0400, dir, NULL, &layout_fops);
}
