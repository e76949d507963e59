//! What the store and its thread share, and the work that can wait: compressing, writing out, putting together.
//!
//! Every kind of work is done in three steps: take something under the lock, do the long part without it, and put
//! the result back under the lock where it still fits. So readers never wait for a compressor or a disk, and any
//! thread may do the work: the store's own does it early, a thread that adds pages faster than they can be
//! compressed does it itself.

use crate::cache::Cache;
use crate::chunk::{CHUNK_PAGES, Press, Shape, differ, is_small, page_in, unpack, unpack_checked};
use crate::contents::{Bytes, Contents, Located, Place, Pressed};
use crate::decoded::Decoded;
use crate::index::Index;
use crate::persist::Persisting;
use crate::scratch::Scratch;
use crate::{Config, Error, PAGE_BYTES, Page, Tick, policy};
use parking_lot::{Condvar, Mutex, RwLock};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Checkpoints and contents: what one lock guards.
pub(crate) struct Inner {
    pub index: Index,
    pub contents: Contents,
    /// The checkpoint added last: the next one is likely to be described by what changed since.
    pub newest: Option<Tick>,
}

/// Sums that decide what has to be done, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub raw: u64,
    pub packed: u64,
    pub tables: u64,
}

impl Held {
    pub fn total(&self) -> u64 {
        self.raw + self.packed + self.tables
    }
}

/// What the memory budget allows, in bytes.
struct Limits {
    budget: u64,
    /// The background starts to write out here.
    soft: u64,
    /// The background compresses what is raw beyond this.
    raw: u64,
    /// Who adds beyond this has to help.
    raw_hard: u64,
}

#[derive(Default)]
struct Work {
    /// There may be something to do.
    wanted: bool,
    busy: bool,
    stop: bool,
}

pub(crate) struct Shared {
    pub inner: RwLock<Inner>,
    /// Held by who adds or removes.
    pub writer: Mutex<()>,
    /// Where the user is: checkpoints near it are the last to be given up.
    pub position: AtomicU64,
    decoded: Decoded,
    press: Press,
    scratch: Option<Arc<Scratch>>,
    pub cache: Option<Cache>,
    pub persisting: Persisting,
    limits: Limits,
    work: Mutex<Work>,
    wake: Condvar,
    idle: Condvar,
}

impl Shared {
    pub fn new(config: &Config) -> Result<Shared, Error> {
        let budget = config.memory_budget_bytes;
        let scratch = config.spill.as_deref().map(Scratch::create).transpose()?;
        let chunk_bytes = (CHUNK_PAGES * PAGE_BYTES) as u64;
        let decoded_chunks = (config.decoded_bytes.min(budget / 2) / chunk_bytes) as usize;
        let pool_pages = (budget / 64 / PAGE_BYTES as u64).min(1024) as usize;
        // Set aside: neither reading nor giving back a buffer makes room.
        let aside = decoded_chunks as u64 * chunk_bytes + (pool_pages * PAGE_BYTES) as u64;
        let budget = budget.saturating_sub(aside);
        Ok(Shared {
            inner: RwLock::new(Inner {
                index: Index::default(),
                contents: Contents::new(pool_pages),
                newest: None,
            }),
            writer: Mutex::new(()),
            position: AtomicU64::new(u64::MAX),
            decoded: Decoded::new(decoded_chunks),
            press: Press::new(config.zstd_level),
            scratch,
            cache: None,
            persisting: Persisting::default(),
            limits: Limits {
                budget,
                soft: budget / 8 * 7,
                raw: budget / 4,
                raw_hard: budget / 2,
            },
            work: Mutex::new(Work::default()),
            wake: Condvar::new(),
            idle: Condvar::new(),
        })
    }

    pub fn held(&self, inner: &Inner) -> Held {
        Held {
            raw: inner.contents.raw_bytes(),
            packed: inner.contents.packed_bytes(),
            tables: inner.contents.table_bytes() + inner.index.table_bytes(),
        }
    }

    pub fn decoded_bytes(&self) -> u64 {
        self.decoded.bytes()
    }

    pub fn scratch_bytes(&self) -> u64 {
        self.scratch
            .as_ref()
            .map_or(0, |scratch| scratch.used_bytes())
    }

    /// Reads a content. What is in `out` after an error is unspecified.
    pub fn fetch(&self, place: &Place, out: &mut Page) -> Result<(), Error> {
        match place {
            Place::Zero => *out = [0; PAGE_BYTES],
            Place::Raw(raw) => *out = **raw,
            Place::Chunk(located) => {
                let chunk = self.decode(located)?;
                let page = page_in(&chunk, located.index)
                    .expect("a decoded chunk has the pages that it was made of");
                match &located.base {
                    None => *out = *page,
                    Some(base) => {
                        self.fetch(base, out)?;
                        differ(out, page);
                    }
                }
            }
        }
        Ok(())
    }

