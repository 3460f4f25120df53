//! What lookups answer, on small BTF written here, and that damaged BTF does no harm.

use std::{sync::Arc, time::Instant};

use proptest::prelude::*;

use super::{testing::Writer, *};

/// A kernel in small: an embedded struct, anonymous ones, a typedef, a bitfield, a forward
/// declaration and a function.
fn small() -> Writer {
    let mut writer = Writer::new();
    let byte = writer.int("u8", 1);
    let long = writer.int("u64", 8);
    let pointer = writer.pointer(long);
    writer.forward("kvm");
    let stat = writer.structure("kvm_vcpu_stat", 16, &[("exits", long, 0), ("io_exits", long, 8)]);
    let stat = writer.typedef("stat_t", stat);
    let stat = writer.constant(stat);
    let inner = writer.union("", 8, &[("reason", long, 0), ("low", byte, 0)]);
    let inner = writer.structure("", 16, &[("before", long, 0), ("", inner, 8)]);
    let words = writer.array(long, 3);
    let name = writer.name("flag");
    let (kvm, stats, rest, args) =
        (writer.name("kvm"), writer.name("stat"), writer.name(""), writer.name("args"));
    // kind_flag is set, so the upper byte of a place is the width of a bitfield.
    let members = [
        [kvm, pointer, 0],
        [stats, stat, 8 * 8],
        [rest, inner, 24 * 8],
        [name, byte, (1 << 24) | (41 * 8)],
        [args, words, 48 * 8],
    ];
    writer.record("kvm_vcpu", 1 << 31 | 4 << 24 | 5, 72, members.as_flattened());
    writer.typedef("btf_trace_kvm_exit", pointer);
    writer.function("tdh_vp_enter");
    writer.record("kvm_exit_kind", 6 << 24, 4, &[]);
    writer
}

fn parse(writer: &Writer) -> Btf {
    Btf::parse(writer.bytes()).unwrap()
}

#[test]
fn embedded_and_anonymous_members_are_followed_and_their_offsets_add_up() {
    let btf = parse(&small());
    for (path, offset, size, kind) in [
        ("kvm_vcpu.kvm", 0, 8, MemberKind::Pointer),
        ("kvm_vcpu.stat", 8, 16, MemberKind::Struct),
        ("kvm_vcpu.stat.io_exits", 16, 8, MemberKind::Integer),
        ("kvm_vcpu.before", 24, 8, MemberKind::Integer),
        ("kvm_vcpu.low", 32, 1, MemberKind::Integer),
        ("kvm_vcpu.args", 48, 24, MemberKind::Array),
    ] {
        assert_eq!(btf.member(path), Ok(MemberInfo { offset, size, kind }), "{path}");
    }
    assert_eq!(btf.struct_size("kvm_vcpu"), Ok(72));
}

#[test]
fn what_has_no_byte_offset_is_refused_by_name() {
    let btf = parse(&small());
    for (path, reason) in [
        ("kvm_vcpu", "`kvm_vcpu` is not of the form struct.member"),
        ("kvm_vcpu.", "`kvm_vcpu.` is not of the form struct.member"),
        ("kvm_vcpu.flag", "kvm_vcpu.flag is a bitfield; it has no byte offset"),
        ("kvm_vcpu.nothing", "struct kvm_vcpu has no member nothing"),
        ("kvm_vcpu.stat.nothing", "struct kvm_vcpu.stat has no member nothing"),
        ("kvm_vcpu.kvm.arch", "kvm_vcpu.kvm is a pointer; only embedded structs are followed"),
        ("kvm_vcpu.args.r10", "kvm_vcpu.args is an array; only embedded structs are followed"),
        ("kvm.arch", "no struct kvm in BTF"),
        ("vcpu_tdx.vt", "no struct vcpu_tdx in BTF"),
    ] {
        assert_eq!(btf.member(path).unwrap_err().to_string(), reason);
    }
}

#[test]
fn an_integer_of_odd_width_is_an_old_bitfield() {
    let mut writer = Writer::new();
    let bits = writer.record("unsigned int", 1 << 24, 4, &[3]);
    writer.structure("s", 4, &[("bits", bits, 0)]);
    assert!(matches!(parse(&writer).member("s.bits"), Err(BtfError::Bitfield { .. })));
}

