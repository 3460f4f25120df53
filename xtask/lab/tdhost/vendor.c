// SPDX-License-Identifier: GPL-2.0
/*
 * What lets KVM run TDs here. KVM's functions for Intel are used as kvm-intel has them, with its init
 * functions and their data kept; only what would touch VMX or the TDX module's loader is done otherwise:
 * looking for their features, and enabling virtualization on a CPU.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <asm/cpufeature.h>
#include <asm/kvm_host.h>
#include <asm/tdx.h>

#include "x86_ops.h"
#include "mmu.h"
#include "tdx.h"
#include "vmx.h"

#include "reach.h"
#include "tdhost.h"

/* Private key ids, as firmware would have set them aside. */
#define KEY_ID_FIRST 32
#define KEY_IDS 16

int (*tdhost_decode)(struct insn *insn, const void *at, int length, enum insn_mode mode);

#define POKE(name, type, value) \
	({ type __value = (value); reach_poke(reach_symbol(name), &__value, sizeof(__value)); })

/* What the TDX module would say of itself: nothing that is fixed, 4 pages for a TD and 5 for a vCPU. */
static int describe_module(void)
{
	struct tdx_sys_info *info = kzalloc(sizeof(*info), GFP_KERNEL);
	int error;

	if (!info)
		return -ENOMEM;
	info->features.tdx_features0 = MD_FIELD_ID_FEATURES0_TOPOLOGY_ENUM;
	info->td_ctrl.tdr_base_size = PAGE_SIZE;
	info->td_ctrl.tdcs_base_size = 4 * PAGE_SIZE;
	info->td_ctrl.tdvps_base_size = 5 * PAGE_SIZE;
	info->td_conf.attributes_fixed0 = ~0ULL;
	info->td_conf.xfam_fixed0 = ~0ULL;
	info->td_conf.max_vcpus_per_td = 64;
	/* The one CPUID leaf that KVM needs: the width of physical addresses. */
	info->td_conf.num_cpuid_config = 1;
	info->td_conf.cpuid_config_leaves[0] = 0xffffffff80000008ULL;
	info->td_conf.cpuid_config_values[0][0] = ~0ULL;
	info->td_conf.cpuid_config_values[0][1] = ~0ULL;
	/* kvm-intel, which has a pointer of that name, is not loaded yet. */
	error = reach_poke(reach_symbol("tdx_sysinfo"), info, sizeof(*info));
	kfree(info);
	/* Its first member: the module is initialized. */
	return error ?: POKE("tdx_module_state", bool, true) ?:
			POKE("tdx_guest_keyid_start", u32, KEY_ID_FIRST) ?:
			POKE("tdx_nr_guest_keyids", u32, KEY_IDS);
}

/* Before kvm-intel is loaded, whose code is patched by what the CPU can. */
int tdhost_prepare(void)
{
	int error = reach_init();

	if (error)
		return error;
	tdhost_decode = reach_symbol("insn_decode");
	if (!tdhost_decode)
		return -ENOENT;
	set_cpu_cap(&boot_cpu_data, X86_FEATURE_TDX_HOST_PLATFORM);
	return describe_module();
}

static int is_compatible(void)
{
	return 0;
}

static int enable_cpu(void)
{
	return 0;
}

static void disable_cpu(void)
{
}

static void unsetup(void)
{
}

/* In place of vmx_hardware_setup(): what of it TDs need. */
static int setup(void)
{
	static const u32 msrs[] = { MSR_SYSCALL_MASK, MSR_LSTAR, MSR_CSTAR, MSR_STAR, MSR_TSC_AUX };
	int (*add_msr)(u32 msr) = reach_symbol("kvm_add_user_return_msr");
	void (*set_masks)(bool has_ad_bits) = reach_symbol("kvm_mmu_set_ept_masks");
	void (*configure)(bool enable, int forced, int max, int huge) = reach_symbol("kvm_configure_mmu");
	void (*init_caps)(void) = reach_symbol("kvm_initialize_cpu_caps");
	struct kvm_caps *caps = reach_symbol("kvm_caps");
	int (*tdx_setup)(void) = reach_symbol("tdx_hardware_setup");
	bool *enable = reach_symbol("enable_tdx");
	int i, error;

	if (!add_msr || !set_masks || !configure || !init_caps || !caps || !tdx_setup || !enable)
		return -ENOENT;
	for (i = 0; i < ARRAY_SIZE(msrs); i++)
		add_msr(msrs[i]);
	caps->max_tsc_scaling_ratio = ~0ULL;
	caps->tsc_scaling_ratio_frac_bits = 48;
	caps->has_bus_lock_exit = true;
	set_masks(true);
	configure(true, 0, 4, PG_LEVEL_2M);
	init_caps();
	*enable = true;
	error = tdx_setup();
	if (error)
		return error;
	return *enable ? 0 : -ENODEV;
}

/* What vt_init() of kvm-intel does, which did not run. */
int tdhost_start(void)
{
	int (*vendor_init)(struct kvm_x86_init_ops *ops) = reach_symbol("kvm_x86_vendor_init");
	int (*init)(unsigned int size, unsigned int align, struct module *module) = reach_symbol("kvm_init");
	void (*init_cpu)(int cpu) = reach_symbol("pi_init_cpu");
	struct kvm_x86_init_ops *init_ops = reach_symbol("vt_init_ops");
	struct kvm_x86_ops *ops = reach_symbol("vt_x86_ops");
	struct kvm_caps *caps = reach_symbol("kvm_caps");
	int cpu, error;

	if (!vendor_init || !init || !init_cpu || !init_ops || !ops || !caps)
		return -ENOENT;
	init_ops->hardware_setup = setup;
	ops->check_processor_compatibility = is_compatible;
	ops->enable_virtualization_cpu = enable_cpu;
	ops->disable_virtualization_cpu = disable_cpu;
	ops->emergency_disable_virtualization_cpu = NULL;
	ops->hardware_unsetup = unsetup;
	error = vendor_init(init_ops);
	if (error)
		return error;
	for_each_possible_cpu(cpu)
		init_cpu(cpu);
	caps->supported_vm_types |= BIT(KVM_X86_TDX_VM);
	return init(max(sizeof(struct vcpu_vmx), sizeof(struct vcpu_tdx)),
		    max(__alignof__(struct vcpu_vmx), __alignof__(struct vcpu_tdx)), THIS_MODULE);
}
