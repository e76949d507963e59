//! Where things lie, at the same linear addresses on the host and in the engine's guest.
//!
//! All below 2 GiB, so that 32-bit displacements and 32-bit address sizes reach it, and where the host has nothing
//! else: stray accesses fault on both sides alike.

/// Two pages for the code under test; what follows is not mapped.
pub const CODE: u64 = 0x1000_0000;
pub const CODE_BYTES: usize = 0x2000;
/// A page with the two pointers that the code under test leaves through. What they hold differs between the sides.
pub const EXIT_POINTERS: u64 = 0x1000_8000;
/// Where those of 32 and 16 bits lead: 64-bit code, 16 bytes apart. In the engine, endless loops, and all lead there.
pub const EXITS: u64 = 0x1000_9000;
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

/// Far pointers to `EXITS`, for code outside 64-bit mode.
pub const FAR_POINTERS: u64 = EXIT_POINTERS + 0x40;

/// The last instruction of a case: `jmp [EXIT_POINTERS + 8 * exit]`, or through a far pointer read by CS.
pub fn leave(bits: u32, exit: u64) -> Vec<u8> {
    let near = ((EXIT_POINTERS + 8 * exit) as u32).to_le_bytes();
    let far = FAR_POINTERS + 8 * exit;
    match bits {
        16 => [
            [0x2e, 0x66, 0xff, 0x2e].as_slice(),
            &((far - CODE) as u16).to_le_bytes(),
        ]
        .concat(),
        32 => [[0x2e, 0xff, 0x2d].as_slice(), &(far as u32).to_le_bytes()].concat(),
        _ => [[0xff, 0x24, 0x25].as_slice(), &near].concat(),
    }
}
