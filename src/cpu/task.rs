//! Hardware task switches and the stack pointers that task-state segments hold (SDM volume 3, chapter 7).
//!
//! Modelled: JMP, CALL, INT, exceptions and IRET between 16- and 32-bit task-state segments in every combination, busy
//! bits, the link to the previous task, NT, CR0.TS, LDT, CR3, the debug trap, virtual-8086 tasks. All that can keep a
//! switch from happening is looked at before anything is written; what goes wrong behind that point goes wrong in the
//! new task ([`Cpu::switch_task`] gives it to its caller, who delivers it there, within the same tick).
//!
//! Not modelled: state that the SDM calls corrupted where loading CR3 fails; the new task has its registers then.

use super::debug::pending;
use super::flags::bits;
use super::isa::system::set_cr3;
use super::mmu::walk::Intent;
use super::segment::{Descriptor, selector_code};
use super::state::{Segment, SystemSegment, cr0, rights, seg};
use super::{Abort, AbortReason, Cpu, Fault, vector};

/// How a task is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// JMP: the old task ends.
    Jump,
    /// CALL, interrupts, exceptions: the new task is nested in the old one.
    Nest,
    /// IRET: back to the task that this one is nested in.
    Return,
}

/// Type bit of a system descriptor that tells a 32-bit task-state segment from a 16-bit one.
const WIDE: u16 = 8;
/// Type bit of a busy task-state segment.
const BUSY: u8 = 2;
/// DR7.L0 to L3 and LE, which a task switch clears.
const DR7_LOCAL: u64 = 0x155;

/// Byte offsets in a task-state segment (SDM volume 3, figures 7-2 and 7-10).
struct Layout {
    /// Bytes of a register.
    word: u64,
    /// Of the instruction pointer; flags, the general registers and the selectors follow.
    ip: u64,
    /// Of ES.
    selectors: u64,
    /// Bytes from one selector to the next.
    selector_step: u64,
    /// How many selectors: a 16-bit task has no FS and GS.
    selector_count: usize,
    ldt: u64,
    /// The limit must be at least this.
    limit: u32,
}

const LAYOUT16: Layout = Layout {
    word: 2,
    ip: 0xe,
    selectors: 0x22,
    selector_step: 2,
    selector_count: 4,
    ldt: 0x2a,
    limit: 0x2b,
};
const LAYOUT32: Layout = Layout {
    word: 4,
    ip: 0x20,
    selectors: 0x48,
    selector_step: 4,
    selector_count: 6,
    ldt: 0x60,
    limit: 0x67,
};
const CR3: u64 = 0x1c;
const TRAP: u64 = 0x64;

impl Layout {
    fn of(rights: u16) -> &'static Layout {
        if rights & WIDE != 0 {
            &LAYOUT32
        } else {
            &LAYOUT16
        }
    }

    /// Of the first byte behind what a switch saves.
    fn saved_end(&self) -> u64 {
        self.selectors + self.selector_step * self.selector_count as u64
    }
}

/// What a task-state segment says of a task.
struct Image {
    eip: u32,
    eflags: u32,
    gpr: [u32; 8],
    selectors: [u16; 6],
    ldt: u16,
    cr3: Option<u32>,
    trap: bool,
}

impl Cpu {
    /// The descriptor of a task to switch to. `wrong` is the exception for what is none, or is busy where it must not
    /// be (or the other way round).
    fn task_descriptor(
        &mut self,
        selector: u16,
        leave: Leave,
        wrong: u8,
    ) -> Result<Descriptor, Abort> {
        let code = selector_code(selector);
        if selector & 4 != 0 || code == 0 {
            return self.raise_code(wrong, code);
        }
        let descriptor = self.descriptor(selector, wrong)?;
        let kind = descriptor.system_type();
        let busy = kind & BUSY != 0;
        let is_task = !descriptor.is_segment() && kind & 5 == 1;
        if !is_task || busy != (leave == Leave::Return) {
            return self.raise_code(wrong, code);
        }
        if !descriptor.present() {
            return self.raise_code(vector::NP, code);
        }
        if descriptor.limit() < Layout::of(descriptor.rights()).limit {
            return self.raise_code(vector::TS, code);
        }
        Ok(descriptor)
    }

