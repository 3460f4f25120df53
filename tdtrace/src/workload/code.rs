//! The guest's program, as bytes. Pure.
//!
//! It runs in 32-bit protected mode, flat, without paging and, but for halts, without interrupts and a
//! stack, so that any GPA can be reached and every flavour of KVM, emulating ones too, knows all of its
//! instructions. ESI
//! points at the vCPU's [`super::control`] block; `limit`, `entry`, `made` and `signed_off` are its
//! words. For each kind there is a loop, unrolled over the places:
//!
//! ```text
//! kind:   31 ed              xor   ebp, ebp
//!         3b 6e dd           cmp   ebp, [esi + limit]
//!         0f 83 rel32        jae   done                  nothing of this kind
//!         ff 66 dd           jmp   [esi + entry]         the place that is next
//! place0: …                  the access
//!         45                 inc   ebp
//!         3b 6e dd           cmp   ebp, [esi + limit]
//!         0f 83 rel32        jae   done
//! place1: …
//!         45                 inc   ebp
//!         3b 6e dd           cmp   ebp, [esi + limit]
//!         0f 82 rel32        jb    place0                the last place
//! done:   89 6e dd           mov   [esi + made], ebp
//! ```
//!
//! The accesses:
//!
//! ```text
//! pio_out    ba imm32          mov edx, port      ee | 66 ef | ef    out dx, al | ax | eax
//! pio_in     ba imm32          mov edx, port      ec | 66 ed | ed    in  al | ax | eax, dx
//! mmio_write a2 | 66 a3 | a3   mov [gpa], al | ax | eax
//! mmio_read  a0 | 66 a1 | a1   mov al | ax | eax, [gpa]
//! fast_mmio  as mmio_write
//! cpuid      b8 imm32          mov eax, leaf      31 c9  xor ecx, ecx   0f a2  cpuid
//! msr_read   b9 imm32          mov ecx, msr       0f 32  rdmsr
//! msr_write  b9 imm32          mov ecx, msr       31 c0  xor eax, eax
//!                                                 31 d2  xor edx, edx   0f 30  wrmsr
//! hlt        f4                hlt
//! halt       ff 86 disp32      inc dword [esi + halting]
//!            fb  sti           f4  hlt           fa  cli
//! ```
//!
//! At the end the slice signs off, and begins anew when the VMM enters again. Where the kernel serves
//! HLT, that is an OUT:
//!
//! ```text
//!         c7 46 dd 01 00 00 00   mov   dword [esi + signed_off], 1
//!         f4                     hlt                        without halts
//!         ba imm32               mov   edx, SIGN_OFF_PORT   with halts
//!         ee                     out   dx, al
//!         e9 rel32               jmp   the first kind
//! ```
//!
//! Interrupts are on only from `sti` to the end of its `hlt`, so that each one ends one halt. The
//! handler:
//!
//! ```text
//!         ff 86 disp32           inc   dword [esi + interrupts]
//!         b9 imm32               mov   ecx, IA32_X2APIC_EOI
//!         31 c0  31 d2           xor   eax, eax; xor edx, edx
//!         0f 30                  wrmsr
//!         cf                     iretd
//! ```

use super::{
    control::Word,
    kind::Kind,
    plan::{MAX_PLACES, Plan, SIGN_OFF_PORT},
};

/// End of interrupt, of a local APIC in x2APIC mode (SDM vol. 3, 13.12.1.2).
const IA32_X2APIC_EOI: u32 = 0x80b;

/// The program of all vCPUs of a VM.
#[derive(Clone, Debug)]
pub(super) struct GuestCode {
    bytes: Vec<u8>,
    base: u32,
    /// Offset of each place's access, by kind.
    places: [Vec<usize>; Kind::ALL.len()],
    /// Offset of the handler of interrupts.
    handler: usize,
}

impl GuestCode {
    /// More than any plan's program has, in bytes.
    pub(super) const MAX_BYTES: usize = Kind::ALL.len() * MAX_PLACES as usize * 32;

    /// Assembles the program of a checked plan for guest address `base`.
    pub(super) fn assemble(plan: &Plan, base: u32) -> Self {
        let mut code = Assembler::default();
        let mut places: [Vec<usize>; Kind::ALL.len()] = Default::default();
        for kind in Kind::ALL {
            places[kind as usize] = code.counted_loop(plan, kind);
        }
        code.sign_off(plan);
        let handler = code.handler();
        Self { bytes: code.0, base, places, handler }
    }

