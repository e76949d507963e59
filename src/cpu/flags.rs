//! RFLAGS with lazy arithmetic flags.
//!
//! An arithmetic instruction stores two words, and a reader computes the flag that it wants from them without a
//! branch. `result` is the sign-extended result: ZF, SF and PF come from it. `aux` holds carries:
//!
//! ```text
//!  63   62     ...    3    2   1   0
//! +----+----+------+----+----+---+---+
//! | CF | C' | any  | AF |    |PFx|SFx|     C' = carry into the top bit: OF = CF xor C'
//! +----+----+------+----+----+---+---+     PFx, SFx: flip what the result says (only after POPF and the like)
//! ```
//!
//! The order of operand sizes vanishes because carries are shifted up so that the top bit's stands at 63.
//! SDM volume 1, 3.4.3; undefined flags have the values that `docs/undefined.md` lists.

use bytemuck::{Pod, Zeroable};

#[allow(missing_docs)]
pub mod bits {
    pub const CF: u64 = 1 << 0;
    pub const ONE: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// The six arithmetic flags.
    pub const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;
    /// All that exist.
    pub const ALL: u64 = ARITHMETIC | TF | IF | DF | IOPL | NT | RF | VM | AC | VIF | VIP | ID;
}
use bits::*;

/// Width of an operand: what instruction bodies are generic over.
pub trait Width: Copy + Eq + Pod {
    /// Bits.
    const BITS: u32;
    /// Bytes.
    const BYTES: usize;
    /// Truncates.
    fn from_u64(value: u64) -> Self;
    /// Zero-extends.
    fn to_u64(self) -> u64;
    /// Sign-extends.
    fn sext(self) -> u64;
    /// The top bit.
    #[inline(always)]
    fn sign(self) -> bool {
        self.sext() >> 63 != 0
    }
}

