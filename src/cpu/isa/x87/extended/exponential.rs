//! F2XM1, FYL2X, FYL2XP1.

use super::wide::{LN_2, TWO_BY_LN_2, Wide};
use super::{Calculator, Class, Operand, infinity, zero};
use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::F80;

/// ln((1 + s) / (1 - s)) / ln 2 for |s| <= 0.172, by its power series.
fn log2_series(s: Wide) -> Wide {
    let square = s.times(s);
    let sum = (0..28).rev().fold(Wide::ZERO, |sum, n| {
        Wide::ONE.over_integer(2 * n + 1).plus(square.times(sum))
    });
    s.times(sum).times(TWO_BY_LN_2)
}

/// log2 of a positive number that is no power of 2.
fn log2(x: Wide) -> Wide {
    // x = 2^n * m with m between the roots of 1/2 and 2.
    const SQUARE_ROOT_OF_2: u128 = 0xb504_f333_f9de_6484_597d_89b3_754a_be9f;
    let above = x.significand > SQUARE_ROOT_OF_2;
    let n = x.exponent + above as i32;
    let m = x.shifted(-n);
    let s = m.minus(Wide::ONE).over(m.plus(Wide::ONE));
    Wide::from_integer(n).plus(log2_series(s))
}

impl Calculator {
    /// Rounds a result that no finite number of bits holds.
    pub fn round_irrational(&mut self, value: Wide) -> F80 {
        if value.is_zero() {
            return zero(value.negative);
        }
        self.round_to(value.negative, value.exponent, value.significand | 1, 64)
    }

    /// Rounds a result that happens to be exact before rounding. It is flagged as inexact all the same.
    fn round_product(&mut self, value: Wide) -> F80 {
        let result = self.round_to(value.negative, value.exponent, value.significand, 64);
        self.raise(status::PE);
        if result.exponent() == 0 {
            self.raise(status::UE);
        }
        result
    }

    /// 2^x - 1.
    pub fn power_of_two_less_one(&mut self, a: F80) -> F80 {
        let x = Operand::new(a);
        match x.class {
            Class::Finite => {}
            Class::Zero => return a,
            Class::Infinity if x.negative => return super::ONE.negated(),
            Class::Infinity => return a,
            _ => return self.nan(a),
        }
        self.note_denormal(&x);
        if x.exponent >= 0 {
            self.raise(status::PE);
            // 1 and -1 are exact. What lies beyond is undefined: it stays as it is.
            let one = x.exponent == 0 && x.significand == super::INTEGER;
            return match (one, x.negative) {
                (true, false) => super::ONE,
                (true, true) => F80::new(0xbffe, super::INTEGER),
                _ => a,
            };
        }
        // e^y - 1 = y (1 + y/2 (1 + y/3 (...)))
        let y = Wide::from_operand(&x).times(LN_2);
        let sum = (2..35).rev().fold(Wide::ONE, |sum, n| {
            Wide::ONE.plus(y.times(sum).over_integer(n))
        });
        self.round_irrational(y.times(sum))
    }

    /// y * log2(x).
    pub fn times_log2(&mut self, y: F80, x: F80) -> F80 {
        let (a, b) = (Operand::new(y), Operand::new(x));
        if a.is_nan() || b.is_nan() {
            return self.nan_of_two(x, y);
        }
        if b.negative && b.class != Class::Zero {
            return self.invalid();
        }
        // What log2(x) is: infinite, or of which sign.
        let log_infinite = b.class != Class::Finite;
        let power = b.significand == super::INTEGER;
        let log_zero = !log_infinite && b.exponent == 0 && power;
        let log_negative = b.class == Class::Zero || !log_infinite && b.exponent < 0;
        let negative = a.negative ^ log_negative;
        match a.class {
            Class::Zero if log_infinite => return self.invalid(),
            Class::Infinity if log_zero => return self.invalid(),
            Class::Finite if b.class == Class::Zero => {
                self.raise(status::ZE);
                return infinity(negative);
            }
            _ => {}
        }
        self.note_denormal(&a);
        self.note_denormal(&b);
        if a.class == Class::Infinity || log_infinite {
            return infinity(negative);
        }
        if a.class == Class::Zero || log_zero {
            return zero(negative);
        }
        let y = Wide::from_operand(&a);
        if power {
            // An integer: the product is exact before rounding.
            return self.round_product(y.times(Wide::from_integer(b.exponent)));
        }
        self.round_irrational(y.times(log2(Wide::from_operand(&b))))
    }

    /// y * log2(x + 1).
    pub fn times_log2_of_sum(&mut self, y: F80, x: F80) -> F80 {
        let (a, b) = (Operand::new(y), Operand::new(x));
        if a.is_nan() || b.is_nan() {
            return self.nan_of_two(x, y);
        }
        let negative = a.negative ^ b.negative;
        match (a.class, b.class) {
            (_, Class::Infinity) if b.negative => return self.invalid(),
            (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => {
                return self.invalid();
            }
            _ => {}
        }
        self.note_denormal(&a);
        self.note_denormal(&b);
        match (a.class, b.class) {
            (Class::Infinity, _) | (_, Class::Infinity) => return infinity(negative),
            (Class::Zero, _) | (_, Class::Zero) => return zero(negative),
            _ => {}
        }
        if b.negative && b.exponent >= 0 {
            // There is no logarithm: x stays as it is.
            self.raise(status::PE);
            return x;
        }
        let (y, x) = (Wide::from_operand(&a), Wide::from_operand(&b));
        let log = if b.exponent < -2 {
            // ln(1 + x) = ln((1 + s) / (1 - s)) with s = x / (2 + x)
            log2_series(x.over(x.plus(Wide::from_integer(2))))
        } else {
            let sum = x.plus(Wide::ONE);
            if sum.significand == 1 << 127 {
                return self.round_product(y.times(Wide::from_integer(sum.exponent)));
            }
            log2(sum)
        };
        self.round_irrational(y.times(log))
    }
}
