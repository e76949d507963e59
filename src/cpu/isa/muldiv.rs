//! MUL, IMUL, DIV, IDIV, MULX, ADCX, ADOX.
//!
//! Undefined flags: SF, ZF, PF after multiplication follow the low half; AF is 0. DIV leaves all flags.

use super::{Lowered, by_wide_width, by_width, straight, width};
use crate::cpu::decode::Context;
use crate::cpu::flags::{Width, bits};
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::gpr;
use crate::cpu::{Abort, Cpu, vector};
use iced_x86::Mnemonic;

const RAX: u8 = 0;
const RDX: u8 = (gpr::RDX * 8) as u8;
const AH: u8 = 1;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    let w = width(context, 0);
    match insn.mnemonic() {
        Mnemonic::Mul => by_width!(w, W => straight(multiply::<false, W>)),
        Mnemonic::Imul if insn.op_count() == 1 => by_width!(w, W => straight(multiply::<true, W>)),
        Mnemonic::Imul if insn.op_count() == 2 => by_wide_width!(w, W => straight(imul2::<W>)),
        Mnemonic::Imul => by_wide_width!(w, W => straight(imul3::<W>)),
        Mnemonic::Div => by_width!(w, W => straight(divide::<W>)),
        Mnemonic::Idiv => by_width!(w, W => straight(divide_signed::<W>)),
        Mnemonic::Mulx => match w {
            4 => straight(mulx::<u32>),
            _ => straight(mulx::<u64>),
        },
        Mnemonic::Adcx => {
            op.aux2 = 0;
            by_wide_width!(w, W => straight(add_with_one_flag::<W>))
        }
        Mnemonic::Adox => {
            op.aux2 = 1;
            by_wide_width!(w, W => straight(add_with_one_flag::<W>))
        }
        _ => None,
    }
}

/// The only explicit operand, a register or memory.
#[inline(always)]
fn operand<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Abort> {
    if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)
    } else {
        Ok(cpu.reg::<W>(op.dst))
    }
}

#[inline(always)]
fn source<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Abort> {
    if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)
    } else {
        Ok(cpu.reg::<W>(op.src))
    }
}

fn set_pair<W: Width>(cpu: &mut Cpu, low: u64, high: u64) {
    if W::BITS == 8 {
        cpu.set_reg::<u16>(RAX, (low & 0xff | high << 8) as u16);
    } else {
        cpu.set_reg(RAX, W::from_u64(low));
        cpu.set_reg(RDX, W::from_u64(high));
    }
}

fn multiply<const SIGNED: bool, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = operand::<W>(cpu, op)?;
    let a = cpu.reg::<W>(RAX);
    let (product, overflow) = if SIGNED {
        let product = (a.sext() as i64 as i128) * (b.sext() as i64 as i128);
        let fits = product == W::from_u64(product as u64).sext() as i64 as i128;
        (product as u128, !fits)
    } else {
        let product = a.to_u64() as u128 * b.to_u64() as u128;
        (product, product >> W::BITS != 0)
    };
    let low = W::from_u64(product as u64);
    set_pair::<W>(cpu, low.to_u64(), (product >> W::BITS) as u64);
    cpu.state.flags.set_result(low, overflow, overflow);
    Ok(())
}

fn signed_product<W: Width>(cpu: &mut Cpu, a: W, b: W) -> W {
    let product = (a.sext() as i64 as i128) * (b.sext() as i64 as i128);
    let r = W::from_u64(product as u64);
    let overflow = product != r.sext() as i64 as i128;
    cpu.state.flags.set_result(r, overflow, overflow);
    r
}

fn imul2<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = source::<W>(cpu, op)?;
    let a = cpu.reg::<W>(op.dst);
    let r = signed_product(cpu, a, b);
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn imul3<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?;
    let r = signed_product(cpu, a, W::from_u64(op.imm));
    cpu.set_reg(op.dst, r);
    Ok(())
}

/// The double-width dividend.
fn dividend<W: Width>(cpu: &Cpu) -> u128 {
    let low = cpu.reg::<W>(RAX).to_u64() as u128;
    let high = if W::BITS == 8 {
        cpu.reg::<u8>(AH) as u64
    } else {
        cpu.reg::<W>(RDX).to_u64()
    };
    (high as u128) << W::BITS | low
}

fn divide<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let divisor = operand::<W>(cpu, op)?.to_u64() as u128;
    let dividend = dividend::<W>(cpu);
    if divisor == 0 || dividend >> W::BITS >= divisor {
        return cpu.raise(vector::DE);
    }
    let (quotient, remainder) =
        if let (Ok(a), Ok(b)) = (u64::try_from(dividend), u64::try_from(divisor)) {
            ((a / b) as u128, (a % b) as u128)
        } else {
            (dividend / divisor, dividend % divisor)
        };
    set_pair::<W>(cpu, quotient as u64, remainder as u64);
    Ok(())
}

fn divide_signed<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let divisor = operand::<W>(cpu, op)?.sext() as i64 as i128;
    // Sign-extended from twice the operand's width.
    let shift = 128 - 2 * W::BITS;
    let dividend = (dividend::<W>(cpu) << shift) as i128 >> shift;
    if divisor == 0 {
        return cpu.raise(vector::DE);
    }
    let (Some(quotient), Some(remainder)) =
        (dividend.checked_div(divisor), dividend.checked_rem(divisor))
    else {
        return cpu.raise(vector::DE);
    };
    if quotient != W::from_u64(quotient as u64).sext() as i64 as i128 {
        return cpu.raise(vector::DE);
    }
    let mask = W::from_u64(u64::MAX).to_u64();
    set_pair::<W>(cpu, quotient as u64 & mask, remainder as u64 & mask);
    Ok(())
}

fn mulx<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)?
    } else {
        cpu.reg::<W>(op.aux)
    };
    let product = cpu.reg::<W>(RDX).to_u64() as u128 * b.to_u64() as u128;
    // Low half first: where both destinations are one register, it gets the high half.
    cpu.set_reg(op.src, W::from_u64(product as u64));
    cpu.set_reg(op.dst, W::from_u64((product >> W::BITS) as u64));
    Ok(())
}

/// ADCX (`aux2` 0) and ADOX (1): addition that reads and writes CF or OF alone.
fn add_with_one_flag<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = source::<W>(cpu, op)?.to_u64();
    let a = cpu.reg::<W>(op.dst).to_u64();
    let flag = if op.aux2 == 0 { bits::CF } else { bits::OF };
    let old = cpu.state.flags.arithmetic();
    let sum = a as u128 + b as u128 + (old & flag != 0) as u128;
    let carry = if sum >> W::BITS != 0 { flag } else { 0 };
    cpu.state.flags.set_arithmetic(old & !flag | carry);
    cpu.set_reg(op.dst, W::from_u64(sum as u64));
    Ok(())
}
