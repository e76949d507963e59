//! Far JMP and CALL in protected mode: to code segments, through call gates, to tasks (SDM volume 2, CALL and JMP;
//! volume 3, 5.8).

use super::segment::{Descriptor, selector_code};
use super::state::{gpr, rights, seg};
use super::task::Leave;
use super::{Abort, Cpu, Fault, decode, vector};

const TASK16: u8 = 1;
const CALL_GATE16: u8 = 4;
const TASK_GATE: u8 = 5;
const TASK32: u8 = 9;
const CALL_GATE32: u8 = 12;

/// A far JMP or CALL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    /// Bytes of the operand size, which is that of what a CALL pushes; `None` for JMP.
    pub call: Option<u8>,
    /// RIP behind the instruction.
    pub next: u64,
}

/// A call gate, read and permitted.
struct CallGate {
    /// Bytes of what is pushed.
    bytes: u8,
    selector: u16,
    offset: u64,
    parameters: usize,
}

impl Cpu {
    /// Transfers control to a selector and an offset in it.
    ///
    /// On an error the state may be partly changed: the caller restores it. A fault that is given back belongs to the
    /// task that was switched to.
    pub(super) fn far_transfer(
        &mut self,
        selector: u16,
        offset: u64,
        how: Transfer,
    ) -> Result<Option<Fault>, Abort> {
        if selector & 0xfffc == 0 {
            return self.general_protection();
        }
        let descriptor = self.descriptor(selector, vector::GP)?;
        if descriptor.is_segment() {
            self.check_direct(&descriptor)?;
            self.transfer_same_level(&descriptor, offset, how, how.call.unwrap_or(0))?;
            return Ok(None);
        }
        let long = self.state.long_mode();
        let code = selector_code(selector);
        match descriptor.system_type() {
            CALL_GATE32 => self.through_gate(&descriptor, how).map(|()| None),
            CALL_GATE16 if !long => self.through_gate(&descriptor, how).map(|()| None),
            TASK16 | TASK32 if !long => {
                self.check_gate_level(&descriptor)?;
                self.transfer_to_task(selector, how)
            }
            TASK_GATE if !long => {
                self.check_gate_level(&descriptor)?;
                if !descriptor.present() {
                    return self.raise_code(vector::NP, code);
                }
                self.transfer_to_task((descriptor.raw >> 16) as u16, how)
            }
            _ => self.raise_code(vector::GP, code),
        }
    }

    fn transfer_to_task(&mut self, selector: u16, how: Transfer) -> Result<Option<Fault>, Abort> {
        let leave = if how.call.is_some() {
            Leave::Nest
        } else {
            Leave::Jump
        };
        self.switch_task(selector, leave, how.next, None)
    }

    /// Gates and tasks may be named by who is as privileged as they say.
    fn check_gate_level(&mut self, gate: &Descriptor) -> Result<(), Abort> {
        let level = self.state.cpl.max((gate.selector & 3) as u8);
        if gate.dpl() < level {
            return self.raise_code(vector::GP, selector_code(gate.selector));
        }
        Ok(())
    }

    /// Checks a code segment that a far pointer names.
    fn check_direct(&mut self, code: &Descriptor) -> Result<(), Abort> {
        let cpl = self.state.cpl;
        let permitted = if code.is_conforming() {
            code.dpl() <= cpl
        } else {
            (code.selector & 3) as u8 <= cpl && code.dpl() == cpl
        };
        let both = rights::L | rights::DB;
        let bad_size = self.state.long_mode() && code.rights() & both == both;
        if !code.is_code() || !permitted || bad_size {
            return self.raise_code(vector::GP, selector_code(code.selector));
        }
        if !code.present() {
            return self.raise_code(vector::NP, selector_code(code.selector));
        }
        Ok(())
    }

    /// Enters a code segment at the current privilege level; a CALL pushes words of `bytes` bytes.
    fn transfer_same_level(
        &mut self,
        code: &Descriptor,
        offset: u64,
        how: Transfer,
        bytes: u8,
    ) -> Result<(), Abort> {
        let to64 = self.state.long_mode() && code.rights() & rights::L != 0;
        if how.call.is_some() {
            self.check_stack_room(2, bytes as usize, 0)?;
        }
        self.check_return_rip(offset, code, to64)?;
        if how.call.is_some() {
            let old = self.state.seg[seg::CS].selector as u64;
            self.push_sized(bytes, old)?;
            self.push_sized(bytes, how.next)?;
        }
        self.enter_code_segment(code, offset, to64)
    }

    fn enter_code_segment(
        &mut self,
        code: &Descriptor,
        offset: u64,
        to64: bool,
    ) -> Result<(), Abort> {
        self.set_accessed_bit(code)?;
        let selector = code.selector & 0xfffc | self.state.cpl as u16;
        let base = if to64 { 0 } else { code.base() };
        self.set_segment(seg::CS, code.segment(selector), base);
        self.state
            .set_rip(if to64 { offset } else { offset & 0xffff_ffff });
        self.update_mode();
        Ok(())
    }

