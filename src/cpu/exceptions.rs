//! Delivery of interrupts and exceptions through the IDT, and the way back: IRET (SDM volume 3, chapter 6).
//!
//! What task gates lead to is in `task.rs`, the ways into virtual-8086 mode are in `vm86.rs`.

use super::debug::{dr6, dr7};
use super::events::Event;
use super::flags::bits;
use super::segment::{Descriptor, selector_code};
use super::state::{Segment, activity, gpr, rights, seg};
use super::task::Leave;
use super::{Abort, AbortReason, Cpu, Fault, decode, vector};

/// Where an event comes from: decides checks and error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// INT n, INT3, INTO: the gate's DPL is checked, and what goes wrong is the program's own fault: the error code's
    /// EXT bit is clear.
    Software,
    /// INT1: delivered as a hardware exception would be.
    PrivilegedSoftware,
    /// An exception that an instruction raised.
    Exception,
    /// From outside.
    External,
}

/// What an event pushes.
#[derive(Default)]
struct Frame {
    words: [u32; 10],
    count: usize,
}

impl Frame {
    fn add(&mut self, words: &[u32]) {
        for &word in words {
            self.words[self.count] = word;
            self.count += 1;
        }
    }
}

/// An IDT gate.
#[derive(Clone, Copy, Debug)]
struct Gate {
    selector: u16,
    offset: u64,
    kind: u8,
    dpl: u8,
    present: bool,
    ist: u8,
}

const GATE_TASK: u8 = 5;
const GATE_INTERRUPT16: u8 = 6;
const GATE_TRAP16: u8 = 7;
const GATE_INTERRUPT32: u8 = 14;
const GATE_TRAP32: u8 = 15;

/// Error-code bit: the event whose delivery failed was not the program's own.
const EXT: u32 = 1;

/// Contributory exceptions (SDM volume 3, table 6-5).
fn contributory(vector: u8) -> bool {
    matches!(vector, 0 | 10..=13)
}

/// Exceptions whose error code has the EXT bit when they happen during the delivery of another event.
fn takes_ext(vector: u8) -> bool {
    matches!(vector, vector::TS..=vector::GP | vector::AC)
}

/// Exceptions at most, each raised while the one before is delivered. Some never come to an end, #AC on a stack that is
/// not aligned for one: there processors hang, and this one shuts down.
const EVENTS_MAX: u32 = 32;

impl Cpu {
    /// Delivers an interrupt from outside.
    pub(super) fn deliver_external(&mut self, vector: u8) {
        self.deliver_all(Fault::plain(vector), Source::External);
    }

    /// Delivers an exception that an instruction raised.
    pub(super) fn deliver_fault(&mut self, fault: Fault) {
        self.deliver_all(fault, Source::Exception);
    }

    /// Delivers an event, or the double fault that comes of it, or shuts down.
    fn deliver_all(&mut self, first: Fault, source: Source) {
        let stepping = std::mem::replace(&mut self.stepping, true);
        let rip = self.linear_rip();
        self.event_at.0 = rip;
        let mut fault = first;
        let mut source = source;
        let mut doubled = first.vector == vector::DF && source == Source::Exception;
        let mut events = 0;
        loop {
            events += 1;
            if events > EVENTS_MAX {
                self.triple_fault(first.vector, fault.vector);
                break;
            }
            if fault.vector == vector::PF && source != Source::External {
                self.state.cr2 = fault.address;
            }
            let mut trap = false;
            if fault.vector == vector::DB && source == Source::Exception {
                self.note_debug_exception(fault.address);
                trap = fault.address & dr6::BD == 0;
            }
            let saved = self.state;
            if source == Source::Exception && !trap {
                // What faults is to run again: its frame has RF set (SDM volume 3, 18.3.1.1). Instruction
                // breakpoints leave that to their handler.
                self.state.flags.set_other(bits::RF, true);
            }
            let next = match self.deliver(fault.vector, fault.code, source) {
                Ok(None) => {
                    if source != Source::External {
                        self.exception_delivered(rip, fault);
                    }
                    break;
                }
                // It happens in the task that the event has led to.
                Ok(Some(late)) => late,
                Err(Abort) => {
                    let AbortReason::Fault(next) = self.abort_as_fault() else {
                        unreachable!("just made a fault")
                    };
                    let cr2 = self.state.cr2;
                    self.state = saved;
                    self.state.cr2 = cr2;
                    self.update_mode();
                    next
                }
            };
            let escalates = source != Source::External
                && (contributory(fault.vector) && contributory(next.vector)
                    || fault.vector == vector::PF
                        && (contributory(next.vector) || next.vector == vector::PF));
            if doubled {
                self.triple_fault(first.vector, next.vector);
                break;
            }
            if escalates {
                if next.vector == vector::PF {
                    self.state.cr2 = next.address;
                }
                fault = Fault::with_code(vector::DF, 0);
                doubled = true;
            } else {
                fault = next;
                if let (true, Some(code)) = (takes_ext(fault.vector), fault.code) {
                    fault.code = Some(code | EXT);
                }
            }
            source = Source::Exception;
        }
        self.stepping = stepping;
    }

