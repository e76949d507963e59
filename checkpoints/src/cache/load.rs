//! Reading a cache: which frames there are, and which of them are good.

use super::Found;
use super::frame::{Frame, HEAD_BYTES, HEADER_BYTES, Kind, frame_at, payload};
use super::record::{
    CheckpointRecord, ChunkRecord, ContentRecord, DirectoryRecord, SectionRecord, decode,
};
use crate::Tick;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;

/// What the good part of a cache says: everything in it has been checked to make sense.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    chunks: Vec<ChunkRecord>,
    contents: Vec<ContentRecord>,
    pub checkpoints: Vec<LoadedCheckpoint>,
    ticks: BTreeSet<Tick>,
}

#[derive(Debug)]
pub(crate) struct LoadedCheckpoint {
    pub tick: Tick,
    pub since: Option<Tick>,
    pub state: Vec<u8>,
    /// What pages hold: 0 is zero, else 1 + the number of a content.
    pub pages: Vec<(u64, u64)>,
}

pub(super) struct Read {
    pub loader: Loader,
    pub sections: BTreeMap<String, Frame>,
    pub frames: Vec<u64>,
    /// Where the good part ends.
    pub end: u64,
    pub found: Found,
}

impl Loader {
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    pub fn contents(&self) -> usize {
        self.contents.len()
    }

    pub fn chunk(&self, number: u32) -> &ChunkRecord {
        &self.chunks[number as usize]
    }

    pub fn content(&self, number: u32) -> &ContentRecord {
        &self.contents[number as usize]
    }

    /// Takes a record in. False, and nothing is, if it contradicts what came before it or the file's size.
    fn take(&mut self, record: CheckpointRecord, file_bytes: u64) -> bool {
        let (Some(pages), Some(new)) = (record.pages(), record.contents()) else {
            return false;
        };
        let since_known = record
            .since
            .is_none_or(|since| since < record.tick && self.ticks.contains(&since));
        if !since_known
            || self.ticks.contains(&record.tick)
            || !record
                .chunks
                .iter()
                .all(|chunk| chunk.is_possible(file_bytes))
        {
            return false;
        }
        let (chunks, contents) = (self.chunks.len(), self.contents.len());
        self.chunks.extend_from_slice(&record.chunks);
        for content in new {
            if !self.is_possible(&content) {
                self.chunks.truncate(chunks);
                self.contents.truncate(contents);
                return false;
            }
            self.contents.push(content);
        }
        let known = self.contents.len() as u64;
        if pages.iter().any(|&(_, holds)| holds > known) || u32::try_from(known).is_err() {
            self.chunks.truncate(chunks);
            self.contents.truncate(contents);
            return false;
        }
        self.ticks.insert(record.tick);
        let CheckpointRecord {
            tick, since, state, ..
        } = record;
        self.checkpoints.push(LoadedCheckpoint {
            tick,
            since,
            state,
            pages,
        });
        true
    }

    fn is_possible(&self, content: &ContentRecord) -> bool {
        let chunk = self.chunks.get(content.chunk as usize);
        let base = match content.base.checked_sub(1) {
            None => true,
            // A base comes first and is whole: no chain, no circle.
            Some(base) => self
                .contents
                .get(base as usize)
                .is_some_and(|base| base.base == 0),
        };
        base && chunk.is_some_and(|chunk| content.index < chunk.pages)
    }
}

/// Reads all frames that matter on opening, as far as they are good.
pub(super) fn read(file: &File, file_bytes: u64) -> io::Result<Read> {
    if let Some(frames) = directory(file, file_bytes)? {
        let mut read = Read::new(file_bytes, Found::Whole);
        let mut good = true;
        for offset in frames {
            let Some(frame) = frame_at(file, offset, file_bytes)? else {
                good = false;
                break;
            };
            if !read.take(file, &frame, offset, file_bytes)? {
                good = false;
                break;
            }
        }
        if good {
            return Ok(read);
        }
    }
    walk(file, file_bytes)
}

/// The frames that a finished cache lists at its end.
fn directory(file: &File, file_bytes: u64) -> io::Result<Option<Vec<u64>>> {
    let Some(tail_at) = file_bytes.checked_sub(HEAD_BYTES + 8) else {
        return Ok(None);
    };
    let Some(tail) = frame_at(file, tail_at, file_bytes)? else {
        return Ok(None);
    };
    if tail.kind != Kind::Tail || tail.bytes != 8 {
        return Ok(None);
    }
    let Some(offset) = payload(file, &tail)?.and_then(|bytes| bytes.try_into().ok()) else {
        return Ok(None);
    };
    let Some(frame) = frame_at(file, u64::from_le_bytes(offset), tail_at)? else {
        return Ok(None);
    };
    if frame.kind != Kind::Directory || frame.end() != tail_at {
        return Ok(None);
    }
    let record = payload(file, &frame)?.and_then(|payload| decode::<DirectoryRecord>(&payload));
    Ok(record.map(|record| record.frames))
}

/// From the first frame to the last good one.
fn walk(file: &File, file_bytes: u64) -> io::Result<Read> {
    let mut read = Read::new(HEADER_BYTES, Found::Unfinished);
    while read.end < file_bytes {
        let offset = read.end;
        let good = match frame_at(file, offset, file_bytes)? {
            Some(frame) => read
                .take(file, &frame, offset, file_bytes)?
                .then(|| frame.end()),
            None => None,
        };
        match good {
            Some(end) => read.end = end,
            None => {
                read.found = Found::Torn { at: offset };
                break;
            }
        }
    }
    Ok(read)
}

impl Read {
    fn new(end: u64, found: Found) -> Read {
        let (loader, sections, frames) = (Loader::default(), BTreeMap::new(), Vec::new());
        Read {
            loader,
            sections,
            frames,
            end,
            found,
        }
    }

    /// Takes a frame in. False if it is damaged.
    fn take(
        &mut self,
        file: &File,
        frame: &Frame,
        offset: u64,
        file_bytes: u64,
    ) -> io::Result<bool> {
        match frame.kind {
            // Checked when it is read; listed by the checkpoint that comes with it.
            Kind::Chunk | Kind::Directory | Kind::Tail => return Ok(true),
            Kind::Checkpoint => {
                let record = payload(file, frame)?.and_then(|payload| decode(&payload));
                if !record.is_some_and(|record| self.loader.take(record, file_bytes)) {
                    return Ok(false);
                }
            }
            Kind::Section => {
                let record = payload(file, frame)?.and_then(|payload| decode(&payload));
                let Some(SectionRecord { name, .. }) = record else {
                    return Ok(false);
                };
                self.sections.insert(name, *frame);
            }
        }
        self.frames.push(offset);
        Ok(true)
    }
}
