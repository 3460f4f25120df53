//! A snapshot as text for people.

use std::{cmp::Reverse, fmt::Write as _};

use super::table::table;
use crate::model::{
    field::{HOTSPOT_FIELDS, VCPU_FIELDS, VM_FIELDS, hotspot_rows, thousands, vcpu_rows},
    snapshot::{ExitSource, Snapshot},
};

/// Cells that the tables may fill.
const WIDTH: u16 = 100;

/// One line: when, how much is attached, what is lost.
#[must_use]
pub fn header(snapshot: &Snapshot) -> String {
    let (attached, probes) = snapshot.attached();
    let mut line = format!(
        "tdtrace {}  {}  t={:.1} s  probes {attached}/{probes}  lost {}",
        env!("CARGO_PKG_VERSION"),
        snapshot.host.release,
        snapshot.at.as_secs_f64(),
        thousands(snapshot.lost()),
    );
    if snapshot.losses.hotspots > 0 {
        let _ = write!(line, "  without place {}", thousands(snapshot.losses.hotspots));
    }
    if snapshot.exit_source == ExitSource::KvmStat {
        line.push_str("  exits by KVM's own count");
    }
    line
}

/// The whole snapshot, with at most `hotspots` places.
#[must_use]
pub fn to_text(snapshot: &Snapshot, hotspots: usize) -> String {
    let mut text = header(snapshot) + "\n";
    for probe in snapshot.probes.iter() {
        if let Some(why) = &probe.missing {
            let _ = writeln!(text, "not seen: {} ({}: {why})", probe.hides, probe.name);
        }
    }
    for (loss, class, count) in &snapshot.losses.causes {
        let _ = writeln!(text, "lost: {} {} {}", thousands(*count), class.name(), loss.name());
    }
    for (probe, count) in snapshot.losses.misses.iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "lost: {} runs of {probe}", thousands(*count));
    }
    if snapshot.vms.is_empty() {
        text.push_str("no VM has run yet\n");
        return text;
    }
    text.push('\n');
    text.push_str(&table(VM_FIELDS, &snapshot.vms.iter().collect::<Vec<_>>(), WIDTH));
    text.push('\n');
    text.push_str(&table(VCPU_FIELDS, &vcpu_rows(snapshot).collect::<Vec<_>>(), WIDTH));
    classes(snapshot, &mut text);
    reasons(snapshot, &mut text);
    places(snapshot, hotspots, &mut text);
    text
}

fn classes(snapshot: &Snapshot, text: &mut String) {
    text.push_str("\nCLASS                        EVENTS\n");
    for (class, count) in snapshot.counts.iter() {
        let _ = writeln!(text, "{:<21} {:>13}", class.name(), thousands(count));
    }
}

/// Exit reasons and returns to the VMM, over all VMs.
fn reasons(snapshot: &Snapshot, text: &mut String) {
    let per_vm = |title: &str, rows: Vec<(u32, String, u64)>, text: &mut String| {
        if !rows.is_empty() {
            let _ = writeln!(text, "\n VM {title:<21} {:>13}", "COUNT");
        }
        for (vm, name, count) in rows {
            let _ = writeln!(text, "{vm:>3} {name:<21} {:>13}", thousands(count));
        }
    };
    let mut exits = Vec::new();
    let mut returns = Vec::new();
    for vm in &snapshot.vms {
        exits.extend(vm.reasons().into_iter().map(|(name, count)| (vm.id, name, count)));
        returns.extend(vm.userspace().into_iter().map(|(name, count)| (vm.id, name, count)));
    }
    for rows in [&mut exits, &mut returns] {
        rows.sort_by_key(|(vm, _, count)| (*vm, Reverse(*count)));
    }
    per_vm("EXIT REASON", exits, text);
    per_vm("RETURN TO VMM", returns, text);
}

fn places(snapshot: &Snapshot, limit: usize, text: &mut String) {
    let mut rows: Vec<_> = hotspot_rows(snapshot).collect();
    rows.sort_by_key(|spot| Reverse(spot.tally.total));
    let hidden = rows.len().saturating_sub(limit);
    rows.truncate(limit);
    text.push('\n');
    text.push_str(&table(HOTSPOT_FIELDS, &rows, WIDTH));
    if hidden > 0 {
        let _ = writeln!(text, "… and {hidden} more places");
    }
    for vm in &snapshot.vms {
        for (class, count) in &vm.other {
            let _ = writeln!(text, "{:>3} {} other: {}", vm.id, class.name(), thousands(*count));
        }
    }
}
