//! Near branches: JMP, Jcc, CALL, RET, LOOPcc, JCXZ and its kin.
//!
//! Direct targets are distances from the start of the block, so that a block serves every mapping of its page.

use super::{Lowered, by_condition, condition, ending, width};
use crate::cpu::decode::{Context, Mode};
use crate::cpu::op::{Flow, Op, op_flags};
use crate::cpu::state::gpr;
use crate::cpu::{Abort, Cpu};
use iced_x86::{Mnemonic, OpKind};

/// Chooses handlers.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    if insn.is_jcc_short_or_near() {
        return lower_jcc(context, op);
    }
    match insn.mnemonic() {
        Mnemonic::Jmp => lower_jmp(context, op),
        Mnemonic::Call => lower_call(context, op),
        Mnemonic::Ret => {
            op.aux = stack_width(context);
            if context.mode == Mode::Bits64 && op.aux == 8 {
                ending(ret64)
            } else {
                ending(ret)
            }
        }
        Mnemonic::Loop => {
            op.aux = counter_width(context);
            op.aux2 = (target_mask(context) == 0xffff) as u8;
            ending(loop_while::<0>)
        }
        Mnemonic::Loopne => {
            op.aux = counter_width(context);
            op.aux2 = (target_mask(context) == 0xffff) as u8;
            ending(loop_while::<1>)
        }
        Mnemonic::Loope => {
            op.aux = counter_width(context);
            op.aux2 = (target_mask(context) == 0xffff) as u8;
            ending(loop_while::<2>)
        }
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => {
            op.aux = counter_width(context);
            op.aux2 = (target_mask(context) == 0xffff) as u8;
            ending(jcxz)
        }
        _ => None,
    }
}

fn near(context: &Context) -> bool {
    matches!(
        context.insn.op0_kind(),
        OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
    )
}

fn far(context: &Context) -> bool {
    context.insn.is_jmp_far()
        || context.insn.is_call_far()
        || context.insn.is_jmp_far_indirect()
        || context.insn.is_call_far_indirect()
}

/// Operand size of a near branch in bytes, as it shows in its target.
fn stack_width(context: &Context) -> u8 {
    use iced_x86::Code;
    match context.insn.code() {
        Code::Retnw
        | Code::Retnw_imm16
        | Code::Call_rel16
        | Code::Call_rm16
        | Code::Jmp_rm16
        | Code::Jmp_rel16 => 2,
        Code::Jmp_rel8_16 => 2,
        Code::Retnd
        | Code::Retnd_imm16
        | Code::Call_rel32_32
        | Code::Call_rm32
        | Code::Jmp_rm32 => 4,
        Code::Jmp_rel32_32 | Code::Jmp_rel8_32 => 4,
        _ => 8,
    }
}

fn counter_width(context: &Context) -> u8 {
    use iced_x86::Code::*;
    match context.insn.code() {
        Loopne_rel8_16_CX | Loopne_rel8_32_CX | Loope_rel8_16_CX | Loope_rel8_32_CX
        | Loop_rel8_16_CX | Loop_rel8_32_CX | Jcxz_rel8_16 | Jcxz_rel8_32 => 2,
        Loopne_rel8_64_RCX | Loope_rel8_64_RCX | Loop_rel8_64_RCX | Loopne_rel8_16_RCX
        | Loope_rel8_16_RCX | Loop_rel8_16_RCX | Jrcxz_rel8_64 | Jrcxz_rel8_16 => 8,
        _ => 4,
    }
}

/// Cuts a target to the operand size of the branch.
fn target_mask(context: &Context) -> u64 {
    match context.insn.op0_kind() {
        OpKind::NearBranch16 => 0xffff,
        OpKind::NearBranch32 => 0xffff_ffff,
        _ => u64::MAX,
    }
}

impl Cpu {
    /// Sets RIP behind an instruction.
    #[inline(always)]
    pub(crate) fn advance(&mut self, op: &Op) {
        let rip = self.state.rip().wrapping_add(op.next_offset());
        if self.mode == Mode::Bits64 {
            self.state.set_rip(rip);
        } else {
            self.set_rip_masked(rip);
        }
    }

    /// Address behind an instruction.
    #[inline(always)]
    pub(crate) fn return_address(&self, op: &Op) -> u64 {
        self.state.rip().wrapping_add(op.next_offset())
    }

