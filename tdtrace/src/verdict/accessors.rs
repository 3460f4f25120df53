//! The accessors: which functions may touch a device, what instruction they bring, and where that
//! is read. Data, and its lookup.

use super::Frame;

/// The kernel whose source the lines are of.
pub const KERNEL: &str = "6.12.117";

/// What kind of accessor a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Of `io.h` and its kin; works in a TD.
    Io,
    /// Of `io.h`, with an instruction that a TD's kernel does not emulate.
    IoNotTdSafe,
    /// Of one architecture's driver, outside `io.h`.
    Arch,
}

/// Accessors of one source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// What they are.
    pub class: Class,
    /// The file that defines them in Linux [`KERNEL`].
    pub file: &'static str,
    /// Files that define functions of the same names for the same purpose in other versions or
    /// configurations.
    pub also: &'static [&'static str],
    /// Name, line in `file`, and the instructions that touch the device.
    pub functions: &'static [(&'static str, u32, &'static str)],
}

/// One accessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accessor {
    /// Name of the function.
    pub name: &'static str,
    /// What it is.
    pub class: Class,
    /// The instructions that touch the device: opcodes in hex, IN or OUT.
    pub emits: &'static str,
    /// Source file in Linux [`KERNEL`].
    pub file: &'static str,
    /// Line in `file`.
    pub line: u32,
}

impl Accessor {
    /// Whether one of its instructions is of memory.
    #[must_use]
    pub fn touches_memory(&self) -> bool {
        // Opcodes that are given in hex, but for OUT of a constant port.
        self.emits.bytes().any(|byte| byte.is_ascii_digit()) && !self.emits.starts_with("E6")
    }

    /// Whether one of its instructions is of ports.
    #[must_use]
    pub fn touches_ports(&self) -> bool {
        ["IN", "OUT", "E6"].iter().any(|word| self.emits.contains(word))
    }
}

/// All accessors, each once.
pub fn all() -> impl Iterator<Item = Accessor> {
    GROUPS.iter().flat_map(|group| group.functions.iter().map(|row| accessor(group, row)))
}

/// The accessor that `frame` is a call of. Where its source file is known, that has to be the
/// accessor's: a driver's own function of the same name is none.
#[must_use]
pub fn find(frame: &Frame) -> Option<Accessor> {
    GROUPS.iter().find_map(|group| {
        let row = group.functions.iter().find(|(name, ..)| *name == frame.function)?;
        let is_its_own = match frame.file.as_deref() {
            Some(file) => {
                is_of(file, group.file) || group.also.iter().any(|also| is_of(file, also))
            }
            None => true,
        };
        is_its_own.then(|| accessor(group, row))
    })
}

/// The accessor called `name`, wherever it comes from. Suffixes that compilers add are ignored.
#[must_use]
pub fn by_name(name: &str) -> Option<Accessor> {
    let name = name.split('.').next().unwrap_or(name);
    all().find(|accessor| accessor.name == name)
}

/// Functions that copy or fill memory, and know nothing of devices: `arch/x86/lib/*.S`,
/// `arch/x86/include/asm/uaccess_64.h`, `include/linux/fortify-string.h`.
const COPIES: &[&str] = &[
    "memcpy",
    "__memcpy",
    "memcpy_orig",
    "__inline_memcpy",
    "memmove",
    "__memmove",
    "rep_movs_alternative",
    "copy_user_generic",
    "copy_page",
    "copy_page_regs",
    "copy_mc_fragile",
    "copy_mc_enhanced_fast_string",
];

/// Whether a function of this name copies memory.
#[must_use]
pub fn is_copy(function: &str) -> bool {
    COPIES.contains(&function)
}

/// Whether `path` ends with `file`, whole components compared and `./` left out.
fn is_of(path: &str, file: &str) -> bool {
    let components = |text| str::split(text, '/').rev().filter(|part| *part != ".");
    let mut path = components(path);
    components(file).all(|part| path.next() == Some(part))
}

const fn accessor(group: &Group, row: &(&'static str, u32, &'static str)) -> Accessor {
    let &(name, line, emits) = row;
    Accessor { name, class: group.class, emits, file: group.file, line }
}

