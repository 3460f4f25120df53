//! Columns of the intervals of a VM's timeline.

use std::time::Duration;

use tdtrace_common::{latency::Part, ledger::Direction};

use super::{Field, Row, RowId, Share, Value, left, percent, right, text};
use crate::model::{
    aggregate::rate,
    boot::{BootRow, Group},
    counts::sum,
    figure,
    sample::Isa,
    snapshot::TimeSplit,
};

impl Row for BootRow {
    const FIELDS: &'static [Field<Self>] = BOOT_FIELDS;

    fn id(&self) -> RowId {
        [self.vm.into(), self.interval.from, 0]
    }

    fn opens(&self) -> bool {
        false
    }
}

/// Cells of the bar, by the width of the screen.
const MIX: [usize; 3] = [16, 28, 72];

fn mix(row: &BootRow, width: usize) -> Value {
    let of = |group: Group| (row.interval.amounts.of(group), group.letter());
    Value::Figure(figure::stack(&Group::ALL.map(of), width))
}

/// Percent of the exits that are of the leading group.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn leading(row: &BootRow) -> Option<(Group, f64)> {
    let amounts = &row.interval.amounts;
    let group = amounts.leading()?;
    Some((group, amounts.of(group) as f64 / amounts.exits() as f64 * 100.0))
}

fn share(row: &BootRow, share: Share) -> Value {
    let times = row.interval.amounts.times();
    percent(Some(TimeSplit { total: times, recent: Some(times) }), row.isa, share)
}

/// Columns of the intervals of a timeline.
pub const BOOT_FIELDS: &[Field<BootRow>] = &[
    right("vm", "VM", 9, "number of the VM", |row: &BootRow| Value::Id(row.vm.into())),
    left("name", "NAME", 9, "name of the VM", |row| text(&row.vm_name)),
    right("from_ns", "FROM", 0, "from when on, since the VM began", |row| {
        Value::Nanos(row.interval.from)
    }),
    right("to_ns", "TO", 0, "up to when", |row| Value::Nanos(row.interval.to)),
    left("mix", "EXIT MIX", 1, "exits by group, letters below", |row| mix(row, MIX[0])),
    left("mix_wide", "EXIT MIX", 1, "exits by group, letters below", |row| mix(row, MIX[1])),
    left("mix_full", "EXIT MIX", 1, "exits by group, letters below", |row| mix(row, MIX[2])),
    right("leads", "LEADS", 1, "the group with the most exits, and its share of them", |row| {
        let cell = |(group, share): (Group, f64)| format!("{} {share:.0}%", group.letter());
        Value::Figure(leading(row).map_or_else(|| "–".to_owned(), cell))
    }),
    left("leading", "LEADING", 2, "the group with the most exits", |row| {
        leading(row).map_or(Value::None, |(group, _)| text(group.title()))
    }),
    right("leading_pct", "OF ALL%", 2, "its share of the exits", |row| {
        leading(row).map_or(Value::None, |(_, share)| Value::Percent(share))
    }),
    right("exits", "EXITS", 7, "VM exits", |row| Value::Count(row.interval.amounts.exits())),
    right("exits_per_s", "/s", 2, "VM exits per second", |row| {
        let span = row.interval.to.saturating_sub(row.interval.from);
        Value::Rate(rate(row.interval.amounts.exits(), Some(Duration::from_nanos(span))))
    }),
    right("mapped", "MAPPED", 2, "bytes of private memory mapped for faults", |row| {
        Value::Bytes(row.interval.amounts.mapped())
    }),
    right("converted", "CONVERTED", 5, "bytes converted, in both directions", |row| {
        let amounts = &row.interval.amounts;
        Value::Bytes(sum(Direction::ALL.map(|way| amounts.converted(way))))
    }),
    right("guest_pct", "GUEST%", 6, "of the vCPUs' time, in the guest", |row| {
        share(row, Share::Guest)
    }),
    right("kernel_pct", "KERN%", 3, "of the vCPUs' time, in the kernel", |row| {
        share(row, Share::Kernel)
    }),
    right("kvm_run_pct", "KVM_RUN%", 3, "in guest and kernel, where nobody can tell", |row| {
        share(row, Share::KvmRun)
    }),
    right("vmm_pct", "VMM%", 3, "of the vCPUs' time, in the VMM", |row| {
        share(row, Share::Part(Part::Vmm))
    }),
    right("halted_pct", "HALT%", 3, "of the vCPUs' time, halted", |row| {
        share(row, Share::Part(Part::Halted))
    }),
    right("waiting_pct", "WAIT%", 6, "of the vCPUs' time, ready to run without a CPU", |row| {
        share(row, Share::Part(Part::Waiting))
    }),
];

/// Keys of the columns for a screen of `width` cells, with what has to go where there is not enough room.
#[must_use]
pub fn boot_keys(width: u16, isa: Isa) -> Vec<(&'static str, u8)> {
    let mut keys = vec![("from_ns", 0), ("to_ns", 0)];
    keys.extend(match width {
        0..110 => &[("mix", 1), ("leads", 1)][..],
        110..180 => &[("mix_wide", 1), ("leading", 2), ("leading_pct", 2)],
        180.. => &[("mix_full", 1), ("leading", 2), ("leading_pct", 2), ("exits", 7)],
    });
    keys.extend([("exits_per_s", 2), ("mapped", 2)]);
    if width >= 110 {
        keys.push(("converted", 5));
    }
    let is_wide = width >= 180 && isa != Isa::Software;
    keys.extend(is_wide.then_some(("guest_pct", 6)));
    keys.push((if isa == Isa::Software { "kvm_run_pct" } else { "kernel_pct" }, 3));
    keys.extend([("vmm_pct", 3), ("halted_pct", 3)]);
    keys.extend((width >= 180).then_some(("waiting_pct", 6)));
    keys
}
