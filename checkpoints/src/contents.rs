//! The contents of pages, each kept once: raw, compressed, in a file, or several of these at once.
//!
//! When it is compressed, a content may be told by its difference to a **base**: mostly an earlier version of the same
//! page, of which little has changed. A base is never told by a difference itself: any content is at most
//! two chunks away.

use crate::chunk::{Packed, Shape};
use crate::scratch::Extent;
use crate::{CHUNK_PAGES, PAGE_BYTES, Page, PageVersion};
use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

mod filing;

pub(crate) use filing::{Adopted, Unfiled};

/// Names a content for as long as somebody holds a reference to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ContentId(u32);

impl ContentId {
    /// A page of zeros: always there, never counted.
    pub const ZERO: ContentId = ContentId(0);
}

/// Names a chunk. Never used twice.
pub(crate) type ChunkId = u64;

/// A place in a chunk: there are many contents, so it is kept in eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spot(NonZeroU64);

impl Spot {
    fn new(chunk: ChunkId, index: u8) -> Spot {
        // Chunks are numbered from 1; 2^56 of them are not made in a lifetime.
        Spot(NonZeroU64::new(chunk << 8 | u64::from(index)).expect("chunks are numbered from 1"))
    }

    fn chunk(self) -> ChunkId {
        self.0.get() >> 8
    }

    fn index(self) -> u8 {
        self.0.get() as u8
    }
}

struct Content {
    version: PageVersion,
    /// How many versions of pages have this content. 0: the place is free.
    references: u32,
    raw: Option<Arc<Page>>,
    /// Where it is once it is compressed.
    spot: Option<Spot>,
    /// What it is told by its difference to, with a reference to that; zero: it is told whole.
    base: ContentId,
    /// 1 + its number in the cache file; 0: it is not there.
    filed: u32,
    /// It has been settled whether there is a base.
    settled: bool,
    /// It is, or was, the base of another: it must be told whole.
    is_base: bool,
}

impl Content {
    fn new(version: PageVersion, raw: Option<Arc<Page>>) -> Content {
        Content {
            version,
            references: 1,
            raw,
            spot: None,
            base: ContentId::ZERO,
            filed: 0,
            settled: false,
            is_base: false,
        }
    }
}

struct Chunk {
    shape: Shape,
    /// Who is in it, in order. A member that has died may be another content by now: compare its `spot`.
    members: [ContentId; CHUNK_PAGES],
    /// How many members still live here.
    live: u32,
    memory: Option<Arc<[u8]>>,
    file: Option<Filed>,
}

/// Where in a file a chunk is.
#[derive(Clone)]
enum Filed {
    Scratch(Arc<Extent>),
    Cache {
        number: u32,
        offset: u64,
        bytes: u32,
    },
}

impl Chunk {
    fn is_cached(&self) -> bool {
        matches!(self.file, Some(Filed::Cache { .. }))
    }
}

/// Where the bytes of a content are.
pub(crate) enum Place {
    Zero,
    Raw(Arc<Page>),
    Chunk(Located),
}

/// A page in a chunk.
pub(crate) struct Located {
    pub id: ChunkId,
    pub index: u8,
    pub shape: Shape,
    pub bytes: Bytes,
    /// Where the base is, if the chunk holds the difference to one.
    pub base: Option<Box<Place>>,
}

/// Where the bytes of a chunk are. Stays readable whatever happens to the chunk meanwhile.
pub(crate) enum Bytes {
    Memory(Arc<[u8]>),
    Scratch(Arc<Extent>),
    Cache { offset: u64, bytes: u32 },
}

/// A raw page that is being compressed.
pub(crate) struct Pressed {
    id: ContentId,
    pub raw: Arc<Page>,
    /// What it may be told by its difference to.
    pub base: Option<Place>,
}

