//! The maps of a TD guest: what is counted of its #VEs, of conversions and the like, and the record of
//! a single #VE.
//!
//! #VEs come on every CPU and in every context, so values that all CPUs share are added to atomically;
//! those of [`VeStats`] are per CPU, where a program has one writer, because it never runs within
//! itself on one CPU.

mod call;

pub use call::{
    CallEntry, CallEntryKey, CallKey, CallValue, OPERATIONS, Operation, Returns, has_failed,
};

use crate::latency::BUCKETS;

/// Reasons that are counted one by one: VMX exit reasons below [`VE_OTHER`], and all others together.
pub const VE_REASONS: usize = 96;
/// The index of all reasons that have none of their own.
pub const VE_OTHER: usize = VE_REASONS - 1;

/// The index of a reason in the map of [`VeStats`].
#[must_use]
#[inline(always)]
pub const fn ve_reason_index(reason: u64) -> usize {
    if reason < VE_OTHER as u64 { reason as usize } else { VE_OTHER }
}

/// In user mode ([`VeEvent::flags`], [`VeKey::mode`]).
pub const VE_USER: u32 = 1;
/// Caused by tdtrace's own process.
pub const VE_OWN: u32 = 1 << 1;
/// The beginning was not seen: registers, time and order are not known. An address of the instruction
/// that is not 0 was told from the end.
pub const VE_UNPAIRED: u32 = 1 << 2;
/// The kernel handled it.
pub const VE_HANDLED: u32 = 1 << 3;
/// The end was seen, but not the information about the #VE: only its verdict is known.
pub const VE_UNREAD: u32 = 1 << 4;
/// Whether `errno` is known: `handle_mmio` was seen to return.
pub const VE_ERRNO: u32 = 1 << 5;
/// Interrupts were on.
pub const VE_INTERRUPTS: u32 = 1 << 6;
/// The duration is known.
pub const VE_TIMED: u32 = 1 << 7;
/// The first bit of [`Context`] in [`VeKey::mode`] and [`VeEvent::flags`], three bits wide.
pub const VE_CONTEXT_SHIFT: u32 = 8;
/// The bits of `flags` that make up [`VeKey::mode`].
pub const VE_MODE: u32 = VE_USER | VE_OWN | VE_UNPAIRED | VE_UNREAD | 7 << VE_CONTEXT_SHIFT;

/// What the CPU was doing when a #VE hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Context {
    /// The kernel does not tell.
    Unknown = 0,
    /// A thread, in the kernel or in user mode.
    Task = 1,
    /// A soft interrupt.
    Softirq = 2,
    /// A hard interrupt.
    Hardirq = 3,
    /// An NMI.
    Nmi = 4,
}

impl Context {
    /// Every context, in the order of its number.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Task, Self::Softirq, Self::Hardirq, Self::Nmi];

    /// The context that `preempt_count` says in a kernel that keeps interrupts in `bits` of it.
    #[must_use]
    #[inline(always)]
    pub const fn of_preempt_count(count: u32, bits: InterruptBits) -> Self {
        if count & bits.nmi != 0 {
            Self::Nmi
        } else if count & bits.hardirq != 0 {
            Self::Hardirq
        } else if count & 0x100 != 0 {
            Self::Softirq
        } else {
            Self::Task
        }
    }

    /// The context in the bits of a mode or of flags.
    #[must_use]
    pub const fn of_flags(flags: u32) -> Self {
        match flags >> VE_CONTEXT_SHIFT & 7 {
            1 => Self::Task,
            2 => Self::Softirq,
            3 => Self::Hardirq,
            4 => Self::Nmi,
            _ => Self::Unknown,
        }
    }

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Task => "task",
            Self::Softirq => "softirq",
            Self::Hardirq => "hardirq",
            Self::Nmi => "nmi",
        }
    }
}

/// The bits of `preempt_count` that count interrupts (`include/linux/preempt.h`); soft interrupts are
/// counted from bit 8 on in every kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptBits {
    /// Hard interrupts.
    pub hardirq: u32,
    /// NMIs.
    pub nmi: u32,
}

