//! Loads, stores and moves between register files, without arithmetic.
//!
//! Non-temporal and aligned forms differ from the others in the check of the alignment alone: there is no cache.

use super::{Form, Lane, Lowered, V, WIDE, straight, two_sources};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::gpr;
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::{Mnemonic, OpKind};

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    match context.insn.mnemonic() {
        M::Movaps | M::Movapd | M::Movdqa | M::Vmovaps | M::Vmovapd | M::Vmovdqa => {
            whole::<true>(context, op, form)
        }
        M::Movntps | M::Movntpd | M::Movntdq | M::Vmovntps | M::Vmovntpd | M::Vmovntdq => {
            whole::<true>(context, op, form)
        }
        M::Movups | M::Movupd | M::Movdqu | M::Vmovups | M::Vmovupd | M::Vmovdqu => {
            whole::<false>(context, op, form)
        }
        M::Movss | M::Vmovss => scalar::<u32, MergeSingle>(context, op, form),
        M::Movsd | M::Vmovsd if !context.insn.is_string_instruction() => {
            scalar::<u64, MergeDouble>(context, op, form)
        }
        M::Movd | M::Movq | M::Vmovd | M::Vmovq => narrow(context, form),
        M::Movlps | M::Movlpd | M::Vmovlps | M::Vmovlpd => {
            half::<MergeDouble, 0>(context, op, form)
        }
        M::Movhps | M::Movhpd | M::Vmovhps | M::Vmovhpd => half::<LowToHigh, 1>(context, op, form),
        M::Movhlps | M::Vmovhlps => two_sources::<HighToLow>(context, op, form),
        M::Movlhps | M::Vmovlhps => two_sources::<LowToHigh>(context, op, form),
        M::Movq2dq => straight(movq2dq),
        M::Movdq2q => straight(movdq2q),
        M::Movntq => straight(store_mm::<u64>),
        M::Movmskps | M::Vmovmskps => mask::<SignsOf32>(op, form),
        M::Movmskpd | M::Vmovmskpd => mask::<SignsOf64>(op, form),
        M::Pmovmskb | M::Vpmovmskb if form.mmx => straight(pmovmskb_mm),
        M::Pmovmskb | M::Vpmovmskb => mask::<SignsOf8>(op, form),
        M::Maskmovdqu | M::Vmaskmovdqu => {
            op.src = op.src & 15 | (form.vex as u8) << 7;
            straight(maskmovdqu)
        }
        M::Maskmovq => straight(maskmovq),
        M::Lddqu | M::Vlddqu => whole::<false>(context, op, form),
        M::Movntdqa | M::Vmovntdqa => whole::<true>(context, op, form),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct MergeSingle;
impl Lane for MergeSingle {
    const BYTES: usize = 4;
    #[inline(always)]
    fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        [a[0] & !0xffff_ffff | b[0] & 0xffff_ffff, a[1]]
    }
}

#[derive(Clone, Copy)]
struct MergeDouble;
impl Lane for MergeDouble {
    const BYTES: usize = 8;
    #[inline(always)]
    fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        [b[0], a[1]]
    }
}

#[derive(Clone, Copy)]
struct LowToHigh;
impl Lane for LowToHigh {
    const BYTES: usize = 8;
    #[inline(always)]
    fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        [a[0], b[0]]
    }
}

#[derive(Clone, Copy)]
struct HighToLow;
impl Lane for HighToLow {
    #[inline(always)]
    fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        [b[1], a[1]]
    }
}

/// Moves of a whole register.
fn whole<const ALIGNED: bool>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    let store = context.is_memory(0);
    let load = context.is_memory(1);
    if form.wide {
        op.flags |= WIDE;
    }
    match (form.vex, load, store) {
        (false, false, false) => straight(copy),
        (false, true, _) => straight(load_whole::<ALIGNED>),
        (false, _, true) => straight(store_whole::<ALIGNED>),
        (true, false, false) => straight(copy_vex),
        (true, true, _) => straight(load_vex::<ALIGNED>),
        (true, _, true) => straight(store_vex::<ALIGNED>),
    }
}

