//! One section of an ELF file: a `vmlinux` or a module on disk has its BTF in `.BTF`.
//!
//! Reads only the tables and the section asked for, since a `vmlinux` may be of gigabytes.

use std::io::{self, Read, Seek, SeekFrom};

/// The first bytes of an ELF file.
pub(super) const MAGIC: &[u8] = b"\x7fELF";
/// `e_ident` of a 64-bit little-endian file, behind the magic.
const CLASS_64_LITTLE: &[u8] = &[2, 1];
const SECTION_HEADER: usize = 64;
/// Bytes of section names that are read; a `vmlinux` has a few hundred.
const NAMES_LIMIT: u64 = 1 << 20;
/// `SHF_COMPRESSED`.
const COMPRESSED: u64 = 1 << 11;

/// One section header.
struct Header {
    name: u32,
    flags: u64,
    offset: u64,
    size: u64,
}

/// The bytes of the section called `name`, at most `limit` of them; `None` if there is none.
///
/// # Errors
/// The file is no 64-bit little-endian ELF, is cut off, or the section is compressed or too large.
pub(super) fn section<R: Read + Seek>(
    file: &mut R,
    name: &str,
    limit: u64,
) -> io::Result<Option<Vec<u8>>> {
    let mut start = [0; 64];
    file.seek(SeekFrom::Start(0))?;
    file.read_exact(&mut start)?;
    if !start.starts_with(MAGIC) || !start[MAGIC.len()..].starts_with(CLASS_64_LITTLE) {
        return Err(damaged("only 64-bit little-endian ELF is read"));
    }
    let table = u64_at(&start, 40);
    let (stride, count, names) = (u16_at(&start, 58), u16_at(&start, 60), u16_at(&start, 62));
    if usize::from(stride) != SECTION_HEADER {
        return Err(damaged("its section headers are not of 64 bytes"));
    }
    let length = u64::from(count) * SECTION_HEADER as u64;
    let table = read_at(file, table, length)?;
    let headers: Vec<Header> = table.chunks_exact(SECTION_HEADER).map(header).collect();
    let Some(names) = headers.get(usize::from(names)) else {
        return Err(damaged("it has no section names"));
    };
    if names.size > NAMES_LIMIT {
        return Err(damaged("its section names are too large"));
    }
    let names = read_at(file, names.offset, names.size)?;
    let is_wanted = |header: &&Header| {
        names.get(header.name as usize..).is_some_and(|text| {
            text.get(name.len()) == Some(&0) && text.starts_with(name.as_bytes())
        })
    };
    let Some(wanted) = headers.iter().find(is_wanted) else { return Ok(None) };
    if wanted.flags & COMPRESSED != 0 {
        return Err(damaged("its BTF section is compressed"));
    }
    if wanted.size > limit {
        return Err(damaged("its BTF section is too large"));
    }
    read_at(file, wanted.offset, wanted.size).map(Some)
}

fn header(bytes: &[u8]) -> Header {
    Header {
        name: u32_at(bytes, 0),
        flags: u64_at(bytes, 8),
        offset: u64_at(bytes, 24),
        size: u64_at(bytes, 32),
    }
}

/// `length` bytes at `offset`. Grows with what is there and not with what is claimed.
fn read_at<R: Read + Seek>(file: &mut R, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset))?;
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(damaged("it is cut off")) }
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("ELF cannot be read: {what}"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u16::from_le_bytes(*word))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// An ELF file of a null section, the names and one section with `content`.
    fn elf(name: &str, content: &[u8]) -> Vec<u8> {
        let names = format!("\0.names\0{name}\0");
        let names_at = 64;
        let content_at = names_at + names.len();
        let table_at = content_at + content.len();
        let mut file = vec![0; 64];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[40..48].copy_from_slice(&(table_at as u64).to_le_bytes());
        file[58..60].copy_from_slice(&64_u16.to_le_bytes());
        file[60..62].copy_from_slice(&3_u16.to_le_bytes());
        file[62..64].copy_from_slice(&1_u16.to_le_bytes());
        file.extend(names.as_bytes());
        file.extend(content);
        for (name, offset, size) in
            [(0_u32, 0, 0), (1, names_at, names.len()), (8, content_at, content.len())]
        {
            let mut header = [0; SECTION_HEADER];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(size as u64).to_le_bytes());
            file.extend(header);
        }
        file
    }

    #[test]
    fn a_section_is_found_by_its_name() {
        let mut file = Cursor::new(elf(".BTF", b"content"));
        assert_eq!(section(&mut file, ".BTF", 100).unwrap().as_deref(), Some(&b"content"[..]));
        assert_eq!(section(&mut file, ".BTF.base", 100).unwrap(), None);
        assert_eq!(section(&mut file, ".BT", 100).unwrap(), None);
    }

    #[test]
    fn a_section_over_the_limit_is_refused() {
        let mut file = Cursor::new(elf(".BTF", b"content"));
        let error = section(&mut file, ".BTF", 6).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }

    #[test]
    fn an_elf_file_cut_anywhere_is_refused_or_read_whole() {
        let whole = elf(".BTF", b"content");
        for length in 0..whole.len() {
            assert!(section(&mut Cursor::new(&whole[..length]), ".BTF", 100).is_err());
        }
    }

    #[test]
    fn flipped_bits_never_make_it_read_more_than_the_file() {
        let whole = elf(".BTF", b"content");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some(content)) = section(&mut Cursor::new(&bytes), ".BTF", 1 << 40) {
                assert!(content.len() <= bytes.len());
            }
        }
    }
}