    /// Switches to the task of a selector. `next` is the RIP that the old task goes on at, `code` what an exception
    /// pushes in the new one.
    ///
    /// An error is one before the switch: the caller restores the state. A fault that is given back happens in the new
    /// task, before its first instruction.
    pub(super) fn switch_task(
        &mut self,
        selector: u16,
        leave: Leave,
        next: u64,
        code: Option<u32>,
    ) -> Result<Option<Fault>, Abort> {
        if !self.stepping {
            // What goes wrong in the new task is delivered at the exact tick.
            return self.abort_with(AbortReason::NeedsStep);
        }
        let wrong = if leave == Leave::Return {
            vector::TS
        } else {
            vector::GP
        };
        let new = self.task_descriptor(selector, leave, wrong)?;
        self.check_switch(&new, leave)?;
        self.leave_task(&new, leave, next)?;
        let entered = self.read_task(new.base(), new.rights()).and_then(|image| {
            self.load_registers(&image, leave);
            self.load_task_segments(&image)?;
            self.finish_switch(&new, code)?;
            Ok(image.trap)
        });
        self.update_mode();
        self.update_armed();
        Ok(match entered {
            Ok(trap) => {
                if trap {
                    self.state.pending_trap |= pending::TASK;
                }
                None
            }
            Err(Abort) => Some(self.abort_fault()),
        })
    }

    /// The reason of an abort as a fault; only where nothing else can be the reason.
    fn abort_fault(&self) -> Fault {
        match self.abort {
            AbortReason::Fault(fault) => fault,
            _ => Fault::with_code(vector::SS, 0),
        }
    }

    /// Steps 5 and before (SDM volume 3, 7.3): everything that is read or written is there.
    fn check_switch(&mut self, new: &Descriptor, leave: Leave) -> Result<(), Abort> {
        let old = self.state.tr;
        let layout = Layout::of(old.segment.rights);
        if (old.segment.limit as u64) < layout.saved_end() - 1 {
            return self.raise_code(vector::TS, selector_code(old.segment.selector));
        }
        self.check_system(
            old.base.wrapping_add(layout.ip),
            layout.saved_end() - layout.ip,
            Intent::Write,
        )?;
        let limit = Layout::of(new.rights()).limit;
        self.check_system(new.base(), limit as u64 + 1, Intent::Read)?;
        if leave == Leave::Nest {
            self.check_system(new.base(), 2, Intent::Write)?;
        } else {
            self.check_system(self.busy_byte(old.segment.selector), 1, Intent::Write)?;
        }
        if leave != Leave::Return {
            self.check_system(new.address.wrapping_add(5), 1, Intent::Write)?;
        }
        Ok(())
    }

    /// Where the type of a task's descriptor stands.
    fn busy_byte(&self, selector: u16) -> u64 {
        let at = self.state.gdtr.base;
        at.wrapping_add((selector & 0xfff8) as u64 + 5)
    }

    /// Steps 6 to 11: saves the old task and makes the new one the current one.
    fn leave_task(&mut self, new: &Descriptor, leave: Leave, next: u64) -> Result<(), Abort> {
        let old = self.state.tr;
        if leave != Leave::Nest {
            let at = self.busy_byte(old.segment.selector);
            let byte = self.read_system::<u8>(at)?;
            self.write_system::<u8>(at, byte & !BUSY)?;
        }
        let mut rflags = self.state.rflags();
        if leave == Leave::Return {
            rflags &= !bits::NT;
        }
        let layout = Layout::of(old.segment.rights);
        let mut at = old.base.wrapping_add(layout.ip);
        let mut registers = [next, rflags, 0, 0, 0, 0, 0, 0, 0, 0];
        registers[2..].copy_from_slice(&self.state.gpr[..8]);
        for value in registers {
            if layout.word == 4 {
                self.write_system::<u32>(at, value as u32)?;
            } else {
                self.write_system::<u16>(at, value as u16)?;
            }
            at = at.wrapping_add(layout.word);
        }
        for register in 0..layout.selector_count {
            let selector = self.state.seg[register].selector;
            self.write_system::<u16>(at, selector)?;
            at = at.wrapping_add(layout.selector_step);
        }
        if leave == Leave::Nest {
            self.write_system::<u16>(new.base(), old.segment.selector)?;
        }
        if leave != Leave::Return {
            let byte = (new.raw >> 40) as u8 | BUSY;
            self.write_system::<u8>(new.address.wrapping_add(5), byte)?;
        }
        self.state.tr = SystemSegment {
            base: new.base(),
            segment: Segment {
                limit: new.limit(),
                rights: new.rights() | BUSY as u16,
                selector: new.selector,
            },
        };
        Ok(())
    }