pub(crate) struct Contents {
    items: Vec<Content>,
    free: Vec<ContentId>,
    by_version: HashTable<ContentId>,
    chunks: FxHashMap<ChunkId, Chunk>,
    next_chunk: ChunkId,
    /// The content that the page had before, for contents that are raw only: a base, if it still lives when it is
    /// wanted.
    hints: FxHashMap<ContentId, PageVersion>,
    /// Contents that have (or had) a raw copy, oldest first.
    raw_queue: VecDeque<ContentId>,
    /// Chunks that are (or were) in memory, oldest first.
    memory_queue: VecDeque<ChunkId>,
    /// Chunks that are (or were) in memory and are in the cache file too.
    cached_queue: VecDeque<ChunkId>,
    /// Chunks of which at most half is alive.
    sparse: VecDeque<ChunkId>,
    /// Buffers to use again: getting fresh memory from the system costs more than the copy.
    pool: Vec<Arc<Page>>,
    pool_pages_max: usize,
    raw_pages: u64,
    packed_bytes: u64,
}

impl Contents {
    pub fn new(pool_pages_max: usize) -> Contents {
        Contents {
            items: vec![Content::new(PageVersion::ZERO, None)],
            free: Vec::new(),
            by_version: HashTable::new(),
            chunks: FxHashMap::default(),
            hints: FxHashMap::default(),
            next_chunk: 1,
            raw_queue: VecDeque::new(),
            memory_queue: VecDeque::new(),
            cached_queue: VecDeque::new(),
            sparse: VecDeque::new(),
            pool: Vec::new(),
            pool_pages_max,
            raw_pages: 0,
            packed_bytes: 0,
        }
    }

    fn item(&self, id: ContentId) -> &Content {
        &self.items[id.0 as usize]
    }

    fn item_mut(&mut self, id: ContentId) -> &mut Content {
        &mut self.items[id.0 as usize]
    }

    /// The content of `page`, whose version is `version`, with one reference for the caller.
    pub fn intern(&mut self, version: PageVersion, page: &Page) -> ContentId {
        if version == PageVersion::ZERO {
            return ContentId::ZERO;
        }
        if let Some(id) = self.known(version) {
            self.item_mut(id).references += 1;
            return id;
        }
        let raw = Some(self.copy_of(page));
        self.raw_pages += 1;
        let id = self.place(Content::new(version, raw));
        self.register(id);
        self.raw_queue.push_back(id);
        self.tidy();
        id
    }

    fn place(&mut self, content: Content) -> ContentId {
        if let Some(id) = self.free.pop() {
            *self.item_mut(id) = content;
            return id;
        }
        // 2^32 contents are 16 TiB of different pages; the tables alone would take 300 GB.
        let id = u32::try_from(self.items.len()).expect("fewer than 2^32 contents");
        self.items.push(content);
        ContentId(id)
    }

    /// The content of this version.
    fn known(&self, version: PageVersion) -> Option<ContentId> {
        let same = |id: &ContentId| self.item(*id).version == version;
        self.by_version.find(hash_of(version), same).copied()
    }

    /// Has a content found by its version from now on.
    fn register(&mut self, id: ContentId) {
        let Contents {
            items, by_version, ..
        } = self;
        let hash = |id: &ContentId| hash_of(items[id.0 as usize].version);
        by_version.insert_unique(hash(&id), id, hash);
    }

    fn unregister(&mut self, id: ContentId) {
        let version = self.item(id).version;
        // One that was taken in a second time as a base is not there.
        if let Ok(entry) = self
            .by_version
            .find_entry(hash_of(version), |found| *found == id)
        {
            entry.remove();
        }
    }

    fn copy_of(&mut self, page: &Page) -> Arc<Page> {
        if let Some(mut buffer) = self.pool.pop()
            && let Some(to) = Arc::get_mut(&mut buffer)
        {
            to.copy_from_slice(page);
            return buffer;
        }
        // Straight into the new allocation: `Arc::new(*page)` may go by way of the stack.
        match Arc::<[u8]>::from(&page[..]).try_into() {
            Ok(copy) => copy,
            Err(_) => Arc::new(*page),
        }
    }

    fn recycle(&mut self, mut buffer: Arc<Page>) {
        if self.pool.len() < self.pool_pages_max && Arc::get_mut(&mut buffer).is_some() {
            self.pool.push(buffer);
        }
    }

    /// Says what a page held before it got the content `id`.
    pub fn follows(&mut self, id: ContentId, before: ContentId) {
        let item = self.item(id);
        if before != ContentId::ZERO && id != ContentId::ZERO && item.raw.is_some() && !item.settled
        {
            let before = self.item(before).version;
            self.hints.entry(id).or_insert(before);
        }
    }

