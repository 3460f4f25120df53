//! Damaged and cut recordings: what is delivered is as it was written, whatever the damage.

use std::thread;

use super::{Recorded, ends, example, guest, read, written};
use crate::recording::{Cut, Error};

fn assert_flips_are_noticed<S: Recorded>(samples: &[S]) {
    let recording = written(samples);
    let check = |half: usize| {
        let mut bytes = recording.clone();
        for bit in (half..bytes.len() * 8).step_by(2) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (back, end) = S::read(&bytes);
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
fn no_single_flipped_bit_goes_unnoticed() {
    assert_flips_are_noticed(&example::few());
    assert_flips_are_noticed(&guest::example::few());
}

fn assert_cuts_are_said<S: Recorded>(samples: &[S]) {
    let (recording, ends) = (written(samples), ends(samples));
    for length in 0..recording.len() {
        let (back, end) = S::read(&recording[..length]);
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
fn wherever_it_is_cut_the_whole_samples_are_read_and_the_rest_is_said() {
    assert_cuts_are_said(&example::few());
    assert_cuts_are_said(&guest::example::few());
}

fn assert_batches_belong_together<S: Recorded>(samples: &[S]) {
    let (recording, ends) = (written(samples), ends(samples));
    let without = [&recording[..ends[0]], &recording[ends[1]..]].concat();
    let twice = [&recording[..ends[1]], &recording[ends[0]..]].concat();
    for (bytes, whole) in [(without, 1), (twice, 2)] {
        let (back, end) = S::read(&bytes);
        assert_eq!(back, samples[..whole]);
        let error = end.unwrap_err().to_string();
        assert!(error.contains("a batch is missing or is another one"), "{error}");
    }
    let (back, end) = S::read(&[&recording[..], b"x"].concat());
    assert_eq!(back, samples);
    assert!(end.unwrap_err().to_string().contains("follow the end"));
}

#[test]
fn a_batch_that_is_left_out_or_repeated_is_noticed() {
    assert_batches_belong_together(&example::samples());
    assert_batches_belong_together(&guest::example::samples());
}

#[test]
fn a_cut_is_told_with_what_was_not_read() {
    let recording = written(&example::few());
    let (_, end) = read(&recording[..recording.len() - 20]);
    let cut = end.unwrap().unwrap().to_string();
    assert!(cut.starts_with("the recording ends in the middle of a batch: "), "{cut}");
    let (_, end) = read(&recording[..recording.len() - 8]);
    assert!(end.unwrap().unwrap().to_string().contains("no sample of it is missing"));
}
