//! Shifts and rotates: SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD, and the BMI2 forms that leave flags alone.
//!
//! Undefined flags: OF after counts above 1 follows the formula for a count of 1 as processors do; AF is 0.

use super::{Lowered, by_wide_width, by_width, straight, width};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::gpr;
use crate::cpu::{Abort, Cpu};
use iced_x86::{Mnemonic, OpKind};

const CL: u8 = (gpr::RCX * 8) as u8;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl>(context, op),
        Mnemonic::Shr => shift::<Shr>(context, op),
        Mnemonic::Sar => shift::<Sar>(context, op),
        Mnemonic::Rol => shift::<Rol>(context, op),
        Mnemonic::Ror => shift::<Ror>(context, op),
        Mnemonic::Rcl => shift::<Rcl>(context, op),
        Mnemonic::Rcr => shift::<Rcr>(context, op),
        Mnemonic::Shld => double::<true>(context, op),
        Mnemonic::Shrd => double::<false>(context, op),
        Mnemonic::Shlx => flagless::<0>(context, op),
        Mnemonic::Shrx => flagless::<1>(context, op),
        Mnemonic::Sarx => flagless::<2>(context, op),
        Mnemonic::Rorx => {
            // The count is an immediate here.
            op.aux2 = 1;
            flagless::<3>(context, op)
        }
        _ => None,
    }
}

/// A shift or rotate by a count that is already masked.
trait Shift: Copy + 'static {
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W;
}

/// Bits of the count that matter.
fn count_mask<W: Width>() -> u32 {
    if W::BITS == 64 { 63 } else { 31 }
}

#[derive(Clone, Copy)]
struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W {
        if count == 0 {
            return a;
        }
        let wide = (a.to_u64() as u128) << count;
        let r = W::from_u64(wide as u64);
        let cf = wide >> W::BITS & 1 != 0;
        cpu.state.flags.set_result(r, cf, cf ^ r.sign());
        r
    }
}

#[derive(Clone, Copy)]
struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W {
        if count == 0 {
            return a;
        }
        // Counts reach 31 even for 8 bits, never 64.
        let before = a.to_u64() >> (count - 1);
        let r = W::from_u64(before >> 1);
        cpu.state.flags.set_result(r, before & 1 != 0, a.sign());
        r
    }
}

#[derive(Clone, Copy)]
struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W {
        if count == 0 {
            return a;
        }
        let before = a.sext() as i64 >> (count - 1);
        let r = W::from_u64((before >> 1) as u64);
        cpu.state.flags.set_result(r, before & 1 != 0, false);
        r
    }
}

#[derive(Clone, Copy)]
struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W {
        if count == 0 {
            return a;
        }
        let n = count % W::BITS;
        let x = a.to_u64();
        let r = W::from_u64(if n == 0 {
            x
        } else {
            x << n | x >> (W::BITS - n)
        });
        let cf = r.to_u64() & 1 != 0;
        cpu.state.flags.set_cf_of(cf, cf ^ r.sign());
        r
    }
}

#[derive(Clone, Copy)]
struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W {
        if count == 0 {
            return a;
        }
        let n = count % W::BITS;
        let x = a.to_u64();
        let r = W::from_u64(if n == 0 {
            x
        } else {
            x >> n | x << (W::BITS - n)
        });
        let cf = r.sign();
        let second = r.to_u64() >> (W::BITS - 2) & 1 != 0;
        cpu.state.flags.set_cf_of(cf, cf ^ second);
        r
    }
}

#[derive(Clone, Copy)]
struct Rcl;
impl Shift for Rcl {
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W {
        let n = count % (W::BITS + 1);
        if n == 0 {
            return a;
        }
        let wide = (cpu.state.flags.cf() as u128) << W::BITS | a.to_u64() as u128;
        let rotated = wide << n | wide >> (W::BITS + 1 - n);
        let r = W::from_u64(rotated as u64);
        let cf = rotated >> W::BITS & 1 != 0;
        cpu.state.flags.set_cf_of(cf, cf ^ r.sign());
        r
    }
}

#[derive(Clone, Copy)]
struct Rcr;
impl Shift for Rcr {
    fn compute<W: Width>(cpu: &mut Cpu, a: W, count: u32) -> W {
        let n = count % (W::BITS + 1);
        if n == 0 {
            return a;
        }
        let wide = (cpu.state.flags.cf() as u128) << W::BITS | a.to_u64() as u128;
        let rotated = wide >> n | wide << (W::BITS + 1 - n);
        let r = W::from_u64(rotated as u64);
        let cf = rotated >> W::BITS & 1 != 0;
        let second = r.to_u64() >> (W::BITS - 2) & 1 != 0;
        cpu.state.flags.set_cf_of(cf, r.sign() ^ second);
        r
    }
}