    fn exception_delivered(&mut self, rip: u64, fault: Fault) {
        self.event_at.1 = self.tick() + 1;
        let Fault {
            vector: number,
            code,
            address,
        } = fault;
        self.event(
            rip,
            Event::Exception {
                vector: number,
                code,
                // For #DB it is the causes.
                address: if number == vector::PF { address } else { 0 },
            },
        );
    }

    fn abort_as_fault(&mut self) -> AbortReason {
        match self.abort {
            AbortReason::Fault(_) => self.abort,
            // Pushing a frame goes through SS.
            AbortReason::NotCanonical => AbortReason::Fault(Fault::with_code(vector::SS, 0)),
            AbortReason::NeedsStep | AbortReason::Breakpoint => {
                unreachable!("events are delivered while stepping")
            }
        }
    }

    fn triple_fault(&mut self, first: u8, last: u8) {
        self.state.activity = activity::SHUTDOWN;
        self.attention = true;
        let now = self.tick();
        let cpu = self.index;
        let rip = self.state.rip();
        let why = format!(
            "triple fault at rip {rip:#x}: exception {last} while delivering exception {first}"
        );
        self.world().shutdown(now, cpu, &why);
    }

    /// INT n and its kin; `return_rip` is behind the instruction.
    pub(super) fn software_interrupt(
        &mut self,
        vector: u8,
        return_rip: u64,
        source: Source,
    ) -> Result<(), Abort> {
        let saved = self.state;
        self.state.set_rip(return_rip);
        match self.deliver(vector, None, source) {
            Ok(late) => {
                // TF is clear now: what steps over the instruction hears of the next one after the return.
                self.step_trap_lost = true;
                if source == Source::PrivilegedSoftware {
                    self.state.dr[7] &= !dr7::GD;
                }
                if let Some(late) = late {
                    self.deliver_fault(late);
                }
                Ok(())
            }
            Err(Abort) => {
                self.state = saved;
                self.update_mode();
                if let AbortReason::Fault(Fault {
                    vector,
                    code: Some(code),
                    ..
                }) = self.abort
                    && source != Source::Software
                    && takes_ext(vector)
                {
                    return self.raise_code(vector, code | EXT);
                }
                Err(Abort)
            }
        }
    }

    /// Goes through the IDT once. On failure the state is partly changed: callers restore it. A fault that is given
    /// back belongs to the task that the event has led to.
    fn deliver(
        &mut self,
        vector: u8,
        code: Option<u32>,
        source: Source,
    ) -> Result<Option<Fault>, Abort> {
        if !self.state.protected() {
            return self.deliver_real(vector).map(|()| None);
        }
        let gate = self.gate(vector, source)?;
        if gate.kind == GATE_TASK {
            let next = self.state.rip();
            return self.switch_task(gate.selector, Leave::Nest, next, code);
        }
        if self.state.long_mode() {
            self.enter_gate64(gate, code)?;
        } else {
            self.enter_gate32(gate, code)?;
        }
        Ok(None)
    }

