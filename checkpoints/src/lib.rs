//! Checkpoints of a whole machine: the page store.
//!
//! A checkpoint is an opaque state (processors, devices, position in the log: the caller's business) and the
//! content of every page of RAM at one tick. Only pages that changed are handed in; every page's versions are
//! kept in a table sorted by tick, so that any page of any checkpoint is one binary search away and no chain of
//! differences is ever walked.
//!
//! Life of a page's content: handed in -> hashed, and kept once however often it occurs -> raw in memory ->
//! compressed in the background in chunks of [`CHUNK_PAGES`] -> written to a file (the cache of the recording,
//! or a scratch file) -> its copy in memory dropped when memory is short. Where there is no file, checkpoints
//! are thinned by [`policy`] instead.
//!
//! The crate knows nothing of the machine, the processor or the recording. What it does not do: decide when to
//! take a checkpoint, or find out which pages changed.
#![forbid(unsafe_code)]

pub mod policy;

mod cache;
mod chunk;
mod contents;
mod decoded;
mod error;
mod index;
mod persist;
mod scratch;
mod store;
mod worker;

pub use cache::{CacheConfig, Found, Opened};
pub use chunk::CHUNK_PAGES;
pub use error::Error;
pub use store::{Config, Pin, Stats, Store};

/// A position in the run of the machine: the number of ticks that happened before it.
pub type Tick = u64;

/// Size of a page of RAM in bytes.
pub const PAGE_BYTES: usize = 4096;

/// The content of a page of RAM.
pub type Page = [u8; PAGE_BYTES];

/// Which content a page has: two versions are equal if and only if the 4096 bytes are.
///
/// It is the 128-bit XXH3 hash of the content (zero for a page of zeros), and so means the same in every store and
/// after any removal: it can be kept beside RAM for as long as one likes. XXH3 is not a cryptographic hash: a guest
/// that sets out to make two pages collide can, and then spoils its own checkpoints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageVersion(pub(crate) u128);

impl PageVersion {
    /// The version of a page of zeros.
    pub const ZERO: PageVersion = PageVersion(0);

    /// The version of a page with this content.
    pub fn of(page: &Page) -> PageVersion {
        if is_zero(page) {
            return PageVersion::ZERO;
        }
        // Zero is taken; the one content that hashes to it shares the version 1 with the one that hashes to 1.
        PageVersion(xxhash_rust::xxh3::xxh3_128(page).max(1))
    }
}

/// Whether all bytes are zero. Looks at a piece at a time: most pages differ from zero early.
fn is_zero(page: &Page) -> bool {
    page.chunks_exact(256)
        .all(|piece| piece.iter().fold(0, |all, byte| all | byte) == 0)
}