impl InterruptBits {
    /// Linux 6.1 and later.
    pub const DIRECT: Self = Self { hardirq: 0x000f_0000, nmi: 0x00f0_0000 };
    /// Kernels that also count there how often interrupts were disabled, 7.3 among them. On x86-64 the
    /// word has 64 bits then, and its last does not lie in these.
    pub const BEHIND_DISABLED: Self = Self { hardirq: 0x0f00_0000, nmi: 0xf000_0000 };
}

/// The offset or address of something that this kernel does not have.
pub const NO_ADDRESS: u64 = u64::MAX;

/// Addresses of kernel variables, [`NO_ADDRESS`] for those that are not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestAddresses {
    /// `__per_cpu_offset`: for each CPU what to add to the address of a per-CPU variable.
    pub per_cpu_offset: u64,
    /// The per-CPU variable that holds `preempt_count`.
    pub preempt_count: u64,
    /// `cc_mask`: in a TD the shared bit.
    pub cc_mask: u64,
    /// What `preempt_count` means.
    pub interrupt_bits: InterruptBits,
}

impl GuestAddresses {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self {
        per_cpu_offset: NO_ADDRESS,
        preempt_count: NO_ADDRESS,
        cc_mask: NO_ADDRESS,
        interrupt_bits: InterruptBits::DIRECT,
    };
}

/// What the collector tells the programs while they run. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestControl {
    /// 1: count. Written by the collector once every probe is attached.
    pub on: u64,
    /// 1: the clock may be read. Under clocksource hpet, reading it within a #VE waits forever.
    pub clock: u64,
    /// The page of the HPET's registers (GPA without the shared bit), within whose #VEs the clock is
    /// never read; [`NO_ADDRESS`] if there is none.
    pub hpet: u64,
}

/// What the programs tell the collector. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestState {
    /// Number of the last #VE that began.
    pub sequence: u64,
    /// The value of `cc_mask`, 0 as long as no EPT violation was seen.
    pub cc_mask: u64,
}

/// Which #VE handler this is: a thread, and where its registers lie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EntryKey {
    /// `tgid << 32 | pid`; for idle tasks, which share 0, bit 63 and the CPU.
    pub thread: u64,
    /// fentry: the address of the interrupted registers; kprobe: the stack pointer of the caller.
    pub frame: u64,
}

/// What the beginning of a #VE leaves for its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Number of the #VE in the order of their beginnings, from 1 on.
    pub sequence: u64,
    /// When it began (`CLOCK_MONOTONIC`, ns); 0 if the clock may not be read.
    pub at: u64,
    /// The information about the #VE.
    pub ve: VeInfo,
    /// RIP of the instruction.
    pub ip: u64,
    /// RAX before the instruction.
    pub ax: u64,
    /// RCX before the instruction.
    pub cx: u64,
    /// Flags `VE_*` that are known at the beginning.
    pub flags: u32,
    /// `preempt_count`.
    pub preempt_count: u32,
    /// What `handle_mmio` returned, if [`VE_ERRNO`] is set.
    pub errno: i32,
    /// Room.
    pub reserved: u32,
}

/// `struct ve_info`, as the TDX module tells it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeInfo {
    /// The exit reason.
    pub reason: u64,
    /// The exit qualification.
    pub qualification: u64,
    /// Guest linear address of an EPT violation.
    pub gla: u64,
    /// Guest physical address of an EPT violation, as it is: with the shared bit.
    pub gpa: u64,
    /// Bytes of the instruction; undefined for EPT violations.
    pub length: u32,
    /// VMX instruction information.
    pub info: u32,
}

/// A place that causes #VEs: an instruction, and what it is about.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VeKey {
    /// The exit reason.
    pub reason: u32,
    /// The bits [`VE_MODE`] of the flags.
    pub mode: u32,
    /// RIP of the instruction, 0 if not known.
    pub ip: u64,
    /// Port I/O: the low half of the qualification. EPT violation: the page with its shared bit. MSR:
    /// the index. CPUID: the leaf, the subleaf in the high half. Others: 0.
    pub object: u64,
}

