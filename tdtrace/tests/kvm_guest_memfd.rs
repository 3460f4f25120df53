//! What a real VMM does to its guests' memory, call for call: holes in guest_memfd, and attributes as far as
//! this KVM takes any.
//!
//! Needs Linux with guest_memfd and root. Not every kernel lets programs be attached to its functions: where
//! it does, each call is counted; where it does not, the probe says so and nothing is claimed.

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _},
    thread,
};

use kvm_bindings::{
    KVM_CAP_VM_TYPES, KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_X86_DEFAULT_VM, KVM_X86_SW_PROTECTED_VM,
    kvm_create_guest_memfd, kvm_memory_attributes,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use tdtrace::{
    model::{ledger::LedgerSample, sample::Sample},
    source::{
        Source as _,
        live::{Live, Options},
    },
};
use tdtrace_common::{
    counters::{Class, Loss},
    ledger::{Direction, LedgerCount as Count},
};

const PAGE: u64 = 4096;
/// Pages of a guest_memfd.
const PAGES: u64 = 4096;
const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
const PUNCH: i32 = KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE;

/// A VM with a guest_memfd.
struct Vm {
    vm: VmFd,
    memory: File,
    vcpu: VcpuFd,
}

/// What was done to the memory of a VM and succeeded: calls and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    punched: [u64; 2],
    shared: [u64; 2],
    private: [u64; 2],
}

impl Done {
    fn of(ledger: &LedgerSample) -> Self {
        let set = |way| [Count::AttributeCalls, Count::AttributeBytes].map(|n| ledger.of(n, way));
        Self {
            punched: [Count::PunchedCalls, Count::PunchedBytes].map(|n| ledger.count(n)),
            shared: set(Direction::ToShared),
            private: set(Direction::ToPrivate),
        }
    }
}

impl Vm {
    fn new(kvm: &Kvm) -> Self {
        // With private memory, where there is any.
        let types = kvm.check_extension_raw(u64::from(KVM_CAP_VM_TYPES));
        let kind = if types >> KVM_X86_SW_PROTECTED_VM & 1 == 1 {
            KVM_X86_SW_PROTECTED_VM
        } else {
            KVM_X86_DEFAULT_VM
        };
        let vm = kvm.create_vm_with_type(u64::from(kind)).expect("a VM");
        let wanted = kvm_create_guest_memfd { size: PAGES * PAGE, ..Default::default() };
        let fd = vm.create_guest_memfd(wanted).expect("a guest_memfd");
        // SAFETY: the call returned a descriptor that nothing else has.
        let memory = unsafe { File::from_raw_fd(fd) };
        let vcpu = vm.create_vcpu(0).expect("a vCPU");
        Self { vm, memory, vcpu }
    }

    /// One KVM_RUN, wherever it leads: a guest without memory does not come far.
    fn run(&mut self) {
        let _ = self.vcpu.run();
    }

