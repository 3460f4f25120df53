// SPDX-License-Identifier: GPL-2.0
/* Scenarios of single #VEs: all shapes once, one on private memory, one that nobody recovers. */
#include <linux/irqflags.h>
#include <linux/printk.h>
#include <linux/string.h>

#include "tdlab.h"

/* Nothing of the device listens here, so that any access is as good as another. */
#define SHAPE_OFFSET 0x800
#define CPUID_HYPERVISOR 0x40000000
#define MSR_OF_TSC 0x10
#define PORT_OF_DIAGNOSTICS 0x80

extern const u64 tdlab_dying_offset;

static struct tdlab_ve ve_of(const struct tdlab_shape *shape, u64 gpa)
{
	struct tdlab_ve ve = {
		.reason = shape->reason, .qual = shape->qual, .ip = (u64)shape->call + shape->offset,
		.expected = shape->expected,
	};

	if (shape->reason == REASON_EPT) {
		ve.gla = (u64)tdlab_device_va() + SHAPE_OFFSET;
		ve.gpa = gpa;
	} else {
		/* Undefined for EPT violations. */
		ve.len = shape->len;
	}
	return ve;
}

/* Takes the #VE of `shape`; -EILSEQ if the kernel did not do with it what was expected. */
static int run_at(const struct tdlab_shape *shape, u64 gpa)
{
	struct tdlab_ve ve = ve_of(shape, gpa);
	struct tdlab_gpr gpr = { .mem = ve.gla };
	enum tdlab_outcome outcome;
	unsigned long flags;

	if (shape->reason == REASON_CPUID)
		gpr.ax = CPUID_HYPERVISOR;
	else if (shape->reason == REASON_IO)
		gpr.dx = PORT_OF_DIAGNOSTICS;
	else
		gpr.cx = MSR_OF_TSC;
	local_save_flags(flags);
	tdlab_pend(&ve);
	if (shape->reason == REASON_HLT)
		local_irq_disable();
	outcome = shape->call(&gpr) ? OUTCOME_HANDLED : OUTCOME_FAILED;
	local_irq_restore(flags);
	tdlab_truth_end(&ve, outcome);
	if (outcome == ve.expected)
		return 0;
	pr_err("shape %s: expected %d, came to %d\n", shape->name, ve.expected, outcome);
	return -EILSEQ;
}

int tdlab_run_shape(const struct tdlab_shape *shape)
{
	return run_at(shape, TDLAB_SHARED | (TDLAB_DEVICE + SHAPE_OFFSET));
}

const struct tdlab_shape *tdlab_find_shape(const char *name)
{
	const struct tdlab_shape *shape;

	for (shape = tdlab_shapes; shape < tdlab_shapes_end; shape++)
		if (!strcmp(shape->name, name))
			return shape;
	return NULL;
}

int tdlab_scenario_shapes(const u64 *args)
{
	const struct tdlab_shape *shape;
	u64 round, rounds = args[0] ?: 1;
	int error = 0;

	for (round = 0; round < rounds; round++)
		for (shape = tdlab_shapes; shape < tdlab_shapes_end; shape++)
			error = tdlab_run_shape(shape) ?: error;
	return error;
}

/* Ends in the kernel's panic. */
int tdlab_scenario_private(const u64 *args)
{
	return run_at(tdlab_find_shape("read_4"), TDLAB_DEVICE);
}

/* Ends in an oops, and with it the calling process. */
int tdlab_scenario_oops(const u64 *args)
{
	struct tdlab_ve ve = {
		.reason = REASON_EPT, .qual = QUAL_READ | QUAL_WRITE,
		.gla = (u64)tdlab_device_va(), .gpa = TDLAB_SHARED | TDLAB_DEVICE,
		.ip = (u64)tdlab_dying_insn + tdlab_dying_offset, .expected = OUTCOME_FAILED,
	};

	tdlab_survive = false;
	tdlab_pend(&ve);
	tdlab_dying_insn(ve.gla);
	return -EILSEQ;
}
