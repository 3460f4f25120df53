//! Every reason with which KVM_RUN comes back to the VMM.

use std::collections::BTreeMap;

use tdtrace::{model::aggregate::Aggregate, source::synthetic::Event};
use tdtrace_common::kvm;

use super::super::drive::{load, pin, sample, td};

/// How KVM_RUN fails: errno and name.
const FAILURES: [(i32, &str); 3] = [(-4, "EINTR"), (-5, "other"), (-133, "IO")];

#[test]
fn every_reason_of_a_return_is_counted_under_its_name() {
    let mut synthetic = load(1, 1);
    pin(0);
    let mut driven = td(&mut synthetic, 0, 1_000);
    let cpu = synthetic.cpu(0);
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    let reasons = kvm::USERSPACE_EXITS.iter().map(|(number, name)| (*number, 0, *name));
    // Of a call that failed the reason is an old one, but for memory faults.
    let failures = FAILURES.iter().map(|(errno, name)| (2, *errno, *name));
    let broken = [(39, -14, "MEMORY_FAULT"), (39, -133, "MEMORY_FAULT_HWPOISON")];
    for (count, (reason, errno, name)) in (1..).zip(reasons.chain(failures).chain(broken)) {
        // A number of its own.
        for _ in 0..count {
            driven.run_begin(&cpu, 10, 0);
            driven.fire(&cpu, Event::RunEnd, 10, 0);
            driven.fire(&cpu, Event::UserspaceExit(reason, errno), 10, 0);
        }
        *expected.entry(name.to_owned()).or_default() += count;
    }
    let snapshot = Aggregate::new().apply(sample(&mut synthetic, driven.now));
    assert_eq!(snapshot.vms[0].userspace(), expected);
}