    fn fallocate(&self, mode: i32, offset: u64, bytes: u64) -> io::Result<()> {
        let [offset, bytes] = [offset, bytes].map(u64::cast_signed);
        // SAFETY: the descriptor is open, and the call touches no memory of this process.
        let result = unsafe { libc::fallocate(self.memory.as_raw_fd(), mode, offset, bytes) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Gives memory back, and says what of it succeeded.
    fn punch(&self, done: &mut Done, offset: u64, bytes: u64) {
        if self.fallocate(PUNCH, offset, bytes).is_ok() {
            done.punched = [done.punched[0] + 1, done.punched[1] + bytes];
        }
    }

    /// Makes memory private or shared where this KVM can, and says what of it succeeded.
    fn set(&self, done: &mut Done, address: u64, size: u64, private: bool) {
        let attributes = if private { u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE) } else { 0 };
        let wanted = kvm_memory_attributes { address, size, attributes, flags: 0 };
        if self.vm.set_memory_attributes(wanted).is_ok() {
            let way = if private { &mut done.private } else { &mut done.shared };
            *way = [way[0] + 1, way[1] + size];
        }
    }
}

fn live() -> Live {
    Live::open(Options { max_vcpus: 64, ..Options::default() }).expect("root")
}

/// Why probe `name` does not count, if it does not.
fn missing(sample: &Sample, name: &str) -> Option<String> {
    let probe = sample.probes.iter().find(|probe| probe.name == name);
    probe.expect("a probe of that name").missing.clone()
}

/// Holes are counted exactly, or the probe is said to be missing and there are none.
fn assert_punched(live: &Live, sample: &Sample, done: &[Done]) {
    let told: Vec<_> = own(sample).iter().map(|done| done.punched).collect();
    let lost = lost(sample, Class::MemoryPunched);
    let missing = missing(sample, "kvm_gmem_fallocate");
    if live.attached_by("kvm_gmem_fallocate").is_some() {
        assert_eq!(missing, None);
        assert_eq!((told, lost), (done.iter().map(|done| done.punched).collect(), 0));
    } else {
        assert!(missing.is_some_and(|why| !why.is_empty()), "nobody says that holes are not seen");
        assert_eq!((told, lost), (vec![[0, 0]; done.len()], 0));
    }
}

/// Attributes are counted exactly by their function; by the tracepoint none is lost without a word; else the
/// probe is said to be missing and there are none.
fn assert_set(live: &Live, sample: &Sample, done: &[Done]) {
    let ways =
        |all: &[Done]| all.iter().map(|done| [done.shared, done.private]).collect::<Vec<_>>();
    let calls = |all: &[Done]| all.iter().map(|done| done.shared[0] + done.private[0]).sum::<u64>();
    let (told, lost) = (own(sample), lost(sample, Class::MemoryAttributes));
    if live.attached_by("kvm_vm_ioctl").is_some() {
        assert_eq!((ways(&told), lost), (ways(done), 0));
    } else if let Some(why) = missing(sample, "kvm_vm_set_mem_attributes") {
        assert!(!why.is_empty());
        assert_eq!((calls(&told), lost), (0, 0));
    } else {
        assert_eq!(calls(&told) + lost, calls(done));
    }
}

/// The ledgers of this process's VMs, in the order in which they ran first.
fn own(sample: &Sample) -> Vec<Done> {
    let own = sample.vms.iter().filter(|vm| vm.pid == std::process::id());
    let by_key: BTreeMap<_, _> = own.map(|vm| (vm.key.index, Done::of(&vm.ledger))).collect();
    by_key.into_values().collect()
}

/// What was lost of `class`, for the only reason that there can be.
fn lost(sample: &Sample, class: Class) -> u64 {
    let causes = sample.losses.causes.iter().filter(|(_, of, _)| *of == class);
    let count = |(cause, _, count): &(Loss, Class, u64)| {
        assert_eq!(*cause, Loss::Unattributed);
        *count
    };
    causes.map(count).sum()
}

fn missed(sample: &Sample) -> u64 {
    let functions = ["kvm_vm_ioctl", "kvm_gmem_fallocate"];
    let misses = sample.losses.misses.iter();
    misses.filter(|(name, _)| functions.contains(&name.as_str())).map(|(_, count)| count).sum()
}

#[test]
fn each_call_of_a_vmm_about_memory_is_counted_once_for_its_vm_or_its_probe_is_said_to_be_missing() {
    const ROUNDS: u64 = 500;
    let mut live = live();
    let kvm = Kvm::new().expect("/dev/kvm");
    // Two VMs of one process; the tracepoint could not tell them apart in these threads.
    let mut vms = [Vm::new(&kvm), Vm::new(&kvm)];
    // Before a VM has run only the functions know whose it is.
    let mut early = [Done::default(), Done::default()];
    for (vm, done) in vms.iter().zip(&mut early) {
        vm.punch(done, 0, PAGE);
        vm.set(done, 0, PAGES * PAGE, true);
        assert_eq!(done.punched[0], 1, "guest_memfd takes no holes");
    }
    vms.iter_mut().for_each(Vm::run);
    let done: Vec<Done> = thread::scope(|scope| {
        let work = |((number, vm), done): ((u64, _), Done)| {
            scope.spawn(move || work(vm, done, number, ROUNDS))
        };
        let threads: Vec<_> = (1..).zip(&vms).zip(early).map(work).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    let sample = live.sample().expect("a sample");
    assert_eq!(missed(&sample), 0, "a test of its own would be needed for what the kernel skips");
    assert_punched(&live, &sample, &done);
    assert_set(&live, &sample, &done);
    assert_eq!(done.iter().map(|done| done.punched[0]).collect::<Vec<_>>(), [1 + ROUNDS; 2]);
}

/// Holes of all sizes, among what is no hole, and attributes.
fn work(vm: &Vm, mut done: Done, number: u64, rounds: u64) -> Done {
    for round in 0..rounds {
        let (first, pages) = (round * number % (PAGES / 2), 1 + round % (PAGES / 2));
        vm.fallocate(KEEP_SIZE, first * PAGE, PAGE).expect("memory");
        vm.punch(&mut done, first * PAGE, pages * PAGE);
        // Refused: not whole pages, another mode.
        vm.punch(&mut done, first * PAGE + 1, PAGE);
        assert!(vm.fallocate(KEEP_SIZE | libc::FALLOC_FL_ZERO_RANGE, 0, PAGE).is_err());
        vm.set(&mut done, first * PAGE, pages * PAGE, round % 3 == 0);
        vm.set(&mut done, 1, PAGE, true);
    }
    done
}
