//! The guest's memory: anonymous pages that the VMM and its vCPUs share.

use std::{
    io, ptr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

/// Pages that stay where they are until they are dropped.
#[derive(Debug)]
pub(super) struct GuestMemory {
    start: ptr::NonNull<AtomicU32>,
    words: usize,
}

// SAFETY: the pages belong to this value and are only reached as atomics.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

impl GuestMemory {
    /// Maps `bytes` zero bytes, a positive multiple of 4096.
    ///
    /// # Errors
    /// The kernel's, when it has no room.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = ptr::NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("the kernel mapped guest memory at address 0"))?;
        Ok(Self { start, words: bytes / size_of::<AtomicU32>() })
    }

    /// Where the pages are in this process.
    pub(super) fn host_address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// How many there are, in bytes.
    pub(super) const fn len(&self) -> usize {
        self.words * size_of::<AtomicU32>()
    }

    /// All words, from guest address 0 on.
    pub(super) fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is `words` long, page-aligned, readable and writable while `self`
        // lives, and a guest that writes at the same time is what atomics are for.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Copies `bytes` to guest address `address`, a multiple of 4; false if there is no room.
    pub(super) fn write(&self, address: usize, bytes: &[u8]) -> bool {
        let target = self.words().get(address / 4..).unwrap_or_default();
        if !address.is_multiple_of(4) || bytes.len().div_ceil(4) > target.len() {
            return false;
        }
        for (word, chunk) in target.iter().zip(bytes.chunks(4)) {
            let mut value = [0; 4];
            value[..chunk.len()].copy_from_slice(chunk);
            word.store(u32::from_le_bytes(value), Relaxed);
        }
        true
    }
}

impl Drop for GuestMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, whose borrows have ended. A VM that still had it would see
        // it go through its MMU notifier.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_as_little_endian_words() {
        let memory = GuestMemory::new(4096).unwrap();
        assert!(memory.write(8, &[1, 2, 3, 4, 5]));
        let words: Vec<u32> = memory.words()[..5].iter().map(|word| word.load(Relaxed)).collect();
        assert_eq!(words, [0, 0, 0x0403_0201, 5, 0]);
    }

    #[test]
    fn nothing_is_written_outside() {
        let memory = GuestMemory::new(4096).unwrap();
        assert!(!memory.write(4092, &[0; 5]));
        assert!(!memory.write(8192, &[0]));
        assert!(!memory.write(2, &[0]));
        assert!(memory.write(4092, &[0; 4]));
    }
}