    fn read_task(&mut self, base: u64, task_rights: u16) -> Result<Image, Abort> {
        let layout = Layout::of(task_rights);
        let wide = layout.word == 4;
        let mut registers = [0u32; 10];
        for (n, value) in registers.iter_mut().enumerate() {
            let at = base.wrapping_add(layout.ip + layout.word * n as u64);
            *value = if wide {
                self.read_system::<u32>(at)?
            } else {
                self.read_system::<u16>(at)? as u32
            };
        }
        let mut selectors = [0u16; 6];
        for (n, selector) in selectors[..layout.selector_count].iter_mut().enumerate() {
            let at = base.wrapping_add(layout.selectors + layout.selector_step * n as u64);
            *selector = self.read_system::<u16>(at)?;
        }
        let mut gpr = [0; 8];
        gpr.copy_from_slice(&registers[2..]);
        let at = |offset| base.wrapping_add(offset);
        Ok(Image {
            eip: registers[0],
            eflags: registers[1],
            gpr,
            selectors,
            ldt: self.read_system::<u16>(at(layout.ldt))?,
            cr3: if wide {
                Some(self.read_system::<u32>(at(CR3))?)
            } else {
                None
            },
            trap: wide && self.read_system::<u16>(at(TRAP))? & 1 != 0,
        })
    }

    /// Step 12, without CR3: all segment registers have their selectors, and none can be used yet.
    fn load_registers(&mut self, image: &Image, leave: Leave) {
        let state = &mut self.state;
        state.cr0 |= cr0::TS;
        state.dr[7] &= !DR7_LOCAL;
        let mut rflags = image.eflags as u64;
        if leave == Leave::Nest {
            rflags |= bits::NT;
        }
        state.flags.set_rflags(rflags);
        state.set_rip(image.eip as u64);
        for (slot, value) in state.gpr[..8].iter_mut().zip(image.gpr) {
            *slot = value as u64;
        }
        let unusable = |selector| Segment {
            limit: 0,
            rights: 0,
            selector,
        };
        for (register, &selector) in image.selectors.iter().enumerate() {
            state.seg[register] = unusable(selector);
            state.seg_base[register] = 0;
        }
        state.ldtr = SystemSegment {
            base: 0,
            segment: unusable(image.ldt),
        };
        state.cpl = if state.flags.vm86() {
            3
        } else {
            (image.selectors[seg::CS] & 3) as u8
        };
        self.update_mode();
    }

