//! What a guest's recording is made of comes out of it.

mod damage;
mod example;
mod hostile;
mod round_trip;
mod views;

use std::time::Duration;

use crate::{
    model::guest::sample::GuestSample,
    recording::{Cut, Error, GuestReader, GuestWriter},
};

/// The recording of `samples`.
fn written(samples: &[GuestSample]) -> Vec<u8> {
    let mut writer = GuestWriter::new(Vec::new(), Duration::from_secs(1_700_000_000)).unwrap();
    for sample in samples {
        writer.write(sample).unwrap();
    }
    assert_eq!(writer.samples(), samples.len() as u64);
    let bytes = writer.bytes();
    let out = writer.finish().unwrap();
    assert_eq!(out.len() as u64, bytes + 8);
    out
}

/// Where in the recording of `samples` each of them ends.
fn ends(samples: &[GuestSample]) -> Vec<usize> {
    (1..=samples.len()).map(|n| written(&samples[..n]).len() - 8).collect()
}

/// The samples of a recording up to its end or to what is wrong with it.
fn read(bytes: &[u8]) -> (Vec<GuestSample>, Result<Option<Cut>, Error>) {
    let mut samples = Vec::new();
    let mut reader = match GuestReader::new(bytes) {
        Ok(reader) => reader,
        Err(error) => return (samples, Err(error)),
    };
    loop {
        match reader.sample() {
            Ok(Some(sample)) => samples.push(sample),
            Ok(None) => return (samples, Ok(reader.cut())),
            Err(error) => return (samples, Err(error)),
        }
    }
}
