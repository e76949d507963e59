//! F2XM1, FYL2X, FYL2XP1, FPATAN, FSIN, FCOS, FSINCOS, FPTAN.
//!
//! Precision control does not apply; results are rounded by RC.

use super::Destination;
use super::extended::{Calculator, ONE};
use super::registers::{INDEFINITE, status};
use crate::cpu::decode::Context;
use crate::cpu::isa::{Lowered, straight};
use crate::cpu::op::Op;
use crate::cpu::state::F80;
use crate::cpu::{Abort, Cpu};
use iced_x86::Mnemonic;

/// Chooses handlers.
pub fn lower(context: &Context) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::F2xm1 => straight(power_of_two),
        Mnemonic::Fyl2x => straight(logarithm::<false>),
        Mnemonic::Fyl2xp1 => straight(logarithm::<true>),
        Mnemonic::Fpatan => straight(arc_tangent),
        Mnemonic::Fsin => straight(trigonometric::<false>),
        Mnemonic::Fcos => straight(trigonometric::<true>),
        Mnemonic::Fsincos => straight(sine_cosine),
        Mnemonic::Fptan => straight(tangent),
        _ => None,
    }
}

fn power_of_two(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    if x.is_empty(0) {
        cpu.x87_stack_underflow(op, 0, 0);
        return Ok(());
    }
    let mut calculator = cpu.calculator();
    let value = calculator.power_of_two_less_one(x.st(0));
    cpu.x87_put(op, 0, value, calculator.flags, 0);
    Ok(())
}

/// ST(1) becomes a function of ST(1) and ST(0), which is popped.
#[inline(always)]
fn binary(cpu: &mut Cpu, op: &Op, function: impl Fn(&mut Calculator, F80, F80) -> F80) {
    let x = &cpu.state.x87;
    if x.is_empty(0) || x.is_empty(1) {
        return cpu.x87_stack_underflow(op, 1, 1);
    }
    let mut calculator = cpu.calculator();
    let value = function(&mut calculator, x.st(1), x.st(0));
    cpu.x87_put(op, 1, value, calculator.flags, 1);
}

fn logarithm<const PLUS_ONE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    binary(cpu, op, |calculator, y, x| {
        if PLUS_ONE {
            calculator.times_log2_of_sum(y, x)
        } else {
            calculator.times_log2(y, x)
        }
    });
    Ok(())
}

fn arc_tangent(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    binary(cpu, op, Calculator::arc_tangent_of);
    Ok(())
}

/// Ends an instruction whose argument is out of range: C2 is set, nothing else changes.
fn out_of_range(cpu: &mut Cpu, op: &Op) {
    cpu.x87_finish(op, status::C2, Destination::Register);
}

fn trigonometric<const COSINE: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    cpu.state.x87.status &= !status::C2;
    let x = &cpu.state.x87;
    if x.is_empty(0) {
        cpu.x87_stack_underflow(op, 0, 0);
        return Ok(());
    }
    let mut calculator = cpu.calculator();
    match calculator.trigonometric(x.st(0), COSINE) {
        Some(value) => cpu.x87_put(op, 0, value, calculator.flags, 0),
        None => out_of_range(cpu, op),
    }
    Ok(())
}

fn sine_cosine(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    with_push(cpu, op, |calculator, x| calculator.sine_cosine(x));
    Ok(())
}

/// 1 is pushed above the tangent.
fn tangent(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    with_push(cpu, op, |calculator, x| {
        let value = calculator.tangent(x)?;
        let is_nan = calculator.flags & status::IE != 0 || super::is_nan(value);
        Some((value, if is_nan { value } else { ONE }))
    });
    Ok(())
}

/// ST(0) is replaced by the first result, the second is pushed.
#[inline(always)]
fn with_push(
    cpu: &mut Cpu,
    op: &Op,
    function: impl Fn(&mut Calculator, F80) -> Option<(F80, F80)>,
) {
    cpu.state.x87.status &= !status::C2;
    let x = &cpu.state.x87;
    let (values, flags) = if x.is_empty(0) {
        ((INDEFINITE, INDEFINITE), status::IE | status::SF)
    } else if !x.is_empty(7) {
        let flags = status::IE | status::SF | status::C1;
        ((INDEFINITE, INDEFINITE), flags)
    } else {
        let mut calculator = cpu.calculator();
        match function(&mut calculator, x.st(0)) {
            Some(values) => (values, calculator.flags),
            None => return out_of_range(cpu, op),
        }
    };
    if cpu.x87_finish(op, flags, Destination::Register) {
        cpu.state.x87.put(0, values.0);
        cpu.state.x87.push(values.1);
    }
}
