//! What the demo's TDs do, as data.

use tdtrace_common::td::TdExit;

use crate::source::synthetic::Registers;

/// The shared bit of the synthetic TDs.
pub(super) const SHARED: u64 = 1 << 51;
const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A TD's way of life.
pub(super) struct Character {
    pub(super) name: &'static str,
    pub(super) vcpus: u32,
    /// Between two exits, about.
    guest_ns: u64,
    /// What it does before that, one after the other.
    boot: &'static [Phase],
    /// What it exits for, with how often of their sum.
    deeds: &'static [(u64, Deed)],
}

/// A part of a TD's boot.
struct Phase {
    /// When it is over, nanoseconds after the TD began.
    until: u64,
    /// Between two exits, about.
    guest_ns: u64,
    /// As [`Character::deeds`].
    deeds: &'static [(u64, Deed)],
}

impl Character {
    /// One of the deeds at this age in nanoseconds, as the number decides, and about how long it is in the
    /// guest before that.
    pub(super) fn deed(&self, age: u64, number: u64) -> (&'static Deed, u64) {
        let phase = self.boot.iter().find(|phase| age < phase.until);
        let (deeds, guest_ns) =
            phase.map_or((self.deeds, self.guest_ns), |phase| (phase.deeds, phase.guest_ns));
        let sum: u64 = deeds.iter().map(|(weight, _)| weight).sum();
        let mut rest = number % sum;
        for (weight, deed) in deeds {
            if rest < *weight {
                return (deed, guest_ns);
            }
            rest -= weight;
        }
        (&deeds[0].1, guest_ns)
    }
}

/// An exit and what comes of it.
pub(super) struct Deed {
    /// Index of `VcpuSlot::reasons`.
    pub(super) class: u32,
    kind: Kind,
    /// In the kernel, about.
    pub(super) kernel_ns: u64,
    pub(super) then: Then,
}

/// Which registers it comes with.
enum Kind {
    /// A TDVMCALL: leaf, R12, R13, R14.
    Call(u64, u64, u64, u64),
    /// A VMX exit reason.
    Reason(u64),
    /// An external interrupt with its vector.
    Interrupt(u32),
    /// MapGPA to shared or not, of so many bytes somewhere in so many such pieces from an address on.
    Map(bool, u64, u64, u64),
    /// An EPT violation somewhere in so many bytes, with its extended qualification.
    Violation(u64, u64),
    /// A status of TDH.VP.ENTER.
    Status(u64),
}

/// What comes after the exit.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// The next entry.
    Enter,
    /// A halt of about so many nanoseconds.
    Halt(u64),
    /// The VMM, with this `KVM_EXIT_*`, for about so many nanoseconds.
    Return(u32, u64),
    /// A fault is served.
    Fault,
    /// One in so many times KVM answers with this status.
    Answer(u64, u64),
    /// The VMM converts for about so many nanoseconds. One in so many times KVM stops halfway.
    Convert(u64, u64),
    /// The VMM is told that nobody can serve a fault, and converts for about so many nanoseconds.
    Fail(u64),
}

impl Deed {
    pub(super) fn registers(&self, random: u64) -> Registers {
        match self.kind {
            Kind::Call(r11, r12, r13, r14) => {
                Registers { ret: 77, kvm_reason: 77, r11, r12, r13, r14, ..Registers::default() }
            }
            Kind::Reason(reason) => {
                Registers { ret: reason, kvm_reason: reason as u32, ..Registers::default() }
            }
            Kind::Interrupt(vector) => Registers {
                ret: 1,
                kvm_reason: 1,
                intr_info: 0x8000_0000 | vector,
                ..Registers::default()
            },
            Kind::Map(shared, first, size, pieces) => Registers {
                ret: 77,
                kvm_reason: 77,
                r11: 0x10001,
                r12: (first + random % pieces * size) | if shared { SHARED } else { 0 },
                r13: size,
                ..Registers::default()
            },
            Kind::Violation(bytes, ext_qualification) => Registers {
                ret: 48,
                kvm_reason: 48,
                gpa: (random % bytes) & !0xfff,
                ext_qualification,
                ..Registers::default()
            },
            Kind::Status(ret) => Registers { ret, kvm_reason: 0xdead, ..Registers::default() },
        }
    }
}

