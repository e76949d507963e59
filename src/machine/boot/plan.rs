//! The plan of guest RAM while a kernel is laid out: every piece is checked against the RAM there is and against
//! every other piece before a byte is copied, so that a hostile image costs no more memory than the guest has.

use std::collections::BTreeMap;

use super::{BootError, MemoryMap};

struct Piece {
    end: u64,
    what: String,
    bytes: Vec<u8>,
}

/// Pieces by their start address.
pub(super) struct Plan {
    pieces: BTreeMap<u64, Piece>,
    ram_start: u64,
    ram_end: u64,
}

impl Plan {
    /// A plan for the RAM at 0: everything that a loader places lies below 4 GiB.
    pub fn new(map: &MemoryMap) -> Plan {
        Plan {
            pieces: BTreeMap::new(),
            ram_start: 0,
            ram_end: map.low_end,
        }
    }

    /// Puts `bytes` at `gpa` and claims `len` bytes there (what is beyond `bytes` is zero, such as a BSS).
    pub fn put(&mut self, what: &str, gpa: u64, bytes: &[u8], len: u64) -> Result<(), BootError> {
        let len = len.max(bytes.len() as u64);
        if len == 0 {
            return Ok(());
        }
        let end = gpa
            .checked_add(len)
            .filter(|&end| end <= self.ram_end)
            .ok_or_else(|| BootError::OutsideRam {
                what: what.to_string(),
                start: gpa,
                end: gpa.saturating_add(len),
                ram_start: self.ram_start,
                ram_end: self.ram_end,
            })?;
        // The pieces never overlap, so that the last one that starts before our end is also the one that ends last.
        if let Some((&other_start, other)) = self.pieces.range(..end).next_back()
            && other.end > gpa
        {
            return Err(BootError::Overlap {
                what: what.to_string(),
                start: gpa,
                end,
                other: other.what.clone(),
                other_start,
                other_end: other.end,
            });
        }
        self.pieces.insert(
            gpa,
            Piece {
                end,
                what: what.to_string(),
                bytes: bytes.to_vec(),
            },
        );
        Ok(())
    }

    /// Puts the initrd as high as it goes below `limit` (exclusive) and the end of RAM, at a page boundary, and
    /// says where it is.
    pub fn put_high(&mut self, what: &str, bytes: &[u8], limit: u64) -> Result<u64, BootError> {
        let size = bytes.len() as u64;
        let mut top = limit.min(self.ram_end);
        loop {
            let too_big = BootError::InitrdTooBig {
                size,
                limit: limit.min(self.ram_end),
            };
            // Nothing of this size belongs in the first megabyte.
            let start = match top.checked_sub(size).map(|start| start & !0xfff) {
                Some(start) if start >= 0x10_0000 => start,
                _ => return Err(too_big),
            };
            match self.pieces.range(..start + size).next_back() {
                Some((&other_start, other)) if other.end > start => top = other_start,
                _ => {
                    self.put(what, start, bytes, size)?;
                    return Ok(start);
                }
            }
        }
    }

    /// Puts a module at the first page boundary behind everything that is there, and says where it is.
    pub fn put_behind(&mut self, what: &str, bytes: &[u8]) -> Result<u64, BootError> {
        let end = self
            .pieces
            .last_key_value()
            .map_or(0, |(_, piece)| piece.end);
        let start = end.max(0x10_0000).next_multiple_of(0x1000);
        self.put(what, start, bytes, bytes.len() as u64)?;
        Ok(start)
    }

    /// The pieces that have bytes, ascending.
    pub fn into_pages(self) -> Vec<(u64, Vec<u8>)> {
        self.pieces
            .into_iter()
            .map(|(gpa, piece)| (gpa, piece.bytes))
            .filter(|(_, bytes)| !bytes.is_empty())
            .collect()
    }
}
