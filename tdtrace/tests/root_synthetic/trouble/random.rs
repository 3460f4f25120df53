//! Random sequences of events, legal and illegal, against the truth. A sequence that is counted otherwise
//! is named by its seed.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use tdtrace::source::synthetic::{Cpu, Event, Registers, Synthetic, SyntheticOptions};
use tdtrace_common::counters::{Class, Loss};

use super::super::drive::{
    Driven, Random, assert_durations, assert_vcpu, load_with, pid, pin, plain, sample,
};

const SEQUENCES: u32 = 3_000;
/// vCPUs of a VM.
const PER_VM: u32 = 10;
const FIRST_SEED: u64 = 0x7d_0000;

/// What a sequence knows besides the truth of its vCPU.
struct Sequence {
    driven: Driven,
    is_td: bool,
    /// `kvm_fpu(0)` has come and the return has not.
    leaves: bool,
    /// The exit that is not followed by an entry yet.
    pending: Option<u32>,
    /// Returns that belong to nobody.
    nobodys: u64,
    /// What comes next if nothing goes wrong.
    next: [Next; 2],
}

#[derive(Clone, Copy)]
enum Next {
    Begin,
    End,
    Return,
    Entry,
    Exit,
    Else,
}

const ALL: [Next; 6] = [Next::Begin, Next::End, Next::Return, Next::Entry, Next::Exit, Next::Else];

impl Sequence {
    fn step(&mut self, cpu: &Cpu<'_>, random: &mut Random) {
        let next = match random.below(5) {
            0 => ALL[random.below(6) as usize],
            _ => self.next[random.below(2) as usize],
        };
        let ns = random.next() >> (30 + random.below(34));
        let waiting = random.below(3) * random.below(900);
        match next {
            Next::Begin => {
                self.driven.run_begin(cpu, ns, waiting);
                self.next = [Next::Entry, Next::Entry];
            }
            Next::End => {
                self.driven.fire(cpu, Event::RunEnd, ns, waiting);
                self.driven.truth.count("run_end");
                self.leaves = true;
                self.next = [Next::Return, Next::Return];
            }
            Next::Return => self.returns(cpu, random, ns, waiting),
            Next::Entry => {
                let status = random.below(2) << 63 | random.below(2);
                self.driven.enter(cpu, status, ns, waiting);
                if let Some(leaf @ 192..210) = self.pending.take()
                    && self.is_td
                {
                    self.driven.truth.place("td_answer", status, leaf - 192);
                }
                self.next = [Next::Exit, Next::Exit];
            }
            Next::Exit => self.exits(cpu, random, ns),
            Next::Else => self.other(cpu, random, ns, waiting),
        }
    }

    fn returns(&mut self, cpu: &Cpu<'_>, random: &mut Random, ns: u64, waiting: u64) {
        let (reason, errno, index) = [
            (2, 0, 2),
            (6, 0, 6),
            (5, 0, 5),
            (40, 0, 40),
            (60, 0, 60),
            (61, 0, 63),
            (62, 0, 63),
            (1_000, 0, 63),
            (2, -4, 62),
            (62, -4, 62),
            (39, -14, 39),
            (39, -133, 61),
            (6, -22, 63),
        ][random.below(13) as usize];
        self.driven.fire(cpu, Event::UserspaceExit(reason, errno), ns, waiting);
        if self.leaves {
            self.leaves = false;
            if let (true, Some(class)) = (self.is_td, self.pending) {
                self.driven.truth.place("td_return", index.into(), class);
            }
            self.driven.truth.returns(index, self.driven.now, self.driven.run_delay);
            if reason == 39 {
                self.driven.truth.place("memory_fault", 0, i32::unsigned_abs(errno));
            }
        } else {
            self.nobodys += 1;
        }
        self.next = [Next::Begin, Next::Begin];
    }

    fn exits(&mut self, cpu: &Cpu<'_>, random: &mut Random, ns: u64) {
        let call = |kvm_reason, r11, r12, r13, r14| Registers {
            ret: 77,
            kvm_reason,
            r11,
            r12,
            r13,
            r14,
            ..Registers::default()
        };
        // Registers, index for a TD, index for another VM, place.
        let (registers, td, plain, place) = match random.below(8) {
            0 => (call(10, 10, 7, 0, 0), 192, 10, Some(("cpuid", 7, 0))),
            1 => (call(12, 12, 0, 0, 0), 193, 12, None),
            2 => (call(30, 30, 2, 1, 0x510), 195, 30, Some(("pio_out", 0x510, 2))),
            3 => (
                call(49, 48, 4, 0, 1 << 51 | 0xfec0_0010),
                198,
                49,
                Some(("mmio_read", 0xfec0_0010, 4)),
            ),
            4 => (call(77, 0x10001, 0x1000, 0x1000, 0), 204, 77, None),
            5 => (
                Registers { ret: 0x8000_0200_0000_0092, kvm_reason: 0xdead, ..call(0, 0, 0, 0, 0) },
                212,
                190,
                None,
            ),
            6 => (call(77, 0x4_0000, 0, 0, 0), 209, 77, Some(("td_unknown_leaf", 0x4_0000, 0))),
            _ => (
                Registers { intr_info: 0x8000_0022, ..plain(1) },
                1,
                1,
                Some(("host_interrupt", 0x22, 0)),
            ),
        };
        let class = if self.is_td { td } else { plain };
        self.driven.exit(cpu, registers, class, ns);
        self.pending = Some(class);
        if let (true, Some((name, address, size))) = (self.is_td, place) {
            self.driven.truth.place(name, address, size);
        }
        self.next = [Next::Entry, [Next::End, Next::Else][random.below(2) as usize]];
    }

