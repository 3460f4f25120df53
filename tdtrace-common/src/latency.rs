//! Durations: the buckets of a histogram, and where a vCPU's time goes.
//!
//! Buckets are log-linear, four to an octave, so a bucket is at most a fifth of its middle wide on
//! either side. A row of buckets has one writer, the thread of its vCPU.

use crate::counters::{CACHE_LINE, REASONS, USERSPACE};

/// Buckets of a histogram.
pub const BUCKETS: usize = 112;
/// Buckets of an octave, as a power of two.
const SUB_BITS: u32 = 2;
/// Durations below 2^7 ns are not told apart.
const FIRST_OCTAVE: u32 = 7;

/// The bucket of a duration in nanoseconds: 0 for all below 160 ns, the last for all from 30 s.
#[must_use]
#[inline(always)]
pub const fn bucket(ns: u64) -> usize {
    if ns.wrapping_sub(1 << FIRST_OCTAVE) >= bucket_start(BUCKETS - 1) - (1 << FIRST_OCTAVE) {
        return if ns < 1 << FIRST_OCTAVE { 0 } else { BUCKETS - 1 };
    }
    // The three highest bits of what is left say which bucket it is.
    let rest = ns >> (FIRST_OCTAVE - SUB_BITS);
    let shift = SHIFTS[highest_bit_hash(rest)];
    ((shift as usize) << SUB_BITS) + (rest >> shift) as usize - (1 << SUB_BITS)
}

/// The position of the highest bit of a number below 2^32 as a place of [`SHIFTS`]: all bits below it are set, and
/// of such numbers the product with this one differs in its five upper bits. eBPF has no instruction for it, and
/// what a compiler makes of `ilog2` there is twice as long.
const fn highest_bit_hash(number: u64) -> usize {
    let mut bits = number;
    bits |= bits >> 1;
    bits |= bits >> 2;
    bits |= bits >> 4;
    bits |= bits >> 8;
    bits |= bits >> 16;
    ((bits * 0x07c4_acdd) << 32 >> 59) as usize
}

/// How far a number is shifted until [`SUB_BITS`] bits and the highest are left, by the place of the latter.
static SHIFTS: [u8; 32] = {
    let mut shifts = [0; 32];
    let mut bit = SUB_BITS;
    while bit < 32 {
        shifts[highest_bit_hash(1 << bit)] = (bit - SUB_BITS) as u8;
        bit += 1;
    }
    shifts
};

/// The shortest duration of bucket `index`, in nanoseconds.
#[must_use]
pub const fn bucket_start(index: usize) -> u64 {
    if index == 0 {
        return 0;
    }
    let octave = FIRST_OCTAVE + (index as u32 >> SUB_BITS);
    let sub = index as u64 & ((1 << SUB_BITS) - 1);
    ((1 << SUB_BITS) + sub) << (octave - SUB_BITS)
}

/// The end of bucket `index`, in nanoseconds, not included; [`u64::MAX`] for the last.
#[must_use]
pub const fn bucket_end(index: usize) -> u64 {
    if index + 1 < BUCKETS { bucket_start(index + 1) } else { u64::MAX }
}

/// Where time goes between a VM exit and the next entry. The number is the index into the arrays of
/// nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Part {
    /// In the kernel.
    Kernel = 0,
    /// In the VMM: from `kvm_userspace_exit` to the `kvm_fpu(1)` of the next KVM_RUN.
    Vmm = 1,
    /// Halted: what `kvm_vcpu_wakeup` reports, the host's polling included.
    Halted = 2,
    /// Ready to run, but the host's CPU was another thread's.
    Waiting = 3,
}

/// How many [`Part`]s there are.
pub const PARTS: usize = 4;

impl Part {
    /// Every part, in the order of its number.
    pub const ALL: [Self; PARTS] = [Self::Kernel, Self::Vmm, Self::Halted, Self::Waiting];

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Vmm => "vmm",
            Self::Halted => "halted",
            Self::Waiting => "waiting",
        }
    }
}

/// What a duration is counted under: an index of `VcpuSlot::reasons` for the time from a VM exit to
/// the next entry, and from [`LATENCY_RETURNS`] on an index of `VcpuSlot::userspace` for the time that
/// the VMM took.
pub type LatencyClass = u32;

/// The first [`LatencyClass`] of returns to the VMM.
pub const LATENCY_RETURNS: LatencyClass = REASONS as u32;
/// How many classes there are.
pub const LATENCY_CLASSES: usize = REASONS + USERSPACE;

/// Rows that a vCPU can have; a power of two. A class finds its row in any place.
pub const SLOT_ROWS: usize = 64;

/// Where the search for the row of a class begins. A second look costs as much as all else that is done with
/// a duration, so the numbers are such that the classes that one vCPU usually has begin in places of their own.
#[must_use]
#[inline(always)]
pub const fn row_start(class: LatencyClass) -> usize {
    ((class * 3067) >> 11) as usize & (SLOT_ROWS - 1)
}

