//! Operands that make trouble, and a generator of more of them.

use crate::cpu::state::F80;
use crate::cpu::testing::Numbers;

/// Exponent and significand of the edges, without sign.
pub const EDGES: &[(u16, u64)] = &[
    (0, 0),
    (0, 1),
    (0, 0x7fff_ffff_ffff_ffff),
    (0, 0x0000_0100_0000_0000),
    (0, 0x8000_0000_0000_0000), // pseudo-denormal
    (0, 0xffff_ffff_ffff_ffff),
    (1, 0x8000_0000_0000_0000),
    (1, 0x8000_0000_0000_0001),
    (1, 0xffff_ffff_ffff_ffff),
    (0x3ffe, 0x8000_0000_0000_0000),
    (0x3ffe, 0xffff_ffff_ffff_ffff),
    (0x3fff, 0x8000_0000_0000_0000),
    (0x3fff, 0x8000_0000_0000_0001),
    (0x3fff, 0xc000_0000_0000_0000),
    (0x4000, 0x8000_0000_0000_0000),
    (0x4000, 0xc90f_daa2_2168_c235),
    (0x400d, 0xffff_0000_0000_0000), // 32767.5
    (0x400e, 0x8000_0000_0000_0000), // 2^15
    (0x401d, 0xffff_ffff_0000_0000), // 2^31 - 0.5
    (0x401e, 0x8000_0000_0000_0000),
    (0x403d, 0xffff_ffff_ffff_ffff), // 2^63 - 0.5
    (0x403e, 0x8000_0000_0000_0000),
    (0x403a, 0xde0b_6b3a_763f_fff8), // 10^18 - 0.5
    (0x403a, 0xde0b_6b3a_763f_fff0), // 10^18 - 1
    (0x403f, 0x8000_0000_0000_0000),
    (0x3f81, 0xffff_ff80_0000_0000), // just below the smallest normal binary32
    (0x3f6a, 0x8000_0000_0000_0000), // smallest denormal binary32
    (0x407e, 0xffff_ff80_0000_0000), // rounds to infinity in binary32
    (0x43fe, 0xffff_ffff_ffff_fc00),
    (0x3c01, 0xffff_ffff_ffff_fc00),
    (0x3bcd, 0x8000_0000_0000_0000),
    (0x7ffe, 0x8000_0000_0000_0000),
    (0x7ffe, 0xffff_ffff_ffff_ffff),
    (0x7fff, 0x8000_0000_0000_0000), // infinity
    (0x7fff, 0xc000_0000_0000_0000), // indefinite
    (0x7fff, 0xc000_0000_0000_0001),
    (0x7fff, 0xffff_ffff_ffff_ffff),
    (0x7fff, 0x8000_0000_0000_0001), // signalling
    (0x7fff, 0xbfff_ffff_ffff_ffff),
    (0x7fff, 0x0000_0000_0000_0000), // pseudo-infinity
    (0x7fff, 0x4000_0000_0000_0001), // pseudo-NaN
    (0x3fff, 0x4000_0000_0000_0000), // unnormal
    (0x0001, 0x0000_0000_0000_0000),
];

/// An operand: an edge, or a number of a random kind.
pub fn operand(random: &mut Numbers) -> F80 {
    let sign = (random.next() as u16) << 15;
    let (exponent, mantissa) = match random.below(16) {
        0..=4 => EDGES[random.below(EDGES.len() as u64) as usize],
        // Close to each other, so that sums cancel.
        5..=7 => (0x3fff - 4 + random.below(9) as u16, mantissa(random)),
        8 => (0x3fff + random.below(70) as u16, mantissa(random)),
        9 => (0x3fff - random.below(140) as u16, mantissa(random)),
        10 => (1 + random.below(140) as u16, mantissa(random)),
        11 => (0x7ffe - random.below(140) as u16, mantissa(random)),
        12 => (0x4000 + random.below(0x1001) as u16, mantissa(random)),
        13 => (0x3fff - random.below(0x1001) as u16, mantissa(random)),
        14 => (0, mantissa(random) >> random.below(64)),
        _ => (1 + random.below(0x7ffe) as u16, mantissa(random)),
    };
    F80::new(sign | exponent, mantissa)
}

/// A normalised significand, often with few bits set or clear, or just beside a tie of some precision.
fn mantissa(random: &mut Numbers) -> u64 {
    let top = 1u64 << 63;
    let n = random.next();
    match random.below(8) {
        0 => top,
        1 => top | 1 << random.below(63),
        2 => u64::MAX << random.below(64),
        3 => top | n & (u64::MAX << random.below(63)),
        4 => top | n & 0xffff_ff00_0000_0000 | 0x0000_0080_0000_0000,
        5 => top | n & 0xffff_ffff_ffff_f800 | 0x400 | random.below(3),
        6 => u64::MAX - random.below(4),
        _ => top | n,
    }
}
