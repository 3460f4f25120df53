//! `KVM_EXIT_MEMORY_FAULT` of a real guest: one whose memory is a guest_memfd that has been closed.
//!
//! Needs Linux 6.18, whose guest_memfd can be memory of a VM without private memory, and root: programs are
//! loaded into this kernel. Faults on private memory need a KVM with memory attributes.

use std::{
    os::fd::{FromRawFd as _, OwnedFd},
    ptr,
};

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_GUEST_MEMFD, kvm_create_guest_memfd, kvm_segment,
    kvm_userspace_memory_region, kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use tdtrace::{
    model::ledger::MemoryFault,
    source::{
        Source as _,
        live::{Live, Options},
    },
};
use tdtrace_common::counters::{Class, Place};

/// The guest's memory: program, page tables.
const BYTES: usize = 0x1_0000;
const CODE: u64 = 0x1000;
const TABLES: u64 = 0x8000;
/// Where the guest_memfd is.
const CLOSED: u64 = 0x2_0000;
/// What the guest reads.
const READ: u64 = CLOSED + 0x3000;
/// `GUEST_MEMFD_FLAG_MMAP` and `GUEST_MEMFD_FLAG_INIT_SHARED` (`include/uapi/linux/kvm.h`).
const MMAP_AND_SHARED: u64 = 3;

/// A guest in user mode, which every flavour of KVM runs and none emulates: `mov al, [READ]`, and nothing that
/// it could do after.
fn guest() -> (VcpuFd, VmFd) {
    let kvm = Kvm::new().expect("/dev/kvm");
    let vm = kvm.create_vm().expect("a VM");
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping touches nothing that exists. It stays as long as this process.
    let memory = unsafe { libc::mmap(ptr::null_mut(), BYTES, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    let write = |address: u64, bytes: &[u8]| {
        let address = usize::try_from(address).expect("a small address");
        assert!(address + bytes.len() <= BYTES);
        // SAFETY: inside the mapping, and nothing else uses it yet.
        unsafe {
            ptr::copy_nonoverlapping(bytes.as_ptr(), memory.cast::<u8>().add(address), bytes.len());
        }
    };
    let target = u32::try_from(READ).expect("a small address").to_le_bytes();
    write(CODE, &[&[0x8a, 0x04, 0x25][..], &target].concat());
    for level in 0..3 {
        write(TABLES + 0x1000 * level, &((TABLES + 0x1000 * (level + 1)) | 7).to_le_bytes());
    }
    for page in 0..64_u64 {
        write(TABLES + 0x3000 + 8 * page, &(page << 12 | 7).to_le_bytes());
    }
    let region = kvm_userspace_memory_region {
        memory_size: BYTES as u64,
        userspace_addr: memory as u64,
        ..Default::default()
    };
    // SAFETY: the pages stay mapped.
    unsafe { vm.set_user_memory_region(region) }.expect("memory");
    close_memory(&vm);
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).expect("CPUID");
    let vcpu = vm.create_vcpu(0).expect("a vCPU");
    vcpu.set_cpuid2(&cpuid).expect("CPUID");
    user_mode(&vcpu);
    (vcpu, vm)
}

/// Memory from a guest_memfd that is gone.
fn close_memory(vm: &VmFd) {
    let wanted =
        kvm_create_guest_memfd { size: BYTES as u64, flags: MMAP_AND_SHARED, ..Default::default() };
    let fd = vm.create_guest_memfd(wanted).expect("a guest_memfd with mmap: Linux 6.18 or later");
    // SAFETY: the call returned a descriptor that nothing else has.
    let file = unsafe { OwnedFd::from_raw_fd(fd) };
    let region = kvm_userspace_memory_region2 {
        slot: 1,
        flags: KVM_MEM_GUEST_MEMFD,
        guest_phys_addr: CLOSED,
        memory_size: BYTES as u64,
        // Not used: all of it is the guest_memfd's.
        userspace_addr: 0x1000_0000,
        guest_memfd: fd.cast_unsigned(),
        ..Default::default()
    };
    // SAFETY: nothing is mapped at the address, and nothing will be written to it.
    unsafe { vm.set_user_memory_region2(region) }.expect("memory");
    drop(file);
}

fn user_mode(vcpu: &VcpuFd) {
    let mut sregs = vcpu.get_sregs().expect("registers");
    let segment = |selector, type_, l| kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        dpl: 3,
        s: 1,
        g: 1,
        l,
        db: 1 - l,
        ..Default::default()
    };
    // 64-bit mode: paging, protection, physical address extension.
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8005_0033, TABLES, 0x20, 0x500);
    let data = segment(0x2b, 3, 0);
    sregs.cs = segment(0x23, 11, 1);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs).expect("registers");
    let mut regs = vcpu.get_regs().expect("registers");
    (regs.rip, regs.rflags) = (CODE, 2);
    vcpu.set_regs(&regs).expect("registers");
}

#[test]
fn every_memory_fault_of_a_real_guest_is_counted_with_its_kind_and_address() {
    const FAULTS: u64 = 1_000;
    let mut live = Live::open(Options { max_vcpus: 64, ..Options::default() }).expect("root");
    let (mut vcpu, _vm) = guest();
    for _ in 0..FAULTS {
        match vcpu.run() {
            Ok(VcpuExit::MemoryFault { flags: 0, gpa: READ, size: 4096 }) => {}
            other => panic!("KVM_RUN returned {other:?}"),
        }
    }
    let sample = live.sample().expect("a sample");
    let own = sample.vms.iter().find(|vm| vm.pid == std::process::id()).expect("its VM");
    let counted = sample.vcpus.iter().find(|vcpu| vcpu.vm == own.key).expect("its vCPU");
    assert_eq!(counted.counts[Class::MemoryFault], FAULTS);
    assert_eq!(counted.userspace, [(39, FAULTS)]);
    let efault = libc::EFAULT.unsigned_abs();
    let place = Place { address: 0, class: Class::MemoryFault as u32 + 1, size: efault };
    let faults: Vec<_> =
        counted.hotspots.iter().filter(|(known, _)| known.class == place.class).collect();
    assert_eq!(faults, [&(place, FAULTS)]);
    let MemoryFault { gpa, private, at } = own.ledger.fault.expect("the last fault");
    assert_eq!((gpa, private), (READ, false));
    assert!(u128::from(at) <= sample.at.as_nanos(), "{at} after {:?}", sample.at);
    // What the VMM told KVM of its memory.
    assert_eq!(own.ledger.memory_pages, 2 * BYTES as u64 / 4096);
}
