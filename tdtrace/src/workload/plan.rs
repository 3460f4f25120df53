//! What is to be made, and how it is cut into slices of time. Pure.

use std::time::Duration;

use super::kind::{Counts, Kind};

/// The most different ports, addresses, leaves and MSRs of a kind.
pub const MAX_PLACES: u32 = 16;
/// The most vCPUs, all VMs together; each is a thread and a file descriptor.
pub const MAX_VCPUS: u32 = 1024;

/// The most accesses of a vCPU in a round, all kinds together.
pub const MAX_ACCESSES: u64 = 1 << 56;

/// The most vCPUs of a VM with halts: an MSI without extended IDs reaches no more.
const MAX_HALTING_VCPUS: u32 = 255;
/// The longest time between two wake-ups, in microseconds.
const MAX_HALT_US: u32 = 1_000_000;
/// Where the guest writes when a slice is done, if HLT does not come back. No port of a plan needs to
/// avoid it: what the write means, the guest's control block says.
pub(super) const SIGN_OFF_PORT: u16 = 0xf4;

/// Bytes between two places, for ports and for addresses.
const STRIDE: u32 = 0x10;
/// Bytes between the addresses that are written, those that are read and those of the ioeventfds.
const MMIO_REGION: u32 = 0x1000;
/// The lowest address for MMIO: the guest's memory ends well before it.
const MMIO_LOWEST: u32 = 0x1000_0000;
/// The highest: above are the APICs and the pages that KVM keeps for itself.
const MMIO_HIGHEST: u32 = 0xfe00_0000;
/// Slices a second under a rate that allows more than one access in each.
const SLICES_PER_SECOND: u64 = 100;
/// Accesses that a slice has at least when only the time limits them.
const UNPACED_SLICE: u64 = 10_000;

/// CPUID leaves by place; the basic, hypervisor and extended ranges are all there.
const LEAVES: [u32; MAX_PLACES as usize] = [
    0x0,
    0x1,
    0x2,
    0x4,
    0x5,
    0x6,
    0x7,
    0xa,
    0xb,
    0xd,
    0x4000_0000,
    0x4000_0001,
    0x8000_0000,
    0x8000_0001,
    0x8000_0006,
    0x8000_0008,
];

/// MSRs by place: no flavour of KVM lets a guest at them without an exit, the kernel emulates all
/// of them, and writing 0 changes nothing (microcode revision; fixed and variable MTRRs with the
/// MTRRs off, as they are after reset).
const MSRS: [u32; MAX_PLACES as usize] = [
    0x8b, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, 0x200,
    0x201, 0x202, 0x203,
];

/// What every vCPU is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Accesses per vCPU; with [`Plan::time`] those of one round.
    pub counts: Counts,
    /// VMs, at least 1.
    pub vms: u32,
    /// vCPUs in each VM, at least 1; VMs times vCPUs is at most [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Accesses per second and vCPU at most; `None` is as fast as it can.
    pub rate: Option<u32>,
    /// Repeat [`Plan::counts`] until this much time is over; `None` makes them once.
    pub time: Option<Duration>,
    /// How many ports, addresses, leaves and MSRs a kind cycles through, 1 to [`MAX_PLACES`].
    pub places: u32,
    /// The first port; the next is 0x10 further.
    pub port: u16,
    /// Bytes of a port access: 1, 2 or 4.
    pub pio_size: u32,
    /// The first address that is written. Reads are 0x1000 further, ioeventfds 0x2000.
    pub gpa: u32,
    /// Bytes of an MMIO access: 1, 2 or 4.
    pub mmio_size: u32,
    /// How long a [`Kind::Halt`] lasts at least, in microseconds; about twice as long at most.
    pub halt_us: u32,
    /// What ends a [`Kind::Halt`].
    pub wake: Wake,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            counts: Counts::default(),
            vms: 1,
            vcpus: 1,
            rate: None,
            time: None,
            places: 1,
            port: 0x500,
            pio_size: 1,
            gpa: 0xd000_0000,
            mmio_size: 4,
            halt_us: 200,
            wake: Wake::Interrupt,
        }
    }
}

/// What ends a [`Kind::Halt`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wake {
    /// An interrupt, which the guest's handler counts.
    #[default]
    Interrupt,
    /// KVM's kick (PV unhalt), which lets HLT end and delivers nothing to the guest.
    Kick,
}

