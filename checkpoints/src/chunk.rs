//! Chunks: several pages compressed together.

use crate::{PAGE_BYTES, Page};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::{Compressor, Decompressor};

/// Pages compressed together, at most.
///
/// Measured with `examples/measure.rs` on a Debian boot: alone a page takes 54.8 % of its size, in fours 52.5 %, in
/// sixteens 52.9 %; what counts is telling a page by its difference to an earlier version of it: 10 % instead of 43
/// %, with any size of chunk. So chunks are as small as they can be without the tables growing too much: the pages
/// that a restored checkpoint needs come from many checkpoints, and every other page of a chunk is read in vain.
pub const CHUNK_PAGES: usize = 4;

/// A compressed chunk in memory, with what is needed to check it when it comes back from a file.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub bytes: Arc<[u8]>,
    pub shape: Shape,
}

/// What a chunk must look like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Pages in it.
    pub pages: u8,
    /// XXH3 of the compressed bytes.
    pub sum: u64,
}

/// Compressors at one level, one for each thread that is compressing.
pub(crate) struct Press {
    level: i32,
    idle: Mutex<Vec<(Compressor<'static>, Vec<u8>)>>,
}

impl Press {
    pub fn new(level: i32) -> Press {
        let allowed = zstd::compression_level_range();
        Press {
            level: level.clamp(*allowed.start(), *allowed.end()),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Compresses pages. An error can only mean that there is no memory for it.
    pub fn pack<'a>(&self, pages: impl Iterator<Item = &'a Page>) -> io::Result<Packed> {
        let idle = self.idle.lock().pop();
        let (mut compressor, mut raw) = match idle {
            Some(idle) => idle,
            None => (
                Compressor::new(self.level)?,
                Vec::with_capacity(CHUNK_PAGES * PAGE_BYTES),
            ),
        };
        raw.clear();
        pages.for_each(|page| raw.extend_from_slice(page));
        let pages = u8::try_from(raw.len() / PAGE_BYTES).map_err(io::Error::other)?;
        let bytes: Arc<[u8]> = compressor.compress(&raw)?.into();
        self.idle.lock().push((compressor, raw));
        let shape = Shape {
            pages,
            sum: xxh3_64(&bytes),
        };
        Ok(Packed { bytes, shape })
    }
}

/// Decompresses a chunk. None if it is not what was once written.
pub(crate) fn unpack(bytes: &[u8], shape: Shape) -> Option<Arc<[u8]>> {
    thread_local! {
        // A context is some 150 KB: made once a thread, not once a chunk.
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let expected = usize::from(shape.pages) * PAGE_BYTES;
    let decompressed = DECOMPRESSOR.with_borrow_mut(|decompressor| {
        let decompressor = match decompressor {
            Some(decompressor) => decompressor,
            None => decompressor.insert(Decompressor::new().ok()?),
        };
        decompressor.decompress(bytes, expected).ok()
    })?;
    (decompressed.len() == expected).then(|| decompressed.into())
}

/// Decompresses a chunk that comes from a file: it is compared with its checksum first.
pub(crate) fn unpack_checked(bytes: &[u8], shape: Shape) -> Option<Arc<[u8]>> {
    (xxh3_64(bytes) == shape.sum).then(|| unpack(bytes, shape))?
}

/// The page at `index` of a decompressed chunk.
pub(crate) fn page_in(chunk: &[u8], index: u8) -> Option<&Page> {
    chunk.as_chunks::<PAGE_BYTES>().0.get(usize::from(index))
}

/// `page` := its difference to `other`; done again, it is what it was.
pub(crate) fn differ(page: &mut Page, other: &Page) {
    page.iter_mut()
        .zip(other)
        .for_each(|(byte, other)| *byte ^= other);
}

/// Whether a difference is small enough to be worth telling a page by: half of it at most.
pub(crate) fn is_small(difference: &Page) -> bool {
    // Counted in bytes, in pieces too short to overflow one: the compiler makes vector code of that.
    let pieces = difference.chunks(128).map(|piece| {
        usize::from(
            piece
                .iter()
                .map(|&byte| u8::from(byte != 0))
                .fold(0, u8::wrapping_add),
        )
    });
    pieces.sum::<usize>() <= PAGE_BYTES / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_small_up_to_half_a_page() {
        let mut page = [0; PAGE_BYTES];
        assert!(is_small(&page));
        page[..PAGE_BYTES / 2].fill(0xFF);
        assert!(is_small(&page));
        page[PAGE_BYTES - 1] = 1;
        assert!(!is_small(&page));
        assert!(!is_small(&[1; PAGE_BYTES]));
    }

    #[test]
    fn what_is_no_chunk_is_not_unpacked() {
        let pages = [[1; PAGE_BYTES], [2; PAGE_BYTES]];
        let packed = Press::new(1).pack(pages.iter()).unwrap();
        let unpacked = unpack_checked(&packed.bytes, packed.shape).unwrap();
        assert_eq!(page_in(&unpacked, 1), Some(&pages[1]));
        assert_eq!(page_in(&unpacked, 2), None);
        for pages in [1, 3] {
            assert!(
                unpack(
                    &packed.bytes,
                    Shape {
                        pages,
                        ..packed.shape
                    }
                )
                .is_none()
            );
        }
        assert!(unpack_checked(&packed.bytes[1..], packed.shape).is_none());
        assert!(unpack(b"", packed.shape).is_none());
    }
}
