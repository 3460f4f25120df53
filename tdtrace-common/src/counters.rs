//! The counting maps: one slot per vCPU with one writer, one entry per VM, and the keys of the
//! hotspot map.
//!
//! A slot is written by its vCPU's thread only, without atomics and without locks, and read by the
//! collector through `mmap`. Slots are padded to whole cache lines because the values of a BPF array
//! are only 8-byte aligned.

use crate::{
    latency::{SLOT_ROWS, Timing},
    ledger::Conversion,
};

mod place;

pub use place::{Hotspot, HotspotKey, HotspotValue, Place, place_start};

/// The unit of padding, in bytes.
pub const CACHE_LINE: usize = 64;

/// What is counted per vCPU. The number is the index into [`VcpuSlot::counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Class {
    /// `kvm_pio`, guest IN.
    PioIn = 0,
    /// `kvm_pio`, guest OUT.
    PioOut = 1,
    /// `kvm_mmio` type 0: a read that nothing in the kernel served; it is counted again as
    /// [`Class::MmioRead`] when the VMM has answered.
    MmioReadUnsatisfied = 2,
    /// `kvm_mmio` type 1: a completed read.
    MmioRead = 3,
    /// `kvm_mmio` type 2: a write.
    MmioWrite = 4,
    /// `kvm_fast_mmio`: a write that an ioeventfd took.
    FastMmio = 5,
    /// `kvm_cpuid`.
    Cpuid = 6,
    /// `kvm_msr`, RDMSR.
    MsrRead = 7,
    /// `kvm_msr`, WRMSR.
    MsrWrite = 8,
    /// `kvm_hypercall`.
    Hypercall = 9,
    /// `kvm_userspace_exit`: KVM_RUN came back to the VMM.
    UserspaceExit = 10,
    /// `kvm_fpu(1)`: a KVM_RUN began.
    RunBegin = 11,
    /// `kvm_fpu(0)`: a KVM_RUN ended.
    RunEnd = 12,
    /// `kvm_entry`.
    Entry = 13,
    /// `kvm_exit`.
    Exit = 14,
    /// `kvm_page_fault`: a fault of the guest on its memory; its place is the error code (VMX: the
    /// exit qualification).
    PageFault = 15,
    /// `kvm_vcpu_wakeup`: a halt has ended; its place is 1 if the thread slept, 0 if it only polled.
    Halt = 16,
    /// `kvm_halt_poll_ns`: KVM changed how long it polls; its place is the new time in ns.
    HaltPoll = 17,
    /// `kvm_inj_virq`: an interrupt was injected; its place is the vector. Never for TDs.
    Interrupt = 18,
    /// `kvm_tdp_mmu_spte_changed`; its place is the level: 1 is 4 KiB, 2 is 2 MiB, 3 is 1 GiB. Counted
    /// for a vCPU only where its own thread changes the entry.
    SpteChanged = 19,
    /// `handle_mmio_page_fault`: an access to a page that KVM knows as MMIO.
    MmioFault = 20,
    /// `kvm_nested_vmexit`: an exit from L2; its place is the index of the exit's reason.
    NestedExit = 21,
    /// `kvm_apicv_accept_irq`: an interrupt was posted; its place is the vector. Fires in the sender's
    /// context, so it belongs to no vCPU.
    InterruptPosted = 22,
    /// An exit of a TD for an interrupt of the host; its place is the vector.
    HostInterrupt = 23,
    /// The status with which KVM answered a TDVMCALL: its place is the status, its size the number of
    /// the [`crate::td::TdExit`].
    TdAnswer = 24,
    /// What an exit of a TD became: its place is the index of `VcpuSlot::userspace`, its size that of
    /// `VcpuSlot::reasons`.
    TdReturn = 25,
    /// A TDVMCALL leaf without a name; its place is the leaf.
    TdUnknownLeaf = 26,
    /// `kvm_vm_ioctl` or `kvm_vm_set_mem_attributes`: the VMM made memory private or shared, mostly in a
    /// thread that runs no vCPU. Counted in the VM's ledger; of this class only what is lost.
    MemoryAttributes = 27,
    /// `KVM_EXIT_MEMORY_FAULT`: KVM could not serve a fault. Its place is 1 for private memory, its size the
    /// errno with which KVM_RUN came back.
    MemoryFault = 28,
    /// A fault of a TD on a page of private memory that its vCPU faulted on just before; its place is the
    /// page.
    TdFaultAgain = 29,
    /// `kvm_gmem_fallocate`: the VMM gave memory of a guest_memfd back. Counted in the VM's ledger; of this
    /// class only what is lost.
    MemoryPunched = 30,
}

