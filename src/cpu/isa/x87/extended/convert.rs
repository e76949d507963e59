//! Conversions: binary32, binary64 and integers, and rounding to an integer.

use super::round::{cut, shift_right_sticky};
use super::{BIAS, Calculator, Class, EXPONENT_SPECIAL, INTEGER, Operand, Rounding, zero};
use crate::cpu::isa::x87::registers::{INDEFINITE, status};
use crate::cpu::state::F80;

/// A format of memory operands: binary32 or binary64.
#[derive(Clone, Copy)]
struct Format {
    /// Bits of the significand, with the one that is not stored.
    precision: u32,
    bias: i32,
    /// Exponent of infinities and NaNs.
    special: i32,
    /// Position of the sign.
    sign_shift: u32,
}

const SINGLE: Format = Format {
    precision: 24,
    bias: 127,
    special: 0xff,
    sign_shift: 31,
};
const DOUBLE: Format = Format {
    precision: 53,
    bias: 1023,
    special: 0x7ff,
    sign_shift: 63,
};

/// An operand as it was in memory, widened without raising anything: NaNs may still be signalling.
#[derive(Clone, Copy)]
pub struct Widened {
    /// Exact.
    pub value: F80,
    /// It was denormal in its own format; in the extended one it is not.
    pub denormal: bool,
}

impl Widened {
    /// From binary32.
    pub fn from_single(bits: u32) -> Widened {
        widen(bits as u64, SINGLE)
    }

    /// From binary64.
    pub fn from_double(bits: u64) -> Widened {
        widen(bits, DOUBLE)
    }

    /// From an integer.
    pub fn from_integer(value: i64) -> Widened {
        Widened {
            value: from_integer(value),
            denormal: false,
        }
    }
}

#[inline(always)]
fn widen(bits: u64, format: Format) -> Widened {
    let stored = format.precision - 1;
    let fraction = bits & ((1 << stored) - 1);
    let exponent = (bits >> stored) as i32 & format.special;
    let sign = ((bits >> format.sign_shift) as u16 & 1) << 15;
    let denormal = exponent == 0 && fraction != 0;
    let value = if denormal {
        let shift = fraction.leading_zeros();
        let exponent = 1 - format.bias + BIAS + (63 - stored as i32) - shift as i32;
        F80::new(sign | exponent as u16, fraction << shift)
    } else if exponent == 0 {
        zero(sign != 0)
    } else {
        let wide = if exponent == format.special {
            EXPONENT_SPECIAL
        } else {
            exponent - format.bias + BIAS
        };
        F80::new(sign | wide as u16, INTEGER | fraction << (63 - stored))
    };
    Widened { value, denormal }
}

impl Calculator {
    /// What FLD makes of an operand of a shorter format.
    pub fn load(&mut self, operand: Widened) -> F80 {
        if operand.denormal {
            self.raise(status::DE);
        }
        if operand.value.exponent() == EXPONENT_SPECIAL && operand.value.mantissa != INTEGER {
            return self.nan(operand.value);
        }
        operand.value
    }

    /// Flags a denormal operand of a shorter format, after the operation with `other` is done: invalid operation,
    /// division by zero, and NaNs come before it.
    pub fn note_widened(&mut self, operand: Widened, other: F80) {
        if operand.denormal
            && self.flags & (status::IE | status::ZE) == 0
            && !Operand::new(other).is_nan()
        {
            self.raise(status::DE);
        }
    }

    /// Narrows to binary32.
    pub fn round_to_single(&mut self, value: F80) -> u32 {
        self.narrow(value, SINGLE) as u32
    }

    /// Narrows to binary64.
    pub fn round_to_double(&mut self, value: F80) -> u64 {
        self.narrow(value, DOUBLE)
    }

