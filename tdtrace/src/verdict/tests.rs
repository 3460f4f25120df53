//! Verdicts on small cases; `tests/verdict_sites.rs` has sites of a kernel.

use proptest::prelude::*;

use super::*;

const MOV_LOAD: &[u8] = &[0x8b, 0x42, 0x10];
const MOV_STORE: &[u8] = &[0x89, 0x02];
const TEST: &[u8] = &[0xf7, 0x47, 0x14, 1, 0, 0, 0];
const MOVZX: &[u8] = &[0x0f, 0xb6, 0x42, 0x10];
const REP_MOVS: &[u8] = &[0xf3, 0xa5];
const MOVDIR64B: &[u8] = &[0x66, 0x0f, 0x38, 0xf8, 0x07];
const IN_BYTE: &[u8] = &[0xec];
const REP_INS: &[u8] = &[0xf3, 0x6c];

fn frames(chain: &[(&str, &str)]) -> Vec<Frame> {
    let frame = |&(function, file): &(&str, &str)| Frame {
        function: function.into(),
        file: (!file.is_empty()).then(|| file.into()),
        line: Some(7),
    };
    chain.iter().map(frame).collect()
}

/// The verdict on `bytes` with a chain of functions.
fn with(bytes: &[u8], chain: &[(&str, &str)]) -> Verdict {
    judge(&Access::of(bytes, Some(&frames(chain))))
}

fn without(bytes: &[u8]) -> Verdict {
    judge(&Access::of(bytes, None))
}

const IO_H: &str = "arch/x86/include/asm/io.h";

#[test]
fn an_accessor_in_the_chain_makes_it_one() {
    let verdict = with(MOV_LOAD, &[("readl", IO_H), ("nvme_poll", "drivers/nvme/host/pci.c")]);
    assert_eq!(verdict.kind, Kind::IoAccessor);
    assert!(verdict.evidence[0].contains("readl ← nvme_poll"), "{verdict:?}");
    assert!(verdict.evidence[0].contains("arch/x86/include/asm/io.h:59"), "{verdict:?}");
    assert_eq!(verdict.survives.fate, Fate::Emulated);
}

#[test]
fn the_io_apics_struct_overlay_goes_through_readl_today() {
    let chain = [
        ("readl", IO_H),
        ("native_io_apic_read", "arch/x86/kernel/apic/io_apic.c"),
        ("io_apic_read", "arch/x86/kernel/apic/io_apic.c"),
    ];
    assert_eq!(with(MOV_LOAD, &chain).kind, Kind::IoAccessor);
}

#[test]
fn accessors_outside_io_h_are_the_architectures() {
    for chain in [
        &[("mmio_config_readl", "arch/x86/include/asm/pci_x86.h"), ("pci_mmcfg_read", "")][..],
        &[("readl", IO_H), ("native_apic_mem_read", "arch/x86/include/asm/apic.h")],
    ] {
        assert_eq!(with(MOV_LOAD, chain).kind, Kind::ArchAccessor, "{chain:?}");
    }
}

#[test]
fn accessors_that_a_td_cannot_emulate_are_told_apart() {
    let copy = with(REP_MOVS, &[("__iowrite32_copy", IO_H), ("acme_push", "acme.c")]);
    assert_eq!((copy.kind, copy.survives.fate), (Kind::IoAccessorNotTdSafe, Fate::Fatal));
    let chain = [
        ("movdir64b", "arch/x86/include/asm/special_insns.h"),
        ("movdir64b_io", "arch/x86/include/asm/special_insns.h"),
        ("iosubmit_cmds512", IO_H),
        ("idxd_submit_desc", "drivers/dma/idxd/submit.c"),
    ];
    let submit = with(MOVDIR64B, &chain);
    assert_eq!((submit.kind, submit.survives.fate), (Kind::IoAccessorNotTdSafe, Fate::Fatal));
}

#[test]
fn a_chain_without_accessors_is_a_pointer_dereference() {
    let verdict = with(MOV_LOAD, &[("acme_stat", "drivers/net/acme/nic.c")]);
    assert_eq!(verdict.kind, Kind::PointerDereference);
    assert_eq!(verdict.advice, "read it with readl()");
    let own = with(MOV_LOAD, &[("readl", "drivers/net/acme/nic.h"), ("acme_stat", "nic.c")]);
    assert_eq!(own.kind, Kind::PointerDereference);
    assert!(own.evidence[1].contains("is not the one of arch/x86/include/asm/io.h"), "{own:?}");
    let direct = with(MOVDIR64B, &[("movdir64b", "arch/x86/include/asm/special_insns.h")]);
    assert_eq!(direct.kind, Kind::PointerDereference);
}

