// SPDX-License-Identifier: GPL-2.0
/* The truth log: each #VE in the order in which the kernel fetched its information, and totals. */
#include <linux/atomic.h>
#include <linux/debugfs.h>
#include <linux/kallsyms.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/vmalloc.h>

#include "tdlab.h"

static unsigned int log_entries = 1 << 16;
module_param(log_entries, uint, 0444);
MODULE_PARM_DESC(log_entries, "#VEs of which the truth log keeps a line");

struct entry {
	u64 reason, qual, gla, gpa, ip;
	u32 len;
	int pid, tid, cpu;
	u8 context, expected, outcome;
	char comm[TASK_COMM_LEN];
};

struct conversion {
	u64 start, pages;
	bool enc;
	int result;
};

#define LEAVES 64
#define CONVERSIONS 256

static struct entry *entries;
static atomic64_t taken, unexpected, outcomes[3], by_reason[REASONS];
/* TDCALLs by leaf, TDVMCALLs by leaf (0x10000 and above from 64 on); the second are the failed. */
static atomic64_t tdcalls[LEAVES][2], vmcalls[LEAVES + 8][2];
static atomic64_t sums[SUMS];
static struct conversion made[CONVERSIONS];
static atomic_t made_count;

static const char *const outcome_names[] = { "open", "handled", "failed" };
static const char *const context_names[] = { "task", "softirq", "hardirq", "nmi", "user" };

static const char *const sum_names[SUMS] = {
	"mapped.shared", "mapped.private", "refused.shared", "refused.private", "retried",
	"accepted", "asked", "asked.bytes",
};

static u8 context_of(const struct tdlab_ve *ve)
{
	if (ve->ip < TASK_SIZE_MAX)
		return 4;
	return in_nmi() ? 3 : in_hardirq() ? 2 : in_serving_softirq() ? 1 : 0;
}

static struct entry *entry_of(u64 seq)
{
	return seq && seq <= log_entries ? &entries[seq - 1] : NULL;
}

/* Notes that the kernel fetched the information of `ve`; its number, from 1 on. */
u64 tdlab_truth_begin(const struct tdlab_ve *ve)
{
	u64 seq = atomic64_inc_return(&taken);
	struct entry *entry = entry_of(seq);

	if (ve->reason < REASONS)
		atomic64_inc(&by_reason[ve->reason]);
	if (!entry)
		return seq;
	*entry = (struct entry){
		.reason = ve->reason, .qual = ve->qual, .gla = ve->gla, .gpa = ve->gpa,
		.ip = ve->ip, .len = ve->len, .pid = current->tgid, .tid = current->pid,
		.cpu = raw_smp_processor_id(), .context = context_of(ve), .expected = ve->expected,
	};
	memcpy(entry->comm, current->comm, TASK_COMM_LEN);
	return seq;
}

void tdlab_truth_end(const struct tdlab_ve *ve, enum tdlab_outcome outcome)
{
	struct entry *entry = entry_of(ve->seq);

	if (entry)
		entry->outcome = outcome;
	atomic64_inc(&outcomes[outcome]);
	if (outcome != ve->expected)
		atomic64_inc(&unexpected);
}

static int vmcall_index(u64 leaf)
{
	if (leaf >= 0x10000 && leaf < 0x10008)
		return LEAVES + leaf - 0x10000;
	return leaf < LEAVES ? leaf : -1;
}

void tdlab_count_tdcall(u64 leaf, bool failed)
{
	if (leaf < LEAVES)
		atomic64_inc(&tdcalls[leaf][failed]);
}

u64 tdlab_tdcalls(u64 leaf, bool failed)
{
	return leaf < LEAVES ? atomic64_read(&tdcalls[leaf][failed]) : 0;
}

void tdlab_count_vmcall(u64 leaf, bool failed)
{
	int index = vmcall_index(leaf);

	if (index >= 0)
		atomic64_inc(&vmcalls[index][failed]);
}

void tdlab_add(enum tdlab_sum sum, u64 value)
{
	atomic64_add(value, &sums[sum]);
}

void tdlab_note_conversion(u64 start, u64 pages, bool enc, int result)
{
	int index = atomic_inc_return(&made_count) - 1;

	if (index < CONVERSIONS)
		made[index] = (struct conversion){ start, pages, enc, result };
}

static void zero(atomic64_t *counters, int count)
{
	while (count--)
		atomic64_set(counters++, 0);
}