    /// Sets RIP to a target outside 64-bit mode, checked against the code segment.
    #[cold]
    fn branch_legacy(&mut self, target: u64, mask: u64) -> Result<(), Abort> {
        let target = target & mask;
        self.check_code_limit(target)?;
        self.state.set_rip(target);
        Ok(())
    }

    #[cold]
    fn check_canonical_target(&mut self, target: u64) -> Result<(), Abort> {
        if ((target << 16) as i64 >> 16) as u64 != target {
            return self.general_protection();
        }
        Ok(())
    }
}

fn lower_jcc(context: &Context, op: &mut Op) -> Option<Lowered> {
    let cc = condition(context);
    // Fusing with a compare before it needs the condition.
    op.aux = cc;
    if context.mode == Mode::Bits64 && target_mask(context) == u64::MAX {
        by_condition!(cc, CC => ending(jcc64::<CC>))
    } else {
        op.aux2 = (target_mask(context) == 0xffff) as u8;
        ending(jcc_legacy)
    }
}

fn jcc64<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    if cpu.state.flags.condition::<CC>() {
        cpu.state.gpr[gpr::RIP] = cpu.state.rip().wrapping_add(op.imm);
        Ok(Flow::Taken)
    } else {
        cpu.state.gpr[gpr::RIP] = cpu.return_address(op);
        Ok(Flow::Fallthrough)
    }
}

fn jcc_legacy(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let holds = by_condition!(op.aux, CC => cpu.state.flags.condition::<CC>());
    branch_if(cpu, op, holds)
}

/// Takes a short branch if `holds`; the 16-bit operand size is in `aux2`.
fn branch_if(cpu: &mut Cpu, op: &Op, holds: bool) -> Result<Flow, Abort> {
    if !holds {
        cpu.advance(op);
        return Ok(Flow::Fallthrough);
    }
    let target = cpu.state.rip().wrapping_add(op.imm);
    if op.aux2 != 0 {
        cpu.branch_legacy(target, 0xffff)?;
    } else if cpu.mode == Mode::Bits64 {
        cpu.state.set_rip(target);
    } else {
        cpu.branch_legacy(target, 0xffff_ffff)?;
    }
    Ok(Flow::Taken)
}

fn loop_while<const KIND: u8>(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let rcx = cpu.state.gpr[gpr::RCX];
    let count = match op.aux {
        2 => rcx & !0xffff | rcx.wrapping_sub(1) & 0xffff,
        4 => rcx.wrapping_sub(1) & 0xffff_ffff,
        _ => rcx.wrapping_sub(1),
    };
    let zero = if op.aux == 2 {
        count & 0xffff == 0
    } else {
        count == 0
    };
    let flag = match KIND {
        0 => true,
        1 => !cpu.state.flags.zf(),
        _ => cpu.state.flags.zf(),
    };
    let flow = branch_if(cpu, op, !zero && flag)?;
    cpu.state.gpr[gpr::RCX] = count;
    Ok(flow)
}

fn jcxz(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let rcx = cpu.state.gpr[gpr::RCX];
    let holds = match op.aux {
        2 => rcx & 0xffff == 0,
        4 => rcx & 0xffff_ffff == 0,
        _ => rcx == 0,
    };
    branch_if(cpu, op, holds)
}

fn lower_jmp(context: &Context, op: &mut Op) -> Option<Lowered> {
    if far(context) {
        return None;
    }
    op.aux2 = (target_mask(context) == 0xffff) as u8;
    if near(context) {
        return if context.mode == Mode::Bits64 && op.aux2 == 0 {
            ending(jmp64)
        } else {
            ending(jmp_legacy)
        };
    }
    op.aux = width(context, 0) as u8;
    if context.mode == Mode::Bits64 && op.aux == 8 {
        if context.is_memory(0) {
            ending(jmp_mem64)
        } else {
            ending(jmp_reg64)
        }
    } else {
        ending(jmp_indirect)
    }
}

fn jmp64(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    cpu.state.gpr[gpr::RIP] = cpu.state.rip().wrapping_add(op.imm);
    Ok(Flow::Taken)
}

fn jmp_legacy(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    branch_if(cpu, op, true)
}

fn jmp_reg64(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let target = cpu.reg::<u64>(op.dst);
    cpu.check_canonical_target(target)?;
    cpu.state.set_rip(target);
    Ok(Flow::Indirect)
}

fn jmp_mem64(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let target = cpu.load::<u64>(op)?;
    cpu.check_canonical_target(target)?;
    cpu.state.set_rip(target);
    Ok(Flow::Indirect)
}

