//! Conversions: each request, answer, attribute and fault is counted once, with its bytes.

use tdtrace::{
    model::{
        ledger::{LedgerSample, MemoryFault, RegionSample},
        sample::Sample,
    },
    source::{
        counting::sizes::MAX_VMS,
        synthetic::{Cpu, Event, MEMSLOT_PAGES, Moment, Registers, VmmCall},
    },
};
use tdtrace_common::{
    counters::{Class, Loss},
    ledger::{Direction, LedgerCount as Count, REGIONS},
};

use super::drive::{Driven, Random, assert_vcpu, load, pid, pin, sample, td, vcpu_of};

const SHARED: u64 = 1 << 51;
const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;
/// The first index of exits that only TDs have.
const TD: u32 = 192;
const INVALID_OPERAND: u64 = 1 << 63;

/// A MapGPA with its answer and, if KVM says so, where it stopped.
fn map(cpu: &Cpu<'_>, driven: &mut Driven, start: u64, size: u64, answer: (u64, Option<u64>)) {
    let registers = Registers {
        ret: 77,
        kvm_reason: 77,
        r11: 0x10001,
        r12: start,
        r13: size,
        ..Registers::default()
    };
    let to_shared = start & SHARED != 0;
    driven.exit(cpu, registers, TD + if to_shared { 11 } else { 12 }, 100);
    match answer {
        (status, None) => driven.fire(cpu, Event::Entry(status), 10, 0),
        (status, Some(next)) => driven.fire(cpu, Event::EntryAt(status, next), 10, 0),
    }
}

fn begun(synthetic: &mut tdtrace::source::synthetic::Synthetic, index: u32) -> Driven {
    let mut driven = td(synthetic, index, 1_000_000);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 0, 0);
    driven.enter(&cpu, 0, 10, 0);
    driven
}

fn ledger_of(sample: &Sample, pid: u32) -> LedgerSample {
    sample.vms.iter().find(|vm| vm.pid == pid).expect("the VM").ledger.clone()
}

fn both(ledger: &LedgerSample, count: Count) -> [u64; 2] {
    Direction::ALL.map(|way| ledger.of(count, way))
}

#[test]
fn what_kvm_converted_is_counted_and_not_what_was_asked_for() {
    pin(0);
    let mut synthetic = load(1, 1);
    let mut one = begun(&mut synthetic, 0);
    let cpu = synthetic.cpu(0);
    // Done at once: a page, a block, and something that is neither.
    map(&cpu, &mut one, SHARED | 0x5000, PAGE, (0, None));
    map(&cpu, &mut one, SHARED | BLOCK, 3 * BLOCK, (0, None));
    map(&cpu, &mut one, 0x5000, 3 * PAGE, (0, None));
    // 8 MiB in three goes: KVM says where it stopped, the guest goes on there.
    let start = SHARED | (100 * BLOCK);
    map(&cpu, &mut one, start, 4 * BLOCK, (1, Some(start + BLOCK)));
    map(&cpu, &mut one, start + BLOCK, 3 * BLOCK, (1, Some(start + 3 * BLOCK)));
    map(&cpu, &mut one, start + 3 * BLOCK, BLOCK, (0, None));
    // Refused before anything was done (R11 is still the leaf), and after one block.
    map(&cpu, &mut one, 7 * BLOCK, BLOCK, (INVALID_OPERAND, None));
    map(&cpu, &mut one, 200 * BLOCK, 2 * BLOCK, (INVALID_OPERAND, Some(201 * BLOCK)));
    // An address that no KVM would say: behind the end, before the start, not a page.
    for next in [300 * BLOCK + BLOCK, 299 * BLOCK, 300 * BLOCK + 8] {
        map(&cpu, &mut one, 300 * BLOCK, BLOCK, (1, Some(next)));
    }
    one.leave(&cpu, 2, 1, 0);
    let sample = sample(&mut synthetic, one.now + 1);
    let ledger = ledger_of(&sample, pid(0));
    assert_eq!(both(&ledger, Count::Bytes), [PAGE + 3 * BLOCK + 4 * BLOCK, 3 * PAGE + BLOCK]);
    assert_eq!(both(&ledger, Count::Pages), [1, 0]);
    assert_eq!(both(&ledger, Count::Blocks), [2, 1]);
    assert_eq!(both(&ledger, Count::Retried), [2, 3]);
    assert_eq!(both(&ledger, Count::Continued), [2, 0]);
    assert_eq!(both(&ledger, Count::Refused), [0, 2]);
    let vcpu = vcpu_of(&sample, pid(0) + 1);
    let asked = |index| vcpu.reasons.iter().find(|(reason, _)| *reason == index).unwrap().1;
    assert_eq!((asked(TD + 11), asked(TD + 12)), (5, 6));
    let regions: Vec<_> = ledger
        .regions
        .iter()
        .map(|region| (region.gpa / BLOCK, region.calls, region.bytes))
        .collect();
    assert_eq!(
        regions,
        [
            (0, [1, 1], [PAGE, 3 * PAGE]),
            (1, [1, 0], [3 * BLOCK, 0]),
            (100, [1, 0], [4 * BLOCK, 0]),
            (200, [0, 1], [0, BLOCK]),
        ]
    );
    assert_eq!(ledger.memory_pages, MEMSLOT_PAGES);
    assert_eq!(sample.losses.total(), 0);
}

