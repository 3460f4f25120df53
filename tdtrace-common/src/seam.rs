//! SEAMCALLs of a TDX host: the kernel's wrappers (`arch/x86/virt/vmx/tdx/tdx.c`), and what is counted
//! of each.
//!
//! Values are per CPU. A program does not run within itself on one CPU, and only the one at a wrapper's
//! return writes its value, so there is one writer. What is keyed by status is added to atomically.

use crate::{latency::BUCKETS, tdx::SW_ERROR};

/// A function of the kernel that makes one SEAMCALL and returns its status, a `u64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrapper {
    /// Its name.
    pub name: &'static str,
    /// The SEAMCALL leaf, without its version.
    pub leaf: u32,
    /// Which argument, from 0, is a GPA where BTF does not name them; [`NO_ARGUMENT`]: none.
    pub gpa: u8,
    /// Programs of fentry, fexit, kprobe and kretprobe.
    pub programs: [&'static str; 4],
}

/// No argument of the wrapper.
pub const NO_ARGUMENT: u8 = u8::MAX;
/// Where the wrappers that get a GPA have it (Linux 6.16 and 7.3).
const GPA: u8 = 1;

/// Arguments that are looked at.
pub const ARGUMENTS: usize = 4;

macro_rules! wrappers {
    ($($name:ident $leaf:literal $gpa:ident;)*) => {
        /// Every wrapper that can be attached to; the place is the number of the function. `tdh_vp_enter`
        /// is not among them: it is `noinstr`.
        pub const WRAPPERS: &[Wrapper] = &[$(Wrapper {
            name: stringify!($name),
            leaf: $leaf,
            gpa: $gpa,
            programs: [
                concat!(stringify!($name), "_fentry"),
                concat!(stringify!($name), "_fexit"),
                concat!(stringify!($name), "_kprobe"),
                concat!(stringify!($name), "_kretprobe"),
            ],
        },)*];
    };
}

wrappers! {
    tdh_mem_page_add 2 GPA;
    tdh_mem_sept_add 3 GPA;
    tdh_mem_page_aug 6 GPA;
    tdh_mem_range_block 7 GPA;
    tdh_mem_track 38 NO_ARGUMENT;
    tdh_mem_page_remove 29 GPA;
    tdh_mng_addcx 1 NO_ARGUMENT;
    tdh_mng_create 9 NO_ARGUMENT;
    tdh_mng_init 21 NO_ARGUMENT;
    tdh_mng_key_config 8 NO_ARGUMENT;
    tdh_mng_key_freeid 20 NO_ARGUMENT;
    tdh_mng_rd 11 NO_ARGUMENT;
    tdh_mng_vpflushdone 19 NO_ARGUMENT;
    tdh_mr_extend 16 GPA;
    tdh_mr_finalize 17 NO_ARGUMENT;
    tdh_phymem_cache_wb 40 NO_ARGUMENT;
    tdh_phymem_page_reclaim 28 NO_ARGUMENT;
    tdh_phymem_page_wbinvd_hkid 41 NO_ARGUMENT;
    tdh_phymem_page_wbinvd_tdr 41 NO_ARGUMENT;
    tdh_vp_addcx 4 NO_ARGUMENT;
    tdh_vp_create 10 NO_ARGUMENT;
    tdh_vp_flush 18 NO_ARGUMENT;
    tdh_vp_init 22 NO_ARGUMENT;
    tdh_vp_rd 26 NO_ARGUMENT;
    tdh_vp_wr 43 NO_ARGUMENT;
}

/// Numbers of functions that there can be; a power of two.
pub const FUNCTIONS: usize = 32;

const _: () = assert!(WRAPPERS.len() <= FUNCTIONS);

/// Where a wrapper of this kernel has its arguments.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The GPA, from 0; [`NO_ARGUMENT`] if it has none.
    pub gpa: u8,
    /// The level of the page; [`NO_ARGUMENT`] if it has none, or its BTF does not tell.
    pub level: u8,
    /// The level that means 4 KiB: 1 where it is an `enum pg_level`, 0 where it is the TDX module's.
    pub base: u8,
    /// 1 for the steps of taking a page away, after whose OPERAND_BUSY KVM kicks the vCPUs out of the TD
    /// and tries once more.
    pub zaps: u8,
}

impl Arguments {
    /// Of a function that is not attached to.
    pub const NONE: Self = Self { gpa: NO_ARGUMENT, level: NO_ARGUMENT, base: 0, zaps: 0 };
}

/// Whether OPERAND_BUSY of this SEAMCALL leaf makes KVM kick vCPUs: TDH.MEM.RANGE.BLOCK,
/// TDH.MEM.TRACK and TDH.MEM.PAGE.REMOVE.
#[must_use]
pub const fn zaps(leaf: u32) -> bool {
    matches!(leaf, 7 | 29 | 38)
}

/// Bits 63:32 of a status: an operand is in use by somebody else.
pub const OPERAND_BUSY: u32 = 0x8000_0200;

/// What statuses are told apart by: bits 63:32, for OPERAND_BUSY the operand in bits 31:0 too, and of
/// those that the kernel made all. In other statuses bits 31:0 say which of many things was wrong.
#[must_use]
#[inline(always)]
pub const fn status_class(status: u64) -> u64 {
    let whole = (status >> 32) as u32 == OPERAND_BUSY || status & SW_ERROR == SW_ERROR;
    if whole { status } else { status & 0xffff_ffff_0000_0000 }
}

