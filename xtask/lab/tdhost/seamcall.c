// SPDX-License-Identifier: GPL-2.0
/*
 * The TDX module: SEAMCALL is an invalid instruction here, and the die notifier that sees it answers in
 * the registers (Intel TDX module ABI specification). A vCPU that is entered does its next step, which
 * is an exit. INVEPT, of VMX, is answered as well.
 */
#include <linux/kdebug.h>
#include <linux/mm.h>
#include <linux/notifier.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <asm/io.h>
#include <asm/posted_intr.h>
#include <asm/processor-flags.h>
#include <asm/trapnr.h>
#include <asm/vmx.h>

#include "tdhost.h"

struct vcpu {
	/* Physical address of its root page, which names it. */
	u64 tdvpr;
	struct pi_desc *posted;
	struct tdhost_step steps[TDHOST_STEPS];
	u32 added, done, times;
	/* Number in the truth log of its last exit. */
	u32 exit;
	bool entered;
};

struct rule {
	u32 leaf, skip, times;
	u64 status;
};

/* A page that was added to a TD. */
struct page_at {
	u64 gpa, address;
};

static struct vcpu vcpus[TDHOST_VCPUS];
static u32 vcpu_count;
static struct rule rules[TDHOST_RULES];
static u32 rule_count;
static struct page_at pages[TDHOST_PAGES];
static u32 pages_added;
/* Taken with interrupts off, and in no interrupt that is not masked by that. */
static DEFINE_RAW_SPINLOCK(lock);

static struct vcpu *find(u64 tdvpr)
{
	u32 i;

	/* Pages are used again: the last that was created has the address. */
	for (i = vcpu_count; i > 0; i--)
		if (vcpus[i - 1].tdvpr == tdvpr)
			return &vcpus[i - 1];
	return NULL;
}

/* The status that a rule has for this call. */
static u64 status_of(u32 leaf)
{
	u32 i;

	for (i = 0; i < rule_count; i++) {
		struct rule *rule = &rules[i];

		if (rule->leaf != leaf || !rule->times)
			continue;
		if (rule->skip) {
			rule->skip--;
			return SEAMCALL_OK;
		}
		rule->times--;
		return rule->status;
	}
	return SEAMCALL_OK;
}

static const struct tdhost_step *next_step(struct vcpu *vcpu)
{
	const struct tdhost_step *step;

	if (vcpu->done == vcpu->added)
		return NULL;
	step = &vcpu->steps[vcpu->done];
	if (++vcpu->times >= step->times) {
		vcpu->times = 0;
		vcpu->done++;
	}
	return step;
}

/* Posted interrupts are the guest's now. */
static void take_interrupts(struct vcpu *vcpu)
{
	if (!vcpu->posted)
		return;
	memset(vcpu->posted->pir, 0, sizeof(vcpu->posted->pir));
	pi_clear_on(vcpu->posted);
}

static u64 enter(struct pt_regs *regs)
{
	struct vcpu *vcpu = find(regs->cx);
	const struct tdhost_step *step;

	if (!vcpu)
		return SEAMCALL_OPERAND_INVALID;
	if (vcpu->entered)
		tdhost_note_answer(vcpu->exit, regs->r10);
	vcpu->entered = true;
	take_interrupts(vcpu);
	step = next_step(vcpu);
	vcpu->exit = tdhost_note_exit(vcpu - vcpus, step ? step->id : 0);
	if (!step)
		return VP_ENTER_NO_STEP;
	regs->cx = step->rcx;
	regs->dx = step->rdx;
	regs->r8 = step->r8;
	regs->r9 = step->r9;
	regs->r10 = step->r10;
	regs->r11 = step->r11;
	regs->r12 = step->r12;
	regs->r13 = step->r13;
	regs->r14 = step->r14;
	regs->r15 = step->r15;
	return step->ret;
}

static u64 create(struct pt_regs *regs)
{
	if (vcpu_count == TDHOST_VCPUS)
		return SEAMCALL_OPERAND_INVALID;
	vcpus[vcpu_count++].tdvpr = regs->cx;
	return SEAMCALL_OK;
}

static u64 write_field(struct pt_regs *regs)
{
	struct vcpu *vcpu = find(regs->cx);

	if (!vcpu)
		return SEAMCALL_OPERAND_INVALID;
	if ((u32)regs->dx == POSTED_INTR_DESC_ADDR)
		vcpu->posted = phys_to_virt(regs->r8);
	return SEAMCALL_OK;
}

/* The level is in bits 2:0. */
static u64 add_page(struct pt_regs *regs)
{
	pages[pages_added++ % TDHOST_PAGES] = (struct page_at){ regs->cx & PAGE_MASK, regs->r8 };
	regs->cx = 0;
	regs->dx = 0;
	return SEAMCALL_OK;
}

