//! A VM for the guest's program: memory, ioeventfds, and vCPUs in flat protected mode.

use std::io;

use anyhow::{Context as _, Result, anyhow, bail};
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{
    apic,
    code::GuestCode,
    control::{self, Control},
    kind::Kind,
    memory::GuestMemory,
    plan::Plan,
};

const PAGE: usize = 4096;
/// Where the program is. The page before it stays empty, so that a jump to 0 is seen.
const CODE: u32 = 0x1000;
/// Where the descriptor tables are.
const TABLES: u32 = (CODE + GuestCode::MAX_BYTES as u32).next_multiple_of(PAGE as u32);
/// Where the control blocks begin.
const BLOCKS: usize = (TABLES as usize + apic::TABLES_BYTES).next_multiple_of(PAGE);

/// CR0: protection on, paging off, x87 present and its errors native.
const CR0_PE_ET_NE: u64 = 0x31;

/// A VM with its vCPUs. It is destroyed when this is dropped.
///
/// Without halts it has no interrupt controller, so HLT goes to the VMM and every vCPU is runnable at
/// once.
#[derive(Debug)]
pub(super) struct Vm {
    /// The vCPUs by number.
    pub(super) vcpus: Vec<VcpuFd>,
    /// The program that all of them run.
    pub(super) code: GuestCode,
    /// The VM itself.
    fd: VmFd,
    doorbell: EventFd,
    // After the VM, which has it as its memory.
    memory: GuestMemory,
}

/// Opens `/dev/kvm`.
///
/// # Errors
/// One sentence with the next step.
pub(super) fn open() -> Result<Kvm> {
    let kvm = Kvm::new().map_err(|error| match error.errno() {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => anyhow!(
            "/dev/kvm is not there ({error}); load kvm_intel or kvm_amd, or turn on nested \
             virtualization if this is a VM"
        ),
        libc::EACCES | libc::EPERM => anyhow!(
            "/dev/kvm may not be opened by this user ({error}); run as root or join the group kvm"
        ),
        _ => anyhow!("/dev/kvm cannot be opened ({error})"),
    })?;
    Ok(kvm)
}

impl Vm {
    /// Makes the VM of a checked plan.
    ///
    /// # Errors
    /// The ioctl that KVM refused.
    pub(super) fn new(kvm: &Kvm, plan: &Plan) -> Result<Self> {
        let code = GuestCode::assemble(plan, CODE);
        let bytes = (BLOCKS + plan.vcpus as usize * control::BYTES).next_multiple_of(PAGE);
        let memory = GuestMemory::new(bytes).context("guest memory cannot be mapped")?;
        if !memory.write(CODE as usize, code.bytes()) {
            bail!("the guest's program of {} bytes has no room", code.bytes().len());
        }
        let fd = kvm.create_vm().context(
            "KVM_CREATE_VM failed; see that no other hypervisor has the CPU, and the limit of open \
             files (ulimit -n)",
        )?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: memory.len() as u64,
            userspace_addr: memory.host_address(),
        };
        // SAFETY: the pages are mapped and live longer than the VM, which is dropped before them.
        unsafe { fd.set_user_memory_region(region) }
            .context("KVM_SET_USER_MEMORY_REGION failed")?;
        if plan.halts() {
            apic::create(&fd)?;
            if !memory.write(TABLES as usize, &apic::tables(code.handler())) {
                bail!("the guest's descriptor tables have no room");
            }
        }
        let doorbell = EventFd::new(EFD_NONBLOCK).context("an eventfd cannot be made")?;
        if plan.counts.get(Kind::FastMmio) > 0 {
            listen(&fd, &doorbell, plan)?;
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .context("KVM_GET_SUPPORTED_CPUID failed")?;
        let vcpus = (0..plan.vcpus)
            .map(|number| {
                vcpu(&fd, number, &cpuid, plan.halts()).with_context(|| {
                    format!(
                        "vCPU {number} cannot be made; fewer --vcpus may do, or a higher limit of \
                         open files (ulimit -n)"
                    )
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { vcpus, code, fd, doorbell, memory })
    }

    /// The vCPUs with their control blocks, the program, and the VM.
    pub(super) fn split(
        &mut self,
    ) -> (impl Iterator<Item = (&mut VcpuFd, Control<'_>)>, &GuestCode, &VmFd) {
        let (blocks, _) = self.memory.words().as_chunks::<{ control::WORDS }>();
        let blocks = blocks.iter().skip(BLOCKS / control::BYTES).map(Control::new);
        (self.vcpus.iter_mut().zip(blocks), &self.code, &self.fd)
    }

    /// How many writes the ioeventfds took since the last time.
    ///
    /// # Errors
    /// The eventfd cannot be read.
    pub(super) fn doorbell_rings(&self) -> Result<u64> {
        match self.doorbell.read() {
            Ok(rings) => Ok(rings),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(error).context("the ioeventfd cannot be read"),
        }
    }
}

/// Lets `doorbell` take the writes of any length to the plan's fast MMIO addresses.
fn listen(vm: &VmFd, doorbell: &EventFd, plan: &Plan) -> Result<()> {
    for address in (0..plan.places).filter_map(|place| plan.address(Kind::FastMmio, place)) {
        vm.register_ioevent(doorbell, &IoEventAddress::Mmio(address.into()), NoDatamatch)
            .with_context(|| format!("KVM_IOEVENTFD of any length at {address:#x} failed"))?;
    }
    Ok(())
}

fn vcpu(vm: &VmFd, number: u32, cpuid: &CpuId, halts: bool) -> Result<VcpuFd> {
    let vcpu = vm.create_vcpu(number.into()).context("KVM_CREATE_VCPU failed")?;
    vcpu.set_cpuid2(cpuid).context("KVM_SET_CPUID2 failed")?;

    let mut sregs = vcpu.get_sregs().context("KVM_GET_SREGS failed")?;
    sregs.cr0 = CR0_PE_ET_NE;
    sregs.cs = flat(0x08, CODE_EXECUTE_READ_ACCESSED);
    let data = flat(0x10, DATA_READ_WRITE_ACCESSED);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    if halts {
        apic::set_tables(&mut sregs, TABLES);
    }
    vcpu.set_sregs(&sregs).context("KVM_SET_SREGS failed")?;

    let mut regs = vcpu.get_regs().context("KVM_GET_REGS failed")?;
    regs.rip = CODE.into();
    regs.rsi = (BLOCKS + number as usize * control::BYTES) as u64;
    regs.rsp = regs.rsi + control::BYTES as u64;
    // Bit 1 of the flags is always 1; interrupts are off.
    regs.rflags = 2;
    vcpu.set_regs(&regs).context("KVM_SET_REGS failed")?;
    if halts {
        apic::switch_on(&vcpu)?;
    }
    Ok(vcpu)
}

const CODE_EXECUTE_READ_ACCESSED: u8 = 0xb;
const DATA_READ_WRITE_ACCESSED: u8 = 0x3;

/// A 32-bit segment of 4 GiB from 0 on, for privilege level 0.
fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}
