//! Which content every page has at every checkpoint.

use crate::Tick;
use crate::contents::{ContentId, Contents};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

pub(crate) struct Checkpoint {
    pub state: Arc<[u8]>,
    /// The pages that have an entry at this tick, in no order.
    pub pages: Vec<u64>,
    /// It is in the cache file.
    pub persisted: bool,
    /// How many users want it to stay.
    pub pins: u32,
}

/// From this checkpoint on, until the next entry of the page.
#[derive(Clone, Copy)]
struct Entry {
    tick: Tick,
    content: ContentId,
}

/// Checkpoints by tick, and for each page its versions by tick. An entry's tick is always that of a checkpoint.
/// Where a page has no entry at or before a checkpoint, it is a page of zeros there.
#[derive(Default)]
pub(crate) struct Index {
    checkpoints: BTreeMap<Tick, Checkpoint>,
    versions: FxHashMap<u64, Vec<Entry>>,
    entries: u64,
    state_bytes: u64,
}

impl Index {
    pub fn checkpoint(&self, tick: Tick) -> Option<&Checkpoint> {
        self.checkpoints.get(&tick)
    }

    pub fn checkpoint_mut(&mut self, tick: Tick) -> Option<&mut Checkpoint> {
        self.checkpoints.get_mut(&tick)
    }

    pub fn checkpoints(&self) -> &BTreeMap<Tick, Checkpoint> {
        &self.checkpoints
    }

    /// The greatest checkpoint before `tick`.
    fn before(&self, tick: Tick) -> Option<Tick> {
        self.checkpoints
            .range(..tick)
            .next_back()
            .map(|(&tick, _)| tick)
    }

    /// The smallest checkpoint after `tick`.
    pub fn after(&self, tick: Tick) -> Option<Tick> {
        self.checkpoints
            .range((Excluded(tick), Unbounded))
            .next()
            .map(|(&tick, _)| tick)
    }

    /// What a page holds at `tick`, which must be a checkpoint for the answer to mean anything.
    pub fn content(&self, tick: Tick, page: u64) -> ContentId {
        self.versions
            .get(&page)
            .map_or(ContentId::ZERO, |entries| content_in(entries, tick))
    }

