//! Writing checkpoints into the cache file.

use crate::cache::{Cache, CheckpointRecord, ChunkRecord, Writer};
use crate::contents::{Bytes, ContentId, Unfiled};
use crate::worker::{Inner, Shared};
use crate::{CHUNK_PAGES, Tick};
use parking_lot::Mutex;
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

/// Checkpoints on their way into the file.
#[derive(Default)]
pub(crate) struct Persisting {
    wanted: Mutex<VecDeque<Tick>>,
    /// Checkpoints in the file, whether they are still in the store or not. Locked by who writes one.
    in_file: Mutex<BTreeSet<Tick>>,
}

/// A checkpoint that is being written.
struct Plan {
    tick: Tick,
    since: Option<Tick>,
    state: Arc<[u8]>,
    /// Pages that differ, with a reference to what they hold.
    pages: Vec<(u64, ContentId)>,
}

impl Persisting {
    pub fn with(in_file: BTreeSet<Tick>) -> Persisting {
        Persisting {
            in_file: Mutex::new(in_file),
            ..Persisting::default()
        }
    }

    pub fn want(&self, tick: Tick) {
        self.wanted.lock().push_back(tick);
    }
}

impl Shared {
    /// Writes the checkpoint that has been waiting for longest. False if none is.
    pub fn persist_next(&self) -> bool {
        // In the order in which they were wanted, and one at a time.
        let mut in_file = self.persisting.in_file.lock();
        let Some(tick) = self.persisting.wanted.lock().pop_front() else {
            return false;
        };
        let Some(cache) = self
            .cache
            .as_ref()
            .filter(|cache| cache.takes_checkpoints())
        else {
            return true;
        };
        if in_file.contains(&tick) {
            return true;
        }
        let Some(plan) = self.plan(tick) else {
            return true;
        };
        let written = self.press_all(&plan)
            && cache
                .write(|cache, writer| self.write_checkpoint(cache, writer, &plan))
                .is_some();
        let mut inner = self.inner.write();
        if written {
            in_file.insert(tick);
            if let Some(checkpoint) = inner.index.checkpoint_mut(tick) {
                checkpoint.persisted = true;
            }
        }
        plan.pages
            .iter()
            .for_each(|&(_, content)| inner.contents.release(content));
        true
    }

    fn plan(&self, tick: Tick) -> Option<Plan> {
        let mut inner = self.inner.write();
        let Inner {
            index, contents, ..
        } = &mut *inner;
        let state = Arc::clone(&index.checkpoint(tick)?.state);
        let mut earlier = index.checkpoints().range(..tick);
        let since = earlier
            .rfind(|(_, checkpoint)| checkpoint.persisted)
            .map(|(&tick, _)| tick);
        let numbers = match since {
            Some(since) => index.changed_between(since, tick),
            None => index.pages_at(tick),
        };
        let pages: Vec<_> = numbers
            .into_iter()
            .map(|page| (page, index.content(tick, page)))
            .collect();
        pages
            .iter()
            .for_each(|&(_, content)| contents.retain(content));
        Some(Plan {
            tick,
            since,
            state,
            pages,
        })
    }

    /// Has everything in chunks that the file does not have yet. False if there is no memory for that.
    fn press_all(&self, plan: &Plan) -> bool {
        let unfiled: Vec<ContentId> = {
            let inner = self.inner.read();
            let contents = plan.pages.iter().map(|&(_, content)| content);
            contents
                .filter(|&content| !inner.contents.is_filed(content))
                .collect()
        };
        if !self.press_listed(&unfiled) {
            return false;
        }
        // Only now is it settled which bases are used.
        let bases: Vec<ContentId> = {
            let inner = self.inner.read();
            let bases = unfiled
                .iter()
                .map(|&content| inner.contents.base_of(content));
            bases
                .filter(|&base| !inner.contents.is_filed(base))
                .collect()
        };
        self.press_listed(&bases)
    }

    fn press_listed(&self, list: &[ContentId]) -> bool {
        loop {
            let mut next = 0;
            loop {
                let group = self
                    .inner
                    .write()
                    .contents
                    .take_listed(list, &mut next, CHUNK_PAGES);
                if group.is_empty() {
                    break;
                }
                if !self.press(group) {
                    return false;
                }
            }
            // What is raw now, somebody else is just compressing.
            if !list
                .iter()
                .any(|&content| self.inner.read().contents.is_raw(content))
            {
                return true;
            }
            std::thread::yield_now();
        }
    }

    fn write_checkpoint(&self, cache: &Cache, writer: &mut Writer, plan: &Plan) -> io::Result<()> {
        let mut record = CheckpointRecord {
            tick: plan.tick,
            since: plan.since,
            state: plan.state.to_vec(),
            ..CheckpointRecord::default()
        };
        // Bases before what is told by them.
        let needed: Vec<ContentId> = {
            let inner = self.inner.read();
            let contents = plan.pages.iter().map(|&(_, content)| content);
            let with_bases =
                contents.flat_map(|content| [inner.contents.base_of(content), content]);
            with_bases
                .filter(|&content| !inner.contents.is_filed(content))
                .collect()
        };
        loop {
            let unfiled = self.inner.read().contents.unfiled_chunks(&needed);
            for chunk in &unfiled {
                self.write_chunk(cache, writer, chunk, &mut record)?;
            }
            let mut inner = self.inner.write();
            // Meanwhile another thread may have put what lives in sparse chunks into a new one.
            if !inner.contents.unfiled_chunks(&needed).is_empty() {
                continue;
            }
            for &content in &needed {
                if !inner.contents.is_filed(content) {
                    let filed = inner.contents.file(content, writer.contents);
                    let filed = filed.ok_or_else(|| io::Error::other("too many pages"))?;
                    filed.write(&mut record.contents);
                    writer.contents += 1;
                }
            }
            let filed = |content| u64::from(inner.contents.filed_number(content));
            let pages: Vec<_> = plan
                .pages
                .iter()
                .map(|&(page, content)| (page, filed(content)))
                .collect();
            record.set_pages(&pages);
            break;
        }
        cache.append_checkpoint(writer, &record)
    }

    fn write_chunk(
        &self,
        cache: &Cache,
        writer: &mut Writer,
        chunk: &Unfiled,
        record: &mut CheckpointRecord,
    ) -> io::Result<()> {
        let packed: Arc<[u8]> = match &chunk.bytes {
            Bytes::Memory(bytes) => Arc::clone(bytes),
            Bytes::Scratch(extent) => extent.read()?.into(),
            Bytes::Cache { .. } => return Ok(()),
        };
        let bytes = u32::try_from(packed.len()).map_err(io::Error::other)?;
        let (pages, sum) = (chunk.shape.pages, chunk.shape.sum);
        let offset = cache.append_chunk(writer, &packed)?;
        let filed = ChunkRecord {
            offset,
            bytes,
            pages,
            sum,
        };
        self.inner
            .write()
            .contents
            .chunk_filed(chunk.id, writer.chunks, &filed);
        record.chunks.push(filed);
        writer.chunks = writer
            .chunks
            .checked_add(1)
            .ok_or_else(|| io::Error::other("too many"))?;
        Ok(())
    }
}
