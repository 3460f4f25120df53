//! A snapshot as text for people.

use std::{cmp::Reverse, fmt::Write as _};

use super::{Show, boot, conversions, findings::findings_text, poison, seam, slow, table::table};
use crate::model::{
    exits::{self, ExitRow, Kind, Scope},
    field::{Row, pick, thousands},
    filter::keeps,
    snapshot::{ExitSource, Hotspot, Snapshot, Vcpu, Vm},
};

/// Cells that the tables may fill.
pub(super) const WIDTH: u16 = 100;

/// Columns of VMs, with what has to go where there is not enough room.
const VMS: &[(&str, u8)] = &[
    ("vm", 0),
    ("name", 1),
    ("demo", 0),
    ("fate", 1),
    ("pid", 4),
    ("kind", 5),
    ("vmm", 10),
    ("container", 11),
    ("vcpus", 3),
    ("exits", 2),
    ("exits_per_s", 2),
    ("to_vmm", 6),
    ("mmio", 7),
    ("pio", 8),
    ("cpuid", 12),
    ("msr", 13),
    ("hypercall", 14),
    ("audit", 9),
    ("state", 15),
    ("poisoned", 12),
];

/// Columns of vCPUs.
const VCPUS: &[(&str, u8)] = &[
    ("vm", 0),
    ("vcpu", 0),
    ("tid", 4),
    ("exits", 1),
    ("exits_per_s", 2),
    ("runs", 3),
    ("kvm_says", 5),
    ("we_saw", 6),
    ("audit", 7),
];

/// Columns of places.
const PLACES: &[(&str, u8)] = &[
    ("vm", 0),
    ("name", 4),
    ("class", 1),
    ("address", 1),
    ("what", 3),
    ("size", 5),
    ("served", 11),
    ("count", 2),
    ("per_s", 3),
];

/// Columns of durations.
const DURATIONS: &[(&str, u8)] = &[
    ("vm", 0),
    ("type", 2),
    ("reason", 0),
    ("halt", 9),
    ("count", 3),
    ("share_pct", 4),
    ("time_ns", 5),
    ("kernel_ns", 6),
    ("vmm_ns", 6),
    ("halted_ns", 8),
    ("waiting_ns", 8),
    ("p50_ns", 7),
    ("p99_ns", 5),
    ("p999_ns", 8),
    ("max_ns", 6),
];

/// Where the time went. Guest and kernel where they can be told apart, else both together.
const TIMES: &[(&str, u8)] = &[
    ("vm", 0),
    ("name", 1),
    ("guest_pct", 2),
    ("kernel_pct", 2),
    ("vmm_pct", 2),
    ("halted_pct", 3),
    ("waiting_pct", 4),
];
const TIMES_SOFTWARE: &[(&str, u8)] = &[
    ("vm", 0),
    ("name", 1),
    ("kvm_run_pct", 2),
    ("vmm_pct", 2),
    ("halted_pct", 3),
    ("waiting_pct", 4),
];

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

/// The whole snapshot, as far as `show` says.
pub(super) fn to_text(snapshot: &Snapshot, show: Show<'_>) -> String {
    let mut text = header(snapshot) + "\n";
    for probe in snapshot.probes.iter() {
        if let Some(why) = &probe.missing {
            let _ = writeln!(text, "not seen: {} ({}: {why})", probe.hides, probe.name);
        }
    }
    seam::not_seen(snapshot, &mut text);
    poison::to_text(snapshot, &mut text);
    for (loss, class, count) in &snapshot.losses.causes {
        let _ = writeln!(text, "lost: {} {} {}", thousands(*count), class.name(), loss.name());
    }
    for (probe, count) in snapshot.losses.misses.iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(text, "lost: {} runs of {probe}", thousands(*count));
    }
    for row in snapshot.seamcalls.iter().filter(|row| row.total.missed > 0) {
        let _ =
            writeln!(text, "lost: {} returns of {}", thousands(row.total.missed), row.total.name);
    }
    durations_lost(snapshot, &mut text);
    if snapshot.vms.is_empty() {
        text.push_str("no VM has run yet\n");
        seam::to_text(snapshot, show, &mut text);
        return text;
    }
    findings_text(snapshot, show, &mut text);
    let vms: Vec<&Vm> = snapshot.vms.iter().filter(|vm| keeps(show.filter, *vm, None)).collect();
    list(VMS, &vms, (snapshot.vms.len(), "VMs"), &mut text);
    times(snapshot, &vms, &mut text);
    let vcpus: Vec<(&Vm, &Vcpu)> =
        snapshot.vms.iter().flat_map(|vm| vm.vcpus.iter().map(move |vcpu| (vm, vcpu))).collect();
    let total = vcpus.len();
    let vcpus: Vec<&Vcpu> = vcpus
        .into_iter()
        .filter(|(vm, vcpu)| keeps(show.filter, *vcpu, Some(vm)))
        .map(|(_, vcpu)| vcpu)
        .collect();
    list(VCPUS, &vcpus, (total, "vCPUs"), &mut text);
    classes(snapshot, &mut text);
    reasons(snapshot, show, &mut text);
    durations(snapshot, show, &mut text);
    conversions::to_text(snapshot, show, &mut text);
    if show.boot {
        boot::to_text(snapshot, show, &mut text);
    }
    places(snapshot, show, &mut text);
    slow::to_text(snapshot, show, WIDTH, &mut text);
    seam::to_text(snapshot, show, &mut text);
    text
}