/// Why a plan cannot be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PlanError {
    #[error(
        "there is nothing to make; give a count with --pio, --pio-in, --mmio-write, --mmio-read, \
         --fast-mmio, --cpuid, --msr, --msr-write, --hlt or --halt"
    )]
    Nothing,
    #[error("{0} accesses are too many; give at most {MAX_ACCESSES} in total, or --seconds")]
    TooMany(u64),
    #[error(
        "{vms} VMs of {vcpus} vCPUs cannot be; both are at least 1 and the product at most {MAX_VCPUS}"
    )]
    Vcpus { vms: u32, vcpus: u32 },
    #[error("a rate of 0 makes nothing; give at least 1 per second or leave --rate away")]
    Rate,
    #[error("a time of 0 makes nothing; give at least a moment or leave --seconds away")]
    Time,
    #[error("{0} places are not possible; give 1 to {MAX_PLACES}")]
    Places(u32),
    #[error("port {port:#x} leaves no room for {places} places; give at most {highest:#x}")]
    Port { port: u16, places: u32, highest: u32 },
    #[error("an access of {0} bytes is not possible; give 1, 2 or 4")]
    Size(u32),
    #[error(
        "address {0:#x} is not possible; give a multiple of 0x1000 from {MMIO_LOWEST:#x} to \
         {MMIO_HIGHEST:#x}"
    )]
    Gpa(u32),
    #[error("a VM whose kernel serves HLT returns none to the VMM; give --hlt or --halt, not both")]
    HltAndHalt,
    #[error("{0} vCPUs of a VM are too many for --halt; give at most {MAX_HALTING_VCPUS}")]
    HaltingVcpus(u32),
    #[error("halts of {0} µs are not possible; give 1 to {MAX_HALT_US}")]
    HaltTime(u32),
}

impl Plan {
    /// Checks everything that [`super::run()`] relies on.
    ///
    /// # Errors
    /// The first value that is out of its range.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.counts.total() == 0 {
            return Err(PlanError::Nothing);
        }
        if self.counts.total() > MAX_ACCESSES {
            return Err(PlanError::TooMany(self.counts.total()));
        }
        let vcpus = u64::from(self.vms) * u64::from(self.vcpus);
        if vcpus == 0 || vcpus > u64::from(MAX_VCPUS) {
            return Err(PlanError::Vcpus { vms: self.vms, vcpus: self.vcpus });
        }
        if self.rate == Some(0) {
            return Err(PlanError::Rate);
        }
        if self.time == Some(Duration::ZERO) {
            return Err(PlanError::Time);
        }
        if self.places == 0 || self.places > MAX_PLACES {
            return Err(PlanError::Places(self.places));
        }
        let highest = 0x1_0000 - self.places * STRIDE;
        if u32::from(self.port) > highest {
            return Err(PlanError::Port { port: self.port, places: self.places, highest });
        }
        for size in [self.pio_size, self.mmio_size] {
            if !matches!(size, 1 | 2 | 4) {
                return Err(PlanError::Size(size));
            }
        }
        if !self.gpa.is_multiple_of(MMIO_REGION)
            || !(MMIO_LOWEST..=MMIO_HIGHEST).contains(&self.gpa)
        {
            return Err(PlanError::Gpa(self.gpa));
        }
        self.check_halts()
    }

    fn check_halts(&self) -> Result<(), PlanError> {
        if !(1..=MAX_HALT_US).contains(&self.halt_us) {
            return Err(PlanError::HaltTime(self.halt_us));
        }
        if !self.halts() {
            return Ok(());
        }
        if self.counts.get(Kind::Hlt) > 0 {
            return Err(PlanError::HltAndHalt);
        }
        if self.vcpus > MAX_HALTING_VCPUS {
            return Err(PlanError::HaltingVcpus(self.vcpus));
        }
        Ok(())
    }

    /// Whether the kernel has the local APIC and serves HLT.
    #[must_use]
    pub const fn halts(&self) -> bool {
        self.counts.get(Kind::Halt) > 0
    }

    /// What ends a slice: [`Kind::Hlt`], or [`Kind::PioOut`] where the kernel serves HLT.
    #[must_use]
    pub const fn sign_off(&self) -> Kind {
        if self.halts() { Kind::PioOut } else { Kind::Hlt }
    }

    /// Port, GPA, CPUID leaf or MSR number of `kind`'s place number `place`; `None` for HLT, which
    /// has none, and for a number outside of the plan.
    #[must_use]
    pub fn address(&self, kind: Kind, place: u32) -> Option<u32> {
        if place >= self.places {
            return None;
        }
        let step = place * STRIDE;
        match kind {
            Kind::PioOut | Kind::PioIn => Some(u32::from(self.port) + step),
            Kind::MmioWrite => Some(self.gpa + step),
            Kind::MmioRead => Some(self.gpa + MMIO_REGION + step),
            Kind::FastMmio => Some(self.gpa + 2 * MMIO_REGION + step),
            Kind::Cpuid => LEAVES.get(place as usize).copied(),
            Kind::MsrRead | Kind::MsrWrite => MSRS.get(place as usize).copied(),
            Kind::Hlt | Kind::Halt => None,
        }
    }

    /// Bytes that an access of `kind` has, 0 where it has no size.
    #[must_use]
    pub const fn size(&self, kind: Kind) -> u32 {
        match kind {
            Kind::PioOut | Kind::PioIn => self.pio_size,
            Kind::MmioWrite | Kind::MmioRead | Kind::FastMmio => self.mmio_size,
            Kind::Cpuid | Kind::MsrRead | Kind::MsrWrite | Kind::Hlt | Kind::Halt => 0,
        }
    }

    /// The slices of one round, none of them empty.
    pub(super) fn round(&self) -> Round {
        let slice = match (self.rate, self.time) {
            (Some(rate), _) => (u64::from(rate) / SLICES_PER_SECOND).max(1),
            (None, Some(_)) => UNPACED_SLICE,
            (None, None) => u64::MAX,
        };
        let mut counts = self.counts;
        if self.time.is_some() {
            // Small rounds share a slice: each ends with a return to the VMM.
            let rounds = (slice / counts.total().max(1)).max(1);
            for kind in Kind::ALL {
                counts.set(kind, counts.get(kind).saturating_mul(rounds));
            }
        }
        Round::new(counts, slice)
    }
}

