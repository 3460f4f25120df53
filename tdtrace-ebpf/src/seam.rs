//! SEAMCALLs of a TDX host: programs on the kernel's wrappers, in two kinds as those of a guest, and
//! one that is only run.
//!
//! A call is found again at its end by thread and function: the wrappers may be interrupted, and the
//! interrupt may call another one. What is counted is in `tdtrace-common/seam.rs`.

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_get_func_arg,
    macros::{fentry, fexit, kprobe, kretprobe, map, raw_tracepoint},
    maps::{HashMap, PerCpuArray},
    programs::{FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};
use tdtrace_common::{
    latency::{BUCKETS, bucket},
    seam::{
        ARGUMENTS, Arguments, FUNCTIONS, LEVELS, OPERAND_BUSY, SeamEntry, SeamEntryKey, SeamStats,
        SeamStatusKey, has_failed, status_class,
    },
};

use crate::{
    constant::{is_timed, opaque},
    context,
    maps::{add, entry},
};

/// Where the functions of the running kernel have their arguments, by number of the function.
#[unsafe(no_mangle)]
static SEAM_ARGUMENTS: [Arguments; FUNCTIONS] = [Arguments::NONE; FUNCTIONS];

/// What is counted, by number of the function. One element unless there are wrappers.
#[map]
static SEAM_STATS: PerCpuArray<SeamStats> = PerCpuArray::with_max_entries(1, 0);

/// Results that are no success.
#[map]
static SEAM_STATUSES: HashMap<SeamStatusKey, u64> = HashMap::with_max_entries(1, 0);

/// Calls that have begun.
#[map]
static SEAM_ENTRIES: HashMap<SeamEntryKey, SeamEntry> = HashMap::with_max_entries(1, 0);

/// Where function number `function` has its arguments.
#[inline(always)]
fn arguments_of(function: usize) -> Arguments {
    let places = &raw const SEAM_ARGUMENTS;
    let function = opaque(function) & (FUNCTIONS - 1);
    // SAFETY: a plain static, within the array; volatile, because the user side overrides its value at
    // load.
    unsafe { core::ptr::read_volatile(places.cast::<Arguments>().add(function)) }
}

/// The value of the argument at `place`, if it is one of those.
#[inline(always)]
fn argument(arguments: &[u64; ARGUMENTS], place: u8) -> Option<u64> {
    // One by one: an index would be a variable offset into the stack.
    match place {
        0 => Some(arguments[0]),
        1 => Some(arguments[1]),
        2 => Some(arguments[2]),
        3 => Some(arguments[3]),
        _ => None,
    }
}

/// A call of `function` begins.
#[inline(always)]
fn begin(function: usize, arguments: [u64; ARGUMENTS]) {
    let at = if is_timed() { context::now() } else { 0 };
    let key = SeamEntryKey { thread: context::thread(), function: function as u64 };
    // If there is no room the end finds nothing, and counts that.
    let _ = SEAM_ENTRIES.insert(&key, &SeamEntry { at, arguments }, 0);
}

/// A call of `function` ends with `status`. `arguments` where the probe has them at the return.
#[inline(always)]
fn end(function: usize, arguments: Option<[u64; ARGUMENTS]>, status: u64) {
    // First of all: what is done here is no time of the call.
    let now = if is_timed() { context::now() } else { 0 };
    let Some(stats) = SEAM_STATS.get_ptr_mut(function as u32) else {
        return;
    };
    // SAFETY: this CPU's value; only this program writes it, and it does not run within itself.
    let stats = unsafe { &mut *stats };
    let thread = context::thread();
    let key = SeamEntryKey { thread, function: function as u64 };
    // SAFETY: nobody else has this thread's call; it is copied before it is removed.
    let mut entry = unsafe { SEAM_ENTRIES.get(&key) }.copied();
    let _ = SEAM_ENTRIES.remove(&key);
    if let (Some(begun), Some(arguments)) = (&entry, &arguments)
        && (begun.arguments[0] != arguments[0] || begun.arguments[1] != arguments[1])
    {
        // Of an earlier call, whose end was missed.
        entry = None;
    }
    stats.calls += 1;
    let began = entry.map_or(0, |entry| entry.at);
    if entry.is_none() {
        stats.unpaired += 1;
    } else if began != 0 && now >= began {
        time(stats, now - began);
    }
    let arguments = arguments.or(entry.map(|entry| entry.arguments));
    let places = arguments_of(function);
    if let Some(arguments) = &arguments {
        count_level(stats, places, arguments);
    }
    let arguments = arguments.unwrap_or([0; ARGUMENTS]);
    let gpa = argument(&arguments, places.gpa).unwrap_or(0);
    if places.zaps != 0 {
        pair(stats, thread, [arguments[0], gpa], began);
    }
    count_status(stats, function, status);
    if has_failed(status) {
        stats.failure = status;
        stats.failure_gpa = gpa;
        stats.failure_at = if is_timed() { now } else { context::now() };
    }
    if places.zaps != 0 && (status >> 32) as u32 == OPERAND_BUSY {
        stats.busy_thread = thread;
        stats.busy_arguments = [arguments[0], gpa];
        stats.busy_at = now;
    }
}

