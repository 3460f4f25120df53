//! What synthetic TDs need: the load of the object that is never attached takes the clock, the thread
//! and the running vCPU from here instead of from the kernel.

use crate::counters::CACHE_LINE;

/// What one CPU's programs are told.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyntheticCpu {
    /// The time, in nanoseconds.
    pub now: u64,
    /// Address of the `kvm_vcpu` that is running; 0 for none.
    pub vcpu: u64,
    /// Process in the high half, thread in the low one.
    pub pid_tgid: u64,
    /// `run_delay` of the thread, in nanoseconds.
    pub run_delay: u64,
    /// Where the memory of the synthetic structures begins; the program `synthetic_address` says.
    pub memory: u64,
    /// Room up to a line.
    pub reserved: [u64; 3],
}

const _: () = assert!(size_of::<SyntheticCpu>() == CACHE_LINE);

/// A page of the memory that the synthetic structures lie in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SyntheticPage(pub [u64; 512]);

#[cfg(feature = "user")]
mod pod {
    use super::{SyntheticCpu, SyntheticPage};

    // SAFETY: repr(C) without implicit padding (size asserted above), integers only.
    unsafe impl aya::Pod for SyntheticCpu {}
    // SAFETY: an array of integers.
    unsafe impl aya::Pod for SyntheticPage {}
}
