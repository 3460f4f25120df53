//! No room: for rows of durations, for places, for vCPUs, for VMs. What was counted stays exact, and what
//! was not is counted.

use std::collections::BTreeMap;

use tdtrace::{
    model::{aggregate::Aggregate, sample::Sample},
    source::synthetic::{Event, Registers, SyntheticOptions},
};
use tdtrace_common::{
    counters::{Class, Loss},
    latency::SLOT_ROWS,
};

use super::super::{
    drive::{
        Driven, Random, assert_durations, assert_vcpu, latency_of, load_with, pid, pin, plain,
        sample, td, vcpu_of, vm,
    },
    truth::Durations,
};

/// The durations that are there are those of the truth, class by class; how many are not there.
fn assert_rest_lost(sample: &Sample, driven: &Driven) -> (usize, u64) {
    let mut expected = driven.truth.durations.clone();
    let seen = latency_of(sample, driven.vcpu.pid);
    let has = |class: &u32| seen.iter().any(|row| row.class == *class);
    let lost: BTreeMap<u32, Durations> = expected.extract_if(.., |class, _| !has(class)).collect();
    assert_durations(seen, &expected);
    let lost = lost.values().flat_map(|class| class.buckets.values());
    (seen.len(), lost.sum())
}

#[test]
fn classes_beyond_the_row_table_lose_their_durations_and_nothing_else() {
    let options = SyntheticOptions { rows: Some(1_000), ..SyntheticOptions::default() };
    let mut synthetic = load_with(options);
    let mut driven = vm(&mut synthetic, 0, 1_000, 0);
    pin(0);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 10, 0);
    driven.enter(&cpu, 0, 10, 0);
    for round in 0..3 {
        for reason in (0..128).filter(|reason| reason % 3 <= round) {
            driven.exit(&cpu, plain(reason), reason, 1_000);
            driven.enter(&cpu, 0, 100 + u64::from(reason) * 37, 11);
        }
    }
    driven.leave(&cpu, 6, 10, 0);
    let sample = sample(&mut synthetic, driven.now);
    assert_vcpu(vcpu_of(&sample, driven.vcpu.tid), &driven, [0; 5]);
    let (rows, lost) = assert_rest_lost(&sample, &driven);
    assert_eq!(rows, SLOT_ROWS);
    assert_eq!(lost, sample.losses.durations);
    assert!(lost > 64, "{lost} of 256 durations lost");
}

#[test]
fn as_many_classes_as_there_are_rows_lose_nothing() {
    let mut synthetic = load_with(SyntheticOptions::default());
    let mut driven = vm(&mut synthetic, 0, 1_000, 0);
    pin(0);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 10, 0);
    driven.enter(&cpu, 0, 10, 0);
    for _ in 0..2 {
        for reason in 0..SLOT_ROWS as u32 {
            driven.exit(&cpu, plain(reason), reason, 1_000);
            driven.enter(&cpu, 0, 100 + u64::from(reason) * 37, 11);
        }
    }
    let sample = sample(&mut synthetic, driven.now);
    assert_eq!(assert_rest_lost(&sample, &driven), (SLOT_ROWS, 0));
}

#[test]
fn rows_that_all_vcpus_share_run_out_exactly() {
    let options = SyntheticOptions { rows: Some(5), ..SyntheticOptions::default() };
    let mut synthetic = load_with(options);
    let mut all: Vec<Driven> = (0..3).map(|index| vm(&mut synthetic, index, 1_000, 0)).collect();
    pin(0);
    let cpu = synthetic.cpu(0);
    for driven in &mut all {
        driven.run_begin(&cpu, 10, 0);
        driven.enter(&cpu, 0, 10, 0);
    }
    for _ in 0..7 {
        for reason in [7, 10, 30, 48] {
            for driven in &mut all {
                driven.exit(&cpu, plain(reason), reason, 50);
                driven.enter(&cpu, 0, 200 * u64::from(reason), 0);
            }
        }
    }
    all.iter_mut().for_each(|driven| driven.leave(&cpu, 2, 10, 0));
    let now = all.iter().map(|driven| driven.now).max().unwrap();
    let sample = sample(&mut synthetic, now);
    let mut sum = (0, 0);
    for driven in &all {
        assert_vcpu(vcpu_of(&sample, driven.vcpu.tid), driven, [0, 0, now - driven.now, 0, 0]);
        let (rows, lost) = assert_rest_lost(&sample, driven);
        sum = (sum.0 + rows, sum.1 + lost);
    }
    assert_eq!(sum, (5, 7 * 7));
    assert_eq!(sample.losses.durations, 7 * 7);
}

