//! Summaries: what an interval of the recording executed and touched, so that a search can leave it out unrun.

use super::api::{Stops, WatchKind};
use crate::cpu::events::EventSet;
use crate::cpu::touched::Touched;
use crate::tick::Tick;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest block of decoded code, in bytes.
const BLOCK_BYTES_MAX: u64 = 255;

/// What one interval touched. All lists are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Code pages: (linear, guest-physical), divided by 4096.
    fetched: Vec<(u64, u64)>,
    /// Linear pages from which code could not be fetched: whoever jumps there stands at the address, and faults.
    not_fetched: Vec<u64>,
    /// Blocks that ran: (guest-physical address, bytes).
    blocks: Vec<(u64, u32)>,
    /// Linear pages stored to, and which of their 64-byte lines (bit n: the n-th).
    written: Vec<(u64, u64)>,
    /// Linear pages loaded from.
    read: Vec<u64>,
    /// Interrupts, exceptions and the like that occurred.
    events: EventSet,
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items
}

impl Summary {
    /// The summary that notes give.
    pub fn of(touched: Touched) -> Summary {
        let Touched {
            fetched,
            not_fetched,
            blocks,
            written,
            read,
            events,
        } = touched;
        Summary {
            fetched: sorted(fetched),
            not_fetched: sorted(not_fetched),
            blocks: sorted(blocks),
            written: sorted(written),
            read: sorted(read),
            events,
        }
    }

    /// As bytes, for the cache. Sorted lists are told by their differences, which compress well.
    pub fn encode(&self) -> Vec<u8> {
        let mut told = self.clone();
        differences(told.fetched.iter_mut().map(|(page, _)| page));
        differences(told.not_fetched.iter_mut());
        differences(told.blocks.iter_mut().map(|(at, _)| at));
        differences(told.written.iter_mut().map(|(page, _)| page));
        differences(told.read.iter_mut());
        rmp_serde::to_vec(&told).expect("plain data is always encoded")
    }

    /// What `encode` was given. None if the bytes are no summary.
    pub fn decode(bytes: &[u8]) -> Option<Summary> {
        let mut summary: Summary = rmp_serde::from_slice(bytes).ok()?;
        sums(summary.fetched.iter_mut().map(|(page, _)| page));
        sums(summary.not_fetched.iter_mut());
        sums(summary.blocks.iter_mut().map(|(at, _)| at));
        sums(summary.written.iter_mut().map(|(page, _)| page));
        sums(summary.read.iter_mut());
        Some(summary)
    }

    /// Whether any of the stops can be hit in the interval. `false` is sure.
    pub fn may_hit(&self, stops: &Stops) -> bool {
        self.events.meets(&stops.events)
            || stops
                .breakpoints
                .iter()
                .any(|&address| self.executed(address))
            || stops.watchpoints.iter().any(|watch| {
                let last = watch.addr.wrapping_add(watch.len.max(1) - 1);
                let read = || touches(&self.read, watch.addr >> 12, last >> 12);
                match watch.kind {
                    WatchKind::Write => self.wrote(watch.addr, last),
                    WatchKind::Read => read(),
                    WatchKind::Access => self.wrote(watch.addr, last) || read(),
                }
            })
    }

    /// Whether a line from that of `first` to that of `last` (which may have wrapped) was stored to.
    fn wrote(&self, first: u64, last: u64) -> bool {
        let (low, high) = (first >> 12, last >> 12);
        if first > last {
            return true;
        }
        let at = self.written.partition_point(|&(page, _)| page < low);
        self.written[at..]
            .iter()
            .take_while(|&&(page, _)| page <= high)
            .any(|&(page, lines)| {
                let from = if page == low { first >> 6 & 63 } else { 0 };
                let to = if page == high { last >> 6 & 63 } else { 63 };
                lines & (u64::MAX << from) & (u64::MAX >> (63 - to)) != 0
            })
    }

    fn executed(&self, address: u64) -> bool {
        let page = address >> 12;
        if self.not_fetched.binary_search(&page).is_ok() {
            return true;
        }
        let first = self.fetched.partition_point(|&(linear, _)| linear < page);
        self.fetched[first..]
            .iter()
            .take_while(|&&(linear, _)| linear == page)
            .any(|&(_, physical)| {
                let at = physical << 12 | address & 0xfff;
                let after = self.blocks.partition_point(|&(start, _)| start <= at);
                self.blocks[..after]
                    .iter()
                    .rev()
                    .take_while(|&&(start, _)| at - start <= BLOCK_BYTES_MAX)
                    .any(|&(start, bytes)| at - start < bytes as u64)
            })
    }
}

