use proptest::prelude::*;

use super::*;

/// Verdict, size and length of hex, as `insn_decode()` and `insn_decode_mmio()` have them.
fn kernel(hex: &str) -> (&'static str, u8, Option<u8>) {
    let decoded = decode(&bytes(hex));
    let verdict = Verdict::of(&decoded);
    (verdict.name(), verdict.size(), decoded.ok().map(|insn| insn.len))
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn insn(hex: &str) -> Insn {
    decode(&bytes(hex)).unwrap()
}

#[test]
fn every_mmio_form_has_its_size() {
    for (hex, form, size) in [
        ("88 07", "WRITE", 1),
        ("89 07", "WRITE", 4),
        ("66 89 07", "WRITE", 2),
        ("48 89 07", "WRITE", 8),
        ("66 48 89 07", "WRITE", 8),
        ("c6 07 01", "WRITE_IMM", 1),
        ("66 c7 07 01 02", "WRITE_IMM", 2),
        ("48 c7 07 01 02 03 04", "WRITE_IMM", 8),
        ("8a 07", "READ", 1),
        ("8b 07", "READ", 4),
        ("48 0f b6 07", "READ_ZX", 1),
        ("48 0f b7 07", "READ_ZX", 2),
        ("66 0f be 07", "READ_SX", 1),
        ("48 0f bf 07", "READ_SX", 2),
        ("48 a4", "MOVS", 1),
        ("48 a5", "MOVS", 8),
    ] {
        let len = hex.split(' ').count() as u8;
        assert_eq!(kernel(hex), (form, size, Some(len)), "{hex}");
    }
}

#[test]
fn only_forms_but_movs_survive() {
    for (hex, survives) in [
        ("8b 07", true),
        ("c6 07 01", true),
        ("a4", false),
        ("87 07", false),
        ("c5 f8 04 00", false),
    ] {
        assert_eq!(Verdict::of(&decode(&bytes(hex))).survives(), survives, "{hex}");
    }
}

#[test]
fn lock_rep_and_registers_do_not_change_the_form() {
    assert_eq!(kernel("f0 89 07"), ("WRITE", 4, Some(3)));
    assert_eq!(kernel("f3 f2 8b 07"), ("READ", 4, Some(4)));
    assert_eq!(kernel("89 c7"), ("WRITE", 4, Some(2)));
    // XABORT and XBEGIN share the opcodes of MOV with an immediate.
    assert_eq!(kernel("c6 f8 01"), ("WRITE_IMM", 1, Some(3)));
    assert_eq!(kernel("c7 f8 01 02 03 04"), ("WRITE_IMM", 4, Some(6)));
}

#[test]
fn vector_instructions_with_an_opcode_byte_of_mov_pass_for_one() {
    // VSHUFPS, VCOMPRESSPD, VPEXPANDD.
    assert_eq!(kernel("c5 f8 c6 07 01"), ("WRITE_IMM", 1, Some(5)));
    assert_eq!(kernel("62 f2 fd 48 8a 07"), ("READ", 1, Some(6)));
    assert_eq!(kernel("62 f2 7d 48 89 07"), ("WRITE", 4, Some(6)));
    // The kernel takes the zeroing bit for EVEX.W.
    assert_eq!(kernel("62 f2 7d c9 89 07"), ("WRITE", 8, Some(6)));
    // POPCNT of EVEX map 4 can be 16 bits wide; so can SHLD, which passes for MOVS.
    assert_eq!(kernel("62 f4 7d 08 88 c7"), ("WRITE", 1, Some(6)));
    assert_eq!(kernel("62 f4 7d 08 a5 07"), ("MOVS", 2, Some(6)));
    // XOP: VPHADDWD, VPHADDWQ.
    assert_eq!(kernel("8f e9 78 c6 07"), ("WRITE_IMM", 1, Some(5)));
    assert_eq!(kernel("8f e9 f8 c7 07"), ("WRITE_IMM", 8, Some(5)));
}

#[test]
fn conditional_jumps_behind_rex2_pass_for_mov() {
    assert_eq!(kernel("d5 80 89 01 02 03 04"), ("WRITE", 8, Some(7)));
    assert_eq!(kernel("d5 80 8a 01 02 03 04"), ("READ", 1, Some(7)));
    // MOVZX behind REX2 has no 0f of its own.
    assert_eq!(kernel("d5 80 b6 07"), ("FAILED", 0, Some(4)));
    assert_eq!(kernel("d5 18 89 07"), ("WRITE", 8, Some(4)));
    // Escapes end there, and what 64-bit mode abolished has its operands back.
    assert_eq!(kernel("d5 00 0f b6 07"), ("FAILED", 0, Some(3)));
    assert_eq!(kernel("d5 00 9a 01 02 03 04 05 06"), ("FAILED", 0, Some(9)));
    assert_eq!(decode(&bytes("d5 08 9a 01 02 03 04 05 06 07 08")), Err(Undecodable::Incomplete));
}

#[test]
fn a_vector_prefix_is_not_looked_for_behind_rex() {
    assert_eq!(kernel("c5 f8 c6 07 01").0, "WRITE_IMM");
    assert_eq!(kernel("48 c5 f8"), ("FAILED", 0, Some(3)));
    assert_eq!(kernel("40 62 07"), ("FAILED", 0, Some(3)));
    assert_eq!(kernel("40 8f e9 78"), ("FAILED", 0, Some(3)));
    assert!(matches!(insn("48 c5 f8").encoding, Encoding::Rex(0x48)));
}

#[test]
fn vector_prefixes_only_decode_with_opcodes_that_allow_them() {
    for hex in [
        "c5 f8 89 07",             // JNS has no VEX form
        "c4 e0 78 89 07",          // map 0
        "c4 e8 78 89 07",          // map 8
        "62 f7 78 08 89 07",       // nothing there in map 7
        "c4 e2 79 89 07",          // VPEXPANDD demands EVEX
        "8f e8 78 c6 07",          // not in XOP map 8
        "8f eb 78 c6 07",          // no XOP map 11
        "c5 f8 71 d7 01",          // PSRLW with an MMX register
        "c5 f8 ae 00",             // FXSAVE
        "0f 38 f2 07",             // ANDN without VEX
        "62 f1 7c 08 ae 00 00 00", // group: FXSAVE
    ] {
        assert_eq!(decode(&bytes(hex)), Err(Undecodable::Invalid), "{hex}");
    }
    assert_eq!(kernel("c5 f9 71 d7 01"), ("FAILED", 0, Some(5)));
    assert_eq!(kernel("c5 f8 ae 10"), ("FAILED", 0, Some(4)));
    assert_eq!(kernel("8f 00"), ("FAILED", 0, Some(2)));
}

#[test]
fn unknown_and_abolished_opcodes_decode_as_a_lone_opcode() {
    for (hex, len) in
        [("06", 1), ("82 c0 01", 1), ("9a 01 02 03 04 05 06", 1), ("0f 04", 2), ("0f 38 fe", 3)]
    {
        assert_eq!(kernel(hex), ("FAILED", 0, Some(len)), "{hex}");
    }
}

#[test]
fn a_mandatory_prefix_selects_only_where_the_opcode_varies() {
    // POPCNT has a ModRM byte; the opcode without F3 has none.
    assert_eq!(kernel("f3 0f b8 07"), ("FAILED", 0, Some(4)));
    assert_eq!(kernel("0f b8 07"), ("FAILED", 0, Some(2)));
    // MULX needs VEX, ADOX does not; the last prefix decides.
    assert_eq!(kernel("f2 f3 0f 38 f6 07"), ("FAILED", 0, Some(6)));
    assert_eq!(kernel("f3 f2 0f 38 f6 07"), ("UNDECODABLE", 0, None));
    assert_eq!(kernel("f3 f2 f3 0f 38 f6 07"), ("FAILED", 0, Some(7)));
}

#[test]
fn the_fifth_distinct_prefix_is_taken_for_the_opcode() {
    assert_eq!(kernel("66 67 f2 64 89 07"), ("WRITE", 2, Some(6)));
    assert_eq!(kernel("66 67 f2 64 66 89 07"), ("WRITE", 2, Some(7)));
    assert_eq!(kernel("66 67 f2 64 f0 89 07"), ("FAILED", 0, Some(5)));
    assert_eq!(insn("66 67 f2 64 f0 89 07").opcode, [0xf0, 0, 0]);
}

#[test]
fn repeated_size_prefixes_count_once() {
    assert_eq!(insn("66 66 89 07").operand_size, 2);
    assert_eq!(insn("67 67 89 07").address_size, 4);
}

#[test]
fn rex_before_another_prefix_is_the_opcode() {
    assert_eq!(kernel("48 66 89 07"), ("FAILED", 0, Some(2)));
    assert_eq!(kernel("48 48 89 07"), ("FAILED", 0, Some(2)));
}

#[test]
fn immediates_follow_operand_and_address_size() {
    for (hex, value, len) in [
        ("66 b8 ff ff", -1, 2),
        ("b8 00 00 00 80", i64::from(i32::MIN), 4),
        ("48 b8 08 07 06 05 04 03 02 01", 0x0102_0304_0506_0708, 8),
        ("48 c7 07 ff ff ff ff", -1, 4),
        ("66 68 34 12", 0x1234, 2),
        ("66 e8 04 03 02 01", 0x0102_0304, 4),
        ("c8 34 12 01", 0x01_1234, 3),
        ("6a ff", -1, 1),
        ("c2 34 12", 0x1234, 2),
        ("a1 08 07 06 05 04 03 02 01", 0x0102_0304_0506_0708, 8),
        ("67 a1 04 03 02 01", 0x0102_0304, 4),
        ("f6 00 7f", 0x7f, 1),
        ("f6 10", 0, 0),
        ("d5 00 9a 01 02 03 04 05 06", 0x0605_0403_0201, 6),
        ("8f ea 78 10 07 04 03 02 01", 0x0102_0304, 4),
        ("8f ea 78 12 07 04 03 02 01", 0x0102_0304, 4),
    ] {
        let insn = insn(hex);
        assert_eq!((insn.immediate, insn.immediate_len), (value, len), "{hex}");
        assert_eq!(usize::from(insn.len), hex.split(' ').count(), "{hex}");
    }
}

#[test]
fn address_forms_have_their_sib_and_displacement() {
    for (hex, sib, displacement, len) in [
        ("89 07", None, 0, 0),
        ("89 47 ff", None, -1, 1),
        ("89 87 00 00 00 80", None, i32::MIN, 4),
        ("89 05 10 00 00 00", None, 0x10, 4),
        ("89 04 24", Some(0x24), 0, 0),
        ("89 04 25 10 00 00 00", Some(0x25), 0x10, 4),
        ("89 44 25 10", Some(0x25), 0x10, 1),
        ("67 89 04 25 10 00 00 00", Some(0x25), 0x10, 4),
        ("89 c4", None, 0, 0),
    ] {
        let insn = insn(hex);
        assert_eq!((insn.sib, insn.displacement, insn.displacement_len), (sib, displacement, len));
        assert_eq!(usize::from(insn.len), hex.split(' ').count(), "{hex}");
    }
    assert!(insn("89 05 10 00 00 00").is_rip_relative());
    assert!(!insn("89 45 10").is_rip_relative());
    assert!(insn("89 07").has_memory_operand() && !insn("89 c7").has_memory_operand());
}

#[test]
fn prefixes_are_told_apart() {
    let prefixes = insn("f0 65 48 89 07").prefixes;
    assert!(prefixes.lock() && !prefixes.repeat() && !prefixes.contains(0x66));
    assert_eq!((prefixes.segment(), prefixes.len, prefixes.last), (Some(Segment::Gs), 2, 0x65));
    let prefixes = insn("64 f3 a4").prefixes;
    assert_eq!((prefixes.segment(), prefixes.repeat()), (Some(Segment::Fs), true));
    assert_eq!(insn("64 65 89 07").prefixes.segment(), None);
}

#[test]
fn an_emulation_marker_belongs_to_the_instruction() {
    assert_eq!(kernel("0f 0b 6b 76 6d 89 07"), ("WRITE", 4, Some(7)));
    assert_eq!(kernel("0f 0b 78 65 6e 66 89 07"), ("WRITE", 2, Some(8)));
    assert_eq!(kernel("0f 0b 6b 76 6e 89 07"), ("FAILED", 0, Some(2)));
    assert_eq!(kernel("66 0f 0b 6b 76 6d"), ("FAILED", 0, Some(3)));
    assert!(insn("0f 0b 6b 76 6d 89 07").emulate_prefix);
}

#[test]
fn missing_bytes_and_the_sixteenth_are_the_same_to_the_kernel() {
    assert_eq!(decode(&[]), Err(Undecodable::Incomplete));
    for hex in ["66", "48", "d5", "d5 00", "c5 f8", "c4 e1", "62 f1 7c", "8f", "8f e9", "89", "0f"]
    {
        assert_eq!(decode(&bytes(hex)), Err(Undecodable::Incomplete), "{hex}");
    }
    let prefixed = |count: usize| [vec![0x66; count], vec![0x89, 0x07]].concat();
    assert_eq!(decode(&prefixed(13)).map(|insn| insn.len), Ok(15));
    assert_eq!(decode(&prefixed(14)), Err(Undecodable::Incomplete));
}

#[test]
fn zeros_stand_in_for_bytes_that_are_not_given() {
    let judged = judge(&bytes("40 c6"));
    assert_eq!((judged.verdict.name(), judged.len, judged.truncated), ("WRITE_IMM", Some(4), true));
    let judged = judge(&bytes("40 c6 00 00"));
    assert_eq!((judged.len, judged.truncated), (Some(4), false));
    // An instruction that ends at none of its 15 bytes is too long, not cut.
    let judged = judge(&[0x66; 15]);
    assert_eq!((judged.verdict, judged.truncated), (Verdict::Undecodable, false));
    assert!(!judge(&bytes("c5 f8 89 07")).truncated);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn an_instruction_is_no_longer_than_its_bytes(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
        if let Ok(insn) = decode(&bytes) {
            prop_assert!((1..=bytes.len().min(MAX_LEN)).contains(&usize::from(insn.len)));
            prop_assert!((1..=3).contains(&insn.opcode_len));
            prop_assert!([2, 4, 8].contains(&insn.operand_size));
        }
    }

    #[test]
    fn bytes_behind_an_instruction_do_not_change_it(
        bytes in prop::collection::vec(any::<u8>(), 1..16),
        more in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        // UD2 may become an emulation marker.
        prop_assume!(!bytes.starts_with(&[0x0f, 0x0b]));
        if let Ok(insn) = decode(&bytes) {
            let own = usize::from(insn.len);
            prop_assert_eq!(decode(&bytes[..own]), Ok(insn));
            prop_assert_eq!(decode(&[&bytes[..own], &more].concat()), Ok(insn));
            prop_assert_eq!(decode(&bytes[..own - 1]), Err(Undecodable::Incomplete));
        }
    }

    #[test]
    fn a_judgement_names_a_form_exactly_where_it_has_a_size(
        bytes in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let judged = judge(&bytes);
        let has_form = matches!(judged.verdict, Verdict::Mmio { .. });
        prop_assert_eq!([1, 2, 4, 8].contains(&judged.verdict.size()), has_form);
        prop_assert_eq!(judged.len.is_none(), judged.verdict == Verdict::Undecodable);
        prop_assert!(!judged.truncated || bytes.len() < MAX_LEN);
    }
}