#[test]
fn a_region_that_goes_back_and_forth_shows_each_turn() {
    pin(0);
    let mut synthetic = load(1, 1);
    let mut one = begun(&mut synthetic, 0);
    let cpu = synthetic.cpu(0);
    for way in [SHARED, 0, SHARED, SHARED, 0, 0, SHARED] {
        map(&cpu, &mut one, way | (9 * BLOCK), BLOCK, (0, None));
    }
    let ledger = ledger_of(&sample(&mut synthetic, one.now + 1), pid(0));
    let expected = RegionSample {
        gpa: 9 * BLOCK,
        calls: [4, 3],
        bytes: [4 * BLOCK, 3 * BLOCK],
        turns: 4,
        last: Direction::ToShared,
        last_at: one.now,
    };
    assert_eq!(ledger.regions, [expected]);
}

#[test]
fn regions_without_room_are_counted_and_take_none_from_other_tds() {
    pin(0);
    let mut synthetic = load(2, 2);
    let (mut greedy, mut modest) = (begun(&mut synthetic, 0), begun(&mut synthetic, 1));
    let cpu = synthetic.cpu(0);
    let all = 40 * REGIONS as u64;
    for region in 0..all {
        map(&cpu, &mut greedy, SHARED | (region * BLOCK), PAGE, (0, None));
    }
    map(&cpu, &mut modest, SHARED, PAGE, (0, None));
    let sample = sample(&mut synthetic, greedy.now + 1);
    let ledger = ledger_of(&sample, pid(0));
    let listed: u64 = ledger.regions.iter().map(|region| region.calls[0]).sum();
    assert_eq!(ledger.regions.len(), REGIONS);
    assert_eq!(listed + ledger.count(Count::WithoutRegion), all);
    assert_eq!(ledger.of(Count::Bytes, Direction::ToShared), all * PAGE);
    assert_eq!(ledger_of(&sample, pid(1)).regions.len(), 1);
}

