//! Every reason with which KVM_RUN comes back to the VMM: its index, name, count and time.

use std::collections::BTreeMap;

use tdtrace::model::{
    aggregate::Aggregate,
    snapshot::{Span, Vm},
};
use tdtrace_common::kvm;

use super::super::drive::{
    Driven, assert_durations, assert_vcpu, latency_of, load, pin, sample, td, vcpu_of,
};

const EINTR: i32 = -4;
const EIO: i32 = -5;
const EFAULT: i32 = -14;
const EHWPOISON: i32 = -133;

/// Reason and errno, and under which index and name they are counted.
type Return = ((u32, i32), u32, String);

fn returns() -> Vec<Return> {
    let named = kvm::USERSPACE_EXITS.iter();
    let named = named.map(|(reason, name)| ((*reason, 0), *reason, (*name).to_owned()));
    // Numbers of later kernels, and such as no kernel has.
    let unnamed = [44, 60].map(|reason| ((reason, 0), reason, reason.to_string()));
    let beyond = [61, 62, 63, 64, 64 + 2, u32::MAX].map(|reason| ((reason, 0), 63, "other".into()));
    // Of a call that failed the reason is an old one, but under the two errnos of memory faults.
    let failed = [
        ((2, EINTR), 62, "EINTR"),
        ((39, EINTR), 62, "EINTR"),
        ((2, EIO), 63, "other"),
        ((39, EIO), 63, "other"),
        ((2, EHWPOISON), 2, "IO"),
        ((0, EFAULT), 0, "UNKNOWN"),
        ((39, EFAULT), 39, "MEMORY_FAULT"),
        ((39, EHWPOISON), 61, "MEMORY_FAULT_HWPOISON"),
    ];
    let failed = failed.map(|(returned, index, name)| (returned, index, name.to_owned()));
    named.chain(unnamed).chain(beyond).chain(failed).collect()
}

#[test]
fn every_reason_of_a_return_has_its_index_name_count_and_time() {
    let returns = returns();
    let vms = u32::try_from(returns.len()).unwrap();
    let mut synthetic = load(vms, vms);
    pin(0);
    let mut all: Vec<Driven> = Vec::new();
    // Each is of a TD of its own, so that it is seen alone, and as often as no other.
    for (number, (returned, index, _)) in (1..).zip(&returns) {
        let mut driven = td(&mut synthetic, number - 1, 1_000);
        let cpu = synthetic.cpu(0);
        driven.run_begin(&cpu, 10, 0);
        for turn in 0..u64::from(number) {
            driven.leave_as(&cpu, *returned, *index, [100 + turn, turn % 3]);
            if returned.0 == 39 && [EFAULT, EHWPOISON].contains(&returned.1) {
                driven.truth.place("memory_fault", 0, returned.1.unsigned_abs());
            }
            driven.run_begin(&cpu, 1_000 * u64::from(number) + (turn << 9), 7 * turn);
        }
        all.push(driven);
    }
    let now = all.iter().map(|driven| driven.now).max().unwrap();
    let sample = sample(&mut synthetic, now);
    for (driven, (returned, index, name)) in all.iter().zip(&returns) {
        println!("{name}: {returned:?}");
        let vcpu = vcpu_of(&sample, driven.vcpu.tid);
        assert_eq!(vcpu.userspace, [(*index, driven.truth.counts["run_end"])]);
        assert_vcpu(vcpu, driven, driven.truth.open(now));
        assert_durations(latency_of(&sample, driven.vcpu.pid), &driven.truth.durations);
    }
    assert_eq!((sample.losses.total(), sample.losses.unpaired), (0, 0));
    let snapshot = Aggregate::new().apply(sample);
    for (driven, (.., name)) in all.iter().zip(&returns) {
        let vm = snapshot.vms.iter().find(|vm| vm.pid == driven.vcpu.pid).expect("its VM");
        assert_row(vm, driven, name);
    }
}

/// What the model calls it, how many there were and how long they took.
fn assert_row(vm: &Vm, driven: &Driven, name: &str) {
    let count = driven.truth.counts["run_end"];
    assert_eq!(vm.userspace(), BTreeMap::from([(name.to_owned(), count)]));
    let [row] = &vm.latency[..] else { panic!("rows of {name}: {:?}", vm.latency) };
    let durations = driven.truth.durations.values().next().expect("durations");
    assert_eq!((row.span, row.name.as_str()), (Span::Return, name));
    assert_eq!((row.tally.total, row.ns, row.max), (count, durations.ns, durations.max));
    assert_eq!(row.halt, name == "HLT");
}
