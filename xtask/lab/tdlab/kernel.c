// SPDX-License-Identifier: GPL-2.0
/*
 * Reaching what the kernel keeps for itself: symbols that are not exported, and read-only memory,
 * which is written through a second mapping of its page.
 */
#include <linux/kprobes.h>
#include <linux/mm.h>
#include <linux/vmalloc.h>
#include <asm/coco.h>
#include <asm/desc.h>
#include <asm/sync_core.h>
#include <asm/trapnr.h>
#include <asm/x86_init.h>

#include "tdlab.h"

static unsigned long (*lookup)(const char *name);

void *tdlab_symbol(const char *name)
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

/* Writes at most a page. */
int tdlab_poke(void *address, const void *bytes, size_t length)
{
	unsigned int offset = offset_in_page(address);
	struct page *pages[2];
	u8 *alias;

	pages[0] = pfn_to_page(PHYS_PFN(slow_virt_to_phys(address)));
	pages[1] = pfn_to_page(PHYS_PFN(slow_virt_to_phys(address + length - 1)));
	alias = vmap(pages, 2, VM_MAP, PAGE_KERNEL);
	if (!alias)
		return -ENOMEM;
	/* Within one page both entries are the same page, and nothing reaches the second. */
	memcpy(alias + offset, bytes, length);
	vunmap(alias);
	on_each_cpu(sync_one, NULL, 1);
	return 0;
}

/*
 * Outside of a TD cc_mkenc() changes nothing, and every GPA counts as private. Replaced by
 * mov %rdi,%rax; btr $51,%rax; btr $52,%rax; ret.
 */
static const u8 mkenc[] = {
	0x48, 0x89, 0xf8, 0x48, 0x0f, 0xba, 0xf0, 0x33, 0x48, 0x0f, 0xba, 0xf0, 0x34, 0xc3,
};
static u8 mkenc_before[sizeof(mkenc)];
static u8 *mkenc_at;

static int patch_mkenc(void)
{
	static const u8 endbr[] = { 0xf3, 0x0f, 0x1e, 0xfa };

	mkenc_at = tdlab_symbol("cc_mkenc");
	if (!mkenc_at)
		return -ENOENT;
	if (!memcmp(mkenc_at, endbr, sizeof(endbr)))
		mkenc_at += sizeof(endbr);
	memcpy(mkenc_before, mkenc_at, sizeof(mkenc));
	return tdlab_poke(mkenc_at, mkenc, sizeof(mkenc));
}

/* Lets the kernel take itself for a TD, or no longer, in all that it asks for at run time. */
int tdlab_td_mode(bool on)
{
	static struct x86_guest before;
	static bool is_on;
	struct x86_guest guest;
	struct x86_platform_ops *platform = tdlab_symbol("x86_platform");
	enum cc_vendor *vendor_at = tdlab_symbol("cc_vendor");
	u64 *mask_at = tdlab_symbol("cc_mask");
	enum cc_vendor vendor = on ? CC_VENDOR_INTEL : CC_VENDOR_NONE;
	u64 mask = on ? TDLAB_SHARED_PTE : 0;

	if (!platform || !vendor_at || !mask_at)
		return -ENOENT;
	if (is_on == on)
		return 0;
	if (!is_on)
		before = platform->guest;
	guest = before;
	if (on) {
		guest.enc_status_change_prepare = tdlab_symbol("tdx_enc_status_change_prepare");
		guest.enc_status_change_finish = tdlab_symbol("tdx_enc_status_change_finish");
		guest.enc_cache_flush_required = tdlab_symbol("tdx_cache_flush_required");
		guest.enc_tlb_flush_required = tdlab_symbol("tdx_tlb_flush_required");
		if (!guest.enc_status_change_prepare || !guest.enc_status_change_finish ||
		    !guest.enc_cache_flush_required || !guest.enc_tlb_flush_required)
			return -ENOENT;
	}
	is_on = on;
	return tdlab_poke(&platform->guest, &guest, sizeof(guest)) ?:
	       tdlab_poke(mask_at, &mask, sizeof(mask)) ?:
	       tdlab_poke(vendor_at, &vendor, sizeof(vendor));
}

/* Whether drivers that match CPUs find those of a TD; what was patched at boot stays as it is. */
int tdlab_cpu_feature(bool on)
{
	if (on)
		set_cpu_cap(&boot_cpu_data, X86_FEATURE_TDX_GUEST);
	else
		clear_bit(X86_FEATURE_TDX_GUEST,
			  (unsigned long *)boot_cpu_data.x86_capability);
	return 0;
}

/* Whether `int $20` is allowed in user mode. */
int tdlab_user_gate(bool on)
{
	struct desc_ptr idt;
	gate_desc gate;

	store_idt(&idt);
	gate = ((gate_desc *)idt.address)[X86_TRAP_VE];
	gate.bits.dpl = on ? 3 : 0;
	return tdlab_poke((gate_desc *)idt.address + X86_TRAP_VE, &gate, sizeof(gate));
}

int tdlab_kernel_init(void)
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
	return patch_mkenc();
}

void tdlab_kernel_exit(void)
{
	tdlab_td_mode(false);
	tdlab_cpu_feature(false);
	tdlab_user_gate(false);
	tdlab_poke(mkenc_at, mkenc_before, sizeof(mkenc_before));
}
