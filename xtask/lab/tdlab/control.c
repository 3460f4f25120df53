// SPDX-License-Identifier: GPL-2.0
/*
 * tdlab: the TDX module and the VMM of a stock kernel without TDX, for the guest lab.
 *
 * What user space sees is in /sys/kernel/debug/tdlab:
 *
 *   run          write `<scenario> [number…]`; the write ends with the scenario, and fails with EILSEQ
 *                if the kernel did something else than expected. Reading lists the scenarios.
 *
 *                shapes <rounds>        each instruction of instructions.S once a round
 *                storm <#VEs> <threads> from kernel threads tdlab/<cpu>, as fast as they can
 *                irq <rounds>           in hard and soft interrupts, nested into #VEs of the caller
 *                convert                set_memory_decrypted() and _encrypted(), with RETRY, refused
 *                                       accepts of 2 MiB, and a refusal; then accept_memory()
 *                driver <rounds>        the life of the driver in tdlab_drv.ko
 *                hpet                   from now on accesses to the HPET are #VEs
 *                ioapic                 the same for the first I/O APIC
 *                arm <address> <pages>  the same for a device that is mapped there
 *                ports                  from now on port I/O of some functions (ports.c) is a #VE
 *                disarm                 the end of all these
 *                user 1|0               `int $20` in user mode is a #VE, or an error
 *                td 1|0                 the kernel takes itself for a TD when it converts memory
 *                feature 1|0            so does tdx-guest.ko when it is loaded
 *                private                a #VE on private memory: the kernel's panic
 *                oops                   a #VE that cannot be handled: the caller dies
 *
 *   truth        a line for each #VE, in the order in which the kernel fetched its information:
 *                    seq reason qual gla gpa len pid tid cpu context ip where expected outcome comm
 *                seq from 1 on; reason decimal; qual, gla, gpa, ip hexadecimal without 0x; gpa with
 *                the shared bit (bit 51); len the instruction's length, 0 for EPT violations, where
 *                the TDX module leaves it undefined; pid the process (tgid), tid the thread that was
 *                interrupted; context task, softirq, hardirq, nmi or user; where symbol+offset/size
 *                with @[module] for a module's, `-` in user mode; expected and outcome handled,
 *                failed, or open as long as the kernel has not come back; comm last, as it may hold
 *                blanks. Only the first log_entries (65,536; module parameter) are kept.
 *   totals       `<name> <count>`: ve, handled, failed, unexpected, unlogged (#VEs without a line),
 *                reason.<n>, tdcall.<leaf>, vmcall.<leaf>, and with .failed behind them those TDCALLs
 *                and TDVMCALLs that were refused; bytes that MapGPA made shared and private
 *                (mapped.shared, mapped.private), that it refused to (refused.…), and that were
 *                accepted; retried, MapGPA that had to go on; asked and asked.bytes, calls of
 *                accept_memory(). Names of which there are none are left out.
 *   conversions  `<physical address> <pages> private|shared <result>` for each that `convert` made.
 *   clear        write anything: all of the above is empty again.
 *   survive      1 (default): what the kernel cannot handle is skipped instead of an oops, where the
 *                instruction has no exception table entry of its own.
 *
 * In user mode `int $20` before CPUID, WBINVD or IN is a #VE while `user 1` holds.
 */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#include "tdlab.h"

#define MAX_ARGS 4

struct scenario {
	const char *name;
	int (*run)(const u64 *args);
	/* Does not come back to its caller. */
	bool ends;
};

static int user_gate(const u64 *args)
{
	return tdlab_user_gate(args[0]);
}

static int td_mode(const u64 *args)
{
	return tdlab_td_mode(args[0]);
}

static int cpu_feature(const u64 *args)
{
	return tdlab_cpu_feature(args[0]);
}

static const struct scenario scenarios[] = {
	{ "shapes", tdlab_scenario_shapes },
	{ "storm", tdlab_scenario_storm },
	{ "irq", tdlab_scenario_irq },
	{ "convert", tdlab_scenario_convert },
	{ "driver", tdlab_scenario_driver },
	{ "hpet", tdlab_arm_hpet },
	{ "ioapic", tdlab_arm_ioapic },
	{ "arm", tdlab_arm_range },
	{ "ports", tdlab_arm_ports },
	{ "disarm", tdlab_disarm_all },
	{ "user", user_gate },
	{ "td", td_mode },
	{ "feature", cpu_feature },
	{ "private", tdlab_scenario_private, .ends = true },
	{ "oops", tdlab_scenario_oops, .ends = true },
};

static struct dentry *dir;
static DEFINE_MUTEX(running);

static const struct scenario *parse(char *line, u64 *args)
{
	char *name = strsep(&line, " "), *word;
	int i, count = 0;

	while (count < MAX_ARGS && (word = strsep(&line, " ")))
		if (*word && kstrtou64(word, 0, &args[count++]))
			return NULL;
	for (i = 0; i < ARRAY_SIZE(scenarios); i++)
		if (!strcmp(scenarios[i].name, name))
			return &scenarios[i];
	return NULL;
}

static ssize_t run_write(struct file *file, const char __user *from, size_t length, loff_t *at)
{
	const struct scenario *scenario;
	u64 args[MAX_ARGS] = {};
	char line[80];
	int error;

	if (length >= sizeof(line))
		return -EINVAL;
	if (copy_from_user(line, from, length))
		return -EFAULT;
	line[length] = 0;
	scenario = parse(strim(line), args);
	if (!scenario)
		return -EINVAL;
	if (scenario->ends)
		return scenario->run(args);
	mutex_lock(&running);
	error = scenario->run(args);
	mutex_unlock(&running);
	return error ?: length;
}

static int run_show(struct seq_file *file, void *unused)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(scenarios); i++)
		seq_printf(file, "%s\n", scenarios[i].name);
	return 0;
}

static int run_open(struct inode *inode, struct file *file)
{
	return single_open(file, run_show, NULL);
}

static const struct file_operations run_fops = {
	.owner = THIS_MODULE,
	.open = run_open,
	.read = seq_read,
	.write = run_write,
	.llseek = seq_lseek,
	.release = single_release,
};

static ssize_t clear_write(struct file *file, const char __user *from, size_t length, loff_t *at)
{
	mutex_lock(&running);
	tdlab_truth_clear();
	mutex_unlock(&running);
	return length;
}

static const struct file_operations clear_fops = {
	.owner = THIS_MODULE,
	.write = clear_write,
};

static int __init tdlab_init(void)
{
	int error = tdlab_kernel_init();

	error = error ?: tdlab_truth_init();
	error = error ?: tdlab_raise_init();
	error = error ?: tdlab_mmio_init();
	error = error ?: tdlab_tdcall_init();
	if (error)
		/* The VM is of no use any more; nothing is undone. */
		return error;
	dir = debugfs_create_dir("tdlab", NULL);
	debugfs_create_file("run", 0600, dir, NULL, &run_fops);
	debugfs_create_file("clear", 0200, dir, NULL, &clear_fops);
	debugfs_create_bool("survive", 0600, dir, &tdlab_survive);
	tdlab_truth_files(dir);
	return 0;
}

static void __exit tdlab_exit(void)
{
	debugfs_remove(dir);
	tdlab_tdcall_exit();
	tdlab_mmio_exit();
	tdlab_truth_exit();
	tdlab_kernel_exit();
}

module_init(tdlab_init);
module_exit(tdlab_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("TDX module and VMM for the kernel's #VE handler, in test VMs only");
