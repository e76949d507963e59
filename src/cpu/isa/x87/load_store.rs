//! FLD, FILD, FBLD, FST, FSTP, FIST, FISTP, FISTTP, FBSTP, FXCH, FCMOVcc, constants.

use super::extended::{Calculator, Rounding, from_decimal};
use super::registers::{INDEFINITE, status};
use super::{Destination, Source, by_source, has_memory};
use crate::cpu::decode::Context;
use crate::cpu::flags::Width;
use crate::cpu::isa::{Lowered, straight};
use crate::cpu::op::Op;
use crate::cpu::state::F80;
use crate::cpu::{Abort, Cpu};
use iced_x86::{MemorySize, Mnemonic};

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    match insn.mnemonic() {
        Mnemonic::Fld | Mnemonic::Fild if has_memory(insn) => match insn.memory_size() {
            MemorySize::Float80 => straight(load_extended),
            _ => by_source!(insn, S => straight(load::<S>)),
        },
        Mnemonic::Fld => straight(load_register),
        Mnemonic::Fbld => straight(load_decimal),
        Mnemonic::Fst | Mnemonic::Fstp if has_memory(insn) => {
            let pops = insn.mnemonic() == Mnemonic::Fstp;
            match (insn.memory_size(), pops) {
                (MemorySize::Float32, false) => straight(store::<ToSingle, 0>),
                (MemorySize::Float32, true) => straight(store::<ToSingle, 1>),
                (MemorySize::Float64, false) => straight(store::<ToDouble, 0>),
                (MemorySize::Float64, true) => straight(store::<ToDouble, 1>),
                _ => straight(store_extended),
            }
        }
        Mnemonic::Fst => straight(store_register::<0>),
        Mnemonic::Fstp => straight(store_register::<1>),
        Mnemonic::Fstpnce => straight(store_unchecked),
        Mnemonic::Fist => match insn.memory_size() {
            MemorySize::Int16 => straight(store::<ToInteger<u16, false>, 0>),
            _ => straight(store::<ToInteger<u32, false>, 0>),
        },
        Mnemonic::Fistp => match insn.memory_size() {
            MemorySize::Int16 => straight(store::<ToInteger<u16, false>, 1>),
            MemorySize::Int32 => straight(store::<ToInteger<u32, false>, 1>),
            _ => straight(store::<ToInteger<u64, false>, 1>),
        },
        Mnemonic::Fisttp => match insn.memory_size() {
            MemorySize::Int16 => straight(store::<ToInteger<u16, true>, 1>),
            MemorySize::Int32 => straight(store::<ToInteger<u32, true>, 1>),
            _ => straight(store::<ToInteger<u64, true>, 1>),
        },
        Mnemonic::Fbstp => straight(store_decimal),
        Mnemonic::Fxch => straight(exchange),
        Mnemonic::Fcmovb => straight(conditional::<2>),
        Mnemonic::Fcmove => straight(conditional::<4>),
        Mnemonic::Fcmovbe => straight(conditional::<6>),
        Mnemonic::Fcmovu => straight(conditional::<10>),
        Mnemonic::Fcmovnb => straight(conditional::<3>),
        Mnemonic::Fcmovne => straight(conditional::<5>),
        Mnemonic::Fcmovnbe => straight(conditional::<7>),
        Mnemonic::Fcmovnu => straight(conditional::<11>),
        Mnemonic::Fld1 => constant(op, 0),
        Mnemonic::Fldl2t => constant(op, 1),
        Mnemonic::Fldl2e => constant(op, 2),
        Mnemonic::Fldpi => constant(op, 3),
        Mnemonic::Fldlg2 => constant(op, 4),
        Mnemonic::Fldln2 => constant(op, 5),
        Mnemonic::Fldz => constant(op, 6),
        _ => None,
    }
}

fn load<S: Source>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let operand = S::fetch(cpu, op)?;
    let mut calculator = cpu.calculator();
    let value = calculator.load(operand);
    cpu.x87_push(op, value, calculator.flags);
    Ok(())
}

