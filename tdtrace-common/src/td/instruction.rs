//! TDVMCALLs for an instruction of the guest: what each is and where its registers say what it accesses.
//!
//! As a table, because these are most of a TD's exits and come in any order: a branch for each of them is a
//! branch that the CPU guesses wrong.

use super::{REASON_TD, Register, TdExit, TdRegisters, WRITES, call};
use crate::counters::{COUNTS, Class};

/// Leaves that are the VMX exit reason of an instruction.
const INSTRUCTIONS: usize = 128;

/// The part of a register that is a number of 32 bits.
const LOW: u64 = 0xffff_ffff;

/// One of these calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Which part of R14 is the address.
    address: u64,
    /// Which part of R12 is the size; the rest of its lower half is the address.
    size: u32,
    /// The kind, [`TdExit`] as a number.
    kind: u8,
    /// The class of the access, [`Class`] as a number; [`COUNTS`] if it accesses nothing that is counted.
    class: u8,
    /// `WRITES` if R13 tells writes from reads, whose kind and class are the next numbers; else 0.
    direction: u8,
    /// Room.
    reserved: u8,
}

/// What the guest asked to access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// [`Class`] as a number.
    pub class: u64,
    /// Guest physical address without the shared bit, port, MSR index or CPUID leaf.
    pub address: u64,
    /// Bytes; 0 where the class has no size.
    pub size: u64,
}

/// By leaf.
static TABLE: [Instruction; INSTRUCTIONS] = table();

const fn table() -> [Instruction; INSTRUCTIONS] {
    let mut table = [Instruction::of(0); INSTRUCTIONS];
    let mut leaf = 0;
    while leaf < INSTRUCTIONS {
        table[leaf] = Instruction::of(leaf as u64);
        leaf += 1;
    }
    table
}

impl Instruction {
    const fn of(leaf: u64) -> Self {
        let (kind, writes) = (call(leaf, false), call(leaf, true));
        let has_direction = kind as u8 != writes as u8;
        let (class, address, size) = match kind {
            TdExit::Cpuid => (Class::Cpuid as u8, 0, 0),
            TdExit::Rdmsr => (Class::MsrRead as u8, 0, 0),
            TdExit::Wrmsr => (Class::MsrWrite as u8, 0, 0),
            TdExit::IoIn => (Class::PioIn as u8, 0xffff, LOW),
            TdExit::MmioRead => (Class::MmioRead as u8, u64::MAX, LOW),
            _ => (COUNTS as u8, 0, 0),
        };
        assert!(!has_direction || writes as u8 == kind as u8 + 1);
        Self {
            address,
            size: size as u32,
            kind: kind as u8,
            class,
            direction: if has_direction { WRITES as u8 } else { 0 },
            reserved: 0,
        }
    }
}

const _: () = assert!(Class::PioOut as u8 == Class::PioIn as u8 + 1);
const _: () = assert!(Class::MmioWrite as u8 == Class::MmioRead as u8 + 1);

impl Instruction {
    /// The instruction for which the guest called, if that is what it called for. The exit's reason is TDCALL.
    #[must_use]
    #[inline(always)]
    pub fn called<F: Fn(Register) -> u64>(registers: &TdRegisters<F>) -> Option<&'static Self> {
        if registers.get(Register::R10) != 0 {
            return None;
        }
        let instruction = TABLE.get(registers.get(Register::R11) as usize)?;
        (instruction.kind != TdExit::UnknownLeaf as u8).then_some(instruction)
    }

    /// Its index of [`crate::counters::VcpuSlot::reasons`], and what it accesses.
    #[must_use]
    #[inline(always)]
    pub fn access<F: Fn(Register) -> u64>(&self, registers: &TdRegisters<F>) -> (usize, Access) {
        let writes = u64::from(self.direction) & registers.get(Register::R13);
        let operand = registers.get(Register::R12) & LOW;
        let size = u64::from(self.size);
        let address = registers.get(Register::R14) & self.address & !registers.shared_bit;
        let access = Access {
            class: u64::from(self.class) + writes,
            address: address | operand & !size,
            size: operand & size,
        };
        (REASON_TD + usize::from(self.kind) + writes as usize, access)
    }
}

impl Access {
    /// Whether it is one that is counted.
    #[must_use]
    #[inline(always)]
    pub const fn is_counted(&self) -> bool {
        self.class < COUNTS as u64
    }
}
