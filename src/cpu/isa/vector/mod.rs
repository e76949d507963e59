//! Vector instructions: MMX, SSE and what grew out of them.
//!
//! Nearly all of them compute one 128-bit lane from one or two others. Such an instruction is a type that
//! implements [`Lane`]; the bodies here put it to work in all its encodings: on MMX registers (half a lane), as a
//! legacy SSE instruction (which leaves the upper half of a YMM register alone), and VEX-encoded with 128 bits
//! (which clears it) or 256 (two lanes). What does not fit has bodies of its own.
//!
//! ```text
//! moves                        loads, stores, and everything that only brings data somewhere
//! integer  shuffle             arithmetic and permutations of integers
//! float  convert  compare      floating point, by the host's instructions under the guest's MXCSR
//! reciprocal  rounding         RCPPS, RSQRTPS; what SSE3 and SSE4.1 added to floating point
//! elements                     one element from or to a general register
//! extended                     what SSSE3 and SSE4 added to integers
//! strings  crypto              PCMPxSTRx, CRC32; AES, SHA, PCLMULQDQ
//! avx  masked  fma  half       what AVX, AVX2, FMA and F16C added
//! state  xsave                 FXSAVE, FXRSTOR, MXCSR, EMMS; XSAVE and XCR0
//! ```
//!
//! Lowering brings the register operands of all encodings into the same places: `dst` is written, `src` is the
//! first source, `aux` the second (if it is not in memory).
//!
//! SDM volume 1, chapters 9 to 14; volume 2 under the names of the instructions and 2.4 (exceptions by type).

mod avx;
mod compare;
mod convert;
mod crypto;
mod elements;
mod extended;
mod float;
mod fma;
mod fused;
mod half;
mod integer;
mod masked;
mod moves;
mod reciprocal;
mod rounding;
mod shuffle;
mod state;
mod strings;
#[cfg(test)]
mod tests;
mod xsave;

use super::{Lowered, ending, straight};
use crate::cpu::decode::Context;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::{cr0, cr4};
use crate::cpu::{Abort, Cpu, vector};
use bytemuck::Pod;
use iced_x86::{EncodingKind, OpKind};

/// One 128-bit lane, low half first.
pub type V = [u64; 2];

/// Set in `Op::flags` of a VEX instruction (which has no REP prefix) that works on 256 bits.
const WIDE: u8 = op_flags::REPNE;

/// The state component of XCR0 that holds the upper halves of YMM, together with SSE.
const XCR0_AVX: u64 = 6;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    if !matches!(
        context.insn.encoding(),
        EncodingKind::Legacy | EncodingKind::VEX
    ) {
        return None;
    }
    let form = Form::of(context);
    moves::lower(context, op, form)
        .or_else(|| integer::lower(context, op, form))
        .or_else(|| shuffle::lower(context, op, form))
        .or_else(|| extended::lower(context, op, form))
        .or_else(|| elements::lower(context, op, form))
        .or_else(|| float::lower(context, op, form))
        .or_else(|| convert::lower(context, op, form))
        .or_else(|| compare::lower(context, op, form))
        .or_else(|| reciprocal::lower(context, op, form))
        .or_else(|| rounding::lower(context, op, form))
        .or_else(|| strings::lower(context, form))
        .or_else(|| crypto::lower(context, op, form))
        .or_else(|| avx::lower(context, op, form))
        .or_else(|| masked::lower(context, op, form))
        .or_else(|| fma::lower(context, op, form))
        .or_else(|| half::lower(context, op, form))
        .or_else(|| state::lower(context))
        .or_else(|| xsave::lower(context))
}

/// What the encoding of an instruction says of its operands.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// VEX-encoded.
    vex: bool,
    /// Some operand is an MMX register.
    mmx: bool,
    /// Some operand is in memory.
    memory: bool,
    /// VEX.L.
    wide: bool,
    /// Operands that are no immediates.
    operands: u32,
}