    fn deliver_real(&mut self, vector: u8) -> Result<(), Abort> {
        let at = vector as u64 * 4;
        if at + 3 > self.state.idtr.limit {
            return self.raise_code(vector::GP, 0);
        }
        let entry = self.read_system::<u32>(self.state.idtr.base.wrapping_add(at))?;
        let rsp = self.state.gpr[gpr::RSP];
        let flags = self.state.rflags() as u16;
        let frame = [
            flags,
            self.state.seg[seg::CS].selector,
            self.state.rip() as u16,
        ];
        for word in frame {
            if let Err(abort) = self.push::<u16>(word) {
                self.state.gpr[gpr::RSP] = rsp;
                return Err(abort);
            }
        }
        self.state
            .flags
            .set_other(bits::IF | bits::TF | bits::AC | bits::RF, false);
        self.load_code_real((entry >> 16) as u16);
        self.state.set_rip((entry & 0xffff) as u64);
        self.update_mode();
        Ok(())
    }

    /// Reads and checks a gate.
    fn gate(&mut self, vector: u8, source: Source) -> Result<Gate, Abort> {
        let code = (vector as u32) << 3 | 2;
        let long = self.state.long_mode();
        let bytes = if long { 16 } else { 8 };
        let at = vector as u64 * bytes;
        if at + bytes - 1 > self.state.idtr.limit {
            return self.raise_code(vector::GP, code);
        }
        let address = self.state.idtr.base.wrapping_add(at);
        let low = self.read_system::<u64>(address)?;
        let high = if long {
            self.read_system::<u64>(address.wrapping_add(8))?
        } else {
            0
        };
        let gate = Gate {
            selector: (low >> 16) as u16,
            offset: low & 0xffff | low >> 32 & 0xffff_0000 | high << 32,
            kind: (low >> 40 & 0x1f) as u8,
            dpl: (low >> 45 & 3) as u8,
            present: low >> 47 & 1 != 0,
            ist: (low >> 32 & 7) as u8,
        };
        let known = match gate.kind {
            GATE_INTERRUPT32 | GATE_TRAP32 => true,
            GATE_TASK | GATE_INTERRUPT16 | GATE_TRAP16 => !long,
            _ => false,
        };
        if !known || source == Source::Software && gate.dpl < self.state.cpl {
            return self.raise_code(vector::GP, code);
        }
        if !gate.present {
            return self.raise_code(vector::NP, code);
        }
        Ok(gate)
    }

    /// The code segment of a gate, checked.
    fn gate_code(&mut self, gate: &Gate) -> Result<Descriptor, Abort> {
        if gate.selector & 0xfffc == 0 {
            return self.general_protection();
        }
        let descriptor = self.descriptor(gate.selector, vector::GP)?;
        if !descriptor.is_code() || descriptor.dpl() > self.state.cpl {
            return self.raise_code(vector::GP, selector_code(gate.selector));
        }
        if !descriptor.present() {
            return self.raise_code(vector::NP, selector_code(gate.selector));
        }
        Ok(descriptor)
    }

