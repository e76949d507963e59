//! The software TLB: which linear pages can be read, written and fetched without asking the page tables.
//!
//! It is coherent, so that it cannot be seen: every entry notes the page-table pages that it was made from, and a
//! store to one of them drops what depends on the changed entry (see [`super::tables`]). The machine behaves as if
//! every access walked the tables; checkpoints need no TLB; INVLPG has nothing to do.
//!
//! Beside every entry stands which 64-byte lines of its page were stored to: a store that goes the fast way leaves
//! nothing else behind, and a page is too coarse to tell a quiet variable from a busy one beside it.

use rustc_hash::FxHashMap;

/// Entries a set, a power of two.
const ENTRIES: usize = 1024;
/// Fetch entries, a power of two.
const FETCH_ENTRIES: usize = 256;
/// A tag that no address has.
const NO_TAG: u64 = u64::MAX;

/// Who accesses: each has a set of its own, since permissions differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    /// Supervisor, SMAP in force.
    Supervisor = 0,
    /// User.
    User = 1,
    /// Supervisor with EFLAGS.AC set (or an implicit supervisor access where SMAP is off).
    SupervisorAc = 2,
    /// User with alignment checks in force: nothing goes the fast way, and its set stays empty.
    UserChecked = 3,
}

impl Access {
    /// Whether it has the rights of a user only.
    #[inline(always)]
    pub fn is_user(self) -> bool {
        matches!(self, Access::User | Access::UserChecked)
    }
}

/// A cached translation of a linear page for data.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Entry {
    /// The linear page if loads may go the fast way.
    pub read: u64,
    /// The linear page if stores may.
    pub write: u64,
    /// Added to a linear address it gives the host address.
    pub addend: u64,
    /// The page of RAM.
    pub page: u64,
}

const EMPTY: Entry = Entry {
    read: NO_TAG,
    write: NO_TAG,
    addend: 0,
    page: u64::MAX,
};

/// A cached translation for instruction fetch.
#[derive(Clone, Copy)]
struct FetchEntry {
    /// Linear page, with bit 0 set for user mode.
    tag: u64,
    /// Guest-physical page address.
    physical: u64,
}

/// What was stored to the page of an entry.
#[derive(Clone, Copy)]
struct Stored {
    /// Bit n: bytes of the n-th 64.
    lines: u64,
    /// The linear page / 4096.
    page: u64,
}

const NOTHING_STORED: Stored = Stored { lines: 0, page: 0 };

/// The longest store that goes the fast way, but for those in bulk, in bytes: it touches two lines at most.
const STORE_MAX: usize = 64;

/// The TLB of one processor.
pub struct Tlb {
    sets: [[Entry; ENTRIES]; 4],
    stored: [[Stored; ENTRIES]; 4],
    /// What was stored through entries that are no more: linear page / 4096, lines. None: nobody wants to know.
    noted: Option<FxHashMap<u64, u64>>,
    fetch: [FetchEntry; FETCH_ENTRIES],
    /// (set, index) of the data entries in use; may name one twice.
    used: Vec<u16>,
    used_fetch: Vec<u16>,
}

impl Default for Tlb {
    fn default() -> Tlb {
        Tlb::new()
    }
}

impl Tlb {
    /// An empty one.
    pub fn new() -> Tlb {
        Tlb {
            sets: [[EMPTY; ENTRIES]; 4],
            stored: [[NOTHING_STORED; ENTRIES]; 4],
            noted: None,
            fetch: [FetchEntry {
                tag: NO_TAG,
                physical: 0,
            }; FETCH_ENTRIES],
            used: Vec::new(),
            used_fetch: Vec::new(),
        }
    }

    #[inline(always)]
    fn index(address: u64) -> usize {
        (address >> 12) as usize & (ENTRIES - 1)
    }

    /// The host address for a load, if it can go the fast way. An access that crosses into another page cannot:
    /// its last byte's page has another tag.
    #[inline(always)]
    pub fn load(&self, access: Access, address: u64, bytes: usize) -> Option<*const u8> {
        let entry = &self.sets[access as usize][Self::index(address)];
        if entry.read == address.wrapping_add(bytes as u64 - 1) & !0xfff {
            Some(address.wrapping_add(entry.addend) as *const u8)
        } else {
            None
        }
    }