#[test]
fn vcpus_of_one_td_on_two_cpus_lose_nothing() {
    const VCPUS: u32 = 4;
    let mut synthetic = load(1, VCPUS);
    let vm = synthetic.td(pid(0), "td").unwrap();
    let mut vcpus: Vec<Driven> = (0..VCPUS)
        .map(|id| Driven::new(synthetic.vcpu(vm, id, pid(0), pid(0) + 1 + id).unwrap(), 1_000))
        .collect();
    std::thread::scope(|scope| {
        for (number, own) in (0..).zip(vcpus.chunks_mut(VCPUS as usize / 2)) {
            let synthetic = &synthetic;
            scope.spawn(move || {
                pin(number as usize);
                let cpu = synthetic.cpu(number);
                let mut random = Random::new(7 + u64::from(number));
                for driven in &mut *own {
                    driven.run_begin(&cpu, 0, 0);
                    driven.enter(&cpu, 0, 10, 0);
                }
                for _ in 0..20_000 {
                    for driven in &mut *own {
                        let region = random.below(4) * BLOCK;
                        let way = if random.below(2) == 0 { SHARED } else { 0 };
                        map(&cpu, driven, way | region, BLOCK, (0, None));
                    }
                }
            });
        }
    });
    let now = vcpus.iter().map(|driven| driven.now).max().unwrap();
    let sample = sample(&mut synthetic, now + 1);
    let ledger = ledger_of(&sample, pid(0));
    let all = 20_000 * u64::from(VCPUS);
    let [shared, private] = both(&ledger, Count::Blocks);
    assert_eq!(shared + private, all);
    assert_eq!(both(&ledger, Count::Bytes), [shared * BLOCK, private * BLOCK]);
    let calls = |way: usize| ledger.regions.iter().map(|region| region.calls[way]).sum::<u64>();
    assert_eq!((ledger.regions.len(), calls(0), calls(1)), (4, shared, private));
    for region in &ledger.regions {
        // Of two that alternate at random about every second one is a turn; never more than twice the rarer.
        let rarer = region.calls.into_iter().min().unwrap();
        assert!(region.turns > 0 && region.turns <= 2 * rarer + 1, "{region:?}");
    }
    assert_eq!(sample.losses.total(), 0);
}

#[test]
fn attributes_belong_to_the_only_vm_of_a_process_or_to_that_of_the_threads_vcpu() {
    pin(0);
    let mut synthetic = load(3, 3);
    let machine = synthetic.machine();
    let cpu = machine.cpu(0);
    // Before its VM has run nobody knows it.
    let mut alone = td(&mut synthetic, 0, 1_000);
    let set = |start: u64, end, attributes| Event::Attributes(start, end, attributes);
    alone.fire(&cpu, set(0, 100, 8), 1, 0);
    alone.run_begin(&cpu, 1, 0);
    alone.enter(&cpu, 0, 1, 0);
    let mut other_thread = Driven::new(alone.vcpu, alone.now);
    other_thread.vcpu.tid += 50;
    other_thread.fire(&cpu, set(0, 0x200, 8), 1, 0);
    other_thread.fire(&cpu, set(0x100, 0x103, 0), 1, 0);
    // Two VMs in one process: only threads of vCPUs tell which.
    let vms: Vec<u64> =
        ["a", "b"].map(|name| synthetic.td(pid(1), name).unwrap()).into_iter().collect();
    let mut vcpus: Vec<Driven> = (0..)
        .zip(&vms)
        .map(|(id, vm)| {
            Driven::new(synthetic.vcpu(*vm, id, pid(1), pid(1) + 1 + id).unwrap(), 1_000)
        })
        .collect();
    for (pages, vcpu) in [5, 7].into_iter().zip(&mut vcpus) {
        vcpu.run_begin(&cpu, 1, 0);
        vcpu.enter(&cpu, 0, 1, 0);
        vcpu.leave(&cpu, 3, 1, 0);
        vcpu.fire(&cpu, set(16, 16 + pages, 0), 1, 0);
    }
    let mut stranger = Driven::new(vcpus[0].vcpu, vcpus[0].now);
    stranger.vcpu.tid += 70;
    stranger.fire(&cpu, set(0, 1, 8), 1, 0);
    let now = other_thread.now.max(vcpus[1].now) + 10;
    let counted = sample(&mut synthetic, now);
    let one = ledger_of(&counted, pid(0));
    assert_eq!(both(&one, Count::AttributeCalls), [1, 1]);
    assert_eq!(both(&one, Count::AttributeBytes), [3 * PAGE, 0x200 * PAGE]);
    let mut bytes: Vec<u64> = counted
        .vms
        .iter()
        .filter(|vm| vm.pid == pid(1))
        .map(|vm| vm.ledger.of(Count::AttributeBytes, Direction::ToShared))
        .collect();
    bytes.sort_unstable();
    assert_eq!(bytes, [5 * PAGE, 7 * PAGE]);
    let lost = (Loss::Unattributed, Class::MemoryAttributes, 2);
    assert_eq!(counted.losses.causes, [lost]);
    // With the last VM of a process the process is forgotten.
    assert_eq!(synthetic.entries("VM_BY_PROCESS").unwrap(), 2);
    synthetic.end(pid(1));
    sample(&mut synthetic, now + 1);
    assert_eq!(synthetic.entries("VM_BY_PROCESS").unwrap(), 1);
}

