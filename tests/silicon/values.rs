//! Operand values: the edges at which instructions go wrong, and random ones in between.

use crate::case::VectorState;
use crate::layout::{PAGE, PRESENT};
use fastrand::Rng;

/// A 64-bit value of which any low part is likely to be an edge of its width.
pub fn integer(rng: &mut Rng) -> u64 {
    let width = [8u32, 16, 32, 64][rng.usize(0..4)];
    let mask = u64::MAX >> (64 - width);
    let edge = match rng.u8(0..12) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => mask,
        4 => mask >> 1,
        5 => (mask >> 1) + 1,
        6 => 1u64 << rng.u32(0..64),
        7 => (1u64 << rng.u32(0..64)).wrapping_neg(),
        8 => rng.u64(0..256),
        9 => rng.u64(..) >> rng.u32(0..64),
        _ => return rng.u64(..),
    };
    if rng.u8(0..4) == 0 {
        // The edge of a narrow operand under random upper bits.
        return edge & mask | rng.u64(..) & !mask;
    }
    edge
}

/// An IEEE single: special values, neighbours of powers of two, and anything.
pub fn single(rng: &mut Rng) -> u32 {
    let sign = (rng.bool() as u32) << 31;
    sign | match rng.u8(0..14) {
        0 => 0,
        1 => 1,
        2 => 0x007f_ffff,
        3 => 0x0080_0000,
        4 => 0x7f7f_ffff,
        5 => 0x7f80_0000,
        6 => 0x7fc0_0000 | rng.u32(0..0x40_0000),
        7 => 0x7f80_0001 + rng.u32(0..0x3f_ffff),
        8 => rng.u32(0..0x80_0000),
        9 => 0x3f80_0000,
        // Integers up to the edges of conversions.
        10 => {
            let value = (rng.u64(..) >> rng.u32(0..64)) as f32;
            (value + [0.0, 0.5, 0.25][rng.usize(0..3)]).to_bits()
        }
        11 => (127 - 31 + rng.u32(0..96)) << 23 | [0, 1, 0x7f_ffff, 0x40_0000][rng.usize(0..4)],
        _ => rng.u32(0..1 << 31),
    }
}

/// An IEEE double, likewise.
pub fn double(rng: &mut Rng) -> u64 {
    let sign = (rng.bool() as u64) << 63;
    sign | match rng.u8(0..14) {
        0 => 0,
        1 => 1,
        2 => 0x000f_ffff_ffff_ffff,
        3 => 0x0010_0000_0000_0000,
        4 => 0x7fef_ffff_ffff_ffff,
        5 => 0x7ff0_0000_0000_0000,
        6 => 0x7ff8_0000_0000_0000 | rng.u64(0..1 << 51),
        7 => 0x7ff0_0000_0000_0001 + rng.u64(0..(1 << 51) - 1),
        8 => rng.u64(0..1 << 52),
        9 => 0x3ff0_0000_0000_0000,
        10 => {
            let value = (rng.u64(..) >> rng.u32(0..64)) as f64;
            (value + [0.0, 0.5, 0.25][rng.usize(0..3)]).to_bits()
        }
        11 => {
            // What does not fit a single, or just so.
            (1023 - 160 + rng.u64(0..320)) << 52
                | [0, 1, (1 << 52) - 1, 1 << 51, 1 << 28, 1 << 29][rng.usize(0..6)]
        }
        _ => rng.u64(0..1 << 63),
    }
}