/// A table, and how many of its rows the filter leaves.
fn list<R: Row>(keys: &[(&str, u8)], rows: &[&R], (total, what): (usize, &str), text: &mut String) {
    text.push('\n');
    text.push_str(&table(&pick(keys), rows, WIDTH));
    if rows.len() < total {
        let _ = writeln!(text, "{} of {total} {what}, as filtered", rows.len());
    }
}

/// What is not in the durations.
fn durations_lost(snapshot: &Snapshot, text: &mut String) {
    let losses = &snapshot.losses;
    if losses.unpaired > 0 {
        let count = thousands(losses.unpaired);
        let _ = writeln!(text, "no duration: {count} whose beginning is missing");
    }
    if losses.durations > 0 {
        let count = thousands(losses.durations);
        let _ = writeln!(text, "no duration: {count} without room in a histogram");
    }
    for (class, count) in &losses.outside {
        let _ = writeln!(text, "of no vCPU: {} {}", thousands(*count), class.name());
    }
}

/// Where the time went, in percent of the vCPUs' time over the interval.
fn times(snapshot: &Snapshot, vms: &[&Vm], text: &mut String) {
    if vms.iter().any(|vm| vm.times.is_some()) {
        let columns = pick(if snapshot.is_software() { TIMES_SOFTWARE } else { TIMES });
        let _ = write!(text, "\n{}", table(&columns, vms, WIDTH));
    }
}

fn classes(snapshot: &Snapshot, text: &mut String) {
    text.push_str("\nCLASS                                             EVENTS\n");
    for (class, count) in snapshot.counts.iter() {
        let _ = writeln!(text, "{:<42} {:>13}", class.name(), thousands(count));
    }
}

/// The rows of `rows` that the filter leaves.
fn kept(snapshot: &Snapshot, show: Show<'_>, rows: Vec<ExitRow>) -> Vec<ExitRow> {
    let vm = |row: &ExitRow| snapshot.vms.iter().find(|vm| vm.id == row.vm);
    rows.into_iter().filter(|row| keeps(show.filter, row, vm(row))).collect()
}

/// Exit reasons and returns to the VMM by VM.
fn reasons(snapshot: &Snapshot, show: Show<'_>, text: &mut String) {
    let rows = kept(snapshot, show, exits::rows(snapshot, Scope::All, true));
    for (title, kind) in [
        ("EXIT REASON", Kind::Exit),
        ("EXIT REASON OF L2", Kind::Nested),
        ("RETURN TO VMM", Kind::Return),
    ] {
        let mut rows: Vec<&ExitRow> = rows.iter().filter(|row| row.kind == kind).collect();
        rows.sort_by_key(|row| (row.vm, Reverse(row.tally.total)));
        if !rows.is_empty() {
            let _ = writeln!(text, "\n VM {title:<42} {:>13}", "COUNT");
        }
        for row in rows {
            let count = thousands(row.tally.total);
            let _ = writeln!(text, "{:>3} {:<42} {count:>13}", row.vm, row.reason);
        }
    }
}

fn durations(snapshot: &Snapshot, show: Show<'_>, text: &mut String) {
    let all = exits::durations(snapshot, Scope::All, false);
    if all.is_empty() {
        return;
    }
    let total = all.len();
    let rows = kept(snapshot, show, all);
    text.push_str("\nDURATIONS, halts left out of shares and sums");
    list(DURATIONS, &rows.iter().collect::<Vec<_>>(), (total, "durations"), text);
}

/// The places of `vm` that the filter leaves.
pub(super) fn kept_places<'a>(vm: &'a Vm, show: Show<'_>) -> Vec<&'a Hotspot> {
    vm.hotspots.iter().filter(|place| keeps(show.filter, *place, Some(vm))).collect()
}

fn places(snapshot: &Snapshot, show: Show<'_>, text: &mut String) {
    let mut rows: Vec<&Hotspot> =
        snapshot.vms.iter().flat_map(|vm| kept_places(vm, show)).collect();
    rows.sort_by_key(|spot| (spot.group(), Reverse(spot.tally.total)));
    let hidden = rows.len().saturating_sub(show.hotspots);
    let total: usize = snapshot.vms.iter().map(|vm| vm.hotspots.len()).sum();
    let filtered = total - rows.len();
    rows.truncate(show.hotspots);
    text.push('\n');
    text.push_str(&table(&pick(PLACES), &rows, WIDTH));
    if hidden > 0 {
        let _ = writeln!(text, "… and {hidden} more places");
    }
    if filtered > 0 {
        let _ = writeln!(text, "{} of {total} places, as filtered", total - filtered);
    }
    for vm in snapshot.vms.iter().filter(|vm| keeps(show.filter, *vm, None)) {
        for (class, count) in &vm.other {
            let _ = writeln!(text, "{:>3} {} other: {}", vm.id, class.name(), thousands(*count));
        }
    }
}
