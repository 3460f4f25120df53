//! What a row of a recording says: one name for each kind, and how rows are ordered.

use tdtrace_common::{counters::Loss, latency::PARTS};

/// Declares the kinds with their names, in the order of rows.
macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What a row says. The order is the order of a subject's rows.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind, in the order of rows.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its name in the column `kind`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The kind called `name`.
            #[must_use]
            pub fn of(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$kind),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// What the recording said of the machine so far no longer holds.
    HostCleared = "host_cleared",
    /// `text`: `uname -r`.
    Release = "release",
    /// `text`: which exit reasons there are, `vmx`, `svm` or `software`.
    Kvm = "kvm",
    /// `text`: the name of probe number `index`.
    Probe = "probe",
    /// `text`: how probe number `index` of a guest is attached: `fentry`, `kprobe` or `tracepoint`.
    ProbeHow = "probe_how",
    /// `text`: why probe number `index` is not attached, or not as well as it could be.
    ProbeMissing = "probe_missing",
    /// `text`: what cannot be seen without probe number `index`.
    ProbeHides = "probe_hides",
    /// The rows `vm` that follow are all VMs of the sample.
    Vms = "vms",
    /// The VM is in the sample.
    Vm = "vm",
    /// The rows `vcpu` that follow are all vCPUs of the sample.
    Vcpus = "vcpus",
    /// The vCPU is in the sample.
    Vcpu = "vcpu",
    /// What the recording said of this VM or vCPU so far no longer holds.
    Cleared = "cleared",
    /// `value`: the VM's place in the maps, index in the low half, life in the high half.
    VmKey = "vm_key",
    /// `value`: the process that runs the VM.
    Pid = "pid",
    /// `text`: the VM's name.
    VmName = "vm_name",
    /// `text`: the VMM.
    Vmm = "vmm",
    /// `text`: the container, pod or service.
    Container = "container",
    /// `value`: `KVM_X86_*_VM`.
    VmType = "vm_type",
    /// The VM is no more.
    Ended = "ended",
    /// The VM is synthetic.
    Demo = "demo",
    /// `value`: the vCPU's place in the maps, as of `vm_key`.
    VcpuKey = "vcpu_key",
    /// `value`: the `vm_key` of the vCPU's VM.
    VcpuVmKey = "vcpu_vm_key",
    /// `value`: the number that the VMM chose, as in the column `vcpu`.
    VcpuId = "vcpu_id",
    /// `value`: the thread that ran the vCPU last.
    Tid = "tid",
    /// What the recording said of the guest so far no longer holds.
    GuestCleared = "guest_cleared",
    /// `value`: 1 if the guest is a TD.
    Td = "td",
    /// `text`: the clocksource; `value`: 1 if it is read.
    Clock = "clock",
    /// `value`: how often the clocksource changed.
    ClockChanges = "clock_changes",
    /// `value`: 1 if the layout of the kernel's structures is assumed.
    LayoutAssumed = "layout_assumed",
    /// `text`: who says where the shared bit is, `kernel`, `given` or `unknown`; `value`: its number.
    SharedBit = "shared_bit",
    /// `text`: which debug file there is, or why none.
    Symbols = "symbols",
    /// The rows `ve_reason` that follow are all reasons of the sample.
    VeReasons = "ve_reasons",
    /// #VEs of reason `index` are in the sample.
    VeReason = "ve_reason",
    /// The rows `ve_place` that follow are all places of the sample.
    VePlaces = "ve_places",
    /// A place is in the sample: reason `index` at `address` in mode `size`; `value`: what it is about.
    VePlace = "ve_place",
    /// `value`: the last qualification at a place.
    PlaceQualification = "place_qualification",
    /// `value`: the last guest physical address at a place.
    PlaceGpa = "place_gpa",
    /// `value`: process (high half) and thread of the first #VE at a place.
    PlaceThread = "place_thread",
    /// `value`: number of the stack of the first #VE at a place; above 2^31 an error.
    PlaceStack = "place_stack",
    /// `value`: what `handle_mmio` returned at the last failure, in two's complement of 32 bits.
    PlaceErrno = "place_errno",
    /// `text`: the instruction in hex and what follows it; `value`: how many of its bytes are valid.
    PlaceBytes = "place_bytes",
    /// `text`: name of the thread of the first #VE at a place.
    PlaceComm = "place_comm",
    /// The rows `call` that follow are all calls of the sample.
    Calls = "calls",
    /// Calls of operation `index` are in the sample; `value`: number of their stack.
    Call = "call",
    /// `value`: what the last call that failed returned.
    CallLastFailure = "call_last_failure",
    /// What the recording said of stacks so far no longer holds.
    StacksCleared = "stacks_cleared",
    /// `value`: frames of stack number `index`; they follow, the innermost first.
    Stack = "stack",
    /// `address`: frame number `value` of stack number `index`.
    StackFrame = "stack_frame",
    /// What the recording said of names so far no longer holds.
    CodeNamesCleared = "code_names_cleared",
    /// `text`: what the kernel calls `address`.
    CodeName = "code_name",
    /// What the recording said of code so far no longer holds.
    CodeCleared = "code_cleared",
    /// What follows is about the code at `address`; `value`: its address by the symbols.
    Code = "code",
    /// `text`: the function at `address` by the symbol table.
    CodeFunction = "code_function",
    /// `value`: bytes from the beginning of the function.
    CodeOffset = "code_offset",
    /// `text`: the module that `address` lies in.
    CodeModule = "code_module",
    /// `value`: functions that the instruction at `address` belongs to; they follow.
    CodeChain = "code_chain",
    /// `text`: function number `index` of the chain, the innermost is 0.
    CodeFrame = "code_frame",
    /// `text`: source file of function number `index` of the chain.
    CodeFile = "code_file",
    /// `value`: line in that file.
    CodeLine = "code_line",
    /// `text`: the file that debug information is from.
    CodeDebugFile = "code_debug_file",
    /// `text`: why there is no chain.
    CodeNote = "code_note",
    /// `value`: 1 if the exception table has an entry for the instruction, 0 if not.
    CodeInExceptionTable = "code_in_exception_table",
    /// `text`: bytes of code in hex.
    CodeBytes = "code_bytes",
    /// What the recording said of devices so far no longer holds.
    DevicesCleared = "devices_cleared",
    /// What follows is about port `address`, accessed as `index` says with `size` bytes.
    DevicePort = "device_port",
    /// What follows is about the page at `address`, shared (`index` 1) or not (0) or not known (2).
    DevicePage = "device_page",
    /// What follows is about MSR `address`, read (`index` 0) or written (1).
    DeviceMsr = "device_msr",
    /// What follows is about CPUID leaf `address`, with the subleaf in the high half.
    DeviceCpuid = "device_cpuid",
    /// `text`: the PCI device at `address`.
    DevicePci = "device_pci",
    /// `text`: its vendor and device.
    DeviceId = "device_id",
    /// `text`: its class.
    DeviceClass = "device_class",
    /// `text`: its driver.
    DeviceDriver = "device_driver",
    /// `value`: its base address register.
    DeviceBar = "device_bar",
    /// `value`: bytes from the beginning of that, or of the innermost range.
    DeviceOffset = "device_offset",
    /// `text`: range number `index` that `address` lies in, the outermost is 0.
    DeviceRange = "device_range",
    /// `text`: name of a well-known place.
    DeviceKnown = "device_known",
    /// It is System RAM.
    DeviceRam = "device_ram",
    /// `value`: events of class number `index`.
    Count = "count",
    /// `value`: `kvm_exit` by reason number `index`.
    Reason = "reason",
    /// `value`: returns to the VMM by `KVM_EXIT_*` number `index`.
    Userspace = "userspace",
    /// `value`: events of class number `index` at `address` of `size` bytes.
    Place = "place",
    /// `value`: KVM's own counter number `index` when the vCPU was first seen between two exits.
    KvmFirst = "kvm_first",
    /// `value`: the same when it was last seen so.
    KvmLast = "kvm_last",
    /// `value`: ns in the guest (`index` 0) or in a part of the host.
    Time = "time",
    /// `value`: the longest duration of latency class `index`, ns.
    DurationMax = "duration_max",
    /// `value`: ns of latency class `index` in the kernel.
    DurationKernel = "duration_kernel",
    /// `value`: the same in the VMM.
    DurationVmm = "duration_vmm",
    /// `value`: the same halted.
    DurationHalted = "duration_halted",
    /// `value`: the same waiting for a CPU.
    DurationWaiting = "duration_waiting",
    /// `value`: durations of latency class `index` in the bucket that begins at `duration_ns`.
    DurationCount = "duration_count",
    /// `value`: #VEs of reason `index`.
    VeCount = "ve_count",
    /// `value`: those that the kernel could not handle.
    VeFailed = "ve_failed",
    /// `value`: those in user mode.
    VeUser = "ve_user",
    /// `value`: those that tdtrace caused.
    VeOwn = "ve_own",
    /// `value`: those whose beginning was not seen.
    VeUnpaired = "ve_unpaired",
    /// `value`: ns of those whose duration is known.
    VeNs = "ve_ns",
    /// `value`: #VEs at a place.
    PlaceCount = "place_count",
    /// `value`: those that the kernel could not handle.
    PlaceFailed = "place_failed",
    /// `value`: those whose duration is known.
    PlaceTimed = "place_timed",
    /// `value`: ns of those.
    PlaceNs = "place_ns",
    /// `value`: calls of operation `index` from one stack.
    CallCount = "call_count",
    /// `value`: those that failed.
    CallFailed = "call_failed",
    /// `value`: bytes that were asked for.
    CallBytes = "call_bytes",
    /// `value`: calls whose duration is known.
    CallTimed = "call_timed",
    /// `value`: ns of those.
    CallNs = "call_ns",
    /// `value`: ns of the longest of those.
    CallMaxNs = "call_max_ns",
    /// `value`: number `index` of the VM's conversions.
    Ledger = "ledger",
    /// `value`: pages of 4 KiB in the VM's memory slots.
    MemoryPages = "memory_pages",
    /// `value`: when the VMM was last told of a memory fault, ns; `index` 1: on private memory.
    MemoryFault = "memory_fault",
    /// `value`: the guest physical address of that fault.
    MemoryFaultGpa = "memory_fault_gpa",
    /// `value`: number `index` of the conversions in the 2 MiB from `address` on.
    Region = "region",
    /// What the recording said of losses so far no longer holds.
    LossesCleared = "losses_cleared",
    /// `value`: events of class `index` that no vCPU was found for.
    LostUnattributed = "lost_unattributed",
    /// `value`: events of class `index` that found no slot.
    LostSlotsFull = "lost_slots_full",
    /// `value`: events of class `index` that a full map refused.
    LostMapFull = "lost_map_full",
    /// `value`: events of class `index` lost outside of vCPUs.
    LostOutside = "lost_outside",
    /// `value`: runs of the probe `text` that the kernel skipped.
    RecursionMisses = "recursion_misses",
    /// `value`: hotspot events without room; their class has them.
    WithoutPlace = "without_place",
    /// `value`: durations without a beginning.
    Unpaired = "unpaired",
    /// `value`: durations that found no row.
    DurationsLost = "durations_lost",
    /// `value`: durations that were to be written one by one and found no room.
    SlowLost = "slow_lost",
    /// `value`: events of class `index` that belong to no vCPU; no loss.
    Outside = "outside",
    /// `value`: what was not counted in a guest, or only in part, for cause number `index`.
    GuestLost = "guest_lost",
    /// `value`: durations of more nanoseconds than that are written one by one.
    SlowerThan = "slower_than",
    /// `value`: nanoseconds of a duration of class `index` that ended at `address`, ns since the source
    /// began, in thread `size`. Its parts follow.
    Slow = "slow",
    /// `value`: nanoseconds of part number `index` of the duration before.
    SlowPart = "slow_part",
    /// A batch ends, and with it a sample; `value`: the checksum.
    Sample = "sample",
    /// A batch ends, and its sample goes on in the next one; `value`: the checksum.
    Part = "part",
    /// What the recording said of SEAMCALLs so far no longer holds.
    SeamCleared = "seam_cleared",
    /// `text`: why no SEAMCALL is seen.
    SeamAbsent = "seam_absent",
    /// `text`: the name of SEAMCALL wrapper number `index`; `value`: its leaf.
    SeamFunction = "seam_function",
    /// `text`: why wrapper number `index` is not counted.
    SeamMissing = "seam_missing",
    /// `value`: the status of the last failure of wrapper number `index`.
    SeamFailure = "seam_failure",
    /// `value`: the GPA that it was called with.
    SeamFailureGpa = "seam_failure_gpa",
    /// `value`: calls of wrapper number `index` that returned.
    SeamCalls = "seam_calls",
    /// `value`: those whose status found no room.
    SeamUnlisted = "seam_unlisted",
    /// `value`: those whose beginning was not seen.
    SeamUnpaired = "seam_unpaired",
    /// `value`: returns that the probe missed.
    SeamMissed = "seam_missed",
    /// `value`: ns of those whose duration is known.
    SeamTime = "seam_time",
    /// `value`: the longest, ns.
    SeamMax = "seam_max",
    /// `value`: repetitions after OPERAND_BUSY.
    SeamRetried = "seam_retried",
    /// `value`: ns from such a result to the repetition.
    SeamKick = "seam_kick",
    /// `value`: calls by size of page: `size` 0 is 4 KiB, 1 is 2 MiB, 2 is 1 GiB, 3 another.
    SeamLevel = "seam_level",
    /// `value`: calls with the status `address`.
    SeamStatus = "seam_status",
    /// `value`: durations in the bucket that begins at `duration_ns`.
    SeamDuration = "seam_duration",
    /// What the recording said of broken memory so far no longer holds.
    PoisonCleared = "poison_cleared",
    /// `text`: why source number `index` of broken memory is not seen.
    PoisonMissing = "poison_missing",
    /// `value`: events about the page with frame `address`, all bits set if it is not told, of source
    /// number `index`; `size`: type or bank in the high half, result in the low one.
    PoisonPage = "poison_page",
    /// `value`: events about broken memory that found no room.
    PoisonLost = "poison_lost",
}