/// Significand, and sign with exponent, of an x87 register.
pub fn extended(rng: &mut Rng) -> (u64, u16) {
    let sign = (rng.bool() as u16) << 15;
    let (significand, exponent) = match rng.u8(0..16) {
        0 => (0, 0),
        1 => (1 << 63, 0x7fff),
        2 => (3 << 62 | rng.u64(..) >> 2, 0x7fff),
        3 => (1 << 63 | (1 + (rng.u64(..) >> 2)), 0x7fff),
        4 => (rng.u64(..) >> 1, 0),
        // Pseudo-denormal, unnormal, pseudo-infinity, pseudo-NaN.
        5 => (rng.u64(..) | 1 << 63, 0),
        6 => (rng.u64(..) >> 1, rng.u16(0..0x8000)),
        7 => (1 << 63, 0x3fff),
        8 | 9 => {
            // Integers and halves.
            let integer = rng.u64(..) >> rng.u32(0..63) | 1;
            let shift = integer.leading_zeros();
            let half = rng.u16(0..3);
            (integer << shift, 0x3fff + 63 - shift as u16 - half)
        }
        10 | 11 => (rng.u64(..) | 1 << 63, 0x3fff - 70 + rng.u16(0..140)),
        12 => (u64::MAX << rng.u32(0..63), 0x3fff - 40 + rng.u16(0..80)),
        _ => (rng.u64(..) | 1 << 63, rng.u16(0..0x7fff)),
    };
    (significand, sign | exponent)
}

/// Bytes of a memory operand or a vector register: lanes of one kind.
pub fn lanes(rng: &mut Rng, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 16);
    let style = rng.u8(0..10);
    while out.len() < bytes {
        match style {
            0..=2 => out.extend(single(rng).to_le_bytes()),
            3..=5 => out.extend(double(rng).to_le_bytes()),
            6 => {
                let (significand, sign_exponent) = extended(rng);
                out.extend(significand.to_le_bytes());
                out.extend(sign_exponent.to_le_bytes());
            }
            7 => out.extend([[0, 0xff, 0x80, 0x7f][rng.usize(0..4)]; 2]),
            _ => out.extend(integer(rng).to_le_bytes()),
        }
    }
    out.truncate(bytes);
    out
}

/// Random XMM and YMM registers, x87 and MXCSR as after FNINIT.
pub fn vector_registers(rng: &mut Rng) -> VectorState {
    let mut state = VectorState::initial();
    for n in 0..16 {
        let bytes = lanes(rng, 32);
        let word = |i: usize| u64::from_le_bytes(bytes[8 * i..8 * i + 8].try_into().expect("8"));
        state.set_ymm(n, [word(0), word(1), word(2), word(3)]);
    }
    state
}

/// A control and status word: all rounding modes, mostly with all exceptions masked.
pub fn mxcsr(rng: &mut Rng) -> u32 {
    let flags = if rng.bool() { 0 } else { rng.u32(0..0x40) };
    let masks = match rng.u8(0..4) {
        0 => rng.u32(0..0x40) << 7,
        _ => 0x1f80,
    };
    let rounding = rng.u32(0..4) << 13;
    let to_zero = match rng.u8(0..4) {
        0 => rng.u32(0..2) << 15 | rng.u32(0..2) << 6,
        _ => 0,
    };
    flags | masks | rounding | to_zero
}

/// Any x87 state: registers, which of them are in use, control and status.
pub fn x87(rng: &mut Rng, state: &mut VectorState) {
    for n in 0..8 {
        let (significand, sign_exponent) = extended(rng);
        state.set_st(n, significand, sign_exponent);
    }
    state.0[4] = match rng.u8(0..4) {
        0 => rng.u8(..),
        1 => 0,
        _ => 0xff,
    };
    let masks = match rng.u8(0..4) {
        0 => rng.u16(0..0x40),
        _ => 0x3f,
    };
    let precision = [0, 2, 3, 3, 3][rng.usize(0..5)] << 8;
    let control = masks | 0x40 | precision | rng.u16(0..4) << 10;
    state.set(0, control.to_le_bytes());
    let flags = match rng.u8(0..4) {
        0 => rng.u16(0..0x80),
        _ => 0,
    };
    let conditions = rng.u16(..) & 0x4700;
    let mut status = flags | conditions | rng.u16(0..8) << 11;
    if flags & !masks & 0x3f != 0 {
        // An exception is pending: ES and B.
        status |= 0x8080;
    }
    state.set(2, status.to_le_bytes());
}

/// The content of the window's pages.
pub fn window(rng: &mut Rng) -> Box<[[u8; PAGE]; PRESENT]> {
    let mut pages = Box::new([[0; PAGE]; PRESENT]);
    for page in pages.iter_mut() {
        for chunk in page.chunks_mut(64) {
            let bytes = lanes(rng, chunk.len());
            chunk.copy_from_slice(&bytes);
        }
    }
    pages
}
