//! Bits: BT, BTS, BTR, BTC, BSF, BSR, LZCNT, TZCNT, POPCNT, ANDN, BEXTR, BLSI, BLSMSK, BLSR, BZHI, PDEP, PEXT.
//!
//! BSF and BSR of 0 leave the destination as it was, which AMD documents and Intel's processors do.

use super::{Lowered, by_wide_width, straight, width};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::flags::{Width, bits};
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::seg;
use crate::cpu::{Abort, Cpu};
use iced_x86::{Mnemonic, OpKind};

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    macro_rules! wide {
        ($body:ident $(::<$($g:tt),*>)?) => {
            by_wide_width!(width(context, 0), W => straight($body::<$($($g,)*)? W>))
        };
    }
    match context.insn.mnemonic() {
        Mnemonic::Bt => bit_test::<0>(context, op),
        Mnemonic::Bts => bit_test::<1>(context, op),
        Mnemonic::Btr => bit_test::<2>(context, op),
        Mnemonic::Btc => bit_test::<3>(context, op),
        Mnemonic::Bsf => wide!(bsf),
        Mnemonic::Bsr => wide!(bsr),
        Mnemonic::Tzcnt => wide!(tzcnt),
        Mnemonic::Lzcnt => wide!(lzcnt),
        Mnemonic::Popcnt => wide!(popcnt),
        Mnemonic::Andn => wide!(andn),
        Mnemonic::Bextr => wide!(bextr),
        Mnemonic::Blsi => wide!(bls::<0>),
        Mnemonic::Blsmsk => wide!(bls::<1>),
        Mnemonic::Blsr => wide!(bls::<2>),
        Mnemonic::Bzhi => wide!(bzhi),
        Mnemonic::Pdep => wide!(pdep),
        Mnemonic::Pext => wide!(pext),
        _ => None,
    }
}

fn bit_test<const KIND: u8>(context: &Context, op: &mut Op) -> Option<Lowered> {
    let w = width(context, 0);
    let by_register = context.insn.op1_kind() == OpKind::Register;
    match (context.is_memory(0), by_register) {
        (true, true) => {
            // The bit offset reaches beyond the operand: the address is computed the general way.
            op.aux = context.insn.memory_segment().number() as u8;
            by_wide_width!(w, W => straight(bit_string::<KIND, W>))
        }
        (true, false) => by_wide_width!(w, W => straight(bit_mem_imm::<KIND, W>)),
        (false, true) => by_wide_width!(w, W => straight(bit_reg_reg::<KIND, W>)),
        (false, false) => by_wide_width!(w, W => straight(bit_reg_imm::<KIND, W>)),
    }
}

#[inline(always)]
fn change<const KIND: u8, W: Width>(cpu: &mut Cpu, a: W, bit: u64) -> W {
    let mask = 1u64 << (bit & (W::BITS as u64 - 1));
    let x = a.to_u64();
    cpu.state.flags.set_cf(x & mask != 0);
    W::from_u64(match KIND {
        0 => x,
        1 => x | mask,
        2 => x & !mask,
        _ => x ^ mask,
    })
}

fn bit_reg_reg<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let bit = cpu.reg::<W>(op.src).to_u64();
    let a = cpu.reg::<W>(op.dst);
    let r = change::<KIND, W>(cpu, a, bit);
    if KIND != 0 {
        cpu.set_reg(op.dst, r);
    }
    Ok(())
}

fn bit_reg_imm<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = cpu.reg::<W>(op.dst);
    let r = change::<KIND, W>(cpu, a, op.imm);
    if KIND != 0 {
        cpu.set_reg(op.dst, r);
    }
    Ok(())
}

fn bit_mem_imm<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    if KIND == 0 {
        let a = cpu.load::<W>(op)?;
        change::<KIND, W>(cpu, a, op.imm);
        return Ok(());
    }
    let bit = op.imm;
    cpu.update::<W>(op, |cpu, a| change::<KIND, W>(cpu, a, bit))
}

fn bit_string<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let bit = cpu.reg::<W>(op.src);
    let words = (bit.sext() as i64) >> W::BITS.trailing_zeros();
    let mut offset = cpu
        .effective_address(op)
        .wrapping_add((words * W::BYTES as i64) as u64);
    if op.has(op_flags::ADDRESS32) {
        offset &= 0xffff_ffff;
    } else if op.has(op_flags::ADDRESS16) {
        offset &= 0xffff;
    }
    let segment = if cpu.mode == Mode::Bits64 && (op.aux as usize) < seg::FS {
        seg::NONE
    } else {
        op.aux as usize
    };
    let address = cpu.segment_address(segment, offset, W::BYTES, KIND != 0)?;
    if KIND == 0 {
        let a = cpu.read::<W>(address)?;
        change::<KIND, W>(cpu, a, bit.to_u64());
        return Ok(());
    }
    let (host, a) = cpu.begin_update::<W>(address)?;
    let flags = cpu.state.flags;
    let r = change::<KIND, W>(cpu, a, bit.to_u64());
    cpu.finish_update(host, address, r)
        .inspect_err(|_| cpu.state.flags = flags)
}

