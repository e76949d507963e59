//! What a debugger wants to stop at. Looked up when a block or a TLB entry is made, so that code that hits none
//! pays nothing. The processor only notices; what it means is the timeline's business.

use super::events::{Event, EventSet};
use rustc_hash::FxHashSet;

/// Which accesses a watchpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WatchKind {
    /// Stores.
    Write,
    /// Loads.
    Read,
    /// Both.
    Access,
}

/// So many bytes of a watched range are remembered from before a hit.
pub const BEFORE_BYTES: usize = 32;

/// A watched range of linear addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Watchpoint {
    /// First byte.
    pub address: u64,
    /// Length in bytes, at least 1.
    pub length: u64,
    /// Which accesses.
    pub kind: WatchKind,
}

impl Watchpoint {
    fn overlaps(&self, address: u64, length: u64) -> bool {
        // Distances instead of sums: nothing wraps.
        address.wrapping_sub(self.address) < self.length
            || self.address.wrapping_sub(address) < length
    }

    fn sees(&self, write: bool) -> bool {
        match self.kind {
            WatchKind::Write => write,
            WatchKind::Read => !write,
            WatchKind::Access => true,
        }
    }
}

/// A watchpoint that an instruction hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchHit {
    /// Which.
    pub watchpoint: Watchpoint,
    /// Whether a store hit it.
    pub write: bool,
    /// Linear address of the instruction.
    pub rip: u64,
}

/// All breakpoints and watchpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops {
    breakpoints: FxHashSet<u64>,
    /// Offsets in a page at which some breakpoint stands (one bit each): asked when a block is made.
    offsets: FxHashSet<u16>,
    watchpoints: Vec<Watchpoint>,
    /// Linear pages (address / 4096) that a watchpoint touches.
    watched_pages: FxHashSet<u64>,
    /// Interrupts, exceptions and the like.
    events: EventSet,
    /// Whether `events` has any.
    has_events: bool,
    /// Nothing is hit for the time being; blocks and TLB entries stay as they are.
    pub(super) ignored: bool,
}

impl Stops {
    /// Stops at these instructions (linear addresses; RIP in 64-bit mode) and watches these ranges.
    pub fn new(
        breakpoints: impl IntoIterator<Item = u64>,
        watchpoints: impl IntoIterator<Item = Watchpoint>,
    ) -> Stops {
        let breakpoints: FxHashSet<u64> = breakpoints.into_iter().collect();
        let offsets = breakpoints
            .iter()
            .map(|address| (address & 0xfff) as u16)
            .collect();
        let watchpoints: Vec<_> = watchpoints.into_iter().filter(|w| w.length > 0).collect();
        let mut watched_pages = FxHashSet::default();
        for w in &watchpoints {
            let last = w.address.wrapping_add(w.length - 1);
            // A range that wraps, or of more pages than anybody watches, is watched at its ends.
            let pages = (last >> 12).wrapping_sub(w.address >> 12).min(1 << 16);
            watched_pages.extend((0..=pages).map(|n| (w.address >> 12).wrapping_add(n)));
        }
        Stops {
            breakpoints,
            offsets,
            watchpoints,
            watched_pages,
            ..Stops::default()
        }
    }

    /// Stops at these events, too.
    pub fn with_events(self, events: EventSet) -> Stops {
        Stops {
            has_events: !events.is_empty(),
            events,
            ..self
        }
    }

    /// Whether an event is one to stop at.
    pub fn catches(&self, event: &Event) -> bool {
        self.has_events && !self.ignored && self.events.has(event)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.breakpoints.is_empty() && self.watchpoints.is_empty() && !self.has_events
    }

    /// Whether a breakpoint stands at an address.
    #[inline]
    pub fn is_breakpoint(&self, address: u64) -> bool {
        !self.ignored && self.breakpoints.contains(&address)
    }

    /// Whether a breakpoint may stand at an address with this offset in its page.
    #[inline]
    pub fn has_offset(&self, offset: u16) -> bool {
        !self.offsets.is_empty() && self.offsets.contains(&offset)
    }

    /// All offsets in a page at which breakpoints stand.
    pub fn offsets(&self) -> &FxHashSet<u16> {
        &self.offsets
    }

    /// The breakpoints.
    pub fn breakpoints(&self) -> &FxHashSet<u64> {
        &self.breakpoints
    }

    /// The watchpoints.
    pub fn watchpoints(&self) -> &[Watchpoint] {
        &self.watchpoints
    }

    /// Whether accesses to a linear page must be looked at.
    #[inline]
    pub fn is_watched_page(&self, address: u64) -> bool {
        !self.watched_pages.is_empty() && self.watched_pages.contains(&(address >> 12))
    }

    /// The first watchpoint that an access hits.
    pub fn watch_hit(&self, address: u64, length: u64, write: bool) -> Option<Watchpoint> {
        if self.ignored {
            return None;
        }
        self.watchpoints
            .iter()
            .find(|w| w.sees(write) && w.overlaps(address, length))
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchpoint_sees_what_overlaps_it() {
        let w = |address, length, kind| Watchpoint {
            address,
            length,
            kind,
        };
        let stops = Stops::new([0x1234], [w(0x1ffe, 4, WatchKind::Write)]);
        assert!(
            stops.is_watched_page(0x1000)
                && stops.is_watched_page(0x2fff)
                && !stops.is_watched_page(0x3000)
        );
        assert!(stops.watch_hit(0x1ff8, 8, true).is_some());
        assert!(stops.watch_hit(0x1ff8, 6, true).is_none());
        assert!(stops.watch_hit(0x2001, 1, true).is_some());
        assert!(stops.watch_hit(0x2002, 1, true).is_none());
        assert!(stops.watch_hit(0x2001, 1, false).is_none());
        assert!(
            stops.has_offset(0x234) && stops.is_breakpoint(0x1234) && !stops.is_breakpoint(0x5234)
        );
    }
}