const fn td(exit: TdExit, kind: Kind, kernel_ns: u64, then: Then) -> Deed {
    Deed { class: exit.reason_index() as u32, kind, kernel_ns, then }
}

const fn wrmsr(index: u64, kernel_ns: u64) -> Deed {
    td(TdExit::Wrmsr, Kind::Call(32, index, 1, 0), kernel_ns, Then::Enter)
}

const fn halt(ns: u64) -> Deed {
    td(TdExit::Hlt, Kind::Call(12, 1, 0, 0), 2_000, Then::Halt(ns))
}

const fn interrupt(vector: u32) -> Deed {
    Deed { class: 1, kind: Kind::Interrupt(vector), kernel_ns: 1_400, then: Then::Enter }
}

const fn doorbell(gpa: u64, then: Then) -> Deed {
    td(TdExit::MmioWrite, Kind::Call(48, 2, 1, SHARED | gpa), 2_800, then)
}

const fn accepts(bytes: u64) -> Deed {
    td(TdExit::EptPrivate, Kind::Violation(bytes, 0), 11_000, Then::Fault)
}

const fn maps(exit: TdExit, first: u64, size: u64, pieces: u64, then: Then) -> Deed {
    td(exit, Kind::Map(matches!(exit, TdExit::MapShared), first, size, pieces), 5_000, then)
}

const fn cpuid(leaf: u64) -> Deed {
    td(TdExit::Cpuid, Kind::Call(10, leaf, 0, 0), 1_700, Then::Enter)
}

const fn out(port: u64, vmm_ns: u64) -> Deed {
    td(TdExit::IoOut, Kind::Call(30, 1, 1, port), 2_100, Then::Return(IO, vmm_ns))
}

const fn input(port: u64, vmm_ns: u64) -> Deed {
    td(TdExit::IoIn, Kind::Call(30, 1, 0, port), 2_100, Then::Return(IO, vmm_ns))
}

const fn quote() -> Deed {
    let call = Kind::Call(0x10002, SHARED | 0x7000, 0x2_0000, 0);
    td(TdExit::GetQuote, call, 5_000, Then::Return(TDX, 700_000))
}

const SECOND: u64 = 1_000_000_000;

/// Firmware, memory, devices, a quote.
const BOOT: &[Phase] = &[
    Phase {
        until: 4 * SECOND,
        guest_ns: 240_000,
        deeds: &[
            (80, input(0x511, 9_000)),
            (6, out(0x510, 9_000)),
            (2, out(0x518, 60_000)),
            (8, out(0x402, 7_000)),
            (4, cpuid(0x4000_0000)),
        ],
    },
    Phase {
        until: 16 * SECOND,
        guest_ns: 180_000,
        deeds: &[
            (92, accepts(GIB)),
            (1, maps(TdExit::MapShared, GIB, 2 * MIB, 32, Then::Convert(30, 900_000))),
            (3, td(TdExit::BusyEpoch, Kind::Status(0x8000_0200_0000_00a9), 900, Then::Enter)),
            (4, interrupt(0xec)),
        ],
    },
    Phase {
        until: 21 * SECOND,
        guest_ns: 110_000,
        deeds: &[
            (40, doorbell(0xfec0_0010, Then::Return(MMIO, 12_000))),
            (20, doorbell(0xfe00_3000, Then::Enter)),
            (22, wrmsr(0x838, 1_900)),
            (10, wrmsr(0x830, 2_800)),
            (6, cpuid(0x4000_0001)),
            (6, out(0x3f8, 38_000)),
            (2, accepts(GIB)),
            (6, halt(600_000)),
        ],
    },
    Phase {
        until: 22 * SECOND,
        guest_ns: 400_000,
        deeds: &[(1, quote()), (20, halt(2_000_000)), (6, interrupt(0xec))],
    },
];

const IO: u32 = 2;
/// `KVM_EXIT_HYPERCALL`: what MapGPA becomes for the VMM.
pub(super) const HYPERCALL: u32 = 3;
const MMIO: u32 = 6;
const TDX: u32 = 40;
/// `TDVMCALL_STATUS_RETRY`.
pub(super) const RETRY: u64 = 1;