/// An indirect target of 2, 4 or 8 bytes (`aux`).
fn indirect_target(cpu: &mut Cpu, op: &Op) -> Result<u64, Abort> {
    let memory = op.has(op_flags::MEMORY);
    Ok(match (op.aux, memory) {
        (2, true) => cpu.load::<u16>(op)? as u64,
        (2, false) => cpu.reg::<u16>(op.dst) as u64,
        (4, true) => cpu.load::<u32>(op)? as u64,
        (4, false) => cpu.reg::<u32>(op.dst) as u64,
        (_, true) => cpu.load::<u64>(op)?,
        (_, false) => cpu.reg::<u64>(op.dst),
    })
}

/// Goes to a target, checked as the mode asks for.
fn go(cpu: &mut Cpu, target: u64) -> Result<(), Abort> {
    if cpu.mode == Mode::Bits64 {
        cpu.check_canonical_target(target)?;
        cpu.state.set_rip(target);
        Ok(())
    } else {
        cpu.branch_legacy(target, 0xffff_ffff)
    }
}

fn jmp_indirect(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let target = indirect_target(cpu, op)?;
    go(cpu, target)?;
    Ok(Flow::Indirect)
}

fn lower_call(context: &Context, op: &mut Op) -> Option<Lowered> {
    if far(context) {
        return None;
    }
    op.aux = stack_width(context);
    let plain = context.mode == Mode::Bits64 && op.aux == 8;
    if near(context) {
        return if plain {
            ending(call64)
        } else {
            ending(call_legacy)
        };
    }
    match (plain, context.is_memory(0)) {
        (true, true) => ending(call_mem64),
        (true, false) => ending(call_reg64),
        (false, _) => ending(call_indirect),
    }
}

fn call64(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let back = cpu.return_address(op);
    cpu.push::<u64>(back)?;
    cpu.state.gpr[gpr::RIP] = cpu.state.rip().wrapping_add(op.imm);
    Ok(Flow::Taken)
}

fn call_reg64(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let target = cpu.reg::<u64>(op.dst);
    call_indirect64(cpu, op, target)
}

/// The return address is stored before the target is found not to be canonical, as Intel's processors do;
/// RSP is as before then.
#[inline(always)]
fn call_indirect64(cpu: &mut Cpu, op: &Op, target: u64) -> Result<Flow, Abort> {
    let rsp = cpu.state.gpr[gpr::RSP];
    let back = cpu.return_address(op);
    cpu.push::<u64>(back)?;
    cpu.check_canonical_target(target)
        .inspect_err(|_| cpu.state.gpr[gpr::RSP] = rsp)?;
    cpu.state.set_rip(target);
    Ok(Flow::Indirect)
}

fn call_mem64(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let target = cpu.load::<u64>(op)?;
    call_indirect64(cpu, op, target)
}

/// CALL of any size to a target; nothing has changed if it aborts.
fn call_to(cpu: &mut Cpu, op: &Op, target: u64) -> Result<(), Abort> {
    let back = cpu.return_address(op);
    let rip = cpu.state.rip();
    go(cpu, target)?;
    let pushed = match op.aux {
        2 => cpu.push::<u16>(back as u16),
        4 => cpu.push::<u32>(back as u32),
        _ => cpu.push::<u64>(back),
    };
    pushed.inspect_err(|_| cpu.state.set_rip(rip))
}

fn call_legacy(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let mut target = cpu.state.rip().wrapping_add(op.imm);
    if op.aux == 2 {
        target &= 0xffff;
    }
    call_to(cpu, op, target)?;
    Ok(Flow::Taken)
}

fn call_indirect(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let target = indirect_target(cpu, op)?;
    call_to(cpu, op, target)?;
    Ok(Flow::Indirect)
}

fn ret64(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let rsp = cpu.state.gpr[gpr::RSP];
    let target = cpu.peek::<u64>(0)?;
    cpu.check_canonical_target(target)?;
    cpu.state.gpr[gpr::RSP] = rsp.wrapping_add(8 + (op.imm & 0xffff));
    cpu.state.set_rip(target);
    Ok(Flow::Indirect)
}

fn ret(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let target = cpu.peek_sized(0, op.aux as u64)?;
    go(cpu, target)?;
    cpu.release(op.aux as u64 + (op.imm & 0xffff));
    Ok(Flow::Indirect)
}