#[inline(always)]
fn time(stats: &mut SeamStats, ns: u64) {
    stats.ns += ns;
    if ns > stats.max {
        stats.max = ns;
    }
    let index = opaque(bucket(ns));
    if index < BUCKETS {
        stats.buckets[index] += 1;
    }
}

#[inline(always)]
fn count_level(stats: &mut SeamStats, places: Arguments, arguments: &[u64; ARGUMENTS]) {
    let Some(level) = argument(arguments, places.level) else {
        return;
    };
    // An `int` or an enum: only the low half is defined.
    let level = (level as u32).wrapping_sub(u32::from(places.base)) as usize;
    let level = if level < LEVELS - 1 { level } else { LEVELS - 1 };
    stats.levels[opaque(level) & (LEVELS - 1)] += 1;
}

/// Whether this call, begun at `began`, repeats the one that was busy last.
#[inline(always)]
fn pair(stats: &mut SeamStats, thread: u64, arguments: [u64; 2], began: u64) {
    let same = stats.busy_thread == thread
        && stats.busy_arguments[0] == arguments[0]
        && stats.busy_arguments[1] == arguments[1];
    if same {
        stats.retried += 1;
        if stats.busy_at != 0 && began >= stats.busy_at {
            stats.kick_ns += began - stats.busy_at;
        }
    }
    // Whatever it is, it is what came next.
    stats.busy_thread = 0;
}

#[inline(always)]
fn count_status(stats: &mut SeamStats, function: usize, status: u64) {
    if status >> 32 == 0 {
        stats.successes += 1;
        return;
    }
    let key = SeamStatusKey { status: status_class(status), function: function as u64 };
    match entry(&SEAM_STATUSES, &key, &0) {
        Some(count) => add(count, 1),
        None => stats.unlisted += 1,
    }
}

/// The first arguments as fentry and fexit have them; 0 for those that the function does not have.
#[inline(always)]
pub(crate) fn traced(ctx: &impl EbpfContext) -> [u64; ARGUMENTS] {
    let mut arguments = [0; ARGUMENTS];
    for (index, argument) in arguments.iter_mut().enumerate() {
        // SAFETY: the context of a tracing program; the helper writes only arguments that there are.
        let _ = unsafe { bpf_get_func_arg(ctx.as_ptr(), index as u32, argument) };
    }
    arguments
}

/// The same as a kprobe has them: in registers (System V ABI), which the return does not have any more.
#[inline(always)]
pub(crate) fn registers(ctx: &ProbeContext) -> [u64; ARGUMENTS] {
    // SAFETY: the context's registers.
    unsafe {
        [
            core::ptr::read_volatile(&raw const (*ctx.regs).rdi),
            core::ptr::read_volatile(&raw const (*ctx.regs).rsi),
            core::ptr::read_volatile(&raw const (*ctx.regs).rdx),
            core::ptr::read_volatile(&raw const (*ctx.regs).rcx),
        ]
    }
}

/// The programs of each function, by its number.
macro_rules! wrappers {
    ($($function:literal => $fentry:ident $fexit:ident $kprobe:ident $kretprobe:ident;)*) => {
        $(
            #[fentry]
            fn $fentry(ctx: FEntryContext) -> i32 {
                begin($function, traced(&ctx));
                0
            }

            #[fexit]
            fn $fexit(ctx: FExitContext) -> i32 {
                end($function, Some(traced(&ctx)), ctx.ret().unwrap_or(0));
                0
            }

            #[kprobe]
            fn $kprobe(ctx: ProbeContext) -> u32 {
                begin($function, registers(&ctx));
                0
            }

            #[kretprobe]
            fn $kretprobe(ctx: RetProbeContext) -> u32 {
                end($function, None, ctx.ret());
                0
            }
        )*
    };
}

