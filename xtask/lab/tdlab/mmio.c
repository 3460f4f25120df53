// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings without present page-table entries: an access faults, and instead of a bad area the
 * kernel's own #VE handler sees an EPT violation. Behind them lies a device that tdlab plays, or a
 * real one, reached through a second mapping.
 */
#include <linux/ftrace.h>
#include <linux/io.h>
#include <linux/irq_work.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/fixmap.h>
#include <asm/insn.h>
#include <asm/trap_pf.h>

#include "tdlab.h"
#include "tdlab_device.h"

#define MAX_ARMED 64

/* A page of a real device. */
struct armed {
	unsigned long va;
	u64 phys;
	pte_t *pte;
	pte_t before;
	void __iomem *alias;
};

static struct armed armed[MAX_ARMED];
static unsigned int armed_count;
static struct vm_struct *device_area;
static u8 *device_memory;
static void (*handle_ve)(struct pt_regs *regs);
static void (*bad_area)(struct pt_regs *regs, unsigned long error_code, unsigned long address);
static void (*flush_all)(void);

void *tdlab_device_va(void)
{
	return device_area->addr;
}

/* The GPA that an access to `va` is an EPT violation of; 0 if there is none. */
static u64 gpa_of(unsigned long va)
{
	unsigned long offset = va - (unsigned long)device_area->addr;
	unsigned int i;

	if (offset < TDLAB_DEVICE_SIZE)
		return TDLAB_SHARED | (TDLAB_DEVICE + offset);
	for (i = 0; i < READ_ONCE(armed_count); i++)
		if (armed[i].va == (va & PAGE_MASK))
			return TDLAB_SHARED | armed[i].phys | offset_in_page(va);
	return 0;
}

static void transfer(void *at, unsigned int size, bool write, u64 *value)
{
	if (write) {
		memcpy(at, value, size);
	} else {
		*value = 0;
		memcpy(value, at, size);
	}
}

static void transfer_real(void __iomem *at, unsigned int size, bool write, u64 *value)
{
	switch (size | (write ? 16 : 0)) {
	case 1:
		*value = readb(at);
		break;
	case 2:
		*value = readw(at);
		break;
	case 4:
		*value = readl(at);
		break;
	case 8:
		*value = readq(at);
		break;
	case 16 | 1:
		writeb(*value, at);
		break;
	case 16 | 2:
		writew(*value, at);
		break;
	case 16 | 4:
		writel(*value, at);
		break;
	case 16 | 8:
		writeq(*value, at);
		break;
	}
}

/* What the VMM does for TDVMCALL<MMIO>: -EINVAL for a size or GPA that it does not know. */
int tdlab_mmio_access(u64 gpa, unsigned int size, bool write, u64 *value)
{
	u64 phys = gpa & ~TDLAB_SHARED;
	unsigned int i;

	if (size > 8 || !is_power_of_2(size) || !(gpa & TDLAB_SHARED))
		return -EINVAL;
	if (phys >= TDLAB_DEVICE && phys + size <= TDLAB_DEVICE + TDLAB_DEVICE_SIZE) {
		transfer(device_memory + (phys - TDLAB_DEVICE), size, write, value);
		return 0;
	}
	for (i = 0; i < READ_ONCE(armed_count); i++) {
		if (armed[i].phys != (phys & PAGE_MASK))
			continue;
		transfer_real(armed[i].alias + offset_in_page(phys), size, write, value);
		return 0;
	}
	return -EINVAL;
}

/* Stands in for bad_area_nosemaphore(); interrupts are off. */
static void notrace on_bad_area(struct pt_regs *regs, unsigned long error_code,
				unsigned long address)
{
	u64 gpa = user_mode(regs) ? 0 : gpa_of(address);
	struct tdlab_ve ve = { .reason = REASON_EPT, .gla = address, .gpa = gpa, .ip = regs->ip };
	u8 bytes[MAX_INSN_SIZE];
	bool write;
	int length;

	if (!gpa || copy_from_kernel_nofault(bytes, (void *)regs->ip, sizeof(bytes)))
		return bad_area(regs, error_code, address);
	length = tdlab_insn_length(bytes, &ve.expected, &write);
	ve.qual = error_code & X86_PF_WRITE ? QUAL_WRITE : QUAL_READ;
	tdlab_pend(&ve);
	handle_ve(regs);
	if (regs->ip == ve.ip + length && !tdlab_was_survived(regs))
		tdlab_truth_end(&ve, OUTCOME_HANDLED);
	else
		tdlab_truth_end(&ve, OUTCOME_FAILED);
}

static void notrace on_call(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
			    struct ftrace_regs *fregs)
{
	if (!within_module(parent, THIS_MODULE))
		ftrace_regs_set_instruction_pointer(fregs, (unsigned long)on_bad_area);
}

static struct ftrace_ops hook = {
	.func = on_call,
	.flags = FTRACE_OPS_FL_SAVE_REGS | FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_RECURSION,
};

