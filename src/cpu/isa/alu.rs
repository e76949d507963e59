//! Binary and unary integer arithmetic: ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT.
//!
//! SDM volume 2, under the names of the instructions; flags by `flags.rs`.

use super::{Lowered, by_width, straight, width};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::op::Op;
use crate::cpu::{Abort, Cpu};
use iced_x86::{Mnemonic, OpKind};

/// Chooses handlers.
pub fn lower(context: &Context, _op: &mut Op) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Add => binary::<Add>(context),
        Mnemonic::Or => binary::<Or>(context),
        Mnemonic::Adc => binary::<Adc>(context),
        Mnemonic::Sbb => binary::<Sbb>(context),
        Mnemonic::And => binary::<And>(context),
        Mnemonic::Sub => binary::<Sub>(context),
        Mnemonic::Xor => binary::<Xor>(context),
        Mnemonic::Cmp => binary::<Cmp>(context),
        Mnemonic::Test => binary::<Test>(context),
        Mnemonic::Inc => unary::<Inc>(context),
        Mnemonic::Dec => unary::<Dec>(context),
        Mnemonic::Neg => unary::<Neg>(context),
        Mnemonic::Not => unary::<Not>(context),
        _ => None,
    }
}

/// Computes from two operands and sets flags.
pub trait Binary: Copy + 'static {
    /// Whether the result is stored.
    const STORES: bool = true;
    /// The operation.
    fn compute<W: Width>(cpu: &mut Cpu, a: W, b: W) -> W;
}

macro_rules! binary_operation {
    ($name:ident, stores $stores:literal, |$cpu:ident, $a:ident, $b:ident| $body:expr) => {
        #[doc = concat!("The operation of ", stringify!($name), ".")]
        #[derive(Clone, Copy)]
        pub struct $name;
        impl Binary for $name {
            const STORES: bool = $stores;
            #[inline(always)]
            fn compute<W: Width>($cpu: &mut Cpu, $a: W, $b: W) -> W {
                $body
            }
        }
    };
}

#[inline(always)]
fn sum<W: Width>(cpu: &mut Cpu, a: W, b: W, carry: u64) -> W {
    let r = W::from_u64(a.to_u64().wrapping_add(b.to_u64()).wrapping_add(carry));
    cpu.state.flags.set_add(a, b, r);
    r
}

#[inline(always)]
fn difference<W: Width>(cpu: &mut Cpu, a: W, b: W, borrow: u64) -> W {
    let r = W::from_u64(a.to_u64().wrapping_sub(b.to_u64()).wrapping_sub(borrow));
    cpu.state.flags.set_sub(a, b, r);
    r
}

#[inline(always)]
fn logic<W: Width>(cpu: &mut Cpu, r: u64) -> W {
    let r = W::from_u64(r);
    cpu.state.flags.set_logic(r);
    r
}

binary_operation!(Add, stores true, |cpu, a, b| sum(cpu, a, b, 0));
binary_operation!(Adc, stores true, |cpu, a, b| {
    let carry = cpu.state.flags.cf() as u64;
    sum(cpu, a, b, carry)
});
binary_operation!(Sub, stores true, |cpu, a, b| difference(cpu, a, b, 0));
binary_operation!(Sbb, stores true, |cpu, a, b| {
    let borrow = cpu.state.flags.cf() as u64;
    difference(cpu, a, b, borrow)
});
binary_operation!(Cmp, stores false, |cpu, a, b| difference(cpu, a, b, 0));
binary_operation!(And, stores true, |cpu, a, b| logic(cpu, a.to_u64() & b.to_u64()));
binary_operation!(Test, stores false, |cpu, a, b| logic(cpu, a.to_u64() & b.to_u64()));
binary_operation!(Or, stores true, |cpu, a, b| logic(cpu, a.to_u64() | b.to_u64()));
binary_operation!(Xor, stores true, |cpu, a, b| logic(cpu, a.to_u64() ^ b.to_u64()));

fn binary<O: Binary>(context: &Context) -> Option<Lowered> {
    let insn = context.insn;
    let w = width(context, 0);
    match (insn.op0_kind(), insn.op1_kind()) {
        (OpKind::Register, OpKind::Register) => by_width!(w, W => straight(reg_reg::<O, W>)),
        (OpKind::Register, OpKind::Memory) => by_width!(w, W => straight(reg_mem::<O, W>)),
        (OpKind::Memory, OpKind::Register) => by_width!(w, W => straight(mem_reg::<O, W>)),
        (OpKind::Memory, _) => by_width!(w, W => straight(mem_imm::<O, W>)),
        _ => by_width!(w, W => straight(reg_imm::<O, W>)),
    }
}

#[inline(always)]
pub(super) fn reg_reg<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let (a, b) = (cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src));
    let r = O::compute(cpu, a, b);
    if O::STORES {
        cpu.set_reg(op.dst, r);
    }
    Ok(())
}

#[inline(always)]
pub(super) fn reg_imm<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = cpu.reg::<W>(op.dst);
    let r = O::compute(cpu, a, W::from_u64(op.imm));
    if O::STORES {
        cpu.set_reg(op.dst, r);
    }
    Ok(())
}

#[inline(always)]
pub(super) fn reg_mem<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = cpu.load::<W>(op)?;
    let a = cpu.reg::<W>(op.dst);
    let r = O::compute(cpu, a, b);
    if O::STORES {
        cpu.set_reg(op.dst, r);
    }
    Ok(())
}

#[inline(always)]
pub(super) fn mem_reg<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = cpu.reg::<W>(op.src);
    mem_value::<O, W>(cpu, op, b)
}

#[inline(always)]
pub(super) fn mem_imm<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    mem_value::<O, W>(cpu, op, W::from_u64(op.imm))
}

#[inline(always)]
fn mem_value<O: Binary, W: Width>(cpu: &mut Cpu, op: &Op, b: W) -> Result<(), Abort> {
    if O::STORES {
        cpu.update::<W>(op, |cpu, a| O::compute(cpu, a, b))
    } else {
        let a = cpu.load::<W>(op)?;
        O::compute(cpu, a, b);
        Ok(())
    }
}

/// Computes from one operand and sets flags.
trait Unary: Copy + 'static {
    fn compute<W: Width>(cpu: &mut Cpu, a: W) -> W;
}

macro_rules! unary_operation {
    ($name:ident, |$cpu:ident, $a:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn compute<W: Width>($cpu: &mut Cpu, $a: W) -> W {
                $body
            }
        }
    };
}

unary_operation!(Inc, |cpu, a| {
    let r = W::from_u64(a.to_u64().wrapping_add(1));
    cpu.state.flags.set_inc(a, r);
    r
});
unary_operation!(Dec, |cpu, a| {
    let r = W::from_u64(a.to_u64().wrapping_sub(1));
    cpu.state.flags.set_dec(a, r);
    r
});
unary_operation!(Neg, |cpu, a| difference(cpu, W::from_u64(0), a, 0));
unary_operation!(Not, |_cpu, a| W::from_u64(!a.to_u64()));

fn unary<O: Unary>(context: &Context) -> Option<Lowered> {
    let w = width(context, 0);
    if context.is_memory(0) {
        by_width!(w, W => straight(unary_mem::<O, W>))
    } else {
        by_width!(w, W => straight(unary_reg::<O, W>))
    }
}

fn unary_reg<O: Unary, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = cpu.reg::<W>(op.dst);
    let r = O::compute(cpu, a);
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn unary_mem<O: Unary, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.update::<W>(op, O::compute)
}