#[test]
fn attributes_are_seen_by_their_system_call_too_if_it_succeeds() {
    const SET: u64 = 0x4020_aed2;
    pin(0);
    let mut synthetic = load(1, 1);
    let mut one = begun(&mut synthetic, 0);
    let cpu = synthetic.cpu(0);
    // The test is the VMM: its memory is what the program reads.
    let private = [0x10_0000, 6 * PAGE, 8, 0_u64];
    let shared = [0x10_0000, 2 * PAGE, 0, 0_u64];
    let [private, shared] = [&private, &shared].map(|set| set.as_ptr() as u64);
    for (number, command, argument, result) in [
        (16, SET, private, 0),
        (16, SET, shared, 0),
        // Refused, another command, another system call.
        (16, SET, private, -22),
        (16, SET + 1, private, 0),
        (17, SET, private, 0),
        // The VMM took its memory away.
        (16, SET, 8, 0),
    ] {
        one.fire(&cpu, Event::SysExit(number, command, argument, result), 1, 0);
    }
    let sample = sample(&mut synthetic, one.now + 1);
    let ledger = ledger_of(&sample, pid(0));
    assert_eq!(both(&ledger, Count::AttributeCalls), [1, 1]);
    assert_eq!(both(&ledger, Count::AttributeBytes), [2 * PAGE, 6 * PAGE]);
    let lost = (Loss::Unattributed, Class::MemoryAttributes, 1);
    assert_eq!(sample.losses.causes, [lost]);
}

/// `KVM_SET_MEMORY_ATTRIBUTES`.
const SET: u32 = 0x4020_aed2;
/// `FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE`.
const PUNCH: u32 = 3;

/// A call and its return, as fentry sees it and as kprobes do.
fn call(cpu: &Cpu<'_>, thread: &Driven, vm: u64, call: VmmCall, result: i64) {
    let at = |moment| {
        cpu.vmm_call(thread.vcpu, vm, (call, moment), thread.now).expect("the program runs");
    };
    at(Moment::Return(result));
    at(Moment::Begin);
    at(Moment::ReturnAlone(result));
}

