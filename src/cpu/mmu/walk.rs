//! The page-table walk (SDM volume 3, chapter 4): 32-bit, PAE and 4-level paging with all permission bits.
//!
//! Not modelled: 5-level paging, protection keys, shadow stacks (CPUID says so).

use crate::cpu::state::{State, cr0, cr4, efer};
use crate::memory::Memory;

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Load data.
    Read,
    /// Store data.
    Write,
    /// Fetch an instruction.
    Fetch,
}

/// Bits of a paging-structure entry.
pub mod pte {
    #![allow(missing_docs)]
    pub const P: u64 = 1 << 0;
    pub const RW: u64 = 1 << 1;
    pub const US: u64 = 1 << 2;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const NX: u64 = 1 << 63;
}

/// Bits of a page-fault error code.
pub mod error {
    #![allow(missing_docs)]
    pub const P: u32 = 1;
    pub const W: u32 = 2;
    pub const U: u32 = 4;
    pub const RSVD: u32 = 8;
    pub const I: u32 = 16;
}

/// Width of a physical address, as CPUID leaf 8000_0008h tells the guest.
pub const PHYSICAL_BITS: u32 = 40;
const ADDRESS_MASK: u64 = (1 << PHYSICAL_BITS) - 0x1000;

/// One entry that a walk went through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Step {
    /// Guest-physical address of the entry.
    pub at: u64,
    /// Its value, as read.
    pub value: u64,
    /// log2 of the bytes that it maps.
    pub shift: u32,
}

/// A finished walk.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    /// Guest-physical address.
    pub physical: u64,
    /// Entries from the root down.
    pub steps: [Step; 4],
    /// How many of them.
    pub depth: usize,
    /// Bytes of an entry: 8, or 4 with 32-bit paging.
    pub entry_bytes: u8,
    /// All levels allow stores (CR0.WP is not yet considered).
    pub writable: bool,
    /// All levels allow user access.
    pub user: bool,
    /// No level forbids fetching.
    pub executable: bool,
}

/// Why a walk ended early: the error code's bits that depend on the tables (P and RSVD).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss(pub u32);

impl Walk {
    /// A walk without paging.
    fn identity(address: u64) -> Walk {
        Walk {
            physical: address,
            steps: [Step::default(); 4],
            depth: 0,
            entry_bytes: 8,
            writable: true,
            user: true,
            executable: true,
        }
    }

    /// The entry that maps the page.
    pub fn leaf(&self) -> Option<&Step> {
        self.depth.checked_sub(1).map(|last| &self.steps[last])
    }
}

/// Translates a linear address without looking at permissions and without setting accessed or dirty bits.
pub fn walk(state: &State, memory: &Memory, address: u64) -> Result<Walk, Miss> {
    if state.cr0 & cr0::PG == 0 {
        return Ok(Walk::identity(address & 0xffff_ffff));
    }
    if state.efer & efer::LMA != 0 {
        walk_64(state, memory, address, state.cr3 & ADDRESS_MASK, 39)
    } else if state.cr4 & cr4::PAE != 0 {
        let pdpte = state.pdpte[(address >> 30 & 3) as usize];
        if pdpte & pte::P == 0 {
            return Err(Miss(0));
        }
        walk_64(
            state,
            memory,
            address & 0xffff_ffff,
            pdpte & ADDRESS_MASK,
            21,
        )
    } else {
        walk_32(state, memory, address & 0xffff_ffff)
    }
}

fn walk_64(
    state: &State,
    memory: &Memory,
    address: u64,
    root: u64,
    top_shift: u32,
) -> Result<Walk, Miss> {
    let mut walk = Walk::identity(0);
    let nxe = state.efer & efer::NXE != 0;
    let mut table = root;
    let mut shift = top_shift;
    loop {
        let at = table + (address >> shift & 511) * 8;
        let value = memory.read_u64(at);
        if value & pte::P == 0 {
            return Err(Miss(0));
        }
        walk.steps[walk.depth] = Step { at, value, shift };
        walk.depth += 1;
        let mut reserved = (1 << 52) - (1u64 << PHYSICAL_BITS);
        if !nxe {
            reserved |= pte::NX;
        }
        if top_shift == 21 {
            // PAE: bits 52 to 62 are reserved, too.
            reserved |= 0x7ff << 52;
        }
        walk.writable &= value & pte::RW != 0;
        walk.user &= value & pte::US != 0;
        walk.executable &= !nxe || value & pte::NX == 0;
        let leaf = shift == 12 || (shift <= 30 && value & pte::PS != 0);
        if leaf && shift > 12 {
            // Bit 12 is the PAT bit of a large page; the rest below the page's size must be 0.
            reserved |= (1u64 << shift) - (1 << 13);
        } else if shift == 39 {
            reserved |= pte::PS;
        }
        if value & reserved != 0 {
            return Err(Miss(error::P | error::RSVD));
        }
        if leaf {
            let low = (1u64 << shift) - 1;
            walk.physical = value & ADDRESS_MASK & !low | address & low;
            return Ok(walk);
        }
        table = value & ADDRESS_MASK;
        shift -= 9;
    }
}

fn walk_32(state: &State, memory: &Memory, address: u64) -> Result<Walk, Miss> {
    let read = |at: u64| memory.read_u64(at & !7) >> ((at & 4) * 8) & 0xffff_ffff;
    let mut walk = Walk::identity(0);
    walk.entry_bytes = 4;
    let mut table = state.cr3 & 0xffff_f000;
    for shift in [22, 12] {
        let at = table + (address >> shift & 1023) * 4;
        let value = read(at);
        if value & pte::P == 0 {
            return Err(Miss(0));
        }
        walk.steps[walk.depth] = Step { at, value, shift };
        walk.depth += 1;
        walk.writable &= value & pte::RW != 0;
        walk.user &= value & pte::US != 0;
        if shift == 22 && value & pte::PS != 0 && state.cr4 & cr4::PSE != 0 {
            // PSE-36: bits 13 to 20 are bits 32 to 39 of the address; bit 21 is reserved.
            if value & 1 << 21 != 0 {
                return Err(Miss(error::P | error::RSVD));
            }
            walk.physical = value & 0xffc0_0000 | (value >> 13 & 0xff) << 32 | address & 0x3f_ffff;
            return Ok(walk);
        }
        table = value & 0xffff_f000;
        walk.physical = table | address & 0xfff;
    }
    Ok(walk)
}

/// Whether a finished walk permits an access (SDM volume 3, 4.6.1).
pub fn permits(
    state: &State,
    walk: &Walk,
    intent: Intent,
    user: bool,
    alignment_check: bool,
) -> bool {
    if walk.depth == 0 {
        return true;
    }
    if user {
        return walk.user
            && match intent {
                Intent::Read => true,
                Intent::Write => walk.writable,
                Intent::Fetch => walk.executable,
            };
    }
    match intent {
        Intent::Fetch => walk.executable && !(walk.user && state.cr4 & cr4::SMEP != 0),
        _ if walk.user && state.cr4 & cr4::SMAP != 0 && !alignment_check => false,
        Intent::Read => true,
        Intent::Write => walk.writable || state.cr0 & cr0::WP == 0,
    }
}
