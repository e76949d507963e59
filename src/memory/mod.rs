//! Guest-physical memory: the RAM and what is known of each of its pages.
//!
//! RAM lies below [`PCI_HOLE`] and, what does not fit there, from 4 GiB on. Everything else is outside the line
//! (MMIO). Beside each page stands an attribute byte. A page with any attribute but [`DIRTY`] is never written
//! on the fast path, so that code that touches only ordinary pages pays nothing for what the attributes serve.

use thiserror::Error;
use vm_memory::{Address, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

/// Bytes in a page, the unit of attributes, dirty tracking and checkpoints.
pub const PAGE_BYTES: usize = 4096;
/// End of low RAM: from here to 4 GiB there is room for PCI and the interrupt controllers.
pub const PCI_HOLE: u64 = 0xc000_0000;
/// Start of high RAM.
pub const HIGH_RAM: u64 = 1 << 32;

/// The page was written since the last `take_dirty`.
pub const DIRTY: u8 = 1;
/// Decoded code comes from the page: a write may have to drop blocks.
pub const CODE: u8 = 2;
/// A live TLB entry depends on a page-table entry in the page: a write may have to drop TLB entries.
pub const PAGE_TABLE: u8 = 4;

/// Why there is no RAM.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The size is no multiple of a page, or nothing, or more than the address space holds.
    #[error("a machine cannot have {0} bytes of memory: give a multiple of 4 KiB from 1M to 512G")]
    BadSize(u64),
    /// The host has not that much.
    #[error("the host has no {0} bytes of address space for the guest's memory: {1}")]
    NoSpace(u64, String),
}

/// The RAM of a machine.
pub struct Memory {
    map: GuestMemoryMmap,
    low: *mut u8,
    low_bytes: u64,
    high: *mut u8,
    high_bytes: u64,
    /// Attributes of each page, low RAM first.
    attributes: Box<[u8]>,
    /// Pages that got `DIRTY`, in the order of their first write.
    dirty: Vec<u32>,
}

// SAFETY: the raw pointers point into `map`, which the struct owns; access needs `&mut self` or copies bytes out.
unsafe impl Send for Memory {}

/// The number of a page of RAM, counted without the hole: an index of attributes and of checkpoints.
pub type PageIndex = usize;

impl Memory {
    /// RAM of `bytes` bytes, all zero.
    pub fn new(bytes: u64) -> Result<Memory, MemoryError> {
        if !bytes.is_multiple_of(PAGE_BYTES as u64) || !(1 << 20..=1 << 39).contains(&bytes) {
            return Err(MemoryError::BadSize(bytes));
        }
        let low_bytes = bytes.min(PCI_HOLE);
        let high_bytes = bytes - low_bytes;
        let mut ranges = vec![(GuestAddress(0), low_bytes as usize)];
        if high_bytes > 0 {
            ranges.push((GuestAddress(HIGH_RAM), high_bytes as usize));
        }
        let map = GuestMemoryMmap::<()>::from_ranges(&ranges)
            .map_err(|why| MemoryError::NoSpace(bytes, why.to_string()))?;
        let mut low = std::ptr::null_mut();
        let mut high = std::ptr::null_mut();
        for region in map.iter() {
            let host = region.as_ptr();
            if region.start_addr().raw_value() == 0 {
                low = host;
            } else {
                high = host;
            }
        }
        let pages = (bytes / PAGE_BYTES as u64) as usize;
        Ok(Memory {
            map,
            low,
            low_bytes,
            high,
            high_bytes,
            attributes: vec![0; pages].into_boxed_slice(),
            dirty: Vec::new(),
        })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.low_bytes + self.high_bytes
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.attributes.len()
    }

    /// The page that holds a guest-physical address, if it is RAM.
    #[inline]
    pub fn page_index(&self, gpa: u64) -> Option<PageIndex> {
        if gpa < self.low_bytes {
            Some((gpa >> 12) as usize)
        } else if gpa >= HIGH_RAM && gpa - HIGH_RAM < self.high_bytes {
            Some(((self.low_bytes + (gpa - HIGH_RAM)) >> 12) as usize)
        } else {
            None
        }
    }

    /// Guest-physical address of a page.
    pub fn page_address(&self, page: PageIndex) -> u64 {
        let offset = (page * PAGE_BYTES) as u64;
        if offset < self.low_bytes {
            offset
        } else {
            offset - self.low_bytes + HIGH_RAM
        }
    }

    /// Host address of the first byte of a page.
    #[inline]
    pub fn page_host(&self, page: PageIndex) -> *mut u8 {
        let offset = page * PAGE_BYTES;
        assert!(page < self.attributes.len());
        // SAFETY: the page lies within its mapping, by the assertion and by construction of `attributes`.
        unsafe {
            if (offset as u64) < self.low_bytes {
                self.low.add(offset)
            } else {
                self.high.add(offset - self.low_bytes as usize)
            }
        }
    }

    /// The bytes of a page.
    pub fn page(&self, page: PageIndex) -> &[u8; PAGE_BYTES] {
        // SAFETY: `page_host` gives 4,096 mapped bytes; nobody writes while `&self` is held.
        unsafe { &*self.page_host(page).cast() }
    }

