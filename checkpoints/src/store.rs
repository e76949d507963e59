//! The store, as its users see it.

use crate::cache::{Cache, CacheConfig, Loader, Opened};
use crate::contents::{Adopted, ContentId, Place};
use crate::persist::Persisting;
use crate::worker::{Inner, Shared};
use crate::{Error, PAGE_BYTES, Page, PageVersion, Tick};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

/// Pages that are hashed, and then added, at a time: long enough to make the lock cheap, and short enough that no
/// reader notices it.
const BATCH_PAGES: usize = 32;

/// Pages that are looked up at a time by [`Store::read_pages`].
const READ_PAGES: usize = 4096;

/// Fewer pages are not worth a thread more.
const PART_PAGES: usize = 256;

/// What a store may use.
#[derive(Clone, Debug)]
pub struct Config {
    /// Memory for everything: raw and compressed pages, decompressed ones, tables, states.
    pub memory_budget_bytes: u64,
    /// Of these, memory for pages that stay decompressed after they were read.
    pub decoded_bytes: u64,
    /// zstd level of what is compressed.
    pub zstd_level: i32,
    /// Where to make a scratch file, for compressed pages that memory has no room for. Nothing may be there. The file
    /// loses its name at once. None: checkpoints are given up instead.
    pub spill: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        // Level 1: the store has to keep up with a machine that dirties pages on another core.
        Config {
            memory_budget_bytes: 512 << 20,
            decoded_bytes: 8 << 20,
            zstd_level: 1,
            spill: None,
        }
    }
}

/// What a store holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Checkpoints.
    pub checkpoints: u64,
    /// Versions of pages, all checkpoints together.
    pub versions: u64,
    /// Pages that ever differed from zero.
    pub pages: u64,
    /// Different contents, without that of zeros.
    pub unique_pages: u64,
    /// What the different contents would take uncompressed, in bytes.
    pub content_bytes: u64,
    /// Bytes of uncompressed pages in memory.
    pub raw_bytes: u64,
    /// Bytes of compressed pages in memory.
    pub compressed_bytes: u64,
    /// Bytes of pages kept decompressed after reading.
    pub decoded_bytes: u64,
    /// Bytes of tables, states, and buffers to use again (estimated).
    pub table_bytes: u64,
    /// Bytes in the scratch file.
    pub spilled_bytes: u64,
    /// Length of the cache file in bytes; 0 if this store does not write it.
    pub cache_bytes: u64,
}

impl Stats {
    /// Bytes of memory: what the budget is about.
    pub fn memory_bytes(&self) -> u64 {
        self.raw_bytes + self.compressed_bytes + self.decoded_bytes + self.table_bytes
    }
}

/// Checkpoints of one machine. Shared between threads by reference: all methods take `&self`, readers hardly
/// ever wait, and what is added or removed appears or disappears as a whole.
///
/// Checkpoints may be given up (see [`Store::add`]) at any `add`: who works with one over several calls
/// [pins](Store::pin) it, or is prepared for [`Error::NoCheckpoint`] and goes on from an earlier one.
pub struct Store {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Store {
    /// An empty store: RAM of zeros, no checkpoint.
    pub fn new(config: &Config) -> Result<Store, Error> {
        Ok(Store::start(Shared::new(config)?))
    }

    /// A store with a cache file: what is there and of use is taken over (contents of pages stay there until they
    /// are read), and [`Store::persist`] adds to it. A file that is not of use, or cannot be written, is no error:
    /// see [`Opened`].
    pub fn with_cache(config: &Config, cache: &CacheConfig) -> Result<(Store, Opened), Error> {
        let mut shared = Shared::new(config)?;
        let (cache, opened) = Cache::open(cache);
        if let Some((cache, loader)) = cache {
            let ticks = loader
                .checkpoints
                .iter()
                .map(|checkpoint| checkpoint.tick)
                .collect();
            take_over(loader, shared.inner.get_mut());
            shared.cache = Some(cache);
            shared.persisting = Persisting::with(ticks);
        }
        Ok((Store::start(shared), opened))
    }

