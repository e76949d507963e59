//! Numbers with significands of 128 bits, for intermediate results of transcendental functions.
//!
//! Operations truncate; each is off by less than two units of the last place. Sums keep what falls out below as a
//! set lowest bit, so that 1 minus next to nothing is less than 1.

use super::Operand;
use super::round::shift_right_sticky;

/// `significand * 2^(exponent - 127)`: normalised (bit 127 set), or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide {
    /// Sign.
    pub negative: bool,
    /// Exponent of the first bit.
    pub exponent: i32,
    /// 0 for zero.
    pub significand: u128,
}

/// ln 2.
pub const LN_2: Wide = Wide::positive(-1, 0xb172_17f7_d1cf_79ab_c9e3_b398_03f2_f6af);
/// 2 / ln 2.
pub const TWO_BY_LN_2: Wide = Wide::positive(1, 0xb8aa_3b29_5c17_f0bb_be87_fed0_691d_3e89);
/// Pi.
pub const PI: Wide = Wide::positive(1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1);

impl Wide {
    /// 0.
    pub const ZERO: Wide = Wide::positive(0, 0);
    /// 1.
    pub const ONE: Wide = Wide::positive(0, 1 << 127);

    /// A number from its normalised parts.
    pub const fn positive(exponent: i32, significand: u128) -> Wide {
        Wide {
            negative: false,
            exponent,
            significand,
        }
    }

    /// `integer * 2^scale`.
    pub fn scaled(integer: u128, scale: i32) -> Wide {
        if integer == 0 {
            return Wide::ZERO;
        }
        let shift = integer.leading_zeros();
        Wide::positive(127 - shift as i32 + scale, integer << shift)
    }

    /// A finite operand that is not zero.
    pub fn from_operand(x: &Operand) -> Wide {
        Wide {
            negative: x.negative,
            exponent: x.exponent,
            significand: (x.significand as u128) << 64,
        }
    }

    /// An integer.
    pub fn from_integer(value: i32) -> Wide {
        Wide {
            negative: value < 0,
            ..Wide::scaled(value.unsigned_abs() as u128, 0)
        }
    }

    /// Whether it is 0.
    pub fn is_zero(self) -> bool {
        self.significand == 0
    }

    /// With the sign turned, if asked.
    pub fn negated_if(self, turn: bool) -> Wide {
        Wide {
            negative: self.negative ^ turn,
            ..self
        }
    }

    /// The magnitude.
    pub fn abs(self) -> Wide {
        Wide {
            negative: false,
            ..self
        }
    }

    /// Times a power of 2.
    pub fn shifted(self, by: i32) -> Wide {
        Wide {
            exponent: self.exponent + by,
            ..self
        }
    }

    /// Whether the magnitude of `self` is below that of `other`.
    pub fn is_smaller(self, other: Wide) -> bool {
        match (self.is_zero(), other.is_zero()) {
            (_, true) => false,
            (true, false) => true,
            _ => (self.exponent, self.significand) < (other.exponent, other.significand),
        }
    }

    /// Sum.
    pub fn plus(self, other: Wide) -> Wide {
        if self.is_zero() {
            return other;
        }
        if other.is_zero() {
            return self;
        }
        let (large, small) = if self.is_smaller(other) {
            (other, self)
        } else {
            (self, other)
        };
        let distance = large.exponent.saturating_sub(small.exponent) as u32;
        let aligned = shift_right_sticky(small.significand, distance);
        if large.negative == small.negative {
            let (sum, carry) = large.significand.overflowing_add(aligned);
            return Wide {
                negative: large.negative,
                exponent: large.exponent + carry as i32,
                significand: if carry {
                    1 << 127 | sum >> 1 | sum & 1
                } else {
                    sum
                },
            };
        }
        let difference = large.significand - aligned;
        if difference == 0 {
            return Wide::ZERO;
        }
        let shift = difference.leading_zeros();
        Wide {
            negative: large.negative,
            exponent: large.exponent - shift as i32,
            significand: difference << shift,
        }
    }

    /// Difference.
    pub fn minus(self, other: Wide) -> Wide {
        self.plus(other.negated_if(true))
    }

    /// Product.
    pub fn times(self, other: Wide) -> Wide {
        if self.is_zero() || other.is_zero() {
            return Wide::ZERO;
        }
        let (high, low) = product(self.significand, other.significand);
        let carry = high >> 127 != 0;
        Wide {
            negative: self.negative ^ other.negative,
            exponent: self.exponent + other.exponent + carry as i32,
            significand: if carry { high } else { high << 1 | low >> 127 },
        }
    }

    /// Quotient by a small positive integer.
    pub fn over_integer(self, divisor: u32) -> Wide {
        if self.is_zero() {
            return self;
        }
        let divisor = divisor as u128;
        let quotient = self.significand / divisor;
        let rest = self.significand % divisor;
        let shift = quotient.leading_zeros();
        Wide {
            negative: self.negative,
            exponent: self.exponent - shift as i32,
            significand: quotient << shift | ((rest << shift) / divisor),
        }
    }

    /// Quotient. The divisor is not 0.
    pub fn over(self, divisor: Wide) -> Wide {
        if self.is_zero() {
            return self;
        }
        // One bit at a time: the first is 1 where the dividend's significand is not the smaller one.
        let d = divisor.significand;
        let below = self.significand < d;
        let mut rest = self.significand;
        let mut quotient = 0u128;
        if !below {
            rest -= d;
            quotient = 1;
        }
        let bits = if below { 128 } else { 127 };
        for _ in 0..bits {
            let overflow = rest >> 127 != 0;
            rest <<= 1;
            quotient <<= 1;
            if overflow || rest >= d {
                rest = rest.wrapping_sub(d);
                quotient |= 1;
            }
        }
        Wide {
            negative: self.negative ^ divisor.negative,
            exponent: self.exponent - divisor.exponent - below as i32,
            significand: quotient,
        }
    }
}

/// The upper and lower half of a product.
fn product(a: u128, b: u128) -> (u128, u128) {
    let halves = |x: u128| (x >> 64, x & u64::MAX as u128);
    let ((ah, al), (bh, bl)) = (halves(a), halves(b));
    let low = al * bl;
    let (m, n) = (ah * bl, al * bh);
    let middle = (low >> 64) + halves(m).1 + halves(n).1;
    let high = ah * bh + halves(m).0 + halves(n).0 + (middle >> 64);
    (high, middle << 64 | halves(low).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Wide, b: Wide) -> bool {
        let difference = a.minus(b);
        difference.is_zero() || difference.exponent < a.exponent - 118
    }

    #[test]
    fn quotients_and_products_undo_each_other() {
        for n in 1..200 {
            let a = PI.over_integer(n).plus(LN_2);
            let b = TWO_BY_LN_2.times(Wide::from_integer(-3 * n as i32));
            assert!(close(a.times(b).over(b), a), "{n}");
            assert!(close(a.over(b).times(b), a), "{n}");
            assert!(close(
                a.over(Wide::from_integer(n as i32)),
                a.over_integer(n)
            ));
        }
    }

    #[test]
    fn one_less_next_to_nothing_is_less_than_one() {
        let tiny = Wide::ONE.shifted(-1000);
        let less = Wide::ONE.minus(tiny);
        assert!(less.is_smaller(Wide::ONE));
        assert_eq!((less.exponent, less.significand), (-1, u128::MAX - 1));
        assert!(Wide::ONE.is_smaller(Wide::ONE.plus(tiny)));
        assert_eq!(PI.minus(PI), Wide::ZERO);
    }
}