    /// Settles whether a content may be told by its difference to another, and to which: that gets a reference.
    fn settle_base(&mut self, id: ContentId) -> ContentId {
        let hint = self.hints.remove(&id);
        let item = self.item_mut(id);
        item.settled = true;
        if item.is_base {
            return ContentId::ZERO;
        }
        let Some(before) = hint.and_then(|hint| self.known(hint)) else {
            return ContentId::ZERO;
        };
        let base = match self.item(before).base {
            ContentId::ZERO => before,
            base => base,
        };
        if base == id {
            return ContentId::ZERO;
        }
        self.item_mut(base).is_base = true;
        self.retain(base);
        self.item_mut(id).base = base;
        base
    }

    /// A content is told whole after all.
    fn without_base(&mut self, id: ContentId) {
        let base = std::mem::replace(&mut self.item_mut(id).base, ContentId::ZERO);
        self.release(base);
    }

    /// One more reference to a content that already has one.
    pub fn retain(&mut self, id: ContentId) {
        if id != ContentId::ZERO {
            self.item_mut(id).references += 1;
        }
    }

    /// Gives a reference back.
    pub fn release(&mut self, id: ContentId) {
        if id == ContentId::ZERO {
            return;
        }
        let item = self.item_mut(id);
        item.references -= 1;
        if item.references > 0 {
            return;
        }
        let spot = item.spot.take();
        self.unregister(id);
        self.drop_raw(id);
        self.without_base(id);
        self.free.push(id);
        if let Some(spot) = spot {
            self.leave(spot.chunk());
        }
    }

    fn drop_raw(&mut self, id: ContentId) {
        if let Some(raw) = self.item_mut(id).raw.take() {
            self.raw_pages -= 1;
            self.hints.remove(&id);
            self.recycle(raw);
        }
    }

    /// A member of a chunk has died or moved out.
    fn leave(&mut self, id: ChunkId) {
        let Some(chunk) = self.chunks.get_mut(&id) else {
            return;
        };
        chunk.live -= 1;
        if chunk.live == 0 {
            let memory = chunk.memory.take();
            self.packed_bytes -= memory.map_or(0, |bytes| bytes.len() as u64);
            self.chunks.remove(&id);
        } else if chunk.live == u32::from(chunk.shape.pages / 2) && !chunk.is_cached() {
            self.sparse.push_back(id);
        }
    }

    pub fn version(&self, id: ContentId) -> PageVersion {
        self.item(id).version
    }

    pub fn place_of(&self, id: ContentId) -> Place {
        let item = self.item(id);
        match (&item.raw, item.spot) {
            _ if id == ContentId::ZERO => Place::Zero,
            (Some(raw), _) => Place::Raw(Arc::clone(raw)),
            (None, Some(spot)) => {
                let base =
                    (item.base != ContentId::ZERO).then(|| Box::new(self.place_of(item.base)));
                Place::Chunk(Located {
                    base,
                    ..self.located(spot)
                })
            }
            (None, None) => unreachable!("a content is raw or in a chunk"),
        }
    }

    /// The raw copy, if there is one: spares the reader the reference count.
    pub fn raw_of(&self, id: ContentId) -> Option<&Page> {
        self.item(id).raw.as_deref()
    }

    /// The chunk alone: what the page in it is told by its difference to is left out.
    fn located(&self, spot: Spot) -> Located {
        let (id, index) = (spot.chunk(), spot.index());
        let chunk = &self.chunks[&id];
        let bytes = match (&chunk.memory, &chunk.file) {
            (Some(memory), _) => Bytes::Memory(Arc::clone(memory)),
            (None, Some(Filed::Scratch(extent))) => Bytes::Scratch(Arc::clone(extent)),
            (None, &Some(Filed::Cache { offset, bytes, .. })) => Bytes::Cache { offset, bytes },
            (None, None) => unreachable!("a chunk is in memory or in a file"),
        };
        Located {
            id,
            index,
            shape: chunk.shape,
            bytes,
            base: None,
        }
    }

    /// Takes the oldest raw pages that nobody is compressing yet, up to `count`.
    pub fn take_raw(&mut self, count: usize) -> Vec<Pressed> {
        let mut group = Vec::with_capacity(count);
        while group.len() < count
            && let Some(id) = self.raw_queue.pop_front()
        {
            group.extend(self.take_one(id));
        }
        group
    }