#[test]
fn the_chain_outranks_the_form() {
    let verdict = with(TEST, &[("readl", IO_H), ("acme_isr", "acme.c")]);
    assert_eq!((verdict.kind, verdict.survives.fate), (Kind::IoAccessor, Fate::Fatal));
    assert!(verdict.evidence[1].contains("TEST is not what readl emits"), "{verdict:?}");
}

#[test]
fn a_form_that_no_accessor_has_proves_a_dereference_without_a_chain() {
    for (bytes, fate) in [
        (TEST, Fate::Fatal),
        (MOVZX, Fate::Emulated),
        (&[0xc7, 0x02, 0, 0, 0, 0], Fate::Emulated),
        (&[0xf3, 0xaa], Fate::Fatal),
        (&[0x87, 0x02], Fate::Fatal),
        (&[0x0f, 0x11, 0x02], Fate::Fatal),
    ] {
        let verdict = without(bytes);
        assert_eq!((verdict.kind, verdict.survives.fate), (Kind::PointerDereference, fate));
    }
}

#[test]
fn every_sentence_of_evidence_begins_and_ends_as_one() {
    let chain = frames(&[("readl", IO_H)]);
    for bytes in [TEST, MOVZX, &[0x0f, 0x11, 0x02], &[0x89, 0xc8], &[0xc0, 0x22, 1], &[0x62], &[]] {
        for chain in [None, Some(&chain[..]), Some(&[])] {
            for sentence in judge(&Access::of(bytes, chain)).evidence {
                let named = sentence.starts_with("readl");
                assert!(sentence.starts_with(char::is_uppercase) || named, "{sentence}");
                assert!(sentence.ends_with('.'), "{sentence}");
            }
        }
    }
}

#[test]
fn what_accessors_also_emit_stays_undecided_without_a_chain() {
    for bytes in [MOV_LOAD, MOV_STORE, REP_MOVS, MOVDIR64B, IN_BYTE, &[]] {
        let verdict = without(bytes);
        assert_eq!(verdict.kind, Kind::Undecided, "{bytes:02x?}");
        assert!(verdict.advice.contains("debug information"), "{verdict:?}");
    }
}

#[test]
fn an_accessors_symbol_is_named_and_decides_nothing() {
    let verdict = judge(&Access { symbol: Some("ioread32"), ..Access::of(MOV_LOAD, None) });
    assert_eq!(verdict.kind, Kind::Undecided);
    assert!(verdict.evidence[2].contains("accessor of lib/iomap.c"), "{verdict:?}");
}

#[test]
fn movs_and_copying_functions_are_memcpy_on_iomem() {
    let inlined = with(REP_MOVS, &[("acme_load", "acme.c")]);
    assert_eq!((inlined.kind, inlined.survives.fate), (Kind::MemcpyOnIomem, Fate::Fatal));
    assert_eq!(with(MOV_LOAD, &[("memcpy_orig", "")]).kind, Kind::MemcpyOnIomem);
    let io = [("rep_movs", "arch/x86/lib/iomem.c"), ("memcpy_fromio", "arch/x86/lib/iomem.c")];
    let io = with(REP_MOVS, &io);
    assert_eq!((io.kind, io.survives.fate), (Kind::IoAccessor, Fate::Fatal));
    assert!(io.advice.contains("CC_ATTR_GUEST_UNROLL_STRING_IO"), "{io:?}");
}

#[test]
fn bytes_that_touch_no_memory_decide_nothing() {
    for verdict in [without(&[0x89, 0xc8]), with(&[0x89, 0xc8], &[("acme_stat", "acme.c")])] {
        assert_eq!(verdict.kind, Kind::Undecided);
        assert!(verdict.evidence[0].contains("without a memory operand"), "{verdict:?}");
    }
}

#[test]
fn ports_have_their_accessors_too() {
    let io = [("__inb", "arch/x86/include/asm/shared/io.h"), ("acme_irq", "acme.c")];
    assert_eq!(with(IN_BYTE, &io).kind, Kind::IoAccessor);
    let delay = with(&[0xe6, 0x80], &[("native_io_delay", "arch/x86/kernel/io_delay.c")]);
    assert_eq!((delay.kind, delay.survives.fate), (Kind::ArchAccessor, Fate::Emulated));
    assert_eq!(with(IN_BYTE, &[("acme_irq", "acme.c")]).kind, Kind::InlineAssembly);
    // readl cannot hold an IN, and what __outb's arguments are read from is no port.
    assert_eq!(with(MOVZX, &[("__outb", "")]).kind, Kind::PointerDereference);
    assert_eq!(with(IN_BYTE, &[("readl", IO_H)]).kind, Kind::InlineAssembly);
}

