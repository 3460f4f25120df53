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
    constant::{CAST, FIRST, OFFSETS, Sum, Switch, asked},
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
            let code = bytes.as_chunks_mut().0;
            for at in 0..code.len() {
                if let Some(load) = code.get_mut(at..).and_then(<[_]>::first_chunk_mut) {
                    self.fold(load);
                }
                let instruction = u64::from_le_bytes(code[at]);
                code[at] = self.in_place_of(instruction)?.to_le_bytes();
            }
        }
        Ok(object)
    }

    /// Makes `v = offset; v += pointer; v = *(v + 0)` the load alone where the offset fits into it, and `v = 0`
    /// where there is no such field. In the place of the others stand jumps to the next instruction, which the
    /// kernel takes out.
    fn fold(&self, code: &mut [[u8; 8]; 3]) {
        let [first, second, load] = code.map(u64::from_le_bytes);
        let Some(offset) = wanted(first).and_then(|index| self.value(index)) else { return };
        let (value, pointer) = (first >> 8 & 0xf, second >> 12 & 0xf);
        let sum = instruction(ADD, (pointer << 4 | value) as u8, 0);
        let is_load = [LOAD_BYTE, LOAD_WORD, LOAD].contains(&(load as u8));
        if second != sum || !is_load || load >> 8 != value << 4 | value {
            return;
        }
        let last = match offset {
            ABSENT => instruction(MOVE, value as u8, 0),
            _ if offset > i16::MAX as u32 => return,
            _ => load & 0xff | value << 8 | pointer << 12 | u64::from(offset) << 16,
        };
        *code = [instruction(JUMP, 0, 0), instruction(JUMP, 0, 0), last].map(u64::to_le_bytes);
    }

    /// What is loaded in the place of `instruction`.
    fn in_place_of(&self, instruction: u64) -> Result<u64> {
        if instruction == call(0, CAST) {
            return Ok(self.direct.map_or(instruction, Direct::call));
        }
        let Some(index) = wanted(instruction) else { return Ok(instruction) };
        let value = self.value(index);
        let value = value.with_context(|| format!("the programs want constant {index}"))?;
        Ok(instruction & u64::from(u32::MAX) | u64::from(value) << 32)
    }

    /// What is put in for number [`FIRST`] + `index`.
    fn value(&self, index: usize) -> Option<u32> {
        let (index, whether_missing) = asked(index);
        let (value, missing) = self.constant(index)?;
        Some(if whether_missing { u32::from(value == missing) } else { value })
    }

    /// The constant at `index`, and what it is if it is missing.
    fn constant(&self, index: usize) -> Option<(u32, u32)> {
        if index < OFFSETS {
            return Some((self.offset(index), ABSENT));
        }
        if let Some(sum) = Sum::ALL.get(index - OFFSETS) {
            let [part, field] = sum.fields().map(|index| self.offset(index));
            let is_known = part != ABSENT && field != ABSENT;
            return Some((if is_known { part + field } else { ABSENT }, ABSENT));
        }
        let switch = *Switch::ALL.get(index - OFFSETS - Sum::ALL.len())?;
        let is_on = match switch {
            Switch::Timed => self.timed,
            Switch::SendsSlow => self.sends_slow,
            Switch::Direct => self.direct.is_some(),
            Switch::Synthetic => self.synthetic,
            Switch::Debug => self.debug,
        };
        Some((is_on.into(), 0))
    }

    /// The offset of field `index` of the layout, which there is.
    fn offset(&self, index: usize) -> u32 {
        self.layout.get(KernelLayout::FIELDS[index].name).unwrap_or(ABSENT)
    }
}

