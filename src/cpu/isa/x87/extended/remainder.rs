//! FPREM, FPREM1, FSCALE, FXTRACT.

use super::convert::from_integer;
use super::{Calculator, Class, Operand, Rounding, infinity, zero};
use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::F80;

/// The three lowest bits of the quotient, where FPREM puts them.
fn quotient_bits(quotient: u64) -> u16 {
    let bit = |n: u32, flag: u16| if quotient >> n & 1 != 0 { flag } else { 0 };
    bit(2, status::C0) | bit(1, status::C3) | bit(0, status::C1)
}

/// A finite operand as the result. It may be denormal: that is no underflow, masked or not.
fn unchanged(a: F80) -> F80 {
    if a.exponent() == 0 && a.mantissa >> 63 != 0 {
        // A pseudo-denormal becomes the normal number that it is.
        return F80::new(a.sign_exponent as u16 | 1, a.mantissa);
    }
    a
}

impl Calculator {
    /// The remainder of a / b: of the truncated quotient (FPREM), or of the nearest one (FPREM1, `nearest`).
    /// Where the exponents are 64 or more apart, only a part of the way there, with C2 set. The conditions are
    /// `None` where there is no quotient.
    pub fn remainder(&mut self, a: F80, b: F80, nearest: bool) -> (F80, Option<u16>) {
        let (x, y) = (Operand::new(a), Operand::new(b));
        if x.is_nan() || y.is_nan() {
            return (self.nan_of_two(a, b), None);
        }
        if x.class == Class::Infinity || y.class == Class::Zero {
            return (self.invalid(), None);
        }
        self.note_denormal(&x);
        self.note_denormal(&y);
        if x.class == Class::Zero {
            return (a, Some(0));
        }
        let distance = x.exponent - y.exponent;
        if y.class == Class::Infinity {
            return (unchanged(a), Some(0));
        }
        if distance < -1 {
            let same = self.exact(x.negative, x.exponent, x.significand as u128);
            return (same, Some(0));
        }
        if distance >= 64 {
            return (self.partial_remainder(&x, &y, distance), Some(status::C2));
        }
        // Both as integers in units of the last place of the one with the smaller exponent.
        let unit = y.exponent.min(x.exponent);
        let divisor = (y.significand as u128) << (y.exponent - unit) as u32;
        let (mut quotient, mut rest) =
            divide_shifted(x.significand as u128, distance.max(0) as u32, divisor);
        let mut negative = x.negative;
        if nearest {
            let twice = rest * 2;
            if twice > divisor || twice == divisor && quotient & 1 != 0 {
                rest = divisor - rest;
                negative = !negative;
                quotient = quotient.wrapping_add(1);
            }
        }
        let value = if rest == 0 {
            zero(x.negative)
        } else {
            self.exact(negative, unit, rest)
        };
        (value, Some(quotient_bits(quotient)))
    }

    /// Subtracts a multiple that lowers the exponent by 32 to 63.
    fn partial_remainder(&mut self, x: &Operand, y: &Operand, distance: i32) -> F80 {
        let step = distance & 0x1f | 0x20;
        let (_, rest) = divide_shifted(x.significand as u128, step as u32, y.significand as u128);
        if rest == 0 {
            return zero(x.negative);
        }
        self.exact(x.negative, y.exponent + distance - step, rest)
    }

    /// A result that needs no rounding: `significand * 2^(exponent - 63)`. It may be denormal.
    fn exact(&mut self, negative: bool, exponent: i32, significand: u128) -> F80 {
        self.round_to(negative, exponent + 64, significand, 64)
    }

    /// a * 2^b, b truncated to an integer.
    pub fn scale(&mut self, a: F80, b: F80) -> F80 {
        let (x, y) = (Operand::new(a), Operand::new(b));
        if x.is_nan() || y.is_nan() {
            return self.nan_of_two(a, b);
        }
        if y.class == Class::Infinity {
            let undefined = if y.negative {
                Class::Infinity
            } else {
                Class::Zero
            };
            if x.class == undefined {
                return self.invalid();
            }
            self.note_denormal(&x);
            return if y.negative {
                zero(x.negative)
            } else {
                infinity(x.negative)
            };
        }
        self.note_denormal(&x);
        self.note_denormal(&y);
        if x.class != Class::Finite {
            return a;
        }
        if y.class == Class::Zero {
            return unchanged(a);
        }
        let by = match y.class {
            _ if y.exponent > 16 => 1 << 17,
            _ => self.magnitude(&y, Rounding::Zero).map_or(0, |m| m.0 as i32),
        };
        let by = if y.negative { -by } else { by };
        self.round_to(
            x.negative,
            x.exponent + by,
            (x.significand as u128) << 64,
            64,
        )
    }

    /// The exponent, and the significand with the sign: FXTRACT.
    pub fn extract(&mut self, a: F80) -> (F80, F80) {
        let x = Operand::new(a);
        match x.class {
            Class::Zero => {
                self.raise(status::ZE);
                (infinity(true), a)
            }
            Class::Infinity => (infinity(false), a),
            Class::Finite => {
                self.note_denormal(&x);
                let sign = (x.negative as u16) << 15;
                let significand = F80::new(sign | super::BIAS as u16, x.significand);
                (from_integer(x.exponent as i64), significand)
            }
            _ => {
                let nan = self.nan(a);
                (nan, nan)
            }
        }
    }
}

/// Divides `dividend << shift` by a divisor: the lowest 64 bits of the quotient, and the rest.
pub fn divide_shifted(dividend: u128, shift: u32, divisor: u128) -> (u64, u128) {
    // The rest is below the divisor, and can be shifted until it has as many bits as the word.
    let room = divisor.leading_zeros();
    let mut quotient = dividend / divisor;
    let mut rest = dividend % divisor;
    let mut left = shift;
    while left > 0 {
        let step = left.min(room);
        let next = rest << step;
        quotient = quotient << step | (next / divisor);
        rest = next % divisor;
        left -= step;
    }
    (quotient as u64, rest)
}