/// The source operand, a register or memory.
#[inline(always)]
fn source<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Abort> {
    if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)
    } else {
        Ok(cpu.reg::<W>(op.src))
    }
}

fn bsf<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?;
    scan(cpu, op, a, a.to_u64().trailing_zeros());
    Ok(())
}

fn bsr<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?;
    scan(cpu, op, a, 63u32.wrapping_sub(a.to_u64().leading_zeros()));
    Ok(())
}

/// ZF says whether the source is 0; the other flags, undefined, are those of the source as a result.
fn scan<W: Width>(cpu: &mut Cpu, op: &Op, a: W, index: u32) {
    cpu.state.flags.set_logic(a);
    if a.to_u64() != 0 {
        cpu.set_reg(op.dst, W::from_u64(index as u64));
    }
}

fn tzcnt<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?.to_u64();
    let count = a.trailing_zeros().min(W::BITS);
    finish_count::<W>(cpu, op, a == 0, count);
    Ok(())
}

fn lzcnt<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?.to_u64();
    let count = a.leading_zeros() - (64 - W::BITS);
    finish_count::<W>(cpu, op, a == 0, count);
    Ok(())
}

fn finish_count<W: Width>(cpu: &mut Cpu, op: &Op, carry: bool, count: u32) {
    cpu.state
        .flags
        .set_result(W::from_u64(count as u64), carry, false);
    cpu.set_reg(op.dst, W::from_u64(count as u64));
}

fn popcnt<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?.to_u64();
    let zero = if a == 0 { bits::ZF } else { 0 };
    cpu.state.flags.set_arithmetic(zero);
    cpu.set_reg(op.dst, W::from_u64(a.count_ones() as u64));
    Ok(())
}

/// The last source operand of a VEX instruction with two sources.
#[inline(always)]
fn second_source<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<W, Abort> {
    if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)
    } else {
        Ok(cpu.reg::<W>(op.aux))
    }
}

fn andn<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let b = second_source::<W>(cpu, op)?;
    let r = W::from_u64(!cpu.reg::<W>(op.src).to_u64() & b.to_u64());
    cpu.state.flags.set_logic(r);
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn bextr<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?.to_u64();
    let control = cpu.reg::<W>(op.aux).to_u64();
    let (start, length) = ((control & 0xff) as u32, (control >> 8 & 0xff) as u32);
    let shifted = if start < 64 { a >> start } else { 0 };
    let r = if length < 64 {
        shifted & ((1 << length) - 1)
    } else {
        shifted
    };
    let r = W::from_u64(r);
    cpu.state.flags.set_logic(r);
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn bls<const KIND: u8, W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = if op.has(op_flags::MEMORY) {
        cpu.load::<W>(op)?
    } else {
        cpu.reg::<W>(op.src)
    }
    .to_u64();
    let (r, cf) = match KIND {
        0 => (a & a.wrapping_neg(), a != 0),
        1 => (a ^ a.wrapping_sub(1), a == 0),
        _ => (a & a.wrapping_sub(1), a == 0),
    };
    let r = W::from_u64(r);
    cpu.state.flags.set_result(r, cf, false);
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn bzhi<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let a = source::<W>(cpu, op)?.to_u64();
    let index = (cpu.reg::<W>(op.aux).to_u64() & 0xff) as u32;
    let r = W::from_u64(if index < W::BITS {
        a & ((1u64 << index) - 1)
    } else {
        a
    });
    cpu.state.flags.set_result(r, index >= W::BITS, false);
    cpu.set_reg(op.dst, r);
    Ok(())
}

fn pdep<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let mut mask = second_source::<W>(cpu, op)?.to_u64();
    let mut from = cpu.reg::<W>(op.src).to_u64();
    let mut r = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if from & 1 != 0 {
            r |= lowest;
        }
        from >>= 1;
        mask ^= lowest;
    }
    cpu.set_reg(op.dst, W::from_u64(r));
    Ok(())
}

fn pext<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let mut mask = second_source::<W>(cpu, op)?.to_u64();
    let from = cpu.reg::<W>(op.src).to_u64();
    let mut r = 0u64;
    let mut bit = 0;
    while mask != 0 {
        let lowest = mask & mask.wrapping_neg();
        if from & lowest != 0 {
            r |= 1 << bit;
        }
        bit += 1;
        mask ^= lowest;
    }
    cpu.set_reg(op.dst, W::from_u64(r));
    Ok(())
}
