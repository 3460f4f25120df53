// SPDX-License-Identifier: GPL-2.0
/* The truth log: each exit with what KVM made of it, and each SEAMCALL, in order. */
#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/seq_file.h>
#include <linux/vmalloc.h>

#include "tdhost.h"

/* Exits to the VMM that are kept of one exit of a TD; converting much memory makes more than one. */
#define RETURNS 8

struct exit {
	u32 vcpu, id;
	int tid;
	bool answered;
	u64 answer;
	u8 returns;
	u32 reasons[RETURNS];
};

struct call {
	u64 status;
	u32 leaf;
	int tid;
};

/* Written with the lock of seamcall.c held. */
static struct exit *exits;
static struct call *calls;
static u32 exit_count, call_count;
/* Exits, returns and calls that found no room. */
static u64 dropped;
/* Frame of the page that broke last; a scenario breaks one. */
static unsigned long poisoned;

u32 tdhost_note_exit(u32 vcpu, u32 id)
{
	if (exit_count == TDHOST_EXITS) {
		dropped++;
		return 0;
	}
	exits[exit_count] = (struct exit){ .vcpu = vcpu, .id = id, .tid = current->pid };
	return ++exit_count;
}

void tdhost_note_answer(u32 number, u64 r10)
{
	if (!number)
		return;
	exits[number - 1].answered = true;
	exits[number - 1].answer = r10;
}

void tdhost_note_return(u32 number, u32 reason)
{
	struct exit *exit;

	if (!number)
		return;
	exit = &exits[number - 1];
	if (exit->returns < RETURNS)
		exit->reasons[exit->returns++] = reason;
	else
		dropped++;
}

void tdhost_note_call(u64 leaf, u64 status)
{
	if (call_count == TDHOST_CALLS) {
		dropped++;
		return;
	}
	calls[call_count++] = (struct call){ status, leaf, current->pid };
}

void tdhost_note_poison(unsigned long pfn)
{
	poisoned = pfn;
}

static int exits_show(struct seq_file *file, void *unused)
{
	u32 i, r;

	for (i = 0; i < READ_ONCE(exit_count); i++) {
		const struct exit *exit = &exits[i];

		seq_printf(file, "%u %d %u ", exit->vcpu, exit->tid, exit->id);
		if (exit->answered)
			seq_printf(file, "%#llx", exit->answer);
		else
			seq_puts(file, "-");
		for (r = 0; r < exit->returns; r++)
			seq_printf(file, " %u", exit->reasons[r]);
		seq_putc(file, '\n');
	}
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(exits);

static int seamcalls_show(struct seq_file *file, void *unused)
{
	u32 i;

	for (i = 0; i < READ_ONCE(call_count); i++)
		seq_printf(file, "%d %u %#llx\n", calls[i].tid, calls[i].leaf, calls[i].status);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(seamcalls);

void tdhost_truth_files(struct dentry *dir)
{
	debugfs_create_file("exits", 0400, dir, NULL, &exits_fops);
	debugfs_create_file("seamcalls", 0400, dir, NULL, &seamcalls_fops);
	debugfs_create_u64("dropped", 0400, dir, &dropped);
	debugfs_create_ulong("poisoned", 0400, dir, &poisoned);
}

int tdhost_truth_init(void)
{
	exits = vcalloc(TDHOST_EXITS, sizeof(*exits));
	calls = vcalloc(TDHOST_CALLS, sizeof(*calls));
	return exits && calls ? 0 : -ENOMEM;
}

void tdhost_truth_exit(void)
{
	vfree(exits);
	vfree(calls);
}