    fn enter_gate64(&mut self, gate: Gate, code: Option<u32>) -> Result<(), Abort> {
        let descriptor = self.gate_code(&gate)?;
        if descriptor.rights() & (rights::L | rights::DB) != rights::L {
            return self.raise_code(vector::GP, selector_code(gate.selector));
        }
        let old_cpl = self.state.cpl;
        let cpl = if descriptor.is_conforming() {
            old_cpl
        } else {
            descriptor.dpl()
        };
        let mut rsp = if gate.ist != 0 {
            self.task_stack64(28 + 8 * gate.ist as u64)?
        } else if cpl < old_cpl {
            self.task_stack64(4 + 8 * cpl as u64)?
        } else {
            self.state.gpr[gpr::RSP]
        };
        rsp &= !15;
        if ((gate.offset << 16) as i64 >> 16) as u64 != gate.offset {
            return self.general_protection();
        }
        let frame = [
            self.state.seg[seg::SS].selector as u64,
            self.state.gpr[gpr::RSP],
            self.state.rflags(),
            self.state.seg[seg::CS].selector as u64,
            self.state.rip(),
        ];
        self.state.cpl = cpl;
        self.update_access();
        for word in frame.into_iter().chain(code.map(u64::from)) {
            rsp = rsp.wrapping_sub(8);
            self.write::<u64>(rsp, word)
                .inspect_err(|_| self.aborted_on_stack())?;
        }
        self.set_accessed_bit(&descriptor)?;
        if cpl < old_cpl {
            self.load_null(seg::SS, cpl as u16);
        }
        self.state.gpr[gpr::RSP] = rsp;
        self.enter_code(&gate, &descriptor, cpl);
        Ok(())
    }

    fn enter_code(&mut self, gate: &Gate, descriptor: &Descriptor, cpl: u8) {
        let selector = gate.selector & 0xfffc | cpl as u16;
        self.set_segment(seg::CS, descriptor.segment(selector), descriptor.base());
        if self.state.code64() {
            self.state.seg_base[seg::CS] = 0;
        }
        self.state.set_rip(gate.offset);
        let mut cleared = bits::TF | bits::NT | bits::RF | bits::VM;
        if gate.kind & 1 == 0 {
            cleared |= bits::IF;
        }
        self.state.flags.set_other(cleared, false);
        self.update_mode();
    }

    fn enter_gate32(&mut self, mut gate: Gate, code: Option<u32>) -> Result<(), Abort> {
        let descriptor = self.gate_code(&gate)?;
        let old_cpl = self.state.cpl;
        let cpl = if descriptor.is_conforming() {
            old_cpl
        } else {
            descriptor.dpl()
        };
        let vm86 = self.state.flags.vm86();
        if vm86 && cpl != 0 {
            return self.raise_code(vector::GP, selector_code(gate.selector));
        }
        let wide = gate.kind >= GATE_INTERRUPT32;
        let bytes = if wide { 4 } else { 2 };
        let inner = cpl < old_cpl;
        let mut frame = Frame::default();
        let selector = |register: usize| self.state.seg[register].selector as u32;
        if vm86 {
            frame.add(&[seg::GS, seg::FS, seg::DS, seg::ES].map(selector));
        }
        if inner {
            frame.add(&[selector(seg::SS), self.state.gpr[gpr::RSP] as u32]);
        }
        let rflags = self.state.rflags() as u32;
        frame.add(&[rflags, selector(seg::CS), self.state.rip() as u32]);
        frame.add(code.as_slice());
        let mut stack_code = 0;
        if inner {
            let (stack, esp) = self.inner_stack(cpl)?;
            stack_code = selector_code(stack.selector);
            self.state.flags.set_other(bits::VM, false);
            self.enter_inner_stack(&stack, esp, cpl)?;
        }
        self.check_stack_room(frame.count, bytes as usize, stack_code)?;
        gate.offset &= if wide { 0xffff_ffff } else { 0xffff };
        self.check_return_rip(gate.offset, &descriptor, false)?;
        for &word in &frame.words[..frame.count] {
            self.push_sized(bytes, word as u64)?;
        }
        self.set_accessed_bit(&descriptor)?;
        if vm86 {
            for register in [seg::ES, seg::DS, seg::FS, seg::GS] {
                self.load_null(register, 0);
            }
        }
        self.enter_code(&gate, &descriptor, cpl);
        Ok(())
    }

