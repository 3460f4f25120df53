//! The local APIC in the kernel, and what a guest needs to take its interrupts: descriptor tables, a
//! vector, and the message that the VMM sends.

use anyhow::{Context as _, Result, anyhow};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_MP_STATE_RUNNABLE, kvm_dtable, kvm_enable_cap, kvm_mp_state,
    kvm_msi, kvm_sregs,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};

use super::plan::Wake;

/// The vector of the interrupt that ends a halt; the exceptions and the legacy ones are below.
pub(super) const VECTOR: u8 = 0x40;

/// Bytes of the descriptor tables.
pub(super) const TABLES_BYTES: usize = IDT + 8 * (VECTOR as usize + 1);
/// Offset of the interrupt descriptor table, behind the global one.
const IDT: usize = 0x100;

/// The local APIC is on, and in x2APIC mode (IA32_APIC_BASE).
const APIC_BASE_ON_X2APIC: u64 = 0xc00;
/// Offset of the spurious-interrupt vector register; its bit 8 switches the APIC on.
const SPURIOUS: usize = 0xf0;
const SPURIOUS_ON: [i8; 2] = [-1, 1];

/// Gives `vm`, which has no vCPU yet, local APICs in the kernel, and nothing else: no PIC and no I/O
/// APIC, whose ports and addresses would be served there too.
///
/// # Errors
/// This KVM has none, or cannot be told to send an interrupt.
pub(super) fn create(vm: &VmFd) -> Result<()> {
    if !vm.check_extension(Cap::SplitIrqchip) || !vm.check_extension(Cap::SignalMsi) {
        return Err(anyhow!(
            "this KVM has no interrupt controller of its own; use --hlt instead of --halt"
        ));
    }
    vm.enable_cap(&kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, ..Default::default() })
        .context("KVM_CAP_SPLIT_IRQCHIP cannot be enabled; use --hlt instead of --halt")
}

/// Lets `vcpu` take interrupts, and run without being started by another one.
///
/// # Errors
/// The ioctl that KVM refused.
pub(super) fn switch_on(vcpu: &VcpuFd) -> Result<()> {
    let mut lapic = vcpu.get_lapic().context("KVM_GET_LAPIC failed")?;
    if let Some(register) = lapic.regs.get_mut(SPURIOUS..SPURIOUS + SPURIOUS_ON.len()) {
        register.copy_from_slice(&SPURIOUS_ON);
    }
    vcpu.set_lapic(&lapic).context("KVM_SET_LAPIC failed")?;
    vcpu.set_mp_state(kvm_mp_state { mp_state: KVM_MP_STATE_RUNNABLE })
        .context("KVM_SET_MP_STATE failed")
}

/// Names the tables at guest address `tables` in `sregs`.
pub(super) fn set_tables(sregs: &mut kvm_sregs, tables: u32) {
    let table = |offset: usize, bytes: usize| kvm_dtable {
        base: u64::from(tables) + offset as u64,
        // Both are far below 64 KiB.
        limit: u16::try_from(bytes - 1).unwrap_or(u16::MAX),
        ..Default::default()
    };
    sregs.gdt = table(0, 8 * GDT.len());
    sregs.idt = table(IDT, TABLES_BYTES - IDT);
    sregs.apic_base |= APIC_BASE_ON_X2APIC;
}

/// Nothing, then the segments that the vCPUs have: code at 0x08, data at 0x10 (base 0, 4 GiB, 32 bits,
/// present, accessed).
const GDT: [u64; 3] = [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// The tables, with interrupt [`VECTOR`] led to `handler`.
pub(super) fn tables(handler: u32) -> [u8; TABLES_BYTES] {
    let mut bytes = [0; TABLES_BYTES];
    let handler = u64::from(handler);
    // A present 32-bit interrupt gate for privilege level 0, to the code segment.
    let gate = (handler & 0xffff) | 0x08 << 16 | 0x8e00 << 32 | (handler >> 16) << 48;
    let entries = GDT.iter().enumerate().map(|(number, entry)| (8 * number, *entry));
    for (offset, entry) in entries.chain([(IDT + 8 * usize::from(VECTOR), gate)]) {
        if let Some(room) = bytes.get_mut(offset..offset + 8) {
            room.copy_from_slice(&entry.to_le_bytes());
        }
    }
    bytes
}

/// Delivery mode of a message that KVM takes as the kick of a halted vCPU
/// (arch/x86/kvm/lapic.c:__apic_accept_irq, APIC_DM_REMRD); hardware reserves it.
const KICK: u32 = 0x300;

/// The message that wakes the vCPU with number `vcpu`, below 255.
pub(super) fn message(vcpu: u32, wake: Wake) -> kvm_msi {
    let data = match wake {
        Wake::Interrupt => VECTOR.into(),
        Wake::Kick => KICK,
    };
    kvm_msi { address_lo: 0xfee0_0000 | vcpu << 12, data, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_leads_to_the_handler_and_lies_within_the_table() {
        let bytes = tables(0x1234_5678);
        let gate = &bytes[IDT + 8 * usize::from(VECTOR)..];
        assert_eq!(gate, [0x78, 0x56, 0x08, 0x00, 0x00, 0x8e, 0x34, 0x12]);
        let mut sregs = kvm_sregs::default();
        set_tables(&mut sregs, 0x3000);
        assert_eq!((sregs.idt.base, usize::from(sregs.idt.limit)), (0x3100, 8 * 0x41 - 1));
        assert_eq!((sregs.gdt.base, sregs.gdt.limit), (0x3000, 23));
    }

    #[test]
    fn a_message_goes_to_its_vcpu() {
        for (wake, data) in [(Wake::Interrupt, 0x40), (Wake::Kick, 0x300)] {
            let message = message(254, wake);
            assert_eq!((message.address_lo, message.data), (0xfeef_e000, data));
        }
    }
}