/* Makes accesses to the mapped device page at `va` #VEs. */
static int arm_page(unsigned long va)
{
	struct armed *page = &armed[armed_count];
	unsigned int level;

	if (armed_count == MAX_ARMED)
		return -ENOSPC;
	page->va = va & PAGE_MASK;
	page->pte = lookup_address(page->va, &level);
	if (!page->pte || level != PG_LEVEL_4K || !pte_present(*page->pte))
		return -EINVAL;
	page->before = *page->pte;
	page->phys = (u64)pte_pfn(page->before) << PAGE_SHIFT;
	page->alias = ioremap(page->phys, PAGE_SIZE);
	if (!page->alias)
		return -ENOMEM;
	smp_store_release(&armed_count, armed_count + 1);
	set_pte(page->pte, __pte(pte_val(page->before) & ~_PAGE_PRESENT));
	flush_all();
	return 0;
}

int tdlab_disarm_all(const u64 *args)
{
	unsigned int i, count = armed_count;

	tdlab_ports_disarm();
	for (i = 0; i < count; i++)
		set_pte(armed[i].pte, armed[i].before);
	flush_all();
	/* Whoever faulted before is done once every CPU has passed through user mode or idle. */
	synchronize_rcu();
	WRITE_ONCE(armed_count, 0);
	for (i = 0; i < count; i++)
		iounmap(armed[i].alias);
	return 0;
}

/* `hpet`: from now on the HPET's registers are #VEs, until `disarm`. */
int tdlab_arm_hpet(const u64 *args)
{
	void __iomem **at = reach_symbol("hpet_virt_address");

	if (!at || !*at)
		return -ENODEV;
	return arm_page((unsigned long)*at);
}

/* `ioapic`: the same for the first I/O APIC. */
int tdlab_arm_ioapic(const u64 *args)
{
	return arm_page(__fix_to_virt(FIX_IO_APIC_BASE_0));
}

/* `arm <address> <pages>`: the same for a mapping of a device. */
int tdlab_arm_range(const u64 *args)
{
	u64 page;
	int error = 0;

	for (page = 0; page < args[1] && !error; page++)
		error = arm_page(args[0] + page * PAGE_SIZE);
	return error;
}

static const struct tdlab_driver *driver;

int tdlab_register_driver(const struct tdlab_driver *new)
{
	return cmpxchg(&driver, NULL, new) ? -EBUSY : 0;
}
EXPORT_SYMBOL_GPL(tdlab_register_driver);

void tdlab_unregister_driver(const struct tdlab_driver *old)
{
	cmpxchg(&driver, old, NULL);
}
EXPORT_SYMBOL_GPL(tdlab_unregister_driver);

static void poll_device(struct tasklet_struct *unused)
{
	driver->poll();
}
static DECLARE_TASKLET(poll_work, poll_device);

static void interrupt_device(struct irq_work *unused)
{
	driver->isr();
	tasklet_schedule(&poll_work);
}
static DEFINE_IRQ_WORK(interrupt_work, interrupt_device);

/* `driver <rounds>`: a driver's life, with one frame and one interrupt a round. */
int tdlab_scenario_driver(const u64 *args)
{
	u64 i, rounds = args[0] ?: 10;
	u8 frame[61] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	int error;

	if (!driver)
		return -ENODEV;
	/* In a TD the string accessors of io.h access byte by byte. */
	error = tdlab_td_mode(true);
	if (error)
		return error;
	error = driver->probe((void __iomem *)device_area->addr);
	for (i = 0; i < rounds && !error; i++) {
		driver->xmit(frame, sizeof(frame));
		irq_work_queue(&interrupt_work);
		irq_work_sync(&interrupt_work);
		tasklet_unlock_wait(&poll_work);
		driver->stat();
	}
	tasklet_kill(&poll_work);
	driver->remove();
	tdlab_td_mode(false);
	return error;
}

int tdlab_mmio_init(void)
{
	struct vm_struct *(*area)(unsigned long size, unsigned long flags);
	int error;

	area = reach_symbol("get_vm_area");
	handle_ve = reach_symbol("exc_virtualization_exception");
	bad_area = reach_symbol("bad_area_nosemaphore");
	flush_all = reach_symbol("flush_tlb_all");
	if (!area || !handle_ve || !bad_area || !flush_all)
		return -ENOENT;
	device_memory = vzalloc(TDLAB_DEVICE_SIZE);
	device_area = area(TDLAB_DEVICE_SIZE, VM_IOREMAP);
	if (!device_memory || !device_area)
		return -ENOMEM;
	memset(device_memory, 0xa5, TDLAB_DEVICE_SIZE);
	error = ftrace_set_filter_ip(&hook, (unsigned long)bad_area, 0, 0);
	return error ?: register_ftrace_function(&hook);
}

void tdlab_mmio_exit(void)
{
	tdlab_disarm_all(NULL);
	unregister_ftrace_function(&hook);
	free_vm_area(device_area);
	vfree(device_memory);
}