    fn start(shared: Shared) -> Store {
        let shared = Arc::new(shared);
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("checkpoints".to_owned())
                .spawn(move || shared.run())
        };
        // Without its thread the store works too: who adds pages compresses them.
        let thread = thread
            .inspect_err(|error| log::warn!("checkpoints without a thread of their own: {error}"));
        Store {
            shared,
            thread: thread.ok(),
        }
    }

    /// Adds a checkpoint at `tick`. `state` is opaque. `pages` are all pages whose content may differ from the
    /// checkpoint at `since` (None: from RAM of zeros), in any order; where one is listed twice the last counts.
    /// Any other checkpoint, also one between the two or after this one, stays what it is. If there already is a
    /// checkpoint at
    /// `tick`, nothing happens.
    ///
    /// May give up other checkpoints if the memory budget demands it and nothing can be written to a file, by
    /// [`policy::keep`](crate::policy::keep); never the first, this one, or one that is pinned.
    ///
    /// # Errors
    /// [`Error::NoCheckpoint`] if there is none at `since` (any more), [`Error::Order`] if that is not before `tick`.
    pub fn add<'a>(
        &self,
        tick: Tick,
        since: Option<Tick>,
        state: impl Into<Arc<[u8]>>,
        pages: impl IntoIterator<Item = (u64, &'a Page)>,
    ) -> Result<(), Error> {
        let _writer = self.shared.writer.lock();
        if let Some(since) = since {
            if since >= tick {
                return Err(Error::Order { tick, since });
            }
            self.checked(&self.shared.inner.read(), since)?;
        }
        if self.shared.inner.read().index.checkpoint(tick).is_some() {
            return Ok(());
        }
        let mut listed: Vec<(u64, ContentId)> = Vec::new();
        let mut batch: Vec<(u64, &Page, PageVersion)> = Vec::with_capacity(BATCH_PAGES);
        for (number, page) in pages {
            batch.push((number, page, PageVersion::of(page)));
            if batch.len() == BATCH_PAGES {
                self.intern(&mut batch, &mut listed);
            }
        }
        self.intern(&mut batch, &mut listed);
        let held = {
            let mut inner = self.shared.inner.write();
            let Inner {
                index,
                contents,
                newest,
            } = &mut *inner;
            index.insert(tick, since, state.into(), listed, contents);
            *newest = Some(tick);
            self.shared.held(&inner)
        };
        self.shared.relieve(held);
        self.shared.thin();
        Ok(())
    }

    fn intern(
        &self,
        batch: &mut Vec<(u64, &Page, PageVersion)>,
        listed: &mut Vec<(u64, ContentId)>,
    ) {
        let mut inner = self.shared.inner.write();
        for (number, page, version) in batch.drain(..) {
            listed.push((number, inner.contents.intern(version, page)));
        }
        let held = self.shared.held(&inner);
        drop(inner);
        self.shared.relieve(held);
    }

    fn checked(&self, inner: &Inner, tick: Tick) -> Result<(), Error> {
        inner
            .index
            .checkpoint(tick)
            .map(|_| ())
            .ok_or(Error::NoCheckpoint(tick))
    }

    /// The last checkpoint at or before a tick.
    pub fn nearest(&self, at_or_before: Tick) -> Option<Tick> {
        self.shared
            .inner
            .read()
            .index
            .checkpoints()
            .range(..=at_or_before)
            .next_back()
            .map(|(&tick, _)| tick)
    }

    /// The first checkpoint after a tick.
    pub fn next_after(&self, tick: Tick) -> Option<Tick> {
        self.shared.inner.read().index.after(tick)
    }

    /// All checkpoints, ascending.
    pub fn ticks(&self) -> Vec<Tick> {
        self.shared
            .inner
            .read()
            .index
            .checkpoints()
            .keys()
            .copied()
            .collect()
    }

