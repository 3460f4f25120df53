//! A small VMM for what the workload does not do: vCPUs that any thread runs, in any order, one
//! KVM_RUN at a time.

use std::{io, ptr};

use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

const PAGES: usize = 2 * 4096;
/// `out dx, al; jmp` back to it.
const OUT: u64 = 0x1000;
/// `hlt; jmp` back to it.
const HALT: u64 = 0x1010;

/// What a vCPU does, once in each KVM_RUN.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    /// Writes a byte to this port.
    Out(u16),
    /// Halts.
    Halt,
}

impl Does {
    /// What KVM_RUN returns for, as `stat` calls it.
    pub(crate) const fn returns(self) -> &'static str {
        match self {
            Self::Out(_) => "IO",
            Self::Halt => "HLT",
        }
    }
}

/// A VM; it is gone once this is dropped.
pub(crate) struct Guest {
    /// The vCPUs by number.
    pub(crate) vcpus: Vec<Vcpu>,
    _vm: VmFd,
    // Last: the VM has it as its memory.
    _memory: Pages,
}

impl Guest {
    /// A VM with a vCPU for each of `does`. Nothing runs yet.
    pub(crate) fn new(does: &[Does]) -> Self {
        let kvm = Kvm::new().expect("/dev/kvm");
        let vm = kvm.create_vm().expect("a VM");
        let memory = Pages::new();
        memory.write(OUT, &[0xee, 0xeb, 0xfd]);
        memory.write(HALT, &[0xf4, 0xeb, 0xfd]);
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: PAGES as u64,
            userspace_addr: memory.0 as u64,
        };
        // SAFETY: the pages are mapped until the VM is gone.
        unsafe { vm.set_user_memory_region(region) }.expect("memory");
        let vcpus = (0..).zip(does).map(|(id, does)| Vcpu::new(&vm, id, *does)).collect();
        Self { vcpus, _vm: vm, _memory: memory }
    }
}

/// One vCPU.
pub(crate) struct Vcpu {
    fd: VcpuFd,
    does: Does,
}

impl Vcpu {
    fn new(vm: &VmFd, id: u64, does: Does) -> Self {
        let fd = vm.create_vcpu(id).expect("a vCPU");
        let mut sregs = fd.get_sregs().expect("registers");
        // Protection on, paging off, flat: what every flavour of KVM can run.
        sregs.cr0 = 0x31;
        sregs.cs = flat(0x08, 0xb);
        let data = flat(0x10, 0x3);
        (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
        fd.set_sregs(&sregs).expect("registers");
        let mut regs = fd.get_regs().expect("registers");
        regs.rflags = 2;
        (regs.rip, regs.rdx) = match does {
            Does::Out(port) => (OUT, port.into()),
            Does::Halt => (HALT, 0),
        };
        fd.set_regs(&regs).expect("registers");
        Self { fd, does }
    }

    /// One KVM_RUN on this thread; what it returned for, as `stat` calls it.
    pub(crate) fn run(&mut self) -> &'static str {
        self.fd.set_kvm_immediate_exit(0);
        let returned = match (self.fd.run(), self.does) {
            (Ok(VcpuExit::IoOut(port, _)), Does::Out(own)) => port == own,
            (Ok(VcpuExit::Hlt), Does::Halt) => true,
            (Err(error), _) if error.errno() == libc::EINTR => return "EINTR",
            (other, _) => panic!("KVM_RUN returned {other:?}"),
        };
        assert!(returned);
        self.does.returns()
    }

    /// One KVM_RUN that does not get as far as the guest.
    pub(crate) fn enter_and_leave(&mut self) -> &'static str {
        self.fd.set_kvm_immediate_exit(1);
        assert_eq!(self.fd.run().expect_err("no exit").errno(), libc::EINTR);
        "EINTR"
    }
}

fn flat(selector: u16, type_: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}

/// Anonymous pages.
struct Pages(*mut u8);

// SAFETY: only written before the guest runs.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), PAGES, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self(start.cast())
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        let address = usize::try_from(address).expect("a small address");
        assert!(address + bytes.len() <= PAGES);
        // SAFETY: inside the mapping, and nothing else uses it yet.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.0.add(address), bytes.len()) };
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; a VM that still had it would see it go.
        unsafe { libc::munmap(self.0.cast(), PAGES) };
    }
}