/// Whether a status says that the call did not do what was asked: bit 63 or 62.
#[must_use]
#[inline(always)]
pub const fn has_failed(status: u64) -> bool {
    status >> 62 != 0
}

/// Sizes of pages that are told apart: 4 KiB, 2 MiB, 1 GiB, and anything else.
pub const LEVELS: usize = 4;

/// Results of one function, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeamStats {
    /// Calls that returned.
    pub calls: u64,
    /// Those whose status has bits 63:32 of 0.
    pub successes: u64,
    /// Those whose status found no room in the map.
    pub unlisted: u64,
    /// Those whose beginning was not seen, so that their duration is not known.
    pub unpaired: u64,
    /// Nanoseconds of those whose duration is known.
    pub ns: u64,
    /// The longest, in nanoseconds.
    pub max: u64,
    /// Calls by size of page, where the arguments tell.
    pub levels: [u64; LEVELS],
    /// The status of the last failure; 0: there is none.
    pub failure: u64,
    /// Its GPA, if the function has one.
    pub failure_gpa: u64,
    /// When that was (`CLOCK_MONOTONIC`, ns).
    pub failure_at: u64,
    /// Repetitions after OPERAND_BUSY of a step that zaps: same thread, same arguments, this CPU. KVM
    /// holds a spinning lock meanwhile, so it stays there.
    pub retried: u64,
    /// Nanoseconds from such a result to the repetition's beginning: the kick.
    pub kick_ns: u64,
    /// The thread whose last call here was busy; 0 for none.
    pub busy_thread: u64,
    /// Its first argument, the TD, and its GPA.
    pub busy_arguments: [u64; 2],
    /// When it returned.
    pub busy_at: u64,
    /// Durations by [`crate::latency::bucket`].
    pub buckets: [u64; BUCKETS],
}

impl SeamStats {
    /// Nothing was called.
    pub const NONE: Self = Self {
        calls: 0,
        successes: 0,
        unlisted: 0,
        unpaired: 0,
        ns: 0,
        max: 0,
        levels: [0; LEVELS],
        failure: 0,
        failure_gpa: 0,
        failure_at: 0,
        retried: 0,
        kick_ns: 0,
        busy_thread: 0,
        busy_arguments: [0; 2],
        busy_at: 0,
        buckets: [0; BUCKETS],
    };
}

/// A result of a function that is no success.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeamStatusKey {
    /// [`status_class`] of the status.
    pub status: u64,
    /// Number of the function.
    pub function: u64,
}

/// A call that has begun.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeamEntryKey {
    /// `tgid << 32 | pid`; for idle tasks, which share 0, bit 63 and the CPU.
    pub thread: u64,
    /// Number of the function.
    pub function: u64,
}

/// What the beginning of a call leaves for its end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeamEntry {
    /// When it began (`CLOCK_MONOTONIC`, ns); 0 if no time is taken.
    pub at: u64,
    /// The first arguments.
    pub arguments: [u64; ARGUMENTS],
}

const _: () = assert!(size_of::<Arguments>() == 4);
const _: () = assert!(size_of::<SeamStats>() == (19 + BUCKETS) * 8);

#[cfg(feature = "user")]
mod pod {
    use super::{Arguments, SeamEntry, SeamEntryKey, SeamStats, SeamStatusKey};

    macro_rules! pod {
        ($($name:ty)*) => {
            $(
                // SAFETY: repr(C) without implicit padding, integers and arrays of them only.
                unsafe impl aya::Pod for $name {}
            )*
        };
    }

    pod! { Arguments SeamEntry SeamEntryKey SeamStats SeamStatusKey }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tdx;

    #[test]
    fn every_wrapper_is_there_once_and_its_leaf_has_the_name_that_it_has() {
        for (index, wrapper) in WRAPPERS.iter().enumerate() {
            assert!(WRAPPERS[..index].iter().all(|other| other.name != wrapper.name));
            let leaf = tdx::seamcall_leaf(wrapper.leaf).unwrap();
            let letters = |text: &'static str| {
                let letters = text.bytes().filter(u8::is_ascii_alphanumeric);
                letters.map(|byte| byte.to_ascii_lowercase())
            };
            // One leaf has two wrappers, which are named after what they write back.
            assert!(letters(leaf).zip(letters(wrapper.name)).all(|(one, other)| one == other));
            assert_eq!(
                zaps(wrapper.leaf),
                ["tdh_mem_range_block", "tdh_mem_track", "tdh_mem_page_remove"]
                    .contains(&wrapper.name)
            );
        }
    }

    #[test]
    fn operands_are_told_apart_of_busy_ones_and_exceptions_of_those_the_kernel_made() {
        assert_eq!(status_class(0x8000_0200_0000_0092), 0x8000_0200_0000_0092);
        assert_eq!(status_class(0xc000_0b0d_0000_0092), 0xc000_0b0d_0000_0000);
        assert_eq!(status_class(0x8000_ff00_ffff_0000), 0x8000_ff00_ffff_0000);
        assert!(has_failed(1 << 63) && has_failed(1 << 62) && !has_failed(0x0000_0815_0000_0000));
    }
}
