//! Damaged and cut recordings of a guest: what is delivered is as it was written.

use std::thread;

use super::{ends, example, read, written};
use crate::recording::{Cut, Error};

#[test]
fn no_single_flipped_bit_goes_unnoticed() {
    let samples = example::few();
    let recording = written(&samples);
    let check = |half: usize| {
        let mut bytes = recording.clone();
        for bit in (half..bytes.len() * 8).step_by(2) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (back, end) = read(&bytes);
            assert!(samples.starts_with(&back), "bit {bit} changes what is read");
            assert!(!matches!(end, Ok(None)), "bit {bit} goes unnoticed");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| check(0));
        scope.spawn(|| check(1));
    });
}

#[test]
fn wherever_it_is_cut_the_whole_samples_are_read_and_the_rest_is_said() {
    let samples = example::few();
    let recording = written(&samples);
    let ends = ends(&samples);
    for length in 0..recording.len() {
        let (back, end) = read(&recording[..length]);
        let whole = ends.iter().filter(|end| **end <= length).count();
        assert_eq!(back, samples[..whole], "cut at {length}");
        let last = if whole == 0 { 0 } else { ends[whole - 1] };
        match end {
            Ok(cut) => assert_eq!(cut, Some(Cut { bytes: (length - last) as u64 })),
            Err(Error::NotARecording(_)) => assert_eq!(whole, 0, "cut at {length}"),
            Err(error) => panic!("cut at {length}: {error}"),
        }
    }
}

#[test]
fn a_batch_that_is_left_out_or_repeated_is_noticed() {
    let samples = example::samples();
    let recording = written(&samples);
    let ends = ends(&samples);
    let without = [&recording[..ends[0]], &recording[ends[1]..]].concat();
    let twice = [&recording[..ends[1]], &recording[ends[0]..]].concat();
    for (bytes, whole) in [(without, 1), (twice, 2)] {
        let (back, end) = read(&bytes);
        assert_eq!(back, samples[..whole]);
        let error = end.unwrap_err().to_string();
        assert!(error.contains("a batch is missing or is another one"), "{error}");
    }
}
