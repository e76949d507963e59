//! F16C: conversions between half and single precision, in software.
//!
//! DAZ and FTZ have no influence on halves (SDM volume 1, 14.4.1): denormal halves are numbers like others. Alignment
//! is never checked (#AC).

use super::extended::{widen_vex, widening};
use super::{Elements, Form, Lane, Lowered, V, WIDE, float, straight};
use crate::cpu::decode::Context;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::Mnemonic;

const INVALID: u32 = 1;
const DENORMAL: u32 = 1 << 1;
const OVERFLOW: u32 = 1 << 3;
const UNDERFLOW: u32 = 1 << 4;
const PRECISION: u32 = 1 << 5;
const UNDERFLOW_MASK: u32 = UNDERFLOW << 7;
const DENORMALS_ARE_ZEROS: u32 = 1 << 6;

fn single_from_half(half: u16, mxcsr: &mut u32) -> u32 {
    let sign = (half as u32 & 0x8000) << 16;
    let exponent = half as u32 >> 10 & 31;
    let fraction = half as u32 & 0x3ff;
    match (exponent, fraction) {
        (0, 0) => sign,
        (0, f) => {
            let shift = f.leading_zeros() - 21;
            sign | (113 - shift) << 23 | (f << (13 + shift)) & 0x7f_ffff
        }
        (31, 0) => sign | 0x7f80_0000,
        (31, f) => {
            if f & 0x200 == 0 {
                *mxcsr |= INVALID;
            }
            sign | 0x7fc0_0000 | f << 13
        }
        (e, f) => sign | (e + 112) << 23 | f << 13,
    }
}

/// Adds what rounding by the mode adds to a number cut by `shift` bits.
fn rounded(value: u32, shift: u32, mode: u32, negative: bool) -> (u32, bool) {
    if shift > 31 {
        // Far below half of the last place.
        let up = mode == 1 && negative || mode == 2 && !negative;
        return ((up && value != 0) as u32, value != 0);
    }
    let (kept, rest) = (value >> shift, value & ((1 << shift) - 1));
    let half = 1u32 << shift >> 1;
    let up = match mode {
        0 => rest > half || rest == half && rest != 0 && kept & 1 != 0,
        1 => negative && rest != 0,
        2 => !negative && rest != 0,
        _ => false,
    };
    (kept + up as u32, rest != 0)
}

/// Underflow is reported for tiny results that are inexact, and for exact ones where it is not masked:
/// `exact_underflows`.
fn half_from_single(single: u32, mode: u32, exact_underflows: bool, mxcsr: &mut u32) -> u16 {
    let sign = (single >> 16 & 0x8000) as u16;
    let negative = sign != 0;
    let exponent = (single >> 23 & 0xff) as i32;
    let fraction = single & 0x7f_ffff;
    match (exponent, fraction) {
        (0xff, 0) => return sign | 0x7c00,
        (0xff, f) => {
            if f & 0x40_0000 == 0 {
                *mxcsr |= INVALID;
            }
            return sign | 0x7e00 | (f >> 13) as u16;
        }
        (0, 0) => return sign,
        (0, _) if *mxcsr & DENORMALS_ARE_ZEROS != 0 => return sign,
        (0, _) => *mxcsr |= DENORMAL,
        _ => {}
    }
    let significand = if exponent == 0 {
        fraction
    } else {
        fraction | 0x80_0000
    };
    // The exponent of a half with the same leading bit.
    let target = exponent.max(1) - 112;
    if target >= 1 {
        let (kept, inexact) = rounded(significand, 13, mode, negative);
        let bits = kept + ((target as u32 - 1) << 10);
        if bits >= 0x7c00 {
            *mxcsr |= OVERFLOW | PRECISION;
            let stays = mode == 3 || mode == 1 && !negative || mode == 2 && negative;
            return sign | if stays { 0x7bff } else { 0x7c00 };
        }
        *mxcsr |= if inexact { PRECISION } else { 0 };
        return sign | bits as u16;
    }
    let (bits, inexact) = rounded(significand, 13 + (1 - target) as u32, mode, negative);
    // Tiny after rounding with an unlimited exponent: just below the smallest normal number it may have become that.
    let unlimited = rounded(significand, 13, mode, negative).0;
    let tiny = target < 0 || unlimited < 0x800;
    if inexact {
        *mxcsr |= PRECISION;
    }
    if tiny && (inexact || exact_underflows) {
        *mxcsr |= UNDERFLOW;
    }
    sign | bits as u16
}

#[derive(Clone, Copy)]
struct Vcvtph2ps;
impl Lane for Vcvtph2ps {
    const BYTES: usize = 8;
    const FLOAT: bool = true;
    fn apply(_a: V, b: V, _imm: u8, mxcsr: &mut u32) -> V {
        let halves: [u16; 4] = cast(b[0]);
        cast(halves.map(|half| single_from_half(half, mxcsr)))
    }
}

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Vcvtph2ps => {
            widening::<Vcvtph2ps>(context, op, form)?;
            if form.wide {
                straight(vcvtph2ps_wide)
            } else {
                straight(vcvtph2ps)
            }
        }
        Mnemonic::Vcvtps2ph => {
            op.flags |= if form.wide { WIDE } else { 0 };
            straight(vcvtps2ph)
        }
        _ => None,
    }
}

fn vcvtph2ps(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.without_alignment(|cpu| super::vex::<Vcvtph2ps>(cpu, op))
}

fn vcvtph2ps_wide(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.without_alignment(|cpu| widen_vex::<Vcvtph2ps>(cpu, op))
}

fn vcvtps2ph(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let guest = cpu.state.mxcsr;
    let mut mxcsr = float::masked(guest);
    let mode = if op.imm & 4 != 0 {
        guest >> 13 & 3
    } else {
        op.imm as u32 & 3
    };
    let exact_underflows = guest & UNDERFLOW_MASK == 0;
    let mut convert = |source: V| -> u64 {
        let singles: [u32; 4] = cast(source);
        cast(singles.map(|single| half_from_single(single, mode, exact_underflows, &mut mxcsr)))
    };
    let low = convert(cpu.xmm(op.src));
    let high = if op.has(WIDE) {
        convert(cpu.xmm_upper(op.src))
    } else {
        0
    };
    const NONE: Option<Elements> = None;
    if op.has(op_flags::MEMORY) {
        // The flags stay even if the store faults, as on Intel's processors.
        float::finish(cpu, mxcsr, NONE, &[])?;
        return if op.has(WIDE) {
            cpu.store(op, [low, high])
        } else {
            cpu.without_alignment(|cpu| cpu.store(op, low))
        };
    }
    float::finish(cpu, mxcsr, NONE, &[])?;
    cpu.set_ymm(op.dst, [low, high], [0; 2]);
    Ok(())
}
