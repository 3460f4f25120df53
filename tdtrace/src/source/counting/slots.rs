//! A BPF array of slots, mapped into this process. aya does not map arrays, so this does it from
//! the map's file descriptor.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use aya::{Pod, maps::MapData};

/// A `BPF_F_MMAPABLE` array. Read-only in this process unless it was asked to be writable.
pub(crate) struct MappedArray<T> {
    base: NonNull<AtomicU64>,
    bytes: usize,
    len: u32,
    writable: bool,
    _values: PhantomData<T>,
}

// SAFETY: the mapping is shared memory that is read and written word by word and atomically.
unsafe impl<T> Send for MappedArray<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// Maps `map`, whose values must be `T` and a whole number of words.
    pub(crate) fn new(map: &MapData) -> Result<Self> {
        Self::map(map, false)
    }

    /// The same for an array that this process writes.
    pub(crate) fn writable(map: &MapData) -> Result<Self> {
        Self::map(map, true)
    }

    fn map(map: &MapData, writable: bool) -> Result<Self> {
        let info = map.info()?;
        ensure!(
            info.value_size() as usize == size_of::<T>() && size_of::<T>().is_multiple_of(8),
            "a map of {} byte values does not hold values of {}",
            info.value_size(),
            size_of::<T>()
        );
        let len = info.max_entries();
        let bytes = len as usize * size_of::<T>();
        // SAFETY: a new mapping of a file descriptor that is open; the kernel checks the length.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 },
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("mmap");
        }
        let base = NonNull::new(address.cast()).context("mmap returned address 0")?;
        Ok(Self { base, bytes, len, writable, _values: PhantomData })
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// The four bytes at `offset` of value `index`, in the low half or, if the offset is not a
    /// multiple of eight, moved there.
    pub(crate) fn word(&self, index: u32, offset: usize) -> u64 {
        let byte = index as usize * size_of::<T>() + offset;
        self.load(byte / 8) >> (byte % 8 * 8)
    }

    /// A copy of value `index`, first word first. Every word is as it was at some moment during the
    /// call.
    pub(crate) fn read(&self, index: u32) -> Box<T> {
        let words = size_of::<T>() / 8;
        let first = index as usize * words;
        let mut value = Box::<T>::new_uninit();
        let target = value.as_mut_ptr().cast::<u64>();
        for word in 0..words {
            // SAFETY: inside the box, which is aligned for `T` and so for its words.
            unsafe { target.add(word).write(self.load(first + word)) };
        }
        // SAFETY: every byte was written, and `Pod` allows any bytes.
        unsafe { value.assume_init() }
    }

    /// Writes a word of an array that is writable.
    pub(crate) fn store(&self, word: usize, value: u64) {
        assert!(self.writable && word < self.bytes / 8, "word {word} cannot be written");
        // SAFETY: inside the mapping, aligned; the kernel may read it at the same time, hence atomic.
        unsafe { self.base.add(word).as_ref() }.store(value, Ordering::Release);
    }

    /// A word.
    pub(crate) fn load(&self, word: usize) -> u64 {
        assert!(word < self.bytes / 8, "word {word} is beyond the map");
        // SAFETY: inside the mapping, aligned; the kernel writes it at the same time, hence atomic.
        unsafe { self.base.add(word).as_ref() }.load(Ordering::Acquire)
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, not used any more. Nothing can be done if it fails.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