impl Class {
    /// Every class, in the order of its number.
    pub const ALL: [Self; 31] = [
        Self::PioIn,
        Self::PioOut,
        Self::MmioReadUnsatisfied,
        Self::MmioRead,
        Self::MmioWrite,
        Self::FastMmio,
        Self::Cpuid,
        Self::MsrRead,
        Self::MsrWrite,
        Self::Hypercall,
        Self::UserspaceExit,
        Self::RunBegin,
        Self::RunEnd,
        Self::Entry,
        Self::Exit,
        Self::PageFault,
        Self::Halt,
        Self::HaltPoll,
        Self::Interrupt,
        Self::SpteChanged,
        Self::MmioFault,
        Self::NestedExit,
        Self::InterruptPosted,
        Self::HostInterrupt,
        Self::TdAnswer,
        Self::TdReturn,
        Self::TdUnknownLeaf,
        Self::MemoryAttributes,
        Self::MemoryFault,
        Self::TdFaultAgain,
        Self::MemoryPunched,
    ];

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PioIn => "pio_in",
            Self::PioOut => "pio_out",
            Self::MmioReadUnsatisfied => "mmio_read_unsatisfied",
            Self::MmioRead => "mmio_read",
            Self::MmioWrite => "mmio_write",
            Self::FastMmio => "fast_mmio",
            Self::Cpuid => "cpuid",
            Self::MsrRead => "msr_read",
            Self::MsrWrite => "msr_write",
            Self::Hypercall => "hypercall",
            Self::UserspaceExit => "userspace_exit",
            Self::RunBegin => "run_begin",
            Self::RunEnd => "run_end",
            Self::Entry => "entry",
            Self::Exit => "exit",
            Self::PageFault => "page_fault",
            Self::Halt => "halt",
            Self::HaltPoll => "halt_poll",
            Self::Interrupt => "interrupt",
            Self::SpteChanged => "spte_changed",
            Self::MmioFault => "mmio_fault",
            Self::NestedExit => "nested_exit",
            Self::InterruptPosted => "interrupt_posted",
            Self::HostInterrupt => "host_interrupt",
            Self::TdAnswer => "td_answer",
            Self::TdReturn => "td_return",
            Self::TdUnknownLeaf => "td_unknown_leaf",
            Self::MemoryAttributes => "memory_attributes",
            Self::MemoryFault => "memory_fault",
            Self::TdFaultAgain => "td_fault_again",
            Self::MemoryPunched => "memory_punched",
        }
    }

    /// Whether events of this class have an address, port, index or leaf to count by.
    #[must_use]
    pub const fn has_hotspots(self) -> bool {
        !matches!(
            self,
            Self::UserspaceExit
                | Self::RunBegin
                | Self::RunEnd
                | Self::Entry
                | Self::Exit
                | Self::InterruptPosted
                | Self::MemoryAttributes
                | Self::MemoryPunched
        )
    }

    /// Whether those of a TD are taken from its registers at the exit, and what the tracepoint of this
    /// class says of it is left aside: that one may be preempted, and says less.
    #[must_use]
    pub const fn is_told_by_td_exits(self) -> bool {
        matches!(
            self,
            Self::PioIn
                | Self::PioOut
                | Self::MmioReadUnsatisfied
                | Self::MmioRead
                | Self::MmioWrite
                | Self::FastMmio
                | Self::Cpuid
                | Self::MsrRead
                | Self::MsrWrite
                | Self::Hypercall
        )
    }

    /// The same for a number that is only known when an event comes: a bit by class.
    pub const TOLD_BY_TD_EXITS: u64 = {
        let (mut bits, mut index) = (0, 0);
        while index < Self::ALL.len() {
            if Self::ALL[index].is_told_by_td_exits() {
                bits |= 1 << Self::ALL[index] as u32;
            }
            index += 1;
        }
        bits
    };

    /// Whether its places are what guests ask for or what went wrong with it. Those of the others say how
    /// the host deals with it: answers, faults, pages, halts, interrupts.
    #[must_use]
    pub const fn is_asked_for(self) -> bool {
        self.is_told_by_td_exits()
            || matches!(self, Self::TdUnknownLeaf | Self::TdFaultAgain | Self::MemoryFault)
    }

    /// Whether events of this class also occur outside of a vCPU's thread. Those are counted for the
    /// host and are no loss.
    #[must_use]
    pub const fn occurs_outside(self) -> bool {
        matches!(self, Self::SpteChanged | Self::InterruptPosted)
    }
}