    /// Likewise for a store of at most [`STORE_MAX`] bytes, which the caller is about to do.
    #[inline(always)]
    pub fn store(&mut self, access: Access, address: u64, bytes: usize) -> Option<*mut u8> {
        debug_assert!(bytes <= STORE_MAX);
        let index = Self::index(address);
        let entry = &self.sets[access as usize][index];
        let last = address.wrapping_add(bytes as u64 - 1);
        if entry.write == last & !0xfff {
            self.stored[access as usize][index].lines |=
                1 << (address >> 6 & 63) | 1 << (last >> 6 & 63);
            Some(address.wrapping_add(entry.addend) as *mut u8)
        } else {
            None
        }
    }

    /// Likewise for stores to a range that lies within one page.
    #[inline]
    pub fn store_bulk(&mut self, access: Access, address: u64, bytes: usize) -> Option<*mut u8> {
        let host = self.stores(access, address, bytes)?;
        let index = Self::index(address);
        self.stored[access as usize][index].lines |= lines(address, bytes);
        Some(host)
    }

    /// Whether stores to a range go the fast way, for who does not store now.
    #[inline]
    pub fn stores(&self, access: Access, address: u64, bytes: usize) -> Option<*mut u8> {
        let entry = &self.sets[access as usize][Self::index(address)];
        if entry.write == address.wrapping_add(bytes as u64 - 1) & !0xfff {
            Some(address.wrapping_add(entry.addend) as *mut u8)
        } else {
            None
        }
    }

    /// Whether loads of a linear page go the fast way now.
    pub fn reads(&self, access: Access, address: u64) -> bool {
        self.sets[access as usize][Self::index(address)].read == address & !0xfff
    }

    /// Notes a store of at most a page's rest that goes the slow way, where such notes are taken.
    pub fn note_store(&mut self, address: u64, bytes: usize) {
        if let Some(noted) = &mut self.noted {
            *noted.entry(address >> 12).or_default() |= lines(address, bytes);
        }
    }

    /// Begins to note stores, with an empty TLB. Gives what was noted so far: linear page / 4096, lines.
    pub fn take_stored(&mut self) -> Option<FxHashMap<u64, u64>> {
        // Into the old notes.
        self.clear();
        self.noted.replace(FxHashMap::default())
    }

    /// Notes no stores any more.
    pub fn drop_stored(&mut self) {
        self.noted = None;
    }

    fn put_away(noted: &mut Option<FxHashMap<u64, u64>>, stored: &mut Stored) {
        if stored.lines != 0
            && let Some(noted) = noted
        {
            *noted.entry(stored.page).or_default() |= stored.lines;
        }
        stored.lines = 0;
    }

    /// Remembers a translation. `host` is where the page of RAM lies.
    pub fn fill(
        &mut self,
        access: Access,
        address: u64,
        host: *mut u8,
        page: usize,
        read: bool,
        write: bool,
    ) {
        let linear = address & !0xfff;
        let index = Self::index(address);
        let entry = &mut self.sets[access as usize][index];
        if entry.page == u64::MAX {
            self.used.push((access as u16) << 10 | index as u16);
        }
        let stored = &mut self.stored[access as usize][index];
        Self::put_away(&mut self.noted, stored);
        stored.page = linear >> 12;
        *entry = Entry {
            read: if read { linear } else { NO_TAG },
            write: if write { linear } else { NO_TAG },
            addend: (host as u64).wrapping_sub(linear),
            page: page as u64,
        };
    }

    /// Guest-physical address of a linear address for fetching, if known.
    #[inline(always)]
    pub fn fetch(&self, user: bool, address: u64) -> Option<u64> {
        let entry = &self.fetch[(address >> 12) as usize & (FETCH_ENTRIES - 1)];
        if entry.tag == address & !0xfff | user as u64 {
            Some(entry.physical | address & 0xfff)
        } else {
            None
        }
    }

