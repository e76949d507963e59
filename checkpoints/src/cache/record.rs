//! What the frames of a cache hold: MessagePack, compressed by zstd.

use super::frame::RECORD_BYTES_MAX;
use crate::{CHUNK_PAGES, PageVersion, Tick};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, Read};

/// Level for records: they are small, and written once.
const LEVEL: i32 = 3;

/// A checkpoint, told by its difference to an earlier one of the same file, with the chunks and contents that
/// it brings along. Chunks and contents are numbered through the file, from 0, in the order of the records.
#[derive(Serialize, Deserialize, Debug, Default, PartialEq)]
pub(crate) struct CheckpointRecord {
    pub tick: Tick,
    /// The checkpoint that `pages` differ from; None: RAM of zeros.
    pub since: Option<Tick>,
    #[serde(with = "serde_bytes")]
    pub state: Vec<u8>,
    pub chunks: Vec<ChunkRecord>,
    pub contents: Vec<ContentRecord>,
    /// Numbers of the pages that differ, ascending: the first as it is, then the distance to the one before.
    pub pages: Vec<u64>,
    /// What they hold: 0 is a page of zeros, else 1 + the number of a content. As differences to the one before.
    pub holds: Vec<i64>,
}

/// A frame of compressed pages.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub(crate) struct ChunkRecord {
    /// Where its payload starts, in bytes from the start of the file.
    pub offset: u64,
    /// Length of the payload in bytes.
    pub bytes: u32,
    /// Pages in it.
    pub pages: u8,
    /// XXH3-64 of the payload.
    pub sum: u64,
}

/// A content of a page.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub(crate) struct ContentRecord {
    /// The two halves of its version, the more significant first.
    pub version: (u64, u64),
    pub chunk: u32,
    pub index: u8,
    /// What the chunk has the difference to: 0 is nothing, else 1 + the number of a content that is whole.
    pub base: u32,
}

impl ContentRecord {
    pub fn version(&self) -> PageVersion {
        PageVersion(u128::from(self.version.0) << 64 | u128::from(self.version.1))
    }

    pub fn halves(version: PageVersion) -> (u64, u64) {
        ((version.0 >> 64) as u64, version.0 as u64)
    }
}

/// A named section of the caller's.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct SectionRecord {
    pub name: String,
    #[serde(with = "serde_bytes")]
    pub bytes: Vec<u8>,
}

/// Where in the file the frames are that are read on opening.
#[derive(Serialize, Deserialize, Debug)]
pub(crate) struct DirectoryRecord {
    /// Offsets of checkpoints and sections, in the order of the file.
    pub frames: Vec<u64>,
}

impl CheckpointRecord {
    /// Sets which pages hold what, from ascending page numbers.
    pub fn set_pages(&mut self, pages: &[(u64, u64)]) {
        let mut before = (0, 0);
        for &(page, holds) in pages {
            self.pages.push(page - before.0);
            self.holds.push(holds as i64 - before.1 as i64);
            before = (page, holds);
        }
    }

    /// Which pages hold what. None if the lists make no sense.
    pub fn pages(&self) -> Option<Vec<(u64, u64)>> {
        if self.pages.len() != self.holds.len() {
            return None;
        }
        let mut before: Option<(u64, u64)> = None;
        let mut pages = Vec::with_capacity(self.pages.len());
        for (&distance, &difference) in self.pages.iter().zip(&self.holds) {
            let (page, holds) = before.unwrap_or((0, 0));
            if before.is_some() && distance == 0 {
                return None;
            }
            let now = (
                page.checked_add(distance)?,
                holds.checked_add_signed(difference)?,
            );
            pages.push(now);
            before = Some(now);
        }
        Some(pages)
    }
}

impl ChunkRecord {
    /// Whether this can be a chunk of a file of `file_bytes` bytes.
    pub fn is_possible(&self, file_bytes: u64) -> bool {
        let end = self.offset.checked_add(u64::from(self.bytes));
        (1..=CHUNK_PAGES).contains(&usize::from(self.pages))
            && end.is_some_and(|end| end <= file_bytes)
    }
}

pub(crate) fn encode<T: Serialize>(record: &T) -> io::Result<Vec<u8>> {
    let plain = rmp_serde::to_vec(record).map_err(io::Error::other)?;
    if plain.len() as u64 > RECORD_BYTES_MAX {
        return Err(io::Error::other("too long for a cache"));
    }
    zstd::bulk::compress(&plain, LEVEL)
}

/// None if the bytes are no such record.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    // Streamed: memory is taken for what is there, not for what the frame claims.
    let decoder = zstd::stream::read::Decoder::with_buffer(bytes).ok()?;
    let mut plain = Vec::new();
    decoder
        .take(RECORD_BYTES_MAX + 1)
        .read_to_end(&mut plain)
        .ok()?;
    if plain.len() as u64 > RECORD_BYTES_MAX {
        return None;
    }
    rmp_serde::from_slice(&plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_as_they_were() {
        let pages = [(0, 5), (1, 0), (7, u64::MAX >> 2), (u64::MAX, 1)];
        let mut record = CheckpointRecord {
            tick: 9,
            ..CheckpointRecord::default()
        };
        record.set_pages(&pages);
        let read: CheckpointRecord = decode(&encode(&record).unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.pages().unwrap(), pages);
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        let record = |pages: &[u64], holds: &[i64]| {
            CheckpointRecord {
                pages: pages.into(),
                holds: holds.into(),
                ..Default::default()
            }
            .pages()
        };
        assert!(record(&[1, 2], &[1, 1]).is_some());
        assert!(record(&[1, 0], &[1, 1]).is_none());
        assert!(record(&[1, u64::MAX], &[1, 1]).is_none());
        assert!(record(&[1], &[-1]).is_none());
        assert!(record(&[1], &[]).is_none());
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; (RECORD_BYTES_MAX + 5) as usize], 1).unwrap();
        assert!(bomb.len() < 1 << 20);
        assert!(decode::<DirectoryRecord>(&bomb).is_none());
        assert!(decode::<DirectoryRecord>(b"").is_none());
        assert!(decode::<DirectoryRecord>(&[7; 40]).is_none());
    }
}
