//! The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.

use super::{Lowered, by_wide_width, ending, straight};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::flags::{Width, bits};
use crate::cpu::op::{Flow, Op, op_flags};
use crate::cpu::state::{gpr, rights, seg};
use crate::cpu::{Abort, Cpu};
use iced_x86::{Code, Mnemonic, OpKind};

const RBP: u8 = (gpr::RBP * 8) as u8;

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let w = context.insn.stack_pointer_increment().unsigned_abs() as usize;
    if context.insn.is_stack_instruction() && !op.has(op_flags::MEMORY) {
        op.flags |= op_flags::STACK;
    }
    match context.insn.mnemonic() {
        Mnemonic::Push => lower_push(context, w),
        Mnemonic::Pop => lower_pop(context, w),
        Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq => {
            by_wide_width!(w, W => straight(pushf::<W>))
        }
        Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq => {
            by_wide_width!(w, W => ending(popf::<W>))
        }
        Mnemonic::Pusha => straight(pusha::<u16>),
        Mnemonic::Pushad => straight(pusha::<u32>),
        Mnemonic::Popa => straight(popa::<u16>),
        Mnemonic::Popad => straight(popa::<u32>),
        Mnemonic::Enter => match context.insn.code() {
            Code::Enterw_imm16_imm8 => straight(enter::<u16>),
            Code::Enterd_imm16_imm8 => straight(enter::<u32>),
            _ => straight(enter::<u64>),
        },
        Mnemonic::Leave => match context.insn.code() {
            Code::Leavew => straight(leave::<u16>),
            Code::Leaved => straight(leave::<u32>),
            _ => straight(leave::<u64>),
        },
        _ => None,
    }
}

fn lower_push(context: &Context, w: usize) -> Option<Lowered> {
    match context.insn.op0_kind() {
        OpKind::Register if context.insn.op0_register().is_segment_register() => {
            by_wide_width!(w, W => straight(push_segment::<W>))
        }
        OpKind::Register => by_wide_width!(w, W => straight(push_reg::<W>)),
        OpKind::Memory => by_wide_width!(w, W => straight(push_mem::<W>)),
        _ => by_wide_width!(w, W => straight(push_imm::<W>)),
    }
}

fn lower_pop(context: &Context, w: usize) -> Option<Lowered> {
    match context.insn.op0_kind() {
        OpKind::Register if context.insn.op0_register().is_segment_register() => {
            by_wide_width!(w, W => ending(pop_segment::<W>))
        }
        OpKind::Register => by_wide_width!(w, W => straight(pop_reg::<W>)),
        _ => by_wide_width!(w, W => straight(pop_mem::<W>)),
    }
}

fn push_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.reg::<W>(op.dst);
    cpu.push(value)
}

fn push_imm<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.push(W::from_u64(op.imm))
}

fn push_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.load::<W>(op)?;
    cpu.push(value)
}

fn push_segment<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let selector = cpu.state.seg[op.dst as usize].selector;
    if W::BITS == 32 {
        // Only 16 bits are written; RSP moves by 4 all the same.
        let (address, rsp) = cpu.stack(4, 4, true)?;
        cpu.write::<u16>(address, selector)?;
        cpu.state.gpr[gpr::RSP] = rsp;
        return Ok(());
    }
    cpu.push(W::from_u64(selector as u64))
}

fn pop_reg<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.peek::<W>(0)?;
    cpu.release(W::BYTES as u64);
    cpu.set_reg(op.dst, value);
    Ok(())
}

fn pop_mem<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let value = cpu.peek::<W>(0)?;
    // An address that uses RSP sees it after the pop.
    let rsp = cpu.state.gpr[gpr::RSP];
    cpu.release(W::BYTES as u64);
    cpu.store(op, value)
        .inspect_err(|_| cpu.state.gpr[gpr::RSP] = rsp)
}

fn pop_segment<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let selector = cpu.peek::<u16>(0)?;
    cpu.load_segment(op.dst as usize, selector)?;
    cpu.release(W::BYTES as u64);
    if op.dst as usize == seg::SS {
        cpu.hold_off_after_stack_load();
    }
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn pushf<W: Width>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    if cpu.state.flags.vm86() && cpu.state.flags.iopl() < 3 {
        return cpu.general_protection();
    }
    let rflags = cpu.state.rflags() & !(bits::VM | bits::RF);
    cpu.push(W::from_u64(rflags))
}

