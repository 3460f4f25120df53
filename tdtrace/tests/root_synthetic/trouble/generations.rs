//! Slots that are given back and taken again, with all that belongs to them.

use tdtrace::{
    model::sample::Sample,
    source::synthetic::{Event, Synthetic, SyntheticOptions},
};

use super::super::drive::{
    Driven, assert_durations, assert_vcpu, load_with, pid, pin, plain, sample, vcpu_of,
};

const VCPUS: u32 = 4;
const REASONS: [u32; 3] = [7, 10, 28];
/// Places beyond those that a slot holds, with room for a slot that is not filled to the last.
const PLACES: u64 = 36;

/// A VM's address and its vCPUs.
type Home = (u64, Vec<Driven>);

/// Two VMs of this generation, from the second one on at the addresses of the one before.
fn move_in(synthetic: &mut Synthetic, homes: &mut Vec<Home>, generation: u32) {
    for index in 0..2 {
        let process = pid(10 * generation + index);
        let thread = |id: u32| process + 1 + id;
        let home = homes.get(index as usize).map(|(vm, all)| (*vm, [all[0].vcpu, all[1].vcpu]));
        let (vm, vcpus) = if let Some((vm, old)) = home {
            synthetic.reuse_td(vm, process, "again");
            let again = |id: u32| {
                let old = old[id as usize];
                synthetic.reuse_vcpu(old, vm, id, process, thread(id))
            };
            (vm, [0, 1].map(again))
        } else {
            let vm = synthetic.td(process, "first").expect("there is room");
            (
                vm,
                [0, 1]
                    .map(|id| synthetic.vcpu(vm, id, process, thread(id)).expect("there is room")),
            )
        };
        let now = 1_000_000_000 * u64::from(generation + 1);
        let fresh = (vm, vcpus.map(|vcpu| Driven::new(vcpu, now)).into());
        match homes.get_mut(index as usize) {
            Some(home) => *home = fresh,
            None => homes.push(fresh),
        }
    }
}

/// The last sample of a generation has all that it did, and says that it is over.
fn assert_last(last: &Sample, homes: &[Home], generation: u32) {
    for (_, all) in homes {
        for driven in all {
            assert_vcpu(vcpu_of(last, driven.vcpu.tid), driven, [0; 5]);
        }
        let vm = last.vms.iter().find(|vm| vm.pid == all[0].vcpu.pid).expect("the VM");
        assert!(vm.ended);
        let mut both = all[0].truth.durations.clone();
        for (class, durations) in &all[1].truth.durations {
            both.entry(*class).or_default().merge(durations);
        }
        assert_durations(&vm.latency, &both);
    }
    assert!(last.losses.causes.is_empty(), "{:?}", last.losses);
    assert_eq!(
        (last.losses.hotspots, last.losses.durations, last.losses.unpaired),
        (0, 0, 0),
        "generation {generation}"
    );
}

#[test]
fn three_generations_have_the_room_of_one_and_lose_nothing() {
    // For each vCPU a row for every reason and one for the return.
    let rows = Some(VCPUS * (REASONS.len() as u32 + 1));
    let mut synthetic = load_with(SyntheticOptions {
        max_vcpus: VCPUS,
        tds: 2,
        vcpus: VCPUS,
        rows,
        ..SyntheticOptions::default()
    });
    let mut homes: Vec<Home> = Vec::new();
    for generation in 0..3 {
        move_in(&mut synthetic, &mut homes, generation);
        for number in [0, 1, 0] {
            pin(number);
            let cpu = synthetic.cpu(u32::try_from(number).unwrap());
            homes.iter_mut().flat_map(|(_, all)| all).for_each(|driven| round(&cpu, driven));
        }
        let now = homes[0].1[0].now;
        let counted = sample(&mut synthetic, now);
        assert_eq!((counted.vms.len(), counted.vcpus.len()), (2, 4), "generation {generation}");
        assert_eq!(synthetic.entries("VCPU_INDEX").unwrap(), 4);
        assert!(synthetic.entries("HOTSPOTS").unwrap() >= 4 * (PLACES as usize + 2 - 32));
        for index in 0..2 {
            synthetic.end(pid(10 * generation + index));
        }
        let last = sample(&mut synthetic, now);
        assert_last(&last, &homes, generation);
        for map in ["VCPU_INDEX", "VM_INDEX", "SLOT_AT", "SLOT_BY_THREAD", "HOTSPOTS"] {
            assert_eq!(synthetic.entries(map).unwrap(), 0, "{map}");
        }
        let after = sample(&mut synthetic, now);
        assert_eq!((after.vms.len(), after.vcpus.len()), (0, 0));
    }
}

fn round(cpu: &tdtrace::source::synthetic::Cpu<'_>, driven: &mut Driven) {
    driven.run_begin(cpu, 10, 0);
    for reason in REASONS {
        driven.enter(cpu, 0, 100, 0);
        driven.exit(cpu, plain(reason), reason, 50);
    }
    for code in 0..PLACES {
        driven.fire(cpu, Event::PageFault(0, code), 1, 0);
        driven.truth.place("page_fault", code, 0);
    }
    driven.leave(cpu, 6, 500, 20);
    driven.truth.place("td_return", 6, REASONS[2]);
    driven.run_begin(cpu, 50, 0);
    driven.enter(cpu, 0, 10, 0);
    driven.exit(cpu, plain(7), 7, 1);
    driven.enter(cpu, 0, 10, 0);
    driven.exit(cpu, plain(7), 7, 1);
    driven.leave(cpu, 6, 5, 0);
    driven.truth.place("td_return", 6, 7);
}
