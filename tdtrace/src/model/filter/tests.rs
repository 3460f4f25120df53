//! Expressions, and the rows that they keep.

use proptest::prelude::*;

use super::*;
use crate::model::{
    exits::{self, Scope},
    field,
    snapshot::Snapshot,
    testing::{after, samples, snapshot},
};

fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

fn vms<'a>(snapshot: &'a Snapshot, text: &str) -> Vec<&'a str> {
    let filter = filter(text);
    let kept = snapshot.vms.iter().filter(|vm| filter.keeps(*vm, None));
    kept.map(|vm| &*vm.name).collect()
}

/// Addresses of the places that are kept, with the number of their VM.
fn places(snapshot: &Snapshot, text: &str) -> Vec<(u32, u64)> {
    let filter = filter(text);
    let all = snapshot.vms.iter().flat_map(|vm| vm.hotspots.iter().map(move |row| (vm, row)));
    let kept = all.filter(|(vm, row)| filter.keeps(*row, Some(vm)));
    kept.map(|(_, row)| (row.vm, row.address)).collect()
}

fn error(text: &str) -> (usize, String) {
    let error = Filter::parse(text).unwrap_err();
    (error.at, error.to_string())
}

#[test]
fn text_is_compared_without_case_and_with_stars() {
    let snapshot = snapshot();
    assert_eq!(vms(&snapshot, "name=WEB*"), ["web-1"]);
    assert_eq!(vms(&snapshot, "name=web"), [""; 0]);
    assert_eq!(vms(&snapshot, "name!=web-?"), ["td-database"]);
    assert_eq!(vms(&snapshot, "kind=td or kind=plain"), ["web-1", "td-database"]);
    assert_eq!(vms(&snapshot, "name=\"web-1\""), ["web-1"]);
}

#[test]
fn numbers_have_suffixes_and_are_exact() {
    let snapshot = snapshot();
    // 540,000 and 5,580,000 exits per second.
    assert_eq!(vms(&snapshot, "exits_per_s>1M"), ["td-database"]);
    assert_eq!(vms(&snapshot, "exits_per_s<=540k"), ["web-1"]);
    assert_eq!(vms(&snapshot, "pid=4001 | pid=0xfa2"), ["web-1", "td-database"]);
    assert_eq!(vms(&snapshot, "pid=*2"), ["td-database"]);
    assert_eq!(vms(&snapshot, "p99>100us"), ["td-database"]);
    assert_eq!(vms(&snapshot, "p99_ns>0.1ms"), ["td-database"]);
    assert_eq!(vms(&snapshot, "halted>=70%"), ["td-database"]);
    assert_eq!(vms(&snapshot, "guest_pct>40.5 guest<42"), ["web-1"]);
    // A time is no number of exits.
    assert_eq!(vms(&snapshot, "exits>1ms"), [""; 0]);
}

#[test]
fn a_space_binds_closer_than_or_and_parentheses_closer_than_both() {
    let snapshot = snapshot();
    assert_eq!(vms(&snapshot, "kind=TD kind=plain"), [""; 0]);
    assert_eq!(vms(&snapshot, "kind=TD or kind=plain name=web*"), ["web-1", "td-database"]);
    assert_eq!(vms(&snapshot, "(kind=TD | kind=plain) and name=web*"), ["web-1"]);
    assert_eq!(vms(&snapshot, "!(kind=TD | pid=1)"), ["web-1"]);
    assert_eq!(vms(&snapshot, "not not kind=TD"), ["td-database"]);
    assert_eq!(vms(&snapshot, "!state=ended"), ["web-1", "td-database"]);
}

#[test]
fn a_word_is_looked_for_in_every_text_of_a_row_and_of_its_vm() {
    let snapshot = snapshot();
    assert_eq!(vms(&snapshot, "hypervisor"), ["td-database"]);
    assert_eq!(vms(&snapshot, "hyp*sor"), ["td-database"]);
    assert_eq!(vms(&snapshot, "\"or\""), ["td-database"]);
    assert_eq!(places(&snapshot, "COM1"), [(1, 0x3f8), (2, 0x3f8)]);
    assert_eq!(places(&snapshot, "com1 qemu"), [(1, 0x3f8)]);
}

