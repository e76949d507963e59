//! Far transfers and system calls: JMP, CALL, RET far; INT, INT3, INTO, INT1; IRET; SYSCALL, SYSRET, SYSENTER,
//! SYSEXIT. What selectors lead to in protected mode is in `cpu/transfer.rs`, delivery and IRET in
//! `cpu/exceptions.rs`.

use super::{Lowered, ending, width};
use crate::cpu::debug::pending;
use crate::cpu::decode::{Context, Mode};
use crate::cpu::events::Event;
use crate::cpu::exceptions::Source;
use crate::cpu::flags::bits;
use crate::cpu::op::{Flow, Op, op_flags};
use crate::cpu::state::{Segment, efer, gpr, rights, seg};
use crate::cpu::transfer::Transfer;
use crate::cpu::{Abort, AbortReason, Cpu, Fault, vector};
use iced_x86::{Code, Mnemonic};

/// The vector of 32-bit system calls in Linux.
const LINUX_GATE: u8 = 0x80;

/// Chooses handlers. `aux` is the operand size in bytes.
pub fn lower(context: &Context, op: &mut Op) -> Option<Lowered> {
    let insn = context.insn;
    match insn.mnemonic() {
        Mnemonic::Jmp | Mnemonic::Call => {
            let direct = insn.is_jmp_far() || insn.is_call_far();
            op.aux = if direct {
                matches!(insn.code(), Code::Jmp_ptr1632 | Code::Call_ptr1632) as u8 * 2 + 2
            } else {
                width(context, 0) as u8 - 2
            };
            if insn.mnemonic() == Mnemonic::Jmp {
                ending(jmp_far)
            } else {
                ending(call_far)
            }
        }
        Mnemonic::Retf => {
            op.aux = match insn.code() {
                Code::Retfw | Code::Retfw_imm16 => 2,
                Code::Retfd | Code::Retfd_imm16 => 4,
                _ => 8,
            };
            ending(ret_far)
        }
        Mnemonic::Iret | Mnemonic::Iretd | Mnemonic::Iretq => {
            op.aux = match insn.mnemonic() {
                Mnemonic::Iret => 2,
                Mnemonic::Iretd => 4,
                _ => 8,
            };
            op.flags |= op_flags::STACK;
            ending(iret)
        }
        Mnemonic::Int => ending(int_n),
        Mnemonic::Int3 => ending(int3),
        Mnemonic::Into => ending(into),
        Mnemonic::Int1 => ending(int1),
        Mnemonic::Syscall => ending(syscall),
        Mnemonic::Sysret | Mnemonic::Sysretq => {
            op.aux = if insn.mnemonic() == Mnemonic::Sysretq {
                8
            } else {
                4
            };
            ending(sysret)
        }
        Mnemonic::Sysenter => ending(sysenter),
        Mnemonic::Sysexit | Mnemonic::Sysexitq => {
            op.aux = if insn.mnemonic() == Mnemonic::Sysexitq {
                8
            } else {
                4
            };
            ending(sysexit)
        }
        _ => None,
    }
}

/// Selector and offset of a far target: immediate or in memory.
fn far_target(cpu: &mut Cpu, op: &Op) -> Result<(u16, u64), Abort> {
    if !op.has(op_flags::MEMORY) {
        return Ok(((op.imm >> 32) as u16, op.imm & 0xffff_ffff));
    }
    let bytes = op.aux as u64;
    let address = cpu.address(op, op.aux as usize + 2, false)?;
    let offset = match bytes {
        2 => cpu.read::<u16>(address)? as u64,
        4 => cpu.read::<u32>(address)? as u64,
        _ => cpu.read::<u64>(address)?,
    };
    Ok((cpu.read::<u16>(address.wrapping_add(bytes))?, offset))
}

/// Whether far transfers work as on an 8086.
fn real(cpu: &Cpu) -> bool {
    !cpu.state.protected() || cpu.state.flags.vm86()
}

fn jmp_far(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    far(cpu, op, None)
}

fn call_far(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    far(cpu, op, Some(op.aux))
}

fn far(cpu: &mut Cpu, op: &Op, call: Option<u8>) -> Result<Flow, Abort> {
    let (selector, offset) = far_target(cpu, op)?;
    let saved = cpu.state;
    let how = Transfer {
        call,
        next: cpu.return_address(op),
    };
    let result = if real(cpu) {
        far_real(cpu, selector, offset, how).map(|()| None)
    } else {
        cpu.far_transfer(selector, offset, how)
    };
    match result {
        Ok(late) => {
            cpu.update_mode();
            deliver_late(cpu, late);
            Ok(Flow::Attention)
        }
        Err(abort) => {
            cpu.state = saved;
            cpu.update_mode();
            Err(abort)
        }
    }
}

