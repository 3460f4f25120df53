//! What KVM shows of an exit does not matter for a TD, and is all there is of other VMs.

use tdtrace::source::synthetic::{Event, Registers, SyntheticOptions};

use super::super::drive::{
    Driven, assert_durations, assert_vcpu, latency_of, load_with, pid, pin, sample, td, vcpu_of, vm,
};

/// Registers, index for a TD, index otherwise, place.
type Exit = (Registers, u32, u32, Option<(&'static str, u64, u32)>);

/// Exits as KVM shows them: 77, 49 and 0xdead.
fn exits() -> [Exit; 4] {
    let call = |kvm_reason, r11, r12, r13, r14| Registers {
        ret: 77,
        kvm_reason,
        r11,
        r12,
        r13,
        r14,
        ..Registers::default()
    };
    let busy = Registers { ret: 0x8000_0200_0000_0092, ..call(0xdead, 48, 4, 1, 0xfec0_0000) };
    [
        (call(77, 0x10002, 1 << 51, 0x1000, 0), 205, 77, None),
        (call(49, 48, 4, 1, 1 << 51 | 0xfec0_0000), 199, 49, Some(("mmio_write", 0xfec0_0000, 4))),
        (busy, 212, 190, None),
        (call(10, 10, 0xd, 0, 0), 192, 10, Some(("cpuid", 0xd, 0))),
    ]
}

/// Drives `driven` through all of them, and the tracepoints of the accesses.
fn drive(synthetic: &tdtrace::source::synthetic::Synthetic, driven: &mut Driven, is_td: bool) {
    pin(0);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 10, 0);
    for turn in 0..100 {
        for (registers, td, plain, place) in exits() {
            driven.enter(&cpu, 0, 100 + turn, 5);
            let index = if is_td { td } else { plain };
            driven.exit(&cpu, registers, index, 1_000);
            for (event, name, address, size) in [
                (Event::Mmio(2, 4, 0xfec0_0000), "mmio_write", 0xfec0_0000, 4),
                (Event::Mmio(0, 2, 0xfed0_0000), "mmio_read_unsatisfied", 0xfed0_0000, 2),
                (Event::FastMmio(0xfe00_3000), "fast_mmio", 0xfe00_3000, 0),
                (Event::Cpuid(0xd), "cpuid", 0xd, 0),
                (Event::Msr(false, 0x10), "msr_read", 0x10, 0),
                (Event::Msr(true, 0x6e0), "msr_write", 0x6e0, 0),
                (Event::Pio(0, 0x60, 1), "pio_in", 0x60, 1),
                (Event::Pio(1, 0x80, 1), "pio_out", 0x80, 1),
                (Event::Hypercall(5), "hypercall", 5, 0),
            ] {
                driven.fire(&cpu, event, 1, 0);
                if !is_td {
                    driven.truth.place(name, address, size);
                }
            }
            for (event, name, address) in [
                (Event::Interrupt(0xfd), "interrupt", 0xfd),
                (Event::PageFault(0x1000, 2), "page_fault", 2),
            ] {
                driven.fire(&cpu, event, 1, 0);
                driven.truth.place(name, address, 0);
            }
            if let (true, Some((name, address, size))) = (is_td, place) {
                driven.truth.place(name, address, size);
            }
        }
    }
    driven.leave(&cpu, 6, 10, 0);
    if is_td {
        driven.truth.place("td_return", 6, 192);
        for leaf in [205, 199, 192] {
            // The last exit is not answered: KVM_RUN came back.
            for _ in 0..100 - u32::from(leaf == 192) {
                driven.truth.place("td_answer", 0, leaf - 192);
            }
        }
    }
}

fn assert_all(synthetic: &mut tdtrace::source::synthetic::Synthetic, all: &[(Driven, u32)]) {
    let now = all.iter().map(|(driven, _)| driven.now).max().expect("a VM");
    let sample = sample(synthetic, now);
    for (driven, vm_type) in all {
        let vcpu = vcpu_of(&sample, driven.vcpu.tid);
        assert_vcpu(vcpu, driven, [0, 0, now - driven.now, 0, 0]);
        assert_durations(latency_of(&sample, driven.vcpu.pid), &driven.truth.durations);
        let vm = sample.vms.iter().find(|vm| vm.pid == driven.vcpu.pid).expect("its VM");
        assert_eq!(vm.vm_type, Some(*vm_type));
    }
    assert!(sample.losses.causes.is_empty(), "{:?}", sample.losses);
    assert_eq!((sample.losses.hotspots, sample.losses.durations), (0, 0));
}

#[test]
fn only_the_exits_of_tds_are_looked_into() {
    let mut synthetic = load_with(SyntheticOptions::default());
    let mut all = Vec::new();
    for (index, vm_type) in (0..).zip([5, 0, 1, 2, 3, 4]) {
        let mut driven = vm(&mut synthetic, index, 1_000, vm_type);
        drive(&synthetic, &mut driven, vm_type == 5);
        all.push((driven, vm_type));
    }
    assert_all(&mut synthetic, &all);
}

#[test]
fn a_td_whose_registers_cannot_be_found_is_counted_as_kvm_shows_it() {
    for absent in [
        &["tdx_vp_enter_ret"][..],
        &["tdx_args_r11"],
        &["tdx_vp_enter_args"],
        &["kvm_gfn_direct_bits"],
        &["tdx_vt", "tdx_exit_gpa", "tdx_ext_exit_qualification"],
        &["vt_exit_intr_info"],
    ] {
        println!("without {absent:?}");
        let mut synthetic = load_with(SyntheticOptions { absent, ..SyntheticOptions::default() });
        let mut driven = td(&mut synthetic, 0, 1_000);
        drive(&synthetic, &mut driven, false);
        assert_all(&mut synthetic, &[(driven, 5)]);
    }
}

#[test]
fn without_any_reason_every_exit_is_other() {
    let absent = &["vt_exit_reason"];
    let mut synthetic = load_with(SyntheticOptions { absent, ..SyntheticOptions::default() });
    let mut driven = td(&mut synthetic, 0, 1_000);
    pin(0);
    let cpu = synthetic.cpu(0);
    driven.run_begin(&cpu, 10, 0);
    for (registers, ..) in exits() {
        driven.enter(&cpu, 0, 100, 0);
        driven.exit(&cpu, registers, 191, 50);
    }
    driven.leave(&cpu, 6, 10, 0);
    let sample = sample(&mut synthetic, driven.now);
    assert_vcpu(vcpu_of(&sample, driven.vcpu.tid), &driven, [0; 5]);
    assert_durations(latency_of(&sample, pid(0)), &driven.truth.durations);
}
