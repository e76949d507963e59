//! What AVX and AVX2 added: broadcasts, permutations across lanes, variable shifts, VZEROUPPER.

use super::{
    Form, Lane, Lowered, V, WIDE, elementwise, one_source, shuffle, straight, two_sources,
};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::flags::Width;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu};
use bytemuck::cast;
use iced_x86::{Mnemonic, OpKind};

type Y = [u64; 4];

impl Cpu {
    #[inline(always)]
    fn ymm(&self, number: u8) -> Y {
        self.state.vector[(number & 15) as usize].0
    }

    #[inline(always)]
    fn put_ymm(&mut self, number: u8, value: Y) {
        self.state.vector[(number & 15) as usize].0 = value;
    }

    /// A 256-bit source: the register `number` or memory.
    #[inline(always)]
    fn ymm_source(&mut self, op: &Op, number: u8) -> Result<Y, Abort> {
        if op.has(op_flags::MEMORY) {
            self.load::<Y>(op)
        } else {
            Ok(self.ymm(number))
        }
    }

    /// A 128-bit source: the register `number` or memory.
    #[inline(always)]
    fn xmm_source(&mut self, op: &Op, number: u8) -> Result<V, Abort> {
        if op.has(op_flags::MEMORY) {
            self.load::<V>(op)
        } else {
            Ok(self.xmm(number))
        }
    }
}

elementwise!(Vpsllvd, u32, |a, n| if n < 32 { a << n } else { 0 });
elementwise!(Vpsllvq, u64, |a, n| if n < 64 { a << n } else { 0 });
elementwise!(Vpsrlvd, u32, |a, n| if n < 32 { a >> n } else { 0 });
elementwise!(Vpsrlvq, u64, |a, n| if n < 64 { a >> n } else { 0 });
elementwise!(Vpsravd, i32, |a, n| a >> (n as u32).min(31));

#[derive(Clone, Copy)]
struct PermuteSingles;
impl Lane for PermuteSingles {
    fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        let (a, b): ([u32; 4], [u32; 4]) = (cast(a), cast(b));
        cast(b.map(|n| a[(n & 3) as usize]))
    }
}

#[derive(Clone, Copy)]
struct PermuteDoubles;
impl Lane for PermuteDoubles {
    fn apply(a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        b.map(|n| a[(n >> 1 & 1) as usize])
    }
}

#[derive(Clone, Copy)]
struct PermuteDoublesImm;
impl Lane for PermuteDoublesImm {
    const LANE_SHIFT: u32 = 2;
    fn apply(_a: V, b: V, imm: u8, _mxcsr: &mut u32) -> V {
        [b[(imm & 1) as usize], b[(imm >> 1 & 1) as usize]]
    }
}

#[derive(Clone, Copy)]
struct DuplicateLow;
impl Lane for DuplicateLow {
    fn apply(_a: V, b: V, _imm: u8, _mxcsr: &mut u32) -> V {
        [b[0], b[0]]
    }
}

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op, form: Form) -> Option<Lowered> {
    use Mnemonic as M;
    if !form.vex {
        return None;
    }
    let insn = context.insn;
    let immediate = insn.op_count() > 0 && insn.op_kind(insn.op_count() - 1) == OpKind::Immediate8;
    let wide = if form.wide { WIDE } else { 0 };
    macro_rules! body {
        ($body:expr) => {{
            op.flags |= wide;
            straight($body)
        }};
    }
    match insn.mnemonic() {
        M::Vzeroupper => straight(vzeroupper),
        M::Vzeroall => straight(vzeroall),
        M::Vbroadcastss | M::Vpbroadcastd => body!(broadcast::<u32>),
        M::Vbroadcastsd | M::Vpbroadcastq => body!(broadcast::<u64>),
        M::Vpbroadcastb => body!(broadcast::<u8>),
        M::Vpbroadcastw => body!(broadcast::<u16>),
        M::Vbroadcastf128 | M::Vbroadcasti128 => straight(broadcast_lane),
        M::Vinsertf128 | M::Vinserti128 => straight(insert_lane),
        M::Vextractf128 | M::Vextracti128 => straight(extract_lane),
        M::Vperm2f128 | M::Vperm2i128 => straight(permute_lanes),
        M::Vpermq | M::Vpermpd => straight(permute_quads),
        M::Vpermd | M::Vpermps => straight(permute_all_singles),
        M::Vpermilps if immediate => one_source::<shuffle::Pshufd>(context, op, form),
        M::Vpermilps => two_sources::<PermuteSingles>(context, op, form),
        M::Vpermilpd if immediate => one_source::<PermuteDoublesImm>(context, op, form),
        M::Vpermilpd => two_sources::<PermuteDoubles>(context, op, form),
        M::Vmovddup if form.wide => one_source::<DuplicateLow>(context, op, form),
        M::Vpsllvd => two_sources::<Vpsllvd>(context, op, form),
        M::Vpsllvq => two_sources::<Vpsllvq>(context, op, form),
        M::Vpsrlvd => two_sources::<Vpsrlvd>(context, op, form),
        M::Vpsrlvq => two_sources::<Vpsrlvq>(context, op, form),
        M::Vpsravd => two_sources::<Vpsravd>(context, op, form),
        _ => None,
    }
}