/// The durations of one class of one vCPU.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct LatencyRow {
    /// [`LatencyClass`] plus one; 0 for a row that was never used.
    pub class: u32,
    /// Index of the vCPU's slot.
    pub slot: u32,
    /// The longest duration, in nanoseconds. Written after `ns` and read before it, so that it is never
    /// longer than all of them.
    pub max: u64,
    /// Nanoseconds by [`Part`].
    pub ns: [u64; PARTS],
    /// Durations by [`bucket`]; they run over, so a reader takes differences.
    pub buckets: [u32; BUCKETS],
    /// Room up to a line.
    pub reserved: [u64; 2],
}

const _: () = assert!(size_of::<LatencyRow>() == 8 * CACHE_LINE);

/// What a vCPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Phase {
    /// Not known: no event of it since tdtrace attached, or one is missing.
    Unknown = 0,
    /// In the guest (a TD: or in the TDX module), from `kvm_entry` to `kvm_exit`.
    Guest = 1,
    /// In KVM_RUN, but not in the guest; on a KVM without `kvm_entry` all of KVM_RUN.
    Kernel = 2,
    /// In the VMM.
    Vmm = 3,
}

/// Times of one vCPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Odd while the rest is being written; a reader that finds it even and unchanged has read what
    /// belongs together.
    pub turns: u64,
    /// [`Phase`] as a number.
    pub phase: u16,
    /// Reason of the exit that has not been followed by an entry yet, plus one; 0 if there is none.
    pub exit: u16,
    /// `KVM_EXIT_*` index of the return to the VMM that lasts, plus one; 0 if there is none.
    pub returned: u16,
    /// Room.
    pub reserved: u16,
    /// When the phase began (`CLOCK_MONOTONIC`, ns).
    pub since: u64,
    /// `task_struct.sched_info.run_delay` when the phase began, ns.
    pub run_delay: u64,
    /// Halted since the phase began, ns.
    pub halted: u64,
    /// Since the exit that is not over yet, by [`Part`], ns.
    pub parts: [u64; PARTS],
    /// In the guest, ns. Phases that have ended only.
    pub guest: u64,
    /// Outside the guest by [`Part`], ns. Phases that have ended only.
    pub ns: [u64; PARTS],
    /// Phases that could not be counted: the event before is missing.
    pub unpaired: u64,
    /// Durations of a class that found no row.
    pub rows_lost: u64,
}

const _: () = assert!(size_of::<Timing>() == 2 * CACHE_LINE);

/// A duration that was longer than asked for, halts left out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlowEvent {
    /// When it ended (`CLOCK_MONOTONIC`, ns).
    pub at: u64,
    /// Of what it consists by [`Part`], ns.
    pub parts: [u64; PARTS],
    /// Of what it is the duration.
    pub class: LatencyClass,
    /// Slot of the vCPU.
    pub slot: u32,
    /// Life of the slot, which tells the vCPU from others that had it.
    pub life: u32,
    /// The thread that ran it when KVM_RUN ended last.
    pub tid: u32,
}

const _: () = assert!(size_of::<SlowEvent>() == 8 + 8 * PARTS + 16);

#[cfg(feature = "user")]
mod pod {
    use super::LatencyRow;

    // SAFETY: repr(C) without implicit padding (size asserted above), integers only.
    unsafe impl aya::Pod for LatencyRow {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{counters::USERSPACE_EINTR, td::TdExit};

    #[test]
    fn every_duration_is_in_the_bucket_that_says_so() {
        let around = (0..64).flat_map(|bit| {
            let power = 1_u64 << bit;
            [power - 1, power, power + power / 4, power + power / 2, power + (power / 4) * 3]
        });
        for ns in around.chain([u64::MAX]) {
            let index = bucket(ns);
            assert!(bucket_start(index) <= ns, "{ns}");
            assert!(ns < bucket_end(index) || index == BUCKETS - 1, "{ns}");
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for index in 1..BUCKETS {
            assert_eq!(bucket(bucket_start(index)), index);
            assert_eq!(bucket(bucket_start(index) - 1), index - 1);
        }
        assert_eq!(bucket_end(0), 160);
        assert_eq!(bucket_start(BUCKETS - 1), 30_064_771_072);
    }

    #[test]
    fn no_bucket_but_the_first_and_last_is_wider_than_a_quarter_of_its_start() {
        for index in 1..BUCKETS - 1 {
            assert!((bucket_end(index) - bucket_start(index)) * 4 <= bucket_start(index));
        }
    }

    #[test]
    fn the_usual_classes_of_a_td_have_places_of_their_own() {
        let interrupts = [0, 1];
        let kinds = TdExit::ALL.iter().filter(|kind| {
            !matches!(kind.name().split_once(' '), Some(("VP.ENTER", rest)) if !rest.contains("SEPT"))
        });
        let kinds = kinds.map(|kind| kind.reason_index() as u32);
        // IO, HYPERCALL, HLT, MMIO, SYSTEM_EVENT, MEMORY_FAULT, TDX and -EINTR.
        let returns = [2, 3, 5, 6, 24, 39, 40, USERSPACE_EINTR as u32];
        let classes =
            interrupts.into_iter().chain(kinds).chain(returns.map(|it| LATENCY_RETURNS + it));
        let mut taken = [None; SLOT_ROWS];
        for class in classes {
            assert_eq!(taken[row_start(class)].replace(class), None, "{class}");
        }
    }
}