    /// IRET with an operand size of 2, 4 or 8 bytes; `next` is RIP behind it. A fault that is given back belongs to
    /// the task that was returned to.
    pub(super) fn interrupt_return(
        &mut self,
        bytes: u64,
        next: u64,
    ) -> Result<Option<Fault>, Abort> {
        if !self.state.protected() {
            return self.interrupt_return_real(bytes).map(|()| None);
        }
        if self.state.flags.vm86() {
            return self.return_in_vm86(bytes).map(|()| None);
        }
        if self.state.flags.other() & bits::NT != 0 {
            if self.state.long_mode() {
                return self.general_protection();
            }
            let link = self.read_system::<u16>(self.state.tr.base)?;
            let late = self.switch_task(link, Leave::Return, next, None)?;
            self.state.nmi_blocked = 0;
            return Ok(late);
        }
        self.interrupt_return_frame(bytes).map(|()| None)
    }

    fn interrupt_return_frame(&mut self, bytes: u64) -> Result<(), Abort> {
        let rip = self.peek_sized(0, bytes)?;
        let cs = self.peek_sized(bytes, bytes)? as u16;
        let rflags = self.peek_sized(2 * bytes, bytes)?;
        if !self.state.long_mode() && bytes == 4 && rflags & bits::VM != 0 && self.state.cpl == 0 {
            return self.return_to_vm86();
        }
        let descriptor = self.return_code(cs)?;
        let cpl = (cs & 3) as u8;
        let outer = cpl > self.state.cpl || self.mode == decode::Mode::Bits64;
        let (rsp, ss) = if outer {
            (
                self.peek_sized(3 * bytes, bytes)?,
                self.peek_sized(4 * bytes, bytes)? as u16,
            )
        } else {
            (0, 0)
        };
        let to64 = self.state.long_mode() && descriptor.rights() & rights::L != 0;
        let stack = if outer {
            self.return_stack(ss, cpl, to64)?
        } else {
            None
        };
        self.check_return_rip(rip, &descriptor, to64)?;
        self.set_accessed_bit(&descriptor)?;
        let popped = if outer { 5 } else { 3 };
        self.release(popped * bytes);
        let old_cpl = self.state.cpl;
        self.return_flags(rflags, bytes, old_cpl);
        self.state.cpl = cpl;
        self.set_segment(
            seg::CS,
            descriptor.segment(cs),
            if to64 { 0 } else { descriptor.base() },
        );
        self.state.set_rip(rip);
        if outer {
            self.set_return_stack(stack, ss, rsp, to64);
        }
        if cpl > old_cpl {
            self.leave_privileged_segments();
        }
        self.state.nmi_blocked = 0;
        self.update_mode();
        Ok(())
    }

    fn interrupt_return_real(&mut self, bytes: u64) -> Result<(), Abort> {
        let rip = self.peek_sized(0, bytes)?;
        let cs = self.peek_sized(bytes, bytes)? as u16;
        let rflags = self.peek_sized(2 * bytes, bytes)?;
        if rip > 0xffff {
            return self.general_protection();
        }
        self.release(3 * bytes);
        self.load_code_real(cs);
        self.state.set_rip(rip);
        let kept = if bytes == 2 {
            0xffff_0000
        } else {
            bits::VM | bits::VIF | bits::VIP
        };
        let old = self.state.rflags();
        self.state.flags.set_rflags(old & kept | rflags & !kept);
        self.state.nmi_blocked = 0;
        self.update_mode();
        Ok(())
    }

    /// A stack word of 2, 4 or 8 bytes, zero-extended.
    pub(super) fn peek_sized(&mut self, skip: u64, bytes: u64) -> Result<u64, Abort> {
        Ok(match bytes {
            2 => self.peek::<u16>(skip)? as u64,
            4 => self.peek::<u32>(skip)? as u64,
            _ => self.peek::<u64>(skip)?,
        })
    }

