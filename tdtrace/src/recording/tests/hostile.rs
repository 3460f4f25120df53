//! Files that somebody made: checksums are right, everything else is a lie.

use proptest::prelude::*;

use super::{Recorded, ends, example, guest, read, written};
use crate::recording::{
    BATCH_MAX, Error, ROWS_MAX, Side, VERSION,
    encode::Encoder,
    kind::Kind,
    schema::{Builder, Cells, schema},
};

/// Where the batches of a recording end, and with them what its checksums cover.
fn sealed(mut recording: Vec<u8>, ends: &[usize]) -> Vec<u8> {
    let mut start = 0;
    for end in ends {
        let checksum = crc32c::crc32c(&recording[start..end - 8]);
        recording[end - 8..*end].copy_from_slice(&u64::from(checksum).to_le_bytes());
        start = *end;
    }
    recording
}

fn failure(bytes: &[u8]) -> String {
    let (samples, end) = read(bytes);
    assert!(samples.is_empty());
    end.unwrap_err().to_string()
}

/// A message's beginning with a head of `length` bytes.
fn prefix(length: u32) -> Vec<u8> {
    [&[0xff; 4][..], &length.to_le_bytes()].concat()
}

#[test]
fn what_is_no_recording_is_told_from_a_damaged_one() {
    assert!(failure(b"").contains("the file is empty"));
    assert!(failure(b"hello, world: text").contains("not a recording of tdtrace"));
    assert!(failure(&[0; 4096]).contains("not a recording of tdtrace"));
    assert!(failure(&[0xff; 4096]).contains("not a recording of tdtrace"));
    assert!(failure(&written(&example::few())[..100]).contains("ends within its first message"));
    assert!(failure(&prefix(0)).contains("does not begin with an Arrow schema"));
}

#[test]
fn an_arrow_stream_of_somebody_else_is_no_recording() {
    let schema = arrow_schema::Schema::new(vec![arrow_schema::Field::new(
        "a",
        arrow_schema::DataType::UInt64,
        false,
    )]);
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(Vec::new(), &schema).unwrap();
    writer.finish().unwrap();
    let error = failure(&writer.into_inner().unwrap());
    assert!(error.contains("its schema is not that of a recording"), "{error}");
}

#[test]
fn a_newer_schema_is_refused_with_its_number() {
    let mut recording = written(&example::few());
    let key = b"tdtrace.schema";
    let at = recording.windows(key.len()).position(|bytes| bytes == key).unwrap();
    // The value is the next text: its length, then its one digit.
    let digit = (0..at + 64)
        .rev()
        .find(|at| recording[*at..].starts_with(b"\x01\0\0\x001\0"))
        .expect("the version's text");
    assert_eq!(recording[digit + 4], b'0' + VERSION as u8);
    recording[digit + 4] = b'2';
    assert_eq!(failure(&recording), "made by a newer tdtrace: schema 2; update tdtrace");
    recording[digit + 4] = b'0';
    assert!(failure(&recording).contains("not a recording"));
}

#[test]
fn huge_lengths_reserve_nothing_and_are_refused() {
    for length in [u32::MAX, i32::MAX as u32, 1 << 20] {
        assert!(failure(&prefix(length)).contains("not a recording"));
        // In the place of a batch, behind a schema that is right.
        let recording = written(&example::few());
        let schema = 8 + u32::from_le_bytes(recording[4..8].try_into().unwrap()) as usize;
        let bytes = [&recording[..schema], &prefix(length)].concat();
        let error = failure(&bytes);
        assert!(error.contains(&format!("a message head of {length} bytes")), "{error}");
    }
}

