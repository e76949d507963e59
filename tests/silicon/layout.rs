//! Where things lie, at the same linear addresses on the host and in the engine's guest.
//!
//! All below 2 GiB, so that 32-bit displacements and 32-bit address sizes reach it, and where the host has nothing
//! else: stray accesses fault on both sides alike.

/// Two pages for the code under test; what follows is not mapped.
pub const CODE: u64 = 0x1000_0000;
pub const CODE_BYTES: usize = 0x2000;
/// A page with the two pointers that the code under test leaves through. What they hold differs between the sides.
pub const EXIT_POINTERS: u64 = 0x1000_8000;
/// In the engine: where those pointers lead, to endless loops.
pub const ENGINE_EXITS: u64 = 0x1000_9000;
/// On the host: registers to load, registers found, and the host's own that wait meanwhile.
pub const CONTEXT: u64 = 0x1004_0000;
/// The data window.
pub const DATA: u64 = 0x2000_0000;

pub const PAGE: usize = 4096;

/// Pages of the window that can be written, by number from `DATA`. Page 3 is read-only, 4 absent, 6 absent.
pub const WRITABLE: [u64; 4] = [0, 1, 2, 5];
pub const READ_ONLY: u64 = 3;

/// Linear addresses of the window's present pages, writable ones first.
pub fn present() -> impl Iterator<Item = (u64, bool)> {
    WRITABLE
        .iter()
        .map(|n| (DATA + n * PAGE as u64, true))
        .chain(std::iter::once((DATA + READ_ONLY * PAGE as u64, false)))
}

/// Number of present pages in the window.
pub const PRESENT: usize = WRITABLE.len() + 1;

/// Bytes of `jmp [EXIT_POINTERS + 8 * exit]`.
pub fn leave(exit: u64) -> [u8; 7] {
    let [a, b, c, d] = ((EXIT_POINTERS + 8 * exit) as u32).to_le_bytes();
    [0xff, 0x24, 0x25, a, b, c, d]
}
