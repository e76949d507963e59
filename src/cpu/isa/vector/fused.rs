//! Fused multiplication and addition in software: `a * b + c` with one rounding, all modes, all exceptions.
//!
//! IEEE 754-2019, 5.4.1 and 7; SDM volume 1, 14.5 for what x86 makes of NaNs and denormals, and 11.5.2 for the
//! order of exceptions. Tininess is found after rounding.

const INVALID: u32 = 1;
const DENORMAL: u32 = 1 << 1;
const OVERFLOW: u32 = 1 << 3;
const UNDERFLOW: u32 = 1 << 4;
const PRECISION: u32 = 1 << 5;
const DENORMALS_ARE_ZEROS: u32 = 1 << 6;
const FLUSH: u32 = 1 << 15;

/// A binary interchange format.
#[derive(Clone, Copy)]
pub struct Format {
    /// Bits of the fraction.
    fraction: u32,
    /// The greatest biased exponent: infinities and NaNs.
    top: i32,
}

/// Single precision.
pub const SINGLE: Format = Format {
    fraction: 23,
    top: 0xff,
};
/// Double precision.
pub const DOUBLE: Format = Format {
    fraction: 52,
    top: 0x7ff,
};

impl Format {
    fn sign(self, x: u64) -> bool {
        x >> (self.fraction + self.top.count_ones()) & 1 != 0
    }
    fn sign_bit(self, negative: bool) -> u64 {
        (negative as u64) << (self.fraction + self.top.count_ones())
    }
    fn exponent(self, x: u64) -> i32 {
        (x >> self.fraction) as i32 & self.top
    }
    fn fraction_of(self, x: u64) -> u64 {
        x & ((1 << self.fraction) - 1)
    }
    fn infinity(self) -> u64 {
        (self.top as u64) << self.fraction
    }
    fn quiet(self) -> u64 {
        1 << (self.fraction - 1)
    }
    fn is_nan(self, x: u64) -> bool {
        self.exponent(x) == self.top && self.fraction_of(x) != 0
    }
    fn is_infinite(self, x: u64) -> bool {
        self.exponent(x) == self.top && self.fraction_of(x) == 0
    }
    fn is_zero(self, x: u64) -> bool {
        self.exponent(x) == 0 && self.fraction_of(x) == 0
    }
    fn is_denormal(self, x: u64) -> bool {
        self.exponent(x) == 0 && self.fraction_of(x) != 0
    }
    /// A nonzero number as an integer significand and the exponent of its lowest bit, still biased.
    fn parts(self, x: u64) -> (u128, i32) {
        match self.exponent(x) {
            0 => (self.fraction_of(x) as u128, 1),
            e => ((self.fraction_of(x) | 1 << self.fraction) as u128, e),
        }
    }
}

/// Where the leading bit stands while adding: one bit is left for the carry.
const LEADING: u32 = 126;

/// Moves the leading bit to its place. The value must not be 0.
fn normalised(significand: u128, exponent: i32) -> (u128, i32) {
    let shift = significand.leading_zeros() as i32 - (127 - LEADING as i32);
    (significand << shift, exponent - shift)
}

/// Shifts right; what falls out stays visible in the lowest bit.
fn jammed(value: u128, shift: u32) -> u128 {
    match shift {
        0 => value,
        1..=127 => value >> shift | (value << (128 - shift) != 0) as u128,
        _ => (value != 0) as u128,
    }
}

