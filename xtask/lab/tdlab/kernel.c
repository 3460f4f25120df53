// SPDX-License-Identifier: GPL-2.0
/* What the kernel believes of itself and of memory, changed while it runs. */
#include <asm/coco.h>
#include <asm/desc.h>
#include <asm/trapnr.h>
#include <asm/x86_init.h>

#include "tdlab.h"

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

	mkenc_at = reach_symbol("cc_mkenc");
	if (!mkenc_at)
		return -ENOENT;
	if (!memcmp(mkenc_at, endbr, sizeof(endbr)))
		mkenc_at += sizeof(endbr);
	memcpy(mkenc_before, mkenc_at, sizeof(mkenc));
	return reach_poke(mkenc_at, mkenc, sizeof(mkenc));
}

/* Lets the kernel take itself for a TD, or no longer, in all that it asks for at run time. */
int tdlab_td_mode(bool on)
{
	static struct x86_guest before;
	static bool is_on;
	struct x86_guest guest;
	struct x86_platform_ops *platform = reach_symbol("x86_platform");
	enum cc_vendor *vendor_at = reach_symbol("cc_vendor");
	u64 *mask_at = reach_symbol("cc_mask");
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
		guest.enc_status_change_prepare = reach_symbol("tdx_enc_status_change_prepare");
		guest.enc_status_change_finish = reach_symbol("tdx_enc_status_change_finish");
		guest.enc_cache_flush_required = reach_symbol("tdx_cache_flush_required");
		guest.enc_tlb_flush_required = reach_symbol("tdx_tlb_flush_required");
		if (!guest.enc_status_change_prepare || !guest.enc_status_change_finish ||
		    !guest.enc_cache_flush_required || !guest.enc_tlb_flush_required)
			return -ENOENT;
	}
	is_on = on;
	return reach_poke(&platform->guest, &guest, sizeof(guest)) ?:
	       reach_poke(mask_at, &mask, sizeof(mask)) ?:
	       reach_poke(vendor_at, &vendor, sizeof(vendor));
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
	return reach_poke((gate_desc *)idt.address + X86_TRAP_VE, &gate, sizeof(gate));
}

int tdlab_kernel_init(void)
{
	int error = reach_init();

	return error ?: patch_mkenc();
}

void tdlab_kernel_exit(void)
{
	tdlab_td_mode(false);
	tdlab_cpu_feature(false);
	tdlab_user_gate(false);
	reach_poke(mkenc_at, mkenc_before, sizeof(mkenc_before));
}
