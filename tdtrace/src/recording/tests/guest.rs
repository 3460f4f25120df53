//! What a guest's recording is made of comes out of it.

pub(super) mod example;
mod hostile;
mod round_trip;
mod views;

use super::{Read, Recorded, written};
use crate::model::guest::sample::GuestSample;

/// The samples of a guest's recording.
fn read(bytes: &[u8]) -> Read<GuestSample> {
    Recorded::read(bytes)
}
