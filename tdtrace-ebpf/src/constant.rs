//! What the compiler is not to know: the constants that the user side puts into the instructions, see
//! [`tdtrace_common::constant`], and numbers of which the verifier has to see the bounds.

use core::{arch::asm, hint::cold_path};

use tdtrace_common::constant::{Switch, missing};

/// The constant that `$number` stands for. The user side puts it into this instruction; the compiler knows
/// nothing of it, and the verifier removes what it makes unreachable. The compiler may keep it where it likes if
/// it is `pure`; if not, it is asked for anew each time, and a question takes no more than a register.
macro_rules! asked {
    ($number:expr $(, $pure:ident)?) => {{
        let value: u64;
        // SAFETY: sets a register and nothing else.
        unsafe {
            asm!(
                "{value} = {number}",
                value = out(reg) value,
                number = const $number,
                options($($pure,)? nomem, nostack),
            );
        }
        value
    }};
}

/// The constant that `NUMBER` stands for.
#[inline(always)]
pub(crate) fn constant<const NUMBER: i32>() -> u64 {
    asked!(NUMBER, pure)
}

/// Whether the kernel has the field, or the switch is on, that `NUMBER` stands for. If so, little is left of the
/// question: the kernel takes a jump out of which one way is never gone, if that leads to instructions that no
/// other way leads to.
#[inline(always)]
pub(crate) fn has<const NUMBER: i32>() -> bool {
    if asked!(missing(NUMBER)) != 0 {
        nowhere();
        return false;
    }
    true
}

/// The beginning of a way that is not gone if a constant is what it usually is.
#[inline(always)]
fn nowhere() {
    cold_path();
    // SAFETY: sets a register that it says it sets.
    unsafe { asm!("r0 = 0", lateout("r0") _, options(nomem, nostack)) };
}

/// The same value, of which the compiler knows nothing.
macro_rules! same {
    ($value:expr) => {{
        let same;
        // An instruction is a must: the kernel refuses two lines of the source that begin at one.
        // SAFETY: sets a register and nothing else.
        unsafe {
            asm!(
                "{same} = {value}",
                same = lateout(reg) same,
                value = in(reg) $value,
                options(pure, nomem, nostack),
            );
        }
        same
    }};
}

/// The same number: the compiler would prove the mask away that bounds an index, and leave the verifier without the
/// bound.
#[inline(always)]
pub(crate) fn opaque(number: usize) -> usize {
    same!(number)
}

/// The same pointer.
#[expect(clippy::pointers_in_nomem_asm_block, reason = "what it points to is not looked at")]
#[inline(always)]
pub(crate) fn opaque_pointer<T>(pointer: *mut T) -> *mut T {
    same!(pointer)
}

/// Whether `--debug-ebpf` was given.
#[inline(always)]
pub(crate) fn debug() -> bool {
    asked!(Switch::Debug.number()) != 0
}

/// Whether durations are wanted.
#[inline(always)]
pub(crate) fn is_timed() -> bool {
    has::<{ Switch::Timed.number() }>()
}

/// Whether programs may load from the kernel's memory directly.
#[inline(always)]
pub(crate) fn is_direct() -> bool {
    has::<{ Switch::Direct.number() }>()
}

/// Whether clock, thread and vCPU come from [`crate::maps::SYNTHETIC_CPUS`].
#[inline(always)]
pub(crate) fn is_synthetic() -> bool {
    asked!(Switch::Synthetic.number()) != 0
}

/// Whether long durations are sent one by one.
#[inline(always)]
pub(crate) fn sends_slow() -> bool {
    asked!(Switch::SendsSlow.number()) != 0
}
