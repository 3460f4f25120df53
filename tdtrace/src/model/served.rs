//! Who served an access, kernel or VMM, where the counts prove it. Where they do not, nothing is said;
//! that an event never came proves nothing while events of its class are lost or not probed.
//!
//! | accesses | proof |
//! |---|---|
//! | MMIO read of a TD | the VM never returned to the VMM for MMIO: the kernel. KVM's tracepoints are left aside |
//! | MMIO read of another VM | one that the kernel cannot serve is counted as `mmio_read_unsatisfied` at the same place, and again as `mmio_read` once the VMM has answered |
//! | fast MMIO | an ioeventfd took it |
//! | CPUID | KVM never asks the VMM |
//! | MMIO write, port I/O, MSR | the VM never returned to the VMM for such accesses: the kernel. Port I/O with a return for each access: the VMM |

use std::collections::HashMap;

use tdtrace_common::counters::Class;

use super::{
    counts::{add, sum},
    sample::Sample,
    snapshot::{Hotspot, Vcpu},
};

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

/// How many reads a vCPU makes while its counters are read, at most: that takes a few microseconds.
const IN_FLIGHT: u64 = 16;

/// Which events are certain to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Returns to the VMM.
    returns: bool,
    /// MMIO.
    mmio: bool,
    /// Port I/O.
    pio: bool,
}

impl Seen {
    /// What the probes and losses of `sample` say.
    #[must_use]
    pub fn new(sample: &Sample) -> Self {
        let all = |probe: &str, classes: &[Class]| {
            let missing = sample.probes.iter().any(|it| it.name == probe && it.missing.is_some());
            let missed = sample.losses.misses.iter().any(|(name, n)| name == probe && *n > 0);
            let mut causes = sample.losses.causes.iter();
            let lost = causes.any(|(_, class, n)| classes.contains(class) && *n > 0);
            !missing && !missed && !lost
        };
        Self {
            returns: all("kvm_userspace_exit", &[Class::UserspaceExit]),
            mmio: all("kvm_mmio", &[Class::MmioReadUnsatisfied, Class::MmioRead]),
            pio: all("kvm_pio", &[Class::PioIn, Class::PioOut]),
        }
    }
}

/// What is known of the whole VM.
struct Proof {
    seen: Seen,
    /// It is a TD whose accesses are counted at its exits, which are then answered.
    td: bool,
    /// Reads that the VMM served, by address and size.
    unsatisfied: HashMap<(u64, u32), u64>,
    /// Some of those reads have no place.
    incomplete: bool,
    /// Reads that may be counted as answered and not yet as asked for: a vCPU that never stands still is
    /// read while it counts.
    in_flight: u64,
    /// Returns by number.
    returns: HashMap<u32, u64>,
    /// Accesses to ports.
    pio: u64,
}

