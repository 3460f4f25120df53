//! Conversions, acceptance, quotes and bounces: which function it was, and what is counted of its calls.

/// What a guest asks of its TDX module or VMM other than by a #VE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Operation {
    /// `__set_memory_enc_pgtable`, to shared.
    ToShared = 0,
    /// `__set_memory_enc_pgtable`, to private.
    ToPrivate = 1,
    /// `tdx_enc_status_change_prepare`: what is done before the page tables change.
    Prepare = 2,
    /// `tdx_enc_status_change_finish`: what is done after.
    Finish = 3,
    /// `tdx_map_gpa`, to shared: TDVMCALL MapGPA.
    MapShared = 4,
    /// `tdx_map_gpa`, to private.
    MapPrivate = 5,
    /// `tdx_accept_memory`: TDG.MEM.PAGE.ACCEPT over a range.
    AcceptTdx = 6,
    /// `accept_memory`: a range of the firmware's unaccepted memory.
    Accept = 7,
    /// `tdx_report_new`: a quote, from the request to its arrival.
    Report = 8,
    /// `tdx_hcall_get_quote`: TDVMCALL GetQuote, which only submits it.
    GetQuote = 9,
    /// `swiotlb_bounced`: a buffer is copied to shared memory.
    Bounce = 10,
}

/// How many [`Operation`]s there are.
pub const OPERATIONS: usize = 11;

impl Operation {
    /// Every operation, in the order of its number.
    pub const ALL: [Self; OPERATIONS] = [
        Self::ToShared,
        Self::ToPrivate,
        Self::Prepare,
        Self::Finish,
        Self::MapShared,
        Self::MapPrivate,
        Self::AcceptTdx,
        Self::Accept,
        Self::Report,
        Self::GetQuote,
        Self::Bounce,
    ];

    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToShared => "to_shared",
            Self::ToPrivate => "to_private",
            Self::Prepare => "prepare",
            Self::Finish => "finish",
            Self::MapShared => "map_gpa_shared",
            Self::MapPrivate => "map_gpa_private",
            Self::AcceptTdx => "accept_tdx",
            Self::Accept => "accept",
            Self::Report => "quote",
            Self::GetQuote => "get_quote",
            Self::Bounce => "swiotlb",
        }
    }
}

/// How a function says that it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Returns {
    /// It does not, or it is not known how: nothing counts as failed.
    Nothing = 0,
    /// `bool`: false is failure. Only the low byte is defined.
    Bool = 1,
    /// `int`: anything but 0 is failure. Only the low half is defined.
    Int = 2,
    /// A status of 64 bits: anything but 0 is failure.
    Status = 3,
}

/// Whether `value`, what a function returned, says that it failed. `returns` is a [`Returns`].
#[must_use]
#[inline(always)]
pub const fn has_failed(returns: u8, value: u64) -> bool {
    match returns {
        1 => value & 0xff == 0,
        2 => value as u32 != 0,
        3 => value != 0,
        _ => false,
    }
}

/// Who did what.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey {
    /// An [`Operation`].
    pub operation: u32,
    /// The kernel's stack; an error if negative.
    pub stack: i32,
}

/// What is counted of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallValue {
    /// Calls.
    pub count: u64,
    /// Those that failed.
    pub failed: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Calls whose duration is known.
    pub timed: u64,
    /// Nanoseconds of those.
    pub ns: u64,
    /// The longest of those, in nanoseconds.
    pub max_ns: u64,
    /// What the last one that failed returned.
    pub last_failure: u64,
}

/// A call that has begun: its thread, and in the high bits of the frame its [`Operation`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallEntryKey {
    /// As [`super::EntryKey::thread`].
    pub thread: u64,
    /// The first [`Operation`] of the function.
    pub function: u64,
}

/// When a call began and with what; kretprobes do not know the arguments.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallEntry {
    /// `CLOCK_MONOTONIC`, ns; 0 if the clock may not be read.
    pub at: u64,
    /// The first three arguments.
    pub arguments: [u64; 3],
}
