/* SPDX-License-Identifier: GPL-2.0 */
/*
 * tdlab plays TDX module and VMM inside a stock kernel, so that its real #VE handler runs without
 * TDX. For test VMs only: it patches the kernel that it runs in. What user space sees of it is
 * described at the top of control.c.
 */
#ifndef TDLAB_H
#define TDLAB_H

#include <linux/ptrace.h>
#include <linux/types.h>
#include <linux/version.h>

#include "reach.h"

/* Names of later kernels. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
#define rdmsrq_safe rdmsrl_safe
#endif
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 13, 0)
#define hrtimer_setup(timer, call, clock, mode) \
	do { \
		hrtimer_init(timer, clock, mode); \
		(timer)->function = call; \
	} while (0)
#endif

/* Bit of a GPA that says "shared with the VMM", as in a TD with 52-bit GPAs. */
#define TDLAB_SHARED BIT_ULL(51)
/* The page-table bit that stands for it while conversions run: ignored by the CPU, so that memory
 * converted to shared stays where it is. */
#define TDLAB_SHARED_PTE BIT_ULL(52)

/* The GPA of the device that tdlab itself plays, without the shared bit, and its size in bytes. */
#define TDLAB_DEVICE 0xfea00000ULL
#define TDLAB_DEVICE_SIZE 0x4000UL

/* VMX exit reasons (Intel SDM volume 3, appendix C) of the events that tdlab raises. */
enum {
	REASON_CPUID = 10,
	REASON_HLT = 12,
	REASON_IO = 30,
	REASON_RDMSR = 31,
	REASON_WRMSR = 32,
	REASON_EPT = 48,
	REASON_WBINVD = 54,
	REASONS = 80,
};

/* Exit qualification of an EPT violation: what was done, and that the GLA is valid. */
#define QUAL_READ 0x181ULL
#define QUAL_WRITE 0x182ULL
/* Exit qualification of port I/O (SDM volume 3, table 28-5). */
#define QUAL_IO(port, size, in) ((u64)(port) << 16 | (in) << 3 | ((size) - 1))

/* What became of a #VE. */
enum tdlab_outcome { OUTCOME_OPEN, OUTCOME_HANDLED, OUTCOME_FAILED };

/* A #VE to be raised; what TDG.VP.VEINFO.GET will answer. */
struct tdlab_ve {
	u64 reason;
	u64 qual;
	u64 gla;
	u64 gpa;
	u64 ip;
	u32 len;
	enum tdlab_outcome expected;
	/* Nobody waits for it to come back; what is expected is taken for what became of it. */
	bool unattended;
	/* Number in the truth log, set when the kernel fetches the VE information. */
	u64 seq;
};

/* kernel.c: what the kernel believes of itself */
int tdlab_kernel_init(void);
void tdlab_kernel_exit(void);
int tdlab_td_mode(bool on);
int tdlab_cpu_feature(bool on);
int tdlab_user_gate(bool on);

/* truth.c: the log of what was raised */
int tdlab_truth_init(void);
void tdlab_truth_exit(void);
void tdlab_truth_clear(void);
u64 tdlab_truth_begin(const struct tdlab_ve *ve);
void tdlab_truth_end(const struct tdlab_ve *ve, enum tdlab_outcome outcome);
void tdlab_count_tdcall(u64 leaf, bool failed);
void tdlab_count_vmcall(u64 leaf, bool failed);
void tdlab_note_conversion(u64 start, u64 pages, bool enc, int result);
u64 tdlab_tdcalls(u64 leaf, bool failed);
/* Sums that the TDX module and the VMM keep, in bytes unless they say otherwise. */
enum tdlab_sum {
	/* MapGPA that the VMM carried out, and that it refused. */
	SUM_MAPPED_SHARED,
	SUM_MAPPED_PRIVATE,
	SUM_REFUSED_SHARED,
	SUM_REFUSED_PRIVATE,
	/* MapGPA that had to go on: a number. */
	SUM_RETRIED,
	SUM_ACCEPTED,
	/* Calls of accept_memory(): a number, and bytes. */
	SUM_ASKED,
	SUM_ASKED_BYTES,
	SUMS,
};
void tdlab_add(enum tdlab_sum sum, u64 value);
struct dentry;
void tdlab_truth_files(struct dentry *dir);

/* tdcall.c: TDCALL leaves and TDVMCALLs */
int tdlab_tdcall_init(void);
void tdlab_tdcall_exit(void);
/* How the VMM behaves; read at each call. */
struct tdlab_vmm {
	/* MapGPA answers RETRY after this many bytes; 0: never. */
	u64 map_retry_after;
	/* MapGPA is refused. */
	bool map_refused;
	/* Accepting a 2 MiB page fails, as on a host that maps 4 KiB pages. */
	bool accept_2m_refused;
	/* GetQuote ends with this status after quote_ms. */
	u64 quote_status;
	u32 quote_ms;
	/* Called within each TDVMCALL<MMIO>, with the interrupts of the #VE's handler still to come. */
	void (*on_mmio)(void);
};
extern struct tdlab_vmm tdlab_vmm;

/* raise.c: making the kernel take a #VE */
int tdlab_raise_init(void);
void tdlab_pend(struct tdlab_ve *ve);
void tdlab_pend_below(struct tdlab_ve *ve);
struct tdlab_ve *tdlab_take_pending(void);
void tdlab_mark_survived(struct pt_regs *regs);
bool tdlab_was_survived(struct pt_regs *regs);
int tdlab_insn_length(const u8 *bytes, enum tdlab_outcome *mmio, bool *write);
extern bool tdlab_survive;

/* shapes.c: one instruction of each kind */
struct tdlab_gpr {
	u64 ax, cx, dx, mem;
};
struct tdlab_shape {
	const char *name;
	/* Executes the instruction; whether it was handled. */
	int (*call)(struct tdlab_gpr *gpr);
	/* Of the instruction from the function's begin. */
	u64 offset;
	u64 len;
	u64 reason;
	u64 qual;
	u64 expected;
} __packed;
extern const struct tdlab_shape tdlab_shapes[], tdlab_shapes_end[];
int tdlab_run_shape(const struct tdlab_shape *shape);
const struct tdlab_shape *tdlab_find_shape(const char *name);
void tdlab_dying_insn(u64 va);
int tdlab_scenario_shapes(const u64 *args);
int tdlab_scenario_private(const u64 *args);
int tdlab_scenario_oops(const u64 *args);

/* contexts.c: many at once, and in interrupts */
int tdlab_scenario_storm(const u64 *args);
int tdlab_scenario_irq(const u64 *args);

/* convert.c: private and shared memory */
int tdlab_scenario_convert(const u64 *args);

/* mmio.c: mappings whose accesses are #VEs, and what lies behind them */
int tdlab_mmio_init(void);
void tdlab_mmio_exit(void);
void *tdlab_device_va(void);
int tdlab_mmio_access(u64 gpa, unsigned int size, bool write, u64 *value);
int tdlab_arm_hpet(const u64 *args);
int tdlab_arm_ioapic(const u64 *args);
int tdlab_arm_range(const u64 *args);
int tdlab_disarm_all(const u64 *args);
int tdlab_scenario_driver(const u64 *args);

/* ports.c: port I/O of the kernel's own functions */
int tdlab_arm_ports(const u64 *args);
void tdlab_ports_disarm(void);
bool tdlab_on_int3(struct pt_regs *regs);

#endif
