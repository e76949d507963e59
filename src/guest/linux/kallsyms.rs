//! The kernel's own symbol table (kernel/kallsyms.c, scripts/kallsyms.c), found by its structure.
//!
//! Its parts stand in rodata, each aligned to 8 bytes. Since 6.5: num_syms, names, markers, token_table,
//! token_index, offsets, relative_base, seqs_of_names; before: offsets, relative_base, num_syms, names, markers,
//! (6.2 to 6.4: seqs_of_names,) token_table, token_index. Without CONFIG_KALLSYMS_BASE_RELATIVE (and before 4.6)
//! there are addresses instead of offsets and base. What is found must fit together in all its parts, so that
//! it does not matter which version it is.
//!
//! Not found: tables of kernels with big-endian or 32-bit words, markers of 8 bytes (before 4.20).

use super::image::{Image, Segment};
use crate::guest::GuestError;
use rustc_hash::FxHashMap;
use std::cell::Cell;

const WHAT: &str = "symbol table (kallsyms)";
/// More symbols are not believed.
const SYMBOLS_MAX: usize = 2 << 20;
/// Longer names are not believed: KSYM_NAME_LEN is 512.
const NAME_MAX: usize = 1024;
/// All names together.
const NAMES_MAX: usize = 64 << 20;
/// Names between two markers.
const PER_MARKER: usize = 256;
/// A symbol of fewer tokens than this between two markers is impossible: a name has a length and a token.
const MARKER_STEP_MIN: u32 = 2 * PER_MARKER as u32;
const MARKER_STEP_MAX: u32 = (NAME_MAX * PER_MARKER) as u32;
/// Markers that must be in order before it is worth looking closer.
const MARKERS_MIN: usize = 8;
/// How far markers are looked for before the token table: room for `seqs_of_names`.
const MARKERS_BEFORE_MAX: usize = 3 * SYMBOLS_MAX;
/// Steps that the search takes at most, of a nanosecond or two: a kernel needs some ten million, but memory that was
/// made to look like a thousand tables must not hold anybody up.
const EFFORT: u64 = 1 << 28;
/// Kernel addresses of x86-64 begin here.
const KERNEL_HALF: u64 = 0xffff_8000_0000_0000;

/// A symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Run-time address; for a per-CPU variable the offset in its processor's area.
    pub address: u64,
    /// As `nm` has it: `T`, `t`, `D` ... `A` marks absolute ones and per-CPU variables.
    pub kind: u8,
    /// Its name.
    pub name: &'a str,
}

struct Entry {
    address: u64,
    name: u32,
    length: u16,
    kind: u8,
}

/// A symbol table.
pub struct Symbols {
    /// In the table's order, which is by address.
    entries: Vec<Entry>,
    names: String,
    /// The first symbol of a name.
    index: FxHashMap<u64, u32>,
}

impl Symbols {
    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All symbols by address, those with the same address in the kernel's order.
    pub fn iter(&self) -> impl Iterator<Item = Symbol<'_>> {
        self.entries.iter().map(|entry| self.symbol(entry))
    }

    /// The first symbol of this name.
    pub fn by_name(&self, name: &str) -> Option<Symbol<'_>> {
        let &n = self.index.get(&hash(name))?;
        let found = self.symbol(&self.entries[n as usize]);
        // Two names with one hash: hardly ever, so that a search is good enough.
        (found.name == name)
            .then_some(found)
            .or_else(|| self.iter().find(|symbol| symbol.name == name))
    }

    /// The last symbol at or before an address of the kernel proper.
    pub fn by_address(&self, address: u64) -> Option<Symbol<'_>> {
        let n = self.entries.partition_point(|e| e.address <= address);
        let entry = &self.entries[n.checked_sub(1)?];
        // Of several with one address, the first.
        let first = self.entries.partition_point(|e| e.address < entry.address);
        (entry.address >= KERNEL_HALF).then(|| self.symbol(&self.entries[first]))
    }

    fn symbol(&self, entry: &Entry) -> Symbol<'_> {
        let start = entry.name as usize;
        Symbol {
            address: entry.address,
            kind: entry.kind,
            name: &self.names[start..start + entry.length as usize],
        }
    }
}

fn hash(name: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.as_bytes())
}

/// Finds the symbol table in a kernel's memory.
pub fn find(image: &Image) -> Result<Symbols, GuestError> {
    let mut why = None;
    let effort = Effort(Cell::new(EFFORT));
    for segment in &image.segments {
        for tokens in Tokens::candidates(segment, &effort) {
            match Table::around(segment, &tokens, &effort) {
                Some(table) => return table.symbols(&tokens),
                None => why = Some("token tables are there, but nothing that goes with them"),
            }
        }
    }
    Err(why.map_or(GuestError::Missing(WHAT), |why| {
        GuestError::Damaged(WHAT, why)
    }))
}

/// What is left of [`EFFORT`].
struct Effort(Cell<u64>);

