//! What a VMM does to the memory of its VM, seen at the functions of KVM that it calls, and what breaks of it:
//! programs in two kinds as those on SEAMCALLs, and one that is only run.
//!
//! The functions are given an open file, and behind it is the VM, whichever thread calls; or the mapping of a
//! guest_memfd's pages, which knows who has it open.

use aya_ebpf::{
    macros::{fexit, kprobe, kretprobe, raw_tracepoint},
    programs::{FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};
use tdtrace_common::{
    counters::{Class, KvmObject, Loss},
    ledger::VmmCall,
};

use crate::{
    context,
    kernel::{self, ABSENT, offset, read},
    ledger::{self, SET_MEMORY_ATTRIBUTES},
    maps::{VMM_CALLS, lose},
    seam::{registers, traced},
    slot,
};

/// `kvm_vm_ioctl(file, command, argument)`.
const IOCTL: u64 = 0;
/// `kvm_gmem_fallocate(file, mode, offset, length)`.
const FALLOCATE: u64 = 1;

/// `kvm_gmem_error_folio(mapping, folio)`: a page is taken out of use.
const ERROR_FOLIO: u64 = 2;

/// `FALLOC_FL_PUNCH_HOLE` (`include/uapi/linux/falloc.h`).
const PUNCH_HOLE: u64 = 2;

/// What a call is to do, as [`VmmCall::argument`], if it is one that is counted.
#[inline(always)]
fn wanted(function: u64, [_, second, third, fourth]: [u64; 4]) -> Option<u64> {
    match function {
        // An `unsigned int`: only the low half is defined.
        IOCTL => (second as u32 == SET_MEMORY_ATTRIBUTES).then_some(third),
        FALLOCATE => (second & PUNCH_HOLE != 0).then_some(fourth),
        _ => Some(0),
    }
}

/// The class that calls of `function` have where they are lost.
#[inline(always)]
fn class(function: u64) -> Class {
    match function {
        IOCTL => Class::MemoryAttributes,
        FALLOCATE => Class::MemoryPunched,
        _ => Class::MemoryFault,
    }
}

/// A call begins, of which the return will not have the arguments.
#[inline(always)]
fn begin(function: u64, arguments: [u64; 4]) {
    let thread = context::thread();
    match wanted(function, arguments) {
        Some(argument) => {
            let call = VmmCall { function, file: arguments[0], argument };
            if VMM_CALLS.insert(&thread, &call, 0).is_err() {
                lose(Loss::MapFull, class(function));
            }
        }
        // What a call left whose return was missed is not what this one asks for.
        None => {
            let _ = VMM_CALLS.remove(&thread);
        }
    }
}

/// A call returns `result`, and its arguments are there.
#[inline(always)]
fn end(function: u64, arguments: [u64; 4], result: u64) {
    if let Some(argument) = wanted(function, arguments) {
        done(&VmmCall { function, file: arguments[0], argument }, result);
    }
}

/// A call returns `result`, and the arguments are those noted when it began.
#[inline(always)]
fn end_of_noted(function: u64, result: u64) {
    let thread = context::thread();
    // SAFETY: nobody else has this thread's call; it is copied before it is removed.
    let Some(call) = unsafe { VMM_CALLS.get(&thread) }.copied() else { return };
    let _ = VMM_CALLS.remove(&thread);
    if call.function == function {
        done(&call, result);
    }
}

/// Books a call that was counted if it succeeded. A broken page is broken whatever comes of it.
#[inline(always)]
fn done(call: &VmmCall, result: u64) {
    if call.function == ERROR_FOLIO {
        match owner(call.file) {
            Some(vm) => ledger::breaks(vm),
            None => lose(Loss::Unattributed, class(ERROR_FOLIO)),
        }
        return;
    }
    if result != 0 {
        return;
    }
    let behind = read::<u64>(call.file, offset!(file_private_data));
    let is_booked = if call.function == IOCTL {
        let vm = behind.and_then(vm_at);
        vm.zip(ledger::attributes_at(call.argument)).map(|(vm, (bytes, attributes))| {
            ledger::set_attributes(vm, bytes, attributes);
        })
    } else {
        let vm = behind.and_then(|gmem| read(gmem, gmem_kvm())).and_then(vm_at);
        vm.map(|vm| ledger::punched(vm, call.argument))
    };
    if is_booked.is_none() {
        lose(Loss::Unattributed, class(call.function));
    }
}

/// Where a guest_memfd that is open has its VM, whatever the structure is called.
#[inline(always)]
fn gmem_kvm() -> u64 {
    match offset!(gmem_kvm) {
        ABSENT => offset!(gmem_file_kvm),
        offset => offset,
    }
}

/// The VM that has the guest_memfd open of whose pages `mapping` is: the first, of which there is one but while
/// a VM is handed on.
#[inline(always)]
fn owner(mapping: u64) -> Option<u32> {
    let entry = match offset!(gmem_entry) {
        ABSENT => offset!(gmem_file_entry),
        offset => offset,
    };
    let files = files(mapping)?;
    let first = read::<u64>(files, 0)?;
    if entry == ABSENT || first == files {
        return None;
    }
    read(first.wrapping_sub(entry), gmem_kvm()).and_then(vm_at)
}

/// The list of who has a guest_memfd open, from the mapping of its pages. A list begins with its first.
#[inline(always)]
fn files(mapping: u64) -> Option<u64> {
    let of_mapping = offset!(mapping_files);
    if of_mapping != ABSENT {
        return Some(mapping.wrapping_add(of_mapping));
    }
    let (inode, files) = (offset!(gmem_inode_inode), offset!(gmem_inode_files));
    if inode == ABSENT || files == ABSENT {
        return None;
    }
    let host = read::<u64>(mapping, offset!(mapping_host))?;
    Some(host.wrapping_sub(inode).wrapping_add(files))
}

/// The VM whose `struct kvm` is at `kvm`. If none of its vCPUs has run yet, this makes its entry: how much of its
/// memory is private is told before.
#[inline(always)]
fn vm_at(kvm: u64) -> Option<u32> {
    slot::vm_of(KvmObject { address: kvm, identity: kernel::vm_identity(kvm) }).ok()
}

#[fexit]
fn kvm_vm_ioctl_fexit(ctx: FExitContext) -> i32 {
    end(IOCTL, traced(&ctx), ctx.ret().unwrap_or(u64::MAX));
    0
}

#[kprobe]
fn kvm_vm_ioctl_kprobe(ctx: ProbeContext) -> u32 {
    begin(IOCTL, registers(&ctx));
    0
}

#[kretprobe]
fn kvm_vm_ioctl_kretprobe(ctx: RetProbeContext) -> u32 {
    end_of_noted(IOCTL, ctx.ret());
    0
}

#[fexit]
fn kvm_gmem_fallocate_fexit(ctx: FExitContext) -> i32 {
    end(FALLOCATE, traced(&ctx), ctx.ret().unwrap_or(u64::MAX));
    0
}

#[kprobe]
fn kvm_gmem_fallocate_kprobe(ctx: ProbeContext) -> u32 {
    begin(FALLOCATE, registers(&ctx));
    0
}

#[kretprobe]
fn kvm_gmem_fallocate_kretprobe(ctx: RetProbeContext) -> u32 {
    end_of_noted(FALLOCATE, ctx.ret());
    0
}

#[fexit]
fn kvm_gmem_error_folio_fexit(ctx: FExitContext) -> i32 {
    end(ERROR_FOLIO, [ctx.arg(0), 0, 0, 0], 0);
    0
}

#[kprobe]
fn kvm_gmem_error_folio_kprobe(ctx: ProbeContext) -> u32 {
    begin(ERROR_FOLIO, registers(&ctx));
    0
}

#[kretprobe]
fn kvm_gmem_error_folio_kretprobe(ctx: RetProbeContext) -> u32 {
    end_of_noted(ERROR_FOLIO, ctx.ret());
    0
}

/// What the programs above do, for arguments that are told: (number of the function, 0 at the beginning, 1
/// at the return with arguments, 2 without; result; arguments). Run, never attached.
#[raw_tracepoint]
fn synthetic_vmm_call(ctx: RawTracePointContext) -> u32 {
    let function = ctx.arg::<u64>(0);
    let (phase, result) = (ctx.arg::<u64>(1), ctx.arg::<u64>(2));
    let arguments = [ctx.arg(3), ctx.arg(4), ctx.arg(5), ctx.arg(6)];
    match phase {
        0 => begin(function, arguments),
        1 => end(function, arguments, result),
        _ => end_of_noted(function, result),
    }
    0
}
