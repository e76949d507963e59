//! A BIOS for the kernels that call one: puts the code of bios/main.rs, its interrupt vectors and its data into RAM.
//!
//! Phoenix/IBM layout: vectors at 0, the BIOS data area at 0x400, the code in the extended BIOS data area, which
//! every memory map reserves.

use super::memory_map::EBDA;
use super::plan::Plan;
use super::{BootError, MemoryMap};

/// The code, as build.rs assembled it.
const CODE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bios"));
/// Bytes that there are for it.
const SPACE: usize = 1024;

/// Offsets within the code: a table of entry points, then what the loader fills in.
const ENTRIES: usize = 0x02;
const BELOW_16M: usize = 0x20;
const ABOVE_16M: usize = 0x22;
const ABOVE_1M: usize = 0x24;
const RANGE_COUNT: usize = 0x26;
const RANGES: usize = 0x28;
const RANGES_MAX: usize = 8;

/// Vectors with a service of their own, in the order of the table behind "start" and "ignore".
const SERVICES: [usize; 7] = [0x10, 0x11, 0x12, 0x13, 0x15, 0x16, 0x1a];

/// Puts the BIOS and gives where it starts: segment and offset.
pub(super) fn put(plan: &mut Plan, map: &MemoryMap) -> Result<(u16, u16), BootError> {
    let mut code = CODE.to_vec();
    assert!(
        code.len() <= SPACE && map.ranges.len() <= RANGES_MAX,
        "the BIOS and its memory map fit"
    );
    let entry = |index: usize| {
        let at = ENTRIES + 2 * index;
        u16::from_le_bytes([CODE[at], CODE[at + 1]])
    };

    let mut put16 = |at: usize, value: u64| {
        let value = u16::try_from(value).unwrap_or(u16::MAX);
        code[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    const MIB: u64 = 1 << 20;
    put16(BELOW_16M, (map.low_end.min(16 * MIB) - MIB) >> 10);
    put16(ABOVE_16M, map.low_end.saturating_sub(16 * MIB) >> 16);
    put16(ABOVE_1M, (map.low_end - MIB) >> 10);
    put16(RANGE_COUNT, map.ranges.len() as u64);
    for (index, range) in map.ranges.iter().enumerate() {
        let at = RANGES + 20 * index;
        code[at..at + 8].copy_from_slice(&range.start.to_le_bytes());
        code[at + 8..at + 16].copy_from_slice(&range.len.to_le_bytes());
        code[at + 16..at + 20].copy_from_slice(&(range.kind as u32).to_le_bytes());
    }
    plan.put("the BIOS", EBDA, &code, SPACE as u64)?;

    let segment = (EBDA >> 4) as u16;
    let mut low = vec![0; 0x500];
    for vector in 0..256 {
        let service = SERVICES.iter().position(|&service| service == vector);
        let offset = entry(service.map_or(1, |index| 2 + index));
        low[4 * vector..4 * vector + 2].copy_from_slice(&offset.to_le_bytes());
        low[4 * vector + 2..4 * vector + 4].copy_from_slice(&segment.to_le_bytes());
    }
    // The BIOS data area: COM1, the extended area's segment, the equipment, the memory size. Screen columns and rows
    // stay 0, so that nobody believes in a screen.
    for (at, value) in [
        (0x400, 0x3f8),
        (0x40e, segment),
        (0x410, 0x0200),
        (0x413, (EBDA >> 10) as u16),
    ] {
        low[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    plan.put("the interrupt vectors", 0, &low, 0)?;
    Ok((segment, entry(0)))
}
