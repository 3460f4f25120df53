//! The memory of synthetic structures: a map that this process writes and the programs read at its
//! kernel address.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{RawTracePointRunOptions, TestRun as _};
use tdtrace_common::synthetic::{SyntheticCpu, SyntheticPage};

use super::ADDRESS;
use crate::source::counting::{load::Loaded, slots::MappedArray};

/// The map, and how much of it is in use.
pub(super) struct Memory {
    pages: MappedArray<SyntheticPage>,
    base: u64,
    used: AtomicU64,
}

impl Memory {
    /// Maps the memory of `loaded`, whose program says where the kernel has it.
    pub(super) fn new(loaded: &Loaded, cpus: &MappedArray<SyntheticCpu>) -> Result<Self> {
        let program = loaded.program(ADDRESS)?;
        program.test_run(RawTracePointRunOptions::new()).context("the kernel runs no program")?;
        let base = cpus.word(0, std::mem::offset_of!(SyntheticCpu, memory));
        ensure!(base != 0, "the program {ADDRESS} left no address");
        Ok(Self {
            pages: MappedArray::writable(loaded.map("SYNTHETIC_MEMORY")?)?,
            base,
            used: AtomicU64::new(0),
        })
    }

    /// Takes `size` bytes: their kernel address.
    pub(super) fn take(&self, size: u32) -> Result<u64> {
        let bytes = u64::from(size).next_multiple_of(64);
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let address = self.base + used - bytes;
        let room = u64::from(self.pages.len()) * size_of::<SyntheticPage>() as u64;
        ensure!(used <= room, "the {room} bytes for synthetic TDs are used up");
        Ok(address)
    }

    /// Writes the low `bytes` of `value` at a kernel address in this memory; they lie in one word.
    pub(super) fn write(&self, address: u64, bytes: u32, value: u64) {
        let offset = (address - self.base) as usize;
        let shift = offset % 8 * 8;
        let mask = (u64::MAX >> (64 - 8 * bytes)) << shift;
        let word = self.pages.load(offset / 8);
        self.pages.store(offset / 8, word & !mask | (value << shift) & mask);
    }

    /// Zeroes `size` bytes.
    pub(super) fn clear(&self, address: u64, size: u32) {
        let first = (address - self.base) as usize / 8;
        (first..first + size as usize / 8).for_each(|word| self.pages.store(word, 0));
    }

    /// Adds `count` to the word at a kernel address.
    pub(super) fn add(&self, address: u64, count: u64) {
        let word = (address - self.base) as usize / 8;
        self.pages.store(word, self.pages.load(word).wrapping_add(count));
    }
}