#[test]
fn places_without_room_are_the_rest_of_their_class() {
    // Room for 4 x 7 places in the map.
    let options = SyntheticOptions { max_vcpus: 4, ..SyntheticOptions::default() };
    let mut synthetic = load_with(options);
    let mut driven = td(&mut synthetic, 0, 1_000);
    pin(0);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 10, 0);
    let mut random = Random::new(11);
    for _ in 0..3_000 {
        let call = random.below(2);
        let index = random.below(100);
        let registers = |leaf| Registers { ret: 77, r11: leaf, r12: index, ..Registers::default() };
        driven.enter(&cpu, 0, 10, 0);
        if call == 0 {
            driven.exit(&cpu, registers(31), 196, 10);
            driven.truth.place("msr_read", index, 0);
        } else {
            driven.exit(&cpu, registers(10), 192, 10);
            driven.truth.place("cpuid", index, 0);
        }
        driven.fire(&cpu, Event::PageFault(0, index % 4), 0, 0);
        driven.truth.place("page_fault", index % 4, 0);
    }
    let sample = sample(&mut synthetic, driven.now);
    let vcpu = &sample.vcpus[0];
    for class in [Class::MsrRead, Class::Cpuid, Class::PageFault] {
        assert_eq!(vcpu.counts[class], driven.truth.counts[class.name()], "{}", class.name());
    }
    let mut lost: BTreeMap<Class, u64> = BTreeMap::new();
    let mut missing = driven.truth.places.clone();
    for (place, count) in &vcpu.hotspots {
        let class = Class::ALL[place.class as usize - 1];
        if class == Class::TdAnswer {
            continue;
        }
        let key = (class.name(), place.address, place.size);
        // A place that has room has had it from its first event on.
        assert_eq!(missing.remove(&key), Some(*count), "{key:x?}");
    }
    for ((name, ..), count) in &missing {
        let class = Class::ALL.into_iter().find(|class| class.name() == *name).unwrap();
        *lost.entry(class).or_default() += count;
    }
    let answers =
        vcpu.hotspots.iter().filter(|(place, _)| place.class == Class::TdAnswer as u32 + 1);
    let answered: u64 = answers.map(|(_, count)| count).sum();
    let unplaced = vcpu.counts[Class::TdAnswer] - answered;
    if unplaced > 0 {
        lost.insert(Class::TdAnswer, unplaced);
    }
    assert_eq!(sample.losses.hotspots, lost.values().sum::<u64>());
    assert!(sample.losses.hotspots > 1_000 && vcpu.hotspots.len() >= 28 + 20, "{lost:?}");
    assert_eq!(vcpu.counts[Class::TdAnswer], 2_999);
    let snapshot = Aggregate::new().apply(sample);
    let other: BTreeMap<Class, u64> = snapshot.vms[0].other.iter().copied().collect();
    assert_eq!(other, lost);
}

