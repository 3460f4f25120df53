//! Made-up `kvm` and `vcpu_tdx` structures: only what the programs read is filled in.

use std::{
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use tdtrace_common::{
    counters::VcpuSlot,
    kvm,
    latency::{LATENCY_RETURNS, LatencyRow},
    layout::{ABSENT, KernelLayout},
};

use super::memory::Memory;
use crate::{
    kernel::{
        btf::{Btf, BtfSet},
        layout::resolve,
    },
    source::counting::slots::MappedArray,
};

/// Pages in the memory slots of a synthetic VM: 32 GiB.
pub const MEMSLOT_PAGES: u64 = 32 << 18;

/// The shared bit of a TD with a GPA width of 52.
pub(super) const SHARED_BIT: u64 = 1 << 51;

/// A synthetic vCPU and the thread that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// Address of its `vcpu_tdx`.
    pub address: u64,
    /// Address of its `kvm_run`.
    pub run: u64,
    /// Address of its VM's `kvm`.
    pub vm: u64,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
}

/// With what a synthetic vCPU comes out of TDH.VP.ENTER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// RAX: status and VMX exit reason.
    pub ret: u64,
    /// What KVM makes of it: the exit reason that it shows.
    pub kvm_reason: u32,
    /// R10.
    pub r10: u64,
    /// R11.
    pub r11: u64,
    /// R12.
    pub r12: u64,
    /// R13.
    pub r13: u64,
    /// R14.
    pub r14: u64,
    /// R9: of an external interrupt its vector.
    pub intr_info: u32,
    /// RDX.
    pub ext_qualification: u64,
    /// R8.
    pub gpa: u64,
}

/// How large the structures are and where their fields lie.
pub(super) struct Structures {
    pub(super) layout: KernelLayout,
    kvm: u32,
    vcpu: u32,
    run: u32,
    /// TDs made so far: each has a creation time of its own.
    made: AtomicU64,
}

impl Structures {
    /// Those of the kernel that `btf` describes.
    pub(super) fn new(btf: Btf) -> Result<Self> {
        let kvm = btf.struct_size("kvm").context("struct kvm")?;
        let vcpu = btf.struct_size("vcpu_tdx").context("struct vcpu_tdx")?;
        let run = btf.struct_size("kvm_run").context("struct kvm_run")?;
        let mut layout = resolve(&BtfSet::new(btf)).layout;
        // The name of a process is the running kernel's to tell: the programs do not look for it.
        layout.task_group_leader = ABSENT;
        if layout.gmem_kvm == ABSENT && layout.gmem_file_kvm == ABSENT {
            // Only BTF of kvm.ko has the structure.
            layout.gmem_file_kvm = 8;
        }
        if layout.gmem_entry == ABSENT && layout.gmem_file_entry == ABSENT {
            layout.gmem_file_entry = 24;
        }
        if layout.mapping_files == ABSENT && layout.gmem_inode_files == ABSENT {
            layout.mapping_host = 0;
            layout.gmem_inode_inode = 16;
            layout.gmem_inode_files = 64;
        }
        Ok(Self { layout, kvm, vcpu, run, made: AtomicU64::new(0) })
    }

    /// Pages that so many structures take.
    pub(super) fn pages(&self, tds: u32, vcpus: u32) -> u32 {
        let rounded = |size: u32| u64::from(size).next_multiple_of(64);
        let bytes = u64::from(tds) * rounded(self.kvm)
            + u64::from(vcpus) * (rounded(self.vcpu) + rounded(self.run));
        u32::try_from(bytes.div_ceil(4096)).unwrap_or(u32::MAX).max(1)
    }

    /// The programs look at the tasks of the kernel that has `running` as its layout.
    pub(super) fn take_tasks_of(&mut self, running: &KernelLayout) {
        self.layout.task_preempt_notifiers = running.task_preempt_notifiers;
        self.layout.task_run_delay = running.task_run_delay;
        self.layout.task_pid = running.task_pid;
        self.layout.task_tgid = running.task_tgid;
    }

    pub(super) fn vm(&self, memory: &Memory, vm_type: u32) -> Result<u64> {
        let address = memory.take(self.kvm)?;
        self.write_vm(memory, address, vm_type);
        Ok(address)
    }

