//! Packed decimal integers: 18 digits and a sign in 10 bytes (SDM volume 1, 4.7).

use super::convert::from_unsigned;
use super::{Calculator, Class, Operand};
use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::F80;

/// The first integer that 18 digits do not hold.
const LIMIT: u64 = 1_000_000_000_000_000_000;

/// What FBSTP stores for what does not fit: the lower 8 bytes, and the upper 2.
const INDEFINITE: (u64, u16) = (0xc000_0000_0000_0000, 0xffff);

/// Exact. Digits above 9, which the SDM leaves undefined, count as what they are.
pub fn from_decimal(low: u64, high: u16) -> F80 {
    let digits = (high as u128 & 0xff) << 64 | low as u128;
    let magnitude = (0..18)
        .rev()
        .fold(0u64, |sum, n| sum * 10 + (digits >> (4 * n) & 15) as u64);
    let value = from_unsigned(magnitude);
    if high & 0x8000 != 0 {
        value.negated()
    } else {
        value
    }
}

impl Calculator {
    /// Rounds to an integer in packed decimal: the lower 8 bytes, and the upper 2.
    pub fn round_to_decimal(&mut self, value: F80) -> (u64, u16) {
        let x = Operand::new(value);
        let sign = (x.negative as u16) << 15;
        let magnitude = match x.class {
            Class::Zero => return (0, sign),
            Class::Finite if x.exponent <= 63 => self.magnitude(&x, self.rounding()),
            _ => None,
        };
        let Some((mut n, inexact, up)) = magnitude.filter(|m| m.0 < LIMIT) else {
            self.raise(status::IE);
            return INDEFINITE;
        };
        self.note_inexact(inexact, up);
        let mut digits = 0u128;
        for position in 0..18 {
            digits |= (n as u128 % 10) << (4 * position);
            n /= 10;
        }
        (digits as u64, (digits >> 64) as u16 | sign)
    }
}
