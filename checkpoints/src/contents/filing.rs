//! Contents and the cache file: what of them is there, under which number, and taking in what was found there.

use super::{Bytes, Chunk, ChunkId, Content, ContentId, Contents, Filed, Spot};
use crate::CHUNK_PAGES;
use crate::cache::{ChunkRecord, ContentRecord, Loader};
use crate::chunk::Shape;
use rustc_hash::FxHashSet;

/// A chunk that is to go into the cache file.
pub(crate) struct Unfiled {
    pub id: ChunkId,
    pub shape: Shape,
    pub bytes: Bytes,
}

/// Contents and chunks of the cache file that the store has taken in already, by their numbers there.
#[derive(Default)]
pub(crate) struct Adopted {
    /// The chunk here that stands for one there.
    chunks: Vec<Option<ChunkId>>,
}

impl Contents {
    /// Whether a content is in the cache file, or needs not be.
    pub fn is_filed(&self, id: ContentId) -> bool {
        id == ContentId::ZERO || self.item(id).filed != 0
    }

    /// 1 + the number of a content in the cache file; 0 for zeros.
    pub fn filed_number(&self, id: ContentId) -> u32 {
        self.item(id).filed
    }

    /// What a content is told by its difference to; zero if it is told whole. Settled once it is in a chunk.
    pub fn base_of(&self, id: ContentId) -> ContentId {
        self.item(id).base
    }

    /// Whether a content is still raw.
    pub fn is_raw(&self, id: ContentId) -> bool {
        self.item(id).raw.is_some()
    }

    /// The chunks of these contents that are not in the cache file, each once.
    pub fn unfiled_chunks(&self, ids: &[ContentId]) -> Vec<Unfiled> {
        let mut seen = FxHashSet::default();
        let spots = ids.iter().filter_map(|&id| self.item(id).spot);
        let new = spots
            .filter(|spot| !self.chunks[&spot.chunk()].is_cached() && seen.insert(spot.chunk()));
        new.map(|spot| {
            let located = self.located(spot);
            Unfiled {
                id: located.id,
                shape: located.shape,
                bytes: located.bytes,
            }
        })
        .collect()
    }

    /// A chunk is in the cache file.
    pub fn chunk_filed(&mut self, id: ChunkId, number: u32, record: &ChunkRecord) {
        if let Some(chunk) = self.chunks.get_mut(&id) {
            let (offset, bytes) = (record.offset, record.bytes);
            chunk.file = Some(Filed::Cache {
                number,
                offset,
                bytes,
            });
            if chunk.memory.is_some() {
                self.cached_queue.push_back(id);
            }
        }
    }

    /// Gives a content, whose chunk and whose base are in the cache file, its number there.
    pub fn file(&mut self, id: ContentId, number: u32) -> Option<ContentRecord> {
        let item = self.item(id);
        let spot = item.spot?;
        let Some(Filed::Cache { number: chunk, .. }) = self.chunks.get(&spot.chunk())?.file else {
            return None;
        };
        let version = item.version;
        let record = ContentRecord {
            version,
            chunk,
            index: spot.index(),
            base: self.item(item.base).filed,
        };
        self.item_mut(id).filed = number.checked_add(1)?;
        Some(record)
    }

    /// Drops the copy in memory of the chunk that has been in the cache file for longest. False if there is none.
    pub fn evict_cached(&mut self) -> bool {
        while let Some(id) = self.cached_queue.pop_front() {
            let chunk = self.chunks.get_mut(&id).filter(|chunk| chunk.is_cached());
            if let Some(memory) = chunk.and_then(|chunk| chunk.memory.take()) {
                self.packed_bytes -= memory.len() as u64;
                return true;
            }
        }
        false
    }

    /// Makes room for what a cache file has.
    pub fn reserve(&mut self, from: &Loader) {
        let Contents {
            items,
            by_version,
            chunks,
            ..
        } = self;
        items.reserve(from.contents());
        by_version.reserve(from.contents(), |id| {
            super::hash_of(items[id.0 as usize].version)
        });
        chunks.reserve(from.chunks());
    }

    /// Takes in a content of the cache file, with one reference for the caller. `holds` is 1 + its number there, 0 for
    /// zeros.
    pub fn adopt(&mut self, holds: u64, from: &Loader, adopted: &mut Adopted) -> ContentId {
        let Some(number) = holds.checked_sub(1).map(|number| number as u32) else {
            return ContentId::ZERO;
        };
        let record = from.content(number);
        if let Some(id) = self.known(record.version) {
            self.retain(id);
            return id;
        }
        let base = match record.base.checked_sub(1) {
            None => ContentId::ZERO,
            Some(base) => self.adopt_base(base, from, adopted),
        };
        self.adopt_new(number, base, from, adopted)
    }

    /// Takes in a content that another is told by its difference to.
    fn adopt_base(&mut self, number: u32, from: &Loader, adopted: &mut Adopted) -> ContentId {
        let known = self.known(from.content(number).version);
        let id = match known {
            Some(id) if self.item(id).base == ContentId::ZERO => {
                self.retain(id);
                id
            }
            // The file has this content a second time, told by a difference: here it must be whole.
            _ => self.adopt_new(number, ContentId::ZERO, from, adopted),
        };
        self.item_mut(id).is_base = true;
        id
    }

    fn adopt_new(
        &mut self,
        number: u32,
        base: ContentId,
        from: &Loader,
        adopted: &mut Adopted,
    ) -> ContentId {
        let record = from.content(number);
        let chunk = self.adopt_chunk(record.chunk, from, adopted);
        let content = Content {
            spot: Some(Spot::new(chunk, record.index)),
            base,
            filed: number + 1,
            settled: true,
            ..Content::new(record.version, None)
        };
        let id = self.place(content);
        // A second one of the same version is for its dependents only.
        if self.known(record.version).is_none() {
            self.register(id);
        }
        if let Some(chunk) = self.chunks.get_mut(&chunk) {
            chunk.live += 1;
        }
        id
    }

    fn adopt_chunk(&mut self, number: u32, from: &Loader, adopted: &mut Adopted) -> ChunkId {
        let at = number as usize;
        if adopted.chunks.len() <= at {
            adopted.chunks.resize(at + 1, None);
        }
        if let Some(id) = adopted.chunks[at].filter(|id| self.chunks.contains_key(id)) {
            return id;
        }
        let id = self.next_chunk;
        self.next_chunk += 1;
        adopted.chunks[at] = Some(id);
        let &ChunkRecord {
            offset,
            bytes,
            pages,
            sum,
        } = from.chunk(number);
        let file = Some(Filed::Cache {
            number,
            offset,
            bytes,
        });
        // Who is in it matters only for chunks that can be given up for another.
        let members = [ContentId::ZERO; CHUNK_PAGES];
        let shape = Shape { pages, sum };
        self.chunks.insert(
            id,
            Chunk {
                shape,
                members,
                live: 0,
                memory: None,
                file,
            },
        );
        id
    }
}