    fn narrow(&mut self, value: F80, format: Format) -> u64 {
        let x = Operand::new(value);
        let stored = format.precision - 1;
        let sign = (x.negative as u64) << format.sign_shift;
        let special = (format.special as u64) << stored;
        match x.class {
            Class::Zero => return sign,
            Class::Infinity => return sign | special,
            Class::Finite => {}
            _ => {
                let nan = self.nan(value);
                let sign = (nan.is_negative() as u64) << format.sign_shift;
                return sign | special | (nan.mantissa & !INTEGER) >> (63 - stored);
            }
        }
        let significand = (x.significand as u128) << 64;
        let rounded = cut(significand, format.precision, self.rounding(), x.negative);
        let biased = x.exponent + rounded.carry as i32 + format.bias;
        if biased < 1 {
            return sign | self.narrow_tiny(&x, format);
        }
        if biased >= format.special {
            self.raise(status::OE);
            if !self.is_masked(status::OE) {
                // Nothing will be stored.
                return sign;
            }
            let away = match self.rounding() {
                Rounding::Nearest => true,
                Rounding::Down => x.negative,
                Rounding::Up => !x.negative,
                Rounding::Zero => false,
            };
            self.note_inexact(true, away);
            return sign | if away { special } else { special - 1 };
        }
        self.note_inexact(rounded.inexact, rounded.up);
        let fraction = (rounded.significand & !INTEGER) >> (63 - stored);
        sign | (biased as u64) << stored | fraction
    }

    fn narrow_tiny(&mut self, x: &Operand, format: Format) -> u64 {
        let shift = 1 - format.bias - x.exponent;
        let significand = shift_right_sticky((x.significand as u128) << 64, shift as u32);
        let rounded = cut(significand, format.precision, self.rounding(), x.negative);
        if !self.is_masked(status::UE) {
            // Nothing will be stored.
            self.raise(status::UE);
            return 0;
        }
        if rounded.inexact {
            self.raise(status::UE);
        }
        self.note_inexact(rounded.inexact, rounded.up);
        // A carry into the integer bit makes the smallest normal number.
        rounded.significand >> (64 - format.precision)
    }

    /// Rounds to an integer of `bits` bits (16, 32 or 64) in a direction. What does not fit is invalid and gives
    /// the smallest integer.
    pub fn integer_of_width(&mut self, value: F80, bits: u32, rounding: Rounding) -> i64 {
        let indefinite = i64::MIN >> (64 - bits);
        let x = Operand::new(value);
        let magnitude = match x.class {
            Class::Zero => return 0,
            Class::Finite if x.exponent <= 63 => self.magnitude(&x, rounding),
            _ => None,
        };
        let limit = 1u64 << (bits - 1);
        match magnitude {
            Some((n, inexact, up)) if n < limit || x.negative && n == limit => {
                self.note_inexact(inexact, up);
                if x.negative {
                    (n as i64).wrapping_neg()
                } else {
                    n as i64
                }
            }
            _ => {
                self.raise(status::IE);
                indefinite
            }
        }
    }

    /// The magnitude of a finite number below 2^64 rounded to an integer: the integer, whether it is inexact, and
    /// whether it was rounded away from zero. `None` if it comes to 2^64.
    pub fn magnitude(&self, x: &Operand, rounding: Rounding) -> Option<(u64, bool, bool)> {
        debug_assert!(x.exponent <= 63);
        let fixed = shift_right_sticky((x.significand as u128) << 64, (63 - x.exponent) as u32);
        let rounded = cut(fixed, 64, rounding, x.negative);
        (!rounded.carry).then_some((rounded.significand, rounded.inexact, rounded.up))
    }

    /// Rounds to an integer in the extended format.
    pub fn round_to_integer(&mut self, value: F80) -> F80 {
        let x = Operand::new(value);
        match x.class {
            Class::Zero | Class::Infinity => return value,
            Class::Finite => {}
            _ => return self.nan(value),
        }
        self.note_denormal(&x);
        if x.exponent >= 63 {
            return value;
        }
        match self.magnitude(&x, self.rounding()) {
            Some((n, inexact, up)) => {
                self.note_inexact(inexact, up);
                let magnitude = from_unsigned(n);
                F80::new(
                    magnitude.sign_exponent as u16 | (x.negative as u16) << 15,
                    magnitude.mantissa,
                )
            }
            None => INDEFINITE, // below 2^63, so never
        }
    }
}

/// Exact.
pub fn from_integer(value: i64) -> F80 {
    let magnitude = from_unsigned(value.unsigned_abs());
    if value < 0 {
        magnitude.negated()
    } else {
        magnitude
    }
}

/// Exact.
pub fn from_unsigned(value: u64) -> F80 {
    if value == 0 {
        return zero(false);
    }
    let shift = value.leading_zeros();
    F80::new((BIAS + 63) as u16 - shift as u16, value << shift)
}