fn popf<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    if cpu.state.flags.vm86() && cpu.state.flags.iopl() < 3 {
        return cpu.general_protection();
    }
    let value = cpu.peek::<W>(0)?.to_u64();
    let mut changed = bits::ARITHMETIC | bits::TF | bits::DF | bits::NT;
    if W::BITS > 16 {
        changed |= bits::AC | bits::ID;
    }
    if cpu.state.cpl <= cpu.state.flags.iopl() || !cpu.state.protected() {
        changed |= bits::IF;
    }
    if cpu.state.cpl == 0 {
        changed |= bits::IOPL;
    }
    cpu.release(W::BYTES as u64);
    let old = cpu.state.rflags();
    let new = old & !changed & !bits::RF | value & changed;
    cpu.state.flags.set_rflags(new);
    cpu.update_access();
    cpu.advance(op);
    // Only what the run loop has to look at costs a way through it.
    let watched = bits::IF | bits::TF;
    Ok(if (new & !old | new & bits::TF) & watched != 0 {
        Flow::Attention
    } else {
        Flow::Fallthrough
    })
}

fn pusha<W: Width>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let rsp = cpu.state.gpr[gpr::RSP];
    for register in 0..8u8 {
        let value = if register as usize == gpr::RSP {
            W::from_u64(rsp)
        } else {
            cpu.reg::<W>(register * 8)
        };
        cpu.push(value)
            .inspect_err(|_| cpu.state.gpr[gpr::RSP] = rsp)?;
    }
    Ok(())
}

fn popa<W: Width>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let mut values = [W::from_u64(0); 8];
    for (n, value) in values.iter_mut().enumerate() {
        *value = cpu.peek::<W>((n * W::BYTES) as u64)?;
    }
    cpu.release(8 * W::BYTES as u64);
    for (n, value) in values.into_iter().enumerate() {
        let register = 7 - n;
        if register != gpr::RSP {
            cpu.set_reg(register as u8 * 8, value);
        }
    }
    Ok(())
}

fn enter<W: Width>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    let bytes = op.imm & 0xffff;
    let level = op.aux2 & 31;
    let rsp = cpu.state.gpr[gpr::RSP];
    enter_frame::<W>(cpu, bytes, level).inspect_err(|_| cpu.state.gpr[gpr::RSP] = rsp)
}

fn enter_frame<W: Width>(cpu: &mut Cpu, bytes: u64, level: u8) -> Result<(), Abort> {
    let mut rbp = cpu.state.gpr[gpr::RBP];
    let old = cpu.reg::<W>(RBP);
    cpu.push::<W>(old)?;
    let frame = cpu.state.gpr[gpr::RSP];
    if level > 0 {
        for _ in 1..level {
            rbp = rbp.wrapping_sub(W::BYTES as u64);
            let value = read_stack::<W>(cpu, rbp)?;
            cpu.push::<W>(value)?;
        }
        cpu.push::<W>(W::from_u64(frame))?;
    }
    let (address, rsp) = cpu.stack(bytes as i64, W::BYTES, true)?;
    // The new top of the stack must be writable (SDM volume 2, ENTER).
    cpu.check_write(address, W::BYTES)
        .inspect_err(|_| cpu.aborted_on_stack())?;
    cpu.state.gpr[gpr::RSP] = rsp;
    cpu.set_reg(RBP, W::from_u64(frame));
    Ok(())
}

/// Reads through SS at an offset that is not RSP.
fn read_stack<W: Width>(cpu: &mut Cpu, offset: u64) -> Result<W, Abort> {
    if cpu.mode == Mode::Bits64 {
        return cpu
            .read::<W>(offset)
            .inspect_err(|_| cpu.aborted_on_stack());
    }
    let mask = if cpu.state.seg[seg::SS].rights & rights::DB != 0 {
        0xffff_ffff
    } else {
        0xffff
    };
    let address = cpu.segment_address(seg::SS, offset & mask, W::BYTES, false)?;
    cpu.read::<W>(address)
}

fn leave<W: Width>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let rbp = cpu.state.gpr[gpr::RBP];
    let value = read_stack::<W>(cpu, rbp)?;
    let rsp = cpu.state.gpr[gpr::RSP];
    cpu.state.gpr[gpr::RSP] = if cpu.mode == Mode::Bits64 {
        rbp
    } else if cpu.state.seg[seg::SS].rights & rights::DB != 0 {
        rbp & 0xffff_ffff
    } else {
        rsp & !0xffff | rbp & 0xffff
    };
    cpu.release(W::BYTES as u64);
    cpu.set_reg(RBP, value);
    Ok(())
}