impl Form {
    fn of(context: &Context) -> Form {
        let insn = context.insn;
        let mut form = Form {
            vex: insn.encoding() == EncodingKind::VEX,
            mmx: false,
            memory: false,
            wide: false,
            operands: 0,
        };
        if form.vex && insn.memory_size().size() == 32 {
            form.wide = true;
        }
        for n in 0..insn.op_count() {
            match insn.op_kind(n) {
                OpKind::Register => {
                    form.mmx |= insn.op_register(n).is_mm();
                    form.wide |= insn.op_register(n).is_ymm();
                    form.operands += 1;
                }
                OpKind::Memory => {
                    form.memory = true;
                    form.operands += 1;
                }
                _ => {}
            }
        }
        form
    }
}

/// Bytes and count of the elements of a floating-point result.
#[derive(Clone, Copy)]
struct Elements {
    bytes: usize,
    count: usize,
}

/// An operation that computes a 128-bit lane from two.
trait Lane: Copy + 'static {
    /// Size of the last source in memory, a lane's part. Legacy instructions want 16 bytes aligned.
    const BYTES: usize = 16;
    /// The operation may raise floating-point exceptions.
    const FLOAT: bool = false;
    /// Elements that may underflow: what decides whether an unmasked underflow exception is raised.
    const TINY: Option<Elements> = None;
    /// How far the immediate is shifted right for the upper lane.
    const LANE_SHIFT: u32 = 0;
    /// Both lanes have the same second source, of 128 bits.
    const SHARED: bool = false;

    /// Computes a lane. `mxcsr` has exceptions masked; the operation adds the flags that it raises.
    fn apply(a: V, b: V, imm: u8, mxcsr: &mut u32) -> V;

    /// Computes from MMX registers.
    #[inline(always)]
    fn apply64(a: u64, b: u64, imm: u8) -> u64 {
        Self::apply([a, 0], [b, 0], imm, &mut 0x1f80)[0]
    }
}

/// Declares a [`Lane`] operation on whole elements: `name, element type, |a, b| result`.
macro_rules! elementwise {
    ($name:ident, $T:ty, |$a:ident, $b:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl super::Lane for $name {
            #[inline(always)]
            fn apply(a: super::V, b: super::V, _imm: u8, _mxcsr: &mut u32) -> super::V {
                super::zip::<$T, { 16 / size_of::<$T>() }>(a, b, |$a, $b| $body)
            }
        }
    };
}
use elementwise;

/// Applies a function to the elements of two lanes.
#[inline(always)]
fn zip<T: Pod, const N: usize>(a: V, b: V, f: impl Fn(T, T) -> T) -> V {
    let (mut x, y): ([T; N], [T; N]) = (bytemuck::cast(a), bytemuck::cast(b));
    for n in 0..N {
        x[n] = f(x[n], y[n]);
    }
    bytemuck::cast(x)
}

impl Cpu {
    /// A vector register, its low lane.
    #[inline(always)]
    fn xmm(&self, number: u8) -> V {
        let words = &self.state.vector[(number & 15) as usize].0;
        [words[0], words[1]]
    }

    /// Writes the low lane and keeps the upper: what legacy instructions do.
    #[inline(always)]
    fn set_xmm(&mut self, number: u8, value: V) {
        let words = &mut self.state.vector[(number & 15) as usize].0;
        words[0] = value[0];
        words[1] = value[1];
    }

    /// The upper lane.
    #[inline(always)]
    fn xmm_upper(&self, number: u8) -> V {
        let words = &self.state.vector[(number & 15) as usize].0;
        [words[2], words[3]]
    }

    /// Writes the whole register: what VEX instructions do.
    #[inline(always)]
    fn set_ymm(&mut self, number: u8, low: V, high: V) {
        self.state.vector[(number & 15) as usize].0 = [low[0], low[1], high[0], high[1]];
    }

