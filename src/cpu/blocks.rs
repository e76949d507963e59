//! The cache of decoded blocks, keyed by guest-physical address and mode.
//!
//! Blocks are position-independent: everything relative to RIP is relative to the start of the block, so that
//! two linear mappings of a page share its blocks. A store to bytes of a block drops it: every op is
//! replaced by `resync`, so that a running block, a link or the jump table that still lead there find out by
//! themselves. Memory of dropped blocks is kept until the cache is cleared at a safe point.

use super::decode::Mode;
use super::op::{Op, resync};
use crate::memory::{CODE, Memory, PageIndex};
use rustc_hash::{FxHashMap, FxHashSet};
use std::cell::Cell;

/// Entries of the jump table, a power of two.
const JUMP_ENTRIES: usize = 1 << 14;
/// Ops after which the cache is cleared: 4 Mi ops are 128 MiB.
const OPS_MAX: usize = 4 << 20;

/// Which instructions a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Guest-physical address of the first byte.
    pub physical: u64,
    /// How the bytes are decoded.
    pub mode: Mode,
    /// One instruction only, for exact ticks.
    pub single: bool,
    /// The code segment ends before 4 GiB: where, is looked at whenever a block is entered.
    pub limited: bool,
}

/// A run of instructions with one entry.
pub struct Block {
    /// Ticks that the whole block takes.
    pub ticks: u64,
    /// The first op.
    pub first: *const Op,
    /// Blocks that follow: by falling through, and by the direct branch at the end. Null where unknown, or where
    /// the successor lies on another page (whose mapping may change).
    pub links: [Cell<*const Block>; 2],
    /// What it is.
    pub key: Key,
    /// Length in bytes.
    pub bytes: u32,
    /// Guest-physical page of the tail, where the block crosses into a second page.
    pub second: Option<u64>,
    ops: Box<[Op]>,
}

impl Block {
    /// A block of ops; the last one must leave the block.
    pub fn new(key: Key, ticks: u64, bytes: u32, second: Option<u64>, ops: Vec<Op>) -> Block {
        let ops = ops.into_boxed_slice();
        let null = || Cell::new(std::ptr::null());
        Block {
            ticks,
            first: ops.as_ptr(),
            links: [null(), null()],
            key,
            bytes,
            second,
            ops,
        }
    }
}

#[derive(Default)]
struct PageCode {
    /// Bit n: some block covers bytes of the n-th 64 bytes.
    chunks: u64,
    blocks: Vec<*const Block>,
}

/// All decoded blocks.
pub struct Blocks {
    map: FxHashMap<Key, *const Block>,
    pages: FxHashMap<PageIndex, PageCode>,
    jump: Box<[*const Block]>,
    /// Owns live and dropped blocks alike. Boxed: links and ops are found by address.
    #[allow(clippy::vec_box)]
    all: Vec<Box<Block>>,
    ops: usize,
    /// Blocks with links.
    linked: Vec<*const Block>,
}

fn chunk_mask(offset: usize, bytes: usize) -> u64 {
    let first = offset >> 6;
    let last = (offset + bytes.max(1) - 1).min(4095) >> 6;
    (u64::MAX >> (63 - last)) & (u64::MAX << first)
}

impl Default for Blocks {
    fn default() -> Blocks {
        Blocks::new()
    }
}

impl Blocks {
    /// An empty cache.
    pub fn new() -> Blocks {
        Blocks {
            map: FxHashMap::default(),
            pages: FxHashMap::default(),
            jump: vec![std::ptr::null(); JUMP_ENTRIES].into_boxed_slice(),
            all: Vec::new(),
            ops: 0,
            linked: Vec::new(),
        }
    }

    #[inline(always)]
    fn slot(rip: u64) -> usize {
        (rip ^ rip >> 14) as usize & (JUMP_ENTRIES - 1)
    }

    /// The block for an address, if the jump table knows it.
    #[inline(always)]
    pub fn jump(&self, rip: u64, physical: u64, mode: Mode) -> Option<&Block> {
        // SAFETY: the slot is masked to the length; entries are null or blocks that `all` owns.
        let block = unsafe { self.jump.get_unchecked(Self::slot(rip)).as_ref()? };
        (block.key.physical == physical && block.key.mode == mode && block.second.is_none())
            .then_some(block)
    }

    /// Remembers the successor of a block.
    pub fn link(&mut self, from: &Block, slot: usize, to: *const Block) {
        if from.links.iter().all(|link| link.get().is_null()) {
            self.linked.push(from);
        }
        from.links[slot].set(to);
    }

    /// Forgets all ways from block to block: each has to be looked up again once.
    pub fn forget_ways(&mut self) {
        for block in self.linked.drain(..) {
            // SAFETY: the list names blocks that `all` owns; it is emptied together with that.
            unsafe {
                (*block)
                    .links
                    .iter()
                    .for_each(|link| link.set(std::ptr::null()))
            };
        }
        self.jump.fill(std::ptr::null());
    }

    /// Forgets what the jump table says of an address.
    pub fn forget_jump(&mut self, rip: u64) {
        self.jump[Self::slot(rip)] = std::ptr::null();
    }

    /// Enters a block in the jump table.
    pub fn set_jump(&mut self, rip: u64, block: *const Block) {
        self.jump[Self::slot(rip)] = block;
    }

