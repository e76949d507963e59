//! One decoded instruction, ready to run, and how one leads to the next.
//!
//! A block is an array of [`Op`]s. Each holds the address of its handler with all operands resolved. A handler
//! ends by calling that of the op behind it, which the optimiser turns into a jump; where it does not (debug
//! builds) the depth is bounded by the length of a block. Instruction bodies know nothing of this: they are plain
//! functions of the processor and the op, wrapped by [`straight`] or [`ending`].

use super::{Abort, Cpu};
use std::cell::Cell;

/// Code that executes one op and all behind it in the block.
pub type Handler = fn(&mut Cpu, &Op) -> Flow;

/// How a block was left.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next instruction (RIP is set): successor 0 of the block.
    Fallthrough = 0,
    /// To the target of the direct branch at the block's end (RIP is set): successor 1.
    Taken = 1,
    /// To wherever RIP says.
    Indirect = 2,
    /// As `Indirect`, and the world or the interrupt state may have changed.
    Attention = 3,
    /// An op did not complete; `Cpu::abort` says which and why.
    Abort = 4,
    /// The block was dropped while it ran; `Cpu::aborted_op` is the first op that did not run.
    Resync = 5,
    /// A breakpoint stands at `Cpu::aborted_op`, which did not run.
    Breakpoint = 6,
}

/// A decoded instruction (32 bytes).
#[repr(C)]
pub struct Op {
    /// What executes it.
    pub handler: Cell<Handler>,
    /// Immediate, or distance of a branch target from the start of the block. A compare fused with its branch
    /// has the immediate in the low half and the distance in the high half.
    pub imm: u64,
    /// Displacement of the memory operand; relative to the start of the block where the base is RIP.
    pub disp: i32,
    /// Slot of the base register in `State::gpr`.
    pub base: u8,
    /// Slot of the index register.
    pub index: u8,
    /// log2 of the scale.
    pub scale: u8,
    /// Segment slot (`seg::NONE` where the base is 0 for sure).
    pub seg: u8,
    /// First register operand: byte offset in the general registers, or number of another kind of register.
    pub dst: u8,
    /// Second register operand, likewise.
    pub src: u8,
    /// Length in bytes (of both instructions, if fused).
    pub len: u8,
    /// Distance of the first byte from the start of the block.
    pub offset: u8,
    /// Ticks of the block before this op.
    pub tick: u8,
    /// Bits of [`op_flags`].
    pub flags: u8,
    /// Third register operand or an 8-bit control.
    pub aux: u8,
    /// Fourth register operand (VEX) or more.
    pub aux2: u8,
}

/// Bits of [`Op::flags`].
pub mod op_flags {
    /// The memory operand needs the general path: segment limits, address size below 64 bits.
    pub const SLOW_ADDRESS: u8 = 1;
    /// Address size 32 bits.
    pub const ADDRESS32: u8 = 2;
    /// Address size 16 bits.
    pub const ADDRESS16: u8 = 4;
    /// A bad address raises #SS, not #GP.
    pub const STACK: u8 = 8;
    /// Prefixed with REPE or REP.
    pub const REP: u8 = 16;
    /// Prefixed with REPNE.
    pub const REPNE: u8 = 32;
    /// The operand is in memory (for bodies that serve both forms).
    pub const MEMORY: u8 = 64;
    /// Prefixed with LOCK.
    pub const LOCK: u8 = 128;
}

const _: () = assert!(size_of::<Op>() == 32);

impl Op {
    /// Another op with the same operands.
    pub fn copy(&self) -> Op {
        Op {
            handler: self.handler.clone(),
            ..*self
        }
    }

    /// Distance of the next instruction from the start of the block.
    #[inline(always)]
    pub fn next_offset(&self) -> u64 {
        (self.offset + self.len) as u64
    }

    /// Whether all of these flag bits are set.
    #[inline(always)]
    pub fn has(&self, bits: u8) -> bool {
        self.flags & bits == bits
    }
}

/// The value of a zero-sized function item.
#[inline(always)]
fn item<F: Copy>() -> F {
    const {
        assert!(
            size_of::<F>() == 0,
            "handlers are made of functions, not of closures with state"
        )
    };
    // SAFETY: reading no bytes is always possible, and a function item or captureless closure is inhabited.
    unsafe { std::ptr::NonNull::<F>::dangling().read() }
}

#[inline(always)]
fn next(cpu: &mut Cpu, op: &Op) -> Flow {
    // SAFETY: every block ends with an op that does not come here, so there is one behind this.
    let op = unsafe { &*(op as *const Op).add(1) };
    (op.handler.get())(cpu, op)
}

#[cold]
#[inline(never)]
fn abort(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.aborted_op = op;
    Flow::Abort
}

fn run_straight<F: Fn(&mut Cpu, &Op) -> Result<(), Abort> + Copy>(cpu: &mut Cpu, op: &Op) -> Flow {
    match item::<F>()(cpu, op) {
        Ok(()) => next(cpu, op),
        Err(Abort) => abort(cpu, op),
    }
}

fn run_ending<F: Fn(&mut Cpu, &Op) -> Result<Flow, Abort> + Copy>(cpu: &mut Cpu, op: &Op) -> Flow {
    match item::<F>()(cpu, op) {
        Ok(flow) => flow,
        Err(Abort) => abort(cpu, op),
    }
}

/// Handler of an instruction that always goes on to the next.
pub fn straight<F: Fn(&mut Cpu, &Op) -> Result<(), Abort> + Copy>(_body: F) -> Handler {
    run_straight::<F>
}

/// Handler of an instruction that ends its block. The body sets RIP.
pub fn ending<F: Fn(&mut Cpu, &Op) -> Result<Flow, Abort> + Copy>(_body: F) -> Handler {
    run_ending::<F>
}

/// Ends a block that is not ended by a branch.
pub fn block_end(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.state.gpr[super::state::gpr::RIP] += op.offset as u64;
    Flow::Fallthrough
}

/// Stands in for every op of a dropped block.
pub fn resync(cpu: &mut Cpu, op: &Op) -> Flow {
    cpu.aborted_op = op;
    Flow::Resync
}

/// Stands before an instruction that may have a breakpoint.
pub fn breakpoint(cpu: &mut Cpu, op: &Op) -> Flow {
    let rip = cpu.state.rip().wrapping_add(op.offset as u64);
    let address = cpu.linear(rip);
    let stops = cpu.stops.is_breakpoint(address) && is_awaited(cpu, op);
    if stops || cpu.armed.instruction_hits(address) != 0 {
        cpu.aborted_op = op;
        return Flow::Breakpoint;
    }
    next(cpu, op)
}

/// Whether the state before an op may be the one that breakpoints wait for.
fn is_awaited(cpu: &mut Cpu, op: &Op) -> bool {
    match &mut cpu.awaited {
        Some(awaited) if op.flags & (op_flags::REP | op_flags::REPNE) == 0 => {
            awaited.may_be(&cpu.state, &cpu.memory)
        }
        _ => true,
    }
}
