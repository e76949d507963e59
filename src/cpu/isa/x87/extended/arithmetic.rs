//! Sum, difference, product, quotient, square root, and comparison.

use super::round::shift_right_sticky;
use super::{Calculator, Class, Operand, Rounding, infinity, zero};
use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::F80;
use std::cmp::Ordering;

impl Calculator {
    /// a + b.
    pub fn add(&mut self, a: F80, b: F80) -> F80 {
        self.sum(a, b, false)
    }

    /// a - b.
    pub fn subtract(&mut self, a: F80, b: F80) -> F80 {
        self.sum(a, b, true)
    }

    fn sum(&mut self, a: F80, b: F80, subtract: bool) -> F80 {
        let x = Operand::new(a);
        let mut y = Operand::new(b);
        if x.is_nan() || y.is_nan() {
            return self.nan_of_two(a, b);
        }
        y.negative ^= subtract;
        match (x.class, y.class) {
            (Class::Infinity, Class::Infinity) if x.negative != y.negative => {
                return self.invalid();
            }
            (Class::Infinity, _) => {
                self.note_denormal(&y);
                return infinity(x.negative);
            }
            (_, Class::Infinity) => {
                self.note_denormal(&x);
                return infinity(y.negative);
            }
            (Class::Zero, Class::Zero) => {
                let negative = if x.negative == y.negative {
                    x.negative
                } else {
                    self.rounding() == Rounding::Down
                };
                return zero(negative);
            }
            _ => {}
        }
        self.note_denormal(&x);
        self.note_denormal(&y);
        match (x.class, y.class) {
            (Class::Zero, _) => self.round(y.negative, y.exponent, (y.significand as u128) << 64),
            (_, Class::Zero) => self.round(x.negative, x.exponent, (x.significand as u128) << 64),
            _ => self.sum_finite(x, y),
        }
    }

    fn sum_finite(&mut self, x: Operand, y: Operand) -> F80 {
        let (x, y) = if (x.exponent, x.significand) >= (y.exponent, y.significand) {
            (x, y)
        } else {
            (y, x)
        };
        // One bit of room above for the carry.
        let large = (x.significand as u128) << 63;
        let small = shift_right_sticky(
            (y.significand as u128) << 63,
            (x.exponent - y.exponent) as u32,
        );
        let result = if x.negative == y.negative {
            large + small
        } else {
            large - small
        };
        if result == 0 {
            return zero(self.rounding() == Rounding::Down);
        }
        self.round(x.negative, x.exponent + 1, result)
    }

    /// a * b.
    pub fn multiply(&mut self, a: F80, b: F80) -> F80 {
        let (x, y) = (Operand::new(a), Operand::new(b));
        if x.is_nan() || y.is_nan() {
            return self.nan_of_two(a, b);
        }
        let negative = x.negative ^ y.negative;
        match (x.class, y.class) {
            (Class::Infinity, Class::Zero) | (Class::Zero, Class::Infinity) => {
                return self.invalid();
            }
            _ => {}
        }
        self.note_denormal(&x);
        self.note_denormal(&y);
        match (x.class, y.class) {
            (Class::Infinity, _) | (_, Class::Infinity) => infinity(negative),
            (Class::Zero, _) | (_, Class::Zero) => zero(negative),
            _ => self.round(
                negative,
                x.exponent + y.exponent + 1,
                x.significand as u128 * y.significand as u128,
            ),
        }
    }

    /// a / b.
    pub fn divide(&mut self, a: F80, b: F80) -> F80 {
        let (x, y) = (Operand::new(a), Operand::new(b));
        if x.is_nan() || y.is_nan() {
            return self.nan_of_two(a, b);
        }
        let negative = x.negative ^ y.negative;
        match (x.class, y.class) {
            (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => {
                return self.invalid();
            }
            (Class::Finite, Class::Zero) => {
                self.raise(status::ZE);
                return infinity(negative);
            }
            _ => {}
        }
        self.note_denormal(&x);
        self.note_denormal(&y);
        match (x.class, y.class) {
            (Class::Infinity, _) => infinity(negative),
            (_, Class::Infinity) | (Class::Zero, _) => zero(negative),
            _ => {
                let (significand, shift) = quotient(x.significand, y.significand);
                self.round(negative, x.exponent - y.exponent - shift, significand)
            }
        }
    }

    /// The square root.
    pub fn square_root(&mut self, a: F80) -> F80 {
        let x = Operand::new(a);
        match x.class {
            Class::Zero => return a,
            _ if x.is_nan() => return self.nan(a),
            _ if x.negative => return self.invalid(),
            Class::Infinity => return a,
            _ => {}
        }
        self.note_denormal(&x);
        // An even exponent of 2 beside a radicand of 127 or 128 bits.
        let odd = x.exponent & 1;
        let radicand = (x.significand as u128) << (63 + odd);
        let root = radicand.isqrt();
        let rest = radicand - root * root;
        // (root + 1/2)^2 = root^2 + root + 1/4: the half bit is set where the rest exceeds the root.
        let significand = root << 64 | ((rest > root) as u128) << 63 | (rest != 0) as u128;
        self.round(false, (x.exponent - odd) / 2, significand)
    }

    /// Compares; `None` is unordered. `quiet`: quiet NaNs raise nothing.
    pub fn compare(&mut self, a: F80, b: F80, quiet: bool) -> Option<Ordering> {
        let (x, y) = (Operand::new(a), Operand::new(b));
        if x.is_nan() || y.is_nan() {
            let silent = |o: &Operand| !o.is_nan() || o.class == Class::Quiet;
            if !(quiet && silent(&x) && silent(&y)) {
                self.raise(status::IE);
            }
            return None;
        }
        self.note_denormal(&x);
        self.note_denormal(&y);
        // Zero is below every finite number, infinity above.
        let magnitude = |o: &Operand| match o.class {
            Class::Zero => (i32::MIN, 0),
            Class::Infinity => (i32::MAX, 0),
            _ => (o.exponent, o.significand),
        };
        let (m, n) = (magnitude(&x), magnitude(&y));
        let both_zero = x.class == Class::Zero && y.class == Class::Zero;
        Some(match (x.negative, y.negative) {
            _ if both_zero => Ordering::Equal,
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => m.cmp(&n),
            (true, true) => n.cmp(&m),
        })
    }
}

/// The quotient of two normalised significands, normalised and sticky, and by how much its exponent is below the
/// difference of theirs.
fn quotient(a: u64, b: u64) -> (u128, i32) {
    let (dividend, shift) = if a >= b {
        ((a as u128) << 63, 0)
    } else {
        ((a as u128) << 64, 1)
    };
    let divisor = b as u128;
    let high = dividend / divisor;
    let rest = (dividend % divisor) << 64;
    let low = rest / divisor;
    let sticky = !rest.is_multiple_of(divisor);
    (high << 64 | low | sticky as u128, shift)
}