    /// The state handed in with a checkpoint.
    pub fn state(&self, tick: Tick) -> Option<Arc<[u8]>> {
        self.shared
            .inner
            .read()
            .index
            .checkpoint(tick)
            .map(|checkpoint| Arc::clone(&checkpoint.state))
    }

    /// Which content a page has at a checkpoint.
    pub fn version(&self, tick: Tick, page: u64) -> Result<PageVersion, Error> {
        let inner = self.shared.inner.read();
        self.checked(&inner, tick)?;
        Ok(inner.contents.version(inner.index.content(tick, page)))
    }

    /// Reads a page as it is at a checkpoint. What is in `out` after an error is unspecified.
    pub fn page(&self, tick: Tick, page: u64, out: &mut Page) -> Result<(), Error> {
        let (place, version) = {
            let inner = self.shared.inner.read();
            self.checked(&inner, tick)?;
            let content = inner.index.content(tick, page);
            if let Some(raw) = inner.contents.raw_of(content) {
                *out = *raw;
                return Ok(());
            }
            (
                inner.contents.place_of(content),
                inner.contents.version(content),
            )
        };
        self.shared.fetch(&place, out)?;
        debug_assert_eq!(PageVersion::of(out), version, "page {page} at tick {tick}");
        Ok(())
    }

    /// Reads many pages of a checkpoint, each compressed chunk once: what restoring uses. `each` is called with page
    /// number, version and content, in an order of the store's choosing.
    ///
    /// # Errors
    /// After an error, the pages that `each` was called with are right all the same.
    pub fn read_pages(
        &self,
        tick: Tick,
        pages: &[u64],
        mut each: impl FnMut(u64, PageVersion, &Page),
    ) -> Result<(), Error> {
        for pages in pages.chunks(READ_PAGES) {
            let mut places: Vec<(u64, PageVersion, Place)> = Vec::with_capacity(pages.len());
            {
                let inner = self.shared.inner.read();
                self.checked(&inner, tick)?;
                places.extend(pages.iter().map(|&page| {
                    let content = inner.index.content(tick, page);
                    (
                        page,
                        inner.contents.version(content),
                        inner.contents.place_of(content),
                    )
                }));
            }
            places.sort_by_key(|(page, _, place)| match place {
                Place::Chunk(located) => (located.id, u64::from(located.index)),
                Place::Zero | Place::Raw(_) => (u64::MAX, *page),
            });
            self.fetch_all(&places, &mut |page, version, content| {
                debug_assert_eq!(
                    PageVersion::of(content),
                    version,
                    "page {page} at tick {tick}"
                );
                each(page, version, content);
            })?;
        }
        Ok(())
    }

