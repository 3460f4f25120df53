// SPDX-License-Identifier: GPL-2.0
/*
 * The TDX module and the VMM: TDCALL is an invalid instruction here, and the die notifier that sees
 * it answers in the registers (Intel TDX module ABI specification; GHCI specification).
 */
#include <linux/kdebug.h>
#include <linux/notifier.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <asm/insn.h>
#include <asm/io.h>
#include <asm/msr.h>
#include <asm/trapnr.h>

#include "tdlab.h"

enum {
	TDG_VP_VMCALL = 0,
	TDG_VP_INFO = 1,
	TDG_MR_RTMR_EXTEND = 2,
	TDG_VP_VEINFO_GET = 3,
	TDG_MR_REPORT = 4,
	TDG_MEM_PAGE_ACCEPT = 6,
	TDG_VM_RD = 7,
	TDG_VM_WR = 8,
};

enum {
	VMCALL_INFO = 0x10000,
	VMCALL_MAP_GPA = 0x10001,
	VMCALL_GET_QUOTE = 0x10002,
	VMCALL_FATAL = 0x10003,
};

#define VMCALL_OK 0ULL
#define VMCALL_RETRY 1ULL
#define VMCALL_INVALID_OPERAND 0x8000000000000000ULL
#define TDCALL_OK 0ULL
#define TDCALL_OPERAND_INVALID 0xc000010000000000ULL
#define TDCALL_NO_VE_INFO 0xc000070400000000ULL
#define TDCALL_PAGE_SIZE_MISMATCH 0xc0000b0b00000000ULL

#define REPORT_BYTES 1024
#define REPORTDATA_BYTES 64
#define REPORTDATA_AT 128

struct tdlab_vmm tdlab_vmm;

/* The quote buffer's header (GHCI specification, GetQuote). */
struct quote_buffer {
	u64 version;
	u64 status;
	u32 in_len;
	u32 out_len;
	u8 data[];
};
#define QUOTE_IN_FLIGHT ~0ULL
#define QUOTE_BYTES 4096

static struct quote_buffer *quote;

static void finish_quote(struct work_struct *work)
{
	u32 i;

	for (i = 0; i < QUOTE_BYTES; i++)
		quote->data[i] = i * 7;
	quote->out_len = QUOTE_BYTES;
	smp_store_release(&quote->status, tdlab_vmm.quote_status);
}
static DECLARE_DELAYED_WORK(quote_work, finish_quote);

static u64 get_quote(struct pt_regs *regs)
{
	u64 gpa = regs->r12 & ~(TDLAB_SHARED | TDLAB_SHARED_PTE);

	if (regs->r13 < sizeof(*quote) + QUOTE_BYTES || !IS_ALIGNED(gpa, PAGE_SIZE))
		return VMCALL_INVALID_OPERAND;
	quote = phys_to_virt(gpa);
	quote->status = QUOTE_IN_FLIGHT;
	schedule_delayed_work(&quote_work, msecs_to_jiffies(tdlab_vmm.quote_ms));
	return VMCALL_OK;
}

static u64 map_gpa(struct pt_regs *regs)
{
	bool shared = regs->r12 & (TDLAB_SHARED | TDLAB_SHARED_PTE);
	enum tdlab_sum mapped = shared ? SUM_MAPPED_SHARED : SUM_MAPPED_PRIVATE;
	u64 after = tdlab_vmm.map_retry_after;

	if (tdlab_vmm.map_refused) {
		tdlab_add(shared ? SUM_REFUSED_SHARED : SUM_REFUSED_PRIVATE, regs->r13);
		return VMCALL_INVALID_OPERAND;
	}
	if (!after || regs->r13 <= after) {
		tdlab_add(mapped, regs->r13);
		return VMCALL_OK;
	}
	tdlab_add(mapped, after);
	tdlab_add(SUM_RETRIED, 1);
	/* The caller goes on where this says. */
	regs->r11 = regs->r12 + after;
	return VMCALL_RETRY;
}

static u64 port_io(struct pt_regs *regs)
{
	u16 port = regs->r14;

	switch (regs->r12 | (regs->r13 ? 8 : 0)) {
	case 1:
		regs->r11 = inb(port);
		return VMCALL_OK;
	case 2:
		regs->r11 = inw(port);
		return VMCALL_OK;
	case 4:
		regs->r11 = inl(port);
		return VMCALL_OK;
	case 8 | 1:
		outb(regs->r15, port);
		return VMCALL_OK;
	case 8 | 2:
		outw(regs->r15, port);
		return VMCALL_OK;
	case 8 | 4:
		outl(regs->r15, port);
		return VMCALL_OK;
	default:
		return VMCALL_INVALID_OPERAND;
	}
}

static u64 mmio(struct pt_regs *regs)
{
	u64 value = regs->r15;
	int error;

	if (tdlab_vmm.on_mmio)
		tdlab_vmm.on_mmio();
	error = tdlab_mmio_access(regs->r14, regs->r12, regs->r13, &value);
	if (error)
		return VMCALL_INVALID_OPERAND;
	if (!regs->r13)
		regs->r11 = value;
	return VMCALL_OK;
}

static u64 answer_cpuid(struct pt_regs *regs)
{
	u32 ax = regs->r12, bx, cx = regs->r13, dx;

	asm volatile("cpuid" : "+a"(ax), "=b"(bx), "+c"(cx), "=d"(dx));
	regs->r12 = ax;
	regs->r13 = bx;
	regs->r14 = cx;
	regs->r15 = dx;
	return VMCALL_OK;
}

