//! Long-mode page tables read from outside (SDM volume 3, 4.5): translation, and what is mapped in a range.
//!
//! Permissions and reserved bits do not matter here: a debugger wants to see what is there.

use super::{GuestError, Physical};
use crate::cpu::state::{cr0, efer};
use crate::timeline::api::Registers;

const PRESENT: u64 = 1;
const PAGE_SIZE: u64 = 1 << 7;
/// Bits 12 to 51: the address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// CR4.LA57: five levels.
const CR4_LA57: u64 = 1 << 12;
/// CR3 bit 12: with page-table isolation, Linux's page tables for user mode stand one page behind the kernel's.
const PTI_USER: u64 = 1 << 12;

/// An address space: a page-table root, and how many levels it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// Guest-physical address of the top table.
    pub root: u64,
    /// 4 or 5.
    pub levels: u32,
}

/// A run of linear addresses that are mapped, wherever their pages lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First linear address.
    pub address: u64,
    /// Length in bytes.
    pub length: u64,
}

impl AddressSpace {
    /// The one that a processor uses.
    pub fn of(registers: &Registers) -> Result<AddressSpace, GuestError> {
        if registers.cr0 & cr0::PG == 0 || registers.efer & efer::LMA == 0 {
            return Err(GuestError::NotLongMode);
        }
        Ok(AddressSpace {
            root: registers.cr3 & ADDRESS,
            levels: if registers.cr4 & CR4_LA57 != 0 { 5 } else { 4 },
        })
    }

    /// The other half of a pair of page-table isolation.
    pub fn kernel_half(self) -> AddressSpace {
        AddressSpace {
            root: self.root & !PTI_USER,
            ..self
        }
    }

    /// Guest-physical address of a linear one, and how many bytes from there on lie in the same page.
    pub fn translate(&self, guest: &dyn Physical, address: u64) -> Option<(u64, u64)> {
        // Addresses whose upper bits are not all alike are none, though the tables have no place for those bits.
        let unused = 64 - (12 + 9 * self.levels);
        if ((address << unused) as i64 >> unused) as u64 != address {
            return None;
        }
        let mut table = self.root;
        let mut shift = 12 + 9 * (self.levels - 1);
        loop {
            let entry = entry(guest, table, address >> shift & 511);
            if entry & PRESENT == 0 {
                return None;
            }
            if shift == 12 || (shift <= 30 && entry & PAGE_SIZE != 0) {
                let low = (1u64 << shift) - 1;
                return Some((
                    entry & ADDRESS & !low | address & low,
                    low + 1 - (address & low),
                ));
            }
            table = entry & ADDRESS;
            shift -= 9;
        }
    }

    /// Reads linear memory; gives the number of bytes before the first that is not mapped or no RAM.
    pub fn read(&self, guest: &dyn Physical, address: u64, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let at = address.wrapping_add(done as u64);
            let Some((physical, room)) = self.translate(guest, at) else {
                break;
            };
            let n = room.min((out.len() - done) as u64) as usize;
            let read = guest.read_physical(physical, &mut out[done..done + n]);
            done += read;
            if read < n {
                break;
            }
        }
        done
    }

    /// A little-endian number of linear memory.
    pub fn read_u64(&self, guest: &dyn Physical, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read(guest, address, &mut bytes) == 8).then(|| u64::from_le_bytes(bytes))
    }

    /// A little-endian number of linear memory.
    pub fn read_u32(&self, guest: &dyn Physical, address: u64) -> Option<u32> {
        let mut bytes = [0; 4];
        (self.read(guest, address, &mut bytes) == 4).then(|| u32::from_le_bytes(bytes))
    }

    /// What is mapped from `start`, which is a multiple of 1 GiB, for 1 GiB; runs that touch are one.
    pub fn mapped_gigabyte(&self, guest: &dyn Physical, start: u64) -> Vec<Mapped> {
        let mut table = self.root;
        let mut shift = 12 + 9 * (self.levels - 1);
        while shift > 21 {
            let entry = entry(guest, table, start >> shift & 511);
            if entry & PRESENT == 0 {
                return Vec::new();
            }
            if shift == 30 && entry & PAGE_SIZE != 0 {
                return vec![Mapped {
                    address: start,
                    length: 1 << 30,
                }];
            }
            table = entry & ADDRESS;
            shift -= 9;
        }
        let mut runs = Vec::new();
        for (n, directory) in whole_table(guest, table).into_iter().enumerate() {
            let address = start + ((n as u64) << 21);
            if directory & PRESENT == 0 {
                continue;
            }
            if directory & PAGE_SIZE != 0 {
                extend(&mut runs, address, 1 << 21);
                continue;
            }
            for (n, page) in whole_table(guest, directory & ADDRESS)
                .into_iter()
                .enumerate()
            {
                if page & PRESENT != 0 {
                    extend(&mut runs, address + ((n as u64) << 12), 1 << 12);
                }
            }
        }
        runs
    }
}

fn extend(runs: &mut Vec<Mapped>, address: u64, length: u64) {
    match runs.last_mut() {
        Some(last) if last.address + last.length == address => last.length += length,
        _ => runs.push(Mapped { address, length }),
    }
}

fn entry(guest: &dyn Physical, table: u64, index: u64) -> u64 {
    let mut bytes = [0; 8];
    // Absent memory reads as not present.
    guest.read_physical(table + index * 8, &mut bytes);
    u64::from_le_bytes(bytes)
}

fn whole_table(guest: &dyn Physical, table: u64) -> [u64; 512] {
    let mut bytes = [0; 4096];
    guest.read_physical(table, &mut bytes);
    std::array::from_fn(|n| u64::from_le_bytes(std::array::from_fn(|byte| bytes[n * 8 + byte])))
}
