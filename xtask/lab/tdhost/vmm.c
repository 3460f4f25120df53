// SPDX-License-Identifier: GPL-2.0
/*
 * The VMM of the host lab: makes TDs through /dev/kvm as any VMM does, and runs vCPUs whose guests do
 * what a file of steps says. `vmm <file> <log>`; a line of the file is a command for tdhost (see
 * control.c) with the TD before it: `<td> step ...`, and for TD 0, before anything else,
 * `0 vcpus <count>` and so on. Lines that begin with `#` are left out.
 *
 * What it did about memory is in the log, a line each, with the TD's number, an address, bytes, and 1
 * for private:
 *
 * map <td> <gpa> <bytes> <private>    KVM asked for a conversion, and it was made
 * set <td> <gpa> <bytes> <private>    KVM was told attributes, for a conversion or else
 * punch <td> <gpa> <bytes> <private>  memory of its guest_memfd was given back
 * fault <td> <gpa> <bytes> <private>  KVM could not serve a fault
 * poison <td> <gpa> <bytes> <private> nor this one: the page is broken
 * break <td> <gpa> <bytes> <private>  it broke
 *
 * A vCPU's OUT to port POISON_PORT breaks the page at the address that it writes. A vCPU's run ends with an OUT
 * to port END_PORT. Exit code 0 if every vCPU came that far, or had the
 * VM end under it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/kvm_para.h>

#define END_PORT 0x604
#define POISON_PORT 0x608
#define TDS 8
#define VCPUS 8
#define PAGE 4096UL
/* Memory of a TD: 16 MiB from 0 on, of which the first pages are there from the beginning. */
#define MEMORY (16UL << 20)
#define FIRST_PAGES 4
/* What the VMM will not make shared. */
#define REFUSED_AT 0xa00000UL
/* A conversion that comes here is interrupted every second time, so that KVM breaks it off. */
#define INTERRUPTED_AT 0x400000UL
/* What is made shared when all vCPUs have ended: the pages at these addresses, if they were touched. */
#define CONVERTED_AT 0x800000UL
#define CONVERTED_PAGES 8
/* GPAs have 48 bits. */
#define PHYS_BITS 48
#define LEAF_PHYS_BITS 0x80000008U

/* What is told of a KVM_RUN that fails; the others are exit reasons. */
#define RETURN_EINTR 100
#define RETURN_ERROR 101
#define RETURN_HWPOISON 102

struct vcpu {
	int fd;
	unsigned int index, interrupts;
	struct td *td;
	/* Number by creation, over all TDs. */
	unsigned int number;
	struct kvm_run *run;
	pthread_t thread;
	/* The run did not end as it should; the VM has ended under it. */
	int failed, dead;
};

struct td {
	int fd, memory;
	unsigned int number;
	unsigned int vcpus;
	struct vcpu vcpu[VCPUS];
	volatile int running;
};

static int control_fd, log_fd, kvm;
static size_t run_size;
static unsigned int made;

