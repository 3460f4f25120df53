//! What a #VE handler is given: the interrupted registers and the information about the #VE, read at
//! the offsets of this kernel, and the context in which it runs.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, generated};
use tdtrace_common::{
    guest::{Context, INSN_BYTES, NO_ADDRESS, VE_CONTEXT_SHIFT, VE_INTERRUPTS, VE_USER, VeInfo},
    layout::ABSENT,
};

use super::maps::{GUEST_LAYOUT, addresses};
use crate::kernel::read;

/// The offset in `GUEST_LAYOUT.$field`, as the verifier's constant.
macro_rules! offset {
    ($field:ident) => {{
        // SAFETY: a plain static; volatile, because the user side overrides its value at load.
        unsafe { core::ptr::read_volatile(&raw const GUEST_LAYOUT.$field) }
    }};
}

/// Words of `struct ve_info`, and of `struct pt_regs`. FRED puts words behind it, not into it.
const VE_WORDS: usize = 5;
const REGS_WORDS: usize = 21;

/// The bytes at `offset` of a structure that was read as a whole; 0 outside of it.
#[inline(always)]
fn word<const N: usize>(window: &[u64; N], offset: u32) -> u64 {
    let index = (offset >> 3) as usize;
    if index < N { window[index] >> ((offset & 4) * 8) } else { 0 }
}

/// The information about a #VE at `address`.
#[inline(always)]
pub(super) fn ve_info(address: u64) -> Option<VeInfo> {
    let window: [u64; VE_WORDS] = read(address, 0)?;
    Some(VeInfo {
        reason: word(&window, offset!(ve_exit_reason)),
        qualification: word(&window, offset!(ve_exit_qual)),
        gla: word(&window, offset!(ve_gla)),
        gpa: word(&window, offset!(ve_gpa)),
        length: word(&window, offset!(ve_instr_len)) as u32,
        info: word(&window, offset!(ve_instr_info)) as u32,
    })
}

/// The interrupted registers that matter.
#[derive(Clone, Copy)]
pub(super) struct Registers {
    pub(super) ip: u64,
    pub(super) ax: u64,
    pub(super) cx: u64,
    /// `VE_USER` and `VE_INTERRUPTS`.
    pub(super) flags: u32,
}

/// The registers at `address`.
#[inline(always)]
pub(super) fn registers(address: u64) -> Option<Registers> {
    let window: [u64; REGS_WORDS] = read(address, 0)?;
    let user = if word(&window, offset!(regs_cs)) & 3 != 0 { VE_USER } else { 0 };
    let interrupts = word(&window, offset!(regs_flags)) >> 9 & 1;
    Some(Registers {
        ip: word(&window, offset!(regs_ip)),
        ax: word(&window, offset!(regs_ax)),
        cx: word(&window, offset!(regs_cx)),
        flags: user | if interrupts != 0 { VE_INTERRUPTS } else { 0 },
    })
}

/// `preempt_count` of this CPU and the context that it says, in the bits of flags.
#[inline(always)]
pub(super) fn context() -> (u32, u32) {
    let addresses = addresses();
    if addresses.preempt_count == NO_ADDRESS || addresses.per_cpu_offset == NO_ADDRESS {
        return (0, 0);
    }
    let within = match offset!(pcpu_hot_preempt_count) {
        ABSENT => 0,
        offset => u64::from(offset),
    };
    // SAFETY: no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let count = read::<u64>(addresses.per_cpu_offset, u64::from(cpu) * 8).and_then(|base| {
        read::<u32>(base.wrapping_add(addresses.preempt_count).wrapping_add(within), 0)
    });
    match count {
        Some(count) => {
            let context = Context::of_preempt_count(count, addresses.interrupt_bits);
            (count, (context as u32) << VE_CONTEXT_SHIFT)
        }
        None => (0, 0),
    }
}

/// Bytes of the longest instruction.
const LONGEST: u64 = 15;

/// Reads the instruction at `ip` into `bytes`; how many bytes could be read. Where the page behind it is
/// not there, those up to its end. Never what the instruction accesses.
#[inline(always)]
pub(super) fn instruction(ip: u64, user: bool, bytes: &mut [u8; INSN_BYTES]) -> u32 {
    if ip == 0 {
        return 0;
    }
    if copy(ip, LONGEST, user, bytes) {
        return LONGEST as u32;
    }
    let left = core::hint::black_box(0x1000 - (ip & 0xfff));
    if left < LONGEST && copy(ip, left, user, bytes) { left as u32 } else { 0 }
}

#[inline(always)]
fn copy(ip: u64, length: u64, user: bool, bytes: &mut [u8; INSN_BYTES]) -> bool {
    let (to, from) = (bytes.as_mut_ptr().cast(), ip as *const core::ffi::c_void);
    // SAFETY: `length` is at most 15; the calls check the address and fail on a bad one.
    let result = unsafe {
        if user {
            generated::bpf_probe_read_user(to, length as u32, from)
        } else {
            generated::bpf_probe_read_kernel(to, length as u32, from)
        }
    };
    result == 0
}
