//! Allowlists as people write them, with their mistakes.

use proptest::prelude::*;

use super::*;
use crate::check::testing::{call, overlay, user};

fn mistake(text: &str) -> String {
    parse("allow.toml", text).unwrap_err().to_string()
}

fn one(conditions: &str) -> Entry {
    let text = format!("[[allow]]\n{conditions}\nreason = \"known\"\n");
    let mut entries = parse("allow.toml", &text).unwrap();
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

fn applies(conditions: &str) -> bool {
    one(conditions).applies(Rule::NonIoMmio, Place::Site(&overlay()))
}

const DAY: Date = Date { year: 2027, month: 3, day: 1 };

#[test]
fn an_entry_is_read_with_its_line_reason_and_day() {
    let text = "# known\n\n[[allow]]\nrule = [\"non-io-mmio\", \"ve-storm\"]\nsymbol = \"acme_isr\"\n\
                pci = \"1AF4:1041\"\nreason = \" until the rewrite \"\nexpires = 2027-03-01\n\n\
                [[allow]]\nmodule = \"acme-nic\"\nreason = \"ours\"\n";
    let entries = parse("ci/allow.toml", text).unwrap();
    let [first, second] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!(first.to_string(), "ci/allow.toml:3");
    assert_eq!((first.reason.as_str(), first.expires), ("until the rewrite", Some(DAY)));
    assert_eq!(first.rules, [Rule::NonIoMmio, Rule::VeStorm]);
    assert_eq!((second.to_string().as_str(), second.expires), ("ci/allow.toml:10", None));
    assert_eq!(second.modules, ["acme_nic"]);
    assert_eq!(parse("empty", "").unwrap(), []);
}

#[test]
fn an_entry_lasts_until_the_end_of_its_day() {
    let entry = one("rule = \"ve-storm\"\nexpires = 2027-03-01");
    assert!(!entry.is_expired(DAY));
    assert!(entry.is_expired(Date { day: 2, ..DAY }));
    assert!(!one("rule = \"ve-storm\"").is_expired(DAY));
}

#[test]
fn each_condition_applies_by_itself() {
    for conditions in [
        "rule = \"non-io-mmio\"",
        "symbol = \"acme_isr\"",
        "symbol = [\"other\", \"set_bits\"]",
        "module = \"acme-nic\"",
        "driver = \"acme\"",
        "pci = \"1AF4:1041\"",
        "pci = \"0000:00:04.0\"",
        "pci = \"00:04.0\"",
    ] {
        assert!(applies(conditions), "{conditions}");
    }
}

#[test]
fn all_conditions_have_to_apply() {
    for conditions in [
        "rule = \"string-io\"",
        "symbol = \"acme\"",
        "module = \"acme\"",
        "driver = \"acme_nic\"",
        "pci = \"1af4:1042\"",
        "pci = \"0001:00:04.0\"",
        "symbol = \"acme_isr\"\nmodule = \"other\"",
        "rule = \"string-io\"\nsymbol = \"acme_isr\"",
    ] {
        assert!(!applies(conditions), "{conditions}");
    }
}

#[test]
fn what_has_no_module_or_device_is_not_allowed_by_one() {
    let (site, call) = (user("hwclock"), call("acme_alloc [acme_nic]"));
    for place in [Place::Site(&site), Place::Call(&call), Place::Guest] {
        let with = |conditions: &str| one(conditions).applies(Rule::Swiotlb, place);
        assert!(!with("driver = \"acme\"") && !with("pci = \"1af4:1041\""), "{place:?}");
        assert!(with("rule = \"swiotlb\""));
    }
    assert!(one("module = \"acme_nic\"").applies(Rule::ConversionFailed, Place::Call(&call)));
    assert!(!one("module = \"acme_nic\"").applies(Rule::ConversionFailed, Place::Guest));
}

#[test]
fn a_mistake_is_one_sentence_with_file_and_line() {
    let entry = "[[allow]]\nreason = \"x\"\n";
    for (text, expected) in [
        ("[[allow]]\nsymbol = \"f\"\n", "allow.toml:1: an entry needs `reason = \"…\"`"),
        ("[[allow]]\nsymbol = \"f\"\nreason = \" \"\n", "allow.toml:3: `reason` is a string"),
        ("\n[[allow]]\nreason = \"x\"\n", "allow.toml:2: an entry without conditions"),
        ("[allow]\nreason = \"x\"\n", "allow.toml:1: write [[allow]] with two brackets"),
        ("allow = [1]\n", "allow.toml:1: an entry is a table"),
        ("[[alow]]\n", "allow.toml:1: `alow` is not known"),
        ("[[allow]\n", "allow.toml:1: it is no TOML"),
        ("a = 1\na = 2\n", "allow.toml:2: it is no TOML"),
    ] {
        let error = mistake(text);
        assert!(error.starts_with(expected), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    for (line, expected) in [
        ("symbols = \"f\"", "`symbols` is not known; there are rule, symbol"),
        ("symbol = 7", "`symbol` is a string in quotes, or a list of them"),
        ("symbol = [\"f\", 7]", "`symbol` is a string in quotes"),
        ("symbol = []", "the list of `symbol` is empty"),
        ("symbol = \"\"", "a name of `symbol` is empty or longer than 512"),
        ("rule = \"non-io\"", "there is no rule `non-io`"),
        ("pci = \"0000:00:04\"", "`0000:00:04` is no PCI device"),
        ("pci = \"00:04.8\"", "`00:04.8` is no PCI device"),
        ("pci = \"1:00:04.0\"", "`1:00:04.0` is no PCI device"),
        ("expires = \"2027-03-01\"", "`expires` is a day without quotes"),
        ("expires = 2027-03-01T00:00:00Z", "`expires` is a day without quotes"),
        ("expires = 2027-02-30", "it is no TOML"),
    ] {
        let error = mistake(&format!("{entry}{line}\n"));
        assert!(error.starts_with(&format!("allow.toml:3: {expected}")), "{line}: {error}");
    }
}

#[test]
fn there_is_a_limit_to_everything() {
    let many = "[[allow]]\nreason = \"x\"\nsymbol = \"f\"\n".repeat(ENTRIES_MAX + 1);
    assert!(mistake(&many).contains("more than 4096 entries"));
    assert!(mistake(&" ".repeat(BYTES_MAX + 1)).contains("more than 1048576 bytes"));
    let names = "\"f\",".repeat(NAMES_MAX + 1);
    let text = format!("[[allow]]\nreason = \"x\"\nsymbol = [{names}]\n");
    assert!(mistake(&text).contains("more than 256 names"));
    let text = format!("[[allow]]\nreason = \"{}\"\nsymbol = \"f\"\n", "x".repeat(REASON_MAX + 1));
    assert!(mistake(&text).contains("4096 bytes at most"));
}

#[test]
fn lists_within_lists_end_in_a_mistake_and_not_in_the_stack() {
    let text = format!("[[allow]]\nsymbol = {}", "[".repeat(BYTES_MAX / 2));
    assert!(mistake(&text).starts_with("allow.toml:2: it is no TOML"));
}

proptest! {
    #[test]
    fn any_text_is_an_allowlist_or_a_mistake_of_one_line(text in any::<String>()) {
        if let Err(mistake) = parse("f", &text) {
            prop_assert!(!mistake.to_string().contains('\n'));
        }
    }

    #[test]
    fn lines_of_an_allowlist_in_any_order_are_one_or_a_mistake(
        lines in prop::collection::vec(
            prop_oneof![
                Just("[[allow]]".to_owned()),
                Just("reason = \"x\"".to_owned()),
                Just("rule = [\"ve-storm\"]".to_owned()),
                "(rule|symbol|module|driver|pci|reason|expires|other) = [\\[\\]\"'a-f0-9:.{}=, -]{0,24}",
                "\\PC{0,24}",
            ],
            0..12,
        )
    ) {
        match parse("f", &lines.join("\n")) {
            Ok(entries) => for entry in entries {
                prop_assert!(!entry.reason.is_empty() && entry.line <= lines.len());
                prop_assert!(!entry.applies(Rule::NonIoMmio, Place::Guest)
                    || entry.rules.contains(&Rule::NonIoMmio));
            },
            Err(mistake) => prop_assert!(mistake.line <= lines.len().max(1)),
        }
    }

    #[test]
    fn any_pci_device_is_one_or_none(text in "[0-9a-fA-F:.]{0,20}") {
        if let Some(Pci::Address(address)) = Pci::parse(&text) {
            prop_assert!(address.ends_with(&text.to_ascii_lowercase()));
        }
    }
}
