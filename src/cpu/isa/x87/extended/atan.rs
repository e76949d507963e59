//! FPATAN.

use super::wide::{PI, Wide};
use super::{Calculator, Class, Operand, zero};
use crate::cpu::state::F80;

/// atan(k / 16) for k = 1 to 16.
const ATAN_SIXTEENTHS: [Wide; 16] = [
    Wide::positive(-5, 0xffaa_ddb9_67ef_4e36_cb27_92dc_0e2e_0d51),
    Wide::positive(-4, 0xfead_d4d5_617b_6e32_c897_989f_3e88_8ef8),
    Wide::positive(-3, 0xbdcb_da5e_72d8_1134_7b0b_4f88_1c9c_7488),
    Wide::positive(-3, 0xfadb_afc9_6406_eb15_6dc7_9ef5_f7a2_17e6),
    Wide::positive(-2, 0x9b13_b9b8_3f5e_5e69_c5ab_b498_d27a_f328),
    Wide::positive(-2, 0xb7b0_ca0f_26f7_8473_8aa3_2122_dcfe_4483),
    Wide::positive(-2, 0xd327_761e_611f_e5b6_427c_95e9_001e_7136),
    Wide::positive(-2, 0xed63_382b_0dda_7b45_6fe4_45ec_bc3a_8d03),
    Wide::positive(-1, 0x832b_f4a6_d986_7e2a_4b6a_09cb_61a5_15c1),
    Wide::positive(-1, 0x8f00_5d5e_f7f5_9f9b_5c83_5e16_65c4_3748),
    Wide::positive(-1, 0x9a2f_80e6_71bd_da20_4226_f8e2_204f_f3bd),
    Wide::positive(-1, 0xa4bc_7d19_34f7_0924_19a8_7f2a_457d_ac9f),
    Wide::positive(-1, 0xaeac_4c38_b4d8_c080_1472_5e2f_3e52_070a),
    Wide::positive(-1, 0xb805_3e2b_c231_9e73_cb2d_a552_10a4_443d),
    Wide::positive(-1, 0xc0ce_85b8_ac52_6640_89dd_62c4_6e92_fa25),
    Wide::positive(-1, 0xc90f_daa2_2168_c234_c4c6_628b_80dc_1cd1),
];

/// The arc tangent of 0 <= t <= 1.
fn arc_tangent(t: Wide) -> Wide {
    // The nearest sixteenth.
    let scaled = t.shifted(4).plus(Wide::ONE.shifted(-1));
    let k = if scaled.exponent < 0 {
        0
    } else {
        (scaled.significand >> (127 - scaled.exponent)) as usize
    };
    let Some(&base) = k.checked_sub(1).and_then(|n| ATAN_SIXTEENTHS.get(n)) else {
        return series(t);
    };
    // atan t = atan c + atan((t - c) / (1 + t c))
    let c = Wide::scaled(k as u128, -4);
    let rest = t.minus(c).over(Wide::ONE.plus(t.times(c)));
    base.plus(series(rest))
}

/// The arc tangent of |t| <= 1/31 by its power series.
fn series(t: Wide) -> Wide {
    let square = t.times(t);
    let sum = (0..14).rev().fold(Wide::ZERO, |sum, n| {
        Wide::ONE.over_integer(2 * n + 1).minus(square.times(sum))
    });
    t.times(sum)
}

impl Calculator {
    /// The angle of the point (x, y).
    pub fn arc_tangent_of(&mut self, y: F80, x: F80) -> F80 {
        let (a, b) = (Operand::new(y), Operand::new(x));
        if a.is_nan() || b.is_nan() {
            return self.nan_of_two(x, y);
        }
        self.note_denormal(&a);
        self.note_denormal(&b);
        let angle = match (a.class, b.class) {
            (Class::Zero, _) | (Class::Finite, Class::Infinity) if !b.negative => {
                return zero(a.negative);
            }
            (Class::Zero, _) | (Class::Finite, Class::Infinity) => PI,
            (Class::Infinity, Class::Infinity) if b.negative => {
                PI.times(Wide::from_integer(3)).shifted(-2)
            }
            (Class::Infinity, Class::Infinity) => PI.shifted(-2),
            (Class::Infinity, _) | (_, Class::Zero) => PI.shifted(-1),
            _ => finite_angle(Wide::from_operand(&a).abs(), Wide::from_operand(&b)),
        };
        self.round_irrational(angle.negated_if(a.negative))
    }
}

/// The angle of (x, y), y positive, x not zero.
fn finite_angle(y: Wide, x: Wide) -> Wide {
    let half = PI.shifted(-1);
    match (x.abs().is_smaller(y), x.negative) {
        (false, false) => arc_tangent(y.over(x)),
        (false, true) => PI.minus(arc_tangent(y.over(x.abs()))),
        (true, false) => half.minus(arc_tangent(x.over(y))),
        (true, true) => half.plus(arc_tangent(x.abs().over(y))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_what_the_series_gives() {
        for (n, &entry) in ATAN_SIXTEENTHS.iter().enumerate() {
            // atan t = 2 atan(t / (1 + sqrt(1 + t^2))); the root by Newton's method.
            let mut t = Wide::scaled(n as u128 + 1, -4);
            let mut halvings = 0;
            while t.exponent >= -6 {
                let square = Wide::ONE.plus(t.times(t));
                let root = (0..9).fold(Wide::ONE, |r, _| r.plus(square.over(r)).shifted(-1));
                t = t.over(Wide::ONE.plus(root));
                halvings += 1;
            }
            let difference = series(t).shifted(halvings).minus(entry);
            assert!(
                difference.is_zero() || difference.exponent < entry.exponent - 118,
                "{n}: {difference:?}"
            );
        }
    }
}
