/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One instruction of each kind, behind `int $20`, which is vector 20 with the saved instruction
 * pointer at the instruction itself: so does a #VE look.
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/ibt.h>

#define GPR_AX 0
#define GPR_CX 8
#define GPR_DX 16
#define GPR_MEM 24

#define HANDLED 1
#define FAILED 2
#define EPT_READ 0x181
#define EPT_WRITE 0x182
#define EPT_BOTH 0x183
/* Port 0x80, direction, size less 1; a repeated string. */
#define IO_IN_1 0x800008
#define IO_IN_2 0x800009
#define IO_IN_4 0x80000b
#define IO_OUT_1 0x800000
#define IO_OUT_2 0x800001
#define IO_OUT_4 0x800003
#define IO_REP_INS_1 0x800038

	.section .rodata.str1.1, "aMS", @progbits, 1
	.section .rodata
	.balign 8
SYM_DATA_START(tdlab_shapes)
	.previous

/* Calls with %rdi at a struct tdlab_gpr; %rsi is where the instruction accesses memory. */
.macro SHAPE name:req reason:req qual:req expected:req insn:vararg
	.text
SYM_FUNC_START_LOCAL(shape_\name)
	ENDBR
	push	%rbx
	push	%rdi
	mov	GPR_AX(%rdi), %rax
	mov	GPR_CX(%rdi), %rcx
	mov	GPR_DX(%rdi), %rdx
	mov	GPR_MEM(%rdi), %rsi
	int	$20
.Linsn_\name:
	\insn
.Lbehind_\name:
	pop	%rdi
	mov	%rax, GPR_AX(%rdi)
	mov	%rcx, GPR_CX(%rdi)
	mov	%rdx, GPR_DX(%rdi)
	mov	$1, %eax
	pop	%rbx
	RET
.Lfailed_\name:
	pop	%rdi
	xor	%eax, %eax
	pop	%rbx
	RET
	_ASM_EXTABLE(.Linsn_\name, .Lfailed_\name)
SYM_FUNC_END(shape_\name)
	.section .rodata.str1.1
.Lname_\name:
	.asciz	"\name"
	.section .rodata
	.quad	.Lname_\name
	.quad	shape_\name
	.quad	.Linsn_\name - shape_\name
	.quad	.Lbehind_\name - .Linsn_\name
	.quad	\reason
	.quad	\qual
	.quad	\expected
.endm

	SHAPE read_1 48 EPT_READ HANDLED movb (%rsi), %al
	SHAPE read_2 48 EPT_READ HANDLED movw (%rsi), %ax
	SHAPE read_4 48 EPT_READ HANDLED movl (%rsi), %eax
	SHAPE read_8 48 EPT_READ HANDLED movq (%rsi), %rax
	SHAPE write_1 48 EPT_WRITE HANDLED movb %al, (%rsi)
	SHAPE write_2 48 EPT_WRITE HANDLED movw %ax, (%rsi)
	SHAPE write_4 48 EPT_WRITE HANDLED movl %eax, (%rsi)
	SHAPE write_8 48 EPT_WRITE HANDLED movq %rax, (%rsi)
	SHAPE write_imm_1 48 EPT_WRITE HANDLED movb $0x5a, (%rsi)
	SHAPE write_imm_2 48 EPT_WRITE HANDLED movw $0x5a5a, (%rsi)
	SHAPE write_imm_4 48 EPT_WRITE HANDLED movl $0x5a5a5a5a, (%rsi)
	SHAPE write_imm_8 48 EPT_WRITE HANDLED movq $0x5a5a5a5a, (%rsi)
	SHAPE movzx_1 48 EPT_READ HANDLED movzbl (%rsi), %eax
	SHAPE movzx_2 48 EPT_READ HANDLED movzwl (%rsi), %eax
	SHAPE movsx_1 48 EPT_READ HANDLED movsbl (%rsi), %eax
	SHAPE movsx_2 48 EPT_READ HANDLED movswl (%rsi), %eax
	SHAPE in_1 30 IO_IN_1 HANDLED inb %dx, %al
	SHAPE in_2 30 IO_IN_2 HANDLED inw %dx, %ax
	SHAPE in_4 30 IO_IN_4 HANDLED inl %dx, %eax
	SHAPE out_1 30 IO_OUT_1 HANDLED outb %al, %dx
	SHAPE out_2 30 IO_OUT_2 HANDLED outw %ax, %dx
	SHAPE out_4 30 IO_OUT_4 HANDLED outl %eax, %dx
	SHAPE cpuid 10 0 HANDLED cpuid
	SHAPE rdmsr 31 0 HANDLED rdmsr
	SHAPE wrmsr 32 0 HANDLED wrmsr
	SHAPE hlt 12 0 HANDLED hlt
	SHAPE movslq 48 EPT_READ FAILED movslq (%rsi), %rax
	SHAPE add 48 EPT_BOTH FAILED addl %eax, (%rsi)
	SHAPE or 48 EPT_BOTH FAILED orl %eax, (%rsi)
	SHAPE and 48 EPT_BOTH FAILED andl %eax, (%rsi)
	SHAPE test 48 EPT_READ FAILED testl %eax, (%rsi)
	SHAPE cmp 48 EPT_READ FAILED cmpl %eax, (%rsi)
	SHAPE xchg 48 EPT_BOTH FAILED xchgl %eax, (%rsi)
	SHAPE inc 48 EPT_BOTH FAILED incl (%rsi)
	SHAPE lock_bts 48 EPT_BOTH FAILED lock btsl %eax, (%rsi)
	SHAPE movs 48 EPT_READ FAILED movsb
	SHAPE rep_insb 30 IO_REP_INS_1 FAILED rep insb
	SHAPE wbinvd 54 0 FAILED wbinvd

	.section .rodata
SYM_DATA_END(tdlab_shapes)
SYM_DATA(tdlab_shapes_end, .quad 0)

/* The same without an exception table entry: what fails here is an oops. */
	.text
SYM_FUNC_START(tdlab_dying_insn)
	ENDBR
	int	$20
.Ldying_ip:
	orl	%eax, (%rdi)
	RET
SYM_FUNC_END(tdlab_dying_insn)
	.section .rodata
SYM_DATA(tdlab_dying_offset, .quad .Ldying_ip - tdlab_dying_insn)
	.section .note.GNU-stack, "", @progbits