    /// Remembers a translation for fetching.
    pub fn fill_fetch(&mut self, user: bool, address: u64, physical: u64) {
        let index = (address >> 12) as usize & (FETCH_ENTRIES - 1);
        let entry = &mut self.fetch[index];
        if entry.tag == NO_TAG {
            self.used_fetch.push(index as u16);
        }
        *entry = FetchEntry {
            tag: address & !0xfff | user as u64,
            physical: physical & !0xfff,
        };
    }

    /// Drops one linear page.
    pub fn drop_page(&mut self, address: u64) {
        let linear = address & !0xfff;
        for set in &mut self.sets {
            let entry = &mut set[Self::index(address)];
            // The entry stays in use (its slot is in `used`), with tags that nothing matches.
            if entry.read == linear || entry.write == linear {
                entry.read = NO_TAG;
                entry.write = NO_TAG;
            }
        }
        let entry = &mut self.fetch[(address >> 12) as usize & (FETCH_ENTRIES - 1)];
        if entry.tag & !0xfff == linear {
            // Not `NO_TAG`: the slot stays in `used_fetch`.
            entry.tag = NO_TAG - 1;
        }
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        for slot in self.used.drain(..) {
            let (set, index) = ((slot >> 10) as usize, slot as usize & (ENTRIES - 1));
            self.sets[set][index] = EMPTY;
            Self::put_away(&mut self.noted, &mut self.stored[set][index]);
        }
        for slot in self.used_fetch.drain(..) {
            self.fetch[slot as usize].tag = NO_TAG;
        }
    }

    /// Takes the fast way for stores away from all entries of a page of RAM.
    pub fn forbid_writes(&mut self, page: usize) {
        for &slot in &self.used {
            let entry = &mut self.sets[(slot >> 10) as usize][slot as usize & (ENTRIES - 1)];
            if entry.page == page as u64 {
                entry.write = NO_TAG;
            }
        }
    }

    /// Takes the fast way for stores away from every entry.
    pub fn forbid_all_writes(&mut self) {
        for &slot in &self.used {
            self.sets[(slot >> 10) as usize][slot as usize & (ENTRIES - 1)].write = NO_TAG;
        }
    }
}

/// The 64-byte lines of a page that a range touches, which does not leave the page; one bit each.
pub fn lines(address: u64, bytes: usize) -> u64 {
    let first = address >> 6 & 63;
    let last = address.wrapping_add(bytes.max(1) as u64 - 1) >> 6 & 63;
    debug_assert!(first <= last);
    (u64::MAX << first) & (u64::MAX >> (63 - last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_that_the_bytes_lie_in() {
        assert_eq!(lines(0x5000, 1), 1);
        assert_eq!(lines(0x503f, 2), 3);
        assert_eq!(lines(0x5fff, 1), 1 << 63);
        assert_eq!(lines(0x5000, 4096), u64::MAX);
        assert_eq!(lines(u64::MAX, 1), 1 << 63);
    }

    #[test]
    fn stores_are_noted_by_line_and_outlive_their_entry() {
        let mut tlb = Tlb::new();
        let mut page = [0u8; 4096];
        let host = page.as_mut_ptr();
        assert!(tlb.take_stored().is_none());
        tlb.fill(Access::User, 0x7_5000, host, 3, true, true);
        assert!(tlb.store(Access::User, 0x7_503c, 8).is_some());
        assert!(tlb.store_bulk(Access::User, 0x7_5100, 256).is_some());
        assert!(tlb.stores(Access::User, 0x7_5fff, 1).is_some());
        // Another page in the same place, and no more stores to the first.
        tlb.fill(
            Access::User,
            0x7_5000 + (ENTRIES as u64) * 4096,
            host,
            3,
            true,
            true,
        );
        assert!(tlb.store(Access::User, 0x7_5000, 8).is_none());
        tlb.note_store(0x9_0ffc, 4);
        let noted = tlb.take_stored().unwrap();
        assert_eq!(noted.len(), 2);
        assert_eq!((noted[&0x75], noted[&0x90]), (0xf3, 1 << 63));
        assert!(tlb.take_stored().unwrap().is_empty());
    }
}
