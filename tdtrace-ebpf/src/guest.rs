//! The programs in a TD guest, each in two kinds: fentry and fexit, or where those are not to be had
//! kprobe and kretprobe.
//!
//! `ve` and `place` count #VEs, `calls` conversions and the like, `frame` reads what the handler is given, `maps`
//! has the maps. The handler of a #VE runs in every context, with interrupts as they were, and another
//! #VE may interrupt it; nothing here touches what the instruction accessed.

mod calls;
mod frame;
pub(crate) mod maps;
mod place;
mod ve;

use aya_ebpf::{
    macros::{fentry, fexit, kprobe, kretprobe, raw_tracepoint},
    programs::{FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext},
};
use tdtrace_common::guest::Operation;

/// `bool tdx_handle_virt_exception(struct pt_regs *regs, struct ve_info *ve)`
#[fentry(function = "tdx_handle_virt_exception")]
fn ve_fentry(ctx: FEntryContext) -> i32 {
    let regs = ctx.arg::<u64>(0);
    ve::begin(regs, regs, ctx.arg(1));
    0
}

/// The verdict of the same; RIP has been moved on.
#[fexit(function = "tdx_handle_virt_exception")]
fn ve_fexit(ctx: FExitContext) -> i32 {
    let regs = ctx.arg::<u64>(0);
    let handled = ctx.ret::<u64>().unwrap_or(0) & 0xff != 0;
    ve::end(&ctx, regs, frame::ve_info(ctx.arg(1)), frame::registers(regs), handled);
    0
}

/// The same by kprobe. Handlers are told apart by their stack pointer, which the return has, too.
#[kprobe]
fn ve_kprobe(ctx: ProbeContext) -> u32 {
    if let (Some(regs), Some(ve)) = (ctx.arg::<u64>(0), ctx.arg::<u64>(1)) {
        // SAFETY: the context's registers.
        ve::begin(unsafe { (*ctx.regs).rsp }, regs, ve);
    }
    0
}

/// The return: the return address has been taken from the stack.
#[kretprobe]
fn ve_kretprobe(ctx: RetProbeContext) -> u32 {
    // SAFETY: the context's registers.
    let frame = unsafe { (*ctx.regs).rsp }.wrapping_sub(8);
    ve::end(&ctx, frame, None, None, ctx.ret::<u64>() & 0xff != 0);
    0
}

/// `int handle_mmio(struct pt_regs *regs, struct ve_info *ve)`: why MMIO was not emulated.
#[fexit(function = "handle_mmio")]
fn mmio_fexit(ctx: FExitContext) -> i32 {
    let returned = ctx.ret::<u64>().unwrap_or(0) as i32;
    ve::mmio_returned(ctx.arg(0), returned);
    0
}

/// Programs of a function whose calls are counted.
macro_rules! counted {
    ($($function:ident: $fentry:ident $fexit:ident $kprobe:ident $kretprobe:ident;)*) => {
        $(
            #[fentry]
            fn $fentry(ctx: FEntryContext) -> i32 {
                calls::enters(&ctx, calls::$function);
                0
            }

            #[fexit]
            fn $fexit(ctx: FExitContext) -> i32 {
                calls::leaves(&ctx, calls::$function);
                0
            }

            #[kprobe]
            fn $kprobe(ctx: ProbeContext) -> u32 {
                calls::enters_kprobe(&ctx, calls::$function);
                0
            }

            #[kretprobe]
            fn $kretprobe(ctx: RetProbeContext) -> u32 {
                calls::leaves_kretprobe(&ctx, calls::$function);
                0
            }
        )*
    };
}

counted! {
    CONVERT: convert_fentry convert_fexit convert_kprobe convert_kretprobe;
    PREPARE: prepare_fentry prepare_fexit prepare_kprobe prepare_kretprobe;
    FINISH: finish_fentry finish_fexit finish_kprobe finish_kretprobe;
    MAP_GPA: map_gpa_fentry map_gpa_fexit map_gpa_kprobe map_gpa_kretprobe;
    ACCEPT_TDX: accept_tdx_fentry accept_tdx_fexit accept_tdx_kprobe accept_tdx_kretprobe;
    ACCEPT: accept_fentry accept_fexit accept_kprobe accept_kretprobe;
    REPORT: report_fentry report_fexit report_kprobe report_kretprobe;
    GET_QUOTE: get_quote_fentry get_quote_fexit get_quote_kprobe get_quote_kretprobe;
}

/// `swiotlb_bounced(dev, dev_addr, size)`
#[raw_tracepoint(tracepoint = "swiotlb_bounced")]
fn swiotlb_bounced(ctx: RawTracePointContext) -> u32 {
    if maps::control().is_some() {
        calls::record(&ctx, Operation::Bounce as u32, ctx.arg(2), None, 0);
    }
    0
}
