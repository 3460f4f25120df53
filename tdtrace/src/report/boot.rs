//! Timelines of VMs as text and JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use tdtrace_common::ledger::Direction;

use super::{Show, json::times, table::table, text::WIDTH};
use crate::model::{
    boot::{BootRow, Group, Timeline, rows},
    field::{BOOT_FIELDS, boot_keys, pick, to_json as row_to_json},
    figure,
    filter::keeps,
    snapshot::{Snapshot, Vm},
};

/// The timeline of `vm`; null if it has none.
pub(super) fn to_json(vm: &Vm) -> Value {
    let Some(timeline) = vm.boot.as_deref() else { return Value::Null };
    json!({
        "began_ns": timeline.began,
        "seen_from_start": timeline.from_start,
        "interval_ns": timeline.length,
        "settled_ns": timeline.settled(),
        "intervals": rows(vm).iter().map(interval).collect::<Vec<_>>(),
    })
}

fn interval(row: &BootRow) -> Value {
    let amounts = &row.interval.amounts;
    let mut value = row_to_json(BOOT_FIELDS, row);
    if let Value::Object(fields) = &mut value {
        // The VM is what the list stands in.
        fields.remove("vm");
        fields.remove("name");
        let groups = Group::ALL.map(|group| (group.name().to_owned(), amounts.of(group).into()));
        fields.insert("groups".to_owned(), Value::Object(Map::from_iter(groups)));
        let ways = Direction::ALL.map(|way| (way.name().to_owned(), amounts.converted(way).into()));
        fields.insert("converted".to_owned(), Value::Object(Map::from_iter(ways)));
        let spent = amounts.times();
        let spent = (spent.total() > 0).then_some(spent);
        fields.insert("times_ns".to_owned(), times(spent, row.isa));
    }
    value
}

/// What the letters of the bars stand for, in lines of `width` cells at most as far as one group allows.
pub fn legend(width: u16) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for group in Group::ALL {
        let word = format!("{} {}", group.letter(), group.title());
        match lines.last_mut() {
            Some(line) if line.chars().count() + 2 + word.len() <= usize::from(width) => {
                line.push_str("  ");
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// From when on `timeline` is, how long its intervals are, and when the VM settled, if that can be said.
pub fn summary(timeline: &Timeline) -> String {
    let since = if timeline.from_start { "since it began" } else { "since attaching" };
    let mut text = format!("{since}, in intervals of {}", figure::duration(timeline.length));
    if let Some(settled) = timeline.settled() {
        let _ = write!(text, ", settled after {}", figure::duration(settled));
    }
    text
}

/// The timelines of the VMs that have one.
pub(super) fn to_text(snapshot: &Snapshot, show: Show<'_>, text: &mut String) {
    let kept = snapshot.vms.iter().filter(|vm| keeps(show.filter, *vm, None));
    let mut timelines = kept.filter_map(|vm| Some((vm, vm.boot.as_deref()?))).peekable();
    if timelines.peek().is_none() {
        return;
    }
    let _ = writeln!(text, "\nBOOT: exits by group\n{}", legend(WIDTH).join("\n"));
    for (vm, timeline) in timelines {
        let _ = writeln!(text, "\n{:>3} {} {}", vm.id, vm.name, summary(timeline));
        let rows = rows(vm);
        let columns = pick(&boot_keys(WIDTH, vm.isa));
        text.push_str(&table(&columns, &rows.iter().collect::<Vec<_>>(), WIDTH));
    }
}
