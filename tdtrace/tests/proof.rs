//! `docs/proof.md` against the lists of the code: nothing is counted without a row that says what proves it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tdtrace::model::{finding::Rule, snapshot::userspace_name};
use tdtrace_common::{
    counters::{Class, USERSPACE_EINTR, USERSPACE_HWPOISON, USERSPACE_OTHER},
    kvm::USERSPACE_EXITS,
    latency::Part,
    ledger::LEDGER_NAMES,
    poison::{PoisonSource, RESULTS},
    seam::WRAPPERS,
    td::TdExit,
};

/// A row: name, the cells S, L and K, and what it rests on else.
type Row = (String, [String; 3], String);

/// The section `heading`.
fn section(heading: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proof.md");
    let text = fs::read_to_string(file).expect("docs/proof.md");
    let section = text.split("\n## ").find(|section| section.starts_with(heading));
    section.unwrap_or_else(|| panic!("no section {heading}")).to_owned()
}

/// The rows of the table below `heading`.
fn rows(heading: &str) -> Vec<Row> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let [_, name, s, l, k, rest, _] = <[String; 7]>::try_from(cells).expect("five cells");
        (name.trim_matches('`').to_owned(), [s, l, k], rest)
    };
    section(heading).lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

/// The text of every file below `directory`.
fn sources(directory: PathBuf, all: &mut String) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(path, all);
        } else {
            all.push_str(&fs::read_to_string(path).expect("a source file"));
        }
    }
}

/// The names in the table are those of the code, each once; and each is proven, or says what it rests on.
fn assert_rows(heading: &str, names: &[&str]) {
    let rows = rows(heading);
    let found: Vec<_> = rows.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(found, names, "{heading}");
    for (name, marks, rest) in &rows {
        for (mark, letter) in marks.iter().zip(["S", "L", "K"]) {
            assert!(mark.is_empty() || mark == letter, "{name}: {mark}");
        }
        let proven = marks.iter().any(|mark| !mark.is_empty());
        assert!(proven || !rest.is_empty(), "nothing proves {name}");
    }
}

#[test]
fn every_exit_of_a_td_has_a_row() {
    assert_rows("Exits of TDs", &TdExit::ALL.iter().map(|exit| exit.name()).collect::<Vec<_>>());
}

#[test]
fn every_duration_of_a_td_and_every_place_where_time_goes_has_a_row() {
    let durations = TdExit::ALL.iter().map(|exit| format!("exit {}", exit.name()));
    let places = ["guest"].into_iter().chain(Part::ALL.map(Part::name)).map(str::to_owned);
    let names: Vec<_> = durations.chain(places).collect();
    assert_rows("Times", &names.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn every_return_of_kvm_run_has_a_row() {
    let failures = [USERSPACE_HWPOISON, USERSPACE_EINTR, USERSPACE_OTHER];
    let failures = failures.map(|index| userspace_name(index as u32));
    let names = USERSPACE_EXITS.iter().map(|(_, name)| *name);
    let names: Vec<_> = names.chain(failures.iter().map(String::as_str)).collect();
    assert_rows("Returns of KVM_RUN", &names);
}

#[test]
fn every_finding_of_a_host_has_a_row() {
    assert_rows("Findings", &Rule::ALL.iter().map(|rule| rule.id()).collect::<Vec<_>>());
}

#[test]
fn every_exit_return_and_finding_has_a_synthetic_test() {
    for heading in ["Exits of TDs", "Returns of KVM_RUN", "Findings"] {
        for (name, [synthetic, ..], _) in rows(heading) {
            assert_eq!(synthetic, "S", "{name}");
        }
    }
}

#[test]
fn every_test_that_s_names_is_there() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut code = String::new();
    sources(tests.join("root_synthetic"), &mut code);
    for heading in [
        "Exits of TDs",
        "Times",
        "Returns of KVM_RUN",
        "Findings",
        "SEAMCALLs",
        "Conversions and acceptance",
        "Broken memory",
    ] {
        let section = section(heading);
        let (_, told) = section.split_once("S: ").unwrap_or_else(|| panic!("no S in {heading}"));
        let told = told.split("\n").next().expect("a line").split(" L: ").next().expect("a part");
        let names: Vec<_> = told.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "S of {heading} names no test");
        for name in names {
            let is_file = name.ends_with(".rs") && tests.join(name).is_file();
            let is_test = code.contains(&format!("#[test]\nfn {name}() {{"));
            assert!(is_file || is_test, "{heading}: there is no {name}");
        }
    }
}

#[test]
fn every_seamcall_that_is_counted_has_a_row() {
    assert_rows("SEAMCALLs", &WRAPPERS.iter().map(|wrapper| wrapper.name).collect::<Vec<_>>());
}

#[test]
fn every_number_of_conversions_has_a_row() {
    let of_faults = [Class::MemoryFault, Class::TdFaultAgain].map(Class::name);
    let names: Vec<_> = LEDGER_NAMES.into_iter().chain(of_faults).collect();
    assert_rows("Conversions and acceptance", &names);
}

#[test]
fn every_source_and_result_of_broken_memory_has_a_row() {
    let names = PoisonSource::ALL.into_iter().map(PoisonSource::name);
    assert_rows("Broken memory", &names.chain(RESULTS).collect::<Vec<_>>());
}