/// Registers that the mode has: the instructions do not touch those that it has not.
fn register_count(cpu: &Cpu) -> usize {
    if cpu.mode == Mode::Bits64 { 16 } else { 8 }
}

fn vzeroupper(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    for n in 0..register_count(cpu) {
        cpu.state.vector[n].0[2..].fill(0);
    }
    Ok(())
}

fn vzeroall(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    for n in 0..register_count(cpu) {
        cpu.state.vector[n].0.fill(0);
    }
    Ok(())
}

fn broadcast<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let value = if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)?.to_u64()
    } else {
        W::from_u64(cpu.xmm(op.src)[0]).to_u64()
    };
    // Times 0101...01 in units of the element.
    let word = value.wrapping_mul(u64::MAX / W::from_u64(!0).to_u64());
    let high = if op.has(WIDE) { word } else { 0 };
    cpu.put_ymm(op.dst, [word, word, high, high]);
    Ok(())
}

fn broadcast_lane(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let lane = cpu.load::<V>(op)?;
    cpu.set_ymm(op.dst, lane, lane);
    Ok(())
}

fn insert_lane(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let lane = cpu.xmm_source(op, op.aux)?;
    let (low, high) = (cpu.xmm(op.src), cpu.xmm_upper(op.src));
    if op.imm & 1 == 0 {
        cpu.set_ymm(op.dst, lane, high);
    } else {
        cpu.set_ymm(op.dst, low, lane);
    }
    Ok(())
}

fn extract_lane(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let lane = if op.imm & 1 == 0 {
        cpu.xmm(op.src)
    } else {
        cpu.xmm_upper(op.src)
    };
    if op.has(op_flags::MEMORY) {
        return cpu.store(op, lane);
    }
    cpu.set_ymm(op.dst, lane, [0; 2]);
    Ok(())
}

fn permute_lanes(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let second: [V; 2] = cast(cpu.ymm_source(op, op.aux)?);
    let lanes = [cpu.xmm(op.src), cpu.xmm_upper(op.src), second[0], second[1]];
    let pick = |control: u64| {
        if control & 8 != 0 {
            [0; 2]
        } else {
            lanes[(control & 3) as usize]
        }
    };
    let (low, high) = (pick(op.imm), pick(op.imm >> 4));
    cpu.set_ymm(op.dst, low, high);
    Ok(())
}

fn permute_quads(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let a = cpu.ymm_source(op, op.src)?;
    let imm = op.imm as usize;
    cpu.put_ymm(op.dst, [0, 2, 4, 6].map(|shift| a[imm >> shift & 3]));
    Ok(())
}

fn permute_all_singles(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.avx_ready()?;
    let a: [u32; 8] = cast(cpu.ymm_source(op, op.aux)?);
    let index: [u32; 8] = cast(cpu.ymm(op.src));
    cpu.put_ymm(op.dst, cast(index.map(|n| a[(n & 7) as usize])));
    Ok(())
}
