//! The bytes of a file: memory-mapped as they are, or unpacked from zstd. Reads files.

use std::{
    fs::File,
    io::{BufReader, Read},
    ops::{Deref, Range},
    path::Path,
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use memmap2::Mmap;

/// Bytes that are unpacked at most; the largest modules with debug information have some 100 MB.
const UNPACKED_LIMIT: u64 = 512 << 20;

const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Compressions that are recognised but not read, with the command that undoes them.
const FOREIGN: &[(&[u8], &str, &str)] =
    &[(&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -dk"), (&[0x1f, 0x8b], "gzip", "gzip -dk")];

#[derive(Debug)]
enum Owner {
    Map(Mmap),
    Heap(Vec<u8>),
}

/// Part of a file, or of what was unpacked from it. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Bytes {
    owner: Arc<Owner>,
    range: Range<usize>,
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &*self.owner {
            Owner::Map(map) => &map[..],
            Owner::Heap(heap) => &heap[..],
        };
        // `part` keeps the range within what is there, and that does not change its length.
        all.get(self.range.clone()).unwrap_or_default()
    }
}

// SAFETY: the bytes are in a mapping or in a vector behind an `Arc`, which nothing changes or
// frees while a `Bytes` lives; moving a `Bytes` moves neither.
unsafe impl gimli::StableDeref for Bytes {}
// SAFETY: a clone has the same owner and range, so it dereferences to the same memory.
unsafe impl gimli::CloneStableDeref for Bytes {}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { owner: Arc::new(Owner::Heap(bytes)), range }
    }
}

impl Bytes {
    /// The file at `path`, mapped; unpacked first if it is compressed with zstd.
    ///
    /// # Errors
    /// It cannot be opened, is compressed in another way, or unpacks to more than 512 MiB.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("{shown} cannot be opened"))?;
        let kind = file.metadata().with_context(|| format!("{shown} cannot be read"))?;
        ensure!(kind.is_file() && kind.len() > 0, "{shown} is no file with something in it");
        // SAFETY: the mapping is private and read-only. Debug files are replaced and not rewritten;
        // whoever truncates one while it is read ends this process with SIGBUS, no more.
        let map = unsafe { Mmap::map(&file) };
        let map = map.with_context(|| format!("{shown} cannot be mapped"))?;
        if let Some((_, format, command)) =
            FOREIGN.iter().find(|(magic, ..)| map.starts_with(magic))
        {
            bail!("{shown} is compressed with {format}; unpack it first, with `{command}`");
        }
        if map.starts_with(ZSTD) {
            return unpack(&map[..]).with_context(|| format!("{shown} is not sound zstd"));
        }
        let range = 0..map.len();
        Ok(Self { owner: Arc::new(Owner::Map(map)), range })
    }

    /// The bytes at `range`, counted from the beginning of this part; none if some lie outside.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len() {
            return None;
        }
        let start = self.range.start;
        Some(Self { owner: Arc::clone(&self.owner), range: start + range.start..start + range.end })
    }
}

/// What `packed`, sound zstd, unpacks to.
///
/// # Errors
/// It is not sound, or more than 512 MiB.
pub(super) fn unpack(packed: &[u8]) -> Result<Bytes> {
    let decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(packed))
        .context("its frame cannot be read")?;
    let mut bytes = Vec::new();
    decoder.take(UNPACKED_LIMIT + 1).read_to_end(&mut bytes)?;
    ensure!(
        bytes.len() as u64 <= UNPACKED_LIMIT,
        "it holds more than {} MiB",
        UNPACKED_LIMIT >> 20
    );
    Ok(bytes.into())
}
