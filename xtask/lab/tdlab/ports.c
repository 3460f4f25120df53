// SPDX-License-Identifier: GPL-2.0
/*
 * Port I/O of the kernel's own functions as #VEs: a breakpoint on each IN and OUT, which goes on into
 * the #VE's entry with the frame that the CPU would have made.
 */
#include <linux/kallsyms.h>
#include <linux/percpu.h>
#include <linux/uaccess.h>
#include <asm/insn.h>
#include <asm/processor-flags.h>

#include "tdlab.h"

#define MAX_PORTS 64

/* Functions whose IN and OUT are taken: PCI configuration, and the clock's memory. */
static const char *const functions[] = {
	"pci_conf1_read", "pci_conf1_write", "rtc_cmos_read", "rtc_cmos_write",
};

struct instruction {
	u64 ip;
	u8 first, length, size;
	bool in, immediate;
	u8 port;
};

static struct instruction taken[MAX_PORTS];
static unsigned int taken_count;
static void *entry;
static DEFINE_PER_CPU(struct tdlab_ve, raised);

/* Whether the instruction is IN or OUT, and which. */
static bool describe(const u8 *bytes, u64 ip, struct instruction *it)
{
	u8 prefixes = bytes[0] == 0x66, opcode = bytes[prefixes];

	if ((opcode & 0xf4) != 0xe4)
		return false;
	*it = (struct instruction){
		.ip = ip, .first = bytes[0], .in = !(opcode & 2), .immediate = !(opcode & 8),
		.size = !(opcode & 1) ? 1 : prefixes ? 2 : 4, .port = bytes[prefixes + 1],
		.length = prefixes + 1 + !(opcode & 8),
	};
	return true;
}

static int take(struct instruction *it)
{
	static const u8 int3 = 0xcc;

	if (taken_count == MAX_PORTS)
		return -ENOSPC;
	taken[taken_count] = *it;
	smp_store_release(&taken_count, taken_count + 1);
	return reach_poke((void *)it->ip, &int3, 1);
}

static int take_function(const char *name)
{
	unsigned long offset, size, at, start = (unsigned long)reach_symbol(name);
	int (*size_of)(unsigned long, unsigned long *, unsigned long *) =
		reach_symbol("kallsyms_lookup_size_offset");
	u8 bytes[MAX_INSN_SIZE];
	struct instruction it;
	int length, error = 0;
	bool write;

	if (!start || !size_of || !size_of(start, &size, &offset))
		return -ENOENT;
	for (at = start; at < start + size && !error; at += length) {
		if (copy_from_kernel_nofault(bytes, (void *)at, sizeof(bytes)))
			return -EFAULT;
		length = tdlab_insn_length(bytes, NULL, &write);
		if (length <= 0)
			return -EINVAL;
		/* E4 to E7 and EC to EF as a first byte, or behind 66, are nothing else. */
		if (describe(bytes, at, &it) && it.length == length)
			error = take(&it);
	}
	return error;
}

int tdlab_arm_ports(const u64 *args)
{
	unsigned int i;
	int error = 0;

	entry = reach_symbol("asm_exc_virtualization_exception");
	if (!entry)
		return -ENOENT;
	for (i = 0; i < ARRAY_SIZE(functions) && !error; i++)
		error = take_function(functions[i]);
	return error;
}

void tdlab_ports_disarm(void)
{
	unsigned int i;

	for (i = 0; i < taken_count; i++)
		reach_poke((void *)taken[i].ip, &taken[i].first, 1);
	/* The list stays for CPUs that are on their way to the breakpoint. */
	synchronize_rcu();
	taken_count = 0;
}

static const struct instruction *find(u64 ip)
{
	unsigned int i;

	for (i = 0; i < smp_load_acquire(&taken_count); i++)
		if (taken[i].ip == ip)
			return &taken[i];
	return NULL;
}

/*
 * Goes on at the #VE's entry. The entry of a breakpoint leaves room for six words below the stack
 * that it interrupted (arch/x86/entry/entry_64.S), as much as the frame needs at most.
 */
bool tdlab_on_int3(struct pt_regs *regs)
{
	const struct instruction *it = find(regs->ip - 1);
	struct tdlab_ve *ve = this_cpu_ptr(&raised);
	u64 *frame;

	if (!it)
		return false;
	*ve = (struct tdlab_ve){
		.reason = REASON_IO, .len = it->length, .ip = it->ip, .unattended = true,
		.qual = QUAL_IO(it->immediate ? it->port : (u16)regs->dx, it->size, it->in),
		.expected = OUTCOME_HANDLED,
	};
	if (it->immediate)
		ve->qual |= BIT(6);
	tdlab_pend_below(ve);
	frame = (u64 *)(regs->sp & ~15UL) - 5;
	frame[0] = it->ip;
	frame[1] = regs->cs;
	frame[2] = regs->flags;
	frame[3] = regs->sp;
	frame[4] = regs->ss;
	regs->sp = (unsigned long)frame;
	regs->flags &= ~(unsigned long)X86_EFLAGS_IF;
	regs->ip = (unsigned long)entry;
	return true;
}
