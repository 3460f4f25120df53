//! Each format by what its readers look at; SARIF by its schema, too.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, sync::LazyLock};

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    check::{
        allow,
        date::Date,
        fail_on::FailOn,
        outcome::{Run, Terms},
        testing,
    },
    model::guest::snapshot::GuestSnapshot,
    sites::Site as Code,
};

/// The published schema; where it is from says `tests/fixtures/check/README.md`.
const SCHEMA: &str = include_str!("../../../tests/fixtures/check/sarif-schema-2.1.0.json");

static VALIDATOR: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    // The published pattern of languages has a bracket too many, which is no regular expression.
    let schema = SCHEMA.replace("-[a-zA-Z]{2}]?$", "-[a-zA-Z]{2}$");
    assert_ne!(schema, SCHEMA, "the published schema was mended");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
});

fn assert_valid(sarif: &Value) {
    let errors: Vec<String> = VALIDATOR
        .iter_errors(sarif)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

const ALLOW: &str = "[[allow]]\nsymbol = \"acme_isr\"\nrule = \"non-io-mmio\"\n\
                     reason = \"until the rewrite\"\n\
                     [[allow]]\nrule = \"undecodable-mmio\"\nexpires = 2026-01-31\nreason = \"old\"\n\
                     [[allow]]\nmodule = \"gone\"\nreason = \"was ours\"\n";

fn terms(allowlist: &str) -> Terms {
    Terms {
        allowed: allow::parse("ci/allow list.toml", allowlist).unwrap(),
        fail_on: FailOn::default(),
        allow_losses: false,
        today: Date { year: 2026, month: 11, day: 21 },
    }
}

/// Findings, one of them allowed, an expired and an unused entry, a failed command and a loss.
fn everything() -> (GuestSnapshot, Terms, Run) {
    let snapshot = GuestSnapshot { missed: 3, ..testing::snapshot() };
    (snapshot, terms(ALLOW), Run { status: Some(ExitStatus::from_raw(7 << 8)), cut: None })
}

#[test]
fn the_text_says_what_where_why_and_how_it_ends() {
    let (snapshot, terms, command) = everything();
    let text = to_text(&Outcome::new(&snapshot, &terms, command));
    insta::assert_snapshot!(text);
}

#[test]
fn the_text_of_a_check_without_findings_is_short() {
    let snapshot = GuestSnapshot { findings: Vec::new(), ..testing::snapshot() };
    let terms = terms("");
    let text = to_text(&Outcome::new(&snapshot, &terms, Run::default()));
    assert_eq!(
        text,
        "guest 6.12.1: 21 #VEs in 2.5 s\n\ncheck passed (exit code 0); findings: 0 fail it \
         (--fail-on warning), 0 allowed, 0 below\n"
    );
}

#[test]
fn json_says_the_same_as_the_text() {
    let (snapshot, terms, command) = everything();
    let json = to_json(&Outcome::new(&snapshot, &terms, command));
    assert_eq!((json["end"].as_str(), json["exit_code"].as_u64()), (Some("findings"), Some(3)));
    assert_eq!(
        (&json["failing"], &json["allowed"], &json["below"]),
        (&2.into(), &1.into(), &2.into())
    );
    let first = &json["findings"][0];
    assert_eq!(first["rule"], "undecodable-mmio");
    assert_eq!(first["file"], "./drivers/net/acme nic.c");
    assert_eq!((&first["line"], &first["module"]), (&77.into(), &"acme_nic".into()));
    assert_eq!(first["expired"]["line"], 5);
    assert_eq!(json["findings"][2]["allowed"]["reason"], "until the rewrite");
    assert_eq!((&json["unused"][0]["line"], &json["expired"][0]["line"]), (&9.into(), &5.into()));
    assert_eq!(json["command"], "the command failed with exit code 7");
    assert!(json["lost"][0].as_str().unwrap().starts_with("3 #VEs were missed"));
}

#[test]
fn sarif_fulfils_the_published_schema() {
    let (snapshot, terms, command) = everything();
    let outcome = Outcome::new(&snapshot, &terms, command);
    assert_valid(&to_sarif(&outcome, None));
    assert_valid(&to_sarif(&outcome, Some("/src")));
    let empty = GuestSnapshot::default();
    assert_valid(&to_sarif(&Outcome::new(&empty, &terms, Run::default()), None));
}

#[test]
fn the_schema_finds_what_is_wrong() {
    let (snapshot, terms, command) = everything();
    let right = to_sarif(&Outcome::new(&snapshot, &terms, command), None);
    for (pointer, wrong) in [
        ("/version", Value::from("2.0.0")),
        ("/runs/0/results/0/level", "fatal".into()),
        ("/runs/0/results/0/locations/0/physicalLocation/region/startLine", 0.into()),
        ("/runs/0/results/0/locations/0/physicalLocation/artifactLocation/uri", "a b".into()),
        ("/runs/0/results/2/suppressions/0/kind", "mine".into()),
    ] {
        let mut sarif = right.clone();
        *sarif.pointer_mut(pointer).unwrap() = wrong;
        assert!(!VALIDATOR.is_valid(&sarif), "{pointer}");
    }
}

#[test]
fn the_sarif_of_the_lab_s_driver_fulfils_the_schema() {
    let text = include_str!("../../../tests/fixtures/check/lab-driver.sarif");
    let sarif: Value = serde_json::from_str(text).unwrap();
    assert_valid(&sarif);
    assert!(!sarif["runs"][0]["results"].as_array().unwrap().is_empty());
}

#[test]
fn a_result_has_rule_level_evidence_line_function_and_module() {
    let (snapshot, terms, command) = everything();
    let sarif = to_sarif(&Outcome::new(&snapshot, &terms, command), None);
    let run = &sarif["runs"][0];
    let result = &run["results"][0];
    assert_eq!(
        (&result["ruleId"], &result["level"]),
        (&"undecodable-mmio".into(), &"error".into())
    );
    let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
    assert_eq!(run["tool"]["driver"]["rules"][index]["id"], "undecodable-mmio");
    let text = result["message"]["text"].as_str().unwrap();
    assert!(text.contains("acme_isr.constprop.0+0x12 (acme_nic)"), "{text}");
    assert!(text.contains("No accessor is in the chain set_bits ← acme_isr."), "{text}");
    let physical = &result["locations"][0]["physicalLocation"];
    assert_eq!(physical["artifactLocation"]["uri"], "drivers/net/acme%20nic.c");
    assert_eq!(physical["artifactLocation"]["uriBaseId"], "SRCROOT");
    assert_eq!(physical["region"]["startLine"], 77);
    let logical = &result["locations"][0]["logicalLocations"];
    assert_eq!(logical[0]["fullyQualifiedName"], "acme_nic::acme_isr");
    assert_eq!(logical[1]["name"], "acme_nic");
    assert_eq!(
        result["partialFingerprints"]["tdtrace/v1"],
        "undecodable-mmio/acme_nic/acme_isr/OR/0"
    );
    assert_eq!(result["properties"]["bytes"], "834808049090");
    assert_eq!(result["properties"]["device"]["driver"], "acme");
    assert_eq!(run["invocations"][0]["exitCode"], 3);
    assert_eq!(run["invocations"][0]["executionSuccessful"], false);
}

#[test]
fn every_result_says_whether_it_is_suppressed_and_allowed_ones_why() {
    let (snapshot, terms, command) = everything();
    let sarif = to_sarif(&Outcome::new(&snapshot, &terms, command), None);
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    let counts: Vec<usize> =
        results.iter().map(|result| result["suppressions"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [0, 0, 1, 0, 0]);
    let suppression = &results[2]["suppressions"][0];
    assert_eq!(
        (&suppression["kind"], &suppression["justification"]),
        (&"external".into(), &"until the rewrite".into())
    );
    let at = &suppression["location"]["physicalLocation"];
    assert_eq!(at["artifactLocation"]["uri"], "ci/allow%20list.toml");
    assert_eq!(at["region"]["startLine"], 1);
}

#[test]
fn fingerprints_do_not_change_with_addresses_lines_and_what_the_compiler_appends() {
    let print = |snapshot: &GuestSnapshot| {
        let terms = terms("");
        let sarif = to_sarif(&Outcome::new(snapshot, &terms, Run::default()), None);
        sarif["runs"][0]["results"][0]["partialFingerprints"].clone()
    };
    let mut other = testing::snapshot();
    let site = &mut other.sites[0];
    site.ip = site.ip.map(|ip| ip + 0x1000);
    site.symbol = Some("acme_isr+0x40 [acme_nic]".into());
    let mut code: Code = (*site.code.clone().unwrap()).clone();
    code.function = Some("acme_isr".into());
    code.chain = None;
    site.code = Some(code.into());
    assert_eq!(print(&testing::snapshot()), print(&other));
}

#[test]
fn without_debug_information_there_is_the_function_and_no_line() {
    let mut snapshot = testing::snapshot();
    let mut code: Code = (*snapshot.sites[0].code.clone().unwrap()).clone();
    code.chain = None;
    snapshot.sites[0].code = Some(code.into());
    let terms = terms("");
    let sarif = to_sarif(&Outcome::new(&snapshot, &terms, Run::default()), None);
    let location = &sarif["runs"][0]["results"][0]["locations"][0];
    assert_eq!(location["logicalLocations"][0]["name"], "acme_isr");
    assert!(location.get("physicalLocation").is_none());
}

#[test]
fn junit_has_a_case_for_each_rule_the_command_and_completeness() {
    let (snapshot, terms, command) = everything();
    let xml = to_junit(&Outcome::new(&snapshot, &terms, command));
    insta::assert_snapshot!(xml);
}

#[test]
fn a_check_that_passes_has_cases_and_no_failure() {
    let snapshot = GuestSnapshot { findings: Vec::new(), ..testing::snapshot() };
    let terms = terms("");
    let xml = to_junit(&Outcome::new(&snapshot, &terms, Run::default()));
    let cases = crate::model::guest::finding::Rule::ALL.len() + 2;
    assert!(
        xml.contains(&format!("tests=\"{cases}\" failures=\"0\" errors=\"0\" skipped=\"0\"")),
        "{xml}"
    );
    assert_eq!(xml.matches("<testcase ").count(), cases);
}

#[test]
fn hostile_names_steer_nothing_in_any_format() {
    let hostile = "a\u{1b}[2J\n\"><x>\u{202e}{0}[l](u)\u{0}&\u{ffff}";
    let mut snapshot = testing::snapshot();
    let site = &mut snapshot.sites[0];
    site.code = None;
    site.symbol = Some(hostile.into());
    snapshot.sites[1].comm = hostile.to_owned();
    snapshot.release = hostile.into();
    snapshot.findings[0].evidence = vec![hostile.to_owned()];
    let terms = terms("");
    let outcome = Outcome::new(&snapshot, &terms, Run::default());
    let (text, xml) = (to_text(&outcome), to_junit(&outcome));
    for printed in [&text, &xml] {
        assert!(
            !printed.chars().any(|c| (c.is_control() && c != '\n') || is_invisible(c)),
            "{printed}"
        );
    }
    assert!(!xml.contains("<x>") && !xml.contains("\"><"), "{xml}");
    let sarif = to_sarif(&outcome, None);
    assert_valid(&sarif);
    let message = sarif["runs"][0]["results"][0]["message"]["text"].as_str().unwrap();
    assert!(!message.contains(['[', '{', '\u{1b}']), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_names_lines_and_files_are_sarif_stays_valid_and_xml_well_formed(
        name in "\\PC{0,20}|[\\x00-\\x7f]{0,20}",
        file in "\\PC{0,20}|[\\x00-\\x7f]{0,20}",
        line in any::<u32>(),
        count in any::<u64>(),
    ) {
        let mut snapshot = testing::snapshot();
        let site = &mut snapshot.sites[0];
        let mut code: Code = (*site.code.clone().unwrap()).clone();
        code.function = Some(name.clone());
        code.module = Some(name.clone());
        code.chain = Some(vec![testing::frame(&name, Some((&file, line)))]);
        site.code = Some(code.into());
        snapshot.findings[0].count = count;
        let terms = terms(ALLOW);
        let outcome = Outcome::new(&snapshot, &terms, Run::default());
        assert_valid(&to_sarif(&outcome, None));
        let xml = to_junit(&outcome);
        let outside = xml.split('<').skip(1).map(|part| part.split('>').count());
        prop_assert!(outside.into_iter().all(|parts| parts == 2));
        prop_assert!(!to_text(&outcome).is_empty());
        prop_assert_eq!(&to_json(&outcome)["findings"][0]["count"], count);
    }
}