    /// The code segment that a return goes to, checked (SDM volume 2, RET and IRET).
    pub(super) fn return_code(&mut self, cs: u16) -> Result<Descriptor, Abort> {
        if cs & 0xfffc == 0 {
            return self.general_protection();
        }
        let descriptor = self.descriptor(cs, vector::GP)?;
        let rpl = (cs & 3) as u8;
        let right_level = if descriptor.is_conforming() {
            descriptor.dpl() <= rpl
        } else {
            descriptor.dpl() == rpl
        };
        let both = rights::L | rights::DB;
        let bad_size = self.state.long_mode() && descriptor.rights() & both == both;
        if !descriptor.is_code() || rpl < self.state.cpl || !right_level || bad_size {
            return self.raise_code(vector::GP, selector_code(cs));
        }
        if !descriptor.present() {
            return self.raise_code(vector::NP, selector_code(cs));
        }
        Ok(descriptor)
    }

    /// Raises #GP where a far transfer's target cannot be a RIP.
    pub(super) fn check_return_rip(
        &mut self,
        rip: u64,
        code: &Descriptor,
        to64: bool,
    ) -> Result<(), Abort> {
        let valid = if to64 {
            ((rip << 16) as i64 >> 16) as u64 == rip
        } else {
            rip & 0xffff_ffff <= code.limit() as u64
        };
        if valid {
            Ok(())
        } else {
            self.general_protection()
        }
    }

    /// The stack segment that a return to `cpl` goes to; `None` for a null selector in 64-bit mode.
    pub(super) fn return_stack(
        &mut self,
        ss: u16,
        cpl: u8,
        to64: bool,
    ) -> Result<Option<Descriptor>, Abort> {
        if ss & 0xfffc == 0 {
            if to64 && cpl != 3 && ss & 3 == cpl as u16 {
                return Ok(None);
            }
            return self.general_protection();
        }
        let descriptor = self.descriptor(ss, vector::GP)?;
        if (ss & 3) as u8 != cpl || !descriptor.is_writable_data() || descriptor.dpl() != cpl {
            return self.raise_code(vector::GP, selector_code(ss));
        }
        if !descriptor.present() {
            return self.raise_code(vector::SS, selector_code(ss));
        }
        self.set_accessed_bit(&descriptor)?;
        Ok(Some(descriptor))
    }

    /// Loads SS and RSP at the end of a return; CPL is already the new one.
    pub(super) fn set_return_stack(
        &mut self,
        stack: Option<Descriptor>,
        ss: u16,
        rsp: u64,
        to64: bool,
    ) {
        match stack {
            Some(descriptor) => {
                self.set_segment(seg::SS, descriptor.segment(ss), descriptor.base())
            }
            None => self.load_null(seg::SS, ss),
        }
        let wide = self.state.seg[seg::SS].rights & rights::DB != 0;
        let old = self.state.gpr[gpr::RSP];
        self.state.gpr[gpr::RSP] = if to64 {
            rsp
        } else if wide {
            rsp & 0xffff_ffff
        } else {
            old & !0xffff | rsp & 0xffff
        };
    }

    /// Flags that IRET may change, by privilege level.
    fn return_flags(&mut self, rflags: u64, bytes: u64, cpl: u8) {
        let mut changed = bits::ARITHMETIC | bits::TF | bits::DF | bits::NT;
        if bytes > 2 {
            changed |= bits::AC | bits::ID | bits::RF;
        }
        if cpl <= self.state.flags.iopl() {
            changed |= bits::IF;
        }
        if cpl == 0 {
            changed |= bits::IOPL;
            if bytes > 2 {
                changed |= bits::VIF | bits::VIP;
            }
        }
        let old = self.state.rflags();
        self.state
            .flags
            .set_rflags(old & !changed | rflags & changed);
    }

    /// On a return outwards, data segments that the outer level may not use become null.
    pub(super) fn leave_privileged_segments(&mut self) {
        for register in [seg::ES, seg::DS, seg::FS, seg::GS] {
            let Segment { rights, .. } = self.state.seg[register];
            let conforming = rights & (rights::CODE | rights::DC) == rights::CODE | rights::DC;
            if rights & rights::P != 0
                && self.state.seg[register].dpl() < self.state.cpl
                && !conforming
            {
                self.load_null(register, 0);
            }
        }
    }
}
