//! Port input and output: IN, OUT, INS, OUTS. Each is a block of its own: the world hears of an exact tick.

use super::string::address_mask;
use super::{Lowered, alone, width};
use crate::cpu::decode::Context;
use crate::cpu::flags::bits;
use crate::cpu::op::{Flow, Op, op_flags};
use crate::cpu::state::{gpr, seg};
use crate::cpu::{Abort, Cpu};
use iced_x86::{Mnemonic, OpKind};

/// Bit of the task-state segment's I/O map base field.
const IO_MAP_BASE: u64 = 102;

/// Chooses handlers. `aux` is the size in bytes; `aux2` is 1 where DX holds the port.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    match insn.mnemonic() {
        Mnemonic::In => {
            op.aux = width(context, 0) as u8;
            op.aux2 = (insn.op1_kind() == OpKind::Register) as u8;
            alone(port_in)
        }
        Mnemonic::Out => {
            op.aux = width(context, 1) as u8;
            op.aux2 = (insn.op0_kind() == OpKind::Register) as u8;
            alone(port_out)
        }
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            op.aux = width(context, 0) as u8;
            alone(ins)
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            op.aux = width(context, 1) as u8;
            op.seg = super::string::source_segment(context);
            alone(outs)
        }
        _ => None,
    }
}

/// Checks IOPL and the I/O permission map of the task (SDM volume 1, 19.5).
fn check_port(cpu: &mut Cpu, port: u16, bytes: u8) -> Result<(), Abort> {
    let restricted =
        cpu.state.protected() && (cpu.state.cpl > cpu.state.flags.iopl() || cpu.state.flags.vm86());
    if !restricted {
        return Ok(());
    }
    let limit = cpu.state.tr.segment.limit as u64;
    // A 16-bit task-state segment has no map.
    let wide = cpu.state.tr.segment.rights & 8 != 0;
    if !wide || limit < IO_MAP_BASE + 1 {
        return cpu.general_protection();
    }
    let base = cpu.state.tr.base;
    let map = cpu.read_system::<u16>(base.wrapping_add(IO_MAP_BASE))? as u64;
    let byte = map + (port / 8) as u64;
    if byte + 1 > limit {
        return cpu.general_protection();
    }
    let word = cpu.read_system::<u16>(base.wrapping_add(byte))?;
    let mask = ((1u32 << bytes) - 1) << (port & 7);
    if word as u32 & mask != 0 {
        cpu.general_protection()
    } else {
        Ok(())
    }
}

fn port_of(cpu: &Cpu, op: &Op) -> u16 {
    if op.aux2 != 0 {
        cpu.state.gpr[gpr::RDX] as u16
    } else {
        op.imm as u8 as u16
    }
}

fn read_port(cpu: &mut Cpu, op: &Op, port: u16) -> u32 {
    let (now, index) = (cpu.tick_of(op), cpu.index);
    cpu.attention = true;
    cpu.watch_port(port, op.aux);
    cpu.world().pio_read(now, index, port, op.aux)
}

fn write_port(cpu: &mut Cpu, op: &Op, port: u16, value: u32) {
    let (now, index) = (cpu.tick_of(op), cpu.index);
    let mask = u32::MAX >> (32 - 8 * op.aux as u32);
    cpu.attention = true;
    cpu.watch_port(port, op.aux);
    cpu.world()
        .pio_write(now, index, port, op.aux, value & mask);
}

fn port_in(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let port = port_of(cpu, op);
    check_port(cpu, port, op.aux)?;
    let value = read_port(cpu, op, port);
    match op.aux {
        1 => cpu.set_reg::<u8>(0, value as u8),
        2 => cpu.set_reg::<u16>(0, value as u16),
        _ => cpu.set_reg::<u32>(0, value),
    }
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn port_out(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let port = port_of(cpu, op);
    check_port(cpu, port, op.aux)?;
    let value = cpu.state.gpr[gpr::RAX] as u32;
    write_port(cpu, op, port, value);
    cpu.advance(op);
    Ok(Flow::Attention)
}

/// Whether a repeated instruction has nothing left to do.
fn exhausted(cpu: &Cpu, op: &Op) -> bool {
    op.flags & (op_flags::REP | op_flags::REPNE) != 0
        && cpu.state.gpr[gpr::RCX] & address_mask(op) == 0
}

/// Ends an iteration: the next one is another tick.
fn finish(cpu: &mut Cpu, op: &Op) {
    if op.flags & (op_flags::REP | op_flags::REPNE) != 0 {
        let left = (cpu.state.gpr[gpr::RCX] & address_mask(op)).wrapping_sub(1);
        cpu.set_counter(op, gpr::RCX, left);
        if left != 0 {
            cpu.state.flags.set_other(bits::RF, true);
            return;
        }
    }
    cpu.advance(op);
}

fn ins(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    // The right to use the port is checked even where the count is 0.
    let port = cpu.state.gpr[gpr::RDX] as u16;
    check_port(cpu, port, op.aux)?;
    if exhausted(cpu, op) {
        cpu.advance(op);
        return Ok(Flow::Indirect);
    }
    let bytes = op.aux as usize;
    let to = cpu.string_address(op, gpr::RDI, seg::ES, bytes, true)?;
    // The store must be sure to succeed before the port is read.
    if cpu.tlb.stores(cpu.access, to, bytes).is_none() && !cpu.stepping {
        return cpu.abort_with(crate::cpu::AbortReason::NeedsStep);
    }
    cpu.check_write(to, bytes)?;
    let value = read_port(cpu, op, port);
    match op.aux {
        1 => cpu.write::<u8>(to, value as u8)?,
        2 => cpu.write::<u16>(to, value as u16)?,
        _ => cpu.write::<u32>(to, value)?,
    }
    cpu.string_advance(op, gpr::RDI, bytes as u64);
    finish(cpu, op);
    Ok(Flow::Attention)
}

fn outs(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    // The right to use the port is checked even where the count is 0.
    let port = cpu.state.gpr[gpr::RDX] as u16;
    check_port(cpu, port, op.aux)?;
    if exhausted(cpu, op) {
        cpu.advance(op);
        return Ok(Flow::Indirect);
    }
    let bytes = op.aux as usize;
    let from = cpu.string_address(op, gpr::RSI, op.seg as usize, bytes, false)?;
    let value = match op.aux {
        1 => cpu.read::<u8>(from)? as u32,
        2 => cpu.read::<u16>(from)? as u32,
        _ => cpu.read::<u32>(from)?,
    };
    write_port(cpu, op, port, value);
    cpu.string_advance(op, gpr::RSI, bytes as u64);
    finish(cpu, op);
    Ok(Flow::Attention)
}
