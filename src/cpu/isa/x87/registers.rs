//! The registers of the x87 unit: stack, tags, control and status word, and what an exception does to them.
//!
//! The tag word in the state decides one thing only: 3 means empty. What else a tag tells (valid, zero, special)
//! follows from the register. It is kept in the tag word, too, so that a debugger sees it; only MMX instructions
//! leave 0 for all registers, and FNSTENV finds it out anew (SDM volume 3, table 14-2).

use crate::cpu::state::{F80, X87};

/// Bits of the status word (SDM volume 1, 8.1.3).
#[allow(missing_docs)]
pub mod status {
    pub const IE: u16 = 1 << 0;
    pub const DE: u16 = 1 << 1;
    pub const ZE: u16 = 1 << 2;
    pub const OE: u16 = 1 << 3;
    pub const UE: u16 = 1 << 4;
    pub const PE: u16 = 1 << 5;
    /// The stack over- or underflowed.
    pub const SF: u16 = 1 << 6;
    /// An unmasked exception is pending.
    pub const ES: u16 = 1 << 7;
    pub const C0: u16 = 1 << 8;
    pub const C1: u16 = 1 << 9;
    pub const C2: u16 = 1 << 10;
    pub const C3: u16 = 1 << 14;
    /// Busy: mirrors `ES`.
    pub const B: u16 = 1 << 15;
    /// The six exceptions.
    pub const EXCEPTIONS: u16 = 0x3f;
    /// All condition codes.
    pub const CONDITIONS: u16 = C0 | C1 | C2 | C3;
    /// Position of TOP.
    pub const TOP_SHIFT: u16 = 11;
    /// TOP.
    pub const TOP: u16 = 7 << TOP_SHIFT;
}
use status::*;

/// The control word after FNINIT: everything masked, 64 bits, to nearest.
pub const CONTROL_INITIAL: u16 = 0x037f;
/// Bits of the control word that can be set; bit 6 always reads as 1.
const CONTROL_WRITABLE: u16 = 0x1f3f;

/// The quiet NaN that masked invalid operations give.
pub const INDEFINITE: F80 = F80 {
    mantissa: 0xc000_0000_0000_0000,
    sign_exponent: 0xffff,
};

impl F80 {
    /// From sign and biased exponent, and significand.
    pub const fn new(sign_exponent: u16, mantissa: u64) -> F80 {
        F80 {
            mantissa,
            sign_exponent: sign_exponent as u64,
        }
    }

    /// Sign bit.
    #[inline(always)]
    pub fn is_negative(self) -> bool {
        self.sign_exponent & 0x8000 != 0
    }

    /// Biased exponent.
    #[inline(always)]
    pub fn exponent(self) -> i32 {
        (self.sign_exponent & 0x7fff) as i32
    }

    /// With the other sign.
    #[inline(always)]
    pub fn negated(self) -> F80 {
        F80 {
            mantissa: self.mantissa,
            sign_exponent: self.sign_exponent ^ 0x8000,
        }
    }

    /// The tag of a register that holds it: 0 valid, 1 zero, 2 special.
    #[inline]
    pub fn tag(self) -> u16 {
        match (self.exponent(), self.mantissa) {
            (0, 0) => 1,
            (1..=0x7ffe, mantissa) if mantissa >> 63 != 0 => 0,
            _ => 2,
        }
    }
}

impl X87 {
    /// Number of the physical register that is ST(0).
    #[inline(always)]
    pub fn top(&self) -> usize {
        (self.status >> TOP_SHIFT & 7) as usize
    }

    /// Sets TOP.
    #[inline(always)]
    pub fn set_top(&mut self, top: usize) {
        self.status = self.status & !TOP | (top as u16 & 7) << TOP_SHIFT;
    }

    /// Physical number of ST(i).
    #[inline(always)]
    fn physical(&self, i: u8) -> usize {
        (self.top() + i as usize) & 7
    }

    /// ST(i), empty or not.
    #[inline(always)]
    pub fn st(&self, i: u8) -> F80 {
        self.r[self.physical(i)]
    }

    /// Sets ST(i), without touching its tag: FXRSTOR and the like, and debuggers.
    #[inline(always)]
    pub fn set_st(&mut self, i: u8, value: F80) {
        let n = self.physical(i);
        self.r[n] = F80::new(value.sign_exponent as u16, value.mantissa);
    }

    /// Whether ST(i) is empty.
    #[inline(always)]
    pub fn is_empty(&self, i: u8) -> bool {
        self.tag >> (2 * self.physical(i)) & 3 == 3
    }