static void fail(const char *what)
{
	fprintf(stderr, "vmm: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int need(int result, const char *what)
{
	if (result < 0)
		fail(what);
	return result;
}

static void control(const char *format, ...)
{
	char line[512];
	va_list args;
	int length;

	va_start(args, format);
	length = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (write(control_fd, line, length) != length)
		fail(line);
}

static void note(const char *what, unsigned int td, unsigned long at, unsigned long size, int is_private)
{
	char line[128];
	int length = snprintf(line, sizeof(line), "%s %u %#lx %lu %d\n", what, td, at, size, is_private);

	/* One call, so that lines of several threads stay whole. */
	if (write(log_fd, line, length) != length)
		fail("the log");
}

static void tdx(int fd, unsigned int id, unsigned int flags, void *data, const char *what)
{
	struct kvm_tdx_cmd command = { .id = id, .flags = flags, .data = (unsigned long)data };

	need(ioctl(fd, KVM_MEMORY_ENCRYPT_OP, &command), what);
}

static void enable(int fd, unsigned int capability, unsigned long argument)
{
	struct kvm_enable_cap cap = { .cap = capability, .args = { argument } };

	need(ioctl(fd, KVM_ENABLE_CAP, &cap), "KVM_ENABLE_CAP");
}

static void *memory(size_t size)
{
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		fail("mmap");
	return at;
}

static void init_vm(int fd)
{
	struct kvm_tdx_init_vm *init = memory(PAGE);

	init->attributes = 1UL << 28;
	init->xfam = 3;
	init->cpuid.nent = 1;
	init->cpuid.entries[0] = (struct kvm_cpuid_entry2){
		.function = LEAF_PHYS_BITS,
		.eax = PHYS_BITS << 16 | PHYS_BITS << 8 | PHYS_BITS,
	};
	tdx(fd, KVM_TDX_INIT_VM, 0, init, "KVM_TDX_INIT_VM");
	munmap(init, PAGE);
}

static void attributes(struct td *td, unsigned long at, unsigned long size, int is_private)
{
	struct kvm_memory_attributes change = {
		.address = at,
		.size = size,
		.attributes = is_private ? KVM_MEMORY_ATTRIBUTE_PRIVATE : 0,
	};

	need(ioctl(td->fd, KVM_SET_MEMORY_ATTRIBUTES, &change), "KVM_SET_MEMORY_ATTRIBUTES");
	note("set", td->number, at, size, is_private);
}

/* Gives private memory back, as VMMs do with what they made shared. */
static void punch(struct td *td, unsigned long at, unsigned long size)
{
	int mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

	need(fallocate(td->memory, mode, at, size), "fallocate");
	note("punch", td->number, at, size, 1);
	/* KVM refuses what is no page, and nothing is said of it. */
	if (!fallocate(td->memory, mode, at + 1, size))
		fail("a hole that is no page");
}

static void add_memory(struct td *td)
{
	struct kvm_create_guest_memfd create = { .size = MEMORY };
	struct kvm_userspace_memory_region2 region = {
		.flags = KVM_MEM_GUEST_MEMFD,
		.memory_size = MEMORY,
		.userspace_addr = (unsigned long)memory(MEMORY),
	};

	/* Open until the end: the memory goes with its file. */
	td->memory = need(ioctl(td->fd, KVM_CREATE_GUEST_MEMFD, &create), "KVM_CREATE_GUEST_MEMFD");
	region.guest_memfd = td->memory;
	need(ioctl(td->fd, KVM_SET_USER_MEMORY_REGION2, &region), "KVM_SET_USER_MEMORY_REGION2");
	attributes(td, 0, MEMORY, 1);
	punch(td, 0, FIRST_PAGES * PAGE);
}

static void set_cpuid(int fd)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[3];
	} cpuid = {
		.head = { .nent = 3 },
		.entries = {
			/* x2APIC */
			{ .function = 1, .ecx = 1 << 21 },
			{ .function = 0x80000000U, .eax = LEAF_PHYS_BITS },
			{ .function = LEAF_PHYS_BITS,
			  .eax = PHYS_BITS << 16 | PHYS_BITS << 8 | PHYS_BITS },
		},
	};

	need(ioctl(fd, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
}

static void create(struct td *td, unsigned int vcpus)
{
	struct kvm_tdx_init_mem_region region = {
		.source_addr = (unsigned long)memory(FIRST_PAGES * PAGE),
		.nr_pages = FIRST_PAGES,
	};
	unsigned int i;

	td->fd = need(ioctl(kvm, KVM_CREATE_VM, KVM_X86_TDX_VM), "KVM_CREATE_VM");
	enable(td->fd, KVM_CAP_SPLIT_IRQCHIP, 24);
	enable(td->fd, KVM_CAP_EXIT_HYPERCALL, 1 << 12);
	/* As QEMU does: KVM knows the memory before it knows what is its shared half. */
	add_memory(td);
	init_vm(td->fd);
	td->vcpus = vcpus;
	for (i = 0; i < vcpus; i++) {
		struct vcpu *vcpu = &td->vcpu[i];

		vcpu->td = td;
		vcpu->index = i;
		vcpu->fd = need(ioctl(td->fd, KVM_CREATE_VCPU, i), "KVM_CREATE_VCPU");
		vcpu->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
		if (vcpu->run == MAP_FAILED)
			fail("mmap of kvm_run");
		set_cpuid(vcpu->fd);
		tdx(vcpu->fd, KVM_TDX_INIT_VCPU, 0, NULL, "KVM_TDX_INIT_VCPU");
		vcpu->number = made++;
	}
	tdx(td->vcpu[0].fd, KVM_TDX_INIT_MEM_REGION, KVM_TDX_MEASURE_MEMORY_REGION, &region,
	    "KVM_TDX_INIT_MEM_REGION");
	tdx(td->fd, KVM_TDX_FINALIZE_VM, 0, NULL, "KVM_TDX_FINALIZE_VM");
}

static int interrupt(struct td *td, unsigned int vcpu)
{
	struct kvm_msi msi = { .address_lo = 0xfee00000U | vcpu << 12, .data = 0x40 };

	return ioctl(td->fd, KVM_SIGNAL_MSI, &msi);
}

/* The guest asks for a conversion, MapGPA or a part of one: what the VMM answers. */
static unsigned long map(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	unsigned long at = run->hypercall.args[0], size = run->hypercall.args[1] * PAGE;
	int is_private = !!(run->hypercall.args[2] & KVM_MAP_GPA_RANGE_ENCRYPTED);

	if (run->hypercall.nr != KVM_HC_MAP_GPA_RANGE)
		return 0;
	if (at == REFUSED_AT)
		return EINVAL;
	attributes(vcpu->td, at, size, is_private);
	note("map", vcpu->td->number, at, size, is_private);
	if (!is_private)
		punch(vcpu->td, at, size);
	if (at == INTERRUPTED_AT && vcpu->interrupts++ % 2)
		need(interrupt(vcpu->td, vcpu->index), "KVM_SIGNAL_MSI");
	return 0;
}

/* A page breaks. */
static void break_page(struct vcpu *vcpu, unsigned long at)
{
	control("poison %#lx", at);
	note("break", vcpu->td->number, at, PAGE, 1);
}

/* What a VMM answers; whether the guest goes on. */
static int serve(struct vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == POISON_PORT)
			break_page(vcpu, *(unsigned int *)((char *)run + run->io.data_offset));
		if (run->io.direction == KVM_EXIT_IO_OUT)
			return run->io.port != END_PORT;
		memset((char *)run + run->io.data_offset, 0x5a, run->io.size);
		return 1;
	case KVM_EXIT_HYPERCALL:
		run->hypercall.ret = map(vcpu);
		return 1;
	case KVM_EXIT_TDX:
		run->tdx.unknown.ret = 0;
		return 1;
	default:
		return 1;
	}
}

