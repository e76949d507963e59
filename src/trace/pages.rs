//! The payload of `Pages`: what RAM and processor are like at a place of an untimed recording.
//!
//! ```text
//! flags    u8, bit 0: the list goes on in the next event; bit 1: rows have hashes of lines
//! length   u32, bytes of the processor state, 0 where there is none
//! state    opaque
//! rows     20 bytes each: page u32, hash u64, hash u64 without the marks that processors leave in page tables;
//!          with bit 1 64 more, a hash of each line of 64 bytes without these marks
//! ```

/// Lines in a page.
pub const PAGE_LINES: usize = 64;

/// A page with its hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHash {
    /// Its number, counted without the hole.
    pub page: u32,
    /// Hash of its bytes.
    pub whole: u64,
    /// Hash of its bytes with accessed and dirty bits of anything like a page-table entry cleared.
    pub unmarked: u64,
}

/// Pages that changed since the last list, and the processor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageList {
    /// The processor state, as the machine compares it; empty where there is none.
    pub state: Vec<u8>,
    /// The pages, ascending.
    pub pages: Vec<PageHash>,
    /// Hashes of the lines of each page, or nothing: for those who look for the state among many like it.
    pub lines: Vec<[u8; PAGE_LINES]>,
}

const HEADER_BYTES: usize = 5;
const ROW_BYTES: usize = 20;
/// Rows of one event, well below the longest blob.
const ROWS_MAX: usize = 32_768;
/// Bits of the flags.
const MORE: u8 = 1;
const LINES: u8 = 2;

impl PageList {
    /// The payloads of the events that hold it, at least one.
    pub fn encode(&self) -> Vec<Box<[u8]>> {
        let has_lines = !self.lines.is_empty() && self.lines.len() == self.pages.len();
        let parts = self.pages.len().div_ceil(ROWS_MAX).max(1);
        (0..parts)
            .map(|part| {
                let state: &[u8] = if part == 0 { &self.state } else { &[] };
                let first = part * ROWS_MAX;
                let last = (first + ROWS_MAX).min(self.pages.len());
                let mut bytes = Vec::with_capacity(
                    HEADER_BYTES + state.len() + (last - first) * (ROW_BYTES + PAGE_LINES),
                );
                let more = if part + 1 < parts { MORE } else { 0 };
                bytes.push(more | if has_lines { LINES } else { 0 });
                bytes.extend_from_slice(&(state.len() as u32).to_le_bytes());
                bytes.extend_from_slice(state);
                for n in first..last {
                    let row = &self.pages[n];
                    bytes.extend_from_slice(&row.page.to_le_bytes());
                    bytes.extend_from_slice(&row.whole.to_le_bytes());
                    bytes.extend_from_slice(&row.unmarked.to_le_bytes());
                    if has_lines {
                        bytes.extend_from_slice(&self.lines[n]);
                    }
                }
                bytes.into_boxed_slice()
            })
            .collect()
    }

    /// Adds an event's payload to the list; gives whether more follows. `None`: the bytes make no sense.
    pub fn add(&mut self, bytes: &[u8]) -> Option<bool> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let flags = header[0];
        let has_lines = flags & LINES != 0;
        let length = u32::from_le_bytes(header[1..].try_into().ok()?) as usize;
        let (state, rows) = rest.split_at_checked(length)?;
        let row_bytes = ROW_BYTES + if has_lines { PAGE_LINES } else { 0 };
        // All parts of a list have hashes of lines, or none.
        let fits = self.pages.is_empty() || has_lines != self.lines.is_empty();
        if rows.len() % row_bytes != 0 || flags > (MORE | LINES) || !fits {
            return None;
        }
        self.state.extend_from_slice(state);
        for row in rows.chunks_exact(row_bytes) {
            self.pages.push(PageHash {
                page: u32::from_le_bytes(row[..4].try_into().ok()?),
                whole: u64::from_le_bytes(row[4..12].try_into().ok()?),
                unmarked: u64::from_le_bytes(row[12..ROW_BYTES].try_into().ok()?),
            });
            if has_lines {
                self.lines.push(row[ROW_BYTES..].try_into().ok()?);
            }
        }
        Some(flags & MORE != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_any_length_comes_back() {
        for (count, lines) in [
            (0, 0),
            (1, 0),
            (1, 1),
            (ROWS_MAX, ROWS_MAX),
            (ROWS_MAX + 1, 0),
            (ROWS_MAX + 1, ROWS_MAX + 1),
            (3 * ROWS_MAX - 1, 0),
        ] {
            let list = PageList {
                lines: vec![std::array::from_fn(|n| n as u8); lines],
                state: vec![7; 99],
                pages: (0..count as u32)
                    .map(|page| PageHash {
                        page,
                        whole: u64::from(page) << 33,
                        unmarked: !u64::from(page),
                    })
                    .collect(),
            };
            let mut back = PageList::default();
            let events = list.encode();
            for (n, bytes) in events.iter().enumerate() {
                assert_eq!(back.add(bytes), Some(n + 1 < events.len()));
            }
            assert_eq!(back, list);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bytes in [
            &[][..],
            &[0, 1, 0, 0, 0],
            &[4, 0, 0, 0, 0],
            &[
                2, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19,
                20,
            ],
            &[0, 0, 0, 0, 0, 9],
        ] {
            assert_eq!(PageList::default().add(bytes), None, "{bytes:?}");
        }
        let list = |lines: usize| PageList {
            state: Vec::new(),
            pages: vec![
                PageHash {
                    page: 1,
                    whole: 2,
                    unmarked: 3
                };
                1
            ],
            lines: vec![[0; PAGE_LINES]; lines],
        };
        let (with, without) = (list(1).encode(), list(0).encode());
        assert_eq!(list(1).add(&without[0]), None);
        assert_eq!(list(0).add(&with[0]), None);
        assert_eq!(list(1).add(&with[0]), Some(false));
    }
}