/// Bytes that are kept of an instruction; the longest has 15.
pub const INSN_BYTES: usize = 16;

/// What is counted of a place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeValue {
    /// #VEs.
    pub count: u64,
    /// Those that the kernel could not handle.
    pub failed: u64,
    /// Those whose duration is known.
    pub timed: u64,
    /// Nanoseconds of those.
    pub ns: u64,
    /// The last qualification.
    pub qualification: u64,
    /// The last guest physical address.
    pub gpa: u64,
    /// `tgid << 32 | pid` of the first.
    pub thread: u64,
    /// The kernel's stack at the first; an error if negative.
    pub stack: i32,
    /// What `handle_mmio` returned at the last failure; 0 if not known.
    pub errno: i32,
    /// Bytes that are valid of `bytes`.
    pub bytes_len: u32,
    /// Room.
    pub reserved: u32,
    /// The instruction.
    pub bytes: [u8; INSN_BYTES],
    /// Name of the first thread.
    pub comm: [u8; 16],
}

/// What is counted of a reason, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VeStats {
    /// #VEs.
    pub count: u64,
    /// Those that the kernel could not handle.
    pub failed: u64,
    /// Those in user mode.
    pub user: u64,
    /// Those that tdtrace caused.
    pub own: u64,
    /// Those whose beginning was not seen.
    pub unpaired: u64,
    /// Nanoseconds of those whose duration is known.
    pub ns: u64,
    /// The longest, in nanoseconds.
    pub max_ns: u64,
    /// Room up to a line.
    pub reserved: u64,
    /// Durations by [`crate::latency::bucket`].
    pub buckets: [u64; BUCKETS],
}

impl VeStats {
    /// Nothing has been counted.
    pub const NOTHING: Self = Self {
        count: 0,
        failed: 0,
        user: 0,
        own: 0,
        unpaired: 0,
        ns: 0,
        max_ns: 0,
        reserved: 0,
        buckets: [0; BUCKETS],
    };
}

/// A single #VE, at its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VeEvent {
    /// Number in the order of their beginnings, from 1 on; 0 if that was not seen.
    pub sequence: u64,
    /// When it began (`CLOCK_MONOTONIC`, ns); 0 if not known.
    pub at: u64,
    /// How long it took, in nanoseconds, if [`VE_TIMED`] is set.
    pub ns: u64,
    /// The information about it.
    pub ve: VeInfo,
    /// RIP of the instruction, 0 if not known.
    pub ip: u64,
    /// RAX before it.
    pub ax: u64,
    /// RCX before it.
    pub cx: u64,
    /// `tgid << 32 | pid`.
    pub thread: u64,
    /// Flags `VE_*` and the [`Context`].
    pub flags: u32,
    /// The CPU on which it ended.
    pub cpu: u32,
    /// `preempt_count` at the beginning.
    pub preempt_count: u32,
    /// What `handle_mmio` returned, if [`VE_ERRNO`] is set.
    pub errno: i32,
    /// The kernel's stack; an error if negative.
    pub stack: i32,
    /// Bytes that are valid of `bytes`.
    pub bytes_len: u32,
    /// The instruction.
    pub bytes: [u8; INSN_BYTES],
    /// Name of the thread.
    pub comm: [u8; 16],
}

/// The bit of a stack's number that says that it is kept beside the others, because another one has the
/// place that its hash names.
pub const STACK_BESIDE: i32 = 1 << 30;

/// Why something of a guest was not counted, or only in part. The number is the index into the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum GuestLoss {
    /// The beginning of a #VE found no room, so that its duration stays unknown.
    Entries = 0,
    /// The end of a #VE was seen and its beginning was not.
    Unpaired = 1,
    /// A place found no room; it is counted by its reason.
    Places = 2,
    /// A stack found no room, or its place was taken by another, beside the others, too.
    Stacks = 3,
    /// An event found no room in the buffer.
    Events = 4,
    /// A call found no room.
    Calls = 5,
    /// The beginning of a call was not seen, so that its duration stays unknown.
    UnpairedCalls = 6,
    /// Registers or information about a #VE could not be read.
    Unread = 7,
}