/// `a * b + c`. The operands must be given as they are, without changed signs: `negate_product` and `negate_addend`
/// say what to change, for a NaN passes through untouched. `nan_order` are the operands in the order in which a NaN
/// is looked for.
pub fn multiply_add(
    format: Format,
    [a, b, c]: [u64; 3],
    negate_product: bool,
    negate_addend: bool,
    nan_order: [u64; 3],
    mxcsr: &mut u32,
) -> u64 {
    let f = format;
    let infinite_times_zero = |a: u64, b: u64| {
        let zero = |x| f.is_zero(x) || f.is_denormal(x) && *mxcsr & DENORMALS_ARE_ZEROS != 0;
        f.is_infinite(a) && zero(b) || f.is_infinite(b) && zero(a)
    };
    let invalid_product = infinite_times_zero(a, b);
    if let Some(nan) = nan_order.into_iter().find(|&x| f.is_nan(x)) {
        let signalling = |x: u64| f.is_nan(x) && x & f.quiet() == 0;
        if nan_order.into_iter().any(signalling) {
            *mxcsr |= INVALID;
        }
        return nan | f.quiet();
    }
    let default_nan = f.sign_bit(true) | f.infinity() | f.quiet();
    let product_negative = f.sign(a) ^ f.sign(b) ^ negate_product;
    let addend_negative = f.sign(c) ^ negate_addend;
    let infinite_product = f.is_infinite(a) || f.is_infinite(b);
    let cancel = infinite_product && f.is_infinite(c) && product_negative != addend_negative;
    if invalid_product || cancel {
        *mxcsr |= INVALID;
        return default_nan;
    }
    let mut operands = [a, b, c];
    for x in &mut operands {
        if f.is_denormal(*x) {
            if *mxcsr & DENORMALS_ARE_ZEROS != 0 {
                *x = 0;
            } else {
                *mxcsr |= DENORMAL;
            }
        }
    }
    let [a, b, c] = operands;
    if infinite_product {
        return f.sign_bit(product_negative) | f.infinity();
    }
    if f.is_infinite(c) {
        return f.sign_bit(addend_negative) | f.infinity();
    }
    let mode = *mxcsr >> 13 & 3;
    // The sign of a sum that is exactly 0.
    let zero_sign = if product_negative == addend_negative {
        product_negative
    } else {
        mode == 1
    };
    let product = (!f.is_zero(a) && !f.is_zero(b)).then(|| {
        let ((x, e), (y, g)) = (f.parts(a), f.parts(b));
        // The bias of the product is taken off together with the fraction's width of one factor.
        normalised(x * y, e + g - f.top / 2 - f.fraction as i32)
    });
    let addend = (!f.is_zero(c)).then(|| {
        let (x, e) = f.parts(c);
        normalised(x, e)
    });
    let (negative, significand, exponent) = match (product, addend) {
        (None, None) => return f.sign_bit(zero_sign),
        (Some((x, e)), None) => (product_negative, x, e),
        (None, Some((x, e))) => (addend_negative, x, e),
        (Some((x, e)), Some((y, g))) => {
            let exponent = e.max(g);
            let x = jammed(x, (exponent - e) as u32);
            let y = jammed(y, (exponent - g) as u32);
            if product_negative == addend_negative {
                (product_negative, x + y, exponent)
            } else if x > y {
                (product_negative, x - y, exponent)
            } else if y > x {
                (addend_negative, y - x, exponent)
            } else {
                return f.sign_bit(zero_sign);
            }
        }
    };
    pack(f, negative, significand, exponent, mode, mxcsr)
}

/// Cuts bits off a number whose leading bit is 127. Gives what is kept, rounded, and whether anything was lost.
fn rounded(value: u128, cut: u32, mode: u32, negative: bool) -> (u64, bool) {
    let half = 1u128 << 127;
    let (kept, rest) = match cut {
        1..=127 => ((value >> cut) as u64, value << (128 - cut)),
        128 => (0, value),
        // The leading bit stands below half of the last place.
        _ => (0, 1),
    };
    let up = match mode {
        0 => rest > half || rest == half && kept & 1 != 0,
        1 => negative && rest != 0,
        2 => !negative && rest != 0,
        _ => false,
    };
    (kept + up as u64, rest != 0)
}

/// Rounds to the format. `significand * 2^exponent`, where `exponent` is that of the lowest bit, biased as in `parts`.
fn pack(
    f: Format,
    negative: bool,
    significand: u128,
    exponent: i32,
    mode: u32,
    mxcsr: &mut u32,
) -> u64 {
    let sign = f.sign_bit(negative);
    // Leading bit at 127, so that `cut` is the same for all.
    let shift = significand.leading_zeros();
    let significand = significand << shift;
    let cut = 127 - f.fraction;
    let exponent = exponent - shift as i32 + cut as i32;
    if exponent >= 1 {
        let (kept, inexact) = rounded(significand, cut, mode, negative);
        let bits = kept + ((exponent as u64 - 1) << f.fraction);
        if exponent >= f.top || bits >= f.infinity() {
            *mxcsr |= OVERFLOW | PRECISION;
            let stays = mode == 3 || mode == 1 && !negative || mode == 2 && negative;
            return sign | (f.infinity() - stays as u64);
        }
        *mxcsr |= if inexact { PRECISION } else { 0 };
        return sign | bits;
    }
    let (bits, inexact) = rounded(significand, cut + (1 - exponent) as u32, mode, negative);
    let unlimited = rounded(significand, cut, mode, negative).0;
    let tiny = exponent < 0 || unlimited >> (f.fraction + 1) == 0;
    if tiny && *mxcsr & FLUSH != 0 {
        *mxcsr |= UNDERFLOW | PRECISION;
        return sign;
    }
    if inexact {
        *mxcsr |= PRECISION;
        if tiny {
            *mxcsr |= UNDERFLOW;
        }
    }
    sign | bits
}