    /// Pushes a word of 2, 4 or 8 bytes.
    pub(super) fn push_sized(&mut self, bytes: u8, value: u64) -> Result<(), Abort> {
        match bytes {
            2 => self.push::<u16>(value as u16),
            4 => self.push::<u32>(value as u32),
            _ => self.push::<u64>(value),
        }
    }

    fn read_call_gate(&mut self, gate: &Descriptor) -> Result<CallGate, Abort> {
        let code = selector_code(gate.selector);
        self.check_gate_level(gate)?;
        let long = self.state.long_mode();
        let mut offset = gate.raw & 0xffff;
        if gate.system_type() == CALL_GATE32 {
            offset |= gate.raw >> 32 & 0xffff_0000;
        }
        if long {
            let high = self.descriptor_high(gate, vector::GP)?;
            if high >> 40 & 0x1f != 0 {
                return self.raise_code(vector::GP, code);
            }
            offset |= high << 32;
        }
        if !gate.present() {
            return self.raise_code(vector::NP, code);
        }
        let bytes = match gate.system_type() {
            _ if long => 8,
            CALL_GATE32 => 4,
            _ => 2,
        };
        Ok(CallGate {
            bytes,
            selector: (gate.raw >> 16) as u16,
            offset,
            parameters: if long {
                0
            } else {
                (gate.raw >> 32 & 31) as usize
            },
        })
    }

    fn through_gate(&mut self, gate: &Descriptor, how: Transfer) -> Result<(), Abort> {
        let gate = self.read_call_gate(gate)?;
        if gate.selector & 0xfffc == 0 {
            return self.general_protection();
        }
        let code = self.descriptor(gate.selector, vector::GP)?;
        let selector = selector_code(gate.selector);
        let cpl = self.state.cpl;
        let level_fits = match how.call {
            // A JMP does not change the privilege level.
            None if !code.is_conforming() => code.dpl() == cpl,
            _ => code.dpl() <= cpl,
        };
        let both = rights::L | rights::DB;
        let bad_size = self.state.long_mode() && code.rights() & both != rights::L;
        if !code.is_code() || !level_fits || bad_size {
            return self.raise_code(vector::GP, selector);
        }
        if !code.present() {
            return self.raise_code(vector::NP, selector);
        }
        if how.call.is_some() && !code.is_conforming() && code.dpl() < cpl {
            return if gate.bytes == 8 {
                self.call_inner64(&gate, &code, how.next)
            } else {
                self.call_inner(&gate, &code, how.next)
            };
        }
        if gate.bytes == 8 {
            // The gate leads into 64-bit mode, where the stack has no segment.
            self.mode = decode::Mode::Bits64;
        }
        self.transfer_same_level(&code, gate.offset, how, gate.bytes)
    }

    /// CALL to an inner privilege level through a 16- or 32-bit gate: the parameters go along.
    fn call_inner(&mut self, gate: &CallGate, code: &Descriptor, next: u64) -> Result<(), Abort> {
        let cpl = code.dpl();
        let (stack, esp) = self.inner_stack(cpl)?;
        let mut words = [0u64; 35];
        words[0] = self.state.seg[seg::SS].selector as u64;
        words[1] = self.state.gpr[gpr::RSP];
        let count = gate.parameters;
        let bytes = gate.bytes as u64;
        words[count + 2] = self.state.seg[seg::CS].selector as u64;
        words[count + 3] = next;
        let outer = self.state;
        // The new stack is checked before the old one is read.
        self.enter_inner_stack(&stack, esp, cpl)?;
        self.check_stack_room(
            count + 4,
            gate.bytes as usize,
            selector_code(stack.selector),
        )?;
        self.check_return_rip(gate.offset, code, false)?;
        let inner = std::mem::replace(&mut self.state, outer);
        self.update_access();
        for n in 0..count {
            // The last pushed lies lowest.
            words[count + 1 - n] = self.peek_sized(n as u64 * bytes, bytes)?;
        }
        self.state = inner;
        self.update_access();
        for &word in &words[..count + 4] {
            self.push_sized(gate.bytes, word)?;
        }
        self.enter_code_segment(code, gate.offset, false)
    }

    /// CALL to an inner privilege level in long mode.
    fn call_inner64(&mut self, gate: &CallGate, code: &Descriptor, next: u64) -> Result<(), Abort> {
        let cpl = code.dpl();
        let rsp = self.task_stack64(4 + 8 * cpl as u64)?;
        self.check_return_rip(gate.offset, code, true)?;
        let words = [
            self.state.seg[seg::SS].selector as u64,
            self.state.gpr[gpr::RSP],
            self.state.seg[seg::CS].selector as u64,
            next,
        ];
        self.mode = decode::Mode::Bits64;
        self.state.cpl = cpl;
        self.update_access();
        self.state.gpr[gpr::RSP] = rsp;
        for word in words {
            self.push::<u64>(word)?;
        }
        self.load_null(seg::SS, cpl as u16);
        self.enter_code_segment(code, gate.offset, true)
    }
}
