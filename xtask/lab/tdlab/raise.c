// SPDX-License-Identifier: GPL-2.0
/*
 * What TDG.VP.VEINFO.GET finds: for each CPU and context the #VE that is about to be taken, and for
 * user mode what stands at the instruction pointer.
 */
#include <linux/hardirq.h>
#include <linux/percpu.h>
#include <linux/sched/task_stack.h>
#include <linux/uaccess.h>
#include <asm/insn.h>
#include <asm/trapnr.h>

#include "tdlab.h"

bool tdlab_survive = true;

static DEFINE_PER_CPU(struct tdlab_ve *[4], pending);
static int (*decode)(struct insn *insn, const void *bytes, int length, enum insn_mode mode);

/* 0 in a task, 1 in a soft interrupt, 2 in a hard one, 3 in an NMI. */
static unsigned int level_of(unsigned int count)
{
	return count & NMI_MASK ? 3 : count & HARDIRQ_MASK ? 2 : count & SOFTIRQ_OFFSET ? 1 : 0;
}

static unsigned int level(void)
{
	return level_of(preempt_count());
}

static void pend_at(struct tdlab_ve *ve, unsigned int at)
{
	__preempt_count_add(1);
	barrier();
	this_cpu_write(pending[at], ve);
}

/* Announces `ve`. Until the kernel fetches it the task stays on this CPU. */
void tdlab_pend(struct tdlab_ve *ve)
{
	pend_at(ve, level());
}

/* The same in a breakpoint's exception, which counts as an NMI, for what it interrupted. */
void tdlab_pend_below(struct tdlab_ve *ve)
{
	pend_at(ve, level_of(preempt_count() - NMI_OFFSET - HARDIRQ_OFFSET));
}

/* A #VE that a user program made with `int $20` before an instruction. */
static struct tdlab_ve *user_ve(struct tdlab_ve *ve)
{
	struct pt_regs *regs = task_pt_regs(current);
	u8 bytes[4];

	/* The frame of this interrupt lies directly below that of the system's entry. */
	if (!current->mm || !user_mode(regs) || level() ||
	    (unsigned long)regs - current_stack_pointer > 2048)
		return NULL;
	if (copy_from_user_nofault(bytes, (void __user *)regs->ip - 2, sizeof(bytes)) ||
	    bytes[0] != 0xcd || bytes[1] != X86_TRAP_VE)
		return NULL;
	*ve = (struct tdlab_ve){ .ip = regs->ip, .expected = OUTCOME_FAILED };
	if (bytes[2] == 0x0f && bytes[3] == 0xa2) {
		ve->reason = REASON_CPUID;
		ve->len = 2;
		ve->expected = OUTCOME_HANDLED;
	} else if (bytes[2] == 0x0f && bytes[3] == 0x09) {
		ve->reason = REASON_WBINVD;
		ve->len = 2;
	} else if (bytes[2] == 0xec) {
		ve->reason = REASON_IO;
		ve->qual = QUAL_IO((u16)regs->dx, 1, 1);
		ve->len = 1;
	} else {
		return NULL;
	}
	return ve;
}

/* Takes the #VE that the kernel asks for, and notes it in the truth log. */
struct tdlab_ve *tdlab_take_pending(void)
{
	static DEFINE_PER_CPU(struct tdlab_ve, user);
	unsigned int at = level();
	struct tdlab_ve *ve = this_cpu_read(pending[at]);

	if (ve) {
		this_cpu_write(pending[at], NULL);
		ve->seq = tdlab_truth_begin(ve);
		barrier();
		/* Interrupts are off and this is an exception: nothing is preempted here. */
		__preempt_count_sub(1);
		if (ve->unattended)
			tdlab_truth_end(ve, ve->expected);
		return ve;
	}
	ve = user_ve(this_cpu_ptr(&user));
	if (ve) {
		/* What becomes of it the program sees: a signal or none. */
		ve->seq = tdlab_truth_begin(ve);
		tdlab_truth_end(ve, ve->expected);
	}
	return ve;
}

static struct pt_regs *survived[64];

void tdlab_mark_survived(struct pt_regs *regs)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(survived); i++)
		if (!cmpxchg(&survived[i], NULL, regs))
			return;
	WARN_ONCE(1, "tdlab: no room for a #VE that failed");
}

bool tdlab_was_survived(struct pt_regs *regs)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(survived); i++)
		if (cmpxchg(&survived[i], regs, NULL) == regs)
			return true;
	return false;
}

/* What the kernel emulates on MMIO, by opcode: MOV, MOVZX, MOVSX. */
static enum tdlab_outcome mmio_outcome(const struct insn *insn, bool *write)
{
	u8 first = insn->opcode.bytes[0], second = insn->opcode.bytes[1];

	*write = false;
	if (insn->opcode.nbytes == 2 && first == 0x0f) {
		if (second == 0xb6 || second == 0xb7 || second == 0xbe || second == 0xbf)
			return OUTCOME_HANDLED;
		return OUTCOME_FAILED;
	}
	if (insn->opcode.nbytes != 1)
		return OUTCOME_FAILED;
	*write = first == 0x88 || first == 0x89 || first == 0xc6 || first == 0xc7;
	return *write || first == 0x8a || first == 0x8b ? OUTCOME_HANDLED : OUTCOME_FAILED;
}

/* Length of the instruction in `bytes`, 15 of them; -EINVAL if it is none. */
int tdlab_insn_length(const u8 *bytes, enum tdlab_outcome *mmio, bool *write)
{
	struct insn insn;

	if (decode(&insn, bytes, MAX_INSN_SIZE, INSN_MODE_64))
		return -EINVAL;
	if (mmio)
		*mmio = mmio_outcome(&insn, write);
	return insn.length;
}

int tdlab_raise_init(void)
{
	decode = reach_symbol("insn_decode");
	return decode ? 0 : -ENOENT;
}