fn copy(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let value = cpu.xmm(op.src);
    cpu.set_xmm(op.dst, value);
    Ok(())
}

fn load_whole<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let value = if ALIGNED {
        cpu.load_aligned(op)?
    } else {
        cpu.load::<V>(op)?
    };
    cpu.set_xmm(op.dst, value);
    Ok(())
}

fn store_whole<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let value = cpu.xmm(op.src);
    if ALIGNED {
        let address = cpu.aligned_address(op, 16, true)?;
        return cpu.write(address, value);
    }
    cpu.store(op, value)
}

fn copy_vex(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let high = if op.has(WIDE) {
        cpu.xmm_upper(op.src)
    } else {
        [0; 2]
    };
    let low = cpu.xmm(op.src);
    cpu.set_ymm(op.dst, low, high);
    Ok(())
}

/// Address of a whole register in memory.
fn vex_address<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op, write: bool) -> Result<u64, Abort> {
    let bytes = if op.has(WIDE) { 32 } else { 16 };
    if ALIGNED {
        cpu.aligned_address(op, bytes, write)
    } else {
        cpu.address(op, bytes, write)
    }
}

fn load_vex<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let address = vex_address::<ALIGNED>(cpu, op, false)?;
    let [a, b, c, d] = if op.has(WIDE) {
        cpu.read::<[u64; 4]>(address)?
    } else {
        let [a, b] = cpu.read::<V>(address)?;
        [a, b, 0, 0]
    };
    cpu.set_ymm(op.dst, [a, b], [c, d]);
    Ok(())
}

fn store_vex<const ALIGNED: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let address = vex_address::<ALIGNED>(cpu, op, true)?;
    let low = cpu.xmm(op.src);
    if !op.has(WIDE) {
        return cpu.write(address, low);
    }
    let high = cpu.xmm_upper(op.src);
    cpu.write(address, [low[0], low[1], high[0], high[1]])
}

/// MOVSS and MOVSD: registers merge, loads clear the rest.
fn scalar<W: Width, O: Lane>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    match (context.is_memory(0), form.memory, form.vex) {
        (true, _, false) => straight(store_low::<W, false>),
        (true, _, true) => straight(store_low::<W, true>),
        (_, true, false) => straight(load_low::<W, false>),
        (_, true, true) => straight(load_low::<W, true>),
        _ => two_sources::<O>(context, op, form),
    }
}

#[inline(always)]
fn ready<const VEX: bool>(cpu: &mut Cpu) -> Result<(), Abort> {
    if VEX {
        cpu.avx_ready()
    } else {
        cpu.sse_ready()
    }
}

#[inline(always)]
fn set_low<const VEX: bool>(cpu: &mut Cpu, number: u8, value: V) {
    if VEX {
        cpu.set_ymm(number, value, [0; 2]);
    } else {
        cpu.set_xmm(number, value);
    }
}

fn store_low<W: Width, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let value = W::from_u64(cpu.xmm(op.src)[0]);
    cpu.store(op, value)
}

fn load_low<W: Width, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let value = cpu.load::<W>(op)?.to_u64();
    set_low::<VEX>(cpu, op.dst, [value, 0]);
    Ok(())
}

/// MOVLPS, MOVHPS and their kin: the store takes one half, the load replaces it.
fn half<O: Lane, const HALF: usize>(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    match (context.is_memory(0), form.vex) {
        (true, false) => straight(store_half::<HALF, false>),
        (true, true) => straight(store_half::<HALF, true>),
        _ => two_sources::<O>(context, op, form),
    }
}

fn store_half<const HALF: usize, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let value = cpu.xmm(op.src)[HALF];
    cpu.store(op, value)
}