    pub(super) fn write_vm(&self, memory: &Memory, address: u64, vm_type: u32) {
        let layout = &self.layout;
        let made = self.made.fetch_add(1, Ordering::Relaxed) + 1;
        memory.clear(address, self.kvm);
        put(memory, address, layout.kvm_vm_type, 1, vm_type.into());
        if vm_type == kvm::TDX_VM {
            put(memory, address, layout.kvm_gfn_direct_bits, 8, SHARED_BIT >> 12);
        }
        put(memory, address, layout.kvm_memslot_pages, 8, MEMSLOT_PAGES);
        put(memory, address, layout.kvm_clock_offset, 8, made.wrapping_neg());
    }

    /// KVM gives the VM up.
    pub(super) fn give_up(&self, memory: &Memory, vm: u64, bugged: bool) {
        put(memory, vm, self.layout.kvm_vm_bugged, 1, bugged.into());
        put(memory, vm, self.layout.kvm_vm_dead, 1, 1);
    }

    /// A vCPU and its `kvm_run`.
    pub(super) fn vcpu(&self, memory: &Memory, td: u64, id: u32) -> Result<(u64, u64)> {
        let (address, run) = (memory.take(self.vcpu)?, memory.take(self.run)?);
        self.write_vcpu(memory, (address, run), td, id);
        Ok((address, run))
    }

    pub(super) fn write_vcpu(&self, memory: &Memory, (address, run): (u64, u64), td: u64, id: u32) {
        memory.clear(address, self.vcpu);
        put(memory, address, self.layout.vcpu_kvm, 8, td);
        put(memory, address, self.layout.vcpu_id, 4, id.into());
        put(memory, address, self.layout.vcpu_run, 8, run);
    }

    /// What TDH.VP.ENTER and `tdx_vcpu_enter_exit` leave behind.
    pub(super) fn exit(&self, memory: &Memory, vcpu: u64, registers: &Registers) {
        let layout = &self.layout;
        let args = layout.tdx_vp_enter_args;
        for (offset, value) in [
            (layout.tdx_vp_enter_ret, registers.ret),
            (inside(args, layout.tdx_args_r10), registers.r10),
            (inside(args, layout.tdx_args_r11), registers.r11),
            (inside(args, layout.tdx_args_r12), registers.r12),
            (inside(args, layout.tdx_args_r13), registers.r13),
            (inside(args, layout.tdx_args_r14), registers.r14),
            (layout.tdx_ext_exit_qualification, registers.ext_qualification),
            (layout.tdx_exit_gpa, registers.gpa),
        ] {
            put(memory, vcpu, offset, 8, value);
        }
        // It is the same part, and one of the two fields may be said to be absent.
        let vt = layout.tdx_vt.min(layout.vmx_vt);
        put(memory, vcpu, inside(vt, layout.vt_exit_reason), 4, registers.kvm_reason.into());
        put(memory, vcpu, inside(vt, layout.vt_exit_intr_info), 4, registers.intr_info.into());
        memory.add(vcpu + u64::from(layout.stat_exits), 1);
    }

    /// The status with which KVM answers a TDVMCALL (`tdvmcall_set_return_code`).
    pub(super) fn answer(&self, memory: &Memory, vcpu: u64, status: u64) {
        let r10 = inside(self.layout.tdx_vp_enter_args, self.layout.tdx_args_r10);
        put(memory, vcpu, r10, 8, status);
    }

    /// Where KVM stopped converting, in R11.
    pub(super) fn answer_at(&self, memory: &Memory, vcpu: u64, next: u64) {
        let r11 = inside(self.layout.tdx_vp_enter_args, self.layout.tdx_args_r11);
        put(memory, vcpu, r11, 8, next);
    }

    /// What `kvm_prepare_memory_fault_exit` leaves in `kvm_run`.
    pub(super) fn fault(&self, memory: &Memory, run: u64, flags: u64, gpa: u64) {
        put(memory, run, self.layout.run_fault_flags, 8, flags);
        put(memory, run, self.layout.run_fault_gpa, 8, gpa);
    }