/// What the column `record` says: which rows belong together for a reader that wants one thing only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// One event.
    Event,
    /// Something that is missing.
    Loss,
    /// A number that grows.
    Counter,
    /// Who and what there is.
    Fact,
    /// The end of a batch, with its checksum.
    BatchEnd,
}

impl Record {
    /// Its name in the column.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::Loss => "loss",
            Self::Counter => "counter",
            Self::Fact => "fact",
            Self::BatchEnd => "batch-end",
        }
    }
}

impl Kind {
    /// The record that rows of this kind belong to.
    #[must_use]
    pub fn record(self) -> Record {
        match self {
            Self::Sample | Self::Part => Record::BatchEnd,
            Self::SlowerThan | Self::Slow | Self::SlowPart => Record::Event,
            Self::SeamMissed | Self::PoisonLost => Record::Loss,
            Self::PoisonCleared | Self::PoisonMissing => Record::Fact,
            Self::PoisonPage => Record::Counter,
            _ if self.is_seam() => {
                if self >= Self::SeamCalls {
                    Record::Counter
                } else {
                    Record::Fact
                }
            }
            _ if self >= Self::LossesCleared => Record::Loss,
            _ if self >= Self::Count => Record::Counter,
            _ => Record::Fact,
        }
    }

    /// Whether rows of this kind are about SEAMCALLs.
    pub(super) fn is_seam(self) -> bool {
        self >= Self::SeamCleared && self <= Self::SeamDuration
    }

