//! Broken memory as rows and back.

use tdtrace_common::poison::{PoisonKey, PoisonSource};

use super::{
    kind::Kind,
    row::{Key, Malformed, Row},
};
use crate::model::poison::PoisonSample;

/// The rows of `poison`.
pub(super) fn rows(poison: &PoisonSample) -> Vec<Row> {
    let missing = poison.missing.iter();
    let mut rows: Vec<Row> =
        missing.map(|(source, why)| Row::text(Kind::PoisonMissing, *source as u32, why)).collect();
    rows.extend(poison.pages.iter().map(|(page, count)| Row {
        key: Key {
            kind: Kind::PoisonPage,
            index: page.source.into(),
            address: page.pfn,
            size: u32::from(page.kind) << 16 | u32::from(page.result),
        },
        value: *count,
        text: None,
    }));
    if poison.lost > 0 {
        rows.push(Row::number(Kind::PoisonLost, 0, poison.lost));
    }
    rows
}

/// The broken memory of `rows`.
pub(super) fn from_rows(rows: &[Row]) -> Result<PoisonSample, Malformed> {
    let mut poison = PoisonSample::default();
    let unknown = Malformed("a source of broken memory that is not known");
    for row in rows {
        match row.key.kind {
            Kind::PoisonMissing => {
                let source = PoisonSource::ALL.get(row.key.index as usize).copied();
                poison.missing.push((source.ok_or(unknown)?, row.as_text().into()));
            }
            Kind::PoisonPage => poison.pages.push((page(&row.key).ok_or(unknown)?, row.value)),
            Kind::PoisonLost => poison.lost = row.value,
            _ => return Err(Malformed("a row of broken memory that there is none of")),
        }
    }
    // As a source delivers them, whose order is another one.
    poison.pages.sort_by_key(|(page, _)| *page);
    Ok(poison)
}

fn page(key: &Key) -> Option<PoisonKey> {
    let source = u16::try_from(key.index).ok()?;
    let (kind, result) = ((key.size >> 16) as u16, key.size as u16);
    Some(PoisonKey { pfn: key.address, source, kind, result, reserved: 0 })
}