    /// Fetches pages; many of them on all cores.
    fn fetch_all(
        &self,
        places: &[(u64, PageVersion, Place)],
        each: &mut dyn FnMut(u64, PageVersion, &Page),
    ) -> Result<(), Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parts = threads.min(places.len() / PART_PAGES).max(1);
        let (own, others) = places.split_at(places.len() / parts);
        if parts == 1 {
            return self.fetch_here(places, each);
        }
        std::thread::scope(|scope| {
            let helpers: Vec<_> = others
                .chunks(others.len().div_ceil(parts - 1))
                .map(|part| {
                    let work = move || self.fetched(part);
                    let spawned = std::thread::Builder::new().spawn_scoped(scope, work);
                    (part, spawned)
                })
                .collect();
            self.fetch_here(own, each)?;
            for (part, helper) in helpers {
                let Ok(helper) = helper else {
                    // No thread to be had: its part is done here.
                    self.fetch_here(part, each)?;
                    continue;
                };
                let pages = helper
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                for ((page, version, _), content) in part.iter().zip(&pages) {
                    each(*page, *version, content);
                }
            }
            Ok(())
        })
    }

    fn fetch_here(
        &self,
        places: &[(u64, PageVersion, Place)],
        each: &mut dyn FnMut(u64, PageVersion, &Page),
    ) -> Result<(), Error> {
        let mut buffer = [0; PAGE_BYTES];
        for (page, version, place) in places {
            let content = match place {
                Place::Raw(raw) => raw,
                Place::Zero | Place::Chunk(_) => {
                    self.shared.fetch(place, &mut buffer)?;
                    &buffer
                }
            };
            each(*page, *version, content);
        }
        Ok(())
    }

    fn fetched(&self, places: &[(u64, PageVersion, Place)]) -> Result<Vec<Page>, Error> {
        let mut pages = vec![[0; PAGE_BYTES]; places.len()];
        for ((_, _, place), page) in places.iter().zip(&mut pages) {
            self.shared.fetch(place, page)?;
        }
        Ok(pages)
    }

    /// The pages whose content differs between two checkpoints, ascending. Costs what was recorded between the two,
    /// not the size of RAM.
    pub fn changed_between(&self, one: Tick, other: Tick) -> Result<Vec<u64>, Error> {
        let inner = self.shared.inner.read();
        self.checked(&inner, one)?;
        self.checked(&inner, other)?;
        Ok(inner.index.changed_between(one, other))
    }

    /// The pages that are not all zero at a checkpoint, ascending: what has to be read to restore it into fresh RAM.
    pub fn pages_at(&self, tick: Tick) -> Result<Vec<u64>, Error> {
        let inner = self.shared.inner.read();
        self.checked(&inner, tick)?;
        Ok(inner.index.pages_at(tick))
    }

    /// Removes a checkpoint. Later ones keep all they need. False if there is none, or it is pinned.
    pub fn remove(&self, tick: Tick) -> bool {
        let _writer = self.shared.writer.lock();
        let mut inner = self.shared.inner.write();
        if inner
            .index
            .checkpoint(tick)
            .is_none_or(|checkpoint| checkpoint.pins > 0)
        {
            return false;
        }
        let Inner {
            index, contents, ..
        } = &mut *inner;
        index.remove(tick, contents)
    }

    /// Keeps a checkpoint from being removed for as long as the answer lives. None if there is none at `tick`.
    pub fn pin(&self, tick: Tick) -> Option<Pin> {
        let mut inner = self.shared.inner.write();
        inner.index.checkpoint_mut(tick)?.pins += 1;
        Some(Pin {
            shared: Arc::clone(&self.shared),
            tick,
        })
    }

    /// Like [`Store::pin`], for the last checkpoint at or before a tick: found and pinned in one step.
    pub fn pin_nearest(&self, at_or_before: Tick) -> Option<Pin> {
        let mut inner = self.shared.inner.write();
        let tick = inner
            .index
            .checkpoints()
            .range(..=at_or_before)
            .next_back()
            .map(|(&tick, _)| tick)?;
        inner.index.checkpoint_mut(tick)?.pins += 1;
        Some(Pin {
            shared: Arc::clone(&self.shared),
            tick,
        })
    }

    /// Has a checkpoint written to the cache file, in the background and in the order of the calls. Nothing happens
    /// without a file that can be written, or if the file has a checkpoint at this tick.
    pub fn persist(&self, tick: Tick) -> Result<(), Error> {
        self.checked(&self.shared.inner.read(), tick)?;
        if self.takes_checkpoints() {
            self.shared.persisting.want(tick);
            self.shared.wake();
        }
        Ok(())
    }

    /// Whether checkpoints can (still) be written to the cache file.
    pub fn takes_checkpoints(&self) -> bool {
        self.shared
            .cache
            .as_ref()
            .is_some_and(Cache::takes_checkpoints)
    }

    /// Whether a checkpoint is in the cache file.
    pub fn is_persisted(&self, tick: Tick) -> bool {
        let inner = self.shared.inner.read();
        inner
            .index
            .checkpoint(tick)
            .is_some_and(|checkpoint| checkpoint.persisted)
    }

    /// Writes bytes of the caller's own to the cache file, in place of what had this name. False if there is no
    /// file that can be written, or it is full.
    pub fn put_section(&self, name: &str, bytes: &[u8]) -> bool {
        self.shared
            .cache
            .as_ref()
            .is_some_and(|cache| cache.put_section(name, bytes))
    }

    /// Reads a section of the cache file. None if there is none of this name.
    pub fn section(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.shared
            .cache
            .as_ref()
            .map_or(Ok(None), |cache| cache.section(name))
    }

    /// The names of the sections in the cache file, in order.
    pub fn section_names(&self) -> Vec<String> {
        self.shared
            .cache
            .as_ref()
            .map(Cache::section_names)
            .unwrap_or_default()
    }

    /// Writes what was to be persisted and marks the cache as finished: opening it is quick, and it says
    /// [`Found::Whole`](crate::Found::Whole). More can be added and finished again. False if the file is not
    /// written (any more); without this call it is good as far as it got.
    pub fn finish_cache(&self) -> bool {
        while self.shared.persist_next() {}
        self.shared.cache.as_ref().is_some_and(Cache::finish)
    }

    /// Removes the cache file, after [`Error::Damaged`]: the next opening finds nothing and begins a new one. Nothing
    /// happens if another process writes it.
    pub fn abandon_cache(&self) {
        if let Some(cache) = &self.shared.cache {
            cache.abandon();
        }
    }

    /// Says where the user is: when checkpoints have to be given up, those near it stay. Until it is called, the
    /// end of time counts.
    pub fn set_position(&self, position: Tick) {
        self.shared.position.store(position, Ordering::Relaxed);
    }

    /// Waits until the background has compressed and written what there was to compress and write.
    pub fn settle(&self) {
        if self.thread.is_some() {
            self.shared.settle();
        }
    }

    /// What is held now.
    pub fn stats(&self) -> Stats {
        let cache_bytes = self.shared.cache.as_ref().map_or(0, Cache::used_bytes);
        let inner = self.shared.inner.read();
        let held = self.shared.held(&inner);
        Stats {
            checkpoints: inner.index.checkpoints().len() as u64,
            versions: inner.index.entries(),
            pages: inner.index.pages(),
            unique_pages: inner.contents.count(),
            content_bytes: inner.contents.count() * PAGE_BYTES as u64,
            raw_bytes: held.raw,
            compressed_bytes: held.packed,
            decoded_bytes: self.shared.decoded_bytes(),
            table_bytes: held.tables + inner.contents.pool_bytes(),
            spilled_bytes: self.shared.scratch_bytes(),
            cache_bytes,
        }
    }
}

