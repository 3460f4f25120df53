/* SPDX-License-Identifier: GPL-2.0 */
/*
 * tdhost plays the TDX module inside a kernel that was built with TDX host support, and is the vendor
 * module that KVM asks to enable virtualization, so that the kernel's own tdx.c runs TDs without
 * TDX and without VMX. For test VMs only: it patches the kernel that it runs in. What user space sees
 * of it is described at the top of control.c.
 */
#ifndef TDHOST_H
#define TDHOST_H

#include <linux/ptrace.h>
#include <linux/types.h>
#include <asm/insn.h>

/* vCPUs that are known; more are refused by TDH.VP.CREATE. */
#define TDHOST_VCPUS 32
/* Steps that a vCPU can be given. */
#define TDHOST_STEPS 128
/* Statuses that can be waiting at a time. */
#define TDHOST_RULES 32
/* Pages of which it is known where they are. */
#define TDHOST_PAGES 256
/* Exits and SEAMCALLs of which the truth log keeps a line. */
#define TDHOST_EXITS (1 << 15)
#define TDHOST_CALLS (1 << 16)

/* SEAMCALL leaves that more is done for than to say a status (Intel TDX module ABI). */
enum {
	LEAF_VP_ENTER = 0,
	LEAF_MEM_PAGE_AUG = 6,
	LEAF_VP_CREATE = 10,
	LEAF_VP_RD = 26,
	LEAF_MNG_RD = 11,
	LEAF_VP_WR = 43,
};

#define SEAMCALL_OK 0ULL
#define SEAMCALL_OPERAND_INVALID 0xc000010000000000ULL
/* What TDH.VP.ENTER returns when a vCPU has no more steps: the vCPU cannot be recovered. */
#define VP_ENTER_NO_STEP 0x4000000100000000ULL

/* What the guest does next: how often, and the registers with which TDH.VP.ENTER comes back. */
struct tdhost_step {
	u32 id;
	u32 times;
	u64 ret, rcx, rdx, r8, r9, r10, r11, r12, r13, r14, r15;
};

/* truth.c: what happened, in order */
int tdhost_truth_init(void);
void tdhost_truth_exit(void);
struct dentry;
void tdhost_truth_files(struct dentry *dir);
/* Notes an exit of the vCPU's step `id`; its number, from 1 on, or 0 if there is no more room. */
u32 tdhost_note_exit(u32 vcpu, u32 id);
/* Notes that KVM entered again after exit `number`, with this in R10. */
void tdhost_note_answer(u32 number, u64 r10);
/* Notes that KVM_RUN returned after exit `number` with this exit reason. */
void tdhost_note_return(u32 number, u32 reason);
void tdhost_note_call(u64 leaf, u64 status);
void tdhost_note_poison(unsigned long pfn);

/* layout.c: where fields lie */
void tdhost_layout_file(struct dentry *dir);

/* seamcall.c: the TDX module */
int tdhost_seamcall_init(void);
int tdhost_add_step(u32 vcpu, const struct tdhost_step *step);
/* The `times` next calls of `leaf`, after `skip` that succeed, end with `status`. */
int tdhost_add_rule(u32 leaf, u32 skip, u32 times, u64 status);
int tdhost_returned(u32 vcpu, u32 reason);
/* Has the kernel take the page at `gpa` out of use, as after a machine check. */
int tdhost_poison(u64 gpa);

/* vendor.c: what lets KVM run TDs here */
int tdhost_prepare(void);
int tdhost_start(void);
/* The kernel's insn_decode(). */
extern int (*tdhost_decode)(struct insn *insn, const void *at, int length, enum insn_mode mode);

#endif