/// Room in [`VcpuSlot::counts`]; more than [`Class::ALL`] so that a new class moves nothing.
pub const COUNTS: usize = 32;

/// Room in [`VcpuSlot::reasons`]: VMX basic reasons and SVM codes by number, then the SVM codes from 0x400 at
/// [`REASON_SVM_HIGH`], VMX's 0xdead at [`REASON_UNDEFINED`], all else at [`REASON_OTHER`], and the exits of
/// TDs from [`crate::td::REASON_TD`] on. A power of two, so that a mask bounds every index for the verifier.
pub const REASONS: usize = 256;
/// Index of SVM exit code 0x400; 0x401 and so on follow, up to 0x407.
pub const REASON_SVM_HIGH: usize = 176;
/// Index of VMX exit reason 0xdead.
pub const REASON_UNDEFINED: usize = 190;
/// Index of every reason without an index of its own.
pub const REASON_OTHER: usize = 191;

/// Room in [`VcpuSlot::userspace`]: `KVM_EXIT_*` by number, then the three below.
pub const USERSPACE: usize = 64;
/// KVM_RUN ended with -EHWPOISON and MEMORY_FAULT: the guest touched memory that is broken.
pub const USERSPACE_HWPOISON: usize = 61;
/// KVM_RUN ended with -EINTR: a signal or a kick, the exit reason may be stale.
pub const USERSPACE_EINTR: usize = 62;
/// KVM_RUN ended with an errno under which the exit reason may be stale, or with a reason ≥ 61.
pub const USERSPACE_OTHER: usize = 63;

/// Hotspots that a slot holds itself; the rest goes to the hash map.
pub const SLOT_HOTSPOTS: usize = 32;

/// Which index of [`VcpuSlot::reasons`] a VMX basic exit reason has.
#[must_use]
#[inline(always)]
pub const fn vmx_reason_index(basic: u32) -> usize {
    if basic < 128 {
        basic as usize
    } else if basic == crate::vmx::UNDEFINED {
        REASON_UNDEFINED
    } else {
        REASON_OTHER
    }
}

/// Which index of [`VcpuSlot::reasons`] an SVM exit code has.
#[must_use]
#[inline(always)]
pub const fn svm_reason_index(code: u32) -> usize {
    if (code as usize) < REASON_SVM_HIGH {
        code as usize
    } else if code >= 0x400 && code <= 0x407 {
        REASON_SVM_HIGH + (code - 0x400) as usize
    } else {
        REASON_OTHER
    }
}

/// What KVM itself counts, with what was seen of it at the same moment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvmStat {
    /// `kvm_vcpu.stat.exits`.
    pub exits: u64,
    /// `kvm_vcpu.stat.fpu_reload`: KVM_RUNs.
    pub fpu_reload: u64,
    /// `kvm_vcpu.stat.io_exits`.
    pub io_exits: u64,
    /// `kvm_vcpu.stat.mmio_exits`.
    pub mmio_exits: u64,
    /// `kvm_vcpu.stat.irq_exits`.
    pub irq_exits: u64,
    /// `kvm_vcpu.stat.signal_exits`.
    pub signal_exits: u64,
    /// `kvm_vcpu.stat.hypercalls`.
    pub hypercalls: u64,
    /// [`Class::Exit`] when the others were read.
    pub seen_exits: u64,
    /// [`Class::RunEnd`] when the others were read.
    pub seen_runs: u64,
    /// [`Class::Hypercall`] when the others were read.
    pub seen_hypercalls: u64,
    /// Of a TD: what KVM thinks of it, see [`KvmStat::fate`].
    pub state: u64,
}

