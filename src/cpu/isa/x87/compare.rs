//! FCOM, FUCOM, FICOM, FTST, FCOMI, FUCOMI with their popping forms; FXAM.

use super::extended::{Class, Operand, zero};
use super::registers::status::{self, C0, C1, C2, C3};
use super::{Destination, Source, by_source, has_memory};
use crate::cpu::decode::Context;
use crate::cpu::flags::bits;
use crate::cpu::isa::{Lowered, straight};
use crate::cpu::op::Op;
use crate::cpu::{Abort, Cpu};
use iced_x86::{MemorySize, Mnemonic};
use std::cmp::Ordering;

/// Chooses handlers.
pub fn lower(context: &Context) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Fcom | Mnemonic::Ficom if has_memory(context.insn) => {
            by_source!(context.insn, S => straight(memory::<S, 0>))
        }
        Mnemonic::Fcomp | Mnemonic::Ficomp if has_memory(context.insn) => {
            by_source!(context.insn, S => straight(memory::<S, 1>))
        }
        Mnemonic::Fcom => straight(registers::<false, 0>),
        Mnemonic::Fcomp => straight(registers::<false, 1>),
        Mnemonic::Fcompp => straight(both::<false>),
        Mnemonic::Fucom => straight(registers::<true, 0>),
        Mnemonic::Fucomp => straight(registers::<true, 1>),
        Mnemonic::Fucompp => straight(both::<true>),
        Mnemonic::Ftst => straight(test),
        Mnemonic::Fcomi => straight(to_rflags::<false, 0>),
        Mnemonic::Fcomip => straight(to_rflags::<false, 1>),
        Mnemonic::Fucomi => straight(to_rflags::<true, 0>),
        Mnemonic::Fucomip => straight(to_rflags::<true, 1>),
        Mnemonic::Fxam => straight(examine),
        _ => None,
    }
}

fn conditions(result: Option<Ordering>) -> u16 {
    match result {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => C0,
        Some(Ordering::Equal) => C3,
        None => C0 | C2 | C3,
    }
}

/// Sets C0, C2, C3, with C1 = 0, and pops unless an unmasked exception forbids it. (The SDM says that it forbids the
/// conditions, too; processors set them all the same.)
fn finish(cpu: &mut Cpu, op: &Op, result: Option<Ordering>, flags: u16, pops: u8) {
    let stores = cpu.x87_finish(op, flags, Destination::Register);
    let x = &mut cpu.state.x87;
    x.status = x.status & !status::CONDITIONS | conditions(result);
    if stores {
        for _ in 0..pops {
            x.pop();
        }
    }
}

fn compare_registers(cpu: &mut Cpu, op: &Op, other: u8, quiet: bool, pops: u8) {
    let x = &cpu.state.x87;
    if x.is_empty(0) || x.is_empty(other) {
        return finish(cpu, op, None, status::IE | status::SF, pops);
    }
    let mut calculator = cpu.calculator();
    let result = calculator.compare(x.st(0), x.st(other), quiet);
    finish(cpu, op, result, calculator.flags, pops);
}

fn registers<const QUIET: bool, const POPS: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    compare_registers(cpu, op, op.src, QUIET, POPS);
    Ok(())
}

fn both<const QUIET: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    compare_registers(cpu, op, 1, QUIET, 2);
    Ok(())
}

fn memory<S: Source, const POPS: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let operand = S::fetch(cpu, op)?;
    let x = &cpu.state.x87;
    if x.is_empty(0) {
        finish(cpu, op, None, status::IE | status::SF, POPS);
        return Ok(());
    }
    let a = x.st(0);
    let mut calculator = cpu.calculator();
    let result = calculator.compare(a, operand.value, false);
    // Unordered comes before a denormal operand.
    calculator.note_widened(operand, a);
    finish(cpu, op, result, calculator.flags, POPS);
    Ok(())
}

fn test(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    if x.is_empty(0) {
        finish(cpu, op, None, status::IE | status::SF, 0);
        return Ok(());
    }
    let mut calculator = cpu.calculator();
    let result = calculator.compare(x.st(0), zero(false), false);
    finish(cpu, op, result, calculator.flags, 0);
    Ok(())
}

fn to_rflags<const QUIET: bool, const POPS: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    let (result, flags) = if x.is_empty(0) || x.is_empty(op.src) {
        cpu.state.x87.status &= !status::C1;
        (None, status::IE | status::SF)
    } else {
        let mut calculator = cpu.calculator();
        let result = calculator.compare(x.st(0), x.st(op.src), QUIET);
        (result, calculator.flags)
    };
    // C1 is changed by a stack fault only.
    let stores = cpu.x87_finish_keeping(op, flags, Destination::Register);
    // OF, SF and AF become 0. As C0 to C3, these flags are set even where an exception is unmasked.
    cpu.state.flags.set_arithmetic(match result {
        Some(Ordering::Greater) => 0,
        Some(Ordering::Less) => bits::CF,
        Some(Ordering::Equal) => bits::ZF,
        None => bits::ZF | bits::PF | bits::CF,
    });
    if stores && POPS != 0 {
        cpu.state.x87.pop();
    }
    Ok(())
}

fn examine(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    cpu.x87_finish(op, 0, Destination::Register);
    let x = &mut cpu.state.x87;
    let value = x.st(0);
    let operand = Operand::new(value);
    let class = match operand.class {
        _ if x.is_empty(0) => C3 | C0,
        Class::Unsupported => 0,
        Class::Quiet | Class::Signalling => C0,
        Class::Infinity => C2 | C0,
        Class::Zero => C3,
        Class::Finite if operand.denormal => C3 | C2,
        Class::Finite => C2,
    };
    let sign = if operand.negative { C1 } else { 0 };
    x.status = x.status & !status::CONDITIONS | class | sign;
    Ok(())
}
