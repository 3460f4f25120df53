//! Files that somebody made: checksums are right, everything else is a lie.

use super::{example, read, written};
use crate::recording::{Error, VERSION};

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
#[test]
fn with_right_checksums_a_changed_file_still_panics_nowhere() {
    let samples = example::few();
    let recording = written(&samples);
    let ends: Vec<usize> = (1..=samples.len()).map(|n| written(&samples[..n]).len() - 8).collect();
    let mut refused = 0;
    for at in 0..*ends.last().unwrap() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut bytes = recording.clone();
            bytes[at] = value;
            let (back, end) = read(&sealed(bytes, &ends));
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