/// MOVD and MOVQ in all their directions.
fn narrow(context: &Context, form: Form) -> Option<Lowered> {
    let insn = context.insn;
    let is_xmm = |n: u32| insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_xmm();
    let is_mm = |n: u32| insn.op_kind(n) == OpKind::Register && insn.op_register(n).is_mm();
    let quad = matches!(insn.mnemonic(), Mnemonic::Movq | Mnemonic::Vmovq);
    let memory = form.memory;
    macro_rules! vex {
        ($body:ident $(<$W:ty>)?) => {
            if form.vex {
                straight($body::<$($W,)? true>)
            } else {
                straight($body::<$($W,)? false>)
            }
        };
    }
    match (is_mm(0), is_mm(1), is_xmm(0), is_xmm(1), memory, quad) {
        (true, true, ..) => straight(copy_mm),
        (true, _, _, _, true, true) => straight(load_mm::<u64>),
        (true, _, _, _, true, false) => straight(load_mm::<u32>),
        (true, _, _, _, false, true) => straight(gpr_to_mm::<u64>),
        (true, _, _, _, false, false) => straight(gpr_to_mm::<u32>),
        (_, true, _, _, true, true) => straight(store_mm::<u64>),
        (_, true, _, _, true, false) => straight(store_mm::<u32>),
        (_, true, _, _, false, true) => straight(mm_to_gpr::<u64>),
        (_, true, _, _, false, false) => straight(mm_to_gpr::<u32>),
        (_, _, true, true, ..) if form.vex => straight(copy_low::<true>),
        (_, _, true, true, ..) => straight(copy_low::<false>),
        (_, _, true, _, true, true) => vex!(load_low<u64>),
        (_, _, true, _, true, false) => vex!(load_low<u32>),
        (_, _, true, _, false, true) => vex!(gpr_to_xmm<u64>),
        (_, _, true, _, false, false) => vex!(gpr_to_xmm<u32>),
        (_, _, _, true, true, true) => vex!(store_low<u64>),
        (_, _, _, true, true, false) => vex!(store_low<u32>),
        (_, _, _, true, false, true) => vex!(xmm_to_gpr<u64>),
        (_, _, _, true, false, false) => vex!(xmm_to_gpr<u32>),
        _ => None,
    }
}

fn copy_low<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let value = cpu.xmm(op.src)[0];
    set_low::<VEX>(cpu, op.dst, [value, 0]);
    Ok(())
}

fn gpr_to_xmm<W: Width, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let value = cpu.reg::<W>(op.src).to_u64();
    set_low::<VEX>(cpu, op.dst, [value, 0]);
    Ok(())
}

fn xmm_to_gpr<W: Width, const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    ready::<VEX>(cpu)?;
    let value = W::from_u64(cpu.xmm(op.src)[0]);
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn copy_mm(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    let value = cpu.mm(op.src);
    cpu.set_mm(op.dst, value);
    Ok(())
}

fn load_mm<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    let value = cpu.load::<W>(op)?.to_u64();
    cpu.enter_mmx();
    cpu.set_mm(op.dst, value);
    Ok(())
}

fn store_mm<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    let value = W::from_u64(cpu.mm(op.src));
    // The top is set even where the store then faults, as on Intel's processors; the tags are not.
    cpu.set_mmx_top();
    cpu.store(op, value)?;
    cpu.enter_mmx();
    Ok(())
}

fn gpr_to_mm<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    let value = cpu.reg::<W>(op.src).to_u64();
    cpu.set_mm(op.dst, value);
    Ok(())
}

fn mm_to_gpr<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    let value = W::from_u64(cpu.mm(op.src));
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn movq2dq(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    let value = cpu.mm(op.src);
    cpu.set_xmm(op.dst, [value, 0]);
    Ok(())
}

fn movdq2q(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    let value = cpu.xmm(op.src)[0];
    cpu.set_mm(op.dst, value);
    Ok(())
}