macro_rules! width {
    ($unsigned:ty, $signed:ty) => {
        impl Width for $unsigned {
            const BITS: u32 = <$unsigned>::BITS;
            const BYTES: usize = size_of::<$unsigned>();
            #[inline(always)]
            fn from_u64(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn to_u64(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sext(self) -> u64 {
                self as $signed as i64 as u64
            }
        }
    };
}
width!(u8, i8);
width!(u16, i16);
width!(u32, i32);
width!(u64, i64);

const AUX_CF: u64 = 1 << 63;
const AUX_CARRY_IN: u64 = 1 << 62;
const AUX_AF: u64 = 1 << 3;
const AUX_PF_FLIP: u64 = 1 << 1;
const AUX_SF_FLIP: u64 = 1;
/// A result that is not zero, not negative, and of even parity in its low byte.
const NEUTRAL: u64 = 1 << 8;

/// RFLAGS.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Flags {
    result: u64,
    aux: u64,
    /// All but the arithmetic flags, in their places.
    other: u64,
    /// Keeps `State` free of padding.
    reserved: u64,
}

impl Flags {
    /// RFLAGS as a number.
    pub fn rflags(&self) -> u64 {
        self.other | self.arithmetic() | ONE
    }

    /// The six arithmetic flags, in their places.
    #[inline]
    pub fn arithmetic(&self) -> u64 {
        (self.cf() as u64)
            | (self.pf() as u64) << 2
            | (self.af() as u64) << 4
            | (self.zf() as u64) << 6
            | (self.sf() as u64) << 7
            | (self.of() as u64) << 11
    }

    /// Sets all of RFLAGS; bits that do not exist are dropped.
    pub fn set_rflags(&mut self, rflags: u64) {
        self.other = rflags & ALL & !ARITHMETIC;
        self.set_arithmetic(rflags);
    }

    /// Sets the six arithmetic flags from their places in a number.
    #[inline]
    pub fn set_arithmetic(&mut self, rflags: u64) {
        let cf = rflags & 1;
        let of = rflags >> 11 & 1;
        self.result = if rflags & ZF != 0 { 0 } else { NEUTRAL };
        self.aux = (rflags >> 7 & 1)
            | (!(rflags >> 2) & 1) << 1
            | (rflags >> 4 & 1) << 3
            | cf << 63
            | (cf ^ of) << 62;
    }

    /// Bits that are not arithmetic flags.
    #[inline(always)]
    pub fn other(&self) -> u64 {
        self.other
    }

    /// Sets or clears bits that are not arithmetic flags.
    #[inline(always)]
    pub fn set_other(&mut self, bits: u64, on: bool) {
        debug_assert!(bits & ARITHMETIC == 0);
        if on {
            self.other |= bits;
        } else {
            self.other &= !bits;
        }
    }

    /// Interrupts enabled.
    #[inline(always)]
    pub fn interrupts(&self) -> bool {
        self.other & IF != 0
    }

    /// Direction flag.
    #[inline(always)]
    pub fn df(&self) -> bool {
        self.other & DF != 0
    }

    /// Virtual-8086 mode.
    #[inline(always)]
    pub fn vm86(&self) -> bool {
        self.other & VM != 0
    }

    /// I/O privilege level.
    #[inline(always)]
    pub fn iopl(&self) -> u8 {
        (self.other >> 12 & 3) as u8
    }

    /// Carry.
    #[inline(always)]
    pub fn cf(&self) -> bool {
        (self.aux as i64) < 0
    }
    /// Zero.
    #[inline(always)]
    pub fn zf(&self) -> bool {
        self.result == 0
    }
    /// Sign.
    #[inline(always)]
    pub fn sf(&self) -> bool {
        ((self.result >> 63) ^ self.aux) & 1 != 0
    }
    /// Overflow.
    #[inline(always)]
    pub fn of(&self) -> bool {
        ((self.aux ^ (self.aux << 1)) as i64) < 0
    }
    /// Even parity of the low byte.
    #[inline(always)]
    pub fn pf(&self) -> bool {
        ((self.result as u8).count_ones() as u64 ^ (self.aux >> 1)) & 1 == 0
    }
    /// Carry out of bit 3.
    #[inline(always)]
    pub fn af(&self) -> bool {
        self.aux & AUX_AF != 0
    }
    /// SF differs from OF: signed less.
    #[inline(always)]
    pub fn less(&self) -> bool {
        ((self.result ^ (self.aux << 63) ^ self.aux ^ (self.aux << 1)) as i64) < 0
    }

    /// Sets the carry flag alone.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        // OF = CF ^ C', so C' flips together with CF.
        if cf != self.cf() {
            self.aux ^= AUX_CF | AUX_CARRY_IN;
        }
    }

    /// Sets the zero flag alone.
    #[inline]
    pub fn set_zf(&mut self, zf: bool) {
        let others = self.arithmetic() & !ZF;
        self.set_arithmetic(others | if zf { ZF } else { 0 });
    }

    #[inline(always)]
    fn set<W: Width>(&mut self, result: W, carries: u64) {
        self.result = result.sext();
        self.aux = if W::BITS == 64 {
            carries & (AUX_CF | AUX_CARRY_IN | AUX_AF)
        } else {
            carries << (64 - W::BITS) | carries & AUX_AF
        };
    }

    /// After `result = a + b (+ carry)`.
    #[inline(always)]
    pub fn set_add<W: Width>(&mut self, a: W, b: W, result: W) {
        let (x, y, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        self.set(result, (x & y) | ((x | y) & !r));
    }

    /// After `result = a - b (- borrow)`.
    #[inline(always)]
    pub fn set_sub<W: Width>(&mut self, a: W, b: W, result: W) {
        let (x, y, r) = (a.to_u64(), b.to_u64(), result.to_u64());
        self.set(result, (!x & y) | ((!x | y) & r));
    }

    /// After AND, OR, XOR, TEST: CF = OF = 0; AF, undefined, is 0.
    #[inline(always)]
    pub fn set_logic<W: Width>(&mut self, result: W) {
        self.result = result.sext();
        self.aux = 0;
    }

    /// After INC: as ADD 1, with the carry flag kept.
    #[inline(always)]
    pub fn set_inc<W: Width>(&mut self, a: W, result: W) {
        let cf = self.cf();
        self.set_add(a, W::from_u64(1), result);
        self.set_cf(cf);
    }

    /// After DEC: as SUB 1, with the carry flag kept.
    #[inline(always)]
    pub fn set_dec<W: Width>(&mut self, a: W, result: W) {
        let cf = self.cf();
        self.set_sub(a, W::from_u64(1), result);
        self.set_cf(cf);
    }

    /// ZF, SF, PF from a result; CF and OF given; AF = 0. For shifts, rotates through the result, multiplication.
    #[inline(always)]
    pub fn set_result<W: Width>(&mut self, result: W, cf: bool, of: bool) {
        self.result = result.sext();
        self.aux = (cf as u64) << 63 | ((cf ^ of) as u64) << 62;
    }

    /// CF and OF alone (rotates).
    #[inline(always)]
    pub fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = self.aux & (AUX_AF | AUX_PF_FLIP | AUX_SF_FLIP)
            | (cf as u64) << 63
            | ((cf ^ of) as u64) << 62;
    }

    /// The condition of Jcc, SETcc, CMOVcc by its four encoding bits (SDM volume 2, appendix B.1.4.7).
    #[inline(always)]
    pub fn condition<const CC: u8>(&self) -> bool {
        let value = match CC >> 1 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() | self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.less(),
            _ => self.less() | self.zf(),
        };
        value ^ (CC & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference_add(a: u8, b: u8, carry: bool) -> (u8, u64) {
        let wide = a as u16 + b as u16 + carry as u16;
        let r = wide as u8;
        let mut f = 0;
        if wide > 0xff {
            f |= CF;
        }
        if (a & 15) + (b & 15) + carry as u8 > 15 {
            f |= AF;
        }
        let signed = a as i8 as i16 + b as i8 as i16 + carry as i16;
        if !(-128..=127).contains(&signed) {
            f |= OF;
        }
        (r, f | reference_szp(r))
    }

    fn reference_szp(r: u8) -> u64 {
        let mut f = 0;
        if r == 0 {
            f |= ZF;
        }
        if r & 0x80 != 0 {
            f |= SF;
        }
        if r.count_ones().is_multiple_of(2) {
            f |= PF;
        }
        f
    }

    #[test]
    fn all_eight_bit_sums_and_differences_have_the_flags_of_the_definition() {
        let mut flags = Flags::zeroed();
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                for carry in [false, true] {
                    let (r, want) = reference_add(a, b, carry);
                    flags.set_add(a, b, r);
                    assert_eq!(flags.arithmetic(), want, "{a} + {b} + {carry}");
                    // a - b - c = a + !b + !c with carry and half carry inverted
                    let (r, inverted) = reference_add(a, !b, !carry);
                    flags.set_sub(a, b, r);
                    assert_eq!(
                        flags.arithmetic(),
                        inverted ^ (CF | AF),
                        "{a} - {b} - {carry}"
                    );
                }
            }
        }
    }

    #[test]
    fn wide_operands_carry_at_their_own_top_bit() {
        let mut flags = Flags::zeroed();
        flags.set_add(0x8000_0000u32, 0x8000_0000, 0);
        assert_eq!(flags.arithmetic(), CF | OF | ZF | PF);
        flags.set_add(0x7fff_ffff_ffff_ffffu64, 1, 1 << 63);
        assert_eq!(flags.arithmetic(), OF | SF | PF | AF);
        flags.set_sub(0u16, 1, 0xffff);
        assert_eq!(flags.arithmetic(), CF | SF | PF | AF);
    }

    #[test]
    fn any_combination_survives_being_set_and_read() {
        for n in 0..64u64 {
            let f = (n & 1)
                | (n >> 1 & 1) << 2
                | (n >> 2 & 1) << 4
                | (n >> 3 & 3) << 6
                | (n >> 5) << 11;
            let mut flags = Flags::zeroed();
            flags.set_rflags(f | IF);
            assert_eq!(flags.rflags(), f | IF | ONE);
            flags.set_cf(f & CF == 0);
            assert_eq!(flags.arithmetic(), f ^ CF);
            flags.set_zf(f & ZF == 0);
            assert_eq!(flags.arithmetic(), f ^ CF ^ ZF);
            let less = (f & SF != 0) != (f & OF != 0);
            flags.set_rflags(f);
            assert_eq!(flags.less(), less);
            flags.set_inc(0x7fu8, 0x80);
            assert_eq!(flags.arithmetic(), (f & CF) | OF | SF | AF);
        }
    }
}
