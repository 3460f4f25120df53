//! BTF files: raw, zstd-compressed, or a section of an ELF file.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::elf;

/// Bytes of BTF that are read at most. The largest distribution kernels have some 10 MB of it.
const LIMIT: u64 = 64 << 20;

const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Compressions that are recognised but not read, with the command that undoes them.
const FOREIGN: &[(&[u8], &str, &str)] = &[
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz", "xz -dk"),
    (&[0x1f, 0x8b], "gzip", "gzip -dk"),
    (b"BZh", "bzip2", "bzip2 -dk"),
];

/// The raw BTF in the file at `path`: as it is, unpacked from zstd, or from an ELF file's `.BTF`.
///
/// # Errors
/// The file cannot be read, is compressed in another way, is larger than 64 MiB of BTF, or is an
/// ELF file without BTF or with BTF over a base of its own.
pub fn read_btf_bytes(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("{shown} cannot be opened"))?;
    let mut start = Vec::new();
    (&mut file)
        .take(8)
        .read_to_end(&mut start)
        .with_context(|| format!("{shown} is unreadable"))?;
    if start.starts_with(elf::MAGIC) {
        return of_elf(&mut file).with_context(|| format!("{shown} gives no BTF"));
    }
    if let Some((_, format, command)) = FOREIGN.iter().find(|(magic, ..)| start.starts_with(magic))
    {
        bail!("{shown} is compressed with {format}; unpack it first, with `{command}`");
    }
    let whole = (&start[..]).chain(&mut file);
    let bytes = if start.starts_with(ZSTD) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::new(whole))
            .with_context(|| format!("{shown} is not sound zstd"))?;
        bounded(decoder)
    } else {
        bounded(whole)
    };
    bytes.with_context(|| format!("{shown} cannot be read"))
}

/// The raw BTF in `bytes`, which zstd packed.
///
/// # Errors
/// When they are no sound zstd, or more than 64 MiB of BTF.
pub fn unpack_btf(bytes: &[u8]) -> Result<Vec<u8>> {
    bounded(ruzstd::decoding::StreamingDecoder::new(bytes).context("no sound zstd")?)
}

fn bounded(source: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LIMIT + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= LIMIT, "it holds more than {} MiB", LIMIT >> 20);
    Ok(bytes)
}

fn of_elf(file: &mut (impl Read + Seek)) -> Result<Vec<u8>> {
    // Such BTF is over a digest of vmlinux that only the kernel can match to the real one.
    if elf::section(file, ".BTF.base", LIMIT)?.is_some() {
        bail!(
            "its BTF is over a base of its own (.BTF.base); load the module and take its BTF from \
             /sys/kernel/btf"
        );
    }
    file.seek(SeekFrom::Start(0))?;
    elf::section(file, ".BTF", LIMIT)?
        .context("it has no .BTF section; take a kernel built with CONFIG_DEBUG_INFO_BTF")
}
