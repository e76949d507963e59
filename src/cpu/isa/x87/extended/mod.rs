//! Arithmetic on 80-bit extended numbers in integers: exact, and the same on every host.
//!
//! A [`Calculator`] holds the control word and collects what the status word is to get: exception flags, C1 where
//! the result was rounded up, C0 to C3 of comparisons and remainders. The stack, masks of operand exceptions and
//! delivery are the business of the instructions.
//!
//! SDM volume 1, chapters 4.8, 4.9 and 8.5. Precision control shortens the significand only; the exponent keeps
//! its range. Tininess is detected after rounding.

mod arithmetic;
mod atan;
mod convert;
mod decimal;
mod exponential;
mod remainder;
mod round;
mod trigonometric;
mod wide;

pub use convert::Widened;
pub use decimal::from_decimal;

use super::registers::{INDEFINITE, status};
use crate::cpu::state::F80;

/// Bias of the exponent.
pub const BIAS: i32 = 16383;
/// The exponent of infinities and NaNs.
pub const EXPONENT_SPECIAL: i32 = 0x7fff;
/// The integer bit.
pub const INTEGER: u64 = 1 << 63;
/// The bit that makes a NaN quiet.
pub const QUIET: u64 = 1 << 62;

/// What a bit pattern is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// ±0.
    Zero,
    /// Normal, denormal or pseudo-denormal.
    Finite,
    /// ±∞.
    Infinity,
    /// A NaN that does not raise anything.
    Quiet,
    /// A NaN that raises invalid-operation.
    Signalling,
    /// Unnormals, pseudo-infinities, pseudo-NaNs: no operand since the 80387.
    Unsupported,
}

/// An operand taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// What it is.
    pub class: Class,
    /// Sign bit.
    pub negative: bool,
    /// Finite numbers only: exponent without bias, so that the value is `significand * 2^(exponent - 63)`.
    pub exponent: i32,
    /// Finite numbers only: normalised, bit 63 set.
    pub significand: u64,
    /// It was denormal or pseudo-denormal.
    pub denormal: bool,
}

impl Operand {
    /// Takes a number apart.
    #[inline]
    pub fn new(value: F80) -> Operand {
        let exponent = value.exponent();
        let mantissa = value.mantissa;
        let mut operand = Operand {
            class: Class::Finite,
            negative: value.is_negative(),
            exponent: exponent - BIAS,
            significand: mantissa,
            denormal: false,
        };
        if exponent == 0 {
            if mantissa == 0 {
                operand.class = Class::Zero;
            } else {
                let shift = mantissa.leading_zeros();
                operand.denormal = true;
                operand.exponent = 1 - BIAS - shift as i32;
                operand.significand = mantissa << shift;
            }
        } else if mantissa & INTEGER == 0 {
            operand.class = Class::Unsupported;
        } else if exponent == EXPONENT_SPECIAL {
            operand.class = if mantissa == INTEGER {
                Class::Infinity
            } else if mantissa & QUIET != 0 {
                Class::Quiet
            } else {
                Class::Signalling
            };
        }
        operand
    }

    /// Whether it is a NaN or unsupported.
    #[inline(always)]
    pub fn is_nan(&self) -> bool {
        matches!(
            self.class,
            Class::Quiet | Class::Signalling | Class::Unsupported
        )
    }
}

/// ±0.
#[inline(always)]
pub fn zero(negative: bool) -> F80 {
    F80::new((negative as u16) << 15, 0)
}

/// ±∞.
#[inline(always)]
pub fn infinity(negative: bool) -> F80 {
    F80::new((negative as u16) << 15 | EXPONENT_SPECIAL as u16, INTEGER)
}

/// 1.
pub const ONE: F80 = F80::new(BIAS as u16, INTEGER);

/// Makes a NaN quiet.
#[inline(always)]
pub fn quieted(value: F80) -> F80 {
    F80 {
        mantissa: value.mantissa | QUIET,
        ..value
    }
}

/// The direction of rounding (RC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Towards -∞.
    Down,
    /// Towards +∞.
    Up,
    /// Towards zero.
    Zero,
}

/// One instruction's arithmetic.
pub struct Calculator {
    /// Control word.
    pub control: u16,
    /// What is added to the status word.
    pub flags: u16,
}

impl Calculator {
    /// Arithmetic under a control word.
    #[inline(always)]
    pub fn new(control: u16) -> Calculator {
        Calculator { control, flags: 0 }
    }

    /// RC.
    #[inline(always)]
    pub fn rounding(&self) -> Rounding {
        match self.control >> 10 & 3 {
            0 => Rounding::Nearest,
            1 => Rounding::Down,
            2 => Rounding::Up,
            _ => Rounding::Zero,
        }
    }

    /// PC as a number of bits. The reserved setting works as 64 bits.
    #[inline(always)]
    pub fn precision(&self) -> u32 {
        match self.control >> 8 & 3 {
            0 => 24,
            2 => 53,
            _ => 64,
        }
    }

    /// Whether an exception is masked.
    #[inline(always)]
    pub fn is_masked(&self, exception: u16) -> bool {
        self.control & exception != 0
    }

    /// Flags exceptions or conditions.
    #[inline(always)]
    pub fn raise(&mut self, flags: u16) {
        self.flags |= flags;
    }

    /// Invalid operation: flags it and gives the indefinite NaN.
    #[cold]
    pub fn invalid(&mut self) -> F80 {
        self.raise(status::IE);
        INDEFINITE
    }

    /// Flags a denormal operand.
    #[inline(always)]
    pub fn note_denormal(&mut self, operand: &Operand) {
        if operand.denormal {
            self.raise(status::DE);
        }
    }

    /// The result of an operation on one operand that is a NaN or unsupported.
    #[cold]
    pub fn nan(&mut self, value: F80) -> F80 {
        match Operand::new(value).class {
            Class::Unsupported => self.invalid(),
            Class::Signalling => {
                self.raise(status::IE);
                quieted(value)
            }
            _ => value,
        }
    }

    /// The result of an operation on two operands of which one at least is a NaN or unsupported (SDM volume 1,
    /// table 4-7).
    #[cold]
    pub fn nan_of_two(&mut self, a: F80, b: F80) -> F80 {
        let (class_a, class_b) = (Operand::new(a).class, Operand::new(b).class);
        if class_a == Class::Unsupported || class_b == Class::Unsupported {
            return self.invalid();
        }
        let signals = [class_a, class_b].map(|class| class == Class::Signalling);
        if signals != [false; 2] {
            self.raise(status::IE);
        }
        let nans = [class_a, class_b].map(|c| matches!(c, Class::Quiet | Class::Signalling));
        match (signals, nans) {
            // A quiet NaN beside a signalling one wins.
            ([true, false], [_, true]) => b,
            ([false, true], [true, _]) => a,
            (_, [true, false]) => quieted(a),
            (_, [false, _]) => quieted(b),
            _ => {
                let (a, b) = (quieted(a), quieted(b));
                let key = |x: F80| (x.mantissa, !x.is_negative());
                if key(b) > key(a) { b } else { a }
            }
        }
    }
}
