//! Which pages of RAM hold page-table entries that live TLB entries were made from.
//!
//! This is what makes the TLB coherent: a store to such a page drops just what depended on the changed entry.

use super::walk::{Walk, pte};
use crate::memory::{Memory, PAGE_TABLE, PageIndex};
use rustc_hash::FxHashMap;

/// How a page of RAM serves the walks so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Its entries map 4 KiB pages from this linear address on.
    Leaf(u64),
    /// It stands higher up, or in several places: what depends on it is not known in detail.
    Several,
}

/// What a store to a page-table page makes stale.
pub enum Stale {
    /// Nothing that is cached.
    Nothing,
    /// These linear pages (a store covers 8 entries at most with the widest instruction of 64 bytes).
    Pages(Vec<u64>),
    /// Everything.
    All,
}

/// The page-table pages in use.
#[derive(Default)]
pub struct Tables {
    uses: FxHashMap<PageIndex, Use>,
}

impl Tables {
    /// Notes all tables that a walk for `address` went through, and gives those that are new.
    pub fn note(
        &mut self,
        memory: &mut Memory,
        walk: &Walk,
        address: u64,
        new: &mut Vec<PageIndex>,
    ) {
        for step in &walk.steps[..walk.depth] {
            let Some(page) = memory.page_index(step.at) else {
                continue;
            };
            let index_bits = if walk.entry_bytes == 4 { 10 } else { 9 };
            let this = if step.shift == 12 {
                Use::Leaf(address & !((1 << (12 + index_bits)) - 1))
            } else {
                Use::Several
            };
            match self.uses.entry(page) {
                std::collections::hash_map::Entry::Vacant(slot) => {
                    slot.insert(this);
                    memory.set_attributes(page, PAGE_TABLE);
                    new.push(page);
                }
                std::collections::hash_map::Entry::Occupied(mut slot) => {
                    if *slot.get() != this {
                        slot.insert(Use::Several);
                    }
                }
            }
        }
    }

    /// What becomes stale when `old` (whole 8-byte words from `offset` in the page) turns into `new`.
    pub fn stale(
        &self,
        page: PageIndex,
        offset: usize,
        old: &[u64],
        new: &[u64],
        entry_bytes: u8,
    ) -> Stale {
        let Some(&usage) = self.uses.get(&page) else {
            return Stale::Nothing;
        };
        let mut pages = Vec::new();
        for (n, (&old, &new)) in old.iter().zip(new).enumerate() {
            let word = offset / 8 + n;
            let entries: &[(usize, u64, u64)] = if entry_bytes == 4 {
                &[
                    (word * 2, old & 0xffff_ffff, new & 0xffff_ffff),
                    (word * 2 + 1, old >> 32, new >> 32),
                ]
            } else {
                &[(word, old, new)]
            };
            for &(index, old, new) in entries {
                if old == new || old & pte::P == 0 {
                    continue;
                }
                match usage {
                    Use::Leaf(base) => pages.push(base + ((index as u64) << 12)),
                    Use::Several => return Stale::All,
                }
            }
        }
        if pages.is_empty() {
            Stale::Nothing
        } else {
            Stale::Pages(pages)
        }
    }

    /// Forgets everything: no TLB entry is left.
    pub fn clear(&mut self, memory: &mut Memory) {
        for (page, _) in self.uses.drain() {
            memory.clear_attributes(page, PAGE_TABLE);
        }
    }
}