/// `kvm.vm_bugged`, in [`KvmStat::state`].
pub const VM_BUGGED: u64 = 1;
/// `kvm.vm_dead`, in [`KvmStat::state`].
pub const VM_DEAD: u64 = 2;
/// Where in [`KvmStat::state`] the vCPU's last exit begins: an index of `VcpuSlot::reasons` plus one.
pub const STATE_EXIT_SHIFT: u32 = 16;

impl KvmStat {
    /// Whether KVM has given the VM up, for a bug of its own ([`VM_BUGGED`]) or otherwise ([`VM_DEAD`]),
    /// and the last exit of the vCPU, an index of `VcpuSlot::reasons`, if it was not answered.
    #[must_use]
    pub const fn fate(&self) -> Option<(u64, Option<u32>)> {
        let given_up = self.state & (VM_BUGGED | VM_DEAD);
        if given_up == 0 {
            return None;
        }
        Some((given_up, ((self.state >> STATE_EXIT_SHIFT) as u32).checked_sub(1)))
    }
}

/// A `kvm` or `kvm_vcpu` of the kernel. Their addresses are used again, even within one process, so an
/// address says which one it is only together with the VM's identity.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct KvmObject {
    /// Kernel address.
    pub address: u64,
    /// What no other VM ever at this address has: [`VmEntry::identity`].
    pub identity: u64,
}

/// Everything that is counted of one vCPU. One writer: the thread inside KVM_RUN. What most events
/// touch comes first, so that it lies in one page.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct VcpuSlot {
    /// Kernel address of the `kvm_vcpu` while it has it; 0 once another vCPU took the address.
    pub vcpu: u64,
    /// Which vCPU it is, key of the map of vCPUs.
    pub object: KvmObject,
    /// Index of the VM's [`VmEntry`].
    pub vm: u32,
    /// The vCPU number that the VMM chose.
    pub vcpu_id: u32,
    /// Process that runs it.
    pub tgid: u32,
    /// Thread that ran it last.
    pub tid: u32,
    /// How many vCPUs have had this slot, this one included; 0 for a slot never used.
    pub life: u32,
    /// 1 between `kvm_fpu(0)` and `kvm_userspace_exit`.
    pub leaving: u8,
    /// 1 for a vCPU of a TD whose registers can be read.
    pub td: u8,
    /// Of a TD: index in [`VcpuSlot::reasons`] of the exit that is not answered yet, plus one.
    pub td_exit: u16,
    /// The bit that makes a guest physical address of a TD a shared one, which each of its exits needs; 0 if
    /// there is none.
    pub shared_bit: u64,
    /// How often [`VcpuSlot::last`] was written, twice: odd while it is being written, and 0 before the
    /// first time, which sets [`VcpuSlot::first`] as well. A reader that finds it even and unchanged
    /// has read what belongs together.
    pub synced: u64,
    /// Events by [`Class`].
    pub counts: [u64; COUNTS],
    /// Where the time goes.
    pub timing: Timing,
    /// Index of the row of a latency class, 0 while there is none; see [`crate::latency`].
    pub rows: [u32; SLOT_ROWS],
    /// What it asked to convert, and which pages it faulted on.
    pub conversion: Conversion,
    /// The places that came first.
    pub hotspots: [Hotspot; SLOT_HOTSPOTS],
    /// Events of a hotspot that found no room.
    pub hotspots_lost: u64,
    /// Its own index.
    pub index: u32,
    /// Room.
    pub reserved: u32,
    /// What KVM said when this vCPU was first seen between two exits.
    pub first: KvmStat,
    /// What KVM said when it was last seen so.
    pub last: KvmStat,
    /// `kvm_userspace_exit` by `KVM_EXIT_*`.
    pub userspace: [u64; USERSPACE],
    /// `kvm_exit` by reason, and from [`crate::td::ANSWERED`] on the TDVMCALLs that were answered with SUCCESS.
    pub reasons: [u64; REASONS],
}