/// A round, cut into slices that all have their part of every kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    counts: Counts,
    slices: u64,
}

impl Round {
    fn new(counts: Counts, slice: u64) -> Self {
        let largest = counts.iter().map(|(_, count)| count).max().unwrap_or(0);
        let slices = counts.total().div_ceil(slice).max(largest.div_ceil(u64::from(u32::MAX)));
        Self { counts, slices: slices.max(1) }
    }

    /// All slices in turn; together they are the round's counts. No number exceeds 32 bits.
    pub(super) fn slices(self) -> impl Iterator<Item = Counts> {
        (0..self.slices).map(move |index| self.slice(index)).filter(|slice| slice.total() > 0)
    }

    fn slice(&self, index: u64) -> Counts {
        let kinds = self.counts.iter().filter(|(_, count)| *count > 0);
        let active = kinds.clone().count().max(1) as u128;
        let slices = u128::from(self.slices);
        kinds
            .enumerate()
            .map(|(rank, (kind, count))| {
                // Each kind starts at another phase, so that few accesses do not all come at once.
                let phase = slices * rank as u128 / active;
                let until = |slice: u128| (u128::from(count) * slice + phase) / slices;
                let index = u128::from(index);
                (kind, u64::try_from(until(index + 1) - until(index)).unwrap_or(u64::MAX))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(counts: &[(Kind, u64)]) -> Plan {
        Plan { counts: counts.iter().copied().collect(), ..Plan::default() }
    }

    #[test]
    fn a_plan_of_nothing_names_the_options() {
        let error = Plan::default().check().unwrap_err();
        assert_eq!(error, PlanError::Nothing);
        assert!(error.to_string().contains("--fast-mmio"));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let good = plan(&[(Kind::Cpuid, 1)]);
        assert_eq!(good.check(), Ok(()));
        let refused = [
            (plan(&[(Kind::Hlt, u64::MAX)]), PlanError::TooMany(u64::MAX)),
            (Plan { vms: 0, ..good.clone() }, PlanError::Vcpus { vms: 0, vcpus: 1 }),
            (Plan { vms: 33, vcpus: 32, ..good.clone() }, PlanError::Vcpus { vms: 33, vcpus: 32 }),
            (Plan { rate: Some(0), ..good.clone() }, PlanError::Rate),
            (Plan { time: Some(Duration::ZERO), ..good.clone() }, PlanError::Time),
            (Plan { places: 17, ..good.clone() }, PlanError::Places(17)),
            (Plan { places: 0, ..good.clone() }, PlanError::Places(0)),
            (
                Plan { port: 0xfff1, ..good.clone() },
                PlanError::Port { port: 0xfff1, places: 1, highest: 0xfff0 },
            ),
            (Plan { pio_size: 8, ..good.clone() }, PlanError::Size(8)),
            (Plan { mmio_size: 3, ..good.clone() }, PlanError::Size(3)),
            (Plan { gpa: 0xd000_0800, ..good.clone() }, PlanError::Gpa(0xd000_0800)),
            (Plan { gpa: 0x1000, ..good.clone() }, PlanError::Gpa(0x1000)),
            (Plan { gpa: 0xfee0_0000, ..good.clone() }, PlanError::Gpa(0xfee0_0000)),
            (Plan { halt_us: 0, ..good }, PlanError::HaltTime(0)),
            (plan(&[(Kind::Halt, 1), (Kind::Hlt, 1)]), PlanError::HltAndHalt),
            (Plan { vcpus: 256, ..plan(&[(Kind::Halt, 1)]) }, PlanError::HaltingVcpus(256)),
        ];
        for (plan, error) in refused {
            assert_eq!(plan.check(), Err(error));
        }
    }

    #[test]
    fn places_of_a_kind_are_all_different() {
        let plan = Plan { places: MAX_PLACES, ..plan(&[(Kind::Cpuid, 1)]) };
        for kind in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Hlt | Kind::Halt)) {
            let mut addresses: Vec<_> =
                (0..MAX_PLACES).map(|place| plan.address(kind, place).unwrap()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            assert_eq!(addresses.len(), MAX_PLACES as usize, "{kind:?}");
            assert_eq!(plan.address(kind, MAX_PLACES), None);
        }
    }

    #[test]
    fn without_rate_and_time_everything_is_one_slice() {
        let plan = plan(&[(Kind::PioOut, 100_000), (Kind::Cpuid, 3)]);
        assert_eq!(plan.round().slices().collect::<Vec<_>>(), [plan.counts]);
    }

    #[test]
    fn more_than_32_bits_are_cut() {
        let count = 10 * u64::from(u32::MAX) + 1;
        let slices: Vec<_> = plan(&[(Kind::Cpuid, count)]).round().slices().collect();
        assert_eq!(slices.len(), 11);
        assert!(slices.iter().all(|slice| slice.total() <= u64::from(u32::MAX)));
        assert_eq!(slices.iter().map(Counts::total).sum::<u64>(), count);
    }

    #[test]
    fn a_low_rate_makes_one_access_at_a_time() {
        let plan =
            Plan { rate: Some(10), ..plan(&[(Kind::PioOut, 2), (Kind::Cpuid, 2), (Kind::Hlt, 1)]) };
        assert!(plan.round().slices().all(|slice| slice.total() <= 2));
        assert_eq!(plan.round().slices().map(|slice| slice.total()).sum::<u64>(), 5);
    }

    #[test]
    fn small_rounds_share_a_slice_when_time_is_the_limit() {
        let timed = Plan { time: Some(Duration::from_secs(1)), ..plan(&[(Kind::PioOut, 3)]) };
        let total = |plan: &Plan| plan.round().slices().map(|slice| slice.total()).sum::<u64>();
        assert_eq!(total(&timed), 9_999);
        assert_eq!(total(&Plan { rate: Some(1_000), ..timed }), 9);
    }

    proptest! {
        #[test]
        fn slices_add_up_to_the_round(
            numbers in prop::array::uniform10(0u64..200_000),
            rate in prop::option::of(1u32..1_000_000),
        ) {
            let counts: Counts = Kind::ALL.into_iter().zip(numbers).collect();
            prop_assume!(counts.total() > 0);
            let plan = Plan { counts, rate: rate.map(|rate| rate.max(20_000)), ..Plan::default() };
            let sum: Counts = plan.round().slices().flat_map(|slice| {
                slice.iter().collect::<Vec<_>>()
            }).collect();
            prop_assert_eq!(sum, counts);
        }
    }
}
