//! Holds what was counted against what was made.

use std::collections::BTreeMap;

use super::report::{Counts, Hotspot, Made, Report, Vcpu, VcpuMade, Vm, number};

/// The class as far as the guest decides it: whether a write that an ioeventfd takes is `kvm_mmio` or
/// `kvm_fast_mmio` is KVM's choice.
fn kind(class: &str) -> &str {
    if matches!(class, "fast_mmio" | "mmio_write") { "write" } else { class }
}

/// The program that counts the class.
fn program(class: &str) -> &str {
    match class {
        "pio_in" | "pio_out" => "kvm_pio",
        "mmio_read_unsatisfied" | "mmio_read" | "write" => "kvm_mmio",
        "msr_read" | "msr_write" => "kvm_msr",
        "run_begin" | "run_end" => "kvm_fpu",
        "cpuid" => "kvm_cpuid",
        "userspace_exit" => "kvm_userspace_exit",
        _ => panic!("no program counts {class}"),
    }
}

/// Runs of the programs that the kernel skipped. They explain what was not seen, and nothing else
/// does.
struct Misses<'r>(&'r Counts, Counts);

impl<'r> Misses<'r> {
    fn of(report: &'r Report) -> Self {
        Self(&report.lost.recursion_misses, Counts::new())
    }

    /// Seen is made, but for misses; no miss explains two events.
    fn explain(&mut self, class: &str, seen: u64, made: u64, whose: &str) {
        assert!(seen <= made, "{whose}: {seen} {class} seen and {made} made");
        let program = program(class);
        let missing = self.1.entry(program.to_owned()).or_default();
        *missing += made - seen;
        let misses = number(self.0, program);
        assert!(*missing <= misses, "{whose}: {seen} {class} seen, {made} made, {misses} misses");
    }
}

/// Every VM and vCPU of `made` is in the report, by itself and with exact counts, and no other of
/// its process is.
pub(crate) fn assert_same<'m>(report: &Report, all: impl IntoIterator<Item = &'m Made>) {
    let mut vms_by_pid: BTreeMap<u32, usize> = BTreeMap::new();
    let mut misses = Misses::of(report);
    let mut place_misses = Misses::of(report);
    for made in all {
        let mut seen_vms = Vec::new();
        for vm_made in &made.vms {
            let tids: Vec<u32> = vm_made.vcpus.iter().map(|vcpu| vcpu.tid).collect();
            let vm = vm_of(report, made.pid, &tids);
            for vcpu_made in &vm_made.vcpus {
                let vcpu = vm.vcpus.iter().find(|vcpu| vcpu.tid == Some(vcpu_made.tid));
                assert_vcpu(vcpu.expect("vm_of says so"), vcpu_made, &mut misses);
            }
            assert!(vm.other.is_empty(), "VM {}: {:?}", vm.vm, vm.other);
            assert_eq!(vm.hotspots_omitted, 0);
            assert!(vm.audit.as_ref().expect("an audit").agrees, "{vm:?}");
            seen_vms.push(vm);
        }
        *vms_by_pid.entry(made.pid).or_default() += made.vms.len();
        assert_places(&seen_vms, made, &mut place_misses);
    }
    for (pid, count) in vms_by_pid {
        let rows: Vec<_> = report.vms_of(pid).map(|vm| (vm.vm, vm.vcpus.len())).collect();
        assert_eq!(rows.len(), count, "VMs and vCPUs of process {pid}: {rows:?}");
    }
}

/// The one VM of process `pid` whose vCPUs the threads `tids` ran.
pub(crate) fn vm_of<'r>(report: &'r Report, pid: u32, tids: &[u32]) -> &'r Vm {
    let has = |vm: &&Vm| vm.vcpus.iter().filter_map(|vcpu| vcpu.tid).any(|tid| tids.contains(&tid));
    let vms: Vec<&Vm> = report.vms_of(pid).filter(has).collect();
    let threads = |vm: &Vm| vm.vcpus.iter().map(|vcpu| (vcpu.vcpu, vcpu.tid)).collect::<Vec<_>>();
    let [vm] = vms[..] else {
        let rows: Vec<_> = vms.iter().map(|vm| (vm.vm, threads(vm))).collect();
        panic!("the vCPUs of threads {tids:?} are not in one VM: {rows:?}");
    };
    let mut seen: Vec<u32> = vm.vcpus.iter().filter_map(|vcpu| vcpu.tid).collect();
    let mut made = tids.to_vec();
    seen.sort_unstable();
    made.sort_unstable();
    assert_eq!(seen, made, "VM {} has vCPUs {:?}", vm.vm, threads(vm));
    vm
}