    /// Whether rows of this kind are about broken memory.
    pub(super) fn is_poison(self) -> bool {
        self >= Self::PoisonCleared
    }

    /// Rows of one group stand by their index first, then by their kind: those of one probe or one
    /// latency class together.
    pub(super) const fn group(self) -> Self {
        match self {
            Self::ProbeHow | Self::ProbeMissing | Self::ProbeHides => Self::Probe,
            Self::DurationKernel
            | Self::DurationVmm
            | Self::DurationHalted
            | Self::DurationWaiting
            | Self::DurationCount => Self::DurationMax,
            Self::SeamMissing
            | Self::SeamFailure
            | Self::SeamFailureGpa
            | Self::SeamCalls
            | Self::SeamUnlisted
            | Self::SeamUnpaired
            | Self::SeamMissed
            | Self::SeamTime
            | Self::SeamMax
            | Self::SeamRetried
            | Self::SeamKick
            | Self::SeamLevel
            | Self::SeamStatus
            | Self::SeamDuration => Self::SeamFunction,
            other => other,
        }
    }

    /// Whether `duration_ns` says which bucket the row is of.
    pub(super) const fn has_bucket(self) -> bool {
        matches!(self, Self::DurationCount | Self::SeamDuration)
    }

    /// Nanoseconds of a latency class by [`tdtrace_common::latency::Part`].
    pub(super) const DURATION_PARTS: [Self; PARTS] =
        [Self::DurationKernel, Self::DurationVmm, Self::DurationHalted, Self::DurationWaiting];

