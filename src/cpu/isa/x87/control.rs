//! FNINIT, FNCLEX, control and status word, FINCSTP, FDECSTP, FFREE, FFREEP, FNOP, WAIT, and the instructions of older
//! coprocessors that do nothing since the 80387 (FNENI, FNDISI, FNSETPM).
//!
//! iced decodes the waiting forms (FINIT, FSTCW and so on) as what they are: WAIT and another instruction.

use super::Destination;
use super::registers::status;
use crate::cpu::decode::Context;
use crate::cpu::isa::{Lowered, straight};
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::cr0;
use crate::cpu::{Abort, Cpu, vector};
use iced_x86::Mnemonic;

/// Chooses handlers.
pub fn lower(context: &Context) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Fninit => straight(initialise),
        Mnemonic::Fnclex => straight(clear_exceptions),
        Mnemonic::Fldcw => straight(load_control),
        Mnemonic::Fnstcw => straight(store_control),
        Mnemonic::Fnstsw => straight(store_status),
        Mnemonic::Fincstp => straight(rotate::<1>),
        Mnemonic::Fdecstp => straight(rotate::<7>),
        Mnemonic::Ffree => straight(free::<0>),
        Mnemonic::Ffreep => straight(free::<1>),
        Mnemonic::Fnop => straight(nothing),
        Mnemonic::Fneni | Mnemonic::Fndisi | Mnemonic::Fnsetpm => straight(obsolete),
        _ => None,
    }
}

/// WAIT: #NM only where both MP and TS are set.
pub fn wait(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    let both = cr0::MP | cr0::TS;
    if cpu.state.cr0 & both == both {
        return cpu.raise(vector::NM);
    }
    cpu.x87_pending()
}

fn initialise(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.x87_available()?;
    cpu.state.x87.initialise();
    Ok(())
}

fn clear_exceptions(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.x87_available()?;
    cpu.state.x87.status &= status::CONDITIONS | status::TOP;
    Ok(())
}

fn load_control(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let control = cpu.load::<u16>(op)?;
    cpu.state.x87.set_control(control);
    Ok(())
}

fn store_control(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_available()?;
    let control = cpu.state.x87.control;
    cpu.store(op, control)
}

fn store_status(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_available()?;
    let status = cpu.state.x87.status;
    if op.has(op_flags::MEMORY) {
        return cpu.store(op, status);
    }
    cpu.set_reg(op.dst, status);
    Ok(())
}

fn rotate<const BY: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    cpu.x87_finish(op, 0, Destination::Register);
    let top = cpu.state.x87.top();
    cpu.state.x87.set_top(top + BY);
    Ok(())
}

fn free<const POPS: usize>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    cpu.x87_finish(op, 0, Destination::Register);
    cpu.state.x87.free(op.dst);
    if POPS != 0 {
        cpu.state.x87.pop();
    }
    Ok(())
}

fn nothing(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    cpu.x87_finish_keeping(op, 0, Destination::Register);
    Ok(())
}

fn obsolete(cpu: &mut Cpu, _op: &Op) -> Result<(), Abort> {
    cpu.x87_available()
}