/// What goes wrong in a task that was switched to belongs to the tick of the switch.
fn deliver_late(cpu: &mut Cpu, late: Option<Fault>) {
    if let Some(fault) = late {
        cpu.deliver_fault(fault);
    }
}

fn far_real(cpu: &mut Cpu, selector: u16, offset: u64, how: Transfer) -> Result<(), Abort> {
    if let Some(bytes) = how.call {
        cpu.check_stack_room(2, bytes as usize, 0)?;
    }
    if offset > cpu.state.seg[seg::CS].limit as u64 {
        return cpu.general_protection();
    }
    if let Some(bytes) = how.call {
        let old = cpu.state.seg[seg::CS].selector as u64;
        cpu.push_sized(bytes, old)?;
        cpu.push_sized(bytes, how.next)?;
    }
    cpu.load_code_real(selector);
    cpu.state.set_rip(offset);
    Ok(())
}

fn ret_far(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let bytes = op.aux as u64;
    let extra = op.imm & 0xffff;
    let rip = cpu.peek_sized(0, bytes)?;
    let cs = cpu.peek_sized(bytes, bytes)? as u16;
    if real(cpu) {
        if rip > cpu.state.seg[seg::CS].limit as u64 {
            return cpu.general_protection();
        }
        cpu.release(2 * bytes + extra);
        cpu.load_code_real(cs);
        cpu.state.set_rip(rip);
        cpu.update_mode();
        return Ok(Flow::Attention);
    }
    let descriptor = cpu.return_code(cs)?;
    let to64 = cpu.state.long_mode() && descriptor.rights() & rights::L != 0;
    let cpl = (cs & 3) as u8;
    let outer = cpl > cpu.state.cpl;
    let stack = if outer {
        let rsp = cpu.peek_sized(2 * bytes + extra, bytes)?;
        let ss = cpu.peek_sized(3 * bytes + extra, bytes)? as u16;
        Some((cpu.return_stack(ss, cpl, to64)?, ss, rsp))
    } else {
        None
    };
    cpu.check_return_rip(rip, &descriptor, to64)?;
    cpu.set_accessed_bit(&descriptor)?;
    cpu.release(2 * bytes + extra);
    cpu.state.cpl = cpl;
    cpu.set_segment(
        seg::CS,
        descriptor.segment(cs),
        if to64 { 0 } else { descriptor.base() },
    );
    cpu.state.set_rip(rip);
    if let Some((descriptor, ss, rsp)) = stack {
        cpu.set_return_stack(descriptor, ss, rsp, to64);
        cpu.leave_privileged_segments();
        cpu.update_mode();
        cpu.release(extra);
    }
    cpu.update_mode();
    Ok(Flow::Attention)
}

fn iret(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let (at, cpl) = (cpu.linear_of(op), cpu.state.cpl);
    let next = cpu.return_address(op);
    let saved = cpu.state.nt().then_some(cpu.state);
    match cpu.interrupt_return(op.aux as u64, next) {
        Ok(late) => {
            if cpl != 3 && cpu.state.cpl == 3 {
                cpu.event(at, Event::UserReturn);
            }
            deliver_late(cpu, late);
            Ok(Flow::Attention)
        }
        Err(abort) => {
            // Only a task switch fails after it has begun.
            if let Some(saved) = saved {
                cpu.state = saved;
                cpu.update_mode();
            }
            if cpu.abort != AbortReason::NeedsStep {
                // Even one that faults lets NMIs in again (SDM volume 3, 6.7.1).
                cpu.state.nmi_blocked = 0;
            }
            Err(abort)
        }
    }
}

/// An instruction that goes through the IDT.
fn interrupt(cpu: &mut Cpu, op: &Op, vector: u8, source: Source) -> Result<Flow, Abort> {
    let (at, cpl) = (cpu.linear_of(op), cpu.state.cpl);
    let back = cpu.return_address(op);
    cpu.event_at.0 = at;
    cpu.software_interrupt(vector, back, source)?;
    let event = match vector {
        LINUX_GATE if cpl == 3 => Event::SystemCall {
            number: cpu.state.gpr[gpr::RAX] & 0xffff_ffff,
            wide: false,
        },
        _ => Event::Exception {
            vector,
            code: None,
            address: 0,
        },
    };
    cpu.event(at, event);
    Ok(Flow::Attention)
}

fn int_n(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    // INT3 and INTO do not depend on IOPL.
    if cpu.state.protected() && cpu.state.flags.vm86() && cpu.state.flags.iopl() < 3 {
        return cpu.general_protection();
    }
    interrupt(cpu, op, op.imm as u8, Source::Software)
}