/// The TDs of the demo.
pub(super) const CHARACTERS: &[Character] = &[
    Character {
        name: "td-web-03",
        vcpus: 4,
        guest_ns: 320_000,
        boot: &[],
        deeds: &[
            (30, wrmsr(0x6e0, 1_900)),
            (14, wrmsr(0x80b, 1_500)),
            (22, halt(900_000)),
            (18, doorbell(0xfe00_3000, Then::Enter)),
            (2, doorbell(0xfe00_4004, Then::Return(MMIO, 9_000))),
            (12, interrupt(0xec)),
            (2, interrupt(0xfd)),
            (1, cpuid(0x4000_0001)),
        ],
    },
    Character {
        name: "td-db-01",
        vcpus: 32,
        guest_ns: 2_600_000,
        boot: &[],
        deeds: &[
            (41, accepts(32 * GIB)),
            (38, halt(4_200_000)),
            (11, wrmsr(0x830, 2_800)),
            (4, maps(TdExit::MapShared, GIB, 4 * MIB, 3, Then::Convert(30, 2_900_000))),
            (2, maps(TdExit::MapPrivate, GIB, 4 * MIB, 3, Then::Convert(30, 2_900_000))),
            (3, td(TdExit::BusyEpoch, Kind::Status(0x8000_0200_0000_00a9), 900, Then::Enter)),
            (8, interrupt(0xec)),
        ],
    },
    Character {
        name: "td-console",
        vcpus: 1,
        guest_ns: 180_000,
        boot: &[],
        deeds: &[
            (60, out(0x3f8, 38_000)),
            (20, input(0x3fd, 31_000)),
            (4, interrupt(0xec)),
            (1, quote()),
            (
                1,
                td(
                    TdExit::UnknownLeaf,
                    Kind::Call(0x10009, 0, 0, 0),
                    1_200,
                    Then::Answer(1, 0x8000_0000_0000_0003),
                ),
            ),
        ],
    },
    Character {
        name: "td-batch-07",
        vcpus: 8,
        guest_ns: 3_800_000,
        boot: &[],
        deeds: &[
            (90, interrupt(0xec)),
            (6, wrmsr(0x6e0, 1_900)),
            (3, maps(TdExit::MapPrivate, 3 * GIB, 4096, 4096, Then::Convert(1000, 40_000))),
            (1, td(TdExit::EptPrivate, Kind::Violation(GIB, 0), 9_000, Then::Fail(70_000))),
            (1, Deed { class: 0, kind: Kind::Reason(0), kernel_ns: 2_500, then: Then::Enter }),
        ],
    },
    Character {
        name: "td-idle",
        vcpus: 2,
        guest_ns: 30_000,
        boot: &[],
        deeds: &[(97, halt(48_000_000)), (3, wrmsr(0x6e0, 1_900))],
    },
    Character {
        name: "td-fresh-12",
        vcpus: 4,
        guest_ns: 700_000,
        boot: BOOT,
        deeds: &[
            (70, halt(3_000_000)),
            (12, wrmsr(0x6e0, 1_900)),
            (10, interrupt(0xec)),
            (8, doorbell(0xfe00_3000, Then::Enter)),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_its_parts_in_order_and_ends_in_what_the_td_does_then() {
        let fresh = CHARACTERS.iter().find(|character| !character.boot.is_empty()).unwrap();
        let class = |seconds| fresh.deed(seconds * SECOND, 0).0.class as usize;
        let classes = [0, 4, 16, 21, 22, 1_000].map(class);
        let kinds = [
            TdExit::IoIn,
            TdExit::EptPrivate,
            TdExit::MmioWrite,
            TdExit::GetQuote,
            TdExit::Hlt,
            TdExit::Hlt,
        ];
        assert_eq!(classes, kinds.map(TdExit::reason_index));
        assert!(fresh.boot.is_sorted_by_key(|phase| phase.until));
        // Once it has settled it mostly halts.
        let halts = (0..100).filter(|number| {
            fresh.deed(60 * SECOND, *number).0.class as usize == TdExit::Hlt.reason_index()
        });
        assert_eq!(halts.count(), 70);
    }
}
