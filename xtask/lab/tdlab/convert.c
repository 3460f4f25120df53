// SPDX-License-Identifier: GPL-2.0
/* Scenario `convert`: memory made shared, private and accepted by the kernel's own functions. */
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/set_memory.h>

#include "tdlab.h"

#define LARGE_ORDER 9
#define LARGE_PAGES (1 << LARGE_ORDER)
#define MAGIC 0x746464617461ULL

static int convert(void *memory, int pages, bool enc)
{
	unsigned long at = (unsigned long)memory;
	int result = enc ? set_memory_encrypted(at, pages) : set_memory_decrypted(at, pages);

	tdlab_note_conversion(virt_to_phys(memory), pages, enc, result);
	return result;
}

/* To shared and back, with contents that must stay. */
static int there_and_back(u64 *memory, int pages)
{
	int error;

	*memory = MAGIC;
	error = convert(memory, pages, false);
	if (error)
		return error;
	if (*memory != MAGIC)
		return -EILSEQ;
	error = convert(memory, pages, true);
	return error ?: *memory == MAGIC ? 0 : -EILSEQ;
}

/*
 * One page as it is; 2 MiB with RETRY in the middle, each accept of 2 MiB refused; 4 pages that
 * the VMM refuses to share, which is an error and stays private.
 */
static int conversions(u64 *memory)
{
	u64 accepts = tdlab_tdcalls(6, false), refused = tdlab_tdcalls(6, true);
	int error = there_and_back(memory, 1);

	if (error)
		return error;
	tdlab_vmm.map_retry_after = (LARGE_PAGES / 2) * PAGE_SIZE;
	tdlab_vmm.accept_2m_refused = true;
	error = there_and_back(memory, LARGE_PAGES);
	tdlab_vmm.map_retry_after = 0;
	tdlab_vmm.accept_2m_refused = false;
	if (error)
		return error;
	if (tdlab_tdcalls(6, false) - accepts != 1 + LARGE_PAGES ||
	    tdlab_tdcalls(6, true) - refused != 1)
		return -EILSEQ;
	tdlab_vmm.map_refused = true;
	error = convert(memory, 4, false);
	tdlab_vmm.map_refused = false;
	if (error != -EIO)
		return -EILSEQ;
	/* The page tables say shared by now, although the VMM did not agree. */
	return convert(memory, 4, true);
}

/*
 * Wants memory accepted as the page allocator does. Without a table from the firmware the kernel
 * finds that there is nothing to do: behind it lies a test for a TD that was patched at boot.
 */
static int ask_to_accept(phys_addr_t start)
{
	static const unsigned long sizes[] = { PAGE_SIZE, LARGE_PAGES * PAGE_SIZE };
	void (*accept)(phys_addr_t start, unsigned long size) = reach_symbol("accept_memory");
	int i;

	if (!accept)
		return -ENOENT;
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		accept(start, sizes[i]);
		tdlab_add(SUM_ASKED, 1);
		tdlab_add(SUM_ASKED_BYTES, sizes[i]);
	}
	return 0;
}

int tdlab_scenario_convert(const u64 *args)
{
	struct page *pages = alloc_pages(GFP_KERNEL, LARGE_ORDER);
	int error;

	if (!pages)
		return -ENOMEM;
	error = tdlab_td_mode(true);
	if (!error)
		error = conversions(page_address(pages));
	tdlab_td_mode(false);
	if (!error)
		error = ask_to_accept(page_to_phys(pages));
	if (!error)
		__free_pages(pages, LARGE_ORDER);
	return error;
}