    /// Attributes of a page.
    #[inline]
    pub fn attributes(&self, page: PageIndex) -> u8 {
        self.attributes[page]
    }

    /// Adds attributes other than `DIRTY` to a page.
    pub fn set_attributes(&mut self, page: PageIndex, bits: u8) {
        debug_assert!(bits & DIRTY == 0);
        self.attributes[page] |= bits;
    }

    /// Removes attributes other than `DIRTY` from a page.
    pub fn clear_attributes(&mut self, page: PageIndex, bits: u8) {
        debug_assert!(bits & DIRTY == 0);
        self.attributes[page] &= !bits;
    }

    /// Notes that a page is about to be written.
    #[inline]
    pub fn mark_dirty(&mut self, page: PageIndex) {
        if self.attributes[page] & DIRTY == 0 {
            self.attributes[page] |= DIRTY;
            self.dirty.push(page as u32);
        }
    }

    /// The pages written since the last call, in the order of their first write. They are clean afterwards:
    /// whoever caches the right to write quickly must drop it (`Cpu::forget_translations`).
    pub fn take_dirty(&mut self) -> Vec<u32> {
        for &page in &self.dirty {
            self.attributes[page as usize] &= !DIRTY;
        }
        std::mem::take(&mut self.dirty)
    }

    /// The pages written since the last `take_dirty`.
    pub fn dirty(&self) -> &[u32] {
        &self.dirty
    }

    /// Copies out of RAM. Stops at the first byte that is no RAM and returns how many were copied.
    pub fn read(&self, mut gpa: u64, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let Some(page) = self.page_index(gpa) else {
                break;
            };
            let offset = (gpa & 0xfff) as usize;
            let n = (PAGE_BYTES - offset).min(out.len() - done);
            out[done..done + n].copy_from_slice(&self.page(page)[offset..offset + n]);
            done += n;
            gpa = gpa.wrapping_add(n as u64);
        }
        done
    }

    /// Copies into RAM and marks the pages dirty. Stops at the first byte that is no RAM and returns how many
    /// were copied. For what happens outside of instructions (loading, restoring): decoded code and cached
    /// translations are the caller's business.
    pub fn write(&mut self, mut gpa: u64, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some(page) = self.page_index(gpa) else {
                break;
            };
            let offset = (gpa & 0xfff) as usize;
            let n = (PAGE_BYTES - offset).min(bytes.len() - done);
            self.mark_dirty(page);
            // SAFETY: offset + n <= 4,096 bytes of a mapped page, and `&mut self` excludes other access.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    bytes[done..].as_ptr(),
                    self.page_host(page).add(offset),
                    n,
                );
            }
            done += n;
            gpa = gpa.wrapping_add(n as u64);
        }
        done
    }

    /// A little-endian number from RAM; 0 where there is none (page walks read absent memory as not present).
    #[inline]
    pub fn read_u64(&self, gpa: u64) -> u64 {
        match self.page_index(gpa) {
            // SAFETY: the callers' addresses are multiples of 8, so that the number does not cross the page.
            Some(page) if gpa & 7 == 0 => unsafe {
                self.page_host(page)
                    .add((gpa & 0xfff) as usize)
                    .cast::<u64>()
                    .read()
            },
            _ => 0,
        }
    }

    /// The mapping itself, for library code that works on `vm-memory`.
    pub fn map(&self) -> &impl GuestMemory {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_ram_follows_low_ram_in_page_numbers() {
        let memory = Memory::new(PCI_HOLE + (1 << 20)).unwrap();
        let low_pages = (PCI_HOLE >> 12) as usize;
        assert_eq!(memory.page_index(PCI_HOLE - 1), Some(low_pages - 1));
        assert_eq!(memory.page_index(PCI_HOLE), None);
        assert_eq!(memory.page_index(HIGH_RAM), Some(low_pages));
        assert_eq!(memory.page_address(low_pages), HIGH_RAM);
        assert_eq!(memory.page_index(HIGH_RAM + (1 << 20)), None);
    }

    #[test]
    fn writes_mark_pages_dirty_once_and_stop_at_the_end() {
        let mut memory = Memory::new(1 << 20).unwrap();
        assert_eq!(memory.write(0xfff, &[1, 2, 3]), 3);
        assert_eq!(memory.write(0x1000, &[9]), 1);
        assert_eq!(memory.take_dirty(), vec![0, 1]);
        assert!(memory.dirty().is_empty());
        assert_eq!(memory.write((1 << 20) - 1, &[1, 2]), 1);
        let mut out = [0; 4];
        assert_eq!(memory.read(0xfff, &mut out), 4);
        assert_eq!(out, [1, 9, 3, 0]);
    }

    #[test]
    fn absurd_sizes_are_refused() {
        for bytes in [0, 4095, 1 << 19, (1 << 20) + 1, 1 << 40] {
            assert!(matches!(Memory::new(bytes), Err(MemoryError::BadSize(_))));
        }
    }
}
