//! What the processor touched since it was asked to take notes: the ground of interval summaries.
//!
//! Notes cost next to nothing, because they are taken where something is cached anyway: a linear page when its
//! translation is made, a block when it is looked up for the first time. So when notes begin, translations, the
//! jump table and the links between blocks are forgotten (which no guest can see). Stores alone are noted each, as a
//! bit beside the translation that they used: the variables on a busy page are told apart by line.
//!
//! Blocks are noted by guest-physical address, for links carry execution from block to block without a look at
//! linear addresses; the pairs of linear and physical pages that were fetched join the two.

use super::events::EventSet;
use rustc_hash::{FxHashMap, FxHashSet};

/// Notes of one interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Code that was fetched: (linear page, guest-physical page), both as addresses divided by 4096.
    pub fetched: FxHashSet<(u64, u64)>,
    /// Linear pages at which fetching failed: the instruction there was the next one all the same.
    pub not_fetched: FxHashSet<u64>,
    /// Blocks that ran: (guest-physical address, length in bytes).
    pub blocks: FxHashSet<(u64, u32)>,
    /// Linear pages that were stored to, and in which of their 64-byte lines (bit n: the n-th).
    pub written: FxHashMap<u64, u64>,
    /// Linear pages that were loaded from.
    pub read: FxHashSet<u64>,
    /// Interrupts, exceptions and the like.
    pub events: EventSet,
}
