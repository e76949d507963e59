//! Rounding: from an exact or sticky significand of 128 bits to what the destination holds.

use super::{Calculator, EXPONENT_SPECIAL, INTEGER, Rounding, infinity, zero};
use crate::cpu::isa::x87::registers::status;
use crate::cpu::state::F80;

/// What unmasked overflow and underflow add to the exponent (SDM volume 1, 8.5.4 and 8.5.5).
const EXPONENT_ADJUSTMENT: i32 = 0x6000;

/// Shifts right; what falls out is kept as a set lowest bit.
#[inline]
pub fn shift_right_sticky(value: u128, by: u32) -> u128 {
    match by {
        0 => value,
        1..=127 => value >> by | (value << (128 - by) != 0) as u128,
        _ => (value != 0) as u128,
    }
}

/// A significand cut to a number of bits.
pub struct Cut {
    /// The bits that stay, at the upper end of the word.
    pub significand: u64,
    /// Rounding carried out of the word: the significand is 1.0 of the next exponent.
    pub carry: bool,
    /// Something was lost.
    pub inexact: bool,
    /// Rounded away from zero.
    pub up: bool,
}

/// Keeps the upper `bits` (1 to 64) bits of a significand.
#[inline]
pub fn cut(significand: u128, bits: u32, rounding: Rounding, negative: bool) -> Cut {
    let dropped = 128 - bits;
    let rest = significand & ((1 << dropped) - 1);
    let half = 1u128 << (dropped - 1);
    let odd = significand >> dropped & 1 != 0;
    let up = match rounding {
        Rounding::Nearest => rest > half || rest == half && odd,
        Rounding::Down => negative && rest != 0,
        Rounding::Up => !negative && rest != 0,
        Rounding::Zero => false,
    };
    let kept = ((significand >> dropped) as u64) << (64 - bits);
    let (sum, carry) = kept.overflowing_add((up as u64) << (64 - bits));
    Cut {
        significand: if carry { INTEGER } else { sum },
        carry,
        inexact: rest != 0,
        up,
    }
}

impl Calculator {
    /// Rounds to the precision of the control word. The value is `significand * 2^(exponent - 127)`, `exponent`
    /// without bias, `significand` not 0 (it need not be normalised); its lowest bit may stand for all below.
    #[inline]
    pub fn round(&mut self, negative: bool, exponent: i32, significand: u128) -> F80 {
        self.round_to(negative, exponent, significand, self.precision())
    }

    /// Rounds to a precision of 24, 53 or 64 bits.
    pub fn round_to(&mut self, negative: bool, exponent: i32, significand: u128, bits: u32) -> F80 {
        debug_assert!(significand != 0);
        let shift = significand.leading_zeros();
        let significand = significand << shift;
        let biased = exponent - shift as i32 + super::BIAS;
        let cut = cut(significand, bits, self.rounding(), negative);
        let rounded = biased + cut.carry as i32;
        if rounded < 1 {
            return self.underflow(negative, biased, significand, bits, cut);
        }
        if rounded >= EXPONENT_SPECIAL {
            return self.overflow(negative, rounded, bits, cut);
        }
        self.note_inexact(cut.inexact, cut.up);
        pack(negative, rounded, cut.significand)
    }

    /// Flags inexactness and the direction of rounding.
    #[inline(always)]
    pub fn note_inexact(&mut self, inexact: bool, up: bool) {
        if inexact {
            self.raise(status::PE | if up { status::C1 } else { 0 });
        }
    }

    #[cold]
    fn underflow(
        &mut self,
        negative: bool,
        biased: i32,
        significand: u128,
        bits: u32,
        normal: Cut,
    ) -> F80 {
        if !self.is_masked(status::UE) {
            self.raise(status::UE);
            let adjusted = biased + normal.carry as i32 + EXPONENT_ADJUSTMENT;
            if adjusted < 1 {
                // Massive underflow, which only FSCALE and the transcendental instructions can reach.
                self.note_inexact(true, false);
                return zero(negative);
            }
            self.note_inexact(normal.inexact, normal.up);
            return pack(negative, adjusted, normal.significand);
        }
        let denormal = shift_right_sticky(significand, (1 - biased) as u32);
        let cut = cut(denormal, bits, self.rounding(), negative);
        if cut.inexact {
            self.raise(status::UE);
            self.note_inexact(true, cut.up);
        }
        let exponent = (cut.significand >> 63) as i32;
        pack(negative, exponent, cut.significand)
    }

    #[cold]
    fn overflow(&mut self, negative: bool, rounded: i32, bits: u32, cut: Cut) -> F80 {
        self.raise(status::OE);
        if !self.is_masked(status::OE) {
            let adjusted = rounded - EXPONENT_ADJUSTMENT;
            if adjusted >= EXPONENT_SPECIAL {
                // Massive overflow: see `underflow`.
                self.note_inexact(true, true);
                return infinity(negative);
            }
            self.note_inexact(cut.inexact, cut.up);
            return pack(negative, adjusted, cut.significand);
        }
        let away = match self.rounding() {
            Rounding::Nearest => true,
            Rounding::Down => negative,
            Rounding::Up => !negative,
            Rounding::Zero => false,
        };
        self.note_inexact(true, away);
        if away {
            infinity(negative)
        } else {
            pack(negative, EXPONENT_SPECIAL - 1, u64::MAX << (64 - bits))
        }
    }
}

#[inline(always)]
fn pack(negative: bool, biased: i32, significand: u64) -> F80 {
    F80::new((negative as u16) << 15 | biased as u16, significand)
}