    /// Like [`Contents::take_raw`], from a list instead of the oldest. Goes on where it was told to, and says where to
    /// go on.
    pub fn take_listed(
        &mut self,
        list: &[ContentId],
        next: &mut usize,
        count: usize,
    ) -> Vec<Pressed> {
        let mut group = Vec::with_capacity(count);
        while group.len() < count
            && let Some(&id) = list.get(*next)
        {
            group.extend(self.take_one(id));
            *next += 1;
        }
        group
    }

    fn take_one(&mut self, id: ContentId) -> Option<Pressed> {
        let item = self.item(id);
        // Settled, but raw: somebody else is compressing it.
        if item.settled {
            return None;
        }
        let raw = Arc::clone(item.raw.as_ref()?);
        let base = self.settle_base(id);
        let base = (base != ContentId::ZERO).then(|| self.place_of(base));
        Some(Pressed { id, raw, base })
    }

    /// Whether a page that was taken is still what it was. Its place may belong to another content by now; its buffer,
    /// which is still held by who took it, cannot.
    fn still_raw(&self, pressed: &Pressed) -> bool {
        self.item(pressed.id)
            .raw
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, &pressed.raw))
    }

    /// Puts back what could not be compressed.
    pub fn return_raw(&mut self, group: Vec<Pressed>) {
        for pressed in group {
            if self.still_raw(&pressed) {
                self.without_base(pressed.id);
                self.item_mut(pressed.id).settled = false;
                self.raw_queue.push_front(pressed.id);
            }
        }
    }

    /// A group has been compressed: its pages are in a chunk from now on, those that died meanwhile excepted. Where
    /// `base` is still there, the chunk has the difference to it.
    pub fn packed(&mut self, group: Vec<Pressed>, packed: Packed) {
        let chunk = self.next_chunk;
        let members = members(group.iter().map(|pressed| pressed.id));
        let mut whole = Vec::new();
        let mut live = 0;
        for (index, pressed) in (0..).zip(group) {
            if !self.still_raw(&pressed) {
                continue;
            }
            let Pressed { id, raw, base } = pressed;
            self.item_mut(id).spot = Some(Spot::new(chunk, index));
            live += 1;
            if base.is_none() {
                whole.push(id);
            }
            drop(raw);
            self.drop_raw(id);
        }
        self.add_chunk(members, live, packed);
        // Not before the chunk is there: a base that nobody else wants may be in it too.
        whole.into_iter().for_each(|id| self.without_base(id));
    }

    fn add_chunk(&mut self, members: [ContentId; CHUNK_PAGES], live: u32, packed: Packed) {
        let id = self.next_chunk;
        if live == 0 {
            return;
        }
        self.next_chunk += 1;
        self.packed_bytes += packed.bytes.len() as u64;
        let Packed { bytes, shape } = packed;
        self.chunks.insert(
            id,
            Chunk {
                shape,
                members,
                live,
                memory: Some(bytes),
                file: None,
            },
        );
        self.memory_queue.push_back(id);
        if live <= u32::from(shape.pages / 2) {
            self.sparse.push_back(id);
        }
    }

    /// Takes out of the queues what has become of no interest, once that is most of them.
    fn tidy(&mut self) {
        let Contents {
            items,
            chunks,
            raw_queue,
            memory_queue,
            raw_pages,
            ..
        } = self;
        if raw_queue.len() as u64 > 2 * *raw_pages + 1024 {
            // A content that died and came back raw at the same place would be there twice.
            let mut seen = FxHashSet::default();
            raw_queue.retain(|id| {
                let item = &items[id.0 as usize];
                item.raw.is_some() && !item.settled && seen.insert(*id)
            });
        }
        if memory_queue.len() > 2 * chunks.len() + 1024 {
            memory_queue.retain(|id| chunks.contains_key(id));
        }
    }

    /// The chunk that has been in memory for longest, to be written to a file.
    pub fn take_for_spill(&mut self) -> Option<(ChunkId, Arc<[u8]>)> {
        loop {
            let id = self.memory_queue.pop_front()?;
            let Some(chunk) = self.chunks.get_mut(&id) else {
                continue;
            };
            if let (Some(memory), None) = (&chunk.memory, &chunk.file) {
                return Some((id, Arc::clone(memory)));
            }
        }
    }

    /// Puts back a chunk that could not be written.
    pub fn return_from_spill(&mut self, id: ChunkId) {
        self.memory_queue.push_front(id);
    }

    /// A chunk is in the scratch file: its copy in memory goes.
    pub fn spilled(&mut self, id: ChunkId, extent: Arc<Extent>) {
        if let Some(chunk) = self.chunks.get_mut(&id)
            && let Some(memory) = chunk.memory.take()
        {
            self.packed_bytes -= memory.len() as u64;
            // The cache file may have been quicker.
            chunk.file.get_or_insert(Filed::Scratch(extent));
        }
    }

    /// Takes chunks of which little is alive, to put what lives together: as many as fit into one chunk. None unless
    /// at least two are made one.
    pub fn take_sparse(&mut self, pages_max: usize) -> Option<Vec<(ContentId, Located)>> {
        let mut living = Vec::new();
        let mut taken = Vec::new();
        while let Some(id) = self.sparse.pop_front() {
            let Some(chunk) = self.chunks.get(&id) else {
                continue;
            };
            if chunk.is_cached() {
                continue;
            }
            if living.len() + chunk.live as usize > pages_max {
                self.sparse.push_front(id);
                break;
            }
            taken.push(id);
            for (index, &member) in (0..).zip(&chunk.members[..usize::from(chunk.shape.pages)]) {
                let item = self.item(member);
                if item.references > 0 && item.spot == Some(Spot::new(id, index)) {
                    living.push((member, self.located(Spot::new(id, index))));
                }
            }
        }
        if taken.len() < 2 {
            taken.into_iter().for_each(|id| self.sparse.push_front(id));
            return None;
        }
        Some(living)
    }

    /// What lived in sparse chunks is together in a new one.
    pub fn moved(&mut self, living: &[(ContentId, Located)], packed: Packed) {
        let new = self.next_chunk;
        let mut live = 0;
        for (index, (id, from)) in (0..).zip(living) {
            let item = self.item_mut(*id);
            // Chunks have numbers of their own for ever: this cannot be another content.
            if item.spot == Some(Spot::new(from.id, from.index)) {
                item.spot = Some(Spot::new(new, index));
                live += 1;
                self.leave(from.id);
            }
        }
        self.add_chunk(members(living.iter().map(|(id, _)| *id)), live, packed);
    }

    /// Different contents, without that of zeros.
    pub fn count(&self) -> u64 {
        self.by_version.len() as u64
    }

    /// Bytes of raw pages in memory.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_pages * PAGE_BYTES as u64
    }

    /// Bytes of compressed chunks in memory.
    pub fn packed_bytes(&self) -> u64 {
        self.packed_bytes
    }

    /// Bytes of the buffers that wait to be used again.
    pub fn pool_bytes(&self) -> u64 {
        (self.pool.len() * PAGE_BYTES) as u64
    }

    /// Bytes of the tables.
    pub fn table_bytes(&self) -> u64 {
        let items = self.items.capacity() * size_of::<Content>();
        let map = self.by_version.capacity() * (size_of::<ContentId>() + 1) * 8 / 7;
        let chunks = self.chunks.capacity() * (size_of::<(ChunkId, Chunk)>() + 1) * 8 / 7;
        let queues = self.raw_queue.capacity() * size_of::<ContentId>()
            + (self.memory_queue.capacity() + self.cached_queue.capacity()) * size_of::<ChunkId>()
            + self.free.capacity() * size_of::<ContentId>();
        let hints = self.hints.capacity() * (size_of::<(ContentId, PageVersion)>() + 1) * 8 / 7;
        (items + map + chunks + queues + hints) as u64
    }
}

/// The version is a hash.
fn hash_of(version: PageVersion) -> u64 {
    version.0 as u64
}

fn members(ids: impl Iterator<Item = ContentId>) -> [ContentId; CHUNK_PAGES] {
    let mut members = [ContentId::ZERO; CHUNK_PAGES];
    members
        .iter_mut()
        .zip(ids)
        .for_each(|(member, id)| *member = id);
    members
}