#[test]
fn what_a_function_of_kvm_is_given_says_whose_memory_it_is_whichever_thread_calls() {
    pin(0);
    let mut synthetic = load(3, 3);
    // Two VMs in one process, and one in another.
    let vms = ["a", "b"].map(|name| synthetic.td(pid(1), name).unwrap());
    let mut vcpus: Vec<Driven> = (0..)
        .zip(vms)
        .map(|(id, vm)| {
            Driven::new(synthetic.vcpu(vm, id, pid(1), pid(1) + 1 + id).unwrap(), 1_000)
        })
        .collect();
    let other = begun(&mut synthetic, 0);
    let cpu = synthetic.cpu(0);
    for vcpu in &mut vcpus {
        vcpu.run_begin(&cpu, 1, 0);
        vcpu.enter(&cpu, 0, 1, 0);
        vcpu.leave(&cpu, 3, 1, 0);
    }
    // The test is the VMM: its memory is what the program reads.
    let private = [0x10_0000, 6 * PAGE, 8, 0_u64];
    let shared = [0x10_0000, 2 * PAGE, 0, 0_u64];
    let [private, shared] = [&private, &shared].map(|set| set.as_ptr() as u64);
    let mut stranger = Driven::new(vcpus[0].vcpu, vcpus[0].now);
    stranger.vcpu.tid += 70;
    // A thread that runs no vCPU, the other VM's vCPU, the own one.
    call(&cpu, &stranger, vms[0], VmmCall::Ioctl(SET, private), 0);
    call(&cpu, &vcpus[0], vms[1], VmmCall::Ioctl(SET, shared), 0);
    call(&cpu, &vcpus[1], vms[1], VmmCall::Ioctl(SET, private), 0);
    call(&cpu, &other, other.vcpu.vm, VmmCall::Ioctl(SET, shared), 0);
    // Refused, and another command.
    call(&cpu, &stranger, vms[0], VmmCall::Ioctl(SET, private), -22);
    call(&cpu, &stranger, vms[0], VmmCall::Ioctl(SET + 1, private), 0);
    call(&cpu, &stranger, vms[0], VmmCall::Fallocate(PUNCH, 0x4000, 5 * PAGE), 0);
    call(&cpu, &vcpus[0], vms[1], VmmCall::Fallocate(PUNCH, 0, BLOCK), 0);
    call(&cpu, &vcpus[0], vms[1], VmmCall::Fallocate(PUNCH, BLOCK, PAGE), 0);
    // Refused, and memory that is asked for, not given back.
    call(&cpu, &vcpus[0], vms[1], VmmCall::Fallocate(PUNCH, 1, BLOCK), -22);
    call(&cpu, &vcpus[0], vms[1], VmmCall::Fallocate(1, 0, BLOCK), 0);
    // Broken pages: MF_DELAYED is what comes back.
    call(&cpu, &stranger, vms[1], VmmCall::ErrorFolio(true), 2);
    call(&cpu, &vcpus[0], other.vcpu.vm, VmmCall::ErrorFolio(true), 2);
    call(&cpu, &vcpus[0], other.vcpu.vm, VmmCall::ErrorFolio(true), 2);
    let now = vcpus[1].now.max(other.now) + 10;
    let counted = sample(&mut synthetic, now);
    // Of each VM: attributes and bytes of them both ways, holes and their bytes, broken pages.
    let mut seen: Vec<_> = counted
        .vms
        .iter()
        .map(|vm| {
            let sets = [Count::AttributeCalls, Count::AttributeBytes].map(|n| both(&vm.ledger, n));
            let holes = [Count::PunchedCalls, Count::PunchedBytes].map(|n| vm.ledger.count(n));
            (vm.pid, sets, holes, vm.ledger.count(Count::BrokenPages))
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            (pid(0), [[2, 0], [4 * PAGE, 0]], [0, 0], 4),
            (pid(1), [[0, 2], [0, 12 * PAGE]], [2, 10 * PAGE], 0),
            (pid(1), [[2, 2], [4 * PAGE, 12 * PAGE]], [4, 2 * (BLOCK + PAGE)], 2),
        ]
    );
    assert_eq!(counted.losses.total(), 0);
    // Nobody has the file open any more.
    call(&synthetic.cpu(0), &stranger, vms[0], VmmCall::ErrorFolio(false), 2);
    assert_eq!(sample(&mut synthetic, now).losses.total(), 2);
}