    /// The decompressed chunk that a page is in.
    fn decode(&self, located: &Located) -> Result<Arc<[u8]>, Error> {
        if let Some(pages) = self.decoded.get(located.id) {
            return Ok(pages);
        }
        let pages = self.decode_anew(located)?;
        self.decoded.put(located.id, Arc::clone(&pages));
        Ok(pages)
    }

    fn decode_anew(&self, located: &Located) -> Result<Arc<[u8]>, Error> {
        match &located.bytes {
            // What never left memory is what the compressor made of the pages.
            Bytes::Memory(bytes) => {
                Ok(unpack(bytes, located.shape).expect("a chunk made here can be read"))
            }
            Bytes::Scratch(extent) => {
                checked(extent.path(), extent.offset, extent.read(), located.shape)
            }
            &Bytes::Cache { offset, bytes } => {
                let cache = self.cache.as_ref();
                let cache = cache.expect("only a store with a cache has contents there");
                let read = cache.read_chunk(offset, bytes);
                checked(cache.path(), offset, read, located.shape)
            }
        }
    }

    /// After something was added: has the background, and if need be this thread, make room.
    pub fn relieve(&self, held: Held) {
        if held.raw > self.limits.raw || held.total() > self.limits.soft {
            self.wake();
        }
        if held.raw <= self.limits.raw_hard && held.total() <= self.limits.budget {
            return;
        }
        loop {
            let held = self.held(&self.inner.read());
            let over = held.total() > self.limits.budget;
            let helped = (over && (self.evict_cached() || self.persist_next()))
                || ((over || held.raw > self.limits.raw_hard) && self.compress_some())
                || (over && (self.spill_one() || self.gather_some()));
            if !helped {
                return;
            }
        }
    }

    /// Gives up checkpoints until the budget is kept. The caller holds the writer's lock.
    pub fn thin(&self) {
        loop {
            let mut inner = self.inner.write();
            let held = self.held(&inner);
            // What can be written to a file takes no memory for long, though some of it may be on its way there now.
            let writable = self
                .scratch
                .as_ref()
                .is_some_and(|scratch| scratch.is_writable());
            let stays = if writable { held.tables } else { held.total() };
            if stays <= self.limits.budget || !self.thin_once(&mut inner, stays) {
                return;
            }
            drop(inner);
            // Half-empty chunks free nothing until what lives in them is put together.
            while self.compress_some() || self.gather_some() {}
        }
    }

    /// One choice of the policy, from estimated costs. False if there is nothing that may be given up.
    fn thin_once(&self, inner: &mut Inner, total: u64) -> bool {
        let Inner {
            index,
            contents,
            newest,
        } = inner;
        // What a checkpoint alone holds is not known without looking at every page: its share is taken for it.
        let share = total / index.entries().max(1);
        let ticks: Vec<Tick> = index.checkpoints().keys().copied().collect();
        let costs: Vec<u64> = index
            .checkpoints()
            .values()
            .map(|checkpoint| {
                1 + checkpoint.state.len() as u64 + checkpoint.pages.len() as u64 * share
            })
            .collect();
        let sum: u64 = costs.iter().sum();
        // To seven eighths, so that it need not be done again at once; and at least one.
        let target =
            u128::from(sum) * u128::from(self.limits.budget / 8 * 7) / u128::from(total.max(1));
        let target = u64::try_from(target)
            .unwrap_or(u64::MAX)
            .min(sum.saturating_sub(1));
        let kept = policy::keep(
            &ticks,
            self.position.load(Ordering::Relaxed),
            &costs,
            target,
        );
        let mut removed = 0;
        for (&tick, kept) in ticks.iter().zip(kept) {
            let pinned = index
                .checkpoint(tick)
                .is_some_and(|checkpoint| checkpoint.pins > 0);
            if !kept && !pinned && *newest != Some(tick) && index.remove(tick, contents) {
                removed += 1;
            }
        }
        log::debug!(
            "{removed} of {} checkpoints given up: {total} bytes held",
            ticks.len()
        );
        removed > 0
    }

    /// Compresses the oldest raw pages. False if there are none.
    fn compress_some(&self) -> bool {
        let group = self.inner.write().contents.take_raw(CHUNK_PAGES);
        !group.is_empty() && self.press(group)
    }

