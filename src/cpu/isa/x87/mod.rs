//! The x87 floating-point unit: all instructions of D8 to DF, and WAIT.
//!
//! Intel SDM volume 1 chapter 8, volume 2 under the names of the instructions; volume 3, 14.2 (tags) and 24.19
//! (differences of old processors, of which only what holds since the 80387 is here).
//!
//! - Arithmetic is done in integers (`extended`), so that it is the same on every host.
//! - As CPUID says (leaf 7, EBX bits 6 and 13), the data pointer is updated by unmasked exceptions only, and the
//!   selectors of instruction and data are 0. The opcode too is updated by unmasked exceptions only: the
//!   "fopcode compatibility mode" of IA32_MISC_ENABLE is not offered. In real and virtual-8086 mode the pointers are
//!   linear addresses, which is what the formats of those modes store.
//! - Exceptions are reported in the native way, #MF, with CR0.NE = 1. The way of the PC/AT by FERR#, IRQ 13 and
//!   IGNNE# is not modelled: with CR0.NE = 0 a pending exception stays pending and execution goes on, as if IGNNE#
//!   were asserted.
//! - Results of transcendental instructions, and of some that the SDM leaves undefined, are listed in
//!   `docs/undefined.md`.

mod arithmetic;
mod compare;
mod control;
mod environment;
mod extended;
mod load_store;
pub mod registers;
#[cfg(test)]
mod tests;
mod transcendental;

use super::{Lowered, straight};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::op::{Op, op_flags};
use crate::cpu::state::{F80, cr0, seg};
use crate::cpu::{Abort, Cpu, vector};
use extended::{Calculator, Widened};
use iced_x86::{Instruction, Mnemonic, Register};
use registers::{INDEFINITE, status};

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    if context.insn.mnemonic() == Mnemonic::Wait {
        return straight(control::wait);
    }
    let opcode = opcode(context.bytes, context.mode)?;
    op.imm = opcode as u64;
    op.aux2 = data_segment(context);
    load_store::lower(context, op)
        .or_else(|| arithmetic::lower(context))
        .or_else(|| compare::lower(context))
        .or_else(|| control::lower(context))
        .or_else(|| environment::lower(context))
        .or_else(|| transcendental::lower(context))
}

/// The slot of the segment that the offset of a memory operand counts from.
fn data_segment(context: &Context) -> u8 {
    match context.insn.memory_segment() {
        Register::None => seg::NONE as u8,
        register @ (Register::FS | Register::GS) => register.number() as u8,
        _ if context.mode == Mode::Bits64 => seg::NONE as u8,
        register => register.number() as u8,
    }
}

/// The 11 bits that FOP shows: the lower 3 of the first opcode byte, then the second. `None` where it is no x87
/// instruction.
fn opcode(bytes: &[u8], mode: Mode) -> Option<u16> {
    let prefix = |byte: u8| match byte {
        0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3 => true,
        0x40..=0x4f => mode == Mode::Bits64,
        _ => false,
    };
    let at = bytes.iter().position(|&byte| !prefix(byte))?;
    match bytes[at..] {
        [first @ 0xd8..=0xdf, second, ..] => Some((first as u16 & 7) << 8 | second as u16),
        _ => None,
    }
}

/// Where an instruction puts its result: which unmasked exceptions keep it from doing so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// A register: overflow and underflow store an adjusted result.
    Register,
    /// Memory: they store nothing.
    Memory,
}

impl Cpu {
    /// Raises #NM where the x87 unit may not be used.
    #[inline(always)]
    fn x87_available(&mut self) -> Result<(), Abort> {
        if self.state.cr0 & (cr0::EM | cr0::TS) != 0 {
            return self.raise(vector::NM);
        }
        Ok(())
    }

    /// What waiting x87 instructions and those of MMX do first: #NM, and #MF for a pending exception.
    #[inline(always)]
    pub(in crate::cpu) fn x87_enter(&mut self) -> Result<(), Abort> {
        self.x87_available()?;
        self.x87_pending()
    }

    /// Raises #MF for a pending exception.
    #[inline(always)]
    fn x87_pending(&mut self) -> Result<(), Abort> {
        if self.state.x87.status & status::ES != 0 && self.state.cr0 & cr0::NE != 0 {
            return self.raise(vector::MF);
        }
        Ok(())
    }

    /// Arithmetic under the control word.
    #[inline(always)]
    fn calculator(&self) -> Calculator {
        Calculator::new(self.state.x87.control)
    }

    /// Says whether the result of an instruction that raised `flags` is to be stored, without changing anything.
    #[inline(always)]
    fn x87_stores(&self, flags: u16, destination: Destination) -> bool {
        let unmasked = flags & !self.state.x87.control & status::EXCEPTIONS;
        let prevents = match destination {
            Destination::Register => status::IE | status::DE | status::ZE,
            Destination::Memory => status::IE | status::DE | status::ZE | status::OE | status::UE,
        };
        unmasked & prevents == 0
    }

    /// The end of every instruction but those of control: sets pointers, flags and C1. After this nothing may
    /// abort. Gives whether the result is to be stored.
    #[inline(always)]
    fn x87_finish(&mut self, op: &Op, flags: u16, destination: Destination) -> bool {
        self.state.x87.status &= !status::C1;
        self.x87_finish_keeping(op, flags, destination)
    }

