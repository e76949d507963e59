//! What `info` says about a recording.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::tick::Tick;

use super::end::End;
use super::error::Error;
use super::events::{KINDS, Kind};
use super::frame::{FRAME_HEADER_BYTES, FrameKind};
use super::reader::{Recording, Torn};

/// Frames of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FrameBytes {
    /// How many there are.
    pub frames: u64,
    /// Their bytes in the file, headers included.
    pub stored: u64,
    /// Bytes of their payloads before compression.
    pub raw: u64,
}

/// Numbers about a recording, ready for JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// The file's format version.
    pub format: u32,
    /// Length in ticks.
    pub ticks: Tick,
    /// Number of events of each kind that occurs, by name.
    pub events: BTreeMap<&'static str, u64>,
    /// Number of all events.
    pub events_total: u64,
    /// Number of digests among them.
    pub digests: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Bytes of the file that are not the starting RAM.
    pub bytes_without_ram: u64,
    /// By kind of frame.
    pub frames: BTreeMap<FrameKind, FrameBytes>,
    /// Pages of the starting RAM that are not zero.
    pub ram_pages: u64,
    /// How it ended, if the end is there.
    pub end: Option<End>,
    /// What is wrong with the end of the file.
    pub torn: Option<Torn>,
}

impl Recording {
    /// Numbers about the recording. Reads all events.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let counts = self.count_by_kind()?;
        let named = KINDS.iter().map(|row| (row.1, counts[row.0.index()]));
        let mut frames: BTreeMap<FrameKind, FrameBytes> = BTreeMap::new();
        let mut ram_pages = 0;
        for header in self.places.iter().map(|place| &place.header) {
            let Some(kind) = header.kind else {
                continue;
            };
            let of_kind = frames.entry(kind).or_default();
            of_kind.frames += 1;
            of_kind.stored += FRAME_HEADER_BYTES as u64 + u64::from(header.stored_bytes);
            of_kind.raw += u64::from(header.raw_bytes);
            if kind == FrameKind::Ram {
                ram_pages += u64::from(header.items);
            }
        }
        let ram_bytes = frames.get(&FrameKind::Ram).map_or(0, |ram| ram.stored);
        Ok(Statistics {
            format: self.version(),
            ticks: self.last_tick(),
            events: named.filter(|named| named.1 > 0).collect(),
            events_total: self.events(),
            digests: counts[Kind::Digest.index()],
            bytes: self.bytes(),
            bytes_without_ram: self.bytes() - ram_bytes,
            frames,
            ram_pages,
            end: self.end().cloned(),
            torn: self.torn().cloned(),
        })
    }
}