#[test]
fn a_vcpu_without_a_slot_loses_every_event_by_its_class() {
    let options = SyntheticOptions { max_vcpus: 2, ..SyntheticOptions::default() };
    let mut synthetic = load_with(options);
    let mut all: Vec<Driven> = (0..3).map(|index| td(&mut synthetic, index, 1_000)).collect();
    pin(0);
    let cpu = synthetic.cpu(0);
    for _ in 0..4 {
        for driven in &mut all {
            driven.run_begin(&cpu, 10, 0);
            driven.enter(&cpu, 0, 10, 0);
            driven.exit(&cpu, plain(7), 7, 10);
            for event in [
                Event::Pio(1, 0x80, 1),
                Event::Pio(0, 0x60, 1),
                Event::Mmio(0, 4, 0xfed0_0000),
                Event::Wakeup(1, true),
                Event::PageFault(0, 1),
                Event::InterruptPosted,
            ] {
                driven.fire(&cpu, event, 0, 0);
            }
            driven.truth.place("halt", 1, 0);
            driven.truth.halt(1);
            driven.truth.place("page_fault", 1, 0);
            driven.leave(&cpu, 2, 10, 0);
            driven.truth.place("td_return", 2, 7);
        }
    }
    let now = all[0].now;
    let sample = sample(&mut synthetic, now);
    assert_eq!((sample.vms.len(), sample.vcpus.len()), (2, 2));
    for driven in &all[..2] {
        assert_vcpu(vcpu_of(&sample, driven.vcpu.tid), driven, [0; 5]);
    }
    let full = |class| (Loss::SlotsFull, class, 4);
    let expected = [
        // Who leaves KVM_RUN is known by the slot alone.
        (Loss::Unattributed, Class::UserspaceExit, 4),
        full(Class::PioIn),
        full(Class::PioOut),
        full(Class::MmioReadUnsatisfied),
        full(Class::RunBegin),
        full(Class::RunEnd),
        full(Class::Entry),
        full(Class::Exit),
        full(Class::PageFault),
        full(Class::Halt),
    ];
    assert_eq!(sample.losses.causes, expected);
    assert_eq!(sample.losses.outside, [(Class::InterruptPosted, 12)]);
    assert_eq!(sample.losses.unpaired, 0);
}

#[test]
fn a_vm_beyond_the_last_entry_takes_no_slot_from_others() {
    const VMS: u32 = 512;
    let (tds, vcpus) = (VMS + 2, VMS + 4);
    let options =
        SyntheticOptions { max_vcpus: VMS + 2, tds, vcpus, ..SyntheticOptions::default() };
    let mut synthetic = load_with(options);
    let first = synthetic.td(pid(0), "vm-0").unwrap();
    let vcpu = synthetic.vcpu(first, 0, pid(0), pid(0) + 1).unwrap();
    let mut all = vec![Driven::new(vcpu, 1_000)];
    all.extend((1..tds).map(|index| td(&mut synthetic, index, 1_000)));
    pin(0);
    let cpu = synthetic.cpu(0);
    for driven in &mut all {
        driven.run_begin(&cpu, 10, 0);
        driven.enter(&cpu, 0, 10, 0);
        driven.exit(&cpu, plain(7), 7, 10);
        driven.leave(&cpu, 2, 10, 0);
        driven.truth.place("td_return", 2, 7);
    }
    let sample = sample(&mut synthetic, all[0].now);
    assert_eq!((sample.vms.len(), sample.vcpus.len()), (VMS as usize, VMS as usize));
    for driven in &all[..VMS as usize] {
        assert_vcpu(vcpu_of(&sample, driven.vcpu.tid), driven, [0; 5]);
    }
    let full = |class| (Loss::SlotsFull, class, 2);
    assert_eq!(
        sample.losses.causes,
        [
            (Loss::Unattributed, Class::UserspaceExit, 2),
            full(Class::RunBegin),
            full(Class::RunEnd),
            full(Class::Entry),
            full(Class::Exit)
        ]
    );
    assert_eq!(synthetic.entries("VCPU_INDEX").unwrap(), VMS as usize);
    // The slots that the two VMs could not use are there for others.
    let mut more = [1, 2].map(|id| {
        let vcpu = synthetic.vcpu(first, id, pid(0), pid(0) + 1 + id).expect("room");
        Driven::new(vcpu, 1_000)
    });
    let cpu = synthetic.cpu(0);
    for driven in &mut more {
        driven.run_begin(&cpu, 10, 0);
        driven.leave(&cpu, 2, 10, 0);
    }
    let sample = super::super::drive::sample(&mut synthetic, all[0].now);
    for driven in &more {
        assert_vcpu(vcpu_of(&sample, driven.vcpu.tid), driven, [0, 0, 20, 0, 0]);
    }
}
