//! RCPPS, RSQRTPS and their scalar forms: approximations of reciprocals.
//!
//! The SDM bounds their relative error by 1.5 * 2^-12 and leaves the rest to each model of a processor, so that a
//! recording would not replay on another. Here they are defined by formula, in integers: the operand's significand
//! is cut to some bits, and the result is that of the middle of the interval, rounded to [`RESULT_BITS`] bits. That
//! is bit for bit what Intel's processors do. No exception flag is raised and MXCSR has no influence: denormal
//! operands count as zeros, and results that would be denormal are zeros (SDM volume 2, RCPPS).

use super::{Form, Lane, Lowered, V, one_source, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::op::Op;
use bytemuck::cast;
use iced_x86::Mnemonic;

/// Bits of the fraction that the reciprocal looks at.
const INDEX_BITS: u32 = 11;
/// Bits of the fraction that the reciprocal root looks at, besides the lowest one of the exponent.
const ROOT_INDEX_BITS: u32 = 10;
/// Bits of the result's fraction.
const RESULT_BITS: u32 = 12;

const SIGN: u32 = 1 << 31;
const INFINITY: u32 = 0x7f80_0000;
const QUIET: u32 = 1 << 22;
const INDEFINITE: u32 = 0xffc0_0000;

/// The approximate reciprocal of a number in IEEE single format.
fn reciprocal(x: u32) -> u32 {
    let sign = x & SIGN;
    let exponent = (x >> 23 & 0xff) as i32;
    let fraction = x & 0x7f_ffff;
    match (exponent, fraction) {
        (0xff, 0) => return sign,
        (0xff, _) => return x | QUIET,
        (0, _) => return sign | INFINITY,
        _ => {}
    }
    // The middle of the interval, 1.index1, in units of 2^-(INDEX_BITS + 1).
    let middle = (2 << INDEX_BITS | fraction >> (23 - INDEX_BITS) << 1 | 1) as u64;
    // 2 / middle, between 1 and 2, in units of 2^-RESULT_BITS, rounded.
    let numerator = 1u64 << (INDEX_BITS + 1 + 1 + RESULT_BITS);
    let quotient = ((2 * numerator + middle) / (2 * middle)) as u32;
    // 1 / (m * 2^e) = (2 / m) * 2^(-e - 1)
    assemble(sign, 253 - exponent, quotient)
}

/// The approximate reciprocal of the square root.
fn reciprocal_root(x: u32) -> u32 {
    let sign = x & SIGN;
    let exponent = (x >> 23 & 0xff) as i32;
    let fraction = x & 0x7f_ffff;
    match (exponent, fraction) {
        (0xff, f) if f != 0 => return x | QUIET,
        (0, _) => return sign | INFINITY,
        _ if sign != 0 => return INDEFINITE,
        (0xff, _) => return 0,
        _ => {}
    }
    // x = m * 4^h with m in [1, 4).
    let odd = exponent & 1 == 0;
    let middle = (2 << ROOT_INDEX_BITS | fraction >> (23 - ROOT_INDEX_BITS) << 1 | 1) as u128;
    let middle = if odd { middle * 2 } else { middle };
    let half = (exponent - 127 - odd as i32) / 2;
    // 2 / sqrt(m), above 1 and below 2, in units of 2^-RESULT_BITS: the integer q with (q - 1/2)^2 <= 4 / m, that is
    // (2q - 1)^2 * middle <= 2^(4 + 2 * RESULT_BITS + ROOT_INDEX_BITS + 1).
    let limit = 1u128 << (4 + 2 * RESULT_BITS + ROOT_INDEX_BITS + 1);
    let (mut low, mut high) = (1u32 << RESULT_BITS, 2u32 << RESULT_BITS);
    while low < high {
        let q = (low + high).div_ceil(2);
        let twice = (2 * q - 1) as u128;
        if twice * twice * middle <= limit {
            low = q;
        } else {
            high = q - 1;
        }
    }
    assemble(0, 126 - half, low)
}

/// A number from its biased exponent and a significand of 1 + [`RESULT_BITS`] bits, which may have been rounded up
/// to 2.
fn assemble(sign: u32, mut exponent: i32, mut significand: u32) -> u32 {
    if significand >> (RESULT_BITS + 1) != 0 {
        significand >>= 1;
        exponent += 1;
    }
    if exponent <= 0 {
        return sign;
    }
    let fraction = significand << (23 - RESULT_BITS) & 0x7f_ffff;
    sign | (exponent as u32) << 23 | fraction
}

macro_rules! approximation {
    ($packed:ident, $scalar:ident, $function:ident) => {
        #[derive(Clone, Copy)]
        struct $packed;
        impl Lane for $packed {
            fn apply(_a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                cast(cast::<V, [u32; 4]>(b).map($function))
            }
        }
        #[derive(Clone, Copy)]
        struct $scalar;
        impl Lane for $scalar {
            const BYTES: usize = 4;
            fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
                [a[0] & !0xffff_ffff | $function(b[0] as u32) as u64, a[1]]
            }
        }
    };
}
approximation!(Rcpps, Rcpss, reciprocal);
approximation!(Rsqrtps, Rsqrtss, reciprocal_root);

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    match context.insn.mnemonic() {
        M::Rcpps | M::Vrcpps => one_source::<Rcpps>(context, op, form),
        M::Rsqrtps | M::Vrsqrtps => one_source::<Rsqrtps>(context, op, form),
        M::Rcpss | M::Vrcpss => two_sources::<Rcpss>(context, op, form),
        M::Rsqrtss | M::Vrsqrtss => two_sources::<Rsqrtss>(context, op, form),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_within_the_bound_of_the_manual() {
        const BOUND: f64 = 1.5 / 4096.0;
        for n in 0..0x4_0000u32 {
            // Two binades, as the root distinguishes even and odd exponents.
            let x = 0x3f80_0000 + (n << 6) + (n & 63);
            let value = f32::from_bits(x) as f64;
            let r = f32::from_bits(reciprocal(x)) as f64 * value;
            assert!((r - 1.0).abs() <= BOUND, "1 / {value}: {r}");
            let r = f32::from_bits(reciprocal_root(x)) as f64 * value.sqrt();
            assert!((r - 1.0).abs() <= BOUND, "1 / sqrt {value}: {r}");
        }
    }

    #[test]
    fn special_operands_give_what_the_manual_says() {
        for (x, want) in [
            (0, INFINITY),
            (SIGN, SIGN | INFINITY),
            (SIGN | 1, SIGN | INFINITY),
            (INFINITY, 0),
            (SIGN | INFINITY, SIGN),
            (0x7f80_0001, 0x7fc0_0001),
            (0x3f80_0000, 0x3f7f_f000),
            (0x7f00_0000, 0),
        ] {
            assert_eq!(reciprocal(x), want, "{x:x}");
        }
        for (x, want) in [
            (0, INFINITY),
            (SIGN, SIGN | INFINITY),
            (SIGN | 1, SIGN | INFINITY),
            (0xbf80_0000, INDEFINITE),
            (SIGN | INFINITY, INDEFINITE),
            (0xff80_0001, 0xffc0_0001),
            (INFINITY, 0),
            (0x3f80_0000, 0x3f7f_f000),
        ] {
            assert_eq!(reciprocal_root(x), want, "{x:x}");
        }
    }
}
