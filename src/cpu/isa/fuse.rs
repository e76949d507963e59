//! Pairs of instructions that run as one op of two ticks: CMP or TEST, and the conditional branch behind it.
//!
//! The flags are stored as if both ran alone; the branch takes its condition from values that are still in registers.

use super::alu::{Binary, Cmp, Test};
use super::by_condition;
use crate::cpu::flags::Width;
use crate::cpu::op::{self, Flow, Handler, Op};
use crate::cpu::state::gpr;
use crate::cpu::{Abort, Cpu};
use iced_x86::{Instruction, Mnemonic, OpKind};

/// Where the operands of the first instruction are.
const REG_REG: u8 = 0;
const REG_IMM: u8 = 1;
const REG_MEM: u8 = 2;
const MEM_IMM: u8 = 3;
const MEM_REG: u8 = 4;

/// The op that stands for both instructions, if they can be fused; for 64-bit mode. `first_op` is the first one's.
pub fn fuse(
    first: &Instruction,
    first_op: &Op,
    branch: &Instruction,
    branch_op: &Op,
) -> Option<Op> {
    if !branch.is_jcc_short_or_near() || branch.op0_kind() != OpKind::NearBranch64 {
        return None;
    }
    let compare = match first.mnemonic() {
        Mnemonic::Cmp => true,
        Mnemonic::Test => false,
        _ => return None,
    };
    let form = match (first.op0_kind(), first.op1_kind()) {
        (OpKind::Register, OpKind::Register) => REG_REG,
        (OpKind::Register, OpKind::Memory) => REG_MEM,
        (OpKind::Memory, OpKind::Register) => MEM_REG,
        (OpKind::Memory, _) => MEM_IMM,
        _ => REG_IMM,
    };
    let distance = i32::try_from(branch_op.imm as i64).ok()?;
    let width = match first.op0_kind() {
        OpKind::Register => first.op0_register().size(),
        _ => first.memory_size().size(),
    };
    // The branch's own op has its condition there.
    let handler: Handler = by_condition!(branch_op.aux, CC => pick::<CC>(compare, form, width))?;
    let mut fused = first_op.copy();
    fused.handler.set(handler);
    fused.imm = first_op.imm & 0xffff_ffff | (distance as u32 as u64) << 32;
    fused.len = first_op.len + branch_op.len;
    Some(fused)
}

fn pick<const CC: u8>(compare: bool, form: u8, width: usize) -> Option<Handler> {
    macro_rules! of {
        ($O:ident, $W:ident) => {
            match form {
                REG_REG => op::ending(both::<$O, $W, REG_REG, CC>),
                REG_IMM => op::ending(both::<$O, $W, REG_IMM, CC>),
                REG_MEM => op::ending(both::<$O, $W, REG_MEM, CC>),
                MEM_IMM => op::ending(both::<$O, $W, MEM_IMM, CC>),
                _ => op::ending(both::<$O, $W, MEM_REG, CC>),
            }
        };
    }
    Some(match (compare, width) {
        (true, 1) => of!(Cmp, u8),
        (true, 4) => of!(Cmp, u32),
        (true, 8) => of!(Cmp, u64),
        (false, 1) => of!(Test, u8),
        (false, 4) => of!(Test, u32),
        (false, 8) => of!(Test, u64),
        // 16 bits are rare.
        _ => return None,
    })
}

#[inline(always)]
fn both<O: Binary, W: Width, const FORM: u8, const CC: u8>(
    cpu: &mut Cpu,
    op: &Op,
) -> Result<Flow, Abort> {
    let immediate = || W::from_u64(op.imm as i32 as i64 as u64);
    let (a, b) = match FORM {
        REG_REG => (cpu.reg::<W>(op.dst), cpu.reg::<W>(op.src)),
        REG_IMM => (cpu.reg::<W>(op.dst), immediate()),
        REG_MEM => {
            let b = cpu.load::<W>(op)?;
            (cpu.reg::<W>(op.dst), b)
        }
        MEM_IMM => (cpu.load::<W>(op)?, immediate()),
        _ => {
            let a = cpu.load::<W>(op)?;
            (a, cpu.reg::<W>(op.src))
        }
    };
    O::compute(cpu, a, b);
    let rip = cpu.state.rip();
    if cpu.state.flags.condition::<CC>() {
        cpu.state.gpr[gpr::RIP] = rip.wrapping_add((op.imm as i64 >> 32) as u64);
        Ok(Flow::Taken)
    } else {
        cpu.state.gpr[gpr::RIP] = rip.wrapping_add(op.next_offset());
        Ok(Flow::Fallthrough)
    }
}
