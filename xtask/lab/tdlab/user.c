// SPDX-License-Identifier: GPL-2.0
/*
 * Takes #VEs in user mode: `user cpuid <times>`, `user wbinvd`, `user in`; or asks for a TDREPORT:
 * `user report`. Static and without a C library, so that nothing else in it executes CPUID.
 *
 * Exit code: 0 if all was as in a TD, 1 if a leaf outside of 0x4000_0000 was not answered with zeros
 * or one within was, or if the report does not hold the data; 2 for other arguments.
 */
static long call(long number, long one, long two, long three)
{
	long result;

	asm volatile("syscall"
		     : "=a"(result)
		     : "a"(number), "D"(one), "S"(two), "d"(three)
		     : "rcx", "r11", "memory");
	return result;
}

static _Noreturn void leave(int code)
{
	call(231, code, 0, 0);
	__builtin_unreachable();
}

/* TDX_CMD_GET_REPORT0 of include/uapi/linux/tdx-guest.h. */
static int report(void)
{
	static struct {
		unsigned char data[64];
		unsigned char report[1024];
	} request;
	long file = call(2, (long)"/dev/tdx_guest", 2, 0);
	int i;

	for (i = 0; i < 64; i++)
		request.data[i] = i + 1;
	if (file < 0 || call(16, file, 3UL << 30 | sizeof(request) << 16 | 'T' << 8 | 1, (long)&request))
		return 1;
	for (i = 0; i < 64; i++)
		if (request.report[128 + i] != i + 1)
			return 1;
	return 0;
}

static unsigned int cpuid_as_ve(unsigned int leaf)
{
	unsigned int ax = leaf, bx, cx = 0, dx;

	asm volatile("int $20\n\tcpuid" : "+a"(ax), "=b"(bx), "+c"(cx), "=d"(dx));
	return ax | bx | cx | dx;
}

static int cpuid_times(const char *digits)
{
	long times = 0;

	while (*digits >= '0' && *digits <= '9')
		times = times * 10 + *digits++ - '0';
	while (times--)
		/* Leaf 0x4000_0000 is the VMM's, all others of this kind read as zeros. */
		if ((cpuid_as_ve(times % 2 ? 0x40000000 : 1) != 0) != (times % 2 == 1))
			return 1;
	return 0;
}

__attribute__((used)) static void start(long *stack)
{
	const char *what = stack[0] > 1 ? (const char *)stack[2] : "";

	if (what[0] == 'c' && stack[0] > 2)
		leave(cpuid_times((const char *)stack[3]));
	if (what[0] == 'r')
		leave(report());
	if (what[0] == 'w')
		asm volatile("int $20\n\twbinvd");
	if (what[0] == 'i')
		asm volatile("int $20\n\tinb %%dx, %%al" : : "d"(0x80) : "rax");
	leave(2);
}

asm(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tcall start\n");
