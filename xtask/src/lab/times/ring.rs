//! The pages of a ftrace ring buffer, as `per_cpu/cpuN/trace_pipe_raw` gives them. Pure.
//!
//! They have times in nanoseconds and the fields as numbers; the text has neither
//! (include/linux/ring_buffer.h, kernel/trace/ring_buffer.c).

use anyhow::{Result, anyhow, bail};

/// Bytes of a page, its header of time and commit included.
const PAGE: usize = 4096;
const HEADER: usize = 16;
/// The bits of the commit word that are the number of bytes; two of the others say that events before
/// the page are missing.
const COMMIT: u64 = 0xf_ffff;
const MISSED: u64 = 3 << 30;

const PADDING: u32 = 29;
const TIME_EXTEND: u32 = 30;
const TIME_STAMP: u32 = 31;
/// Bits of a time difference in an event's header.
const DELTA_BITS: u32 = 27;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// When it was written, in nanoseconds of the trace's clock.
    pub(super) at: u64,
    /// The event's fields as its `format` file describes them.
    pub(super) data: &'a [u8],
}

/// The events of one CPU in the order in which they were written.
///
/// # Errors
/// When events are missing, or the bytes are no pages of a ring buffer.
pub(super) fn records(bytes: &[u8]) -> Result<Vec<Record<'_>>> {
    let (pages, rest) = bytes.as_chunks::<PAGE>();
    if !rest.is_empty() {
        bail!("the trace ends within a page: {} bytes are left", rest.len());
    }
    let mut records = Vec::new();
    for (number, page) in pages.iter().enumerate() {
        read_page(page, &mut records)
            .ok_or_else(|| anyhow!("page {number} of the trace cannot be read"))?;
    }
    Ok(records)
}

/// `None` if something is missing in the page or before it.
fn read_page<'a>(page: &'a [u8; PAGE], records: &mut Vec<Record<'a>>) -> Option<()> {
    let mut at = u64::from_le_bytes(*page.first_chunk()?);
    let commit = u64::from_le_bytes(*page[8..].first_chunk()?);
    if commit & MISSED != 0 {
        return None;
    }
    let mut rest = page[HEADER..].get(..usize::try_from(commit & COMMIT).ok()?)?;
    while let Some((header, behind)) = rest.split_first_chunk() {
        let header = u32::from_le_bytes(*header);
        let (kind, delta) = (header & 0x1f, u64::from(header >> 5));
        let word = || behind.first_chunk().map(|word| u32::from_le_bytes(*word));
        let length = match kind {
            // The rest of the page is empty; a discarded event, which has a time, does not occur: the
            // trace has no filters.
            PADDING if delta == 0 => return Some(()),
            PADDING => return None,
            TIME_EXTEND => {
                at += delta + (u64::from(word()?) << DELTA_BITS);
                4
            }
            TIME_STAMP => {
                at = delta + (u64::from(word()?) << DELTA_BITS);
                4
            }
            0 => {
                at += delta;
                let length = word()? as usize;
                records.push(Record { at, data: behind.get(4..length)? });
                length
            }
            words => {
                at += delta;
                let length = words as usize * 4;
                records.push(Record { at, data: behind.get(..length)? });
                length
            }
        };
        rest = behind.get(length..)?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u32, delta: u32) -> [u8; 4] {
        (kind | delta << 5).to_le_bytes()
    }

    fn page(at: u64, events: &[&[u8]]) -> Vec<u8> {
        let events = events.concat();
        let mut page = [at.to_le_bytes(), (events.len() as u64).to_le_bytes()].concat();
        page.extend(events);
        page.resize(PAGE, 0xee);
        page
    }

    #[test]
    fn times_add_up_over_events_and_extensions() {
        let bytes = page(
            1_000,
            &[
                &header(1, 5),
                b"abcd",
                &header(TIME_EXTEND, 3),
                &2u32.to_le_bytes(),
                &header(2, 1),
                b"efghijkl",
                &header(0, 0),
                &8u32.to_le_bytes(),
                b"long",
                &header(TIME_STAMP, 7),
                &1u32.to_le_bytes(),
                &header(1, 0),
                b"last",
                &header(PADDING, 0),
            ],
        );
        let far = 1_009 + (2 << 27);
        let expected: [(u64, &[u8]); 4] =
            [(1_005, b"abcd"), (far, b"efghijkl"), (far, b"long"), (7 + (1 << 27), b"last")];
        let records = records(&bytes).unwrap();
        assert_eq!(records.iter().map(|r| (r.at, r.data)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_page_that_lost_events_or_is_cut_is_an_error() {
        let good = page(1, &[&header(1, 5), b"abcd"]);
        assert_eq!(records(&good).unwrap().len(), 1);
        assert!(records(&good[..PAGE - 1]).is_err());
        for bit in [30, 31] {
            let mut missed = good.clone();
            missed[8 + bit / 8] |= 1 << (bit % 8);
            assert!(records(&missed).is_err(), "bit {bit}");
        }
        assert!(records(&page(1, &[&header(3, 5), b"abcd"])).is_err());
        assert!(records(&page(1, &[&header(PADDING, 5), b"abcd"])).is_err());
    }
}