#[test]
fn a_vm_that_has_not_run_has_what_its_vmm_does_about_its_memory() {
    pin(0);
    let mut synthetic = load(2, 2);
    let machine = synthetic.machine();
    let cpu = machine.cpu(0);
    let set = [0, 6 * PAGE, 8, 0_u64];
    let set = VmmCall::Ioctl(SET, set.as_ptr() as u64);
    let mut vm = td(&mut synthetic, 0, 1_000);
    call(&cpu, &vm, vm.vcpu.vm, set, 0);
    call(&cpu, &vm, vm.vcpu.vm, VmmCall::Fallocate(PUNCH, 0, PAGE), 0);
    // Nothing is said of what failed.
    call(&cpu, &vm, vm.vcpu.vm, set, -14);
    let numbers = |counted: &Sample| {
        let ledger = ledger_of(counted, pid(0));
        (both(&ledger, Count::AttributeBytes), ledger.count(Count::PunchedBytes))
    };
    let before = sample(&mut synthetic, vm.now);
    assert_eq!((before.vms.len(), before.vcpus.len()), (1, 0));
    assert_eq!(numbers(&before), ([0, 2 * 6 * PAGE], 2 * PAGE));
    // Its first vCPU finds the entry, and its registers are those of a TD.
    vm.run_begin(&cpu, 10, 0);
    vm.enter(&cpu, 0, 10, 0);
    let registers = Registers {
        ret: 77,
        r11: 48,
        r12: 4,
        r13: 1,
        r14: 1 << 51 | 0x1000,
        ..Registers::default()
    };
    vm.exit(&cpu, registers, 199, 10);
    vm.truth.place("mmio_write", 0x1000, 4);
    vm.leave(&cpu, 6, 10, 0);
    vm.truth.place("td_return", 6, 199);
    call(&cpu, &vm, vm.vcpu.vm, set, 0);
    let counted = sample(&mut synthetic, vm.now);
    assert_eq!((counted.vms.len(), counted.vcpus.len()), (1, 1));
    assert_eq!(numbers(&counted), ([0, 4 * 6 * PAGE], 2 * PAGE));
    assert_vcpu(vcpu_of(&counted, vm.vcpu.tid), &vm, [0; 5]);
    assert_eq!(counted.losses.total(), 0);
}

#[test]
fn a_call_without_room_for_its_vm_or_with_memory_that_is_gone_is_lost_and_counted_so() {
    pin(0);
    let mut synthetic = load(2, 2);
    let late = begun(&mut synthetic, 1);
    let machine = synthetic.machine();
    let cpu = machine.cpu(0);
    call(&cpu, &late, late.vcpu.vm, VmmCall::Ioctl(SET, 8), 0);
    // Of a VM whose address another one has now, what is told is the other's.
    let first = late.vcpu.vm;
    synthetic.reuse_td(first, pid(1), "next");
    call(&cpu, &late, first, VmmCall::Fallocate(PUNCH, 0, PAGE), 0);
    let counted = sample(&mut synthetic, late.now + 1);
    let mut punched: Vec<_> =
        counted.vms.iter().map(|vm| (vm.ended, vm.ledger.count(Count::PunchedCalls))).collect();
    punched.sort_unstable();
    assert_eq!(punched, [(false, 2), (true, 0)]);
    assert_eq!(counted.losses.causes, [(Loss::Unattributed, Class::MemoryAttributes, 2)]);
}

