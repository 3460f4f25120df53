//! Code of the running kernel, as it is after patching, from `/proc/kcore`. Reads one file.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// Program headers that are read at most.
const HEADERS_LIMIT: u16 = 4096;
const HEADER: usize = 56;

/// Up to `length` bytes of kernel code at `address`; none if they cannot be read.
#[must_use]
pub fn read(root: &Path, address: u64, length: usize) -> Option<Vec<u8>> {
    let mut file = File::open(root.join("proc/kcore")).ok()?;
    let mut start = [0; 64];
    file.read_exact(&mut start).ok()?;
    let word = |bytes: &[u8], at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
    };
    let half = |at: usize| Some(u16::from_le_bytes(*start.get(at..)?.first_chunk()?));
    // 64-bit little-endian, with program headers of the size that is known.
    if !start.starts_with(b"\x7fELF\x02\x01") || usize::from(half(54)?) != HEADER {
        return None;
    }
    let count = half(56)?.min(HEADERS_LIMIT);
    let mut headers = vec![0; usize::from(count) * HEADER];
    file.seek(SeekFrom::Start(word(&start, 32)?)).ok()?;
    file.read_exact(&mut headers).ok()?;
    for header in headers.chunks_exact(HEADER) {
        let (offset, first, size) = (word(header, 8)?, word(header, 16)?, word(header, 32)?);
        let is_load = header.starts_with(&1_u32.to_le_bytes());
        let Some(skip) = address.checked_sub(first).filter(|skip| is_load && *skip < size) else {
            continue;
        };
        let length = (length as u64).min(size - skip);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(offset.checked_add(skip)?)).ok()?;
        file.take(length).read_to_end(&mut bytes).ok()?;
        return (!bytes.is_empty()).then_some(bytes);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A core of one segment with `code` at `address`.
    fn core(address: u64, code: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32..40].copy_from_slice(&64_u64.to_le_bytes());
        file[54..56].copy_from_slice(&56_u16.to_le_bytes());
        file[56..58].copy_from_slice(&1_u16.to_le_bytes());
        file[64..68].copy_from_slice(&1_u32.to_le_bytes());
        file[72..80].copy_from_slice(&120_u64.to_le_bytes());
        file[80..88].copy_from_slice(&address.to_le_bytes());
        file[96..104].copy_from_slice(&(code.len() as u64).to_le_bytes());
        file.extend(code);
        file
    }

    #[test]
    fn code_is_read_from_the_segment_that_has_it() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        let whole = core(0xffff_ffff_8100_0000, &[1, 2, 3, 4]);
        let kcore = root.path().join("proc/kcore");
        fs::write(&kcore, &whole).unwrap();
        let at = |address| read(root.path(), address, 15);
        assert_eq!(at(0xffff_ffff_8100_0001), Some(vec![2, 3, 4]));
        assert_eq!(at(0xffff_ffff_8100_0004), None);
        for length in 0..whole.len() - 4 {
            fs::write(&kcore, &whole[..length]).unwrap();
            assert_eq!(at(0xffff_ffff_8100_0000), None);
        }
    }
}