    /// A block by its key.
    pub fn get(&self, key: &Key) -> Option<*const Block> {
        self.map.get(key).copied()
    }

    /// Adds a block that covers `bytes` bytes from its key's address.
    pub fn insert(&mut self, memory: &mut Memory, block: Block) -> *const Block {
        self.ops += block.ops.len();
        let block = Box::new(block);
        let pointer: *const Block = &*block;
        let (first, second) = spans(&block);
        for (physical, offset, bytes) in [Some(first), second].into_iter().flatten() {
            if let Some(page) = memory.page_index(physical) {
                let code = self.pages.entry(page).or_default();
                code.chunks |= chunk_mask(offset, bytes);
                code.blocks.push(pointer);
                memory.set_attributes(page, CODE);
            }
        }
        self.map.insert(block.key, pointer);
        self.all.push(block);
        pointer
    }

    /// Whether a page holds decoded code.
    pub fn has_code(&self, page: PageIndex) -> bool {
        self.pages.contains_key(&page)
    }

    /// Whether so much was decoded (and dropped) that it is time to start anew.
    pub fn is_full(&self) -> bool {
        self.ops > OPS_MAX
    }

    /// Bytes of a page were written: drops the blocks made of them.
    pub fn written(&mut self, memory: &mut Memory, page: PageIndex, offset: usize, bytes: usize) {
        let Some(code) = self.pages.get_mut(&page) else {
            return;
        };
        if code.chunks & chunk_mask(offset, bytes) == 0 {
            return;
        }
        let hit = |&&block: &&*const Block| {
            // SAFETY: the list names blocks that `all` owns.
            let block = unsafe { &*block };
            let (first, second) = spans(block);
            [Some(first), second]
                .into_iter()
                .flatten()
                .any(|(physical, start, length)| {
                    memory.page_index(physical) == Some(page)
                        && start < offset + bytes
                        && offset < start + length
                })
        };
        let dropped: Vec<*const Block> = code.blocks.iter().filter(hit).copied().collect();
        for block in dropped {
            self.drop_block(memory, block);
        }
    }

    /// Drops the blocks that hold an instruction at one of these offsets in a page.
    pub fn drop_offsets(&mut self, memory: &mut Memory, offsets: &[u16]) {
        if offsets.is_empty() {
            return;
        }
        let offsets: FxHashSet<u16> = offsets.iter().copied().collect();
        let start = |block: &Block| (block.key.physical & 0xfff) as u16;
        let dropped: Vec<*const Block> = self
            .map
            .values()
            .copied()
            .filter(|&block| {
                // SAFETY: the map names blocks that `all` owns.
                let block = unsafe { &*block };
                offsets
                    .iter()
                    .any(|&o| o.wrapping_sub(start(block)) & 0xfff < block.bytes as u16)
            })
            .collect();
        for block in dropped {
            self.drop_block(memory, block);
        }
    }

    fn drop_block(&mut self, memory: &mut Memory, pointer: *const Block) {
        // SAFETY: callers name blocks that `all` owns; handlers and links are cells.
        let block = unsafe { &*pointer };
        for op in &block.ops {
            op.handler.set(resync);
        }
        block
            .links
            .iter()
            .for_each(|link| link.set(std::ptr::null()));
        if self.map.get(&block.key) == Some(&pointer) {
            self.map.remove(&block.key);
        }
        let (first, second) = spans(block);
        for (physical, _, _) in [Some(first), second].into_iter().flatten() {
            let Some(page) = memory.page_index(physical) else {
                continue;
            };
            let Some(code) = self.pages.get_mut(&page) else {
                continue;
            };
            code.blocks.retain(|&other| other != pointer);
            code.chunks = 0;
            for &other in &code.blocks {
                // SAFETY: as above.
                let (first, second) = spans(unsafe { &*other });
                for (physical, offset, bytes) in [Some(first), second].into_iter().flatten() {
                    if memory.page_index(physical) == Some(page) {
                        code.chunks |= chunk_mask(offset, bytes);
                    }
                }
            }
            if code.blocks.is_empty() {
                self.pages.remove(&page);
                memory.clear_attributes(page, CODE);
            }
        }
    }

    /// Forgets everything and frees the memory. No block may be running.
    pub fn clear(&mut self, memory: &mut Memory) {
        for (page, _) in self.pages.drain() {
            memory.clear_attributes(page, CODE);
        }
        self.jump.fill(std::ptr::null());
        self.map.clear();
        self.linked.clear();
        self.all.clear();
        self.ops = 0;
    }
}

/// The parts of a block by page: (guest-physical address, offset in the page, bytes).
type Span = (u64, usize, usize);

fn spans(block: &Block) -> (Span, Option<Span>) {
    let offset = (block.key.physical & 0xfff) as usize;
    let bytes = block.bytes as usize;
    let first = bytes.min(4096 - offset);
    let tail = block.second.map(|page| (page, 0, bytes - first));
    ((block.key.physical, offset, first), tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_exactly_the_bytes() {
        assert_eq!(chunk_mask(0, 1), 1);
        assert_eq!(chunk_mask(63, 2), 3);
        assert_eq!(chunk_mask(4095, 1), 1 << 63);
        assert_eq!(chunk_mask(0, 4096), u64::MAX);
        assert_eq!(chunk_mask(64, 64), 2);
    }
}