#[test]
fn a_return_that_was_missed_leaves_nothing_to_the_next_call_of_its_thread() {
    pin(0);
    let mut synthetic = load(1, 1);
    let one = begun(&mut synthetic, 0);
    let cpu = synthetic.cpu(0);
    let vm = one.vcpu.vm;
    let fire = |call, moment| cpu.vmm_call(one.vcpu, vm, (call, moment), one.now).unwrap();
    let set = [0, 6 * PAGE, 8, 0_u64];
    let (set, other) = (VmmCall::Ioctl(SET, set.as_ptr() as u64), VmmCall::Ioctl(0x4008_ae76, 0));
    let punch = VmmCall::Fallocate(PUNCH, 0, PAGE);
    // The return of another command, of another function, and one without any beginning.
    fire(set, Moment::Begin);
    fire(other, Moment::Begin);
    fire(other, Moment::ReturnAlone(0));
    fire(punch, Moment::Begin);
    fire(other, Moment::ReturnAlone(0));
    fire(punch, Moment::ReturnAlone(0));
    // Two threads at the same time.
    let mut thread = Driven::new(one.vcpu, one.now);
    thread.vcpu.tid += 9;
    fire(set, Moment::Begin);
    cpu.vmm_call(thread.vcpu, vm, (punch, Moment::Begin), one.now).unwrap();
    fire(set, Moment::ReturnAlone(0));
    cpu.vmm_call(thread.vcpu, vm, (punch, Moment::ReturnAlone(0)), one.now).unwrap();
    fire(set, Moment::ReturnAlone(0));
    let counted = sample(&mut synthetic, one.now + 1);
    let ledger = ledger_of(&counted, pid(0));
    assert_eq!(both(&ledger, Count::AttributeCalls), [0, 1]);
    assert_eq!(both(&ledger, Count::AttributeBytes), [0, 6 * PAGE]);
    assert_eq!(ledger.count(Count::PunchedCalls), 1);
    assert_eq!(counted.losses.total(), 0);
}

#[test]
fn memory_faults_have_their_kind_and_errno_and_the_last_one_its_address() {
    pin(0);
    let mut synthetic = load(1, 1);
    let mut one = begun(&mut synthetic, 0);
    let cpu = synthetic.cpu(0);
    for (flags, gpa, errno) in
        [(8, 0x7000, -14), (0, 0x8000, -14), (8, 0x9000, -133), (8, 0xa000, -14)]
    {
        one.fire(&cpu, Event::RunEnd, 1, 0);
        one.fire(&cpu, Event::MemoryFault(flags, gpa, errno), 1, 0);
        one.fire(&cpu, Event::RunBegin, 1, 0);
    }
    // With another errno the reason is stale, and without one it is no fault.
    for (reason, errno) in [(39, -4), (39, 0), (2, -14)] {
        one.fire(&cpu, Event::RunEnd, 1, 0);
        one.fire(&cpu, Event::UserspaceExit(reason, errno), 1, 0);
        one.fire(&cpu, Event::RunBegin, 1, 0);
    }
    let last = one.now - 3 * 3 - 1;
    let sample = sample(&mut synthetic, one.now + 1);
    let vcpu = vcpu_of(&sample, pid(0) + 1);
    assert_eq!(vcpu.counts[Class::MemoryFault], 4);
    let faults: Vec<_> = vcpu
        .hotspots
        .iter()
        .filter(|(place, _)| place.class == Class::MemoryFault as u32 + 1)
        .map(|(place, count)| (place.address, place.size, *count))
        .collect();
    assert_eq!(faults, [(0, 14, 1), (1, 14, 2), (1, 133, 1)]);
    let fault = MemoryFault { gpa: 0xa000, private: true, at: last };
    assert_eq!(ledger_of(&sample, pid(0)).fault, Some(fault));
}

