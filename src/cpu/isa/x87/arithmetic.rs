//! FADD, FSUB, FMUL, FDIV with their reversed, popping and integer forms; FSQRT, FABS, FCHS, FRNDINT, FSCALE, FPREM,
//! FPREM1, FXTRACT.

use super::extended::Calculator;
use super::registers::{INDEFINITE, status};
use super::{Destination, Source, by_source, has_memory};
use crate::cpu::decode::Context;
use crate::cpu::isa::{Lowered, straight};
use crate::cpu::op::Op;
use crate::cpu::state::F80;
use crate::cpu::{Abort, Cpu};
use iced_x86::{MemorySize, Mnemonic};

/// Chooses handlers.
pub fn lower(context: &Context) -> Option<Lowered> {
    match context.insn.mnemonic() {
        Mnemonic::Fadd | Mnemonic::Fiadd => binary::<Add>(context),
        Mnemonic::Fsub | Mnemonic::Fisub => binary::<Subtract>(context),
        Mnemonic::Fsubr | Mnemonic::Fisubr => binary::<SubtractReversed>(context),
        Mnemonic::Fmul | Mnemonic::Fimul => binary::<Multiply>(context),
        Mnemonic::Fdiv | Mnemonic::Fidiv => binary::<Divide>(context),
        Mnemonic::Fdivr | Mnemonic::Fidivr => binary::<DivideReversed>(context),
        Mnemonic::Faddp => straight(registers::<Add, 1>),
        Mnemonic::Fsubp => straight(registers::<Subtract, 1>),
        Mnemonic::Fsubrp => straight(registers::<SubtractReversed, 1>),
        Mnemonic::Fmulp => straight(registers::<Multiply, 1>),
        Mnemonic::Fdivp => straight(registers::<Divide, 1>),
        Mnemonic::Fdivrp => straight(registers::<DivideReversed, 1>),
        Mnemonic::Fsqrt => straight(unary::<SquareRoot>),
        Mnemonic::Frndint => straight(unary::<RoundToInteger>),
        Mnemonic::Fabs => straight(unary::<Absolute>),
        Mnemonic::Fchs => straight(unary::<ChangeSign>),
        Mnemonic::Fscale => straight(with_st1::<Scale>),
        Mnemonic::Fprem => straight(remainder::<false>),
        Mnemonic::Fprem1 => straight(remainder::<true>),
        Mnemonic::Fxtract => straight(extract),
        _ => None,
    }
}

/// An operation on the destination and a second operand.
trait Binary: Copy + 'static {
    fn compute(calculator: &mut Calculator, destination: F80, other: F80) -> F80;
}

macro_rules! binary_operation {
    ($name:ident, |$c:ident, $a:ident, $b:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Binary for $name {
            #[inline(always)]
            fn compute($c: &mut Calculator, $a: F80, $b: F80) -> F80 {
                $body
            }
        }
    };
}
binary_operation!(Add, |c, a, b| c.add(a, b));
binary_operation!(Subtract, |c, a, b| c.subtract(a, b));
binary_operation!(SubtractReversed, |c, a, b| c.subtract(b, a));
binary_operation!(Multiply, |c, a, b| c.multiply(a, b));
binary_operation!(Divide, |c, a, b| c.divide(a, b));
binary_operation!(DivideReversed, |c, a, b| c.divide(b, a));
binary_operation!(Scale, |c, a, b| c.scale(a, b));

fn binary<O: Binary>(context: &Context) -> Option<Lowered> {
    if has_memory(context.insn) {
        by_source!(context.insn, S => straight(memory::<O, S>))
    } else {
        straight(registers::<O, 0>)
    }
}

