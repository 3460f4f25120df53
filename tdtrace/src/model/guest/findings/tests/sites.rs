use super::*;

const READL: (&str, &str) = ("readl", "arch/x86/include/asm/io.h");

#[test]
fn mmio_through_a_struct_is_found_and_the_same_bytes_in_an_accessor_are_not() {
    assert_eq!(rules(overlay(LOAD, 3)), [(Rule::NonIoMmio, 3)]);
    let accessor = mmio(LOAD, &[READL, ("acme_isr", "drivers/acme.c")], 3);
    assert_eq!(accessor.verdict.as_ref().unwrap().kind, Kind::IoAccessor);
    assert_eq!(rules(accessor), []);
}

#[test]
fn mmio_of_which_no_function_is_known_is_not_called_an_offender() {
    let access = Access { target: Target::MEMORY, ..Access::of(LOAD, None) };
    let verdict = Some(Arc::new(verdict::judge(&access)));
    assert_eq!(rules(Site { verdict, code: None, ..overlay(LOAD, 3) }), []);
}

#[test]
fn an_instruction_that_the_handler_gave_up_on_is_found_and_one_that_it_emulated_is_not_that() {
    let given_up = failing(overlay(TEST, 4), 4, -22);
    let found = found(vec![given_up], Vec::new());
    assert_eq!((found[0].rule, found[0].count), (Rule::UndecodableMmio, 4));
    assert_eq!(found.len(), 1);
    assert!(found[0].evidence[0].contains("4 of 4") && found[0].evidence[0].contains("-EINVAL"));
    assert!(found[0].evidence.iter().any(|text| text.contains("TEST")), "{:?}", found[0]);
    // A kernel whose decoder knows more emulates it: around io.h, and no error.
    assert_eq!(rules(overlay(TEST, 4)), [(Rule::NonIoMmio, 4)]);
}

#[test]
fn movs_is_recognised_by_the_handler_and_fails_all_the_same() {
    let movs = failing(overlay(&[0xf3, 0xa4], 2), 2, -22);
    assert_eq!(rules(movs), [(Rule::UndecodableMmio, 2)]);
}

#[test]
fn a_page_split_is_told_from_a_refusal_by_what_the_handler_returned() {
    assert_eq!(rules(failing(overlay(LOAD, 9), 2, -14)), [(Rule::PageSplit, 2)]);
    assert_eq!(rules(failing(overlay(LOAD, 9), 2, -5)), [(Rule::FailedVe, 2)]);
    assert_eq!(rules(failing(overlay(LOAD, 9), 2, -22)), [(Rule::FailedVe, 2)]);
    assert_eq!(
        rules(Site { errno: None, ..failing(overlay(LOAD, 9), 2, 0) }),
        [(Rule::FailedVe, 2)]
    );
    // Without bytes it may as well be an instruction that could not be read.
    let unread = Site { bytes: Vec::new(), ..failing(overlay(LOAD, 9), 2, -14) };
    let found = found(vec![unread], Vec::new());
    assert_eq!(found[0].rule, Rule::FailedVe);
    assert!(found[0].evidence.iter().any(|text| text.starts_with("Either")), "{:?}", found[0]);
}

#[test]
fn a_word_that_is_read_beyond_its_end_on_purpose_is_no_page_split() {
    let chain = [("load_unaligned_zeropad", "arch/x86/include/asm/word-at-a-time.h")];
    let zeropad = failing(mmio(LOAD, &chain, 1), 1, -14);
    assert_eq!(rules(zeropad), [(Rule::RecoveredVe, 1)]);
}

#[test]
fn port_io_in_user_mode_is_found_if_the_kernel_failed_it() {
    assert_eq!(rules(port(false, true, 5)), [(Rule::UserPortIo, 5)]);
    assert_eq!(rules(port(false, true, 0)), []);
    assert_eq!(rules(port(false, false, 0)), []);
}

#[test]
fn string_io_is_found_and_the_loop_that_replaces_it_is_not() {
    assert_eq!(rules(port(true, false, 5)), [(Rule::StringIo, 5)]);
    assert_eq!(rules(port(false, false, 0)), []);
    assert_eq!(rules(port(false, false, 1)), [(Rule::FailedVe, 1)]);
}