#[test]
fn functions_typedefs_enums_and_structs_are_told_apart() {
    let btf = parse(&small());
    assert!(btf.has_func("tdh_vp_enter"));
    assert!(!btf.has_func("tdh_vp") && !btf.has_func("kvm_vcpu"));
    assert!(btf.has_typedef("btf_trace_kvm_exit") && !btf.has_typedef("kvm_vcpu"));
    assert!(btf.has_enum("kvm_exit_kind") && !btf.has_enum("tdh_vp_enter"));
    assert!(btf.has_struct("kvm_vcpu") && !btf.has_struct("kvm"), "a forward declaration is none");
}

#[test]
fn split_btf_adds_to_its_base_and_does_not_stand_alone() {
    let base = Arc::new(parse(&small()));
    let mut writer = Writer::split(base.type_count(), base.string_length());
    // Type 2 of the base is u64.
    let vt = writer.structure("vcpu_vt", 16, &[("pad", 2, 0), ("exit_reason", 2, 8)]);
    writer.structure("vcpu_tdx", 96, &[("vt", vt, 80)]);
    assert!(Btf::parse(writer.bytes()).is_err());

    for parse in [Btf::parse_split, Btf::parse_module] {
        let btf = parse(writer.bytes(), Arc::clone(&base)).unwrap();
        assert!(btf.is_split());
        assert_eq!(btf.member_offset("vcpu_tdx.vt.exit_reason"), Ok(88));
        assert_eq!(btf.member_offset("kvm_vcpu.stat.exits"), Ok(8), "found in the base");
        assert!(btf.has_struct("kvm_vcpu") && !btf.has_own_struct("kvm_vcpu"));
    }
    assert!(base.member("vcpu_tdx.vt").is_err());
}

#[test]
fn btf_that_stands_alone_is_not_taken_for_split() {
    let base = Arc::new(parse(&small()));
    let btf = Btf::parse_module(small().bytes(), base).unwrap();
    assert!(!btf.is_split());
}

#[test]
fn split_btf_over_another_base_is_refused_even_if_all_ids_exist_there() {
    let right = Arc::new(parse(&small()));
    let mut writer = Writer::split(right.type_count(), right.string_length());
    let own = writer.structure("vcpu_vt", 16, &[("pad", 2, 0), ("reason", 2, 8)]);
    writer.structure("vcpu_tdx", 16, &[("vt", own, 0)]);
    assert!(Btf::parse_split(writer.bytes(), right).is_ok());

    let smaller = Arc::new(parse(&Writer::new()));
    let mut larger = small();
    for _ in 0..4 {
        larger.int("a_type_more_with_a_long_name", 4);
    }
    for wrong in [smaller, Arc::new(parse(&larger))] {
        let error = Btf::parse_split(writer.bytes(), wrong).unwrap_err();
        assert!(error.wants_base(), "{error}");
    }
}

#[test]
fn structs_of_one_name_must_agree_about_the_member_asked_for() {
    let mut writer = small();
    writer.structure("kvm_vcpu", 80, &[("kvm", 3, 0), ("stat", 2, 16)]);
    let btf = parse(&writer);
    assert_eq!(btf.member_offset("kvm_vcpu.kvm"), Ok(0), "both have it at 0");
    assert_eq!(btf.member_offset("kvm_vcpu.before"), Ok(24), "only one has it");
    assert_eq!(
        btf.member("kvm_vcpu.stat").unwrap_err().to_string(),
        "BTF has several structs kvm_vcpu, and they disagree about kvm_vcpu.stat"
    );
    assert!(matches!(btf.struct_size("kvm_vcpu"), Err(BtfError::Ambiguous { .. })));
}

#[test]
fn circles_of_types_are_given_up() {
    let mut writer = Writer::new();
    // Type 1 is a typedef of itself; 2 holds itself, anonymously and twice; 3 is an array of itself.
    writer.typedef("circle", 1);
    writer.structure("nest", 8, &[("", 2, 0), ("", 2, 0)]);
    writer.array(3, 2);
    writer.structure("holder", 8, &[("typedef", 1, 0), ("array", 3, 0), ("nest", 2, 0)]);
    let btf = parse(&writer);
    for path in ["holder.typedef", "holder.array", "holder.nest.x", "nest.x"] {
        let asked = Instant::now();
        assert!(matches!(btf.member(path), Err(BtfError::Endless { .. })), "{path}");
        assert!(asked.elapsed().as_secs() < 5, "{path} took {:?}", asked.elapsed());
    }
}