/// The 10 bytes of a memory operand.
fn fetch_tenbyte(cpu: &mut Cpu, op: &Op) -> Result<(u64, u16), Abort> {
    let address = cpu.address(op, 10, false)?;
    let low = cpu.read::<u64>(address)?;
    let high = cpu.read::<u16>(address.wrapping_add(8))?;
    Ok((low, high))
}

fn store_tenbyte(cpu: &mut Cpu, op: &Op, low: u64, high: u16) -> Result<(), Abort> {
    let address = cpu.address(op, 10, true)?;
    cpu.check_write(address, 10)?;
    cpu.write(address, low)?;
    cpu.write(address.wrapping_add(8), high)
}

fn load_extended(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let (mantissa, sign_exponent) = fetch_tenbyte(cpu, op)?;
    cpu.x87_push(op, F80::new(sign_exponent, mantissa), 0);
    Ok(())
}

fn load_decimal(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let (low, high) = fetch_tenbyte(cpu, op)?;
    cpu.x87_push(op, from_decimal(low, high), 0);
    Ok(())
}

fn load_register(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    if x.is_empty(op.dst) {
        // Underflow comes before overflow.
        if cpu.x87_finish(op, status::IE | status::SF, Destination::Register) {
            cpu.state.x87.push(INDEFINITE);
        }
    } else {
        cpu.x87_push(op, x.st(op.dst), 0);
    }
    Ok(())
}

fn constant(op: &mut Op, number: u8) -> Option<Lowered> {
    op.aux = number;
    straight(load_constant)
}

/// Exponent, significand cut to 64 bits, and whether rounding to nearest adds 1 to it.
const CONSTANTS: [(u16, u64, bool); 7] = [
    (0x3fff, 0x8000_0000_0000_0000, false),
    (0x4000, 0xd49a_784b_cd1b_8afe, false),
    (0x3fff, 0xb8aa_3b29_5c17_f0bb, true),
    (0x4000, 0xc90f_daa2_2168_c234, true),
    (0x3ffd, 0x9a20_9a84_fbcf_f798, true),
    (0x3ffe, 0xb172_17f7_d1cf_79ab, true),
    (0, 0, false),
];

fn load_constant(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let number = op.aux as usize % CONSTANTS.len();
    let (exponent, mantissa, nearest_up) = CONSTANTS[number];
    // 1 and 0 are exact; the others are rounded by RC, without raising inexact.
    let up = match cpu.calculator().rounding() {
        Rounding::Nearest => nearest_up,
        Rounding::Up => !matches!(number, 0 | 6),
        Rounding::Down | Rounding::Zero => false,
    };
    cpu.x87_push(op, F80::new(exponent, mantissa + up as u64), 0);
    Ok(())
}

/// How ST(0) is converted for a store.
trait Narrow: Copy + 'static {
    type Bits: bytemuck::Pod;
    /// What is stored where ST(0) is empty.
    fn indefinite() -> Self::Bits;
    fn narrow(calculator: &mut Calculator, value: F80) -> Self::Bits;
}

#[derive(Clone, Copy)]
struct ToSingle;
impl Narrow for ToSingle {
    type Bits = u32;
    fn indefinite() -> u32 {
        0xffc0_0000
    }
    #[inline(always)]
    fn narrow(calculator: &mut Calculator, value: F80) -> u32 {
        calculator.round_to_single(value)
    }
}

#[derive(Clone, Copy)]
struct ToDouble;
impl Narrow for ToDouble {
    type Bits = u64;
    fn indefinite() -> u64 {
        0xfff8_0000_0000_0000
    }
    #[inline(always)]
    fn narrow(calculator: &mut Calculator, value: F80) -> u64 {
        calculator.round_to_double(value)
    }
}