fn registers<O: Binary, const POPS: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    if x.is_empty(op.dst) || x.is_empty(op.src) {
        cpu.x87_stack_underflow(op, op.dst, POPS);
        return Ok(());
    }
    let (a, b) = (x.st(op.dst), x.st(op.src));
    let mut calculator = cpu.calculator();
    let value = O::compute(&mut calculator, a, b);
    cpu.x87_put(op, op.dst, value, calculator.flags, POPS);
    Ok(())
}

fn memory<O: Binary, S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let operand = S::fetch(cpu, op)?;
    if cpu.state.x87.is_empty(0) {
        cpu.x87_stack_underflow(op, 0, 0);
        return Ok(());
    }
    let a = cpu.state.x87.st(0);
    let mut calculator = cpu.calculator();
    let value = O::compute(&mut calculator, a, operand.value);
    calculator.note_widened(operand, a);
    cpu.x87_put(op, 0, value, calculator.flags, 0);
    Ok(())
}

/// Operations on ST(0) and ST(1) that name no operands.
fn with_st1<O: Binary>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    if x.is_empty(0) || x.is_empty(1) {
        cpu.x87_stack_underflow(op, 0, 0);
        return Ok(());
    }
    let (a, b) = (x.st(0), x.st(1));
    let mut calculator = cpu.calculator();
    let value = O::compute(&mut calculator, a, b);
    cpu.x87_put(op, 0, value, calculator.flags, 0);
    Ok(())
}

/// C0, C1 and C3 are bits of the quotient, C2 tells that the reduction is not complete. Where there is no quotient,
/// C1 and C2 become 0 and the others stay.
fn remainder<const NEAREST: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    cpu.state.x87.status &= !status::C2;
    let x = &cpu.state.x87;
    if x.is_empty(0) || x.is_empty(1) {
        cpu.x87_stack_underflow(op, 0, 0);
        return Ok(());
    }
    let mut calculator = cpu.calculator();
    let (value, conditions) = calculator.remainder(x.st(0), x.st(1), NEAREST);
    if cpu.x87_finish(op, calculator.flags, Destination::Register) {
        let x = &mut cpu.state.x87;
        x.put(0, value);
        if let Some(conditions) = conditions {
            x.status = x.status & !status::CONDITIONS | conditions;
        }
    }
    Ok(())
}

/// The exponent replaces ST(0), the significand is pushed.
fn extract(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    let flags = if x.is_empty(0) {
        status::IE | status::SF
    } else if !x.is_empty(7) {
        status::IE | status::SF | status::C1
    } else {
        let mut calculator = cpu.calculator();
        let (exponent, significand) = calculator.extract(x.st(0));
        if cpu.x87_finish(op, calculator.flags, Destination::Register) {
            cpu.state.x87.put(0, exponent);
            cpu.state.x87.push(significand);
        }
        return Ok(());
    };
    if cpu.x87_finish(op, flags, Destination::Register) {
        cpu.state.x87.put(0, INDEFINITE);
        cpu.state.x87.push(INDEFINITE);
    }
    Ok(())
}

/// An operation on ST(0) alone.
trait Unary: Copy + 'static {
    fn compute(calculator: &mut Calculator, value: F80) -> F80;
}

macro_rules! unary_operation {
    ($name:ident, |$c:ident, $a:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn compute($c: &mut Calculator, $a: F80) -> F80 {
                $body
            }
        }
    };
}
unary_operation!(SquareRoot, |c, a| c.square_root(a));
unary_operation!(RoundToInteger, |c, a| c.round_to_integer(a));
unary_operation!(ChangeSign, |_c, a| a.negated());
unary_operation!(Absolute, |_c, a| F80::new(a.exponent() as u16, a.mantissa));

fn unary<O: Unary>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    if cpu.state.x87.is_empty(0) {
        cpu.x87_stack_underflow(op, 0, 0);
        return Ok(());
    }
    let mut calculator = cpu.calculator();
    let value = O::compute(&mut calculator, cpu.state.x87.st(0));
    cpu.x87_put(op, 0, value, calculator.flags, 0);
    Ok(())
}