const _: () = assert!(size_of::<VcpuSlot>().is_multiple_of(CACHE_LINE));
const _: () = assert!(
    size_of::<VcpuSlot>()
        == 64
            + 8 * COUNTS
            + 128
            + 4 * SLOT_ROWS
            + 64
            + 192
            + 8 * REASONS
            + 8 * USERSPACE
            + 24 * SLOT_HOTSPOTS
);

/// One VM.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct VmEntry {
    /// Kernel address of the `kvm`; 0 for an entry never used.
    pub kvm: u64,
    /// What no other VM at this address has had: the inode of its directory in debugfs, and without
    /// debugfs its kvmclock offset, the time of its creation.
    pub identity: u64,
    /// When it was first seen (`CLOCK_MONOTONIC`, ns). Of two VMs at one address the later one lives.
    pub seen_at: u64,
    /// The process that created it, `kvm.userspace_pid`; 0 if unknown.
    pub userspace_pid: u32,
    /// `KVM_X86_*_VM`, [`u32::MAX`] if unknown.
    pub vm_type: u32,
    /// How many VMs have had this entry.
    pub life: u32,
    /// Process whose vCPU was the first to be seen.
    pub tgid: u32,
    /// Name of the process that runs it, ended by a 0 unless it fills the room.
    pub comm: [u8; 16],
    /// Room up to a line.
    pub reserved: u64,
}

const _: () = assert!(size_of::<VmEntry>() == CACHE_LINE);

/// What one CPU remembers between events; a guess that the slot itself confirms or refutes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuMemo {
    /// Slot of the vCPU seen last.
    pub slot: u64,
    /// Thread (high half) and slot (low half) of the last `kvm_fpu(0)`, written as one word.
    pub leaving: u64,
}

/// Why events are not in the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Loss {
    /// No vCPU is running on this thread, or which one could not be told.
    Unattributed = 0,
    /// All vCPU slots or VM entries are taken.
    SlotsFull = 1,
    /// The map of vCPU addresses refused an entry.
    MapFull = 2,
    /// No loss: the event belongs to no vCPU, see [`Class::occurs_outside`].
    Outside = 3,
}

impl Loss {
    /// Every cause, in the order of its number.
    pub const ALL: [Self; 4] = [Self::Unattributed, Self::SlotsFull, Self::MapFull, Self::Outside];

    /// Where the map of losses counts events of `class` lost so.
    #[must_use]
    #[inline(always)]
    pub const fn index(self, class: Class) -> u32 {
        self.first() + class as u32
    }

    /// The index of the first class.
    #[must_use]
    #[inline(always)]
    pub const fn first(self) -> u32 {
        self as u32 * COUNTS as u32
    }

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unattributed => "unattributed",
            Self::SlotsFull => "slots_full",
            Self::MapFull => "map_full",
            Self::Outside => "outside",
        }
    }
}

#[cfg(feature = "user")]
mod pod {
    use super::{HotspotKey, HotspotValue, KvmObject, VcpuSlot, VmEntry};

    // SAFETY: repr(C) without implicit padding (sizes asserted above), integers only.
    unsafe impl aya::Pod for HotspotKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for HotspotValue {}
    // SAFETY: as above.
    unsafe impl aya::Pod for KvmObject {}
    // SAFETY: as above.
    unsafe impl aya::Pod for VcpuSlot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for VmEntry {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_is_its_index() {
        for (index, class) in Class::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index);
        }
    }

    #[test]
    fn reasons_do_not_collide() {
        assert_eq!(vmx_reason_index(77), 77);
        assert_eq!(vmx_reason_index(0xdead), REASON_UNDEFINED);
        assert_eq!(vmx_reason_index(0xffff), REASON_OTHER);
        assert_eq!(svm_reason_index(0xa2), 0xa2);
        assert_eq!(svm_reason_index(0x400), REASON_SVM_HIGH);
        assert_eq!(svm_reason_index(0x403), REASON_SVM_HIGH + 3);
        assert_eq!(svm_reason_index(u32::MAX), REASON_OTHER);
    }
}