#[derive(Clone, Copy)]
struct ToInteger<W, const TRUNCATES: bool>(std::marker::PhantomData<W>);
impl<W: Width, const TRUNCATES: bool> Narrow for ToInteger<W, TRUNCATES> {
    type Bits = W;
    fn indefinite() -> W {
        W::from_u64(1 << (W::BITS - 1))
    }
    #[inline(always)]
    fn narrow(calculator: &mut Calculator, value: F80) -> W {
        let rounding = if TRUNCATES {
            Rounding::Zero
        } else {
            calculator.rounding()
        };
        W::from_u64(calculator.integer_of_width(value, W::BITS, rounding) as u64)
    }
}

fn store<N: Narrow, const POPS: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let mut calculator = cpu.calculator();
    let bits = if cpu.state.x87.is_empty(0) {
        calculator.raise(status::IE | status::SF);
        N::indefinite()
    } else {
        N::narrow(&mut calculator, cpu.state.x87.st(0))
    };
    if cpu.x87_stores(calculator.flags, Destination::Memory) {
        cpu.store(op, bits)?;
    }
    finish_store::<POPS>(cpu, op, calculator.flags);
    Ok(())
}

fn finish_store<const POPS: u8>(cpu: &mut Cpu, op: &Op, flags: u16) {
    if cpu.x87_finish(op, flags, Destination::Memory) && POPS != 0 {
        cpu.state.x87.pop();
    }
}

fn store_extended(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let (value, flags) = if cpu.state.x87.is_empty(0) {
        (INDEFINITE, status::IE | status::SF)
    } else {
        (cpu.state.x87.st(0), 0)
    };
    if cpu.x87_stores(flags, Destination::Memory) {
        store_tenbyte(cpu, op, value.mantissa, value.sign_exponent as u16)?;
    }
    finish_store::<1>(cpu, op, flags);
    Ok(())
}

fn store_decimal(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let mut calculator = cpu.calculator();
    let value = if cpu.state.x87.is_empty(0) {
        calculator.raise(status::SF);
        INDEFINITE
    } else {
        cpu.state.x87.st(0)
    };
    let (low, high) = calculator.round_to_decimal(value);
    if cpu.x87_stores(calculator.flags, Destination::Memory) {
        store_tenbyte(cpu, op, low, high)?;
    }
    finish_store::<1>(cpu, op, calculator.flags);
    Ok(())
}

fn store_register<const POPS: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    if cpu.state.x87.is_empty(0) {
        cpu.x87_stack_underflow(op, op.dst, POPS);
    } else {
        let value = cpu.state.x87.st(0);
        cpu.x87_put(op, op.dst, value, 0, POPS);
    }
    Ok(())
}

/// An undocumented FSTP without exceptions: an empty register is popped, and not copied.
fn store_unchecked(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    cpu.x87_finish(op, 0, Destination::Register);
    let x = &mut cpu.state.x87;
    if !x.is_empty(0) {
        x.put(op.dst, x.st(0));
    }
    x.pop();
    Ok(())
}

fn exchange(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    let [first, second] = [0, op.src].map(|i| (!x.is_empty(i)).then(|| x.st(i)));
    let flags = if first.is_none() || second.is_none() {
        status::IE | status::SF
    } else {
        0
    };
    if cpu.x87_finish(op, flags, Destination::Register) {
        cpu.state.x87.put(0, second.unwrap_or(INDEFINITE));
        cpu.state.x87.put(op.src, first.unwrap_or(INDEFINITE));
    }
    Ok(())
}

fn conditional<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Result<(), Abort> {
    cpu.x87_enter()?;
    let x = &cpu.state.x87;
    if x.is_empty(0) || x.is_empty(op.src) {
        cpu.x87_stack_underflow(op, 0, 0);
        return Ok(());
    }
    let from = if cpu.state.flags.condition::<CC>() {
        op.src
    } else {
        0
    };
    let value = x.st(from);
    // C1 is changed by a stack fault only.
    cpu.x87_finish_keeping(op, 0, Destination::Register);
    cpu.state.x87.put(0, value);
    Ok(())
}