fn int3(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    interrupt(cpu, op, vector::BP, Source::Software)
}

fn int1(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    interrupt(cpu, op, vector::DB, Source::PrivilegedSoftware)
}

fn into(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    if !cpu.state.flags.of() {
        cpu.advance(op);
        return Ok(Flow::Indirect);
    }
    interrupt(cpu, op, vector::OF, Source::Software)
}

/// A flat segment as the system-call instructions load it, without looking at any descriptor.
fn flat(selector: u16, code: bool, long: bool, dpl: u8) -> Segment {
    let mut r = rights::P | rights::S | rights::RW | rights::ACCESSED | rights::G;
    r |= (dpl as u16) << rights::DPL_SHIFT;
    if code {
        r |= rights::CODE;
    }
    r |= if code && long { rights::L } else { rights::DB };
    Segment {
        limit: 0xffff_ffff,
        rights: r,
        selector,
    }
}

fn syscall(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let long = cpu.state.long_mode();
    // Intel: only in 64-bit mode.
    let elsewhere = cpu.mode != Mode::Bits64 && !cpu.features.amd;
    if cpu.state.efer & efer::SCE == 0 || !cpu.state.protected() || elsewhere {
        return cpu.undefined();
    }
    let at = cpu.linear_of(op);
    let number = cpu.state.gpr[gpr::RAX];
    let back = cpu.return_address(op);
    cpu.state.gpr[gpr::RCX] = back;
    // Compatibility mode's numbers are those of the 32-bit ABI.
    let wide = cpu.mode == Mode::Bits64;
    if !long {
        syscall_legacy(cpu);
        cpu.event(at, Event::SystemCall { number, wide });
        return Ok(Flow::Attention);
    }
    cpu.state.gpr[gpr::R11] = cpu.state.rflags() & !bits::RF;
    let target = if wide {
        cpu.state.lstar
    } else {
        cpu.state.cstar
    };
    cpu.state.set_rip(target);
    let rflags = cpu.state.rflags() & !cpu.state.fmask & !bits::RF;
    cpu.state.flags.set_rflags(rflags);
    // Whether a single-step trap follows is for the new TF to say.
    cpu.step_trap_lost = rflags & bits::TF == 0;
    let selector = (cpu.state.star >> 32) as u16 & 0xfffc;
    cpu.set_segment(seg::CS, flat(selector, true, true, 0), 0);
    cpu.set_segment(seg::SS, flat(selector.wrapping_add(8), false, false, 0), 0);
    cpu.state.cpl = 0;
    cpu.update_mode();
    cpu.event(at, Event::SystemCall { number, wide });
    Ok(Flow::Attention)
}

/// SYSCALL outside of long mode: AMD only (APM volume 3, SYSCALL).
fn syscall_legacy(cpu: &mut Cpu) {
    let star = cpu.state.star;
    cpu.state.set_rip(star & 0xffff_ffff);
    let cleared = bits::IF | bits::RF | bits::VM;
    cpu.state.flags.set_other(cleared, false);
    let selector = (star >> 32) as u16 & 0xfffc;
    cpu.set_segment(seg::CS, flat(selector, true, false, 0), 0);
    cpu.set_segment(seg::SS, flat(selector.wrapping_add(8), false, false, 0), 0);
    cpu.state.cpl = 0;
    cpu.update_mode();
}

/// SYSRET outside of 64-bit mode: AMD only (APM volume 3, SYSRET). In long mode it takes its flags from R11.
fn sysret_legacy(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let at = cpu.linear_of(op);
    if cpu.state.cpl != 0 {
        return cpu.general_protection();
    }
    let base = (cpu.state.star >> 48) as u16;
    cpu.state.set_rip(cpu.state.gpr[gpr::RCX] & 0xffff_ffff);
    if cpu.state.long_mode() {
        let permitted = bits::ALL & !(bits::RF | bits::VM);
        let rflags = cpu.state.gpr[gpr::R11] & permitted;
        cpu.state.flags.set_rflags(rflags);
    } else {
        cpu.state.flags.set_other(bits::IF, true);
    }
    cpu.set_segment(seg::CS, flat(base | 3, true, false, 3), 0);
    cpu.state.seg[seg::SS].selector = base.wrapping_add(8) | 3;
    cpu.state.cpl = 3;
    cpu.update_mode();
    cpu.event(at, Event::UserReturn);
    Ok(Flow::Attention)
}

