//! Digests: hashes of a machine's state that recording writes and replay checks.

use crate::memory::Memory;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// What a digest says of the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// Hash of the processors' canonical state.
    pub registers: u128,
    /// Hash of the changed pages: numbers and contents.
    pub pages: u128,
    /// The changed pages, ascending.
    pub changed: Vec<u32>,
}

/// Hash of the processors' saved state.
pub fn of_registers(saved: &[u8]) -> u128 {
    xxh3_128(saved)
}

/// Hash of the numbers and contents of some pages.
pub fn of_pages(memory: &Memory, pages: &[u32]) -> u128 {
    let mut hash = Xxh3::new();
    for &page in pages {
        hash.update(&page.to_le_bytes());
        hash.update(memory.page(page as usize));
    }
    hash.digest128()
}
