// SPDX-License-Identifier: GPL-2.0
/*
 * What user space sees of tdhost, in /sys/kernel/debug/tdhost:
 *
 * control   written: one command a write.
 *           start                              KVM is ready for TDs; after kvm-intel was loaded
 *           step <vcpu> <id> <times> <ret> <rcx> <rdx> <r8> <r9> <r10> ... <r15>
 *                                              what vCPU number <vcpu>, in the order in which they
 *                                              are created, does next; numbers as in C
 *           status <leaf> <skip> <times> <status>
 *                                              how <times> SEAMCALLs end after <skip> others
 *           returned <vcpu> <reason>           KVM_RUN came back with this exit reason
 *           poison <gpa>                       the page that was added there last breaks, and the
 *                                              kernel takes it out of use if it can
 * exits     a line each: vcpu, thread, step, what was in R10 when KVM entered again or "-", and the
 *           reasons with which KVM_RUN came back until then
 * seamcalls a line each: thread, leaf, status
 * dropped   what found no room in the two
 * poisoned  the frame of the page that broke last
 * layout    a line each: field, offset
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "tdhost.h"

static struct dentry *dir;

static int step(const char *line)
{
	struct tdhost_step step;
	u32 vcpu;

	if (sscanf(line, "%u %i %u %lli %lli %lli %lli %lli %lli %lli %lli %lli %lli %lli", &vcpu,
		   &step.id, &step.times, &step.ret, &step.rcx, &step.rdx, &step.r8, &step.r9,
		   &step.r10, &step.r11, &step.r12, &step.r13, &step.r14, &step.r15) != 14)
		return -EINVAL;
	return tdhost_add_step(vcpu, &step);
}

static int run(const char *line)
{
	u32 leaf, skip, times, vcpu, reason;
	u64 status, gpa;

	if (!strcmp(line, "start"))
		return tdhost_start();
	if (!strncmp(line, "step ", 5))
		return step(line + 5);
	if (sscanf(line, "status %u %u %u %lli", &leaf, &skip, &times, &status) == 4)
		return tdhost_add_rule(leaf, skip, times, status);
	if (sscanf(line, "returned %u %u", &vcpu, &reason) == 2)
		return tdhost_returned(vcpu, reason);
	if (sscanf(line, "poison %lli", &gpa) == 1)
		return tdhost_poison(gpa);
	return -EINVAL;
}

static ssize_t control_write(struct file *file, const char __user *from, size_t length, loff_t *at)
{
	char line[512];
	int error;

	if (length >= sizeof(line))
		return -E2BIG;
	if (copy_from_user(line, from, length))
		return -EFAULT;
	line[length] = 0;
	error = run(strim(line));
	return error ?: length;
}

static const struct file_operations control_fops = {
	.owner = THIS_MODULE,
	.write = control_write,
};

static int __init tdhost_init(void)
{
	int error = tdhost_truth_init() ?: tdhost_prepare() ?: tdhost_seamcall_init();

	if (error) {
		tdhost_truth_exit();
		return error;
	}
	dir = debugfs_create_dir("tdhost", NULL);
	debugfs_create_file("control", 0200, dir, NULL, &control_fops);
	tdhost_truth_files(dir);
	tdhost_layout_file(dir);
	return 0;
}
/* It stays until the VM ends: KVM has its functions. */
module_init(tdhost_init);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Plays the TDX module for the kernel's own TDX host code, for tests");