    /// Compresses pages that were taken for it. False if there is no memory for that.
    pub fn press(&self, mut group: Vec<Pressed>) -> bool {
        let pages: Vec<Page> = group.iter_mut().map(|pressed| self.told(pressed)).collect();
        match self.press.pack(pages.iter()) {
            Ok(packed) => {
                self.inner.write().contents.packed(group, packed);
                true
            }
            Err(error) => {
                log::debug!("pages stay raw: {error}");
                self.inner.write().contents.return_raw(group);
                false
            }
        }
    }

    /// What goes into the chunk for a page: its difference to its base, or, without one, itself. The base is
    /// dropped where it is of no use.
    fn told(&self, pressed: &mut Pressed) -> Page {
        if let Some(base) = &pressed.base {
            let mut difference = [0; PAGE_BYTES];
            if self.fetch(base, &mut difference).is_ok() {
                differ(&mut difference, &pressed.raw);
                if is_small(&difference) {
                    return difference;
                }
            }
            pressed.base = None;
        }
        *pressed.raw
    }

    /// Drops the copy in memory of something that is in the cache file. False if there is none.
    fn evict_cached(&self) -> bool {
        self.cache.is_some() && self.inner.write().contents.evict_cached()
    }

    /// Moves the oldest compressed chunk to the scratch file. False if there is none, or no file to write to.
    fn spill_one(&self) -> bool {
        let Some(scratch) = self
            .scratch
            .as_ref()
            .filter(|scratch| scratch.is_writable())
        else {
            return false;
        };
        let Some((chunk, bytes)) = self.inner.write().contents.take_for_spill() else {
            return false;
        };
        match scratch.write(&bytes) {
            Some(extent) => {
                self.inner.write().contents.spilled(chunk, extent);
                true
            }
            None => {
                self.inner.write().contents.return_from_spill(chunk);
                false
            }
        }
    }

    /// Puts what still lives in sparse chunks together. False if that would gain nothing.
    fn gather_some(&self) -> bool {
        let Some(living) = self.inner.write().contents.take_sparse(CHUNK_PAGES) else {
            return false;
        };
        let chunks: Result<Vec<Arc<[u8]>>, Error> = living
            .iter()
            .map(|(_, located)| self.decode(located))
            .collect();
        let chunks = match chunks {
            Ok(chunks) => chunks,
            Err(error) => {
                // Whoever asks for one of these pages will be told.
                log::debug!("sparse chunks stay as they are: {error}");
                return true;
            }
        };
        let pages = living
            .iter()
            .zip(&chunks)
            .filter_map(|((_, located), chunk)| page_in(chunk, located.index));
        match self.press.pack(pages) {
            Ok(packed) => self.inner.write().contents.moved(&living, packed),
            Err(error) => log::debug!("sparse chunks stay as they are: {error}"),
        }
        true
    }

    /// One piece of what the background does. False if there is nothing to do.
    fn work_once(&self) -> bool {
        let held = self.held(&self.inner.read());
        let tight = held.total() > self.limits.soft;
        self.persist_next()
            || (tight && self.evict_cached())
            || ((tight || held.raw > self.limits.raw) && self.compress_some())
            || (tight && self.spill_one())
            || self.gather_some()
    }

    pub fn wake(&self) {
        let mut work = self.work.lock();
        if !work.wanted {
            work.wanted = true;
            self.wake.notify_one();
        }
    }

    /// The store's thread.
    pub fn run(&self) {
        let mut work = self.work.lock();
        loop {
            while !work.wanted && !work.stop {
                work.busy = false;
                self.idle.notify_all();
                self.wake.wait(&mut work);
            }
            if work.stop {
                return;
            }
            work.wanted = false;
            work.busy = true;
            drop(work);
            while self.work_once() && !self.work.lock().stop {}
            work = self.work.lock();
        }
    }

    /// Waits until the background has nothing left to do.
    pub fn settle(&self) {
        self.wake();
        let mut work = self.work.lock();
        while (work.wanted || work.busy) && !work.stop {
            self.idle.wait(&mut work);
        }
    }

    pub fn stop(&self) {
        self.work.lock().stop = true;
        self.wake.notify_all();
    }
}

/// Decompresses what was read from a file.
fn checked(
    path: &Path,
    offset: u64,
    read: io::Result<Vec<u8>>,
    shape: Shape,
) -> Result<Arc<[u8]>, Error> {
    let path = || path.to_path_buf();
    let bytes = read.map_err(|source| Error::Io {
        path: path(),
        source,
    })?;
    unpack_checked(&bytes, shape).ok_or_else(|| Error::Damaged {
        path: path(),
        offset,
    })
}