/* The guest touched memory as what it is not: it becomes that. Or memory that is broken, and stays so. */
static void fault(struct vcpu *vcpu, int error)
{
	struct kvm_run *run = vcpu->run;
	unsigned long at = run->memory_fault.gpa, size = run->memory_fault.size;
	int is_private = !!(run->memory_fault.flags & KVM_MEMORY_EXIT_FLAG_PRIVATE);

	note(error == EHWPOISON ? "poison" : "fault", vcpu->td->number, at, size, is_private);
	if (error == EHWPOISON)
		return;
	attributes(vcpu->td, at, size, is_private);
	if (!is_private)
		punch(vcpu->td, at, size);
}

static void *run(void *argument)
{
	struct vcpu *vcpu = argument;
	unsigned int reason;
	int error, tries = 0;

	for (;;) {
		error = ioctl(vcpu->fd, KVM_RUN, 0) ? errno : 0;
		reason = !error ? vcpu->run->exit_reason :
			 error == EINTR ? RETURN_EINTR :
			 error == EHWPOISON ? RETURN_HWPOISON : RETURN_ERROR;
		if (error == EFAULT)
			reason = vcpu->run->exit_reason;
		control("returned %u %u", vcpu->number, reason);
		if (reason == RETURN_HWPOISON || (error == EFAULT && reason == KVM_EXIT_MEMORY_FAULT)) {
			fault(vcpu, error);
			continue;
		}
		if (error && error != EINTR) {
			vcpu->dead = 1;
			return NULL;
		}
		if (!error && !serve(vcpu))
			return NULL;
		if (vcpu->run->exit_reason == KVM_EXIT_INTERNAL_ERROR && ++tries > 100) {
			vcpu->failed = 1;
			return NULL;
		}
	}
}