/// Says of every place of a VM who served it, as far as the counts of its `vcpus` prove it.
pub fn mark(hotspots: &mut [Hotspot], vcpus: &[Vcpu], seen: Seen) {
    let unsatisfied: HashMap<(u64, u32), u64> = hotspots
        .iter()
        .filter(|spot| spot.class == Class::MmioReadUnsatisfied)
        .map(|spot| ((spot.address, spot.size), spot.tally.total))
        .collect();
    let total = |class| sum(vcpus.iter().map(|vcpu| vcpu.counts[class]));
    let mut returns: HashMap<u32, u64> = HashMap::new();
    for (index, count) in vcpus.iter().flat_map(|vcpu| &vcpu.sample.userspace) {
        add(returns.entry(*index).or_default(), *count);
    }
    let proof = Proof {
        seen,
        td: total(Class::TdAnswer) > 0,
        incomplete: sum(unsatisfied.values().copied()) < total(Class::MmioReadUnsatisfied),
        unsatisfied,
        in_flight: IN_FLIGHT * vcpus.len() as u64,
        returns,
        pio: total(Class::PioIn).saturating_add(total(Class::PioOut)),
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
            Class::MmioRead if self.td => self.never(MMIO),
            Class::MmioRead => {
                let asked = self.unsatisfied.get(&(spot.address, spot.size)).copied().unwrap_or(0);
                match asked {
                    _ if self.incomplete || !self.seen.mmio => None,
                    0 => Some(Server::Kernel),
                    // A read that the VMM has not answered yet is not counted as a read.
                    asked if asked >= spot.tally.total => Some(Server::Vmm),
                    asked if spot.tally.total - asked <= self.in_flight => None,
                    _ => Some(Server::Both),
                }
            }
            Class::MmioWrite => self.never(MMIO),
            Class::MsrRead => self.never(RDMSR),
            Class::MsrWrite => self.never(WRMSR),
            Class::PioIn | Class::PioOut if self.seen.pio && self.returns(IO) >= self.pio => {
                Some(Server::Vmm)
            }
            Class::PioIn | Class::PioOut => self.never(IO),
            _ => None,
        }
    }

    fn returns(&self, number: u32) -> u64 {
        self.returns.get(&number).copied().unwrap_or(0)
    }

    fn never(&self, number: u32) -> Option<Server> {
        (self.seen.returns && self.returns(number) == 0).then_some(Server::Kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        sample::{Sample, VcpuSample},
        testing::{after, place, samples},
    };

    /// Who served the places of the first VM, if its first vCPU counted these places and returns and the
    /// others nothing.
    fn served(
        places: &[(Class, u64, u64)],
        returns: &[(u32, u64)],
    ) -> Vec<(Class, u64, Option<Server>)> {
        let mut sample: Sample = samples().remove(0);
        sample.losses.causes.clear();
        served_in(sample, places, returns)
    }

    fn served_in(
        mut sample: Sample,
        places: &[(Class, u64, u64)],
        returns: &[(u32, u64)],
    ) -> Vec<(Class, u64, Option<Server>)> {
        let mut vcpu = VcpuSample::clone(&sample.vcpus[0]);
        let counted: Vec<(Class, u64)> =
            places.iter().map(|(class, _, count)| (*class, *count)).collect();
        vcpu.counts = crate::model::testing::counts(&counted);
        vcpu.hotspots =
            places.iter().map(|(class, address, n)| (place(*class, *address, 4), *n)).collect();
        vcpu.userspace = returns.to_vec();
        sample.vcpus = vec![std::sync::Arc::new(vcpu.sorted())];
        let snapshot = after([sample]);
        let spots = snapshot.vms[0].hotspots.iter();
        let mut rows: Vec<_> = spots.map(|spot| (spot.class, spot.address, spot.served)).collect();
        rows.sort_by_key(|(class, address, _)| (*class, *address));
        rows
    }

    #[test]
    fn a_read_that_was_unsatisfied_first_was_served_by_the_vmm() {
        let rows = served(
            &[(Class::MmioReadUnsatisfied, 0x1000, 5), (Class::MmioRead, 0x1000, 5)],
            &[(MMIO, 5)],
        );
        assert_eq!(rows[1], (Class::MmioRead, 0x1000, Some(Server::Vmm)));
        let rows = served(&[(Class::MmioRead, 0x2000, 5)], &[]);
        assert_eq!(rows[0].2, Some(Server::Kernel));
    }

    #[test]
    fn port_io_is_the_vmms_with_a_return_each_and_the_kernels_without_any() {
        let ports = [(Class::PioOut, 0x3f8, 10), (Class::PioIn, 0x3fd, 7)];
        let all = |returns: &[(u32, u64)]| -> Vec<_> {
            served(&ports, returns).into_iter().map(|(.., server)| server).collect()
        };
        assert_eq!(all(&[(IO, 17)]), [Some(Server::Vmm), Some(Server::Vmm)]);
        assert_eq!(all(&[(MMIO, 17)]), [Some(Server::Kernel), Some(Server::Kernel)]);
        assert_eq!(all(&[(IO, 10)]), [None, None]);
    }

    #[test]
    fn that_nothing_returned_proves_nothing_while_returns_are_lost() {
        let writes = [(Class::MmioWrite, 0x1000, 3)];
        let lossy = samples().remove(0);
        assert!(lossy.losses.causes.iter().any(|(_, class, _)| *class == Class::UserspaceExit));
        assert_eq!(served_in(lossy.clone(), &writes, &[])[0].2, None);
        let mut blind = Sample { losses: Default::default(), ..lossy };
        assert_eq!(served_in(blind.clone(), &writes, &[])[0].2, Some(Server::Kernel));
        let mut probes = blind.probes.to_vec();
        probes[0].name = "kvm_userspace_exit".to_owned();
        probes[0].missing = Some("no such tracepoint".to_owned());
        blind.probes = probes.into();
        assert_eq!(served_in(blind, &writes, &[])[0].2, None);
    }

    #[test]
    fn writes_are_the_kernels_only_if_none_went_to_the_vmm() {
        let writes = [(Class::MmioWrite, 0x1000, 3), (Class::MsrWrite, 0x6e0, 3)];
        let rows = served(&writes, &[(MMIO, 1)]);
        assert_eq!(rows[0].2, None);
        assert_eq!(rows[1].2, Some(Server::Kernel));
        let rows = served(&writes, &[(WRMSR, 1)]);
        assert_eq!((rows[0].2, rows[1].2), (Some(Server::Kernel), None));
    }

    #[test]
    fn a_read_of_a_td_is_the_kernels_only_if_none_went_to_the_vmm() {
        let of = |returns: &[(u32, u64)]| {
            let places = [(Class::MmioRead, 0x1000, 3), (Class::TdAnswer, 0, 3)];
            served(&places, returns)[0].2
        };
        assert_eq!(of(&[(MMIO, 3)]), None);
        assert_eq!(of(&[]), Some(Server::Kernel));
    }

    #[test]
    fn reads_that_may_be_in_flight_prove_nothing() {
        let read = |reads, asked| {
            let places =
                [(Class::MmioRead, 0x10, reads), (Class::MmioReadUnsatisfied, 0x10, asked)];
            let served = served(&places, &[]);
            served.iter().find(|(class, ..)| *class == Class::MmioRead).and_then(|(.., by)| *by)
        };
        assert_eq!(read(500, 500), Some(Server::Vmm));
        assert_eq!(read(501, 500), None);
        assert_eq!(read(900, 500), Some(Server::Both));
    }
}
