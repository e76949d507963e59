//! Decimal arithmetic of the 16- and 32-bit modes: AAA, AAS, AAM, AAD, DAA, DAS; BOUND, INTO's kin, ARPL.
//!
//! SDM volume 2. Undefined flags: OF is 0 where the manual leaves it open; SF, ZF and PF follow AL.

use super::{Lowered, straight, width};
use crate::cpu::decode::Context;
use crate::cpu::flags::{Width, bits};
use crate::cpu::op::{Op, op_flags};
use crate::cpu::{Abort, Cpu, vector};
use iced_x86::Mnemonic;

const AL: u8 = 0;
const AX: u8 = 0;

/// Chooses handlers.
pub fn lower(context: &Context, _op: &mut Op) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Aaa => straight(ascii_adjust::<false>),
        Mnemonic::Aas => straight(ascii_adjust::<true>),
        Mnemonic::Daa => straight(decimal_adjust::<false>),
        Mnemonic::Das => straight(decimal_adjust::<true>),
        Mnemonic::Aam => straight(aam),
        Mnemonic::Aad => straight(aad),
        Mnemonic::Bound => match width(context, 0) {
            2 => straight(bound::<u16>),
            _ => straight(bound::<u32>),
        },
        Mnemonic::Arpl => straight(arpl),
        _ => None,
    }
}

/// Flags of a decimal result in AL.
fn set_flags(cpu: &mut Cpu, al: u8, carry: bool, half: bool) {
    cpu.state.flags.set_result(al, carry, false);
    if half {
        let flags = cpu.state.flags.arithmetic();
        cpu.state.flags.set_arithmetic(flags | bits::AF);
    }
}

fn ascii_adjust<const SUBTRACT: bool>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let ax = cpu.reg::<u16>(AX);
    let adjust = ax & 15 > 9 || cpu.state.flags.af();
    let sum = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    };
    let result = sum & 0xff0f;
    cpu.set_reg(AX, result);
    set_flags(cpu, result as u8, adjust, adjust);
    Ok(())
}

fn decimal_adjust<const SUBTRACT: bool>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let old = cpu.reg::<u8>(AL);
    let old_carry = cpu.state.flags.cf();
    let mut al = old;
    let mut carry = false;
    let half = old & 15 > 9 || cpu.state.flags.af();
    let apply = |a: u8, n: u8| {
        if SUBTRACT {
            a.overflowing_sub(n)
        } else {
            a.overflowing_add(n)
        }
    };
    if half {
        let (value, over) = apply(al, 6);
        al = value;
        carry = old_carry || over;
    }
    if old > 0x99 || old_carry {
        al = apply(al, 0x60).0;
        carry = true;
    } else if !SUBTRACT {
        carry = false;
    }
    cpu.set_reg(AL, al);
    set_flags(cpu, al, carry, half);
    Ok(())
}

fn aam(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let base = op.imm as u8;
    if base == 0 {
        return cpu.raise(vector::DE);
    }
    let al = cpu.reg::<u8>(AL);
    cpu.set_reg::<u16>(AX, ((al / base) as u16) << 8 | (al % base) as u16);
    cpu.state.flags.set_logic(al % base);
    Ok(())
}

fn aad(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let ax = cpu.reg::<u16>(AX);
    let al = (ax as u8).wrapping_add(((ax >> 8) as u8).wrapping_mul(op.imm as u8));
    cpu.set_reg::<u16>(AX, al as u16);
    cpu.state.flags.set_logic(al);
    Ok(())
}

fn load_part<W: Width>(cpu: &mut Cpu, op: &Op, skip: u64) -> Result<W, Abort> {
    let address = cpu.part_address(op, skip, W::BYTES, false)?;
    cpu.read(address)
}

fn bound<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let index = cpu.reg::<W>(op.dst).sext() as i64;
    // Below the lower bound, the upper one is not looked at.
    let low = load_part::<W>(cpu, op, 0)?.sext() as i64;
    if index < low {
        return cpu.raise(vector::BR);
    }
    let high = load_part::<W>(cpu, op, W::BYTES as u64)?.sext() as i64;
    if index > high {
        cpu.raise(vector::BR)
    } else {
        Ok(())
    }
}

fn arpl(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    if !cpu.state.protected() || cpu.state.flags.vm86() {
        return cpu.undefined();
    }
    let rpl = cpu.reg::<u16>(op.src) & 3;
    let memory = op.has(op_flags::MEMORY);
    let selector = if memory {
        load_part::<u16>(cpu, op, 0)?
    } else {
        cpu.reg(op.dst)
    };
    let raised = selector & 3 < rpl;
    let new = selector & !3 | rpl;
    // Nothing is stored where nothing changes.
    match (raised, memory) {
        (true, true) => {
            let address = cpu.part_address(op, 0, 2, true)?;
            cpu.write(address, new)?;
        }
        (true, false) => cpu.set_reg(op.dst, new),
        _ => {}
    }
    cpu.state.flags.set_zf(raised);
    Ok(())
}
