//! Stacks of a guest whose places in the kernel's map are the same. Needs root and two CPUs.

use aya::{
    Ebpf, EbpfLoader, TestRun as _,
    maps::{Array, HashMap, PerCpuArray, StackTraceMap},
    programs::{RawTracePoint, RawTracePointRunOptions},
};
use tdtrace_common::guest::{CallKey, CallValue, GuestControl, GuestLoss, Operation, STACK_BESIDE};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tdtrace-ebpf.o"));

/// The programs, whose maps for stacks have one place each.
fn load() -> Ebpf {
    let mut ebpf = EbpfLoader::new()
        .map_max_entries("GUEST_STACKS", 1)
        .map_max_entries("GUEST_STACKS_BESIDE", 1)
        .map_max_entries("CALLS", 16)
        .load(OBJECT)
        .expect("root");
    let mut control =
        Array::try_from(ebpf.map_mut("GUEST_CONTROL").expect("the map")).expect("an array");
    control.set(0, GuestControl { on: 1, clock: 0, hpet: 0 }, 0).expect("it can be written");
    ebpf
}

/// A bounce of `bytes`, on this CPU out of a system call or on `cpu` out of an interrupt.
fn bounce(ebpf: &mut Ebpf, bytes: u64, cpu: Option<u32>) {
    let program = ebpf.program_mut("swiotlb_bounced").expect("the program");
    let program: &mut RawTracePoint = program.try_into().expect("a raw tracepoint");
    let mut options = RawTracePointRunOptions::new();
    options.args[2] = bytes;
    options.cpu = cpu;
    program.test_run(options).expect("two CPUs");
}

/// Keeps this thread on CPU 0.
fn stay() {
    // SAFETY: the set is plain data that lives for the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(result, 0);
}

fn frames(ebpf: &Ebpf, name: &str) -> Vec<u64> {
    let map = StackTraceMap::try_from(ebpf.map(name).expect("the map")).expect("stacks");
    map.get(&0, 0).expect("a stack").frames().iter().map(|frame| frame.ip).collect()
}

#[test]
fn two_stacks_of_one_place_are_both_kept_and_neither_takes_the_others_number() {
    stay();
    let mut ebpf = load();
    let program: &mut RawTracePoint =
        ebpf.program_mut("swiotlb_bounced").expect("the program").try_into().unwrap();
    program.load().unwrap();
    for (bytes, cpu) in [(1, None), (10, None), (100, Some(1)), (1000, None)] {
        bounce(&mut ebpf, bytes, cpu);
    }
    let calls: HashMap<_, CallKey, CallValue> =
        HashMap::try_from(ebpf.map("CALLS").expect("the map")).unwrap();
    let bytes = |stack| {
        let key = CallKey { operation: Operation::Bounce as u32, stack };
        calls.get(&key, 0).map(|call| (call.count, call.bytes)).ok()
    };
    assert_eq!(calls.keys().count(), 2);
    assert_eq!((bytes(0), bytes(STACK_BESIDE)), (Some((3, 1011)), Some((1, 100))));
    assert_ne!(frames(&ebpf, "GUEST_STACKS"), frames(&ebpf, "GUEST_STACKS_BESIDE"));
    let losses: PerCpuArray<_, u64> =
        PerCpuArray::try_from(ebpf.map("GUEST_LOSSES").expect("the map")).unwrap();
    let lost: u64 = losses.get(&(GuestLoss::Stacks as u32), 0).unwrap().iter().sum();
    assert_eq!(lost, 0);
}
