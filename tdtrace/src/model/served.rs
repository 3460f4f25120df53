//! Who served an access, kernel or VMM, where the counts prove it. Where they do not, nothing is said.
//!
//! | accesses | proof |
//! |---|---|
//! | MMIO read | one that the kernel cannot serve is counted as `mmio_read_unsatisfied` at the same place, and again as `mmio_read` once the VMM has answered |
//! | fast MMIO | an ioeventfd took it |
//! | CPUID | KVM never asks the VMM |
//! | MMIO write, port I/O, MSR | the VM never returned to the VMM for such accesses: the kernel. Port I/O with a return for each access: the VMM |

use std::collections::HashMap;

use tdtrace_common::counters::Class;

use super::snapshot::{Hotspot, Vcpu};

/// Who served accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// All of them the kernel.
    Kernel,
    /// All of them the VMM.
    Vmm,
    /// Some the kernel, some the VMM.
    Both,
}

impl Server {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Vmm => "VMM",
            Self::Both => "both",
        }
    }
}

/// `KVM_EXIT_IO`, `KVM_EXIT_MMIO`, `KVM_EXIT_X86_RDMSR` and `KVM_EXIT_X86_WRMSR`.
const IO: u32 = 2;
const MMIO: u32 = 6;
const RDMSR: u32 = 29;
const WRMSR: u32 = 30;

/// What is known of the whole VM.
struct Proof {
    /// Reads that the VMM served, by address and size.
    unsatisfied: HashMap<(u64, u32), u64>,
    /// Some of those reads have no place.
    incomplete: bool,
    /// Returns by number.
    returns: HashMap<u32, u64>,
    /// Accesses to ports.
    pio: u64,
}

/// Says of every place of a VM who served it, as far as the counts of its `vcpus` prove it.
pub fn mark(hotspots: &mut [Hotspot], vcpus: &[Vcpu]) {
    let unsatisfied: HashMap<(u64, u32), u64> = hotspots
        .iter()
        .filter(|spot| spot.class == Class::MmioReadUnsatisfied)
        .map(|spot| ((spot.address, spot.size), spot.tally.total))
        .collect();
    let total = |class| vcpus.iter().map(|vcpu| vcpu.counts[class]).sum::<u64>();
    let mut returns: HashMap<u32, u64> = HashMap::new();
    for (index, count) in vcpus.iter().flat_map(|vcpu| &vcpu.sample.userspace) {
        *returns.entry(*index).or_default() += count;
    }
    let proof = Proof {
        incomplete: unsatisfied.values().sum::<u64>() < total(Class::MmioReadUnsatisfied),
        unsatisfied,
        returns,
        pio: total(Class::PioIn) + total(Class::PioOut),
    };
    for spot in hotspots {
        spot.served = proof.of(spot);
    }
}

impl Proof {
    fn of(&self, spot: &Hotspot) -> Option<Server> {
        match spot.class {
            Class::MmioReadUnsatisfied => Some(Server::Vmm),
            Class::FastMmio | Class::Cpuid => Some(Server::Kernel),
            Class::MmioRead => {
                let asked = self.unsatisfied.get(&(spot.address, spot.size)).copied().unwrap_or(0);
                match asked {
                    _ if self.incomplete => None,
                    0 => Some(Server::Kernel),
                    // A read that the VMM has not answered yet is not counted as a read.
                    asked if asked >= spot.tally.total => Some(Server::Vmm),
                    _ => Some(Server::Both),
                }
            }
            Class::MmioWrite => self.never(MMIO),
            Class::MsrRead => self.never(RDMSR),
            Class::MsrWrite => self.never(WRMSR),
            Class::PioIn | Class::PioOut if self.returns(IO) >= self.pio => Some(Server::Vmm),
            Class::PioIn | Class::PioOut => self.never(IO),
            _ => None,
        }
    }

    fn returns(&self, number: u32) -> u64 {
        self.returns.get(&number).copied().unwrap_or(0)
    }

    fn never(&self, number: u32) -> Option<Server> {
        (self.returns(number) == 0).then_some(Server::Kernel)
    }
}
