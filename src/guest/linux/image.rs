//! The kernel's own mapping (Documentation/arch/x86/x86_64/mm.rst: ffffffff80000000 to ffffffffc0000000), copied.

use crate::guest::paging::AddressSpace;
use crate::guest::{Guest, GuestError};

/// Where the kernel is mapped, KASLR or not; the mapping of modules is behind it.
const WINDOW: u64 = 0xffff_ffff_8000_0000;
/// No more is copied: the largest kernels (with everything built in and all sanitizers) are smaller.
const BYTES_MAX: u64 = 128 << 20;
/// The least that is taken for a kernel rather than for the few pages that page-table isolation leaves mapped.
const BYTES_MIN: u64 = 4 << 20;

/// A run of mapped memory.
pub struct Segment {
    /// Linear address of the first byte.
    pub address: u64,
    /// What is there.
    pub bytes: Vec<u8>,
}

/// The kernel's memory.
pub struct Image {
    /// By address.
    pub segments: Vec<Segment>,
}

impl Image {
    /// Copies what is mapped where kernels are, and gives the address space in which it is.
    pub fn of(guest: &dyn Guest) -> Result<(AddressSpace, Image), GuestError> {
        let current = AddressSpace::of(&guest.registers(guest.current_cpu()))?;
        for space in [current.kernel_half(), current] {
            let runs = space.mapped_gigabyte(guest, WINDOW);
            if runs.iter().map(|run| run.length).sum::<u64>() < BYTES_MIN {
                continue;
            }
            let mut room = BYTES_MAX;
            let mut segments = Vec::new();
            for run in runs {
                let length = run.length.min(room);
                room -= length;
                let mut bytes = vec![0; length as usize];
                let read = space.read(guest, run.address, &mut bytes);
                bytes.truncate(read);
                segments.push(Segment {
                    address: run.address,
                    bytes,
                });
                if room == 0 {
                    break;
                }
            }
            return Ok((space, Image { segments }));
        }
        Err(GuestError::NoKernel)
    }

    /// Memory from an address on, as far as it is mapped without a gap.
    pub fn at(&self, address: u64) -> Option<&[u8]> {
        let n = self.segments.partition_point(|s| s.address <= address);
        let segment = &self.segments[n.checked_sub(1)?];
        segment.bytes.get((address - segment.address) as usize..)
    }

    /// Linear address behind the last byte.
    pub fn end(&self) -> u64 {
        self.segments
            .last()
            .map_or(WINDOW, |s| s.address + s.bytes.len() as u64)
    }
}