/// The table.
pub const GROUPS: &[Group] = &[
    Group {
        class: Class::Io,
        file: "arch/x86/include/asm/io.h",
        also: &["include/asm-generic/io.h"],
        functions: &[
            ("readb", 57, "8A"),
            ("readw", 58, "66 8B"),
            ("readl", 59, "8B"),
            ("readq", 95, "REX.W 8B"),
            ("writeb", 65, "88"),
            ("writew", 66, "66 89"),
            ("writel", 67, "89"),
            ("writeq", 97, "REX.W 89"),
            ("__readb", 61, "8A"),
            ("__readw", 62, "66 8B"),
            ("__readl", 63, "8B"),
            ("__readq", 96, "REX.W 8B"),
            ("__writeb", 69, "88"),
            ("__writew", 70, "66 89"),
            ("__writel", 71, "89"),
            ("__writeq", 98, "REX.W 89"),
            ("inb_p", 270, "IN"),
            ("outb_p", 264, "OUT"),
            ("insb", 293, "IN in a TD, else INS"),
            ("outsb", 277, "OUT in a TD, else OUTS"),
            ("inw_p", 270, "IN"),
            ("outw_p", 264, "OUT"),
            ("insw", 293, "IN in a TD, else INS"),
            ("outsw", 277, "OUT in a TD, else OUTS"),
            ("inl_p", 270, "IN"),
            ("outl_p", 264, "OUT"),
            ("insl", 293, "IN in a TD, else INS"),
            ("outsl", 277, "OUT in a TD, else OUTS"),
        ],
    },
    Group {
        class: Class::IoNotTdSafe,
        file: "arch/x86/include/asm/io.h",
        also: &["arch/x86/lib/iomap_copy_64.S"],
        functions: &[("__iowrite32_copy", 219, "F3 A5"), ("iosubmit_cmds512", 393, "66 0F 38 F8")],
    },
    Group {
        class: Class::IoNotTdSafe,
        file: "arch/x86/include/asm/special_insns.h",
        also: &[],
        functions: &[("movdir64b_io", 248, "66 0F 38 F8")],
    },
    Group {
        class: Class::Io,
        file: "arch/x86/include/asm/shared/io.h",
        also: &["arch/x86/include/asm/io.h", "include/asm-generic/io.h"],
        functions: &[
            ("__inb", 14, "IN"),
            ("__outb", 8, "OUT"),
            ("inb", 14, "IN"),
            ("outb", 8, "OUT"),
            ("__inw", 14, "IN"),
            ("__outw", 8, "OUT"),
            ("inw", 14, "IN"),
            ("outw", 8, "OUT"),
            ("__inl", 14, "IN"),
            ("__outl", 8, "OUT"),
            ("inl", 14, "IN"),
            ("outl", 8, "OUT"),
        ],
    },
    Group {
        class: Class::Io,
        file: "include/asm-generic/io.h",
        also: &["arch/x86/include/asm/io.h"],
        functions: &[
            ("readsb", 435, "8A"),
            ("writesb", 501, "88"),
            ("readsw", 451, "66 8B"),
            ("writesw", 516, "66 89"),
            ("readsl", 467, "8B"),
            ("writesl", 531, "89"),
            ("readsq", 484, "REX.W 8B"),
            ("writesq", 547, "REX.W 89"),
            ("insb_p", 776, "IN"),
            ("outsb_p", 800, "OUT"),
            ("insw_p", 784, "IN"),
            ("outsw_p", 809, "OUT"),
            ("insl_p", 792, "IN"),
            ("outsl_p", 818, "OUT"),
        ],
    },
    Group {
        class: Class::Io,
        file: "lib/iomap.c",
        also: &[
            "include/asm-generic/io.h",
            "include/linux/io-64-nonatomic-lo-hi.h",
            "include/linux/io-64-nonatomic-hi-lo.h",
        ],
        functions: &[
            ("ioread8", 79, "8A, 8B, IN"),
            ("ioread16", 85, "8A, 8B, IN"),
            ("ioread16be", 91, "8A, 8B, IN"),
            ("ioread32", 97, "8A, 8B, IN"),
            ("ioread32be", 103, "8A, 8B, IN"),
            ("ioread64_lo_hi", 156, "8A, 8B, IN"),
            ("ioread64_hi_lo", 163, "8A, 8B, IN"),
            ("ioread64be_lo_hi", 170, "8A, 8B, IN"),
            ("ioread64be_hi_lo", 178, "8A, 8B, IN"),
            ("iowrite8", 203, "88, 89, OUT"),
            ("iowrite16", 209, "88, 89, OUT"),
            ("iowrite16be", 215, "88, 89, OUT"),
            ("iowrite32", 221, "88, 89, OUT"),
            ("iowrite32be", 227, "88, 89, OUT"),
            ("iowrite64_lo_hi", 264, "88, 89, OUT"),
            ("iowrite64_hi_lo", 272, "88, 89, OUT"),
            ("iowrite64be_lo_hi", 280, "88, 89, OUT"),
            ("iowrite64be_hi_lo", 288, "88, 89, OUT"),
            ("ioread8_rep", 360, "8A, 8B, IN"),
            ("iowrite8_rep", 382, "88, 89, OUT"),
            ("ioread16_rep", 366, "8A, 8B, IN"),
            ("iowrite16_rep", 388, "88, 89, OUT"),
            ("ioread32_rep", 372, "8A, 8B, IN"),
            ("iowrite32_rep", 394, "88, 89, OUT"),
            ("mmio_insb", 310, "8A, 8B"),
            ("mmio_outsb", 337, "88, 89"),
            ("mmio_insw", 318, "8A, 8B"),
            ("mmio_outsw", 344, "88, 89"),
            ("mmio_insl", 326, "8A, 8B"),
            ("mmio_outsl", 351, "88, 89"),
            ("pio_read64_lo_hi", 115, "IN"),
            ("pio_write64_lo_hi", 240, "OUT"),
            ("pio_read64_hi_lo", 125, "IN"),
            ("pio_write64_hi_lo", 246, "OUT"),
            ("pio_read64be_lo_hi", 135, "IN"),
            ("pio_write64be_lo_hi", 252, "OUT"),
            ("pio_read64be_hi_lo", 145, "IN"),
            ("pio_write64be_hi_lo", 258, "OUT"),
        ],
    },
    Group {
        class: Class::Io,
        file: "lib/iomap_copy.c",
        also: &[],
        functions: &[("__ioread32_copy", 42, "8B"), ("__iowrite64_copy", 64, "REX.W 89")],
    },
    Group {
        class: Class::Io,
        file: "include/linux/io-64-nonatomic-lo-hi.h",
        also: &[],
        functions: &[
            ("lo_hi_readq", 8, "8B"),
            ("lo_hi_writeq", 19, "89"),
            ("lo_hi_readq_relaxed", 25, "8B"),
            ("lo_hi_writeq_relaxed", 36, "89"),
        ],
    },
    Group {
        class: Class::Io,
        file: "include/linux/io-64-nonatomic-hi-lo.h",
        also: &[],
        functions: &[
            ("hi_lo_readq", 8, "8B"),
            ("hi_lo_writeq", 19, "89"),
            ("hi_lo_readq_relaxed", 25, "8B"),
            ("hi_lo_writeq_relaxed", 36, "89"),
        ],
    },
    Group {
        class: Class::Io,
        file: "arch/x86/lib/iomem.c",
        also: &["lib/iomem_copy.c", "include/asm-generic/io.h"],
        functions: &[
            ("memcpy_fromio", 96, "8A in a TD, else MOVS"),
            ("memcpy_toio", 105, "88 in a TD, else MOVS"),
            ("memset_io", 114, "88 in a TD, else memset"),
            ("string_memcpy_fromio", 26, "F3 A5, A4; not in a TD"),
            ("string_memcpy_toio", 48, "F3 A5, A4; not in a TD"),
            ("unrolled_memcpy_fromio", 67, "8A"),
            ("unrolled_memcpy_toio", 77, "88"),
            ("unrolled_memset_io", 87, "88"),
        ],
    },
    Group {
        class: Class::Arch,
        file: "arch/x86/include/asm/pci_x86.h",
        also: &[],
        functions: &[
            ("mmio_config_readb", 202, "8A"),
            ("mmio_config_readw", 209, "66 8B"),
            ("mmio_config_readl", 216, "8B"),
            ("mmio_config_writeb", 223, "88"),
            ("mmio_config_writew", 228, "66 89"),
            ("mmio_config_writel", 233, "89"),
        ],
    },
    Group {
        class: Class::Arch,
        file: "arch/x86/include/asm/apic.h",
        also: &[],
        functions: &[
            ("native_apic_mem_read", 106, "8B"),
            ("native_apic_mem_write", 97, "89, XCHG on a Pentium with an old APIC"),
            ("native_apic_mem_eoi", 111, "89"),
        ],
    },
    Group {
        class: Class::Arch,
        file: "arch/x86/kernel/io_delay.c",
        also: &[],
        functions: &[("native_io_delay", 38, "E6 to port 0x80 or 0xed")],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(function: &str, file: Option<&str>) -> Frame {
        Frame { function: function.into(), file: file.map(Into::into), line: None }
    }

    #[test]
    fn an_accessor_is_found_by_its_name_and_file() {
        for file in [
            None,
            Some("/build/linux/./arch/x86/include/asm/io.h"),
            Some("./arch/x86/include/asm/io.h"),
            Some("/usr/src/linux-headers-6.12-common/arch/x86/include/./asm/io.h"),
        ] {
            assert_eq!(find(&frame("readl", file)).unwrap().class, Class::Io, "{file:?}");
        }
        let copy = find(&frame("__iowrite32_copy", None)).unwrap();
        assert_eq!((copy.class, copy.emits), (Class::IoNotTdSafe, "F3 A5"));
    }

    #[test]
    fn a_drivers_own_function_of_the_same_name_is_no_accessor() {
        for file in ["drivers/net/acme/io.h", "io.h", "xarch/x86/include/asm/io.h", ""] {
            assert_eq!(find(&frame("readl", Some(file))), None, "{file}");
        }
        assert_eq!(find(&frame("readl_", None)), None);
    }

    #[test]
    fn accessors_are_of_memory_of_ports_or_of_both() {
        for (name, memory, ports) in [
            ("readl", true, false),
            ("writeb", true, false),
            ("memset_io", true, false),
            ("ioread32_rep", true, true),
            ("__inb", false, true),
            ("insb", false, true),
            ("native_io_delay", false, true),
        ] {
            let accessor = by_name(name).unwrap();
            assert_eq!((accessor.touches_memory(), accessor.touches_ports()), (memory, ports));
        }
        assert!(all().all(|accessor| accessor.touches_memory() || accessor.touches_ports()));
    }

    #[test]
    fn no_accessor_is_listed_twice() {
        let mut names: Vec<_> = all().map(|accessor| accessor.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn suffixes_of_the_compiler_do_not_hide_a_name() {
        assert_eq!(by_name("ioread32.part.0").unwrap().name, "ioread32");
        assert_eq!(by_name("ioread33"), None);
    }
}