/// Classes, returns to the VMM and KVM_RUNs of one vCPU.
fn assert_vcpu(vcpu: &Vcpu, made: &VcpuMade, misses: &mut Misses<'_>) {
    let whose = format!("thread {}", made.tid);
    assert_eq!(vcpu.vcpu, made.vcpu, "{whose}");
    let of = |kind: &str| number(&made.made, kind);
    let mut check = |class: &str, seen: u64, made: u64| misses.explain(class, seen, made, &whose);
    for class in ["pio_in", "pio_out", "cpuid", "msr_read", "msr_write"] {
        check(class, number(&vcpu.counts, class), of(class));
    }
    check("mmio_read_unsatisfied", number(&vcpu.counts, "mmio_read_unsatisfied"), of("mmio_read"));
    check("mmio_read", number(&vcpu.counts, "mmio_read"), of("mmio_read"));
    let writes = number(&vcpu.counts, "mmio_write") + number(&vcpu.counts, "fast_mmio");
    check("write", writes, of("mmio_write") + of("fast_mmio"));
    for class in ["run_begin", "run_end", "userspace_exit"] {
        check(class, number(&vcpu.counts, class), made.kvm_run_calls);
    }
    for (reason, returns) in [
        ("IO", of("pio_in") + of("pio_out")),
        ("MMIO", of("mmio_read") + of("mmio_write")),
        ("HLT", of("hlt") + made.sign_offs),
        ("EINTR", made.interrupted),
    ] {
        let seen = number(&vcpu.returns_to_vmm, reason);
        assert!(seen <= returns, "{whose}: {seen} of {returns} returns for {reason}");
    }
    let returns: u64 = vcpu.returns_to_vmm.values().sum();
    assert_eq!(returns, number(&vcpu.counts, "userspace_exit"), "{whose}");
    assert_eq!(made.kvm_run_calls, made.kvm_run_returns + made.interrupted);
    let audit = vcpu.audit.as_ref().unwrap_or_else(|| panic!("{whose} has no audit"));
    assert!(audit.agrees, "{whose}: {audit:?}");
    assert_eq!(audit.kvm_runs.kvm_says, made.kvm_run_calls, "{whose}");
    assert!(audit.exits.kvm_says >= returns, "{whose}: {audit:?}");
}

/// Kind, address and size; 0 where the event has none.
type Key = (String, u64, u32);

/// What the places of a workload are as events.
pub(crate) fn places_made(made: &Made) -> BTreeMap<Key, u64> {
    let mut places = BTreeMap::new();
    for place in &made.places {
        let mut add = |class: &str| {
            let key = (class.to_owned(), place.address, place.size);
            *places.entry(key).or_default() += place.count;
        };
        add(kind(&place.class));
        if place.class == "mmio_read" {
            add("mmio_read_unsatisfied");
        }
    }
    places
}

/// The events of places.
fn places_seen<'r>(hotspots: impl IntoIterator<Item = &'r Hotspot>) -> BTreeMap<Key, u64> {
    let mut places = BTreeMap::new();
    for spot in hotspots {
        let key = (kind(&spot.class).to_owned(), spot.address, spot.size.unwrap_or(0));
        *places.entry(key).or_default() += spot.count;
    }
    places
}

/// Takes the events of `key` out of `seen`; `kvm_fast_mmio` does not tell the size.
fn take(seen: &mut BTreeMap<Key, u64>, key: &Key) -> u64 {
    let sizeless = if key.0 == "write" { seen.remove(&(key.0.clone(), key.1, 0)) } else { None };
    seen.remove(key).unwrap_or(0) + sizeless.unwrap_or(0)
}

/// The places of all VMs together, and each VM's part where all vCPUs made the same.
fn assert_places(vms: &[&Vm], made: &Made, misses: &mut Misses<'_>) {
    let made_places = places_made(made);
    let mut seen = places_seen(vms.iter().flat_map(|vm| &vm.hotspots));
    for (key, made) in &made_places {
        misses.explain(&key.0, take(&mut seen, key), *made, &format!("{key:x?}"));
    }
    assert!(seen.is_empty(), "places that were not made: {seen:x?}");
    let mut vcpus = made.vms.iter().flat_map(|vm| &vm.vcpus).map(|vcpu| &vcpu.made);
    let first = vcpus.next();
    if vcpus.all(|made| Some(made) == first) {
        for vm in vms {
            let mut seen = places_seen(&vm.hotspots);
            for (key, made) in &made_places {
                let (seen, made) = (take(&mut seen, key), made / vms.len() as u64);
                assert!(seen <= made, "VM {}: {seen} of {made} {key:x?}", vm.vm);
            }
        }
    }
}
