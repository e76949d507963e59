//! The outer shape of a cache file: a header, then frames, each with its length and checksums.
//!
//! ```text
//! header   magic[8] version:u32 0:u32 identity[32] 0:u64 sum:u64               64 bytes
//! frame    kind[4] 0:u32 length:u64 payload_sum:u64 head_sum:u64               32 bytes, then the payload
//! ```
//! Numbers are little-endian; sums are XXH3-64. The head's sum covers the head and its offset in the file, so that a
//! frame found where none was written is not taken for one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"\x89RVXCKP\n";

/// Version of the format: another one is not read, the cache is made anew.
pub(crate) const VERSION: u32 = 1;

pub(crate) const HEADER_BYTES: u64 = 64;
pub(crate) const HEAD_BYTES: u64 = 32;

/// Nothing that is decompressed as a whole (all but chunks) may be longer: a guest of 16 GiB, all of it in use,
/// stays below.
pub(crate) const RECORD_BYTES_MAX: u64 = 512 << 20;

/// What a frame holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Compressed pages.
    Chunk,
    /// A checkpoint: a record, compressed.
    Checkpoint,
    /// A named section: a record, compressed.
    Section,
    /// Where all checkpoints and sections are: a record, compressed. Written when the cache is finished.
    Directory,
    /// Where the directory is: 8 bytes. The end of a finished cache.
    Tail,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Chunk,
        Kind::Checkpoint,
        Kind::Section,
        Kind::Directory,
        Kind::Tail,
    ];

    fn tag(self) -> [u8; 4] {
        match self {
            Kind::Chunk => *b"chnk",
            Kind::Checkpoint => *b"ckpt",
            Kind::Section => *b"sect",
            Kind::Directory => *b"dirc",
            Kind::Tail => *b"tail",
        }
    }
}

/// A frame, without its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub kind: Kind,
    /// Where the payload starts in the file, in bytes.
    pub payload: u64,
    /// Length of the payload in bytes.
    pub bytes: u64,
    pub sum: u64,
}

impl Frame {
    /// Where the next frame starts.
    pub fn end(&self) -> u64 {
        self.payload + self.bytes
    }
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Header {
    /// It is a cache of this version.
    Cache { identity: [u8; 32] },
    /// It is a cache of another version, or its header is damaged.
    Other { version: u32 },
    /// It is something else.
    Foreign,
}

pub(crate) fn header(identity: &[u8; 32]) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..48].copy_from_slice(identity);
    let sum = xxh3_64(&header[..56]);
    header[56..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// Reads the header of a file of at least one byte.
pub(crate) fn read_header(file: &File, file_bytes: u64) -> io::Result<Header> {
    let mut header = [0; HEADER_BYTES as usize];
    let there = file_bytes.min(HEADER_BYTES) as usize;
    file.read_exact_at(&mut header[..there], 0)?;
    if header[..8] != MAGIC {
        // A header cut short by a crash is a prefix of one.
        return Ok(if there < 8 && MAGIC.starts_with(&header[..there]) {
            Header::Other { version: 0 }
        } else {
            Header::Foreign
        });
    }
    let version = u32::from_le_bytes(array(&header[8..12]));
    let whole = xxh3_64(&header[..56]) == u64::from_le_bytes(array(&header[56..]));
    if version != VERSION || !whole {
        return Ok(Header::Other { version });
    }
    Ok(Header::Cache {
        identity: array(&header[16..48]),
    })
}

/// The head of a frame that is to start at `offset`.
pub(crate) fn head(kind: Kind, offset: u64, payload: &[u8]) -> [u8; HEAD_BYTES as usize] {
    let mut head = [0; HEAD_BYTES as usize];
    head[..4].copy_from_slice(&kind.tag());
    head[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    head[16..24].copy_from_slice(&xxh3_64(payload).to_le_bytes());
    let sum = head_sum(&head, offset);
    head[24..].copy_from_slice(&sum.to_le_bytes());
    head
}

fn head_sum(head: &[u8], offset: u64) -> u64 {
    let mut covered = [0; 32];
    covered[..24].copy_from_slice(&head[..24]);
    covered[24..].copy_from_slice(&offset.to_le_bytes());
    xxh3_64(&covered)
}

/// The frame that starts at `offset`, if a whole one does (its payload is not looked at).
pub(crate) fn frame_at(file: &File, offset: u64, file_bytes: u64) -> io::Result<Option<Frame>> {
    let Some(payload) = offset
        .checked_add(HEAD_BYTES)
        .filter(|&payload| payload <= file_bytes)
    else {
        return Ok(None);
    };
    let mut head = [0; HEAD_BYTES as usize];
    file.read_exact_at(&mut head, offset)?;
    let bytes = u64::from_le_bytes(array(&head[8..16]));
    let kind = Kind::ALL.into_iter().find(|kind| kind.tag() == head[..4]);
    let whole = head_sum(&head, offset) == u64::from_le_bytes(array(&head[24..]));
    let fits = payload
        .checked_add(bytes)
        .is_some_and(|end| end <= file_bytes);
    Ok(match kind {
        Some(kind) if whole && fits => Some(Frame {
            kind,
            payload,
            bytes,
            sum: u64::from_le_bytes(array(&head[16..24])),
        }),
        _ => None,
    })
}

/// The payload of a frame, if it is what was written. Its length fits into the file, or `frame_at` had not found it.
pub(crate) fn payload(file: &File, frame: &Frame) -> io::Result<Option<Vec<u8>>> {
    let mut payload = vec![0; usize::try_from(frame.bytes).map_err(io::Error::other)?];
    file.read_exact_at(&mut payload, frame.payload)?;
    Ok((xxh3_64(&payload) == frame.sum).then_some(payload))
}

/// The bytes as an array. The callers' slices have the length they say.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a slice of this length")
}
