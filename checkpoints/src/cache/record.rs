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
    /// [`ContentRecord`]s, packed.
    #[serde(with = "serde_bytes")]
    pub contents: Vec<u8>,
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

/// A content of a page: 25 bytes in a record, all numbers little-endian, in this order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ContentRecord {
    pub version: PageVersion,
    pub chunk: u32,
    pub index: u8,
    /// What the chunk has the difference to: 0 is nothing, else 1 + the number of a content that is whole.
    pub base: u32,
}

impl ContentRecord {
    const BYTES: usize = 25;

    pub fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.version.0.to_le_bytes());
        to.extend(self.chunk.to_le_bytes());
        to.push(self.index);
        to.extend(self.base.to_le_bytes());
    }

    fn read(bytes: &[u8; ContentRecord::BYTES]) -> ContentRecord {
        let [
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
            m,
            n,
            o,
            p,
            chunk @ ..,
            _,
            _,
            _,
            _,
            _,
        ] = *bytes;
        let version = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
        let [.., index, w, x, y, z] = *bytes;
        ContentRecord {
            version: PageVersion(u128::from_le_bytes(version)),
            chunk: u32::from_le_bytes(chunk),
            index,
            base: u32::from_le_bytes([w, x, y, z]),
        }
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

    /// The contents that the record brings along. None if they are cut.
    pub fn contents(&self) -> Option<impl Iterator<Item = ContentRecord>> {
        let (records, rest) = self.contents.as_chunks();
        rest.is_empty()
            .then(|| records.iter().map(ContentRecord::read))
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
        let content = ContentRecord {
            version: PageVersion(1 << 127 | 5),
            chunk: 1 << 31,
            index: 3,
            base: 77,
        };
        content.write(&mut record.contents);
        let read: CheckpointRecord = decode(&encode(&record).unwrap()).unwrap();
        assert_eq!(read, record);
        assert_eq!(read.pages().unwrap(), pages);
        assert_eq!(read.contents().unwrap().collect::<Vec<_>>(), [content]);
        record.contents.pop();
        assert!(record.contents().is_none());
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
