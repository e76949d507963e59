//! Conversions between integers and floating-point numbers, and between the formats of these.

use super::extended::widening;
use super::float::{elements, float_lane};
use super::{Form, Lane, Lowered, V, WIDE, compute, float, one_source, straight, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use iced_x86::Mnemonic;

float_lane! {
    Cvtps2pd "cvtps2pd" 8 None;
    Cvtpd2ps "cvtpd2ps" 16 elements(4, 2);
    Cvtss2sd "cvtss2sd" 4 None;
    Cvtsd2ss "cvtsd2ss" 8 elements(4, 1);
    Cvtdq2ps "cvtdq2ps" 16 None;
    Cvtdq2pd "cvtdq2pd" 8 None;
    Cvtps2dq "cvtps2dq" 16 None;
    Cvttps2dq "cvttps2dq" 16 None;
    Cvtpd2dq "cvtpd2dq" 16 None;
    Cvttpd2dq "cvttpd2dq" 16 None;
}

/// From an integer, sign-extended to 64 bits in the second source: that many bits are exact for both widths.
macro_rules! from_integer {
    ($name:ident, $instruction:literal) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            const FLOAT: bool = true;
            #[inline(always)]
            fn apply(a: V, b: V, _imm: u8, mxcsr: &mut u32) -> V {
                use std::arch::x86_64::__m128i;
                // SAFETY: any 16 bytes are an `__m128i`.
                let a = unsafe { std::mem::transmute::<V, __m128i>(a) };
                let r = float::on_host!(
                    mxcsr,
                    a,
                    [concat!($instruction, " {r}, {x:r}")],
                    [inout(xmm_reg)],
                    [x = in(reg) b[0],]
                );
                // SAFETY: as above.
                unsafe { std::mem::transmute::<__m128i, V>(r) }
            }
        }
    };
}
from_integer!(Cvtsi2ss, "cvtsi2ss");
from_integer!(Cvtsi2sd, "cvtsi2sd");

/// To an integer of 32 or 64 bits, which stands in the low half of the result.
macro_rules! to_integer {
    ($name:ident, $instruction:literal, $bytes:literal) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Lane for $name {
            const BYTES: usize = $bytes;
            const FLOAT: bool = true;
            #[inline(always)]
            fn apply(_a: V, b: V, _imm: u8, mxcsr: &mut u32) -> V {
                use std::arch::x86_64::__m128i;
                // SAFETY: any 16 bytes are an `__m128i`.
                let b = unsafe { std::mem::transmute::<V, __m128i>(b) };
                let x: u64 =
                    float::on_host!(mxcsr, 0u64, [$instruction], [inout(reg)], [b = in(xmm_reg) b,]);
                [x, 0]
            }
        }
    };
}
to_integer!(Cvtss2si32, "cvtss2si {r:e}, {b}", 4);
to_integer!(Cvtss2si64, "cvtss2si {r:r}, {b}", 4);
to_integer!(Cvtsd2si32, "cvtsd2si {r:e}, {b}", 8);
to_integer!(Cvtsd2si64, "cvtsd2si {r:r}, {b}", 8);
to_integer!(Cvttss2si32, "cvttss2si {r:e}, {b}", 4);
to_integer!(Cvttss2si64, "cvttss2si {r:r}, {b}", 4);
to_integer!(Cvttsd2si32, "cvttsd2si {r:e}, {b}", 8);
to_integer!(Cvttsd2si64, "cvttsd2si {r:r}, {b}", 8);

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    let insn = context.insn;
    macro_rules! one {
        ($O:ty) => {
            one_source::<$O>(context, op, form)
        };
    }
    macro_rules! to_general {
        ($Narrow:ty, $Wide:ty) => {
            match (insn.op0_register().is_gpr64(), form.vex) {
                (false, false) => straight(to_general::<$Narrow, false>),
                (false, true) => straight(to_general::<$Narrow, true>),
                (true, false) => straight(to_general::<$Wide, false>),
                (true, true) => straight(to_general::<$Wide, true>),
            }
        };
    }
    match insn.mnemonic() {
        M::Cvtss2sd | M::Vcvtss2sd => two_sources::<Cvtss2sd>(context, op, form),
        M::Cvtsd2ss | M::Vcvtsd2ss => two_sources::<Cvtsd2ss>(context, op, form),
        M::Cvtdq2ps | M::Vcvtdq2ps => one!(Cvtdq2ps),
        M::Cvtps2dq | M::Vcvtps2dq => one!(Cvtps2dq),
        M::Cvttps2dq | M::Vcvttps2dq => one!(Cvttps2dq),
        M::Cvtps2pd | M::Vcvtps2pd => widening::<Cvtps2pd>(context, op, form),
        M::Cvtdq2pd | M::Vcvtdq2pd => widening::<Cvtdq2pd>(context, op, form),
        M::Cvtpd2ps | M::Vcvtpd2ps => narrowing::<Cvtpd2ps>(context, op, form),
        M::Cvtpd2dq | M::Vcvtpd2dq => narrowing::<Cvtpd2dq>(context, op, form),
        M::Cvttpd2dq | M::Vcvttpd2dq => narrowing::<Cvttpd2dq>(context, op, form),
        M::Cvtsi2ss | M::Vcvtsi2ss => from_general::<Cvtsi2ss>(context, op, form),
        M::Cvtsi2sd | M::Vcvtsi2sd => from_general::<Cvtsi2sd>(context, op, form),
        M::Cvtss2si | M::Vcvtss2si => to_general!(Cvtss2si32, Cvtss2si64),
        M::Cvtsd2si | M::Vcvtsd2si => to_general!(Cvtsd2si32, Cvtsd2si64),
        M::Cvttss2si | M::Vcvttss2si => to_general!(Cvttss2si32, Cvttss2si64),
        M::Cvttsd2si | M::Vcvttsd2si => to_general!(Cvttsd2si32, Cvttsd2si64),
        M::Cvtpi2ps => straight(from_mmx::<Cvtdq2ps, true>),
        M::Cvtpi2pd => straight(from_mmx::<Cvtdq2pd, false>),
        M::Cvtps2pi => straight(to_mmx::<Cvtps2dq, 8>),
        M::Cvttps2pi => straight(to_mmx::<Cvttps2dq, 8>),
        M::Cvtpd2pi => straight(to_mmx::<Cvtpd2dq, 16>),
        M::Cvttpd2pi => straight(to_mmx::<Cvttpd2dq, 16>),
        _ => None,
    }
}