#[test]
fn pages_mapped_for_private_faults_are_counted_by_size_and_faults_that_come_again_by_page() {
    const PRESENT: u64 = 1 << 11;
    const LARGE: u64 = 1 << 7;
    pin(0);
    let mut synthetic = load(1, 1);
    let mut one = begun(&mut synthetic, 0);
    let cpu = synthetic.cpu(0);
    let violation = |gpa, ext_qualification| Registers {
        ret: 48,
        kvm_reason: 48,
        gpa,
        ext_qualification,
        ..Registers::default()
    };
    let mut fault = |registers, class, changes: &[(u32, u64, u64)]| {
        one.exit(&cpu, registers, class, 10);
        for (level, old, new) in changes {
            one.fire(&cpu, Event::SpteSet(*level, *old, *new), 1, 0);
        }
        one.fire(&cpu, Event::Entry(0), 1, 0);
    };
    let private = |gpa| violation(gpa, 0);
    // Page tables on the way, then the page.
    let table = (2, 0, PRESENT);
    fault(private(0x1000), TD + 32, &[(3, 0, PRESENT), table, (1, 1 << 63, PRESENT | 0x7000)]);
    fault(private(0x20_0000), TD + 32, &[(2, 0, PRESENT | LARGE)]);
    // Not private, not mapped anew, taken away, of an exit that is no fault.
    fault(violation(SHARED | 0x3000, 0), TD + 33, &[(1, 0, PRESENT)]);
    fault(private(0x4000), TD + 32, &[(1, PRESENT, PRESENT | 2), (1, PRESENT, 0), (1, 0, 0x10)]);
    fault(Registers { ret: 7, kvm_reason: 7, ..Registers::default() }, 7, &[(1, 0, PRESENT)]);
    // The page before last and the last one come again; the one before those does not count.
    for page in [0x20_0000, 0x4fff, 0x1000, 0x20_0000, 0x5000, 0x4000] {
        fault(private(page), TD + 32, &[]);
    }
    one.leave(&cpu, 2, 1, 0);
    let now = one.now + 1;
    let sample = sample(&mut synthetic, now);
    let ledger = ledger_of(&sample, pid(0));
    assert_eq!((ledger.count(Count::Mapped4K), ledger.count(Count::Mapped2M)), (1, 1));
    let vcpu = vcpu_of(&sample, pid(0) + 1);
    let again: Vec<_> = vcpu
        .hotspots
        .iter()
        .filter(|(place, _)| place.class == Class::TdFaultAgain as u32 + 1)
        .map(|(place, count)| (place.address, *count))
        .collect();
    assert_eq!(again, [(0x4000, 1), (0x20_0000, 1)]);
    assert_eq!(vcpu.counts[Class::TdFaultAgain], 2);
}

#[test]
fn a_td_that_takes_the_place_of_one_that_ended_begins_with_an_empty_ledger() {
    pin(0);
    let mut synthetic = load(1, 1);
    let machine = synthetic.machine();
    let cpu = machine.cpu(0);
    let vm = synthetic.td(pid(0), "first").unwrap();
    let mut one = Driven::new(synthetic.vcpu(vm, 0, pid(0), pid(0) + 1).unwrap(), 1_000);
    one.run_begin(&cpu, 0, 0);
    one.enter(&cpu, 0, 10, 0);
    map(&cpu, &mut one, SHARED, BLOCK, (0, None));
    let before = ledger_of(&sample(&mut synthetic, one.now + 1), pid(0));
    assert_eq!(before.of(Count::Bytes, Direction::ToShared), BLOCK);
    synthetic.end(pid(0));
    sample(&mut synthetic, one.now + 2);
    // Entries are taken in turn: after all others the first one comes again.
    for index in 1..=MAX_VMS {
        let next_pid = pid(index);
        synthetic.reuse_td(vm, next_pid, "next");
        let vcpu = synthetic.reuse_vcpu(one.vcpu, vm, 0, next_pid, next_pid + 1);
        let mut next = Driven::new(vcpu, one.now + 10);
        next.run_begin(&cpu, 1, 0);
        next.enter(&cpu, 0, 1, 0);
        let counted = sample(&mut synthetic, next.now + 1);
        let empty = LedgerSample { memory_pages: MEMSLOT_PAGES, ..LedgerSample::default() };
        assert_eq!(ledger_of(&counted, next_pid), empty);
        synthetic.end(next_pid);
        sample(&mut synthetic, next.now + 2);
        one.now = next.now + 5;
    }
}