/// Collects the sign bits of the elements of a lane.
trait Signs: Copy + 'static {
    const COUNT: u32;
    fn of(value: V) -> u32;
}

macro_rules! signs {
    ($name:ident, $T:ty) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Signs for $name {
            const COUNT: u32 = 16 / size_of::<$T>() as u32;
            #[inline(always)]
            fn of(value: V) -> u32 {
                let elements: [$T; 16 / size_of::<$T>()] = cast(value);
                elements
                    .iter()
                    .enumerate()
                    .fold(0, |mask, (n, &x)| mask | ((x < 0) as u32) << n)
            }
        }
    };
}
signs!(SignsOf32, i32);
signs!(SignsOf64, i64);

#[derive(Clone, Copy)]
struct SignsOf8;
impl Signs for SignsOf8 {
    const COUNT: u32 = 16;
    #[inline(always)]
    fn of(value: V) -> u32 {
        use std::arch::x86_64::{__m128i, _mm_movemask_epi8};
        // SAFETY: any 16 bytes are an `__m128i`, and every x86-64 has SSE2.
        unsafe { _mm_movemask_epi8(std::mem::transmute::<V, __m128i>(value)) as u32 }
    }
}

fn mask<S: Signs>(op: &mut Op, form: Form) -> Option<Lowered> {
    if form.wide {
        op.flags |= WIDE;
    }
    if form.vex {
        straight(mask_vex::<S>)
    } else {
        straight(mask_legacy::<S>)
    }
}

fn mask_legacy<S: Signs>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.sse_ready()?;
    let mask = S::of(cpu.xmm(op.src));
    cpu.set_reg(op.dst, mask);
    Ok(())
}

fn mask_vex<S: Signs>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let mut mask = S::of(cpu.xmm(op.src));
    if op.has(WIDE) {
        mask |= S::of(cpu.xmm_upper(op.src)) << S::COUNT;
    }
    cpu.set_reg(op.dst, mask);
    Ok(())
}

fn pmovmskb_mm(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    cpu.enter_mmx();
    let mask = SignsOf8::of([cpu.mm(op.src), 0]);
    cpu.set_reg(op.dst, mask);
    Ok(())
}

fn maskmovdqu(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    if op.src >> 7 != 0 {
        cpu.avx_ready()?;
    } else {
        cpu.sse_ready()?;
    }
    let mask = SignsOf8::of(cpu.xmm(op.aux));
    let data: [u8; 16] = cast(cpu.xmm(op.src & 15));
    store_masked(cpu, op, &data, mask)
}

fn maskmovq(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.mmx_ready()?;
    let mask = SignsOf8::of([cpu.mm(op.aux), 0]);
    let data = cpu.mm(op.src).to_le_bytes();
    // Also where the store then faults, as on Intel's processors.
    cpu.enter_mmx();
    store_masked(cpu, op, &data, mask)
}

/// Stores the bytes that the mask selects at rDI. Bytes that it does not select are not accessed and cannot fault.
fn store_masked(cpu: &mut Cpu, op: &Op, data: &[u8], mask: u32) -> Result<(), Abort> {
    let mut offset = cpu.state.gpr[gpr::RDI];
    if op.has(op_flags::ADDRESS32) {
        offset &= 0xffff_ffff;
    } else if op.has(op_flags::ADDRESS16) {
        offset &= 0xffff;
    }
    let address = cpu.segment_address(op.seg as usize, offset, data.len(), true)?;
    // As a whole, whatever the mask selects.
    cpu.check_alignment(address, 8)?;
    let selected = |n: &usize| mask >> n & 1 != 0;
    for n in (0..data.len()).filter(selected) {
        cpu.check_write(address.wrapping_add(n as u64), 1)?;
    }
    for n in (0..data.len()).filter(selected) {
        cpu.write(address.wrapping_add(n as u64), data[n])?;
    }
    Ok(())
}
