//! The payload of `Pages`: what RAM and processor are like at a place of an untimed recording.
//!
//! ```text
//! more     u8, 1: the list goes on in the next event
//! length   u32, bytes of the processor state, 0 where there is none
//! state    opaque
//! rows     20 bytes each: page u32, hash u64, hash u64 without the marks that processors leave in page tables
//! ```

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
}

const HEADER_BYTES: usize = 5;
const ROW_BYTES: usize = 20;
/// Rows of one event, well below the longest blob.
const ROWS_MAX: usize = 32_768;

impl PageList {
    /// The payloads of the events that hold it, at least one.
    pub fn encode(&self) -> Vec<Box<[u8]>> {
        let parts = self.pages.len().div_ceil(ROWS_MAX).max(1);
        (0..parts)
            .map(|part| {
                let state: &[u8] = if part == 0 { &self.state } else { &[] };
                let rows = self.pages.iter().skip(part * ROWS_MAX).take(ROWS_MAX);
                let mut bytes =
                    Vec::with_capacity(HEADER_BYTES + state.len() + rows.len() * ROW_BYTES);
                bytes.push(u8::from(part + 1 < parts));
                bytes.extend_from_slice(&(state.len() as u32).to_le_bytes());
                bytes.extend_from_slice(state);
                for row in rows {
                    bytes.extend_from_slice(&row.page.to_le_bytes());
                    bytes.extend_from_slice(&row.whole.to_le_bytes());
                    bytes.extend_from_slice(&row.unmarked.to_le_bytes());
                }
                bytes.into_boxed_slice()
            })
            .collect()
    }

    /// Adds an event's payload to the list; gives whether more follows. `None`: the bytes make no sense.
    pub fn add(&mut self, bytes: &[u8]) -> Option<bool> {
        let (header, rest) = bytes.split_at_checked(HEADER_BYTES)?;
        let length = u32::from_le_bytes(header[1..].try_into().ok()?) as usize;
        let (state, rows) = rest.split_at_checked(length)?;
        if rows.len() % ROW_BYTES != 0 || header[0] > 1 {
            return None;
        }
        self.state.extend_from_slice(state);
        for row in rows.chunks_exact(ROW_BYTES) {
            self.pages.push(PageHash {
                page: u32::from_le_bytes(row[..4].try_into().ok()?),
                whole: u64::from_le_bytes(row[4..12].try_into().ok()?),
                unmarked: u64::from_le_bytes(row[12..].try_into().ok()?),
            });
        }
        Some(header[0] == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_any_length_comes_back() {
        for count in [0, 1, ROWS_MAX, ROWS_MAX + 1, 3 * ROWS_MAX - 1] {
            let list = PageList {
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
            &[2, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 9],
        ] {
            assert_eq!(PageList::default().add(bytes), None, "{bytes:?}");
        }
    }
}