#[test]
fn mmio_in_user_mode_is_an_error_where_the_process_got_a_signal() {
    let user = |failed| Site { user: true, failed, verdict: None, ..overlay(LOAD, 3) };
    assert_eq!(rules(user(3)), [(Rule::UserMmio, 3)]);
    assert_eq!(rules(user(0)), []);
}

#[test]
fn private_memory_outweighs_all_else_and_what_may_be_shared_is_not_it() {
    let page = |shared| (Object::Page { gpa: Hex(0x1000), shared }, 2);
    let with = |shared| Site {
        objects: vec![page(shared), (Object::Page { gpa: Hex(1), shared: Some(true) }, 5)],
        ..failing(overlay(TEST, 7), 7, -22)
    };
    assert_eq!(rules(with(Some(false))), [(Rule::PrivateGpa, 2)]);
    assert_eq!(rules(with(None)), [(Rule::UndecodableMmio, 7)]);
    assert_eq!(rules(with(Some(true))), [(Rule::UndecodableMmio, 7)]);
}

#[test]
fn shared_ram_is_found_and_a_shared_page_of_a_device_is_not() {
    let chain = [READL, ("acme_isr", "drivers/acme.c")];
    let at = |ram: bool, range: &str| {
        let ranges = vec![range.to_owned()];
        let device = Device { address: Hex(0xfed0_0000), ram, ranges, ..Device::default() };
        Site { device: Some(Arc::new(device)), ..mmio(LOAD, &chain, 3) }
    };
    let found = found(vec![at(true, "System RAM")], Vec::new());
    assert_eq!((found[0].rule, found[0].count), (Rule::SharedRam, 3));
    assert!(found[0].evidence[0].contains("0xfed00000 is shared and lies in System RAM"));
    assert_eq!(rules(at(false, "HPET 0")), []);
}

#[test]
fn a_reason_without_code_is_found_and_cpuid_in_user_mode_is_emulated() {
    let failed = |reason, user| Site { failed: 2, user, ..site(reason, 2) };
    assert_eq!(rules(failed(54, false)), [(Rule::UnexpectedReason, 2)]);
    assert_eq!(rules(failed(31, true)), [(Rule::UnexpectedReason, 2)]);
    assert_eq!(rules(Site { user: true, ..site(10, 2) }), []);
    // A newer kernel may have code for it.
    assert_eq!(rules(site(54, 2)), []);
    assert_eq!(rules(failed(10, true)), [(Rule::FailedVe, 2)]);
}

#[test]
fn an_msr_that_is_tried_is_told_from_one_that_must_be_there() {
    let code = |entry| Code { in_exception_table: Some(entry), ..Code::default() };
    let rdmsr = |entry| Site { failed: 1, code: Some(Arc::new(code(entry))), ..site(31, 1) };
    assert_eq!(rules(rdmsr(true)), [(Rule::RecoveredVe, 1)]);
    assert_eq!(rules(rdmsr(false)), [(Rule::FailedVe, 1)]);
    assert_eq!(rules(site(31, 1)), []);
}

#[test]
fn a_storm_begins_at_its_rate() {
    assert_eq!(rules(site(31, 10_000)), [(Rule::VeStorm, 10_000)]);
    assert_eq!(rules(site(31, 9_999)), []);
}

#[test]
fn slow_ves_are_a_storm_by_the_time_that_they_take_but_halts_are_not() {
    let of = |reason, mean_ns| Site { mean_ns: Some(mean_ns), ..site(reason, 2_000) };
    assert_eq!(rules(of(48, 50_000)), [(Rule::VeStorm, 2_000)]);
    assert_eq!(rules(of(48, 49_999)), []);
    assert_eq!(rules(of(12, 50_000)), []);
    // So few are no storm, however slow.
    assert_eq!(rules(Site { mean_ns: Some(1_000_000), ..site(48, 999) }), []);
}

#[test]
fn a_storm_comes_beside_what_else_a_site_breaks() {
    let both = rules(overlay(LOAD, 10_000));
    assert_eq!(both, [(Rule::NonIoMmio, 10_000), (Rule::VeStorm, 10_000)]);
}

#[test]
fn what_tdtrace_causes_itself_does_not_count() {
    assert_eq!(rules(Site { own: 3, ..overlay(LOAD, 3) }), []);
    assert_eq!(rules(Site { own: 1, ..overlay(LOAD, 3) }), [(Rule::NonIoMmio, 2)]);
    assert_eq!(rules(Site { own: 1, ..site(31, 10_000) }), []);
}