/// Replaces numbers by their distances to the one before.
fn differences<'a>(numbers: impl Iterator<Item = &'a mut u64>) {
    let mut before = 0;
    for number in numbers {
        let now = *number;
        *number = now.wrapping_sub(before);
        before = now;
    }
}

/// Undoes [`differences`].
fn sums<'a>(numbers: impl Iterator<Item = &'a mut u64>) {
    let mut before = 0u64;
    for number in numbers {
        *number = before.wrapping_add(*number);
        before = *number;
    }
}

/// Whether a page from `first` to `last` (which may have wrapped) is in a sorted list.
fn touches(pages: &[u64], first: u64, last: u64) -> bool {
    if first > last {
        return true;
    }
    let at = pages.partition_point(|&page| page < first);
    pages.get(at).is_some_and(|&page| page <= last)
}

/// The summaries that there are, by the start of their intervals. Shared between the first pass and searches.
#[derive(Clone, Default)]
pub struct Summaries {
    by_start: Arc<RwLock<BTreeMap<Tick, Ended>>>,
}

/// The end of an interval, and its summary.
type Ended = (Tick, Arc<Summary>);

impl Summaries {
    /// Adds the summary of the ticks from `start` up to but not including `end`.
    pub fn add(&self, start: Tick, end: Tick, summary: Summary) {
        self.by_start
            .write()
            .insert(start, (end, Arc::new(summary)));
    }

    /// Whether the ticks from `from` up to but not including `until` can hit a stop. Without a summary they can.
    pub fn may_hit(&self, from: Tick, until: Tick, stops: &Stops) -> bool {
        let by_start = self.by_start.read();
        match by_start.range(..=from).next_back() {
            Some((_, (end, summary))) if until <= *end => summary.may_hit(stops),
            _ => true,
        }
    }

    /// Whether there is the summary of exactly this interval.
    pub fn has(&self, start: Tick, end: Tick) -> bool {
        let by_start = self.by_start.read();
        by_start.get(&start).is_some_and(|(known, _)| *known == end)
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::Watchpoint;
    use super::*;

    fn summary() -> Summary {
        let mut touched = Touched::default();
        touched
            .fetched
            .extend([(0x10, 0x99), (0x20, 0x99), (0x30, 0x55)]);
        touched.not_fetched.insert(0x50);
        touched.blocks.extend([(0x99_100, 16), (0x99_ff8, 20)]);
        touched.written.extend([(7, 0b101), (8, 1)]);
        touched.read.insert(9);
        Summary::of(touched)
    }

    #[test]
    fn a_summary_comes_back_from_bytes() {
        let summary = summary();
        assert_eq!(Summary::decode(&summary.encode()), Some(summary.clone()));
        assert_eq!(Summary::decode(&summary.encode()[1..]), None);
        assert_eq!(Summary::decode(&[]), None);
    }

    #[test]
    fn a_breakpoint_is_excluded_unless_a_block_that_ran_covers_it_under_one_of_its_mappings() {
        let summary = summary();
        for (address, want) in [
            (0x10_100, true),
            (0x20_10f, true),
            (0x10_110, false),
            (0x30_100, false),
            (0x40_100, false),
            (0x10_ff8, true),
            (0x50_123, true),
        ] {
            let stops = Stops {
                breakpoints: vec![address],
                watchpoints: Vec::new(),
                ..Stops::default()
            };
            assert_eq!(summary.may_hit(&stops), want, "{address:#x}");
        }
    }

    #[test]
    fn watchpoints_ask_for_their_kind_of_access_on_any_page_they_touch() {
        let summary = summary();
        for (addr, len, kind, want) in [
            (0x6fff, 2, WatchKind::Write, true),
            (0x6fff, 1, WatchKind::Write, false),
            (0x7000, 64, WatchKind::Write, true),
            (0x7040, 64, WatchKind::Write, false),
            (0x703f, 2, WatchKind::Write, true),
            (0x707f, 2, WatchKind::Write, true),
            (0x70c0, 0xf40, WatchKind::Write, false),
            (0x70c0, 0xf41, WatchKind::Write, true),
            (0x6000, 0x1_0000, WatchKind::Write, true),
            (0x7040, 1, WatchKind::Access, false),
            (0x7000, 8, WatchKind::Read, false),
            (0x9ff0, 8, WatchKind::Read, true),
            (0x9ff0, 8, WatchKind::Access, true),
            (u64::MAX, 2, WatchKind::Read, true),
        ] {
            let stops = Stops {
                breakpoints: Vec::new(),
                watchpoints: vec![Watchpoint { addr, len, kind }],
                ..Stops::default()
            };
            assert_eq!(summary.may_hit(&stops), want, "{addr:#x} {len} {kind:?}");
        }
    }
}