    /// Number, second and third argument of a system call in registers at `regs`.
    pub(super) fn system_call(&self, memory: &Memory, regs: u64, values: [u64; 3]) {
        let layout = &self.layout;
        for (offset, value) in
            [layout.regs_orig_ax, layout.regs_si, layout.regs_dx].into_iter().zip(values)
        {
            put(memory, regs, offset, 8, value);
        }
    }

    /// An open file at `file` that stands for `behind`.
    pub(super) fn open_file(&self, memory: &Memory, file: u64, behind: u64) {
        put(memory, file, self.layout.file_private_data, 8, behind);
    }

    /// What is behind an open guest_memfd of the VM at `vm`: its address, which is beside the file that will
    /// be at `file`.
    pub(super) fn guest_memfd(&self, memory: &Memory, file: u64, vm: u64) -> u64 {
        let gmem = file + BESIDE;
        put(memory, gmem, self.layout.gmem_kvm.min(self.layout.gmem_file_kvm), 8, vm);
        gmem
    }

    /// The mapping of a guest_memfd's pages at `mapping`, which the VM at `vm` has open, or nobody.
    pub(super) fn mapping(&self, memory: &Memory, mapping: u64, vm: Option<u64>) {
        let layout = &self.layout;
        let files = if layout.mapping_files == ABSENT {
            let host = mapping + 2 * BESIDE;
            put(memory, mapping, layout.mapping_host, 8, host);
            host - u64::from(layout.gmem_inode_inode) + u64::from(layout.gmem_inode_files)
        } else {
            mapping + u64::from(layout.mapping_files)
        };
        let entry = layout.gmem_entry.min(layout.gmem_file_entry);
        let first = vm.map_or(files, |vm| self.guest_memfd(memory, mapping, vm) + u64::from(entry));
        memory.write(files, 8, first);
    }

    /// KVM counts a KVM_RUN.
    pub(super) fn run(&self, memory: &Memory, vcpu: u64) {
        memory.add(vcpu + u64::from(self.layout.stat_fpu_reload), 1);
    }

    /// KVM counts a hypercall.
    pub(super) fn hypercall(&self, memory: &Memory, vcpu: u64) {
        memory.add(vcpu + u64::from(self.layout.stat_hypercalls), 1);
    }
}

/// From an open file to what is behind it, within the room of a `kvm_run`.
const BESIDE: u64 = 1024;

/// The offset of a member of an embedded structure, absent if one of them is.
fn inside(structure: u32, member: u32) -> u32 {
    if structure == ABSENT || member == ABSENT { ABSENT } else { structure + member }
}

fn put(memory: &Memory, base: u64, offset: u32, bytes: u32, value: u64) {
    if offset != ABSENT {
        memory.write(base + u64::from(offset), bytes, value);
    }
}

/// Adds `count` to bucket `bucket` of every row in `map` that is in use, and to what the slots say of its
/// class.
pub(super) fn add_to_buckets(
    map: &MapData,
    slots: &MapData,
    bucket: usize,
    count: u32,
) -> Result<()> {
    let rows = MappedArray::<LatencyRow>::writable(map)?;
    let slots = MappedArray::<VcpuSlot>::writable(slots)?;
    for index in 0..rows.len() {
        let Some(class) = (rows.word(index, offset_of!(LatencyRow, class)) as u32).checked_sub(1)
        else {
            continue;
        };
        let slot = rows.word(index, offset_of!(LatencyRow, slot)) as u32;
        let counter = match class.checked_sub(LATENCY_RETURNS) {
            Some(reason) => offset_of!(VcpuSlot, userspace) + 8 * reason as usize,
            None => offset_of!(VcpuSlot, reasons) + 8 * class as usize,
        };
        let word = (slot as usize * size_of::<VcpuSlot>() + counter) / 8;
        slots.store(word, slots.load(word) + u64::from(count));
        let byte =
            index as usize * size_of::<LatencyRow>() + offset_of!(LatencyRow, buckets) + 4 * bucket;
        let shift = byte % 8 * 8;
        let word = rows.load(byte / 8);
        let sum = ((word >> shift) as u32).wrapping_add(count);
        rows.store(byte / 8, word & !(0xffff_ffff << shift) | u64::from(sum) << shift);
    }
    Ok(())
}
