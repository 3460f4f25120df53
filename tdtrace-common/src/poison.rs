//! Broken memory of the host: which pages, who said so, and what the kernel did.

/// Who says that memory is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum PoisonSource {
    /// `mce:mce_record`: the CPU, by a machine check.
    MachineCheck = 0,
    /// `memory_failure_event` (`ras`, later `memory_failure`): the kernel has taken a page out of use.
    MemoryFailure = 1,
}

impl PoisonSource {
    /// Every source, in the order of its number.
    pub const ALL: [Self; 2] = [Self::MachineCheck, Self::MemoryFailure];

    /// The tracepoint, and the name of the program on it.
    #[must_use]
    pub const fn tracepoint(self) -> &'static str {
        match self {
            Self::MachineCheck => "mce_record",
            Self::MemoryFailure => "memory_failure_event",
        }
    }

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MachineCheck => "machine_check",
            Self::MemoryFailure => "memory_failure",
        }
    }
}

/// The frame of a machine check that names no address.
pub const NO_PFN: u64 = u64::MAX;

/// What is counted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoisonKey {
    /// The page's frame; [`NO_PFN`] if it is not told.
    pub pfn: u64,
    /// A [`PoisonSource`].
    pub source: u16,
    /// Of a memory failure: `enum mf_action_page_type`, whose numbers differ between kernels. Of a machine
    /// check: the bank.
    pub kind: u16,
    /// Of a memory failure: `enum mf_result`.
    pub result: u16,
    /// Room.
    pub reserved: u16,
}

/// What became of a page, by [`PoisonKey::result`] (`include/linux/mm.h:enum mf_result`).
pub const RESULTS: [&str; 4] = ["ignored", "failed", "delayed", "recovered"];

/// Pages that are told apart.
pub const POISON_PAGES: u32 = 1024;

const _: () = assert!(size_of::<PoisonKey>() == 16);

#[cfg(feature = "user")]
mod pod {
    use super::PoisonKey;

    // SAFETY: repr(C) without implicit padding (size asserted above), integers only.
    unsafe impl aya::Pod for PoisonKey {}
}
