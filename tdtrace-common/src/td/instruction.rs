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

const _: () = assert!(Class::PioOut as u8 == Class::PioIn as u8 + 1);
const _: () = assert!(Class::MmioWrite as u8 == Class::MmioRead as u8 + 1);

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

#[cfg(test)]
mod tests {
    use super::*;

    const SHARED: u64 = 1 << 51;

    /// The index of a call with these registers, by the table, and what it accesses.
    fn called(leaf: u64, r12: u64, r13: u64, r14: u64) -> Option<(usize, Access)> {
        let read = move |register| match register {
            Register::R11 => leaf,
            Register::R12 => r12,
            Register::R13 => r13,
            Register::R14 => r14,
            _ => 0,
        };
        let registers = TdRegisters { read, shared_bit: SHARED };
        Some(Instruction::called(&registers)?.access(&registers))
    }

    fn access(class: Class, address: u64, size: u64) -> Access {
        Access { class: class as u64, address, size }
    }

    #[test]
    fn the_table_has_the_kind_of_every_instruction() {
        for leaf in (0..200).chain([0x10001, u64::MAX]) {
            for r13 in [0, 1] {
                let read = move |register| match register {
                    Register::Ret => 77,
                    Register::R11 => leaf,
                    Register::R13 => r13,
                    _ => 0,
                };
                let kind = TdRegisters { read, shared_bit: SHARED }.kind().unwrap();
                let index = called(leaf, 0, r13, 0).map(|(index, _)| index);
                let is_here = kind.is_tdvmcall() && kind < TdExit::GetInfo;
                assert_eq!(index, is_here.then(|| kind.reason_index()), "leaf {leaf}");
            }
        }
    }

    #[test]
    fn registers_that_say_nothing_of_an_access_are_left_out() {
        let noise = 0xaaaa_bbbb_0000_0000;
        let of = |leaf, r12, r13, r14| called(leaf, r12, r13, r14).unwrap().1;
        assert_eq!(of(10, noise | 7, 1, noise), access(Class::Cpuid, 7, 0));
        assert_eq!(of(31, noise | 0x6e0, 1, noise), access(Class::MsrRead, 0x6e0, 0));
        assert_eq!(of(32, noise | 0x6e0, 0, noise), access(Class::MsrWrite, 0x6e0, 0));
        assert_eq!(of(30, noise | 2, 0, noise | 0x510), access(Class::PioIn, 0x510, 2));
        assert_eq!(of(30, noise | 2, 1, noise | 0x510), access(Class::PioOut, 0x510, 2));
        assert_eq!(
            of(48, noise | 8, 0, SHARED | 0xfec0_0000),
            access(Class::MmioRead, 0xfec0_0000, 8)
        );
        assert_eq!(
            of(48, noise | 8, 1, SHARED | 0xfec0_0000),
            access(Class::MmioWrite, 0xfec0_0000, 8)
        );
        assert!([12, 54, 65].iter().all(|leaf| !of(*leaf, 1, 1, 1).is_counted()));
    }
}
