//! Flags: CLC, STC, CMC, CLD, STD, CLI, STI, LAHF, SAHF, CLAC, STAC, SALC.

use super::{Lowered, ending, straight};
use crate::cpu::debug::shadow;
use crate::cpu::decode::Context;
use crate::cpu::flags::bits;
use crate::cpu::op::{Flow, Op};
use crate::cpu::{Abort, Cpu};
use iced_x86::Mnemonic;

const AL: u8 = 0;
const AH: u8 = 1;

/// Chooses handlers.
pub fn lower(context: &Context, _op: &mut Op) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Clc => straight(|cpu: &mut Cpu, _: &Op| {
            cpu.state.flags.set_cf(false);
            Ok(())
        }),
        Mnemonic::Stc => straight(|cpu: &mut Cpu, _: &Op| {
            cpu.state.flags.set_cf(true);
            Ok(())
        }),
        Mnemonic::Cmc => straight(cmc),
        Mnemonic::Cld => straight(|cpu: &mut Cpu, _: &Op| {
            cpu.state.flags.set_other(bits::DF, false);
            Ok(())
        }),
        Mnemonic::Std => straight(|cpu: &mut Cpu, _: &Op| {
            cpu.state.flags.set_other(bits::DF, true);
            Ok(())
        }),
        Mnemonic::Cli => straight(cli),
        Mnemonic::Sti => ending(sti),
        Mnemonic::Lahf => straight(lahf),
        Mnemonic::Sahf => straight(sahf),
        Mnemonic::Clac => straight(set_ac::<false>),
        Mnemonic::Stac => straight(set_ac::<true>),
        Mnemonic::Salc => straight(salc),
        _ => None,
    }
}

fn cmc(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let cf = cpu.state.flags.cf();
    cpu.state.flags.set_cf(!cf);
    Ok(())
}

/// Whether CLI and STI are permitted (SDM volume 2, CLI; protected-mode virtual interrupts are not offered).
fn may_change_if(cpu: &mut Cpu) -> Result<(), Abort> {
    let permitted = !cpu.state.protected()
        || cpu.state.cpl <= cpu.state.flags.iopl()
            && !(cpu.state.flags.vm86() && cpu.state.flags.iopl() < 3);
    if permitted {
        Ok(())
    } else {
        cpu.general_protection()
    }
}

fn cli(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    may_change_if(cpu)?;
    cpu.state.flags.set_other(bits::IF, false);
    Ok(())
}

fn sti(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    may_change_if(cpu)?;
    if !cpu.state.flags.interrupts() {
        cpu.state.flags.set_other(bits::IF, true);
        cpu.state.shadow = shadow::STI;
    }
    cpu.advance(op);
    Ok(Flow::Attention)
}

fn lahf(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let value = cpu.state.rflags() as u8;
    cpu.set_reg(AH, value);
    Ok(())
}

fn sahf(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let low = bits::CF | bits::PF | bits::AF | bits::ZF | bits::SF;
    let value = cpu.reg::<u8>(AH) as u64;
    let overflow = cpu.state.flags.arithmetic() & bits::OF;
    cpu.state.flags.set_arithmetic(overflow | value & low);
    Ok(())
}

fn set_ac<const ON: bool>(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    if cpu.state.cpl != 0 {
        return cpu.undefined();
    }
    cpu.state.flags.set_other(bits::AC, ON);
    cpu.update_access();
    Ok(())
}

fn salc(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let value = if cpu.state.flags.cf() { 0xff } else { 0u8 };
    cpu.set_reg(AL, value);
    Ok(())
}