#[test]
fn a_member_outside_its_struct_is_damage() {
    let mut writer = Writer::new();
    let long = writer.int("u64", 8);
    writer.structure("s", 8, &[("beyond", long, 4)]);
    assert!(matches!(parse(&writer).member("s.beyond"), Err(BtfError::Outside { .. })));
}

#[test]
fn kinds_that_came_later_are_stepped_over_when_the_file_describes_them() {
    let mut writer = Writer::new();
    // Kind 20 with a fixed word and two elements of four bytes; bits above the old 5-bit kind.
    writer.record("later", 20 << 24 | 2, 8, &[7, 8, 9]);
    let long = writer.int("u64", 8);
    writer.structure("s", 8, &[("member", long, 0)]);
    let plain = writer.bytes();
    assert_eq!(Btf::parse(plain.clone()).unwrap_err(), BtfError::UnknownKind { id: 1, kind: 20 });

    // The same file with the longer header and a layout section at its end.
    let mut layout = vec![0; 21 * 4];
    layout[20 * 4..].copy_from_slice(&[4, 4, 0, 0]);
    let mut bytes = plain[..24].to_vec();
    bytes[4] = 32;
    bytes.extend(u32::try_from(plain.len() - 24).unwrap().to_le_bytes());
    bytes.extend(u32::try_from(layout.len()).unwrap().to_le_bytes());
    bytes.extend(&plain[24..]);
    bytes.extend(layout);
    assert_eq!(Btf::parse(bytes).unwrap().member_offset("s.member"), Ok(0));
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let mut version = small().bytes();
    version[2] = 2;
    let mut big_endian = small().bytes();
    big_endian[..2].reverse();
    for (bytes, reason) in [
        (b"not BTF at all, but long enough".to_vec(), "not BTF: it starts with 0x6f6e, not 0xeb9f"),
        (Vec::new(), "BTF is cut off: no whole header in 0 bytes"),
        (version, "BTF of version 2; this program reads version 1"),
        (big_endian, "BTF of a big-endian machine; only x86-64 kernels are read"),
    ] {
        assert_eq!(Btf::parse(bytes).unwrap_err().to_string(), reason);
    }
}

/// Asks everything that can be asked; the answers do not matter.
fn ask(btf: &Btf) {
    for path in
        ["kvm_vcpu.stat.io_exits", "kvm_vcpu.low", "kvm_vcpu.flag", "kvm.arch", "vcpu_tdx.vt"]
    {
        let _ = btf.member(path);
    }
    let _ = btf.struct_size("kvm_vcpu");
    let _ = btf.has_func("tdh_vp_enter");
    let _ = btf.has_typedef("stat_t");
    let _ = btf.has_enum("kvm_exit_kind");
}

#[test]
fn btf_cut_off_anywhere_is_refused() {
    let whole = small().bytes();
    for length in 0..whole.len() {
        assert!(Btf::parse(whole[..length].to_vec()).is_err(), "cut at {length}");
    }
}

#[test]
fn any_single_flipped_bit_does_no_harm() {
    let whole = small().bytes();
    let started = Instant::now();
    let mut parsed = 0;
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(btf) = Btf::parse(bytes) {
            ask(&btf);
            parsed += 1;
        }
    }
    assert!(parsed > 100, "most flips must get as far as the lookups, {parsed} did");
    assert!(started.elapsed().as_secs() < 60, "took {:?}", started.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn overwritten_words_do_no_harm(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 0..64_u32), 1..8),
    ) {
        let mut bytes = small().bytes();
        let words = bytes.len() / 4;
        for (place, word, low) in edits {
            // Small numbers hit other types and names, large ones the limits.
            let word = if low < 32 { low } else { word };
            let at = place.index(words) * 4;
            bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        let base = Arc::new(parse(&small()));
        if let Ok(btf) = Btf::parse_module(bytes.clone(), Arc::clone(&base)) {
            ask(&btf);
        }
        if let Ok(btf) = Btf::parse_split(bytes, base) {
            ask(&btf);
        }
    }
}
