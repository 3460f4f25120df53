//! What is shown of a guest's recording is what was shown live.

use super::{example, read, written};
use crate::{
    model::guest::{aggregate::GuestAggregate, sample::GuestSample},
    report::guest as report,
};

/// Everything that anybody can see of `samples`.
pub(super) fn shown(samples: &[GuestSample]) -> Vec<String> {
    let mut aggregate = GuestAggregate::new();
    let mut shown = Vec::new();
    for sample in samples {
        let snapshot = aggregate.apply(sample);
        shown.push(format!("{snapshot:#?}"));
        shown.push(report::to_json(&snapshot, 30).to_string());
        shown.push(report::to_text(&snapshot, 30));
        let whole = snapshot.with_mean_rates();
        shown.push(report::to_json(&whole, 30).to_string());
        shown.push(report::to_text(&whole, 30));
    }
    shown
}

#[test]
fn live_and_replayed_snapshots_are_equal_and_give_identical_reports() {
    let samples = example::samples();
    let (back, end) = read(&written(&samples));
    assert!(matches!(end, Ok(None)), "{end:?}");
    let (live, replayed) = (shown(&samples), shown(&back));
    assert!(live.iter().any(|text| text.contains("acme_kick+0x16 [acme]")));
    assert!(live.iter().any(|text| text.contains("clock hpet cannot be read")));
    assert_eq!(live, replayed);
}