    /// The machine code.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The guest address of `kind`'s access number `made`, when the places are gone through in
    /// turn.
    pub(super) fn entry(&self, kind: Kind, made: u64) -> u32 {
        let places = &self.places[kind as usize];
        let offset = usize::try_from(made % places.len().max(1) as u64)
            .ok()
            .and_then(|place| places.get(place))
            .copied()
            .unwrap_or(0);
        self.address(offset)
    }

    /// The guest address of the handler of interrupts.
    pub(super) fn handler(&self) -> u32 {
        self.address(self.handler)
    }

    fn address(&self, offset: usize) -> u32 {
        // The code has at most MAX_BYTES bytes.
        self.base + u32::try_from(offset).unwrap_or(0)
    }
}

/// Bytes, with the few instructions that need more than a literal.
#[derive(Debug, Default)]
struct Assembler(Vec<u8>);

/// A jump whose distance is not known yet: the offset of its rel32.
struct Jump(usize);

impl Assembler {
    fn here(&self) -> usize {
        self.0.len()
    }

    fn emit(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn emit_imm32(&mut self, opcode: &[u8], immediate: u32) {
        self.emit(opcode);
        self.emit(&immediate.to_le_bytes());
    }

    fn jump(&mut self, opcode: &[u8]) -> Jump {
        self.emit_imm32(opcode, 0);
        Jump(self.here() - 4)
    }

    /// Makes `jump` lead to `target`.
    fn land(&mut self, jump: &Jump, target: usize) {
        let next = jump.0 + 4;
        // Both are far below 2³¹; the difference in two's complement is the distance.
        let distance = (target as u32).wrapping_sub(next as u32);
        if let Some(field) = self.0.get_mut(jump.0..next) {
            field.copy_from_slice(&distance.to_le_bytes());
        }
    }

    fn compare_with_limit(&mut self, kind: Kind) {
        self.emit(&[0x3b, 0x6e, Word::Limit(kind).displacement()]);
    }

    /// The loop of `kind`; the offsets of its accesses.
    fn counted_loop(&mut self, plan: &Plan, kind: Kind) -> Vec<usize> {
        let places = if matches!(kind, Kind::Hlt | Kind::Halt) { 1 } else { plan.places };
        let mut offsets = Vec::new();
        self.emit(&[0x31, 0xed]);
        self.compare_with_limit(kind);
        let mut exits = vec![self.jump(&[0x0f, 0x83])];
        self.emit(&[0xff, 0x66, Word::Entry(kind).displacement()]);
        for place in 0..places {
            offsets.push(self.here());
            self.access(plan, kind, plan.address(kind, place).unwrap_or(0));
            self.emit(&[0x45]);
            self.compare_with_limit(kind);
            if place + 1 < places {
                exits.push(self.jump(&[0x0f, 0x83]));
            }
        }
        let again = self.jump(&[0x0f, 0x82]);
        self.land(&again, offsets.first().copied().unwrap_or(0));
        let done = self.here();
        for exit in &exits {
            self.land(exit, done);
        }
        self.emit(&[0x89, 0x6e, Word::Made(kind).displacement()]);
        offsets
    }

    fn access(&mut self, plan: &Plan, kind: Kind, address: u32) {
        match kind {
            Kind::PioOut | Kind::PioIn => {
                self.emit_imm32(&[0xba], address);
                self.sized(plan.size(kind), if kind == Kind::PioOut { 0xee } else { 0xec });
            }
            Kind::MmioWrite | Kind::FastMmio => {
                self.sized(plan.size(kind), 0xa2);
                self.emit(&address.to_le_bytes());
            }
            Kind::MmioRead => {
                self.sized(plan.size(kind), 0xa0);
                self.emit(&address.to_le_bytes());
            }
            Kind::Cpuid => {
                self.emit_imm32(&[0xb8], address);
                self.emit(&[0x31, 0xc9, 0x0f, 0xa2]);
            }
            Kind::MsrRead => {
                self.emit_imm32(&[0xb9], address);
                self.emit(&[0x0f, 0x32]);
            }
            Kind::MsrWrite => {
                self.emit_imm32(&[0xb9], address);
                self.emit(&[0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30]);
            }
            Kind::Hlt => self.emit(&[0xf4]),
            Kind::Halt => {
                self.count_up(Word::Halting);
                self.emit(&[0xfb, 0xf4, 0xfa]);
            }
        }
    }

    /// Counts up a word that an 8-bit displacement need not reach.
    fn count_up(&mut self, word: Word) {
        self.emit_imm32(&[0xff, 0x86], word.displacement().into());
    }

    /// An opcode whose 16- and 32-bit form is the next number.
    fn sized(&mut self, size: u32, byte_form: u8) {
        match size {
            1 => self.emit(&[byte_form]),
            2 => self.emit(&[0x66, byte_form + 1]),
            _ => self.emit(&[byte_form + 1]),
        }
    }

    fn sign_off(&mut self, plan: &Plan) {
        self.emit_imm32(&[0xc7, 0x46, Word::SignedOff.displacement()], 1);
        if plan.sign_off() == Kind::Hlt {
            self.emit(&[0xf4]);
        } else {
            self.emit_imm32(&[0xba], SIGN_OFF_PORT.into());
            self.emit(&[0xee]);
        }
        let again = self.jump(&[0xe9]);
        self.land(&again, 0);
    }

    /// The handler of interrupts; where it is.
    fn handler(&mut self) -> usize {
        let start = self.here();
        self.count_up(Word::Interrupts);
        self.emit_imm32(&[0xb9], IA32_X2APIC_EOI);
        self.emit(&[0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30, 0xcf]);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::{super::kind::Counts, *};

    const BASE: u32 = 0x1000;

    fn assemble(plan: &Plan) -> GuestCode {
        GuestCode::assemble(plan, BASE)
    }

    /// Bytes from `kind`'s place number `made` on.
    fn at(code: &GuestCode, kind: Kind, made: u64) -> &[u8] {
        &code.bytes()[(code.entry(kind, made) - BASE) as usize..]
    }

    #[test]
    fn accesses_are_the_instructions_of_the_listing() {
        let code = assemble(&Plan::default());
        let expected: [(Kind, &[u8]); 10] = [
            (Kind::PioOut, &[0xba, 0x00, 0x05, 0, 0, 0xee, 0x45]),
            (Kind::PioIn, &[0xba, 0x00, 0x05, 0, 0, 0xec, 0x45]),
            (Kind::MmioWrite, &[0xa3, 0x00, 0x00, 0x00, 0xd0, 0x45]),
            (Kind::MmioRead, &[0xa1, 0x00, 0x10, 0x00, 0xd0, 0x45]),
            (Kind::FastMmio, &[0xa3, 0x00, 0x20, 0x00, 0xd0, 0x45]),
            (Kind::Cpuid, &[0xb8, 0, 0, 0, 0, 0x31, 0xc9, 0x0f, 0xa2, 0x45]),
            (Kind::MsrRead, &[0xb9, 0x8b, 0, 0, 0, 0x0f, 0x32, 0x45]),
            (Kind::MsrWrite, &[0xb9, 0x8b, 0, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f, 0x30, 0x45]),
            (Kind::Hlt, &[0xf4, 0x45]),
            (Kind::Halt, &[0xff, 0x86, 128, 0, 0, 0, 0xfb, 0xf4, 0xfa, 0x45]),
        ];
        for (kind, bytes) in expected {
            assert!(at(&code, kind, 0).starts_with(bytes), "{kind:?}");
        }
    }

    #[test]
    fn the_access_size_chooses_the_opcode() {
        for (size, out, read) in [
            (1, &[0xee][..], &[0xa0][..]),
            (2, &[0x66, 0xef], &[0x66, 0xa1]),
            (4, &[0xef], &[0xa1]),
        ] {
            let code = assemble(&Plan { pio_size: size, mmio_size: size, ..Plan::default() });
            assert!(at(&code, Kind::PioOut, 0)[5..].starts_with(out));
            assert!(at(&code, Kind::MmioRead, 0).starts_with(read));
        }
    }

    #[test]
    fn places_are_entered_in_turn() {
        let plan = Plan { places: 3, ..Plan::default() };
        let code = assemble(&plan);
        for made in 0..7 {
            let port = plan.address(Kind::PioOut, (made % 3) as u32).unwrap();
            assert_eq!(at(&code, Kind::PioOut, made)[1..5], port.to_le_bytes());
            assert_eq!(at(&code, Kind::Hlt, made)[0], 0xf4);
        }
    }

    /// Runs the program: just enough of a CPU for the instructions of the listing. Returns the
    /// accesses and the `made` words.
    fn interpret(
        code: &GuestCode,
        limits: &[u32; 10],
        made_before: u64,
    ) -> (Vec<Vec<u8>>, [u32; 10]) {
        let bytes = code.bytes();
        let (mut at, mut ebp, mut below, mut ecx_msr) = (0usize, 0u32, false, Vec::new());
        let (mut trace, mut made) = (Vec::new(), [0; 10]);
        let limit = |dd: u8| limits[dd as usize / 4 - 10];
        loop {
            let rel = |n: usize| {
                let field: [u8; 4] = bytes[at + n..at + n + 4].try_into().unwrap();
                (at + n + 4).wrapping_add_signed(i32::from_le_bytes(field) as isize)
            };
            match bytes[at..] {
                [0x31, 0xed, ..] => (ebp, at) = (0, at + 2),
                [0x3b, 0x6e, dd, ..] => (below, at) = (ebp < limit(dd), at + 3),
                [0x0f, 0x83, ..] => at = if below { at + 6 } else { rel(2) },
                [0x0f, 0x82, ..] => at = if below { rel(2) } else { at + 6 },
                [0xff, 0x66, dd, ..] => {
                    let kind = Kind::ALL[dd as usize / 4];
                    at = (code.entry(kind, made_before) - BASE) as usize;
                }
                [0x45, ..] => (ebp, at) = (ebp + 1, at + 1),
                [0x89, 0x6e, dd, ..] => (made[dd as usize / 4 - 20], at) = (ebp, at + 3),
                [0xc7, 0x46, _, 1, 0, 0, 0, 0xf4, 0xe9, ..] => {
                    at += 8;
                    let field: [u8; 4] = bytes[at + 1..at + 5].try_into().unwrap();
                    assert_eq!((at + 5).wrapping_add_signed(i32::from_le_bytes(field) as isize), 0);
                    assert_eq!(code.handler() - BASE, at as u32 + 5);
                    return (trace, made);
                }
                [0xb8..=0xba, a, b, c, d, ..] => {
                    (ecx_msr, at) = (vec![bytes[at], a, b, c, d], at + 5);
                }
                [0x31, 0xc0 | 0xc9 | 0xd2, ..] => at += 2,
                [0xee | 0xec, ..] => {
                    trace.push([&ecx_msr[..], &bytes[at..=at]].concat());
                    at += 1;
                }
                [0x0f, 0xa2 | 0x32 | 0x30, ..] => {
                    trace.push([&ecx_msr[..], &bytes[at..at + 2]].concat());
                    at += 2;
                }
                [0xa1 | 0xa3, ..] => {
                    trace.push(bytes[at..at + 5].to_vec());
                    at += 5;
                }
                [0xf4, ..] => {
                    trace.push(vec![0xf4]);
                    at += 1;
                }
                [0xff, 0x86, 128, 0, 0, 0, 0xfb, 0xf4, 0xfa, ..] => {
                    trace.push(bytes[at..at + 9].to_vec());
                    at += 9;
                }
                _ => panic!("byte {at} is no instruction of the listing"),
            }
        }
    }

    #[test]
    fn the_program_makes_exactly_its_limits_in_turn_over_the_places() {
        for places in [1, 2, MAX_PLACES] {
            let plan = Plan { places, ..Plan::default() };
            let code = assemble(&plan);
            let limits = [5, 0, 17, 1, 33, 2, 16, 3, 4, 6];
            let (trace, made) = interpret(&code, &limits, 1);
            assert_eq!(made, limits);
            assert_eq!(trace.len() as u32, limits.iter().sum::<u32>());
            let ports: Vec<u32> = trace[..5]
                .iter()
                .map(|a| u32::from_le_bytes(a[1..5].try_into().unwrap()))
                .collect();
            let expected: Vec<u32> =
                (1..6).map(|n| plan.address(Kind::PioOut, n % places).unwrap()).collect();
            assert_eq!(ports, expected);
            let writes = trace.iter().filter(|access| access[0] == 0xa3).count();
            assert_eq!(writes, 17 + 33);
        }
    }

    #[test]
    fn a_guest_with_halts_signs_off_by_an_out_and_handles_interrupts() {
        let plan = Plan { counts: Counts::from_iter([(Kind::Halt, 1)]), ..Plan::default() };
        let code = assemble(&plan);
        let handler = (code.handler() - BASE) as usize;
        assert_eq!(
            code.bytes()[handler..],
            [
                0xff, 0x86, 132, 0, 0, 0, 0xb9, 0x0b, 0x08, 0, 0, 0x31, 0xc0, 0x31, 0xd2, 0x0f,
                0x30, 0xcf
            ]
        );
        assert_eq!(code.bytes()[handler - 11..handler - 4], [0xba, 0xf4, 0, 0, 0, 0xee, 0xe9]);
        let without = assemble(&Plan::default());
        let end = (without.handler() - BASE) as usize;
        assert_eq!(without.bytes()[end - 6..end - 4], [0xf4, 0xe9]);
    }

    #[test]
    fn the_largest_program_has_room() {
        let plan = Plan { places: MAX_PLACES, mmio_size: 2, pio_size: 2, ..Plan::default() };
        assert!(assemble(&plan).bytes().len() <= GuestCode::MAX_BYTES);
    }
}
