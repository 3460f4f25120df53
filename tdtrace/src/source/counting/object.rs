//! The compiled programs, and the constants that are put into their instructions before they are loaded:
//! offsets, what the load is, and the kernel's function for loads from its memory. See
//! [`tdtrace_common::constant`].
//!
//! From Linux 6.17 on `bpf_rdonly_cast(address, 0)` makes a pointer of any address, from which a program
//! loads as from a map; a load that fails gives 0. The kernel turns the cast into a move, so a field costs
//! one checked load, where `bpf_probe_read_kernel` takes some ten nanoseconds. The loader of the object
//! cannot name functions of the kernel.

use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSection as _, SectionKind};
use tdtrace_common::{
    constant::{CAST, FIRST, OFFSETS, Switch},
    layout::{ABSENT, KernelLayout},
};

use crate::kernel::btf::Btf;

/// The compiled programs; `build.rs` made them. Aligned, because the parser reads them in place.
pub(crate) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tdtrace-ebpf.o"));

/// What the programs on a host are told in their instructions.
#[derive(Clone, Copy)]
pub(crate) struct Constants<'c> {
    /// Where they find fields.
    pub(crate) layout: &'c KernelLayout,
    /// They take the time.
    pub(crate) timed: bool,
    /// They send long durations one by one.
    pub(crate) sends_slow: bool,
    /// They are told the time, the thread and the vCPU.
    pub(crate) synthetic: bool,
    /// They log.
    pub(crate) debug: bool,
    /// How they load from the kernel's memory; `None`: by calls.
    pub(crate) direct: Option<Direct>,
}

impl Constants<'_> {
    /// The programs with these constants in their instructions.
    ///
    /// # Errors
    /// When the object has no instructions where its sections say, or wants a constant that there is not.
    pub(crate) fn put_in(&self) -> Result<Vec<u8>> {
        let file = object::File::parse(OBJECT).context("the eBPF object is no ELF file")?;
        let code = file.sections().filter(|section| section.kind() == SectionKind::Text);
        let mut object = OBJECT.to_vec();
        for section in code {
            let (start, size) = section.file_range().context("code without a place in the file")?;
            let range = usize::try_from(start)?..usize::try_from(start + size)?;
            let bytes = object.get_mut(range).context("code beyond the end of the eBPF object")?;
            for bytes in bytes.as_chunks_mut().0 {
                let instruction = u64::from_le_bytes(*bytes);
                *bytes = self.in_place_of(instruction)?.to_le_bytes();
            }
        }
        Ok(object)
    }

    /// What is loaded in the place of `instruction`.
    fn in_place_of(&self, instruction: u64) -> Result<u64> {
        let number = (instruction >> 32) as i32;
        if instruction == call(0, CAST) {
            return Ok(self.direct.map_or(instruction, Direct::call));
        }
        let constants = (FIRST..FIRST + (1 << 16)).contains(&number);
        if (instruction & 0xf0ff) != u64::from(MOVE) || !constants {
            return Ok(instruction);
        }
        let value = self.value((number - FIRST) as usize);
        let value = value.with_context(|| format!("the programs want constant {number:#x}"))?;
        Ok(instruction & u64::from(u32::MAX) | u64::from(value) << 32)
    }

    /// The constant of number [`FIRST`] + `index`.
    fn value(&self, index: usize) -> Option<u32> {
        if let Some(field) = KernelLayout::FIELDS.get(index) {
            return Some(self.layout.get(field.name).unwrap_or(ABSENT));
        }
        let switch = *Switch::ALL.get(index - OFFSETS)?;
        let is_on = match switch {
            Switch::Timed => self.timed,
            Switch::SendsSlow => self.sends_slow,
            Switch::Direct => self.direct.is_some(),
            Switch::Synthetic => self.synthetic,
            Switch::Debug => self.debug,
        };
        Some(is_on.into())
    }
}

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
        call(KERNEL_FUNCTION, self.0)
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

/// `call function`, of a helper or of what `source` says.
const fn call(source: u8, function: i32) -> u64 {
    instruction(CALL, source << 4, function)
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
    use super::*;

    const DIRECT: Direct = Direct(0x0001_2345);

    /// The instructions of `object` that are not those of [`OBJECT`], with what stood there.
    fn replaced(object: &[u8]) -> Vec<(u64, u64)> {
        assert_eq!(object.len(), OBJECT.len());
        let instructions = |object: &[u8]| -> Vec<u64> {
            object.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
        };
        let pairs = instructions(OBJECT).into_iter().zip(instructions(object));
        pairs.filter(|(before, after)| before != after).collect()
    }

    fn layout() -> KernelLayout {
        let mut layout = KernelLayout::EMPTY;
        for (offset, field) in (0x1000..).zip(KernelLayout::FIELDS) {
            assert!(layout.set(field.name, offset));
        }
        layout
    }

    fn constants(layout: &KernelLayout) -> Constants<'_> {
        Constants {
            layout,
            timed: true,
            sends_slow: true,
            synthetic: true,
            debug: true,
            direct: Some(DIRECT),
        }
    }

    #[test]
    fn every_constant_of_the_programs_is_put_in_and_nothing_else_changes() {
        let layout = layout();
        let object = constants(&layout).put_in().unwrap();
        let mut fields = vec![0; OFFSETS];
        let (mut switches, mut casts) = (0, 0);
        for (before, after) in replaced(&object) {
            let index = (before >> 32).wrapping_sub(FIRST as u64) as usize;
            if before == call(0, CAST) {
                assert_eq!(after, DIRECT.call());
                casts += 1;
            } else if index < OFFSETS {
                assert_eq!(after >> 32, 0x1000 + index as u64);
                fields[index] += 1;
            } else {
                assert_eq!(after >> 32, 1, "{before:#x}");
                switches += 1;
            }
        }
        let unused = KernelLayout::FIELDS.iter().zip(&fields).filter(|(_, count)| **count == 0);
        assert_eq!(unused.map(|(field, _)| field.name).collect::<Vec<_>>(), [""; 0]);
        assert!(casts > 10 && switches > 10, "{casts} {switches}");
        assert!(replaced(&object).iter().all(|(before, _)| (before >> 48) as i32 == FIRST >> 16));
    }

    #[test]
    fn what_the_kernel_does_not_have_is_absent_in_a_full_register() {
        let empty = Constants { direct: None, ..constants(&KernelLayout::EMPTY) };
        for (before, after) in replaced(&empty.put_in().unwrap()) {
            if ((before >> 32) as i32) < FIRST + OFFSETS as i32 {
                // The processor extends the sign of an immediate: the register is all ones.
                assert_eq!((after >> 32) as u32, ABSENT);
                assert_eq!(after & 0xf0ff, 0xb7);
            }
        }
    }

    #[test]
    fn a_call_of_the_kernel_is_encoded_as_it_wants_it() {
        assert_eq!(DIRECT.call().to_le_bytes(), [0x85, 0x20, 0, 0, 0x45, 0x23, 0x01, 0x00]);
    }
}
