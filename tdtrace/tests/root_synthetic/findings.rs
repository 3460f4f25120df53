//! Findings of a host: each rule at its limit and just below it, from raw tracepoints to the sentences.
//!
//! [`stage`] drives a VM a case through the loaded programs and holds what the model finds against what was
//! written down, [`errors`], [`storms`], [`places`] and [`times`] are the cases by kind of rule, [`course`]
//! is what happens to findings over several samples.

mod course;
mod errors;
mod places;
mod stage;
mod storms;
mod times;

use std::collections::BTreeSet;

use tdtrace::model::finding::Rule;

use self::stage::Case;

fn cases() -> Vec<Case> {
    [errors::cases(), storms::cases(), places::cases(), times::cases()]
        .into_iter()
        .flatten()
        .collect()
}

#[test]
fn every_rule_fires_at_its_limit_with_exact_numbers_and_not_below_it() {
    let cases = cases();
    let of = |fires: bool| -> BTreeSet<Rule> {
        cases
            .iter()
            .filter(|case| case.expected.is_empty() != fires)
            .map(|case| case.rule)
            .collect()
    };
    let all: BTreeSet<Rule> = Rule::ALL.iter().copied().collect();
    assert_eq!((of(true), of(false)), (all.clone(), all));
    stage::play(&cases);
}
