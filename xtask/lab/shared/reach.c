// SPDX-License-Identifier: GPL-2.0
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/smp.h>
#include <linux/vmalloc.h>
#include <asm/sync_core.h>

#include "reach.h"

static unsigned long (*lookup)(const char *name);

void *reach_symbol(const char *name)
{
	unsigned long address = lookup ? lookup(name) : 0;

	if (!address)
		pr_err("the kernel has no symbol %s\n", name);
	return (void *)address;
}

static void sync_one(void *unused)
{
	sync_core();
}

int reach_poke(void *address, const void *bytes, size_t length)
{
	unsigned int offset = offset_in_page(address);
	struct page *pages[2];
	u8 *alias;

	if (!address || length > PAGE_SIZE)
		return -ENOENT;
	pages[0] = pfn_to_page(PHYS_PFN(slow_virt_to_phys(address)));
	pages[1] = pfn_to_page(PHYS_PFN(slow_virt_to_phys(address + length - 1)));
	alias = vmap(pages, 2, VM_MAP, PAGE_KERNEL);
	if (!alias)
		return -ENOMEM;
	/* Within one page both entries are the same page, and nothing reaches the second. */
	memcpy(alias + offset, bytes, length);
	vunmap(alias);
	/* It may have been code. */
	on_each_cpu(sync_one, NULL, 1);
	return 0;
}

int reach_init(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	int error = register_kprobe(&probe);

	if (error)
		return error;
	lookup = (void *)probe.addr;
	unregister_kprobe(&probe);
	/* With endbr the probe sits behind it; the function begins before. */
	if (IS_ENABLED(CONFIG_X86_KERNEL_IBT) && ((unsigned long)lookup & 0xf) == 4)
		lookup = (void *)lookup - 4;
	return 0;
}