wrappers! {
    0 => tdh_mem_page_add_fentry tdh_mem_page_add_fexit tdh_mem_page_add_kprobe tdh_mem_page_add_kretprobe;
    1 => tdh_mem_sept_add_fentry tdh_mem_sept_add_fexit tdh_mem_sept_add_kprobe tdh_mem_sept_add_kretprobe;
    2 => tdh_mem_page_aug_fentry tdh_mem_page_aug_fexit tdh_mem_page_aug_kprobe tdh_mem_page_aug_kretprobe;
    3 => tdh_mem_range_block_fentry tdh_mem_range_block_fexit tdh_mem_range_block_kprobe tdh_mem_range_block_kretprobe;
    4 => tdh_mem_track_fentry tdh_mem_track_fexit tdh_mem_track_kprobe tdh_mem_track_kretprobe;
    5 => tdh_mem_page_remove_fentry tdh_mem_page_remove_fexit tdh_mem_page_remove_kprobe tdh_mem_page_remove_kretprobe;
    6 => tdh_mng_addcx_fentry tdh_mng_addcx_fexit tdh_mng_addcx_kprobe tdh_mng_addcx_kretprobe;
    7 => tdh_mng_create_fentry tdh_mng_create_fexit tdh_mng_create_kprobe tdh_mng_create_kretprobe;
    8 => tdh_mng_init_fentry tdh_mng_init_fexit tdh_mng_init_kprobe tdh_mng_init_kretprobe;
    9 => tdh_mng_key_config_fentry tdh_mng_key_config_fexit tdh_mng_key_config_kprobe tdh_mng_key_config_kretprobe;
    10 => tdh_mng_key_freeid_fentry tdh_mng_key_freeid_fexit tdh_mng_key_freeid_kprobe tdh_mng_key_freeid_kretprobe;
    11 => tdh_mng_rd_fentry tdh_mng_rd_fexit tdh_mng_rd_kprobe tdh_mng_rd_kretprobe;
    12 => tdh_mng_vpflushdone_fentry tdh_mng_vpflushdone_fexit tdh_mng_vpflushdone_kprobe tdh_mng_vpflushdone_kretprobe;
    13 => tdh_mr_extend_fentry tdh_mr_extend_fexit tdh_mr_extend_kprobe tdh_mr_extend_kretprobe;
    14 => tdh_mr_finalize_fentry tdh_mr_finalize_fexit tdh_mr_finalize_kprobe tdh_mr_finalize_kretprobe;
    15 => tdh_phymem_cache_wb_fentry tdh_phymem_cache_wb_fexit tdh_phymem_cache_wb_kprobe tdh_phymem_cache_wb_kretprobe;
    16 => tdh_phymem_page_reclaim_fentry tdh_phymem_page_reclaim_fexit tdh_phymem_page_reclaim_kprobe tdh_phymem_page_reclaim_kretprobe;
    17 => tdh_phymem_page_wbinvd_hkid_fentry tdh_phymem_page_wbinvd_hkid_fexit tdh_phymem_page_wbinvd_hkid_kprobe tdh_phymem_page_wbinvd_hkid_kretprobe;
    18 => tdh_phymem_page_wbinvd_tdr_fentry tdh_phymem_page_wbinvd_tdr_fexit tdh_phymem_page_wbinvd_tdr_kprobe tdh_phymem_page_wbinvd_tdr_kretprobe;
    19 => tdh_vp_addcx_fentry tdh_vp_addcx_fexit tdh_vp_addcx_kprobe tdh_vp_addcx_kretprobe;
    20 => tdh_vp_create_fentry tdh_vp_create_fexit tdh_vp_create_kprobe tdh_vp_create_kretprobe;
    21 => tdh_vp_flush_fentry tdh_vp_flush_fexit tdh_vp_flush_kprobe tdh_vp_flush_kretprobe;
    22 => tdh_vp_init_fentry tdh_vp_init_fexit tdh_vp_init_kprobe tdh_vp_init_kretprobe;
    23 => tdh_vp_rd_fentry tdh_vp_rd_fexit tdh_vp_rd_kprobe tdh_vp_rd_kretprobe;
    24 => tdh_vp_wr_fentry tdh_vp_wr_fexit tdh_vp_wr_kprobe tdh_vp_wr_kretprobe;
}

/// What the programs above do, for a function and arguments that are told: (number of the function, 0 at
/// the beginning, 1 at the return with arguments, 2 without; status; arguments). Run, never attached.
#[raw_tracepoint]
fn synthetic_seamcall(ctx: RawTracePointContext) -> u32 {
    let function = ctx.arg::<u64>(0) as usize;
    let (phase, status) = (ctx.arg::<u64>(1), ctx.arg::<u64>(2));
    let arguments = [ctx.arg(3), ctx.arg(4), ctx.arg(5), ctx.arg(6)];
    match phase {
        0 => begin(function, arguments),
        1 => end(function, Some(arguments), status),
        _ => end(function, None, status),
    }
    0
}
