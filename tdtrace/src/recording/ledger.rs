//! The conversions of a VM as rows and back.

use tdtrace_common::ledger::Direction;

use super::{
    kind::Kind,
    row::{Key, Malformed, Row},
};
use crate::model::ledger::{LedgerSample, MemoryFault, RegionSample};

/// What is told of a region, by the index of its rows.
pub(super) const REGION_NAMES: [&str; 7] = [
    "last_at",
    "last_to_private",
    "calls_to_shared",
    "calls_to_private",
    "bytes_to_shared",
    "bytes_to_private",
    "turns",
];
/// Those before are always there: they say that there is a region, and which way it went last.
const CALLS: usize = 2;

/// Appends the rows of `ledger`: what is not 0.
pub(super) fn push_rows(ledger: &LedgerSample, rows: &mut Vec<Row>) {
    let counts = (0..).zip(ledger.counts).filter(|(_, count)| *count > 0);
    rows.extend(counts.map(|(index, count)| Row::number(Kind::Ledger, index, count)));
    if ledger.memory_pages > 0 {
        rows.push(Row::number(Kind::MemoryPages, 0, ledger.memory_pages));
    }
    rows.extend(ledger.fault.map(|fault| Row {
        key: Key { kind: Kind::MemoryFault, index: fault.private.into(), address: 0, size: 0 },
        value: fault.at,
        text: None,
    }));
    // Not in its key: a later fault is not another one besides.
    rows.extend(ledger.fault.map(|fault| Row::number(Kind::MemoryFaultGpa, 0, fault.gpa)));
    // By number first and then by address, as the key is.
    for index in 0..REGION_NAMES.len() {
        let row = |region: &RegionSample| {
            let value = numbers(region)[index];
            let said = index < CALLS || value > 0;
            let key = Key { kind: Kind::Region, index: index as u32, address: region.gpa, size: 0 };
            said.then_some(Row { key, value, text: None })
        };
        rows.extend(ledger.regions.iter().filter_map(row));
    }
}

fn numbers(region: &RegionSample) -> [u64; REGION_NAMES.len()] {
    let RegionSample { calls, bytes, turns, last, last_at, .. } = *region;
    [last_at, last as u64, calls[0], calls[1], bytes[0], bytes[1], turns]
}

/// Takes `row` if it is about conversions.
pub(super) fn take(ledger: &mut LedgerSample, row: &Row) -> Result<bool, Malformed> {
    let Key { kind, index, address, .. } = row.key;
    match kind {
        Kind::Ledger => {
            let count = ledger.counts.get_mut(index as usize);
            *count.ok_or(Malformed("a number of a ledger that is not known"))? = row.value;
        }
        Kind::MemoryPages => ledger.memory_pages = row.value,
        Kind::MemoryFault => {
            ledger.fault = Some(MemoryFault { gpa: 0, private: index != 0, at: row.value });
        }
        Kind::MemoryFaultGpa => {
            let fault = ledger.fault.as_mut();
            fault.ok_or(Malformed("the address of a memory fault without its time"))?.gpa =
                row.value;
        }
        Kind::Region => region(ledger, index as usize, address, row.value)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn region(ledger: &mut LedgerSample, index: usize, gpa: u64, value: u64) -> Result<(), Malformed> {
    let found = ledger.regions.binary_search_by_key(&gpa, |region| region.gpa);
    if index == 0 {
        let Err(at) = found else { return Err(Malformed("a region twice")) };
        let (calls, bytes, last) = ([0; 2], [0; 2], Direction::ToShared);
        ledger
            .regions
            .insert(at, RegionSample { gpa, calls, bytes, turns: 0, last, last_at: value });
        return Ok(());
    }
    let region = found.map_err(|_| Malformed("a region without its last conversion"))?;
    let region = &mut ledger.regions[region];
    match index {
        1 => region.last = Direction::ALL[usize::from(value != 0)],
        2 | 3 => region.calls[index - 2] = value,
        4 | 5 => region.bytes[index - 4] = value,
        6 => region.turns = value,
        _ => return Err(Malformed("a number of a region that is not known")),
    }
    Ok(())
}