    /// The pages that differ between two checkpoints, ascending. Costs what was recorded between them, or a look at
    /// every page ever recorded if that is less.
    pub fn changed_between(&self, one: Tick, other: Tick) -> Vec<u64> {
        let (from, to) = (one.min(other), one.max(other));
        let between = || self.checkpoints.range((Excluded(from), Included(to)));
        let recorded: usize = between()
            .map(|(_, checkpoint)| checkpoint.pages.len())
            .sum();
        let differs = |entries: &[Entry]| content_in(entries, from) != content_in(entries, to);
        let mut pages: Vec<u64> = if recorded > self.versions.len() {
            self.versions
                .iter()
                .filter(|(_, entries)| differs(entries))
                .map(|(&page, _)| page)
                .collect()
        } else {
            let recorded = between().flat_map(|(_, checkpoint)| checkpoint.pages.iter().copied());
            recorded
                .filter(|page| {
                    self.versions
                        .get(page)
                        .is_some_and(|entries| differs(entries))
                })
                .collect()
        };
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    /// The pages that are not zero at a checkpoint, ascending.
    pub fn pages_at(&self, tick: Tick) -> Vec<u64> {
        let filled = self
            .versions
            .iter()
            .filter(|(_, entries)| content_in(entries, tick) != ContentId::ZERO);
        let mut pages: Vec<u64> = filled.map(|(&page, _)| page).collect();
        pages.sort_unstable();
        pages
    }

    /// Adds a checkpoint where none is. `pages` come with one reference each; those not among them are as they are at
    /// the checkpoint `since` (None: zero). No other checkpoint changes by it.
    pub fn insert(
        &mut self,
        tick: Tick,
        since: Option<Tick>,
        state: Arc<[u8]>,
        mut pages: Vec<(u64, ContentId)>,
        contents: &mut Contents,
    ) {
        let before = self.before(tick);
        if since != before {
            self.tell_from_the_one_before(since, before, &mut pages, contents);
        }
        let after = self.after(tick);
        let mut own = Vec::with_capacity(pages.len());
        let mut for_next = Vec::new();
        for (page, content) in pages {
            if content == ContentId::ZERO && !self.versions.contains_key(&page) {
                continue;
            }
            let entries = self.versions.entry(page).or_default();
            let at = entries.partition_point(|entry| entry.tick < tick);
            if entries.get(at).is_some_and(|entry| entry.tick == tick) {
                // Listed twice: the last word counts.
                contents.release(entries[at].content);
                entries[at].content = content;
                continue;
            }
            let old = if at == 0 {
                ContentId::ZERO
            } else {
                entries[at - 1].content
            };
            if content == old {
                contents.release(content);
                continue;
            }
            entries.insert(at, Entry { tick, content });
            contents.follows(content, old);
            self.entries += 1;
            own.push(page);
            // The checkpoint after this one has been relying on the entry before it.
            if let Some(after) = after
                && entries.get(at + 1).is_none_or(|entry| entry.tick != after)
            {
                contents.retain(old);
                entries.insert(
                    at + 1,
                    Entry {
                        tick: after,
                        content: old,
                    },
                );
                self.entries += 1;
                for_next.push(page);
            }
        }
        if let Some(next) = after.and_then(|after| self.checkpoints.get_mut(&after)) {
            next.pages.extend(for_next);
        }
        own.shrink_to_fit();
        self.state_bytes += state.len() as u64;
        self.checkpoints.insert(
            tick,
            Checkpoint {
                state,
                pages: own,
                persisted: false,
                pins: 0,
            },
        );
    }

    /// Completes a list of pages that tells the difference to `since` so that it tells the difference to `before`.
    fn tell_from_the_one_before(
        &self,
        since: Option<Tick>,
        before: Option<Tick>,
        pages: &mut Vec<(u64, ContentId)>,
        contents: &mut Contents,
    ) {
        let Some(before) = before else { return };
        let listed: FxHashSet<u64> = pages.iter().map(|(page, _)| *page).collect();
        let differing = match since {
            Some(since) => self.changed_between(since, before),
            None => self.pages_at(before),
        };
        for page in differing.into_iter().filter(|page| !listed.contains(page)) {
            let content = since.map_or(ContentId::ZERO, |since| self.content(since, page));
            contents.retain(content);
            pages.push((page, content));
        }
    }

    /// Removes a checkpoint. The one after it takes over the entries that it needs. False if there was none.
    pub fn remove(&mut self, tick: Tick, contents: &mut Contents) -> bool {
        let Some(removed) = self.checkpoints.remove(&tick) else {
            return false;
        };
        self.state_bytes -= removed.state.len() as u64;
        let mut next = self
            .checkpoints
            .range_mut((Excluded(tick), Unbounded))
            .next();
        for page in removed.pages {
            let Some(entries) = self.versions.get_mut(&page) else {
                continue;
            };
            let at = entries.partition_point(|entry| entry.tick < tick);
            let Some(&Entry { content, .. }) = entries.get(at) else {
                continue;
            };
            let old = if at == 0 {
                ContentId::ZERO
            } else {
                entries[at - 1].content
            };
            if let Some((next_tick, next)) = &mut next
                && entries
                    .get(at + 1)
                    .is_none_or(|entry| entry.tick != **next_tick)
                && content != old
            {
                entries[at].tick = **next_tick;
                next.pages.push(page);
                continue;
            }
            entries.remove(at);
            self.entries -= 1;
            contents.release(content);
            if entries.is_empty() {
                self.versions.remove(&page);
            }
        }
        true
    }

    /// Entries of all pages together.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Pages that ever had an entry.
    pub fn pages(&self) -> u64 {
        self.versions.len() as u64
    }

    /// Bytes of the tables and of the states.
    pub fn table_bytes(&self) -> u64 {
        // An entry, its number in the checkpoint's list, and some room in both to grow.
        let entries = self.entries * (size_of::<Entry>() as u64 + 8) * 5 / 4;
        let pages = self.versions.capacity() as u64 * (size_of::<(u64, Vec<Entry>)>() as u64 + 1);
        let checkpoints =
            self.checkpoints.len() as u64 * (size_of::<(Tick, Checkpoint)>() as u64 + 32);
        entries + pages + checkpoints + self.state_bytes
    }
}

fn content_in(entries: &[Entry], tick: Tick) -> ContentId {
    let at = entries.partition_point(|entry| entry.tick <= tick);
    if at == 0 {
        ContentId::ZERO
    } else {
        entries[at - 1].content
    }
}