    /// Events lost for `loss`.
    pub(super) const fn lost(loss: Loss) -> Self {
        match loss {
            Loss::Unattributed => Self::LostUnattributed,
            Loss::SlotsFull => Self::LostSlotsFull,
            Loss::MapFull => Self::LostMapFull,
            Loss::Outside => Self::LostOutside,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index);
            assert_eq!(Kind::of(kind.name()), Some(*kind));
        }
        assert_eq!(Kind::of("Count"), None);
    }

    #[test]
    fn a_record_is_what_its_kinds_say() {
        assert_eq!(Kind::Tid.record(), Record::Fact);
        assert_eq!(Kind::Count.record(), Record::Counter);
        assert_eq!(Kind::DurationCount.record(), Record::Counter);
        assert_eq!(Kind::LossesCleared.record(), Record::Loss);
        assert_eq!(Kind::Outside.record(), Record::Loss);
        assert_eq!(Kind::Part.record(), Record::BatchEnd);
        assert_eq!(Kind::SeamFailureGpa.record(), Record::Fact);
        assert_eq!(Kind::SeamCalls.record(), Record::Counter);
        assert_eq!(Kind::SeamMissed.record(), Record::Loss);
        assert_eq!(Kind::SlowPart.record(), Record::Event);
        assert_eq!(Kind::PoisonLost.record(), Record::Loss);
    }
}
