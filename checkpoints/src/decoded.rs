//! Recently decompressed chunks, so that pages read one after the other pay for their chunk once.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A row: chunks by number, the one used last at the end.
type Row = Vec<(u64, Arc<[u8]>)>;

/// Chunks that share a row: the one unused for longest makes room.
const WAYS: usize = 4;

/// A set-associative cache: each row has its own lock, so that searches on all cores hardly meet.
pub(crate) struct Decoded {
    rows: Vec<Mutex<Row>>,
    bytes: AtomicU64,
}

impl Decoded {
    /// Room for at most `chunks` chunks (and at least for a few).
    pub fn new(chunks: usize) -> Decoded {
        let rows = (chunks / WAYS).max(1);
        let rows = (0..rows)
            .map(|_| Mutex::new(Vec::with_capacity(WAYS)))
            .collect();
        Decoded {
            rows,
            bytes: AtomicU64::new(0),
        }
    }

    fn row(&self, chunk: u64) -> &Mutex<Row> {
        // Numbers are handed out one after the other: neighbours get rows of their own.
        &self.rows[(chunk % self.rows.len() as u64) as usize]
    }

    pub fn get(&self, chunk: u64) -> Option<Arc<[u8]>> {
        let mut row = self.row(chunk).lock();
        let at = row.iter().position(|(number, _)| *number == chunk)?;
        // Most recently used last.
        row[at..].rotate_left(1);
        row.last().map(|(_, pages)| Arc::clone(pages))
    }

    pub fn put(&self, chunk: u64, pages: Arc<[u8]>) {
        let mut row = self.row(chunk).lock();
        if let Some(at) = row.iter().position(|(number, _)| *number == chunk) {
            row[at..].rotate_left(1);
            return;
        }
        self.bytes.fetch_add(pages.len() as u64, Ordering::Relaxed);
        if row.len() == WAYS {
            let (_, oldest) = row.remove(0);
            self.bytes.fetch_sub(oldest.len() as u64, Ordering::Relaxed);
        }
        row.push((chunk, pages));
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_makes_room() {
        let decoded = Decoded::new(WAYS);
        for chunk in 0..WAYS as u64 {
            decoded.put(chunk, vec![chunk as u8; 8].into());
        }
        assert_eq!(decoded.get(0).unwrap()[0], 0);
        decoded.put(99, vec![99; 8].into());
        assert!(decoded.get(1).is_none());
        assert!(
            [0, 2, 3, 99]
                .iter()
                .all(|&chunk| decoded.get(chunk).unwrap()[0] == chunk as u8)
        );
        assert_eq!(decoded.bytes(), 8 * WAYS as u64);
    }
}
