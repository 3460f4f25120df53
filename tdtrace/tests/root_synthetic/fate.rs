//! A TD that KVM has given up, and broken memory.

use tdtrace::{
    model::{aggregate::Aggregate, snapshot::Vm},
    source::synthetic::{Event, Registers, Synthetic},
};
use tdtrace_common::{counters::USERSPACE_HWPOISON, kvm, poison::PoisonKey};

use super::drive::{Driven, load, pid, pin, plain, sample};

/// A read of MMIO, index 198 of exits.
fn mmio() -> Registers {
    Registers { ret: 77, kvm_reason: 49, r11: 48, r12: 4, r14: 1 << 51 | 0xfec0_0000, ..plain(77) }
}

/// VM number `index` of type `vm_type` with one vCPU, and its address.
fn vm(synthetic: &mut Synthetic, index: u32, vm_type: u32) -> (u64, Driven) {
    let vm = synthetic.vm(pid(index), &format!("vm-{index}"), vm_type).expect("room");
    let vcpu = synthetic.vcpu(vm, 0, pid(index), pid(index) + 1).expect("room");
    (vm, Driven::new(vcpu, 1_000))
}

fn shown(synthetic: &mut Synthetic, index: u32) -> Vm {
    let snapshot = Aggregate::new().apply(sample(synthetic, 1_000_000));
    snapshot.vms.into_iter().find(|vm| vm.pid == pid(index)).expect("the VM")
}

#[test]
fn a_td_that_died_is_marked_with_its_last_exit() {
    let mut synthetic = load(4, 4);
    pin(0);
    for (index, bugged, fate) in [(0, false, "dead after "), (1, true, "bugged after ")] {
        let (td, mut driven) = vm(&mut synthetic, index, kvm::TDX_VM);
        let cpu = synthetic.cpu(0);
        driven.run_begin(&cpu, 10, 0);
        driven.enter(&cpu, 0, 10, 0);
        driven.exit(&cpu, plain(1), 1, 10);
        driven.enter(&cpu, 0, 10, 0);
        driven.exit(&cpu, mmio(), 198, 10);
        assert_eq!(shown(&mut synthetic, index).fate(), None);
        synthetic.give_up(td, bugged);
        driven.leave(&synthetic.cpu(0), 17, 10, 0);
        let vm = shown(&mut synthetic, index);
        let last = vm.reasons().into_keys().find(|name| name.contains("MMIO")).unwrap();
        assert_eq!(vm.fate(), Some(format!("{fate}{last}")));
    }
    // One whose exit was answered before another thread gave the TD up.
    let (td, mut driven) = vm(&mut synthetic, 2, kvm::TDX_VM);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 10, 0);
    driven.leave(&cpu, 10, 10, 0);
    driven.run_begin(&cpu, 10, 0);
    synthetic.give_up(td, false);
    driven.leave(&cpu, 10, 10, 0);
    assert_eq!(shown(&mut synthetic, 2).fate(), Some("dead".to_owned()));
}

#[test]
fn memory_faults_are_told_apart_by_whether_the_memory_is_broken() {
    const EFAULT: i32 = 14;
    const EHWPOISON: i32 = 133;
    let mut synthetic = load(1, 1);
    pin(0);
    let (_, mut driven) = vm(&mut synthetic, 0, kvm::TDX_VM);
    let cpu = synthetic.cpu(0);
    for (reason, errno) in
        [(39, -EFAULT), (39, -EHWPOISON), (39, -EHWPOISON), (2, -EHWPOISON), (61, 0)]
    {
        driven.run_begin(&cpu, 10, 0);
        driven.fire(&cpu, Event::RunEnd, 10, 0);
        driven.fire(&cpu, Event::UserspaceExit(reason, errno), 10, 0);
    }
    let vm = shown(&mut synthetic, 0);
    let returns: Vec<_> = vm.userspace().into_iter().collect();
    let expected = [("IO", 1), ("MEMORY_FAULT", 1), ("MEMORY_FAULT_HWPOISON", 2), ("other", 1)];
    assert_eq!(returns, expected.map(|(name, count)| (name.to_owned(), count)));
    assert_eq!((vm.poisoned(), vm.fate()), (2, None));
    assert_eq!(USERSPACE_HWPOISON, 61);
}

#[test]
fn broken_pages_are_counted_by_frame_and_result() {
    let mut synthetic = load(1, 1);
    pin(0);
    let (_, mut driven) = vm(&mut synthetic, 0, kvm::TDX_VM);
    for (pfn, kind, result) in [(0x1234, 7, 2), (0x1234, 7, 2), (0x1234, 7, 3), (1 << 40, 0, 0)] {
        driven.fire(&synthetic.cpu(0), Event::MemoryFailure(pfn, kind, result), 10, 0);
    }
    let key = |pfn, kind, result| PoisonKey { pfn, source: 1, kind, result, reserved: 0 };
    let seen = sample(&mut synthetic, 1_000_000).poison;
    let expected = [(key(0x1234, 7, 2), 2), (key(0x1234, 7, 3), 1), (key(1 << 40, 0, 0), 1)];
    assert_eq!((seen.pages.as_slice(), seen.lost), (&expected[..], 0));
    for pfn in 0..1_100 {
        driven.fire(&synthetic.cpu(0), Event::MemoryFailure(1 << 20 | pfn, 7, 3), 10, 0);
    }
    let seen = sample(&mut synthetic, 1_000_000).poison;
    assert_eq!((seen.pages.len(), seen.total()), (1_024, 1_104));
}
