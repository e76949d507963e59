//! A frame: 64 bytes of header, then a payload compressed with zstd.
//!
//! ```text
//! 0   magic          u32, "RVFr"
//! 4   kind           u8
//! 5   flags          u8, bit 0: who does not know the kind may skip the frame
//! 6   zero           u16
//! 8   sequence       u32, number of the frame in the file, from 0
//! 12  stored bytes   u32, length of the payload in the file
//! 16  raw bytes      u32, length of the payload after decompression
//! 20  items          u32, number of events in the frame, or of page numbers
//! 24  first tick     u64, tick of the first event, or the mark where there is none
//! 32  mark           u64, what crossed the line before this tick is in this frame or an earlier one
//! 40  first event    u64, number of events in earlier frames
//! 48  checksum       u64, xxh3-64 of the payload as stored
//! 56  checksum       u64, xxh3-64 of bytes 0 to 55
//! ```
//!
//! Numbers are little-endian; both checksums are seeded with the recording's identity. Ticks and counts are in the
//! header so that a recording is indexed without a byte of payload being read.

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::tick::Tick;

use super::limits;

pub(super) const FRAME_HEADER_BYTES: usize = 64;
const FRAME_MAGIC: [u8; 4] = *b"RVFr";
pub(super) const FLAG_MAY_BE_SKIPPED: u8 = 1;

/// What is in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum FrameKind {
    /// Pages of the starting RAM.
    Ram = 1,
    /// The starting state of the processors.
    State = 2,
    /// Events.
    Events = 3,
    /// How it ended.
    End = 4,
}

impl FrameKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Ram, Self::State, Self::Events, Self::End];

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A frame's header. `kind` is `None` for a frame of an unknown kind that may be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub kind: Option<FrameKind>,
    pub sequence: u32,
    pub stored_bytes: u32,
    pub raw_bytes: u32,
    pub items: u32,
    pub first_tick: Tick,
    pub mark: Tick,
    pub first_event: u64,
    pub payload_sum: u64,
}

impl FrameHeader {
    pub fn encode(&self, seed: u64) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&FRAME_MAGIC);
        out[4] = self.kind.map_or(0, |kind| kind as u8);
        out[8..12].copy_from_slice(&self.sequence.to_le_bytes());
        out[12..16].copy_from_slice(&self.stored_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.raw_bytes.to_le_bytes());
        out[20..24].copy_from_slice(&self.items.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_tick.to_le_bytes());
        out[32..40].copy_from_slice(&self.mark.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_event.to_le_bytes());
        out[48..56].copy_from_slice(&self.payload_sum.to_le_bytes());
        let sum = xxh3_64_with_seed(&out[..56], seed);
        out[56..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// The error says in words what is wrong.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES], seed: u64) -> Result<Self, String> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if bytes[0..4] != FRAME_MAGIC {
            return Err(format!(
                "no frame starts here, the bytes are {:08x}",
                word(0).swap_bytes()
            ));
        }
        if xxh3_64_with_seed(&bytes[..56], seed) != long(56) {
            return Err("the checksum of the frame's header is wrong".into());
        }
        let kind = FrameKind::from_number(bytes[4]);
        if kind.is_none() && bytes[5] & FLAG_MAY_BE_SKIPPED == 0 {
            return Err(format!("a frame of the unknown kind {}", bytes[4]));
        }
        let header = Self {
            kind,
            sequence: word(8),
            stored_bytes: word(12),
            raw_bytes: word(16),
            items: word(20),
            first_tick: long(24),
            mark: long(32),
            first_event: long(40),
            payload_sum: long(48),
        };
        let items_max = match header.kind {
            Some(FrameKind::Events) => limits::FRAME_EVENTS_MAX,
            Some(FrameKind::Ram) => limits::RAM_FRAME_NUMBERS_MAX,
            Some(FrameKind::State | FrameKind::End) | None => 0,
        };
        if header.stored_bytes as usize > limits::FRAME_STORED_BYTES_MAX
            || header.raw_bytes as usize > limits::FRAME_RAW_BYTES_MAX
            || header.items as usize > items_max
        {
            return Err(format!(
                "a frame of {} items in {} bytes ({} stored) is larger than any",
                header.items, header.raw_bytes, header.stored_bytes
            ));
        }
        Ok(header)
    }

    /// Checks the stored payload and decompresses it. The error says in words what is wrong.
    pub fn payload(&self, stored: &[u8], seed: u64) -> Result<Vec<u8>, String> {
        if stored.len() != self.stored_bytes as usize
            || xxh3_64_with_seed(stored, seed) != self.payload_sum
        {
            return Err("the checksum of the frame is wrong".into());
        }
        // The header was checked, so that `raw_bytes` is bounded; zstd writes no more than that.
        let raw = zstd::bulk::decompress(stored, self.raw_bytes as usize)
            .map_err(|error| format!("the frame cannot be decompressed ({error})"))?;
        if raw.len() != self.raw_bytes as usize {
            return Err(format!(
                "the frame has {} bytes, not {} as its header says",
                raw.len(),
                self.raw_bytes
            ));
        }
        Ok(raw)
    }
}