static u64 vmcall(struct pt_regs *regs)
{
	switch (regs->r11) {
	case REASON_CPUID:
		return answer_cpuid(regs);
	case REASON_HLT:
	case REASON_WRMSR:
	case VMCALL_INFO:
		return VMCALL_OK;
	case REASON_IO:
		return port_io(regs);
	case REASON_RDMSR:
		return rdmsrq_safe(regs->r12, (u64 *)&regs->r11) ? VMCALL_INVALID_OPERAND :
								   VMCALL_OK;
	case REASON_EPT:
		return mmio(regs);
	case VMCALL_MAP_GPA:
		return map_gpa(regs);
	case VMCALL_GET_QUOTE:
		return get_quote(regs);
	case VMCALL_FATAL:
		panic("tdlab: the guest reported a fatal error");
	default:
		return VMCALL_INVALID_OPERAND;
	}
}

static u64 ve_info(struct pt_regs *regs)
{
	struct tdlab_ve *ve = tdlab_take_pending();

	if (!ve)
		return TDCALL_NO_VE_INFO;
	regs->cx = ve->reason;
	regs->dx = ve->qual;
	regs->r8 = ve->gla;
	regs->r9 = ve->gpa;
	regs->r10 = ve->len;
	return TDCALL_OK;
}

static u64 report(struct pt_regs *regs)
{
	u8 *to = phys_to_virt(regs->cx), data[REPORTDATA_BYTES];

	if (!IS_ALIGNED(regs->cx, REPORT_BYTES) || !IS_ALIGNED(regs->dx, REPORTDATA_BYTES))
		return TDCALL_OPERAND_INVALID;
	/* It may lie within the report. */
	memcpy(data, phys_to_virt(regs->dx), sizeof(data));
	memset(to, 0, REPORT_BYTES);
	to[0] = 0x81;
	memcpy(to + REPORTDATA_AT, data, REPORTDATA_BYTES);
	return TDCALL_OK;
}

static u64 tdcall(struct pt_regs *regs)
{
	u64 leaf;

	switch (regs->ax) {
	case TDG_VP_VMCALL:
		leaf = regs->r11;
		regs->r10 = vmcall(regs);
		tdlab_count_vmcall(leaf, regs->r10 != VMCALL_OK);
		return TDCALL_OK;
	case TDG_VP_INFO:
		regs->cx = 52;
		regs->dx = BIT_ULL(28);
		regs->r8 = num_online_cpus();
		return TDCALL_OK;
	case TDG_MR_RTMR_EXTEND:
		return regs->dx < 4 ? TDCALL_OK : TDCALL_OPERAND_INVALID;
	case TDG_VP_VEINFO_GET:
		return ve_info(regs);
	case TDG_MR_REPORT:
		return report(regs);
	case TDG_MEM_PAGE_ACCEPT:
		if (tdlab_vmm.accept_2m_refused && (regs->cx & 7))
			return TDCALL_PAGE_SIZE_MISMATCH;
		/* 4 KiB, 2 MiB or 1 GiB. */
		tdlab_add(SUM_ACCEPTED, PAGE_SIZE << (9 * (regs->cx & 7)));
		return TDCALL_OK;
	case TDG_VM_RD:
	case TDG_VM_WR:
		regs->r8 = 0;
		return TDCALL_OK;
	default:
		return TDCALL_OPERAND_INVALID;
	}
}

static bool is_tdcall(unsigned long ip)
{
	static const u8 bytes[] = { 0x66, 0x0f, 0x01, 0xcc };
	u8 at[sizeof(bytes)];

	return !copy_from_kernel_nofault(at, (void *)ip, sizeof(at)) &&
	       !memcmp(at, bytes, sizeof(at));
}

/* Skips an instruction whose #VE the kernel could not handle, in place of the oops. */
static int survive(struct pt_regs *regs)
{
	u8 bytes[MAX_INSN_SIZE];
	bool write;
	int length;

	if (copy_from_kernel_nofault(bytes, (void *)regs->ip, sizeof(bytes)))
		return NOTIFY_DONE;
	length = tdlab_insn_length(bytes, NULL, &write);
	if (length <= 0)
		return NOTIFY_DONE;
	regs->ip += length;
	tdlab_mark_survived(regs);
	return NOTIFY_STOP;
}

static int on_die(struct notifier_block *block, unsigned long event, void *data)
{
	struct die_args *args = data;
	u64 leaf, status;

	if (user_mode(args->regs))
		return NOTIFY_DONE;
	if (event == DIE_GPF && args->trapnr == X86_TRAP_VE && tdlab_survive)
		return survive(args->regs);
	if (event == DIE_INT3)
		return tdlab_on_int3(args->regs) ? NOTIFY_STOP : NOTIFY_DONE;
	if (event != DIE_TRAP || args->trapnr != X86_TRAP_UD || !is_tdcall(args->regs->ip))
		return NOTIFY_DONE;
	leaf = args->regs->ax;
	status = tdcall(args->regs);
	tdlab_count_tdcall(leaf, status != TDCALL_OK);
	args->regs->ax = status;
	args->regs->ip += 4;
	return NOTIFY_STOP;
}

static struct notifier_block die_block = { .notifier_call = on_die };

int tdlab_tdcall_init(void)
{
	tdlab_vmm.quote_ms = 300;
	return register_die_notifier(&die_block);
}

void tdlab_tdcall_exit(void)
{
	cancel_delayed_work_sync(&quote_work);
	unregister_die_notifier(&die_block);
}