    /// Writes ST(i) and marks it as in use.
    #[inline(always)]
    pub(in crate::cpu) fn put(&mut self, i: u8, value: F80) {
        let n = self.physical(i);
        self.r[n] = value;
        self.tag = self.tag & !(3 << (2 * n)) | value.tag() << (2 * n);
    }

    /// Marks ST(i) as empty.
    #[inline(always)]
    pub(in crate::cpu) fn free(&mut self, i: u8) {
        self.tag |= 3 << (2 * self.physical(i));
    }

    /// Frees ST(0) and moves TOP up.
    #[inline(always)]
    pub(in crate::cpu) fn pop(&mut self) {
        self.free(0);
        self.set_top(self.top() + 1);
    }

    /// Moves TOP down and writes the new ST(0).
    #[inline(always)]
    pub(in crate::cpu) fn push(&mut self, value: F80) {
        self.set_top(self.top().wrapping_sub(1));
        self.put(0, value);
    }

    /// The tag word of FNSTENV: two bits a physical register, from what the registers hold.
    pub fn full_tag(&self) -> u16 {
        (0..8).fold(0, |word, n| {
            let tag = if self.tag >> (2 * n) & 3 == 3 {
                3
            } else {
                self.r[n].tag()
            };
            word | tag << (2 * n)
        })
    }

    /// Loads a tag word as FLDENV does: only what is empty counts, the rest follows from the registers.
    pub fn set_full_tag(&mut self, word: u16) {
        self.tag = word;
        self.tag = self.full_tag();
    }

    /// The tag byte of FXSAVE: one bit a physical register, 1 = in use.
    pub fn abridged_tag(&self) -> u8 {
        (0..8).fold(0, |byte, n| {
            byte | ((self.tag >> (2 * n) & 3 != 3) as u8) << n
        })
    }

    /// Loads the tag byte of FXSAVE, once the registers are loaded.
    pub fn set_from_abridged(&mut self, byte: u8) {
        let word = (0..8).fold(0, |tag, n| {
            let empty = byte >> n & 1 == 0;
            tag | if empty { 3 << (2 * n) } else { 0 }
        });
        self.set_full_tag(word);
    }

    /// Loads the control word, with reserved bits as the processor keeps them, and finds out anew whether an
    /// exception is pending.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & CONTROL_WRITABLE | 0x40;
        self.update_summary();
    }

    /// Loads the status word: ES and B follow from flags and masks.
    pub fn set_status(&mut self, status: u16) {
        self.status = status;
        self.update_summary();
    }

    /// Sets ES and B if an exception is flagged and not masked, else clears them.
    pub(in crate::cpu) fn update_summary(&mut self) {
        if self.status & !self.control & EXCEPTIONS != 0 {
            self.status |= ES | B;
        } else {
            self.status &= !(ES | B);
        }
    }

    /// What FNINIT leaves: registers keep their bits.
    pub fn initialise(&mut self) {
        self.control = CONTROL_INITIAL;
        self.status = 0;
        self.tag = 0xffff;
        self.opcode = 0;
        self.data_selector = 0;
        self.code_selector = 0;
        self.ip = 0;
        self.data = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytemuck::Zeroable;

    #[test]
    fn tag_words_convert_both_ways() {
        let mut x = X87::zeroed();
        x.r[0] = F80::new(0x3fff, 1 << 63);
        x.r[2] = F80::new(0xffff, 3 << 62);
        x.r[3] = F80::new(0, 1);
        x.r[5] = F80::new(1, 1);
        x.set_from_abridged(0b0010_1111);
        assert_eq!(x.abridged_tag(), 0b0010_1111);
        assert_eq!(x.full_tag(), 0b11_11_10_11_10_10_01_00);
        assert_eq!(x.tag, x.full_tag());
        x.set_full_tag(0b00_00_11_00_00_00_00_00);
        assert_eq!(x.tag, 0b01_01_11_01_10_10_01_00);
    }

    #[test]
    fn the_stack_wraps_around() {
        let mut x = X87::zeroed();
        x.initialise();
        x.push(F80::new(0x3fff, 1 << 63));
        assert_eq!(x.top(), 7);
        assert_eq!(x.abridged_tag(), 0x80);
        x.push(F80::new(0x4000, 1 << 63));
        assert_eq!(x.st(1), F80::new(0x3fff, 1 << 63));
        x.pop();
        x.pop();
        assert_eq!((x.top(), x.tag), (0, 0xffff));
    }

    #[test]
    fn unmasking_a_flagged_exception_makes_it_pending() {
        let mut x = X87::zeroed();
        x.initialise();
        x.set_status(ZE);
        assert_eq!(x.status, ZE);
        x.set_control(!ZE);
        assert_eq!((x.control, x.status), (0x1f7b, ZE | ES | B));
    }
}
