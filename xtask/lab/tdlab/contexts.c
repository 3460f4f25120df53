// SPDX-License-Identifier: GPL-2.0
/* Scenarios of many #VEs: from kernel threads on several CPUs, and in interrupts within #VEs. */
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>

#include "tdlab.h"

#define MAX_THREADS 16
#define TICK ns_to_ktime(300 * NSEC_PER_USEC)

struct stormer {
	u64 count;
	int error;
	struct completion done;
	struct task_struct *task;
};

/* A mix as drivers make it; all of them handled. */
static const char *const storm_shapes[] = { "read_4", "write_4", "in_1", "cpuid", "rdmsr" };

static int storm_thread(void *data)
{
	const struct tdlab_shape *shapes[ARRAY_SIZE(storm_shapes)];
	struct stormer *self = data;
	u64 i;

	for (i = 0; i < ARRAY_SIZE(shapes); i++)
		shapes[i] = tdlab_find_shape(storm_shapes[i]);
	for (i = 0; i < self->count && !self->error; i++) {
		self->error = tdlab_run_shape(shapes[i % ARRAY_SIZE(shapes)]);
		if (i % 64 == 0)
			cond_resched();
	}
	complete(&self->done);
	return 0;
}

/* `storm <#VEs> <threads>`: the threads are named tdlab/0 and so on, each on a CPU of its own. */
int tdlab_scenario_storm(const u64 *args)
{
	static struct stormer stormers[MAX_THREADS];
	u64 count = args[0] ?: 1000000, i;
	u64 threads = clamp_t(u64, args[1] ?: 2, 1, MAX_THREADS), started = 0;
	int error = 0;

	for (i = 0; i < threads; i++) {
		struct stormer *stormer = &stormers[i];

		stormer->count = count / threads + (i < count % threads);
		stormer->error = 0;
		init_completion(&stormer->done);
		stormer->task = kthread_create_on_cpu(storm_thread, stormer,
						      i % num_online_cpus(), "tdlab/%u");
		if (IS_ERR(stormer->task)) {
			error = PTR_ERR(stormer->task);
			break;
		}
		started++;
	}
	for (i = 0; i < started; i++)
		wake_up_process(stormers[i].task);
	for (i = 0; i < started; i++) {
		wait_for_completion(&stormers[i].done);
		error = error ?: stormers[i].error;
	}
	return error;
}

static const struct tdlab_shape *in_hard, *in_soft, *failing;
static atomic_t irq_errors, left_in_hard, left_in_soft;

static void soft(struct tasklet_struct *unused)
{
	if (tdlab_run_shape(in_soft) || tdlab_run_shape(failing))
		atomic_inc(&irq_errors);
	atomic_dec(&left_in_soft);
}
static DECLARE_TASKLET(soft_work, soft);

static void hard(struct irq_work *unused)
{
	if (tdlab_run_shape(in_hard))
		atomic_inc(&irq_errors);
	atomic_dec(&left_in_hard);
	tasklet_schedule(&soft_work);
}
static DEFINE_IRQ_WORK(hard_work, hard);

/*
 * Called while the kernel handles an MMIO #VE. An interrupt is now pending, and hits within that
 * handler as soon as this exception returns; the soft interrupt follows before the handler goes on.
 */
static void interrupt_handler(void)
{
	if (in_hardirq() || in_serving_softirq())
		return;
	tdlab_vmm.on_mmio = NULL;
	irq_work_queue(&hard_work);
}

static int nested_round(const struct tdlab_shape *shape)
{
	int error, tries = 1000;

	atomic_set(&left_in_hard, 1);
	atomic_set(&left_in_soft, 1);
	tdlab_vmm.on_mmio = interrupt_handler;
	error = tdlab_run_shape(shape);
	tdlab_vmm.on_mmio = NULL;
	/* ksoftirqd may have taken it over. */
	while ((atomic_read(&left_in_hard) || atomic_read(&left_in_soft)) && --tries)
		usleep_range(50, 200);
	return error ?: tries ? 0 : -ETIMEDOUT;
}

struct ticker {
	struct hrtimer timer;
	atomic_t left;
};

static enum hrtimer_restart tick(struct hrtimer *timer)
{
	struct ticker *ticker = container_of(timer, struct ticker, timer);

	if (tdlab_run_shape(in_hard))
		atomic_inc(&irq_errors);
	if (atomic_dec_return(&ticker->left) <= 0)
		return HRTIMER_NORESTART;
	hrtimer_forward_now(timer, TICK);
	return HRTIMER_RESTART;
}

/*
 * `irq <rounds>`: in each round a #VE of the calling process with one in hard and two in soft
 * interrupt nested into it, the last of them failing; then as many #VEs in timer interrupts while
 * the process makes others.
 */
int tdlab_scenario_irq(const u64 *args)
{
	static struct ticker ticker;
	u64 i, rounds = args[0] ?: 100;
	const struct tdlab_shape *read = tdlab_find_shape("read_4");
	int error = 0;

	in_hard = tdlab_find_shape("write_4");
	in_soft = tdlab_find_shape("in_1");
	failing = tdlab_find_shape("or");
	atomic_set(&irq_errors, 0);
	for (i = 0; i < rounds && !error; i++)
		error = nested_round(read);
	if (error)
		return error;
	atomic_set(&ticker.left, rounds);
	hrtimer_setup(&ticker.timer, tick, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
	hrtimer_start(&ticker.timer, TICK, HRTIMER_MODE_REL_HARD);
	while (atomic_read(&ticker.left) > 0 && !error) {
		error = tdlab_run_shape(read);
		udelay(50);
		cond_resched();
	}
	hrtimer_cancel(&ticker.timer);
	return error ?: atomic_read(&irq_errors) ? -EILSEQ : 0;
}