impl GuestLoss {
    /// Every loss, in the order of its number.
    pub const ALL: [Self; 8] = [
        Self::Entries,
        Self::Unpaired,
        Self::Places,
        Self::Stacks,
        Self::Events,
        Self::Calls,
        Self::UnpairedCalls,
        Self::Unread,
    ];

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Entries => "entries",
            Self::Unpaired => "unpaired",
            Self::Places => "places",
            Self::Stacks => "stacks",
            Self::Events => "events",
            Self::Calls => "calls",
            Self::UnpairedCalls => "unpaired_calls",
            Self::Unread => "unread",
        }
    }
}

const _: () = assert!(size_of::<GuestControl>() == 3 * 8);
const _: () = assert!(size_of::<VeInfo>() == 40);
const _: () = assert!(size_of::<Entry>() == 5 * 8 + 40 + 16);
const _: () = assert!(size_of::<VeKey>() == 24);
const _: () = assert!(size_of::<VeValue>() == 7 * 8 + 16 + 32);
const _: () = assert!(size_of::<VeStats>() == (8 + BUCKETS) * 8);
const _: () = assert!(size_of::<VeEvent>() == 7 * 8 + 40 + 24 + 32);
const _: () = assert!(size_of::<CallValue>() == 7 * 8);

#[cfg(feature = "user")]
mod pod {
    use super::{
        CallEntry, CallEntryKey, CallKey, CallValue, Entry, EntryKey, GuestAddresses, GuestControl,
        GuestState, VeEvent, VeKey, VeStats, VeValue,
    };

    macro_rules! pod {
        ($($name:ty)*) => {
            $(
                // SAFETY: repr(C) without implicit padding, integers and arrays of them only.
                unsafe impl aya::Pod for $name {}
            )*
        };
    }

    pod! { CallEntry CallEntryKey CallKey CallValue Entry EntryKey GuestAddresses GuestControl }
    pod! { GuestState VeEvent VeKey VeStats VeValue }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_context_counts() {
        let cases = [
            (0, Context::Task),
            (0x200, Context::Task),
            (0x0000_0101, Context::Softirq),
            (0x0001_0100, Context::Hardirq),
            (0x0011_0100, Context::Nmi),
            (0x8000_0000, Context::Task),
        ];
        for (count, context) in cases {
            let found = Context::of_preempt_count(count, InterruptBits::DIRECT);
            assert_eq!(found, context, "{count:#x}");
        }
        let cases = [
            (0, Context::Task),
            (0x0003_0001, Context::Task),
            (0x0002_0101, Context::Softirq),
            (0x0101_0100, Context::Hardirq),
            (0x2100_0100, Context::Nmi),
        ];
        for (count, context) in cases {
            let found = Context::of_preempt_count(count, InterruptBits::BEHIND_DISABLED);
            assert_eq!(found, context, "{count:#x}");
        }
        for context in Context::ALL {
            assert_eq!(Context::of_flags((context as u32) << VE_CONTEXT_SHIFT | 0xff), context);
        }
        assert_eq!(Context::of_flags(7 << VE_CONTEXT_SHIFT), Context::Unknown);
    }

    #[test]
    fn only_the_defined_part_of_a_returned_value_decides() {
        let failed = |returns: Returns, value| has_failed(returns as u8, value);
        assert!(failed(Returns::Bool, 0xffff_ff00) && !failed(Returns::Bool, 0xff01));
        assert!(failed(Returns::Int, 0xffff_fffb) && !failed(Returns::Int, 0xdead_0000_0000));
        assert!(failed(Returns::Status, 1 << 63) && !failed(Returns::Status, 0));
        assert!(!failed(Returns::Nothing, 0) && !has_failed(9, 1));
    }

    #[test]
    fn numbers_are_the_places_in_the_lists() {
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
        }
        for (index, loss) in GuestLoss::ALL.into_iter().enumerate() {
            assert_eq!(loss as usize, index);
        }
        assert_eq!((ve_reason_index(48), ve_reason_index(u64::MAX)), (48, VE_OTHER));
    }
}