static u64 seamcall(struct pt_regs *regs)
{
	/* Bits 23:16 are the version. */
	u32 leaf = regs->ax & 0xffff;
	u64 status;

	status = status_of(leaf);
	if (status != SEAMCALL_OK)
		return status;
	switch (leaf) {
	case LEAF_VP_ENTER:
		return enter(regs);
	case LEAF_VP_CREATE:
		return create(regs);
	case LEAF_MEM_PAGE_AUG:
		return add_page(regs);
	case LEAF_VP_WR:
		return write_field(regs);
	case LEAF_VP_RD:
	case LEAF_MNG_RD:
		regs->r8 = 0;
		return SEAMCALL_OK;
	default:
		regs->cx = 0;
		regs->dx = 0;
		return SEAMCALL_OK;
	}
}

static const u8 seamcall_bytes[] = { 0x66, 0x0f, 0x01, 0xcf };
static const u8 invept_bytes[] = { 0x66, 0x0f, 0x38, 0x80 };

/* Bytes to skip of an INVEPT, which KVM executes for the shared pages of a TD; 0 if it is none. There
 * is nothing to invalidate. */
static int invept(struct pt_regs *regs, const u8 *at)
{
	struct insn insn;

	if (memcmp(at, invept_bytes, sizeof(invept_bytes)))
		return 0;
	if (tdhost_decode(&insn, at, MAX_INSN_SIZE, INSN_MODE_64))
		return 0;
	/* Both flags would say that it failed. */
	regs->flags &= ~(X86_EFLAGS_CF | X86_EFLAGS_ZF);
	return insn.length;
}

static int on_die(struct notifier_block *block, unsigned long event, void *data)
{
	struct die_args *args = data;
	struct pt_regs *regs = args->regs;
	u8 at[MAX_INSN_SIZE];
	unsigned long flags;
	u64 leaf, status;
	int skipped;

	if (event != DIE_TRAP || args->trapnr != X86_TRAP_UD || user_mode(regs) ||
	    copy_from_kernel_nofault(at, (void *)regs->ip, sizeof(at)))
		return NOTIFY_DONE;
	skipped = invept(regs, at);
	regs->ip += skipped;
	if (skipped)
		return NOTIFY_STOP;
	if (memcmp(at, seamcall_bytes, sizeof(seamcall_bytes)))
		return NOTIFY_DONE;
	leaf = regs->ax & 0xffff;
	raw_spin_lock_irqsave(&lock, flags);
	status = seamcall(regs);
	tdhost_note_call(leaf, status);
	raw_spin_unlock_irqrestore(&lock, flags);
	regs->ax = status;
	/* The carry flag would say that there is no TDX module. */
	regs->flags &= ~X86_EFLAGS_CF;
	regs->ip += sizeof(seamcall_bytes);
	return NOTIFY_STOP;
}

static struct notifier_block die_block = { .notifier_call = on_die };

int tdhost_add_step(u32 vcpu, const struct tdhost_step *step)
{
	unsigned long flags;
	int error = -ENOSPC;

	if (vcpu >= TDHOST_VCPUS || !step->times)
		return -EINVAL;
	raw_spin_lock_irqsave(&lock, flags);
	if (vcpus[vcpu].added < TDHOST_STEPS) {
		vcpus[vcpu].steps[vcpus[vcpu].added++] = *step;
		error = 0;
	}
	raw_spin_unlock_irqrestore(&lock, flags);
	return error;
}

int tdhost_add_rule(u32 leaf, u32 skip, u32 times, u64 status)
{
	unsigned long flags;
	int error = -ENOSPC;

	raw_spin_lock_irqsave(&lock, flags);
	if (rule_count < TDHOST_RULES) {
		rules[rule_count++] = (struct rule){ leaf, skip, times, status };
		error = 0;
	}
	raw_spin_unlock_irqrestore(&lock, flags);
	return error;
}

int tdhost_returned(u32 vcpu, u32 reason)
{
	unsigned long flags;

	if (vcpu >= TDHOST_VCPUS)
		return -EINVAL;
	raw_spin_lock_irqsave(&lock, flags);
	tdhost_note_return(vcpus[vcpu].exit, reason);
	raw_spin_unlock_irqrestore(&lock, flags);
	return 0;
}

int tdhost_poison(u64 gpa)
{
	unsigned long flags;
	u64 address = 0;
	u32 i, kept;

	raw_spin_lock_irqsave(&lock, flags);
	kept = min_t(u32, pages_added, TDHOST_PAGES);
	for (i = 1; i <= kept && !address; i++)
		if (pages[(pages_added - i) % TDHOST_PAGES].gpa == gpa)
			address = pages[(pages_added - i) % TDHOST_PAGES].address;
	raw_spin_unlock_irqrestore(&lock, flags);
	if (!address)
		return -ENOENT;
	tdhost_note_poison(PHYS_PFN(address));
	/* It fails for a page that KVM still refers to, which it is told of all the same. */
	memory_failure(PHYS_PFN(address), 0);
	return 0;
}

int tdhost_seamcall_init(void)
{
	return register_die_notifier(&die_block);
}