fn shift<O: Shift>(context: &Context, _op: &mut Op) -> Option<Lowered> {
    let w = width(context, 0);
    let by_register = context.insn.op1_kind() == OpKind::Register;
    match (context.is_memory(0), by_register) {
        (false, false) => by_width!(w, W => straight(reg_by_imm::<O, W>)),
        (false, true) => by_width!(w, W => straight(reg_by_cl::<O, W>)),
        (true, false) => by_width!(w, W => straight(mem_by_imm::<O, W>)),
        (true, true) => by_width!(w, W => straight(mem_by_cl::<O, W>)),
    }
}

fn reg_by_imm<O: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = cpu.reg::<W>(op.dst);
    let r = O::compute(cpu, a, op.imm as u32 & count_mask::<W>());
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn reg_by_cl<O: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = cpu.reg::<W>(op.dst);
    let count = cpu.reg::<u8>(CL) as u32 & count_mask::<W>();
    let r = O::compute(cpu, a, count);
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn mem_by_imm<O: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let count = op.imm as u32 & count_mask::<W>();
    cpu.update::<W>(op, |cpu, a| O::compute(cpu, a, count))
}

fn mem_by_cl<O: Shift, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let count = cpu.reg::<u8>(CL) as u32 & count_mask::<W>();
    cpu.update::<W>(op, |cpu, a| O::compute(cpu, a, count))
}

fn double<const LEFT: bool>(context: &Context, op: &mut Op) -> Option<Lowered> {
    let w = width(context, 0);
    // By CL, or by an immediate.
    op.aux2 = (context.insn.op2_kind() == OpKind::Register) as u8;
    by_wide_width!(w, W => straight(double_shift::<LEFT, W>))
}

fn double_shift<const LEFT: bool, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let count = if op.aux2 != 0 {
        cpu.reg::<u8>(CL) as u32
    } else {
        op.imm as u32
    } & count_mask::<W>();
    let b = cpu.reg::<W>(op.src);
    let compute = |cpu: &mut Cpu, a: W| {
        if LEFT {
            shld(cpu, a, b, count)
        } else {
            shrd(cpu, a, b, count)
        }
    };
    if op.has(op_flags::MEMORY) {
        return cpu.update::<W>(op, compute);
    }
    let a = cpu.reg::<W>(op.dst);
    let r = compute(cpu, a);
    cpu.set_reg(op.dst, r);
    Ok(())
}

/// With 16-bit operands, counts above 16 are undefined: what processors do is to go on with `a` again.
fn shld<W: Width>(cpu: &mut Cpu, a: W, b: W, count: u32) -> W {
    if count == 0 {
        return a;
    }
    let (x, y) = (a.to_u64() as u128, b.to_u64() as u128);
    let bits = W::BITS;
    let (r, cf) = if count <= bits {
        let wide = x << bits | y;
        ((wide << count >> bits) as u64, x >> (bits - count) & 1 != 0)
    } else {
        let n = count - bits;
        let wide = y << bits | x;
        ((wide << n >> bits) as u64, y >> (bits - n) & 1 != 0)
    };
    let r = W::from_u64(r);
    cpu.state.flags.set_result(r, cf, r.sign() ^ a.sign());
    r
}

fn shrd<W: Width>(cpu: &mut Cpu, a: W, b: W, count: u32) -> W {
    if count == 0 {
        return a;
    }
    let (x, y) = (a.to_u64() as u128, b.to_u64() as u128);
    let bits = W::BITS;
    let (r, cf) = if count <= bits {
        ((y << bits | x) >> count, x >> (count - 1) & 1 != 0)
    } else {
        let n = count - bits;
        ((x << bits | y) >> n, y >> (n - 1) & 1 != 0)
    };
    let r = W::from_u64(r as u64);
    cpu.state.flags.set_result(r, cf, r.sign() ^ a.sign());
    r
}

fn flagless<const KIND: u8>(context: &Context, _op: &mut Op) -> Option<Lowered> {
    match width(context, 0) {
        4 => straight(flagless_shift::<KIND, u32>),
        _ => straight(flagless_shift::<KIND, u64>),
    }
}

/// SHLX, SHRX, SARX (count in the third operand), RORX (immediate).
fn flagless_shift<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)?
    } else {
        cpu.reg::<W>(op.src)
    };
    let count = if KIND == 3 {
        op.imm as u32
    } else {
        cpu.reg::<W>(op.aux).to_u64() as u32
    } & count_mask::<W>();
    let x = a.to_u64();
    let r = match KIND {
        0 => x << count,
        1 => x >> count,
        2 => (a.sext() as i64 >> count) as u64,
        _ if count == 0 => x,
        _ => x >> count | x << (W::BITS - count),
    };
    cpu.set_reg(op.dst, W::from_u64(r));
    Ok(())
}