/// Fills an empty store with what a cache file has.
fn take_over(loader: Loader, inner: &mut Inner) {
    let mut loader = loader;
    let checkpoints = std::mem::take(&mut loader.checkpoints);
    let mut adopted = Adopted::default();
    inner.contents.reserve(&loader);
    for checkpoint in checkpoints {
        let contents = &mut inner.contents;
        let pages = checkpoint.pages.iter();
        let pages: Vec<(u64, ContentId)> = pages
            .map(|&(page, holds)| (page, contents.adopt(holds, &loader, &mut adopted)))
            .collect();
        let (tick, since) = (checkpoint.tick, checkpoint.since);
        inner
            .index
            .insert(tick, since, checkpoint.state.into(), pages, contents);
        if let Some(checkpoint) = inner.index.checkpoint_mut(tick) {
            checkpoint.persisted = true;
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread of the checkpoints had panicked");
        }
    }
}

/// Keeps a checkpoint in the store while it lives.
pub struct Pin {
    shared: Arc<Shared>,
    tick: Tick,
}

impl Pin {
    /// The tick of the checkpoint.
    pub fn tick(&self) -> Tick {
        self.tick
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut inner = self.shared.inner.write();
        if let Some(checkpoint) = inner.index.checkpoint_mut(self.tick) {
            checkpoint.pins -= 1;
        }
    }
}

// Searches on all cores read one store.
const _: () = {
    const fn shared_between_threads<T: Send + Sync>() {}
    shared_between_threads::<Store>();
    shared_between_threads::<Pin>();
};