fn sysret(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    let elsewhere = cpu.mode != Mode::Bits64 && !cpu.features.amd;
    if cpu.state.efer & efer::SCE == 0 || !cpu.state.protected() || elsewhere {
        return cpu.undefined();
    }
    if cpu.mode != Mode::Bits64 {
        return sysret_legacy(cpu, op);
    }
    let target = cpu.state.gpr[gpr::RCX];
    let long = op.aux == 8;
    // Intel checks the target before it changes anything; AMD's next fetch, at level 3, raises the fault.
    let canonical = ((target << 16) as i64 >> 16) as u64 == target;
    if cpu.state.cpl != 0 || long && !canonical && !cpu.features.amd {
        return cpu.general_protection();
    }
    let at = cpu.linear_of(op);
    cpu.state
        .set_rip(if long { target } else { target & 0xffff_ffff });
    let permitted = bits::ALL & !(bits::RF | bits::VM);
    let rflags = cpu.state.gpr[gpr::R11] & permitted;
    cpu.state.flags.set_rflags(rflags);
    // Unlike after IRET, a TF that this sets traps at once.
    cpu.step_trap_lost = true;
    if rflags & bits::TF != 0 {
        cpu.state.pending_trap |= pending::STEP;
    }
    let base = (cpu.state.star >> 48) as u16;
    let code = if long { base.wrapping_add(16) } else { base } | 3;
    cpu.set_segment(seg::CS, flat(code, true, long, 3), 0);
    let stack = base.wrapping_add(8) | 3;
    if cpu.features.amd {
        // Only the selector: the rest of SS is for the system to have made right.
        cpu.state.seg[seg::SS].selector = stack;
    } else {
        cpu.set_segment(seg::SS, flat(stack, false, false, 3), 0);
    }
    cpu.state.cpl = 3;
    cpu.update_mode();
    cpu.event(at, Event::UserReturn);
    Ok(Flow::Attention)
}

/// AMD's processors have SYSENTER and SYSEXIT outside of long mode only.
fn check_sysenter(cpu: &mut Cpu) -> Result<(), Abort> {
    if cpu.features.amd && cpu.state.long_mode() {
        cpu.undefined()
    } else {
        Ok(())
    }
}

fn sysenter(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    check_sysenter(cpu)?;
    let [cs, esp, eip] = cpu.state.sysenter;
    if !cpu.state.protected() || cs & 0xfffc == 0 {
        return cpu.general_protection();
    }
    let long = cpu.state.long_mode();
    let (at, cpl) = (cpu.linear_of(op), cpu.state.cpl);
    cpu.state
        .flags
        .set_other(bits::VM | bits::IF | bits::RF, false);
    let selector = cs as u16 & 0xfffc;
    cpu.set_segment(seg::CS, flat(selector, true, long, 0), 0);
    cpu.set_segment(seg::SS, flat(selector.wrapping_add(8), false, false, 0), 0);
    cpu.state.gpr[gpr::RSP] = if long { esp } else { esp & 0xffff_ffff };
    cpu.state
        .set_rip(if long { eip } else { eip & 0xffff_ffff });
    cpu.state.cpl = 0;
    cpu.update_mode();
    if cpl == 3 {
        let number = cpu.state.gpr[gpr::RAX] & 0xffff_ffff;
        cpu.event(
            at,
            Event::SystemCall {
                number,
                wide: false,
            },
        );
    }
    Ok(Flow::Attention)
}

fn sysexit(cpu: &mut Cpu, op: &Op) -> Result<Flow, Abort> {
    check_sysenter(cpu)?;
    let cs = cpu.state.sysenter[0];
    if !cpu.state.protected() || cs & 0xfffc == 0 || cpu.state.cpl != 0 {
        return cpu.general_protection();
    }
    let long = op.aux == 8;
    let (rip, rsp) = (cpu.state.gpr[gpr::RDX], cpu.state.gpr[gpr::RCX]);
    let canonical = |a: u64| ((a << 16) as i64 >> 16) as u64 == a;
    if long && !(canonical(rip) && canonical(rsp)) {
        return cpu.general_protection();
    }
    let at = cpu.linear_of(op);
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    let base = cs as u16;
    let code = base.wrapping_add(if long { 32 } else { 16 }) | 3;
    cpu.set_segment(seg::CS, flat(code, true, long, 3), 0);
    cpu.set_segment(seg::SS, flat(code.wrapping_add(8), false, false, 3), 0);
    cpu.state.gpr[gpr::RSP] = rsp & mask;
    cpu.state.set_rip(rip & mask);
    cpu.state.cpl = 3;
    cpu.update_mode();
    cpu.event(at, Event::UserReturn);
    Ok(Flow::Attention)
}
