//! Every number from which on a guest's counts are a finding.

use crate::model::limit::Limit;

/// #VEs of one instruction.
pub const STORM_RATE: Limit = Limit {
    value: 10_000,
    unit: "#VEs a second",
    why: "a #VE with its TDVMCALL takes about 4 µs (measured for CPUID in a TD), so this is 4 % of a \
          CPU",
};

/// The time that #VEs of one instruction take, where it is known and they are no halts.
pub const STORM_TIME: Limit = Limit {
    value: 100,
    unit: "ms of a CPU a second",
    why: "a tenth of a CPU is more than any device that works with few accesses needs",
};

/// What a storm has at least, within the interval.
pub const STORM_LEAST: Limit =
    Limit { value: 1_000, unit: "#VEs", why: "fewer are a burst, whatever their rate" };

/// Conversions to shared and as many back, by one caller.
pub const PING_PONG_RATE: Limit = Limit {
    value: 1,
    unit: "pairs a second",
    why: "each flushes TLBs on all CPUs, asks the VMM twice and accepts the memory anew; drivers \
          convert when they are loaded",
};

/// What to and fro has at least, within the interval.
pub const PING_PONG_LEAST: Limit =
    Limit { value: 8, unit: "pairs", why: "a driver that is loaded and unloaded makes a few" };

/// The mean time of MapGPA for each 2 MiB begun.
pub const MAP_GPA_TIME: Limit = Limit {
    value: 10,
    unit: "ms for 2 MiB",
    why: "KVM serves a MapGPA in pieces of 2 MiB, each of which is one exit to the VMM and some system \
          calls, well under 1 ms",
};

/// The longest quote.
pub const QUOTE_TIME: Limit = Limit {
    value: 3,
    unit: "s",
    why: "the kernel looks once a second, so a quote that is ready in time takes one; it gives up after \
          30 (drivers/virt/coco/tdx-guest)",
};

/// Bytes through bounce buffers.
pub const SWIOTLB_BYTES: Limit =
    Limit { value: 256, unit: "MiB a second", why: "at 5 GB/s of copying this is 5 % of a CPU" };

/// Buffers that are bounced.
pub const SWIOTLB_COUNT: Limit = Limit {
    value: 50_000,
    unit: "buffers a second",
    why: "finding room for one takes about 1 µs under a lock, so this is 5 % of a CPU",
};

/// Every limit.
pub const ALL: [Limit; 9] = [
    STORM_RATE,
    STORM_TIME,
    STORM_LEAST,
    PING_PONG_RATE,
    PING_PONG_LEAST,
    MAP_GPA_TIME,
    QUOTE_TIME,
    SWIOTLB_BYTES,
    SWIOTLB_COUNT,
];