    /// Raises what SSE instructions raise when the system has not switched them on.
    #[inline(always)]
    fn sse_ready(&mut self) -> Result<(), Abort> {
        if self.state.cr0 & (cr0::EM | cr0::TS) | !self.state.cr4 & cr4::OSFXSR != 0 {
            return self.sse_refused();
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn sse_refused(&mut self) -> Result<(), Abort> {
        if self.state.cr0 & cr0::EM != 0 || self.state.cr4 & cr4::OSFXSR == 0 {
            return self.undefined();
        }
        self.raise(vector::NM)
    }

    /// Raises what VEX instructions raise when the system has not switched them on.
    #[inline(always)]
    fn avx_ready(&mut self) -> Result<(), Abort> {
        let off = !self.state.cr4 & cr4::OSXSAVE | !self.state.xcr0 & XCR0_AVX;
        if off | self.state.cr0 & cr0::TS != 0 || !self.state.protected() || self.state.flags.vm86()
        {
            if off != 0 || !self.state.protected() || self.state.flags.vm86() {
                return self.undefined();
            }
            return self.raise(vector::NM);
        }
        Ok(())
    }

    /// Raises what MMX instructions raise: they need no operating system support, but work on x87 state.
    fn mmx_ready(&mut self) -> Result<(), Abort> {
        /// An unmasked x87 exception waits (status word, ES).
        const ERROR_SUMMARY: u16 = 1 << 7;
        if self.state.cr0 & cr0::EM != 0 {
            return self.undefined();
        }
        if self.state.cr0 & cr0::TS != 0 {
            return self.raise(vector::NM);
        }
        if self.state.x87.status & ERROR_SUMMARY != 0 && self.state.cr0 & cr0::NE != 0 {
            return self.raise(vector::MF);
        }
        Ok(())
    }

    /// What executing an MMX instruction does to the x87 unit: all registers are valid, and R0 is the top.
    fn enter_mmx(&mut self) {
        self.state.x87.tag = 0;
        self.set_mmx_top();
    }

    fn set_mmx_top(&mut self) {
        self.state.x87.status &= !0x3800;
    }

    fn mm(&self, number: u8) -> u64 {
        self.state.x87.r[(number & 7) as usize].mantissa
    }

    fn set_mm(&mut self, number: u8, value: u64) {
        let register = &mut self.state.x87.r[(number & 7) as usize];
        register.mantissa = value;
        register.sign_exponent = 0xffff;
    }

    /// Address of a memory operand that must be aligned to its size.
    #[inline(always)]
    fn aligned_address(&mut self, op: &Op, bytes: usize, write: bool) -> Result<u64, Abort> {
        let address = self.address(op, bytes, write)?;
        if address & (bytes as u64 - 1) != 0 {
            return self.general_protection();
        }
        Ok(address)
    }

    #[inline(always)]
    fn load_aligned(&mut self, op: &Op) -> Result<V, Abort> {
        let address = self.aligned_address(op, 16, false)?;
        self.read::<V>(address)
    }

    /// The last source of a VEX instruction: `aux` or memory, one lane or two.
    #[inline(always)]
    fn vex_source(&mut self, op: &Op) -> Result<[V; 2], Abort> {
        let wide = op.has(WIDE);
        Ok(match (op.has(op_flags::MEMORY), wide) {
            (true, true) => bytemuck::cast(self.load::<[u64; 4]>(op)?),
            (true, false) => [self.load::<V>(op)?, [0; 2]],
            (false, true) => [self.xmm(op.aux), self.xmm_upper(op.aux)],
            (false, false) => [self.xmm(op.aux), [0; 2]],
        })
    }

    /// Loads a part of a lane; the rest is 0.
    #[inline(always)]
    fn load_part(&mut self, op: &Op, bytes: usize) -> Result<V, Abort> {
        Ok(match bytes {
            1 => [self.load::<u8>(op)? as u64, 0],
            2 => [self.load::<u16>(op)? as u64, 0],
            4 => [self.load::<u32>(op)? as u64, 0],
            8 => [self.load::<u64>(op)?, 0],
            _ => self.load::<V>(op)?,
        })
    }
}

/// Handler of a lane operation with two sources, of which the first is the destination (legacy) or stands in VEX.
fn two_sources<O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    if !form.vex {
        op.aux = op.src;
        op.src = op.dst;
    }
    choose::<O>(context, op, form)
}

/// Handler of a lane operation with one source, the second of [`Lane::apply`]. The first is the destination.
fn one_source<O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    op.aux = op.src;
    op.src = op.dst;
    choose::<O>(context, op, form)
}