impl Effort {
    /// Takes steps; none are left: none.
    fn spend(&self, steps: usize) -> Option<()> {
        self.0.set(self.0.get().checked_sub(steps as u64)?);
        Some(())
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_le_bytes(bytes.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The 256 strings that names are compressed with.
struct Tokens<'a> {
    /// Offset of the table in its segment.
    at: usize,
    /// Offset of `token_index` in the segment.
    index_at: usize,
    strings: Vec<&'a str>,
}

impl<'a> Tokens<'a> {
    /// What looks like a token table with its index. A hostile guest can make many: the first few are enough.
    fn candidates(segment: &'a Segment, effort: &'a Effort) -> impl Iterator<Item = Tokens<'a>> {
        let bytes = &segment.bytes;
        (0..bytes.len().saturating_sub(511))
            .step_by(8)
            .filter_map(|at| Tokens::with_index_at(bytes, at, effort))
            .take(16)
    }

    fn with_index_at(bytes: &'a [u8], index_at: usize, effort: &Effort) -> Option<Tokens<'a>> {
        // Nearly everything is ruled out by the first two numbers.
        if u16_at(bytes, index_at)? != 0 || !(2..=64).contains(&u16_at(bytes, index_at + 2)?) {
            return None;
        }
        effort.spend(256)?;
        let mut starts = [0usize; 256];
        for n in 1..256 {
            starts[n] = u16_at(bytes, index_at + 2 * n)? as usize;
            if starts[n] < starts[n - 1] + 2 {
                return None;
            }
        }
        // The table ends with its last string, and is padded to 8 bytes.
        (2..=128).find_map(|last| {
            let length = starts[255] + last;
            effort.spend(last)?;
            let at = index_at.checked_sub(length.next_multiple_of(8))?;
            let table = &bytes[at..at + length];
            let padding = &bytes[at + length..index_at];
            if padding.iter().any(|&byte| byte != 0)
                || memchr::memchr(0, &table[starts[255]..]) != Some(last - 1)
            {
                return None;
            }
            effort.spend(length)?;
            let strings: Option<Vec<&str>> = (0..256)
                .map(|n| {
                    let end = starts.get(n + 1).copied().unwrap_or(length) - 1;
                    let string = &table[starts[n]..end];
                    let printable = table[end] == 0 && string.iter().all(u8::is_ascii_graphic);
                    printable
                        .then(|| std::str::from_utf8(string).ok())
                        .flatten()
                })
                .collect();
            Some(Tokens {
                at,
                index_at,
                strings: strings?,
            })
        })
    }
}

/// Where the parts of a symbol table are.
struct Table<'a> {
    bytes: &'a [u8],
    count: usize,
    /// Offset of the names.
    names: usize,
    addresses: Vec<u64>,
}

impl<'a> Table<'a> {
    fn around(segment: &'a Segment, tokens: &Tokens, effort: &Effort) -> Option<Table<'a>> {
        let bytes = &segment.bytes;
        let first = tokens.at.saturating_sub(MARKERS_BEFORE_MAX);
        let mut at = tokens.at & !7;
        while at >= first + 8 {
            at -= 8;
            let markers = markers(bytes, at, tokens.at);
            effort.spend(markers + 1)?;
            if markers >= MARKERS_MIN
                && let Some((names, count)) = names_before(bytes, at, markers, effort)
                && effort.spend(8 * count).is_some()
                && let Some(addresses) = addresses(bytes, names - 8, tokens.index_at + 512, count)
            {
                return Some(Table {
                    bytes,
                    count,
                    names,
                    addresses,
                });
            }
        }
        None
    }

    fn symbols(&self, tokens: &Tokens) -> Result<Symbols, GuestError> {
        let damaged = |why| GuestError::Damaged(WHAT, why);
        let mut names = String::new();
        let mut entries = Vec::with_capacity(self.count);
        let mut index = FxHashMap::default();
        let mut at = self.names;
        for n in 0..self.count {
            let (start, length) = name_at(self.bytes, at).ok_or(damaged("its names end early"))?;
            let start_of_name = names.len();
            for &token in &self.bytes[start..start + length] {
                names.push_str(tokens.strings[token as usize]);
                if names.len() - start_of_name > NAME_MAX {
                    return Err(damaged("a name is too long"));
                }
            }
            if names.len() > NAMES_MAX || names.len() < start_of_name + 2 {
                return Err(damaged("a name has an impossible length"));
            }
            // The first character is the symbol's kind.
            entries.push(Entry {
                address: self.addresses[n],
                name: start_of_name as u32 + 1,
                length: (names.len() - start_of_name - 1) as u16,
                kind: names.as_bytes()[start_of_name],
            });
            index
                .entry(hash(&names[start_of_name + 1..]))
                .or_insert(n as u32);
            at = start + length;
        }
        Ok(Symbols {
            entries,
            names,
            index,
        })
    }
}

/// How many numbers from here on look like markers: offsets of every 256th name.
fn markers(bytes: &[u8], at: usize, end: usize) -> usize {
    if u32_at(bytes, at) != Some(0) {
        return 0;
    }
    let mut count = 1;
    let mut last = 0;
    while at + 4 * count + 4 <= end && count <= SYMBOLS_MAX / PER_MARKER {
        match u32_at(bytes, at + 4 * count) {
            Some(next)
                if next > last && (MARKER_STEP_MIN..=MARKER_STEP_MAX).contains(&(next - last)) =>
            {
                last = next;
                count += 1;
            }
            _ => break,
        }
    }
    count
}

/// The tokens of the name whose length is at `at`: where they begin, and how many. Lengths from 128 on have two bytes
/// (6.1 and later).
fn name_at(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = *bytes.get(at)? as usize;
    let (start, length) = if first & 0x80 != 0 {
        (at + 2, first & 0x7f | (*bytes.get(at + 1)? as usize) << 7)
    } else {
        (at + 1, first)
    };
    (length > 0 && start + length <= bytes.len()).then_some((start, length))
}

/// Names that end where markers begin and fit them; with the number of names, which stands before them.
fn names_before(
    bytes: &[u8],
    markers_at: usize,
    markers: usize,
    effort: &Effort,
) -> Option<(usize, usize)> {
    // What follows the markers may look like one more.
    for markers in (markers.saturating_sub(2)..=markers).rev() {
        let second = u32_at(bytes, markers_at + 4)? as usize;
        let last = u32_at(bytes, markers_at + 4 * (markers - 1))? as usize;
        let latest = markers_at.checked_sub(last)? & !7;
        let earliest = latest.saturating_sub(MARKER_STEP_MAX as usize).max(16);
        for at in (earliest..=latest).rev().filter(|at| at % 8 == 0) {
            let Some(count) = u32_at(bytes, at - 8).map(|n| n as usize) else {
                continue;
            };
            effort.spend(1)?;
            let fits = count <= SYMBOLS_MAX
                && count.div_ceil(PER_MARKER) == markers
                && u32_at(bytes, at - 4) == Some(0)
                && effort.spend(2 * PER_MARKER).is_some()
                && skip_names(bytes, at, PER_MARKER) == Some(at + second);
            if fits {
                let rest = count - (markers - 1) * PER_MARKER;
                let end = skip_names(bytes, at + last, rest)?;
                if end.next_multiple_of(8) == markers_at {
                    return Some((at, count));
                }
            }
        }
    }
    None
}

fn skip_names(bytes: &[u8], mut at: usize, count: usize) -> Option<usize> {
    for _ in 0..count {
        let (start, length) = name_at(bytes, at)?;
        at = start + length;
    }
    Some(at)
}

/// The addresses of all symbols: before `num_syms`, or behind the token index.
fn addresses(bytes: &[u8], count_at: usize, behind: usize, count: usize) -> Option<Vec<u64>> {
    let offsets_length = (4 * count).next_multiple_of(8);
    let before = count_at.checked_sub(8 + offsets_length);
    let places = [before, Some(behind.next_multiple_of(8))];
    for offsets in places.into_iter().flatten() {
        let Some(base) = u64_at(bytes, offsets + offsets_length) else {
            continue;
        };
        let Some(offsets) = bytes.get(offsets..offsets + 4 * count) else {
            continue;
        };
        if base >= KERNEL_HALF
            && let Some(addresses) = relative(offsets, base)
        {
            return Some(addresses);
        }
    }
    let table = bytes.get(count_at.checked_sub(8 * count)?..count_at)?;
    let addresses: Vec<u64> = table
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
        .collect();
    in_order(&addresses).then_some(addresses)
}

/// Addresses from offsets. With CONFIG_KALLSYMS_ABSOLUTE_PERCPU (SMP kernels before 6.15) those that are not negative
/// are absolute, and the others count from `base - 1` down.
fn relative(offsets: &[u8], base: u64) -> Option<Vec<u64>> {
    let offsets = || {
        offsets
            .chunks_exact(4)
            .map(|word| i32::from_le_bytes(word.try_into().unwrap_or_default()))
    };
    let absolute_percpu = offsets().any(|offset| offset < 0);
    let addresses: Vec<u64> = offsets()
        .map(|offset| match offset {
            0.. if absolute_percpu => offset as u64,
            _ if absolute_percpu => base.wrapping_sub(1).wrapping_add(-i64::from(offset) as u64),
            _ => base.wrapping_add(u64::from(offset as u32)),
        })
        .collect();
    in_order(&addresses).then_some(addresses)
}

/// Sorted, and mostly addresses of a kernel.
fn in_order(addresses: &[u64]) -> bool {
    let kernel = addresses.iter().filter(|&&a| a >= KERNEL_HALF).count();
    addresses.is_sorted() && kernel * 2 > addresses.len()
}
