//! Broken memory of the host: machine checks, and pages that the kernel takes out of use.

use aya_ebpf::{
    macros::{map, raw_tracepoint},
    maps::{Array, HashMap},
    programs::RawTracePointContext,
};
use tdtrace_common::poison::{NO_PFN, POISON_PAGES, PoisonKey, PoisonSource};

use crate::{
    kernel::{offset, read},
    maps::{add, entry},
};

/// Events by page.
#[map]
static POISON: HashMap<PoisonKey, u64> = HashMap::with_max_entries(POISON_PAGES, 0);

/// Events that found no room.
#[map]
static POISON_LOST: Array<u64> = Array::with_max_entries(1, 0);

#[inline(always)]
fn count(key: PoisonKey) {
    if let Some(count) = entry(&POISON, &key, &0).or(POISON_LOST.get_ptr_mut(0)) {
        add(count, 1);
    }
}

/// `MCI_STATUS_ADDRV`: the address is valid (Intel SDM volume 3, section 17.3.2.2).
const ADDRESS_VALID: u64 = 1 << 58;

/// `mce_record(struct mce *)`; since Linux 6.13 `struct mce_hw_err *`, which begins with it.
#[raw_tracepoint]
fn mce_record(ctx: RawTracePointContext) -> u32 {
    let mce = ctx.arg::<u64>(0);
    let status = read::<u64>(mce, offset!(mce_status)).unwrap_or(0);
    let pfn = match read::<u64>(mce, offset!(mce_addr)) {
        Some(address) if status & ADDRESS_VALID != 0 => address >> 12,
        _ => NO_PFN,
    };
    let kind = u16::from(read::<u8>(mce, offset!(mce_bank)).unwrap_or(0));
    let source = PoisonSource::MachineCheck as u16;
    count(PoisonKey { pfn, source, kind, result: 0, reserved: 0 });
    0
}

/// `memory_failure_event(pfn, type, result)`.
#[raw_tracepoint]
fn memory_failure_event(ctx: RawTracePointContext) -> u32 {
    let (kind, result) = (ctx.arg::<u32>(1) as u16, ctx.arg::<u32>(2) as u16);
    let source = PoisonSource::MemoryFailure as u16;
    count(PoisonKey { pfn: ctx.arg(0), source, kind, result, reserved: 0 });
    0
}
