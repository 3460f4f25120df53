//! The ledger of conversions: what a VM's memory was turned into, shared or private, by whom it was asked
//! for, and where.
//!
//! A VM has one [`VmLedger`]. Conversions are rare beside exits, each is a call into the VMM, so its
//! numbers are added to atomically. What may happen at every fault is in the vCPU's own [`Conversion`].

use crate::counters::CACHE_LINE;

/// Which way memory is converted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    /// From private to shared.
    ToShared = 0,
    /// From shared to private.
    ToPrivate = 1,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::ToShared, Self::ToPrivate];

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToShared => "to_shared",
            Self::ToPrivate => "to_private",
        }
    }
}

/// What is counted of a VM's conversions. The number is the index into [`VmLedger::counts`]; of those that
/// have a direction, the one to private has the next number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum LedgerCount {
    /// Bytes that KVM said were converted, asked for by MapGPA.
    Bytes = 0,
    /// MapGPA of one page of 4 KiB.
    Pages = 2,
    /// MapGPA of whole blocks of 2 MiB.
    Blocks = 4,
    /// Requests answered RETRY: the guest is to go on where KVM stopped.
    Retried = 6,
    /// Requests that go on where the one before was told to.
    Continued = 8,
    /// Requests answered with a failure.
    Refused = 10,
    /// Memory attributes set by the VMM.
    AttributeCalls = 12,
    /// Bytes of them.
    AttributeBytes = 14,
    /// Conversions whose region found no room in [`VmLedger::regions`].
    WithoutRegion = 16,
    /// Pages of 4 KiB mapped for faults on private memory. Added up from the vCPUs.
    Mapped4K = 17,
    /// The same of 2 MiB.
    Mapped2M = 18,
    /// Holes that the VMM punched into guest_memfd. Has no direction.
    PunchedCalls = 19,
    /// Bytes of them, whether there were pages or not. Has no direction.
    PunchedBytes = 20,
    /// Pages of guest_memfd that broke. Has no direction.
    BrokenPages = 21,
}

/// Room in [`VmLedger::counts`].
pub const LEDGER_COUNTS: usize = 24;

/// The names of the numbers in [`VmLedger::counts`], by index.
pub const LEDGER_NAMES: [&str; 22] = [
    "bytes_to_shared",
    "bytes_to_private",
    "pages_to_shared",
    "pages_to_private",
    "blocks_to_shared",
    "blocks_to_private",
    "retried_to_shared",
    "retried_to_private",
    "continued_to_shared",
    "continued_to_private",
    "refused_to_shared",
    "refused_to_private",
    "attribute_calls_to_shared",
    "attribute_calls_to_private",
    "attribute_bytes_to_shared",
    "attribute_bytes_to_private",
    "without_region",
    "mapped_4k",
    "mapped_2m",
    "punched_calls",
    "punched_bytes",
    "broken_pages",
];

impl LedgerCount {
    /// The index of one that has a direction.
    #[must_use]
    #[inline(always)]
    pub const fn of(self, direction: Direction) -> usize {
        self as usize + direction as usize
    }
}

/// Bits of an address within a page of 4 KiB.
pub const PAGE_SHIFT: u32 = 12;
/// Bits of an address within a region, 2 MiB.
pub const REGION_SHIFT: u32 = 21;
/// Regions that a VM's ledger holds.
pub const REGIONS: usize = 32;
/// How many places in [`VmLedger::regions`] are tried for a region.
pub const REGION_PROBES: usize = 4;

/// Conversions that began in one region of 2 MiB. All vCPUs of the VM add to it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Number of the region (address by 2 MiB) plus one; 0: nobody's.
    pub key: u64,
    /// [`Direction`] of the last one plus one.
    pub last: u64,
    /// When it was answered (`CLOCK_MONOTONIC`, ns).
    pub last_at: u64,
    /// How often one went the other way than the one before: the region goes back and forth.
    pub turns: u64,
    /// Conversions by [`Direction`].
    pub calls: [u64; 2],
    /// Bytes by [`Direction`], those beyond the region's end included.
    pub bytes: [u64; 2],
}

const _: () = assert!(size_of::<Region>() == CACHE_LINE);

/// The conversions of one VM.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct VmLedger {
    /// Numbers by [`LedgerCount`].
    pub counts: [u64; LEDGER_COUNTS],
    /// Pages of 4 KiB in the VM's memory slots (`kvm.nr_memslot_pages`); 0 if it is not known.
    pub memory_pages: u64,
    /// The last memory fault that the VMM was told of: its guest physical address; bit 0: private.
    pub fault: u64,
    /// When that was (`CLOCK_MONOTONIC`, ns); 0: there was none.
    pub fault_at: u64,
    /// Room up to a line.
    pub reserved: [u64; 5],
    /// Regions by hash.
    pub regions: [Region; REGIONS],
}

const _: () = assert!(size_of::<VmLedger>() == 8 * LEDGER_COUNTS + 64 + REGIONS * CACHE_LINE);
const _: () = assert!(LEDGER_NAMES.len() <= LEDGER_COUNTS);

/// A call of a function of KVM that was seen to begin, for probes that have no arguments at its return. A
/// thread is in one of them at most.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmmCall {
    /// Which function.
    pub function: u64,
    /// The open file that it was given (`struct file *`); `kvm_gmem_error_folio`, the mapping of its pages.
    pub file: u64,
    /// What it is to do: `kvm_vm_ioctl`, the address of `struct kvm_memory_attributes` in the VMM;
    /// `kvm_gmem_fallocate`, bytes; `kvm_gmem_error_folio`, nothing.
    pub argument: u64,
}

/// What a vCPU remembers of the conversion that it asked for, and of its faults. One writer: its thread.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// Where the MapGPA that is not answered yet begins, the shared bit included.
    pub start: u64,
    /// Its bytes.
    pub size: u64,
    /// Where the next one goes on if the last one was answered RETRY, bit 0 set; else 0.
    pub next: u64,
    /// Number of the region in which the conversion that is going on began.
    pub region: u64,
    /// Pages mapped for faults on private memory: 4 KiB, 2 MiB.
    pub mapped: [u64; 2],
    /// The pages of private memory that it faulted on last, bit 0 set; the newest one first.
    pub pages: [u64; 2],
}

/// Value of the map of processes for one that runs several VMs.
pub const SEVERAL: u32 = u32::MAX;

/// `KVM_MEMORY_ATTRIBUTE_PRIVATE` and `KVM_MEMORY_EXIT_FLAG_PRIVATE` (`include/uapi/linux/kvm.h`).
pub const PRIVATE: u64 = 1 << 3;

#[cfg(feature = "user")]
// SAFETY: repr(C) without implicit padding (size asserted above), integers only.
unsafe impl aya::Pod for VmLedger {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_with_a_direction_is_called_by_both() {
        use LedgerCount as Count;
        for direction in Direction::ALL {
            for count in [
                Count::Bytes,
                Count::Pages,
                Count::Blocks,
                Count::Retried,
                Count::Continued,
                Count::Refused,
                Count::AttributeCalls,
                Count::AttributeBytes,
            ] {
                assert!(LEDGER_NAMES[count.of(direction)].ends_with(direction.name()), "{count:?}");
            }
        }
        assert_eq!(LEDGER_NAMES[Count::Mapped2M as usize], "mapped_2m");
        assert_eq!(LEDGER_NAMES[Count::WithoutRegion as usize], "without_region");
    }
}
