//! FSIN, FCOS, FSINCOS, FPTAN.
//!
//! Arguments above pi/4 are reduced by the pi of 66 bits that the SDM gives (volume 1, 8.3.8), exactly; the function
//! of the reduced argument is rounded correctly.

use super::remainder::divide_shifted;
use super::wide::Wide;
use super::{Calculator, Class, Operand};
use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::F80;

/// Pi / 2 in units of 2^-65.
const HALF_PI: u128 = 0xc_90fd_aa22_168c_234c >> 2;

/// An argument as a quarter turn and what is left of it, at most pi/4.
struct Reduced {
    quadrant: u64,
    rest: Wide,
}

fn reduce(x: &Operand) -> Reduced {
    if x.exponent < -1 {
        return Reduced {
            quadrant: 0,
            rest: Wide::from_operand(x),
        };
    }
    // x in units of 2^-65 is the significand shifted left by exponent + 2.
    let (quotient, rest) = divide_shifted(x.significand as u128, (x.exponent + 2) as u32, HALF_PI);
    let (quadrant, rest) = if 2 * rest > HALF_PI {
        let less = Wide::scaled(HALF_PI - rest, -65).negated_if(true);
        (quotient.wrapping_add(1), less)
    } else {
        (quotient, Wide::scaled(rest, -65))
    };
    Reduced {
        quadrant: if x.negative {
            quadrant.wrapping_neg()
        } else {
            quadrant
        },
        rest: rest.negated_if(x.negative),
    }
}

/// Terms of the series for arguments up to pi/4.
const TERMS: u32 = 18;

fn sine(x: Wide) -> Wide {
    let square = x.times(x);
    let sum = (1..TERMS).rev().fold(Wide::ONE, |sum, n| {
        Wide::ONE.minus(square.times(sum).over_integer(2 * n * (2 * n + 1)))
    });
    x.times(sum)
}

fn cosine(x: Wide) -> Wide {
    let square = x.times(x);
    (1..TERMS).rev().fold(Wide::ONE, |sum, n| {
        Wide::ONE.minus(square.times(sum).over_integer(2 * n * (2 * n - 1)))
    })
}

fn tangent(x: Wide) -> Wide {
    if x.exponent < -40 {
        // x + x^3/3: the quotient would not tell on which side of x it lies.
        let more = x.times(x).over_integer(3);
        return x.times(Wide::ONE.plus(more));
    }
    sine(x).over(cosine(x))
}

impl Calculator {
    /// Sine and cosine. `None`: the argument is out of range, and C2 is to be set.
    pub fn sine_cosine(&mut self, a: F80) -> Option<(F80, F80)> {
        let sine = self.trigonometric(a, false)?;
        // Flags are those of both; C1 is that of the cosine, which is computed last.
        self.flags &= !status::C1;
        let cosine = self.trigonometric(a, true)?;
        Some((sine, cosine))
    }

    /// Sine, or cosine.
    pub fn trigonometric(&mut self, a: F80, cosine_wanted: bool) -> Option<F80> {
        let x = Operand::new(a);
        match x.class {
            Class::Zero if cosine_wanted => return Some(super::ONE),
            Class::Zero => return Some(a),
            Class::Infinity => return Some(self.invalid()),
            Class::Finite => {}
            _ => return Some(self.nan(a)),
        }
        if x.exponent >= 63 {
            return None;
        }
        self.note_denormal(&x);
        let Reduced { quadrant, rest } = reduce(&x);
        let turned = quadrant.wrapping_add(cosine_wanted as u64);
        let value = if turned & 1 == 0 {
            sine(rest)
        } else {
            cosine(rest)
        };
        Some(self.round_irrational(value.negated_if(turned & 2 != 0)))
    }

    /// Tangent. `None` as above.
    pub fn tangent(&mut self, a: F80) -> Option<F80> {
        let x = Operand::new(a);
        match x.class {
            Class::Zero => return Some(a),
            Class::Infinity => return Some(self.invalid()),
            Class::Finite => {}
            _ => return Some(self.nan(a)),
        }
        if x.exponent >= 63 {
            return None;
        }
        self.note_denormal(&x);
        let Reduced { quadrant, rest } = reduce(&x);
        let value = tangent(rest);
        let value = if quadrant & 1 == 0 {
            value
        } else {
            Wide::ONE.over(value).negated_if(true)
        };
        Some(self.round_irrational(value))
    }
}