/// Changes bytes anywhere and makes every checksum right again, so that what is behind the checksums
/// is reached.
fn assert_changes_panic_nowhere<S: Recorded>(samples: &[S]) {
    let (recording, ends) = (written(samples), ends(samples));
    let mut refused = 0;
    for at in 0..*ends.last().unwrap() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bytes = recording.clone();
            bytes[at] = value;
            let (back, end) = S::read(&sealed(bytes, &ends));
            assert!(back.len() <= samples.len());
            if let Err(error) = end {
                let text = error.to_string();
                assert!(!text.contains("panicked"), "byte {at} as {value:#x}: {text}");
                refused += usize::from(matches!(error, Error::Damaged { .. }));
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn with_right_checksums_a_changed_file_still_panics_nowhere() {
    assert_changes_panic_nowhere(&example::few());
}

#[test]
fn with_right_checksums_a_guests_changed_file_still_panics_nowhere() {
    assert_changes_panic_nowhere(&guest::example::few());
}

proptest! {
    #[test]
    fn with_right_checksums_no_handful_of_changed_bytes_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let samples = example::few();
        let (mut recording, ends) = (written(&samples), ends(&samples));
        for (index, value) in changes {
            let at = index.index(recording.len());
            recording[at] = value;
        }
        let (_, end) = read(&sealed(recording, &ends));
        let told = end.err().map(|error| error.to_string()).unwrap_or_default();
        prop_assert!(!told.contains("panicked"), "{}", told);
    }
}

/// A recording of one sample with `rows`, checksum and all.
pub(super) fn of_rows<'a>(side: Side, rows: impl IntoIterator<Item = Cells<'a>>) -> Vec<u8> {
    of_batches(side, [rows])
}

/// A recording of one sample whose rows fill several batches.
pub(super) fn of_batches<'a, B: IntoIterator<Item = Cells<'a>>>(
    side: Side,
    batches: impl IntoIterator<Item = B>,
) -> Vec<u8> {
    let mut builder = Builder::default();
    let mut out = Vec::new();
    let mut encoder = Encoder::new(schema(side, 0)).unwrap();
    let mut batches = batches.into_iter().peekable();
    while let Some(rows) = batches.next() {
        rows.into_iter().for_each(|row| builder.push(&row));
        let kind = if batches.peek().is_some() { Kind::Part } else { Kind::Sample };
        encoder.batch(&mut builder, kind, 0, &mut out).unwrap();
    }
    Encoder::end(&mut out);
    out
}

#[test]
fn a_small_file_that_unpacks_to_a_large_one_is_refused() {
    let text: &'static str = "x".repeat(BATCH_MAX / 64 + 1).leak();
    let row = Cells { kind: "release", record: "fact", text, ..Cells::default() };
    let bomb = of_rows(Side::Host, [row; 64]);
    assert!(bomb.len() < BATCH_MAX / 100, "{}", bomb.len());
    assert!(failure(&bomb).contains("the column text has 67108928 bytes"));
}

#[test]
fn more_rows_than_a_batch_may_have_are_refused() {
    let row = Cells { kind: "tid", record: "fact", slot: 1, ..Cells::default() };
    let error = failure(&of_rows(Side::Host, vec![row; ROWS_MAX + 1]));
    assert!(error.contains("a batch of 65537 rows"), "{error}");
}

#[test]
fn rows_that_make_no_sample_are_refused_with_what_is_wrong() {
    let row = |kind| Cells { kind, record: "fact", ..Cells::default() };
    let kvm = Cells { text: "svm", ..row("kvm") };
    for (rows, why) in [
        (vec![], "no machine"),
        (vec![kvm], "no losses"),
        (vec![row("kvm")], "whose kind of KVM is not known"),
        (vec![row("colour")], "a kind that is not known"),
        (vec![row("sample")], "the end of a batch within one"),
        (vec![row("vm")], "a list that does not begin"),
        (vec![kvm, row("unpaired"), row("vms"), row("vm")], "a list of what it lacks"),
        (vec![kvm, row("vms"), row("vm"), row("vm")], "one thing twice"),
        (vec![Cells { vm: 1, ..row("pid") }], "a VM without its key"),
        (vec![row("unpaired"), row("unpaired")], "not in order"),
        (vec![Cells { index: 99, ..row("outside") }], "a class of events that is not known"),
    ] {
        let error = failure(&of_rows(Side::Host, rows));
        assert!(error.contains("damaged at byte 0") && error.contains(why), "{why}: {error}");
    }
}

#[test]
fn single_events_of_later_versions_are_passed_over() {
    let row = |kind| Cells { kind, record: "fact", ..Cells::default() };
    let event = Cells { record: "event", kind: "something", ..Cells::default() };
    let recording =
        of_rows(Side::Host, [Cells { text: "svm", ..row("kvm") }, event, row("unpaired")]);
    let (samples, end) = read(&recording);
    assert_eq!(samples.len(), 1);
    assert!(matches!(end, Ok(None)), "{end:?}");
}