    /// Step 13: what the selectors name is loaded, in the order of the SDM's table 7-1.
    fn load_task_segments(&mut self, image: &Image) -> Result<(), Abort> {
        if let Some(cr3) = image.cr3
            && self.state.cr0 & cr0::PG != 0
        {
            set_cr3(self, cr3 as u64)?;
        }
        self.load_task_ldt(image.ldt)?;
        if self.state.flags.vm86() {
            for (register, &selector) in image.selectors.iter().enumerate() {
                self.load_segment_real(register, selector);
            }
            return Ok(());
        }
        self.load_task_code(image.selectors[seg::CS])?;
        self.load_task_stack(image.selectors[seg::SS])?;
        for register in [seg::DS, seg::ES, seg::FS, seg::GS] {
            self.load_task_data(register, image.selectors[register])?;
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Result<(), Abort> {
        let code = selector_code(selector);
        if code == 0 {
            return Ok(());
        }
        if selector & 4 != 0 {
            return self.raise_code(vector::TS, code);
        }
        let descriptor = self.descriptor(selector, vector::TS)?;
        let is_ldt = !descriptor.is_segment() && descriptor.system_type() == 2;
        if !is_ldt || !descriptor.present() {
            return self.raise_code(vector::TS, code);
        }
        self.state.ldtr = SystemSegment {
            base: descriptor.base(),
            segment: Segment {
                limit: descriptor.limit(),
                rights: descriptor.rights(),
                selector,
            },
        };
        Ok(())
    }

    fn load_task_code(&mut self, selector: u16) -> Result<(), Abort> {
        let code = selector_code(selector);
        if code == 0 {
            return self.raise_code(vector::TS, 0);
        }
        let descriptor = self.descriptor(selector, vector::TS)?;
        let cpl = self.state.cpl;
        let right_level = if descriptor.is_conforming() {
            descriptor.dpl() <= cpl
        } else {
            descriptor.dpl() == cpl
        };
        if !descriptor.is_code() || !right_level {
            return self.raise_code(vector::TS, code);
        }
        if !descriptor.present() {
            return self.raise_code(vector::NP, code);
        }
        self.set_accessed_bit(&descriptor)?;
        self.set_segment(seg::CS, descriptor.segment(selector), descriptor.base());
        self.update_mode();
        Ok(())
    }

    fn load_task_stack(&mut self, selector: u16) -> Result<(), Abort> {
        let code = selector_code(selector);
        if code == 0 {
            return self.raise_code(vector::TS, 0);
        }
        let descriptor = self.descriptor(selector, vector::TS)?;
        let cpl = self.state.cpl;
        if !descriptor.is_writable_data() || descriptor.dpl() != cpl || (selector & 3) as u8 != cpl
        {
            return self.raise_code(vector::TS, code);
        }
        if !descriptor.present() {
            return self.raise_code(vector::SS, code);
        }
        self.set_accessed_bit(&descriptor)?;
        self.set_segment(seg::SS, descriptor.segment(selector), descriptor.base());
        Ok(())
    }

    fn load_task_data(&mut self, register: usize, selector: u16) -> Result<(), Abort> {
        let code = selector_code(selector);
        if code == 0 {
            self.load_null(register, selector);
            return Ok(());
        }
        let descriptor = self.descriptor(selector, vector::TS)?;
        if !descriptor.is_readable() || !descriptor.permits_data(selector, self.state.cpl) {
            return self.raise_code(vector::TS, code);
        }
        if !descriptor.present() {
            return self.raise_code(vector::NP, code);
        }
        self.set_accessed_bit(&descriptor)?;
        self.set_segment(register, descriptor.segment(selector), descriptor.base());
        Ok(())
    }

    /// Pushes an exception's error code and checks where the new task begins.
    fn finish_switch(&mut self, new: &Descriptor, code: Option<u32>) -> Result<(), Abort> {
        self.update_mode();
        if let Some(code) = code {
            if new.rights() & WIDE != 0 {
                self.push::<u32>(code)?;
            } else {
                self.push::<u16>(code as u16)?;
            }
        }
        self.check_code_limit(self.state.rip())
    }

    /// SS and ESP for an inner privilege level from a 16- or 32-bit task-state segment: the descriptor, checked, and
    /// the stack pointer. Nothing is loaded.
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Result<(Descriptor, u32), Abort> {
        let tr = self.state.tr;
        let wide = tr.segment.rights & WIDE != 0;
        let (offset, bytes) = if wide {
            (4 + 8 * cpl as u64, 6)
        } else {
            (2 + 4 * cpl as u64, 4)
        };
        if offset + bytes - 1 > tr.segment.limit as u64 {
            return self.raise_code(vector::TS, selector_code(tr.segment.selector));
        }
        let at = tr.base.wrapping_add(offset);
        let (esp, ss) = if wide {
            (
                self.read_system::<u32>(at)?,
                self.read_system::<u16>(at.wrapping_add(4))?,
            )
        } else {
            (
                self.read_system::<u16>(at)? as u32,
                self.read_system::<u16>(at.wrapping_add(2))?,
            )
        };
        let code = selector_code(ss);
        if code == 0 {
            return self.raise_code(vector::TS, 0);
        }
        let descriptor = self.descriptor(ss, vector::TS)?;
        if (ss & 3) as u8 != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
            return self.raise_code(vector::TS, code);
        }
        if !descriptor.present() {
            return self.raise_code(vector::SS, code);
        }
        Ok((descriptor, esp))
    }

    /// Loads what [`Cpu::inner_stack`] gave, and goes to its privilege level.
    pub(super) fn enter_inner_stack(
        &mut self,
        stack: &Descriptor,
        esp: u32,
        cpl: u8,
    ) -> Result<(), Abort> {
        self.set_accessed_bit(stack)?;
        self.set_segment(seg::SS, stack.segment(stack.selector), stack.base());
        self.state.gpr[super::state::gpr::RSP] = esp as u64;
        self.state.cpl = cpl;
        self.update_access();
        Ok(())
    }

    /// A stack pointer from the 64-bit task-state segment.
    pub(super) fn task_stack64(&mut self, offset: u64) -> Result<u64, Abort> {
        if offset + 7 > self.state.tr.segment.limit as u64 {
            return self.raise_code(vector::TS, selector_code(self.state.tr.segment.selector));
        }
        let rsp = self.read_system::<u64>(self.state.tr.base.wrapping_add(offset))?;
        if ((rsp << 16) as i64 >> 16) as u64 != rsp {
            return self.raise_code(vector::SS, 0);
        }
        Ok(rsp)
    }

    /// Raises #SS with a code where pushes would leave the stack segment.
    pub(super) fn check_stack_room(
        &mut self,
        words: usize,
        bytes: usize,
        code: u32,
    ) -> Result<(), Abort> {
        for n in 1..=words {
            if self.stack((n * bytes) as i64, bytes, true).is_err() {
                return self.raise_code(vector::SS, code);
            }
        }
        Ok(())
    }
}

impl Descriptor {
    /// A data segment, or a code segment that can be read.
    pub(super) fn is_readable(&self) -> bool {
        self.is_segment() && (!self.is_code() || self.rights() & rights::RW != 0)
    }

    /// Whether a data segment register may hold it (SDM volume 3, 5.6).
    pub(super) fn permits_data(&self, selector: u16, cpl: u8) -> bool {
        let level = cpl.max((selector & 3) as u8);
        self.is_conforming() || level <= self.dpl()
    }
}