/// A conversion whose result is half as wide as its source: with 256 bits, both lanes go into one.
fn narrowing<O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    if !form.wide {
        return one_source::<O>(context, op, form);
    }
    op.flags |= WIDE;
    op.aux = op.src;
    straight(narrow_vex::<O>)
}

fn narrow_vex<O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let [low, high] = cpu.vex_source(op)?;
    let mut mxcsr = float::masked(cpu.state.mxcsr);
    let r = O::apply([0; 2], low, 0, &mut mxcsr);
    let s = O::apply([0; 2], high, 0, &mut mxcsr);
    float::finish(cpu, mxcsr, O::TINY, &[r, s])?;
    cpu.set_ymm(op.dst, [r[0], s[0]], [0; 2]);
    Ok(())
}

/// The width of the integer stands in its operand: the last one.
fn from_general<O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    if !form.vex {
        op.aux = op.src;
        op.src = op.dst;
    }
    let wide = super::super::width(context, form.operands - 1) == 8;
    match (wide, form.vex) {
        (false, false) => straight(integer_to_scalar::<O, u32, false>),
        (false, true) => straight(integer_to_scalar::<O, u32, true>),
        (true, false) => straight(integer_to_scalar::<O, u64, false>),
        (true, true) => straight(integer_to_scalar::<O, u64, true>),
    }
}

fn integer_to_scalar<O: Lane, W: Width, const VEX: bool>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()?;
    } else {
        cpu.sse_ready()?;
    }
    let b = if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)?
    } else {
        cpu.reg::<W>(op.aux)
    };
    let a = cpu.xmm(op.src);
    let r = compute::<O>(cpu, op, a, [b.sext(), 0])?;
    if VEX {
        cpu.set_ymm(op.dst, r, [0; 2]);
    } else {
        cpu.set_xmm(op.dst, r);
    }
    Ok(())
}

/// The 32-bit instructions clear the upper half of the general register, as the host's have done.
fn to_general<O: Lane, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()?;
    } else {
        cpu.sse_ready()?;
    }
    let b = if op.has(op_flags::MEMORY) {
        cpu.load_part(op, O::BYTES)?
    } else {
        cpu.xmm(op.src)
    };
    let r = compute::<O>(cpu, op, b, b)?;
    cpu.set_reg(op.dst, r[0]);
    Ok(())
}

/// CVTPI2PS and CVTPI2PD. From memory they do not touch the x87 unit.
fn from_mmx<O: Lane, const SINGLE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let memory = op.has(op_flags::MEMORY);
    let touches = !memory;
    if touches {
        cpu.mmx_ready()?;
    }
    let b = if memory {
        cpu.load::<u64>(op)?
    } else {
        cpu.mm(op.src)
    };
    let a = cpu.xmm(op.dst);
    // The upper elements of the second source are 0, which no conversion objects to.
    // Also where the conversion then raises an exception.
    if touches {
        cpu.enter_mmx();
    }
    let r = compute::<O>(cpu, op, a, [b, 0])?;
    cpu.set_xmm(op.dst, if SINGLE { [r[0], a[1]] } else { r });
    Ok(())
}

/// CVTPS2PI, CVTPD2PI and their truncating variants.
fn to_mmx<O: Lane, const BYTES: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    cpu.mmx_ready()?;
    let b = match (op.has(op_flags::MEMORY), BYTES) {
        (false, 8) => [cpu.xmm(op.src)[0], 0],
        (false, _) => cpu.xmm(op.src),
        (true, 8) => [cpu.load::<u64>(op)?, 0],
        (true, _) => cpu.load_aligned(op)?,
    };
    // Also where the conversion then raises an exception.
    cpu.enter_mmx();
    let r = compute::<O>(cpu, op, b, b)?;
    cpu.set_mm(op.dst, r[0]);
    Ok(())
}