    /// Likewise for the few instructions that leave C1 as it is where there is nothing to tell.
    #[inline(always)]
    fn x87_finish_keeping(&mut self, op: &Op, flags: u16, destination: Destination) -> bool {
        let mut ip = self.state.rip().wrapping_add(op.offset as u64);
        if self.mode != Mode::Bits64 {
            ip = self.x87_legacy_pointer(ip, seg::CS);
        }
        let x = &mut self.state.x87;
        x.ip = ip;
        if flags & !x.control & status::EXCEPTIONS == 0 {
            x.status |= flags;
            return true;
        }
        self.x87_unmasked(op, flags, destination)
    }

    #[cold]
    #[inline(never)]
    fn x87_unmasked(&mut self, op: &Op, mut flags: u16, destination: Destination) -> bool {
        if flags & !self.state.x87.control & status::DE != 0 {
            // Found before the operation, which then does not happen.
            flags &= !(status::OE | status::UE | status::PE | status::C1);
        }
        self.state.x87.status |= flags | status::ES | status::B;
        self.state.x87.opcode = op.imm as u16 & 0x7ff;
        if op.has(op_flags::MEMORY)
            && let Ok(linear) = self.address(op, 1, false)
        {
            let base = self.state.seg_base[op.aux2 as usize];
            let mut data = linear.wrapping_sub(base);
            if self.mode != Mode::Bits64 {
                data = self.x87_legacy_pointer(data, op.aux2 as usize);
            }
            self.state.x87.data = data;
        }
        self.x87_stores(flags, destination)
    }

    /// A pointer to code or data, given by its offset in a segment, as it is kept outside of 64-bit mode.
    #[cold]
    fn x87_legacy_pointer(&self, offset: u64, segment: usize) -> u64 {
        let base = if self.x87_real_format() {
            self.state.seg_base[segment]
        } else {
            0
        };
        base.wrapping_add(offset) & 0xffff_ffff
    }

    /// Whether the environment has the format of real mode.
    fn x87_real_format(&self) -> bool {
        !self.state.protected() || self.state.flags.vm86()
    }

    /// Ends an instruction that puts its result into ST(i) and then frees `pops` registers.
    #[inline(always)]
    fn x87_put(&mut self, op: &Op, i: u8, value: F80, flags: u16, pops: u8) {
        if self.x87_finish(op, flags, Destination::Register) {
            self.state.x87.put(i, value);
            for _ in 0..pops {
                self.state.x87.pop();
            }
        }
    }

    /// Ends an instruction that pushes its result. A denormal operand is loaded even where that is unmasked.
    #[inline(always)]
    fn x87_push(&mut self, op: &Op, value: F80, flags: u16) {
        if !self.state.x87.is_empty(7) {
            return self.x87_stack_overflow(op);
        }
        self.x87_finish(op, flags, Destination::Register);
        if self.x87_stores(flags & !status::DE, Destination::Register) {
            self.state.x87.push(value);
        }
    }

    #[cold]
    fn x87_stack_overflow(&mut self, op: &Op) {
        let flags = status::IE | status::SF | status::C1;
        if self.x87_finish(op, flags, Destination::Register) {
            self.state.x87.push(INDEFINITE);
        }
    }

    /// Ends an instruction whose operand was empty: ST(i) becomes the indefinite NaN, `pops` registers are freed.
    #[cold]
    fn x87_stack_underflow(&mut self, op: &Op, i: u8, pops: u8) {
        self.x87_put(op, i, INDEFINITE, status::IE | status::SF, pops);
    }
}

/// A memory operand of arithmetic, comparison and loads.
trait Source: Copy + 'static {
    /// Loads and widens it.
    fn fetch(cpu: &mut Cpu, op: &Op) -> Result<Widened, Abort>;
}

macro_rules! source {
    ($name:ident, $bits:ty, $what:literal, |$value:ident| $body:expr) => {
        #[doc = $what]
        #[derive(Clone, Copy)]
        struct $name;
        impl Source for $name {
            #[inline(always)]
            fn fetch(cpu: &mut Cpu, op: &Op) -> Result<Widened, Abort> {
                let $value = cpu.load::<$bits>(op)?;
                Ok($body)
            }
        }
    };
}
source!(Single, u32, "binary32.", |v| Widened::from_single(v));
source!(Double, u64, "binary64.", |v| Widened::from_double(v));
source!(Word, u16, "16-bit integer.", |v| Widened::from_integer(
    v as i16 as i64
));
source!(Short, u32, "32-bit integer.", |v| Widened::from_integer(
    v as i32 as i64
));
source!(Long, u64, "64-bit integer.", |v| Widened::from_integer(
    v as i64
));

/// Picks the instance of a body for the size of a memory operand that is a number (not extended, not decimal).
macro_rules! by_source {
    ($insn:expr, $S:ident => $body:expr) => {
        match $insn.memory_size() {
            MemorySize::Float32 => {
                type $S = crate::cpu::isa::x87::Single;
                $body
            }
            MemorySize::Float64 => {
                type $S = crate::cpu::isa::x87::Double;
                $body
            }
            MemorySize::Int16 => {
                type $S = crate::cpu::isa::x87::Word;
                $body
            }
            MemorySize::Int32 => {
                type $S = crate::cpu::isa::x87::Short;
                $body
            }
            MemorySize::Int64 => {
                type $S = crate::cpu::isa::x87::Long;
                $body
            }
            _ => None,
        }
    };
}
use by_source;

/// Whether a number is a NaN or unsupported.
fn is_nan(value: F80) -> bool {
    extended::Operand::new(value).is_nan()
}

/// Whether the (first) operand of an instruction is in memory.
fn has_memory(insn: &Instruction) -> bool {
    insn.op_count() > 0 && insn.op0_kind() == iced_x86::OpKind::Memory
}