#[test]
fn string_port_io_is_told_by_bytes_or_qualification() {
    let by_bytes = with(REP_INS, &[("insb", IO_H)]);
    assert_eq!((by_bytes.kind, by_bytes.survives.fate), (Kind::StringPortIo, Fate::Fatal));
    let io = crate::decode::qualification::io(0x1f0_0038);
    let target = Target::Port(Some(io));
    let by_word = judge(&Access { target, ..Access::of(&[], None) });
    assert_eq!((by_word.kind, by_word.survives.fate), (Kind::StringPortIo, Fate::Fatal));
}

#[test]
fn user_space_gets_a_signal_whatever_it_did() {
    for bytes in [MOV_LOAD, IN_BYTE, REP_INS, TEST, &[]] {
        let verdict = judge(&Access { user: true, ..Access::of(bytes, None) });
        assert_eq!((verdict.kind, verdict.survives.fate), (Kind::UserSpace, Fate::Signal));
    }
    let verdict = judge(&Access { user: true, ..Access::of(IN_BYTE, None) });
    assert!(verdict.advice.contains("lockdown"), "{verdict:?}");
}

fn fate_at(bytes: &[u8], gla: Option<u64>, sharing: Sharing) -> Fate {
    let target = Target::Memory { gla, sharing, ram: false };
    judge(&Access { target, ..Access::of(bytes, None) }).survives.fate
}

#[test]
fn the_handlers_other_rules_count_too() {
    let page = 0xffff_c900_0000_0000;
    let shared = Sharing::Shared;
    assert_eq!(fate_at(MOV_LOAD, Some(page + 0xffc), shared), Fate::Emulated);
    assert_eq!(fate_at(MOV_LOAD, Some(page + 0xffd), shared), Fate::Fatal);
    assert_eq!(fate_at(MOV_LOAD, Some(0x7fff_0000), shared), Fate::Fatal);
    assert_eq!(fate_at(MOV_LOAD, Some(page), Sharing::Private), Fate::Panic);
    assert_eq!(fate_at(REP_MOVS, Some(page), shared), Fate::Fatal);
    assert_eq!(fate_at(&[], None, shared), Fate::Unknown);
    // The kernel's decoder takes this vector instruction for a MOV.
    assert_eq!(fate_at(&[0xc5, 0xf8, 0xc6, 0x07, 0], Some(page), shared), Fate::Emulated);
}

#[test]
fn load_unaligned_zeropad_recovers_from_a_split_page() {
    let chain = frames(&[("load_unaligned_zeropad", "arch/x86/include/asm/word-at-a-time.h")]);
    let target =
        Target::Memory { gla: Some(0xffff_8880_0000_0ffd), sharing: Sharing::Shared, ram: true };
    let bytes = [0x48, 0x8b, 0x06];
    let split = Access { target, ..Access::of(&bytes, Some(&chain)) };
    assert_eq!(judge(&split).survives.fate, Fate::Recovered);
    let known = Access { chain: None, in_exception_table: Some(true), ..split.clone() };
    assert_eq!(judge(&known).survives.fate, Fate::Recovered);
    let none = Access { chain: None, in_exception_table: Some(false), ..split };
    assert!(judge(&none).survives.reason.contains("an oops"));
}

#[test]
fn shared_ram_sends_to_the_vmm() {
    let target = Target::Memory { gla: None, sharing: Sharing::Shared, ram: true };
    let verdict = judge(&Access { target, ..Access::of(MOV_LOAD, None) });
    assert!(
        verdict.advice.contains("VMM") && verdict.evidence.iter().any(|e| e.contains("System RAM"))
    );
}

proptest! {
    #[test]
    fn every_access_gets_a_verdict_with_evidence(
        bytes in proptest::collection::vec(any::<u8>(), 0..20),
        names in proptest::option::of(proptest::collection::vec("[a-z_0-9]{0,12}", 0..4)),
        user: bool,
        port: bool,
        gla: Option<u64>,
        ram: bool,
    ) {
        let chain = names.map(|names| {
            let frame = |function| Frame { function, file: None, line: None };
            names.into_iter().map(frame).collect::<Vec<_>>()
        });
        let target = if port {
            Target::Port(None)
        } else {
            Target::Memory { gla, sharing: Sharing::Shared, ram }
        };
        let chain = chain.as_deref();
        let access =
            Access { bytes: &bytes, target, chain, symbol: None, user, in_exception_table: None };
        let verdict = judge(&access);
        prop_assert!(!verdict.evidence.is_empty() && !verdict.advice.is_empty());
        // A plain MOV without a chain is never guessed.
        let plain = matches!(form::Form::of(&bytes), form::Form::Load(_) | form::Form::Store(_));
        if plain && chain.is_none() && !user {
            prop_assert_eq!(verdict.kind, Kind::Undecided);
        }
    }
}