/// Handler of a lane operation with one register source, the first of [`Lane::apply`], and an immediate.
fn by_immediate<O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    if !form.vex {
        op.src = op.dst;
    }
    op.aux = op.src;
    choose::<O>(context, op, form)
}

fn choose<O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    if form.mmx {
        op.aux2 = context.insn.memory_size().size() as u8;
        return straight(mmx::<O>);
    }
    if form.vex {
        if form.wide {
            op.flags |= WIDE;
        }
        return straight(vex::<O>);
    }
    if form.memory {
        straight(legacy_memory::<O>)
    } else {
        straight(legacy_register::<O>)
    }
}

fn legacy_register<O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let (a, b) = (cpu.xmm(op.src), cpu.xmm(op.aux));
    let r = compute::<O>(cpu, op, a, b)?;
    cpu.set_xmm(op.dst, r);
    Ok(())
}

fn legacy_memory<O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let b = if O::BYTES == 16 {
        cpu.load_aligned(op)?
    } else {
        cpu.load_part(op, O::BYTES)?
    };
    let a = cpu.xmm(op.src);
    let r = compute::<O>(cpu, op, a, b)?;
    cpu.set_xmm(op.dst, r);
    Ok(())
}

fn mmx<O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    let b = if op.has(op_flags::MEMORY) {
        cpu.load_part(op, op.aux2 as usize)?[0]
    } else {
        cpu.mm(op.aux)
    };
    cpu.enter_mmx();
    let r = O::apply64(cpu.mm(op.src), b, op.imm as u8);
    cpu.set_mm(op.dst, r);
    Ok(())
}

fn vex<O: Lane>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let wide = op.has(WIDE);
    let (low, high) = if !op.has(op_flags::MEMORY) {
        (cpu.xmm(op.aux), cpu.xmm_upper(op.aux))
    } else if wide && !O::SHARED && O::BYTES == 16 {
        let words = cpu.load::<[u64; 4]>(op)?;
        ([words[0], words[1]], [words[2], words[3]])
    } else {
        (cpu.load_part(op, O::BYTES)?, [0; 2])
    };
    let a = cpu.xmm(op.src);
    if !wide {
        let r = compute::<O>(cpu, op, a, low)?;
        cpu.set_ymm(op.dst, r, [0; 2]);
        return Ok(());
    }
    let upper = cpu.xmm_upper(op.src);
    let high = if O::SHARED { low } else { high };
    let imm = op.imm as u8;
    let mut mxcsr = float::masked(cpu.state.mxcsr);
    let r = O::apply(a, low, imm, &mut mxcsr);
    let s = O::apply(upper, high, imm >> O::LANE_SHIFT, &mut mxcsr);
    if O::FLOAT {
        float::finish(cpu, mxcsr, O::TINY, &[r, s])?;
    }
    cpu.set_ymm(op.dst, r, s);
    Ok(())
}

/// Computes one lane, with the floating-point exceptions of that.
#[inline(always)]
fn compute<O: Lane>(cpu: &mut Cpu, op: &Op, a: V, b: V) -> Result<V, Abort> {
    if !O::FLOAT {
        return Ok(O::apply(a, b, op.imm as u8, &mut 0x1f80));
    }
    let mut mxcsr = float::masked(cpu.state.mxcsr);
    let r = O::apply(a, b, op.imm as u8, &mut mxcsr);
    float::finish(cpu, mxcsr, O::TINY, &[r])?;
    Ok(r)
}