#[test]
fn a_row_has_the_columns_of_its_vm_and_its_own_come_first() {
    let snapshot = snapshot();
    assert_eq!(places(&snapshot, "kind=TD class=*mio_write"), [(2, 0xfee0_00b0)]);
    assert_eq!(places(&snapshot, "pid=4001 address>=0xfee00000"), [(1, 0xfee0_00b0)]);
    let exits = exits::rows(&snapshot, Scope::All, false);
    let vm = |row: &exits::ExitRow| snapshot.vms.iter().find(|vm| vm.id == row.vm);
    let kept = |text: &str| {
        let filter = filter(text);
        let rows = exits.iter().filter(|row| filter.keeps(*row, vm(row)));
        rows.map(|row| (row.vm, row.reason.clone())).collect::<Vec<_>>()
    };
    let misconfig = "EPT_MISCONFIG".to_owned();
    assert_eq!(kept("kernel>20s !halt=halt"), [(2, misconfig.clone())]);
    // The row's time in the kernel is no share; that of its VM is.
    assert_eq!(kept("kernel>30% reason=ept_m*"), [(1, misconfig)]);
    assert_eq!(kept("type=\"L2 exit\"").len(), 1);
}

#[test]
fn a_term_on_a_column_that_a_row_does_not_have_is_as_if_it_were_not_there() {
    let snapshot = snapshot();
    for text in ["class=mmio_write", "!class=mmio_write", "class=x or class=y"] {
        assert_eq!(vms(&snapshot, text), ["web-1", "td-database"], "{text}");
    }
    assert_eq!(vms(&snapshot, "class=mmio_write name=web*"), ["web-1"]);
    assert_eq!(vms(&snapshot, "class=mmio_write or name=web*"), ["web-1"]);
}

#[test]
fn what_is_not_known_is_neither_more_nor_less_than_anything() {
    let mut samples = samples();
    samples.truncate(1);
    let first = after(samples);
    assert_eq!(vms(&first, "exits_per_s>=0"), [""; 0]);
    assert_eq!(vms(&first, "exits_per_s<5 or guest>=0"), [""; 0]);
    assert_eq!(vms(&first, "exits>0"), ["web-1", "td-database"]);
}

#[test]
fn errors_say_where_and_what_to_do() {
    for (text, at, part) in [
        ("", 1, "write for example name=web*"),
        ("exitz>3", 1, "did you mean exits, exits_per_s?"),
        ("name=a zzz=3", 8, "`tdtrace top --help` lists them"),
        ("(name=a", 1, "add a `)`"),
        ("name=a)", 7, "closes nothing"),
        ("name=", 6, "write name=VALUE"),
        ("name=or", 6, "put keywords in quotes"),
        ("name=a or", 10, "a term is missing"),
        ("or name=a", 1, "a term is missing"),
        ("=3", 1, "write KEY=VALUE"),
        ("exits>many", 7, "write for example exits>10k"),
        ("name=\"a", 6, "not closed"),
        ("name>\"3\"", 6, "is no number"),
    ] {
        let (where_, said) = error(text);
        assert_eq!(where_, at, "{text}: {said}");
        assert!(said.contains(part), "{text}: {said}");
    }
    assert!(error(&"(".repeat(1000)).1.contains("too deeply"));
    assert!(error(&"!".repeat(1000)).1.contains("too deeply"));
    assert!(error(&"a ".repeat(5000)).1.contains("too long"));
}

#[test]
fn every_registered_key_can_be_filtered_by() {
    for (key, _) in field::keys() {
        assert!(Filter::parse(&format!("{key}=1")).is_ok(), "{key}");
    }
}

proptest! {
    #[test]
    fn parsing_and_filtering_never_panic(text in "\\PC{0,40}") {
        if let Ok(filter) = Filter::parse(&text) {
            let snapshot = snapshot();
            filter.keeps(&snapshot.vms[0], None);
            filter.keeps(&snapshot.vms[0].vcpus[0], Some(&snapshot.vms[0]));
        }
    }

    #[test]
    fn what_looks_like_an_expression_never_panics(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "name", "exits", "p99", "=", "!=", "<", ">=", "(", ")", "!", "or", "|", "and", " ",
                "*", "1k", "0x", "5ms", "99999999999999999999", "\"", "%", "µ",
            ]),
            0..30,
        ),
    ) {
        if let Ok(filter) = Filter::parse(&parts.concat()) {
            filter.keeps(&snapshot().vms[1], None);
        }
    }
}