/// Which constant `instruction` sets a register to.
fn wanted(instruction: u64) -> Option<usize> {
    let number = (instruction >> 32) as i32;
    let is_wanted =
        instruction & 0xf0ff == u64::from(MOVE) && (FIRST..FIRST + (1 << 16)).contains(&number);
    is_wanted.then(|| (number - FIRST) as usize)
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

/// Opcodes (RFC 9669, section 4 and 5): `rN = imm`, `rN += rM`, `goto off`, `call imm`, `exit`,
/// `rN = *(u8 *)(rM + off)`, the same of 32 and of 64 bits.
const MOVE: u8 = 0xb7;
const ADD: u8 = 0x0f;
const JUMP: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_BYTE: u8 = 0x71;
const LOAD_WORD: u8 = 0x61;
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
pub(super) fn load(program: &[u64]) -> Option<OwnedFd> {
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

    fn instructions(object: &[u8]) -> Vec<u64> {
        object.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()
    }

    /// Where `object` has other words than [`OBJECT`].
    fn replaced(object: &[u8]) -> Vec<usize> {
        assert_eq!(object.len(), OBJECT.len());
        let (before, after) = (instructions(OBJECT), instructions(object));
        (0..before.len()).filter(|at| before[*at] != after[*at]).collect()
    }

    /// A layout with offset `first` + n for field n.
    fn layout(first: u32) -> KernelLayout {
        let mut layout = KernelLayout::EMPTY;
        for (offset, field) in (first..).zip(KernelLayout::FIELDS) {
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

    /// The constant that is put in for `index` where every switch is on and every field there, from `first` on.
    fn expected(index: usize, first: u32) -> u64 {
        let (index, whether_missing) = asked(index);
        let sum = index.checked_sub(OFFSETS).and_then(|sum| Sum::ALL.get(sum));
        let value = match sum {
            _ if whether_missing => 0,
            _ if index < OFFSETS => first + index as u32,
            Some(sum) => sum.fields().iter().map(|field| first + *field as u32).sum(),
            None => 1,
        };
        value.into()
    }

    /// Holds the object with all constants against the one without. How many loads became one instruction.
    fn check(first: u32) -> usize {
        let layout = layout(first);
        let object = constants(&layout).put_in().unwrap();
        let (before, after) = (instructions(OBJECT), instructions(&object));
        let (mut fields, mut casts, mut loads) = ([0; OFFSETS], 0, Vec::new());
        for at in replaced(&object) {
            if loads.iter().any(|load| (load + 1..load + 3).contains(&at)) {
                continue;
            }
            if before[at] == call(0, CAST) {
                assert_eq!(after[at], DIRECT.call());
                casts += 1;
                continue;
            }
            let index = wanted(before[at]).unwrap();
            let value = expected(index, first);
            if after[at] == instruction(JUMP, 0, 0) {
                let (pointer, load) = (before[at + 1] >> 12 & 0xf, before[at + 2]);
                assert_eq!(after[at + 1], after[at]);
                assert_eq!(after[at + 2], load & 0xfff | pointer << 12 | value << 16);
                loads.push(at);
            } else {
                assert_eq!(after[at], before[at] & 0xffff_ffff | value << 32);
            }
            let (index, _) = asked(index);
            if let Some(field) = fields.get_mut(index) {
                *field += 1;
            } else if let Some(sum) = Sum::ALL.get(index - OFFSETS) {
                for field in sum.fields() {
                    fields[field] += 1;
                }
            }
        }
        let unused = KernelLayout::FIELDS.iter().zip(fields).filter(|(_, count)| *count == 0);
        assert_eq!(unused.map(|(field, _)| field.name).collect::<Vec<_>>(), [""; 0]);
        assert!(casts > 10, "{casts}");
        loads.len()
    }

    #[test]
    fn every_constant_of_the_programs_is_put_in_and_nothing_else_changes() {
        assert!(check(0x1000) > 50);
        // They do not fit into a load.
        assert_eq!(check(0x8000), 0);
    }

    #[test]
    fn what_the_kernel_does_not_have_is_absent_in_a_full_register() {
        let empty = Constants { direct: None, ..constants(&KernelLayout::EMPTY) };
        let object = empty.put_in().unwrap();
        let (before, after) = (instructions(OBJECT), instructions(&object));
        let mut loads = 0;
        for at in replaced(&object) {
            if after[at] == instruction(JUMP, 0, 0) {
                continue;
            }
            let Some(index) = wanted(before[at]) else {
                // A load that another field's number comes before.
                assert_eq!(after[at], instruction(MOVE, (before[at] >> 8) as u8 & 0xf, 0));
                loads += 1;
                continue;
            };
            let (index, whether_missing) = asked(index);
            if index < OFFSETS + Sum::ALL.len() {
                // The processor extends the sign of an immediate: the register is all ones.
                let value = if whether_missing { 1 } else { ABSENT };
                assert_eq!((after[at] >> 32) as u32, value);
                assert_eq!(after[at] & 0xf0ff, 0xb7);
            }
        }
        assert!(loads > 50, "{loads}");
    }

    #[test]
    fn a_call_of_the_kernel_is_encoded_as_it_wants_it() {
        assert_eq!(DIRECT.call().to_le_bytes(), [0x85, 0x20, 0, 0, 0x45, 0x23, 0x01, 0x00]);
    }
}