/* Wakes halted vCPUs: an interrupt to each, again and again. */
static void *wake(void *argument)
{
	struct td *td = argument;
	unsigned int i;

	while (td->running) {
		for (i = 0; i < td->vcpus; i++) {
			/* The VM may end before its vCPU's thread does. */
			if (interrupt(td, i) < 0 && errno != EIO)
				fail("KVM_SIGNAL_MSI");
		}
		usleep(2000);
	}
	return NULL;
}

static int run_all(struct td *td)
{
	pthread_t waker;
	unsigned int i;
	int failed = 0;

	td->running = 1;
	for (i = 0; i < td->vcpus; i++)
		if (pthread_create(&td->vcpu[i].thread, NULL, run, &td->vcpu[i]))
			fail("pthread_create");
	if (pthread_create(&waker, NULL, wake, td))
		fail("pthread_create");
	for (i = 0; i < td->vcpus; i++) {
		pthread_join(td->vcpu[i].thread, NULL);
		failed |= td->vcpu[i].failed;
	}
	td->running = 0;
	pthread_join(waker, NULL);
	return failed;
}

static void close_td(struct td *td)
{
	unsigned int i;

	for (i = 0; i < td->vcpus; i++) {
		munmap(td->vcpu[i].run, run_size);
		close(td->vcpu[i].fd);
	}
	close(td->fd);
}

/* Hands the lines of `file` that are for TD `number` on, if they are commands or not. */
static unsigned int tell(FILE *file, unsigned int number, const char *when)
{
	unsigned int td, vcpus = 0, value;
	char line[512], word[16];
	int at;

	rewind(file);
	while (fgets(line, sizeof(line), file)) {
		if (line[0] == '#' || sscanf(line, "%u %15s %n", &td, word, &at) != 2 || td != number)
			continue;
		if (sscanf(line + at, "%u", &value) == 1 && !strcmp(word, "vcpus") && !strcmp(when, word))
			vcpus = value;
		else if (!strcmp(word, when))
			control("%s", line + at);
	}
	return vcpus;
}

/* Makes TD `number`, runs it, and says on `done` that it ended; keeps it until `end` is closed. */
static void play(FILE *file, unsigned int number, unsigned int vcpus, int done, int end)
{
	struct td *td = calloc(1, sizeof(*td));
	char byte;

	if (!td)
		fail("calloc");
	td->number = number;
	tell(file, number, "create");
	create(td, vcpus);
	tell(file, number, "run");
	byte = run_all(td);
	tell(file, number, "convert");
	if (!td->vcpu[0].dead) {
		attributes(td, CONVERTED_AT, CONVERTED_PAGES * PAGE, 0);
		punch(td, CONVERTED_AT, CONVERTED_PAGES * PAGE);
	}
	/* Long enough for whoever looks at it only now and then. */
	usleep(300000);
	if (write(done, &byte, 1) != 1 || read(end, &byte, 1) < 0)
		fail("the pipe");
	close_td(td);
}

int main(int count, char **arguments)
{
	unsigned int i, vcpus;
	int failed = 0, done[2], end[2];
	FILE *file;
	char byte;

	if (count != 3)
		return 2;
	file = fopen(arguments[1], "r");
	if (!file)
		fail(arguments[1]);
	log_fd = need(open(arguments[2], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), arguments[2]);
	control_fd = need(open("/sys/kernel/debug/tdhost/control", O_WRONLY), "tdhost");
	kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
	run_size = need(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	need(pipe(end), "pipe");
	for (i = 0; i < TDS; i++, made += vcpus) {
		vcpus = tell(file, i, "vcpus");
		if (!vcpus || vcpus > VCPUS)
			break;
		need(pipe(done), "pipe");
		/* As VMMs are: a process for each VM. */
		if (!need(fork(), "fork")) {
			close(end[1]);
			play(file, i, vcpus, done[1], end[0]);
			exit(0);
		}
		/* The next one begins when this one is through, or dead. */
		close(done[1]);
		failed |= read(done[0], &byte, 1) != 1 || byte;
	}
	close(end[1]);
	while (wait(&count) > 0)
		failed |= count;
	fclose(file);
	return !!failed;
}