    fn other(&mut self, cpu: &Cpu<'_>, random: &mut Random, ns: u64, waiting: u64) {
        // Of a TD the exit has told of the first ones.
        let (event, name, address, size) = match random.below(9) {
            0 => (Event::Pio(0, 0x3f8, 4), "pio_in", 0x3f8, 4),
            1 => (Event::Mmio(1, 8, 0xfed0_00f0), "mmio_read", 0xfed0_00f0, 8),
            2 => (Event::Msr(true, 0x6e0), "msr_write", 0x6e0, 0),
            3 => (Event::Cpuid(1), "cpuid", 1, 0),
            4 => (Event::PageFault(0x1000, 6), "page_fault", 6, 0),
            5 => (Event::HaltPoll(20_000), "halt_poll", 20_000, 0),
            6 => (Event::SpteChanged(2), "spte_changed", 2, 0),
            7 => (Event::MmioFault(0xfec00), "mmio_fault", 0xfec0_0000, 0),
            _ => (Event::Wakeup(ns, false), "halt", 0, 0),
        };
        self.driven.fire(cpu, event, ns, waiting);
        if let Event::Wakeup(halted, _) = event {
            self.driven.truth.halt(halted);
        }
        let told = matches!(name, "pio_in" | "mmio_read" | "msr_write" | "cpuid");
        if !(told && self.is_td) {
            self.driven.truth.place(name, address, size);
        }
    }
}

#[test]
fn thousands_of_random_sequences_are_counted_as_the_truth_says() {
    assert_sequences(false);
}

/// As on kernels before 6.17.
#[test]
fn random_sequences_are_counted_alike_if_memory_is_read_by_calls() {
    assert_sequences(true);
}

/// The VMs, each with its vCPUs.
fn make(synthetic: &mut Synthetic) -> Vms {
    let mut all = Vms::new();
    for number in 0..SEQUENCES {
        let (vm, id) = (number / PER_VM, number % PER_VM);
        if id == 0 {
            let vm_type = if vm % 3 == 0 { 0 } else { 5 };
            all.push((
                synthetic.vm(pid(vm), "random", vm_type).expect("there is room"),
                vm_type == 5,
                Vec::new(),
            ));
        }
        let (address, is_td, own) = all.last_mut().expect("there is room");
        let vcpu = synthetic.vcpu(*address, id, pid(vm), pid(vm) + 1 + id).expect("there is room");
        own.push(Sequence {
            driven: Driven::new(vcpu, 1_000),
            is_td: *is_td,
            leaves: false,
            pending: None,
            nobodys: 0,
            next: [Next::Begin, Next::Exit],
        });
    }
    all
}

fn assert_sequences(by_calls: bool) {
    let vms = SEQUENCES / PER_VM;
    let mut synthetic = load_with(SyntheticOptions {
        max_vcpus: SEQUENCES,
        tds: vms,
        vcpus: SEQUENCES,
        rows: Some(16 * SEQUENCES),
        by_calls,
        ..SyntheticOptions::default()
    });
    let mut all = make(&mut synthetic);
    drive(&synthetic, &mut all);
    let sequences = || all.iter().flat_map(|(.., own)| own);
    let now = sequences().map(|sequence| sequence.driven.now).max().expect("there are some");
    let sample = sample(&mut synthetic, now);
    let vcpus: BTreeMap<_, _> =
        sample.vcpus.iter().map(|vcpu| ((vcpu.vm, vcpu.id), vcpu)).collect();
    for (vm, (.., own)) in (0_u32..).zip(&all) {
        let seen = sample.vms.iter().find(|seen| seen.pid == pid(vm)).expect("its VM");
        let mut durations = BTreeMap::new();
        for (id, sequence) in (0_u32..).zip(own) {
            let check = || {
                let seen = vcpus[&(seen.key, id)];
                // Of the phase that lasts only the whole is known here.
                let open = sequence.driven.truth.open(now);
                assert_vcpu(seen, &sequence.driven, open);
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(check)) {
                eprintln!("seed {:#x}", FIRST_SEED + u64::from(10 * vm + id));
                resume_unwind(panic);
            }
            for (class, own) in &sequence.driven.truth.durations {
                durations.entry(*class).or_insert_with(Default::default);
                super::super::truth::Durations::merge(
                    durations.get_mut(class).expect("inserted before"),
                    own,
                );
            }
        }
        assert_durations(&seen.latency, &durations);
    }
    let unpaired: u64 = sequences().map(|sequence| sequence.driven.truth.unpaired).sum();
    let nobodys: u64 = sequences().map(|sequence| sequence.nobodys).sum();
    assert!(unpaired > 10_000 && nobodys > 1_000, "{unpaired} and {nobodys}");
    assert_eq!(sample.losses.unpaired, unpaired);
    assert_eq!(sample.losses.causes, [(Loss::Unattributed, Class::UserspaceExit, nobodys)]);
    assert_eq!((sample.losses.hotspots, sample.losses.durations), (0, 0));
}

/// VMs with the sequences of their vCPUs.
type Vms = Vec<(u64, bool, Vec<Sequence>)>;

/// Fires all events.
fn drive(synthetic: &Synthetic, all: &mut Vms) {
    // The vCPUs of a VM take turns, so that CPUs remember others and vCPUs move.
    for (vm, (.., own)) in (0_u64..).zip(all) {
        let mut randoms: Vec<Random> =
            (0..u64::from(PER_VM)).map(|id| Random::new(FIRST_SEED + 10 * vm + id)).collect();
        for turn in 0..24 {
            let number = turn / 3 % 2;
            pin(number as usize);
            let cpu = synthetic.cpu(number);
            for (sequence, random) in own.iter_mut().zip(&mut randoms) {
                sequence.step(&cpu, random);
                sequence.step(&cpu, random);
            }
        }
    }
}
