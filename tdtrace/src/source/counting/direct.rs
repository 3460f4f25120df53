//! Loads from the kernel's memory without a call.
//!
//! From Linux 6.17 on `bpf_rdonly_cast(address, 0)` makes a pointer of any address, from which a program
//! loads as from a map; a load that fails gives 0. The kernel turns the cast into a move, so a field costs
//! one checked load, where `bpf_probe_read_kernel` takes some ten nanoseconds. The loader of the object knows
//! no functions of the kernel, so the object has a call of [`CAST`], which is none, and it is replaced here.

use std::os::fd::{FromRawFd as _, OwnedFd};

use tdtrace_common::layout::CAST;

use crate::kernel::btf::Btf;

/// `bpf_rdonly_cast` of the running kernel, by its number in vmlinux's BTF, if programs may load by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direct(i32);

impl Direct {
    /// Asks the kernel of which `vmlinux` is the BTF.
    pub(crate) fn of_kernel(vmlinux: &Btf) -> Option<Self> {
        let direct = Self(i32::try_from(vmlinux.func_id("bpf_rdonly_cast")?).ok()?);
        direct.is_allowed().then_some(direct)
    }

    /// Whether the kernel takes a program that loads from where such a cast points. Before 6.17 there is
    /// the function, but it wants the type of a structure.
    fn is_allowed(self) -> bool {
        let program = [
            instruction(MOVE, 1, 0),
            instruction(MOVE, 2, 0),
            self.call(),
            // r0 = *(u64 *)(r0 + 0)
            instruction(LOAD, 0, 0),
            instruction(MOVE, 0, 0),
            instruction(EXIT, 0, 0),
        ];
        load(&program).is_some()
    }

    fn call(self) -> u64 {
        instruction(CALL, KERNEL_FUNCTION << 4, self.0)
    }

    /// `object` with this function in the place of [`CAST`].
    pub(super) fn put_into(self, object: &[u8]) -> Vec<u8> {
        let placeholder = instruction(CALL, 0, CAST).to_le_bytes();
        let mut object = object.to_vec();
        for instruction in object.chunks_exact_mut(placeholder.len()) {
            if *instruction == placeholder {
                instruction.copy_from_slice(&self.call().to_le_bytes());
            }
        }
        object
    }
}

/// Opcodes (RFC 9669, section 4 and 5): `rN = imm`, `call imm`, `exit`, `rN = *(u64 *)(rN + off)`.
const MOVE: u8 = 0xb7;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD: u8 = 0x79;
/// `BPF_PSEUDO_KFUNC_CALL`, the source register of a call of a function of the kernel.
const KERNEL_FUNCTION: u8 = 2;

/// An instruction of eight bytes; `registers` has the destination in its lower half.
const fn instruction(opcode: u8, registers: u8, immediate: i32) -> u64 {
    opcode as u64 | (registers as u64) << 8 | (immediate as u32 as u64) << 32
}

/// `BPF_PROG_LOAD` (`enum bpf_cmd`, `include/uapi/linux/bpf.h`).
const PROG_LOAD: libc::c_long = 5;
/// `BPF_PROG_TYPE_RAW_TRACEPOINT`.
const RAW_TRACEPOINT: u32 = 17;

/// The first words of `union bpf_attr` for `BPF_PROG_LOAD`; what follows them is zero.
#[repr(C)]
struct Attribute {
    kind: u32,
    instructions: u32,
    first: u64,
    license: u64,
    /// Level, size and buffer of a log, version and flags.
    none: [u32; 6],
}

/// Loads `program`, a raw tracepoint's; `None` if the kernel refuses it.
fn load(program: &[u64]) -> Option<OwnedFd> {
    let attribute = Attribute {
        kind: RAW_TRACEPOINT,
        instructions: u32::try_from(program.len()).ok()?,
        first: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        none: [0; 6],
    };
    // SAFETY: the attribute is as large as is said, and what it points to is there and as long as it says.
    let fd = unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const attribute, size_of::<Attribute>())
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made it for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::{super::load::OBJECT, *};

    fn calls(object: &[u8], call: u64) -> usize {
        let call = call.to_le_bytes();
        object.chunks_exact(8).filter(|instruction| **instruction == call).count()
    }

    #[test]
    fn every_cast_of_the_object_gets_the_function_and_nothing_else_changes() {
        let placeholder = instruction(CALL, 0, CAST);
        let direct = Direct(0x0001_2345);
        let casts = calls(OBJECT, placeholder);
        let object = direct.put_into(OBJECT);
        assert!(casts > 10, "{casts}");
        assert_eq!(calls(&object, placeholder), 0);
        assert_eq!(calls(&object, direct.call()), casts);
        let differ = OBJECT.chunks_exact(8).zip(object.chunks_exact(8)).filter(|(a, b)| a != b);
        assert_eq!(differ.count(), casts);
        assert_eq!(object.len(), OBJECT.len());
    }

    #[test]
    fn a_call_of_the_kernel_is_encoded_as_it_wants_it() {
        assert_eq!(
            Direct(0x0001_2345).call().to_le_bytes(),
            [0x85, 0x20, 0, 0, 0x45, 0x23, 0x01, 0x00]
        );
    }
}