void tdlab_truth_clear(void)
{
	memset(entries, 0, array_size(log_entries, sizeof(*entries)));
	zero(&taken, 1);
	zero(&unexpected, 1);
	zero(outcomes, ARRAY_SIZE(outcomes));
	zero(by_reason, REASONS);
	zero(&tdcalls[0][0], LEAVES * 2);
	zero(&vmcalls[0][0], ARRAY_SIZE(vmcalls) * 2);
	zero(sums, SUMS);
	atomic_set(&made_count, 0);
}

static void *truth_start(struct seq_file *file, loff_t *at)
{
	u64 count = min_t(u64, atomic64_read(&taken), log_entries);

	return *at < count ? &entries[*at] : NULL;
}

static void *truth_next(struct seq_file *file, void *entry, loff_t *at)
{
	++*at;
	return truth_start(file, at);
}

static void truth_stop(struct seq_file *file, void *entry)
{
}

static int truth_show(struct seq_file *file, void *at)
{
	struct entry *entry = at;
	char where[KSYM_SYMBOL_LEN], *blank;

	snprintf(where, sizeof(where), "%pS", (void *)entry->ip);
	/* " [module]" follows a module's symbols. */
	for (blank = where; (blank = strchr(blank, ' '));)
		*blank = '@';
	seq_printf(file, "%td %llu %llx %llx %llx %u %d %d %d %s %llx %s %s %s ",
		   entry - entries + 1, entry->reason, entry->qual, entry->gla, entry->gpa,
		   entry->len, entry->pid, entry->tid, entry->cpu, context_names[entry->context],
		   entry->ip, entry->context == 4 ? "-" : where, outcome_names[entry->expected],
		   outcome_names[entry->outcome]);
	seq_printf(file, "%s\n", entry->comm);
	return 0;
}

static const struct seq_operations truth_ops = {
	.start = truth_start, .next = truth_next, .stop = truth_stop, .show = truth_show,
};

static int truth_open(struct inode *inode, struct file *file)
{
	return seq_open(file, &truth_ops);
}

static const struct file_operations truth_fops = {
	.owner = THIS_MODULE,
	.open = truth_open,
	.read = seq_read,
	.llseek = seq_lseek,
	.release = seq_release,
};

static void show_calls(struct seq_file *file, const char *name, u64 leaf, atomic64_t *counts)
{
	u64 good = atomic64_read(&counts[0]), bad = atomic64_read(&counts[1]);

	if (good || bad)
		seq_printf(file, "%s.%llu %llu\n", name, leaf, good + bad);
	if (bad)
		seq_printf(file, "%s.%llu.failed %llu\n", name, leaf, bad);
}

static int totals_show(struct seq_file *file, void *unused)
{
	u64 count = atomic64_read(&taken);
	int i;

	seq_printf(file, "ve %llu\n", count);
	seq_printf(file, "handled %llu\n", atomic64_read(&outcomes[OUTCOME_HANDLED]));
	seq_printf(file, "failed %llu\n", atomic64_read(&outcomes[OUTCOME_FAILED]));
	seq_printf(file, "unexpected %llu\n", atomic64_read(&unexpected));
	seq_printf(file, "unlogged %llu\n", count > log_entries ? count - log_entries : 0);
	for (i = 0; i < REASONS; i++)
		if (atomic64_read(&by_reason[i]))
			seq_printf(file, "reason.%d %llu\n", i, atomic64_read(&by_reason[i]));
	for (i = 0; i < LEAVES; i++)
		show_calls(file, "tdcall", i, tdcalls[i]);
	for (i = 0; i < ARRAY_SIZE(vmcalls); i++)
		show_calls(file, "vmcall", i < LEAVES ? i : 0x10000 + i - LEAVES, vmcalls[i]);
	for (i = 0; i < SUMS; i++)
		if (atomic64_read(&sums[i]))
			seq_printf(file, "%s %llu\n", sum_names[i], atomic64_read(&sums[i]));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(totals);

static int conversions_show(struct seq_file *file, void *unused)
{
	int i, count = min(atomic_read(&made_count), CONVERSIONS);

	for (i = 0; i < count; i++)
		seq_printf(file, "%llx %llu %s %d\n", made[i].start, made[i].pages,
			   made[i].enc ? "private" : "shared", made[i].result);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(conversions);

void tdlab_truth_files(struct dentry *dir)
{
	debugfs_create_file("truth", 0400, dir, NULL, &truth_fops);
	debugfs_create_file("totals", 0400, dir, NULL, &totals_fops);
	debugfs_create_file("conversions", 0400, dir, NULL, &conversions_fops);
}

int tdlab_truth_init(void)
{
	entries = vzalloc(array_size(log_entries, sizeof(*entries)));
	return entries ? 0 : -ENOMEM;
}

void tdlab_truth_exit(void)
{
	vfree(entries);
}
