//! The words that a vCPU and its thread share: what to do, and what was done.
//!
//! Every vCPU has a block of its own in guest memory and finds it through ESI. The limits may be
//! lowered from any thread while the guest runs: it looks at its limit after each access, so it
//! stops at once, and what it reports is exact without ever being interrupted.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::kind::{Counts, Kind};

/// 32-bit words of a block.
pub(super) const WORDS: usize = 64;
/// Bytes of a block.
pub(super) const BYTES: usize = WORDS * 4;

const ENTRIES: usize = 0;
const LIMITS: usize = Kind::ALL.len();
const MADE: usize = 2 * Kind::ALL.len();
const SIGNED_OFF: usize = 3 * Kind::ALL.len();
// The guest's code addresses these words with an 8-bit signed displacement.
const _: () = assert!(SIGNED_OFF < 32);
const HALTING: usize = 32;
const INTERRUPTS: usize = 33;
// The guest's stack grows down from the end of the block; an interrupt takes three words.
const _: () = assert!(INTERRUPTS < WORDS - 3);

/// The displacement of a word from the block's start.
#[derive(Clone, Copy, Debug)]
pub(super) enum Word {
    /// Guest address at which the kind's loop is entered.
    Entry(Kind),
    /// Accesses to make.
    Limit(Kind),
    /// Accesses made.
    Made(Kind),
    /// 1 once the slice is done.
    SignedOff,
    /// Halts begun, all slices together; runs over.
    Halting,
    /// Interrupts that the guest took, all slices together; runs over.
    Interrupts,
}

impl Word {
    const fn index(self) -> usize {
        match self {
            Self::Entry(kind) => ENTRIES + kind as usize,
            Self::Limit(kind) => LIMITS + kind as usize,
            Self::Made(kind) => MADE + kind as usize,
            Self::SignedOff => SIGNED_OFF,
            Self::Halting => HALTING,
            Self::Interrupts => INTERRUPTS,
        }
    }

    /// Bytes from the block's start; below 128 but for the last two.
    #[expect(clippy::cast_possible_truncation, reason = "BYTES is at most 256")]
    pub(super) const fn displacement(self) -> u8 {
        (self.index() * 4) as u8
    }
}

/// One vCPU's block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control<'m>(&'m [AtomicU32; WORDS]);

impl<'m> Control<'m> {
    pub(super) const fn new(words: &'m [AtomicU32; WORDS]) -> Self {
        Self(words)
    }

    fn word(&self, word: Word) -> &AtomicU32 {
        &self.0[word.index()]
    }

    /// Prepares a slice: `limits` accesses, each kind's loop entered at `entries`.
    pub(super) fn arm(&self, limits: &Counts, entry: impl Fn(Kind) -> u32) {
        for (kind, limit) in limits.iter() {
            self.word(Word::Entry(kind)).store(entry(kind), Relaxed);
            self.word(Word::Made(kind)).store(0, Relaxed);
            // A slice never holds more than 32 bits of a kind.
            self.word(Word::Limit(kind)).store(u32::try_from(limit).unwrap_or(u32::MAX), Relaxed);
        }
        self.word(Word::SignedOff).store(0, Relaxed);
    }

    /// Makes a running guest finish after the access it is at.
    pub(super) fn cut_short(&self) {
        for kind in Kind::ALL {
            self.word(Word::Limit(kind)).store(0, Relaxed);
        }
    }

    /// Whether the slice is done.
    pub(super) fn signed_off(&self) -> bool {
        self.word(Word::SignedOff).load(Relaxed) == 1
    }

    /// How many halts the guest has begun, modulo 2^32.
    pub(super) fn halting(&self) -> u32 {
        self.word(Word::Halting).load(Relaxed)
    }

    /// How many interrupts the guest's handler has counted, modulo 2^32.
    pub(super) fn interrupts(&self) -> u32 {
        self.word(Word::Interrupts).load(Relaxed)
    }

    /// What the slice made; valid once it signed off.
    pub(super) fn made(&self) -> Counts {
        Kind::ALL
            .into_iter()
            .map(|kind| (kind, u64::from(self.word(Word::Made(kind)).load(Relaxed))))
            .collect()
    }
}
