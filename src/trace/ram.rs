//! RAM frames: pages of the starting RAM that are not zero, each content once.
//!
//! ```text
//! contents   4096 bytes each
//! numbers    for each content: varint count, then as many page numbers, each as zigzag varint of its
//!            difference to the one before (to 0 for the first of all)
//! ```

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::columns::{Column, put_varint, unzigzag, zigzag};
use super::{PAGE_BYTES, limits};

/// A RAM frame's payload, as MessagePack array.
#[derive(Serialize, Deserialize)]
struct Pages<'a> {
    #[serde(with = "serde_bytes")]
    contents: &'a [u8],
    #[serde(with = "serde_bytes")]
    numbers: &'a [u8],
}

/// Which pages have the same content, found before any is written so that each content is written once.
#[derive(Default)]
pub(super) struct Groups {
    groups: Vec<Vec<u64>>,
    by_hash: FxHashMap<u128, usize>,
}

impl Groups {
    /// Adds a page, which is forgotten when it is all zero.
    pub fn add(&mut self, number: u64, content: &[u8; PAGE_BYTES]) {
        if content.iter().all(|&byte| byte == 0) {
            return;
        }
        let index = *self.by_hash.entry(xxh3_128(content)).or_insert_with(|| {
            self.groups.push(Vec::new());
            self.groups.len() - 1
        });
        self.groups[index].push(number);
    }

    /// The page numbers of each content. A content with more pages than a frame may name is there several times.
    pub fn into_groups(self) -> impl Iterator<Item = Vec<u64>> {
        self.groups.into_iter().flat_map(|group| {
            group
                .chunks(limits::RAM_FRAME_NUMBERS_MAX)
                .map(<[u64]>::to_vec)
                .collect::<Vec<_>>()
        })
    }
}

/// Collects pages until a frame is made of them.
#[derive(Default)]
pub(super) struct Encoder {
    contents: Vec<u8>,
    numbers: Vec<u8>,
    last: u64,
    named: usize,
}

impl Encoder {
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }

    /// Number of pages that were named.
    pub fn pages(&self) -> usize {
        self.named
    }

    /// Whether a content with `count` page numbers still fits.
    pub fn fits(&self, count: usize) -> bool {
        self.contents.len() < limits::RAM_FRAME_PAGES * PAGE_BYTES
            && self.named + count <= limits::RAM_FRAME_NUMBERS_MAX
    }

    pub fn push(&mut self, numbers: &[u64], content: &[u8; PAGE_BYTES]) {
        self.contents.extend_from_slice(content);
        self.named += numbers.len();
        put_varint(&mut self.numbers, numbers.len() as u64);
        for &number in numbers {
            put_varint(&mut self.numbers, zigzag(number, self.last));
            self.last = number;
        }
    }

    /// The payload of the frame, uncompressed. The encoder is empty afterwards.
    pub fn take(&mut self) -> Vec<u8> {
        let pages = Pages {
            contents: &self.contents,
            numbers: &self.numbers,
        };
        let payload = rmp_serde::to_vec(&pages).expect("byte strings in memory are always encoded");
        self.contents.clear();
        self.numbers.clear();
        self.last = 0;
        self.named = 0;
        payload
    }
}

/// Gives every page of a frame to `put`, which says whether there is RAM. The error says in words what is wrong.
pub(super) fn decode(
    payload: &[u8],
    put: &mut dyn FnMut(u64, &[u8; PAGE_BYTES]) -> bool,
) -> Result<(), String> {
    let pages: Pages<'_> = rmp_serde::from_slice(payload)
        .map_err(|error| format!("the frame's pages make no sense ({error})"))?;
    let (contents, rest) = pages.contents.as_chunks::<PAGE_BYTES>();
    if !rest.is_empty() {
        return Err(format!(
            "{} bytes are no whole number of pages",
            pages.contents.len()
        ));
    }
    let mut numbers = Column::new("page numbers", pages.numbers);
    let mut last = 0;
    for content in contents {
        for _ in 0..numbers.varint()? {
            last = unzigzag(numbers.varint()?, last);
            if !put(last, content) {
                return Err(format!("page {last:#x} is outside the machine's RAM"));
            }
        }
    }
    numbers.finish()
}
