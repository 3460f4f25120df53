//! What the CPU offers: virtualization, TDX, and how many CPUs there may be.
//!
//! Pure over text, but for [`cpuid_says_td`], which asks the CPU itself.

/// The flags of `/proc/cpuinfo` that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuFlags {
    /// VMX is offered to this kernel.
    pub vmx: bool,
    /// SVM is offered to this kernel.
    pub svm: bool,
    /// The platform can be a TDX host: BIOS has set TDX up.
    pub tdx_host_platform: bool,
    /// This kernel runs in a TD.
    pub tdx_guest: bool,
}

impl CpuFlags {
    /// The flags of the first CPU in the text of `/proc/cpuinfo`.
    #[must_use]
    pub fn parse(cpuinfo: &str) -> Option<Self> {
        let (_, flags) = cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| key.trim() == "flags")?;
        let mut found = Self::default();
        for flag in flags.split_ascii_whitespace() {
            match flag {
                "vmx" => found.vmx = true,
                "svm" => found.svm = true,
                "tdx_host_platform" => found.tdx_host_platform = true,
                "tdx_guest" => found.tdx_guest = true,
                _ => {}
            }
        }
        Some(found)
    }
}

/// The number of CPUs in a list such as `0-3,8`, the form of `/sys/devices/system/cpu/possible`.
#[must_use]
pub fn count_cpus(list: &str) -> Option<u32> {
    list.trim().split(',').try_fold(0_u32, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Whether CPUID leaf 0x21 carries the TDX module's signature: this is a TD, even if its kernel does
/// not know.
#[must_use]
pub fn cpuid_says_td() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const LEAF: u32 = 0x21;
    if __cpuid_count(0, 0).eax < LEAF {
        return false;
    }
    let leaf = __cpuid_count(LEAF, 0);
    is_tdx_signature([leaf.ebx, leaf.edx, leaf.ecx])
}

fn is_tdx_signature(words: [u32; 3]) -> bool {
    words.map(u32::to_le_bytes).as_flattened() == b"IntelTDX    "
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_whole_words_of_the_flags_line() {
        let text = "processor\t: 0\nflags\t\t: fpu svm tdx_host_platform\nvmx flags\t: vnmi vmx\n";
        let flags = CpuFlags::parse(text).unwrap();
        assert_eq!(flags, CpuFlags { svm: true, tdx_host_platform: true, ..CpuFlags::default() });
        assert_eq!(CpuFlags::parse("flags : xvmx tdx_guest2").unwrap(), CpuFlags::default());
        assert_eq!(CpuFlags::parse("processor : 0\n"), None);
    }

    #[test]
    fn lists_of_cpus_are_counted_and_nonsense_is_none() {
        for (list, count) in [("0", 1), ("0-1\n", 2), ("0-3,8,10-11", 7)] {
            assert_eq!(count_cpus(list), Some(count), "{list}");
        }
        for list in ["", "a", "3-0", "0-4294967295", "0-1,", "-"] {
            assert_eq!(count_cpus(list), None, "{list}");
        }
    }

    #[test]
    fn the_signature_of_leaf_0x21_reads_ebx_edx_ecx() {
        assert!(is_tdx_signature([0x6574_6e49, 0x5844_546c, 0x2020_2020]));
        assert!(!is_tdx_signature([0x756e_6547, 0x4965_6e69, 0x6c65_746e]));
    }
}
