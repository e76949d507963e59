//! Virtual-8086 mode: the ways in and out that IRET has (SDM volume 3, chapter 20).
//!
//! Interrupts out of it are in `exceptions.rs`, what depends on IOPL is with its instructions. Not modelled: the
//! virtual-mode extensions (VME, PVI); CPUID does not offer them, and CR4 takes neither bit.

use super::flags::bits;
use super::state::{gpr, seg};
use super::{Abort, Cpu};

/// The stack frame of IRETD into the mode: EIP, CS, EFLAGS, ESP, SS, ES, DS, FS, GS.
const FRAME_WORDS: usize = 9;

impl Cpu {
    /// IRET within virtual-8086 mode.
    pub(super) fn return_in_vm86(&mut self, bytes: u64) -> Result<(), Abort> {
        if self.state.flags.iopl() < 3 {
            return self.general_protection();
        }
        let rip = self.peek_sized(0, bytes)?;
        let cs = self.peek_sized(bytes, bytes)? as u16;
        let rflags = self.peek_sized(2 * bytes, bytes)?;
        if rip > 0xffff {
            return self.general_protection();
        }
        self.release(3 * bytes);
        self.load_code_real(cs);
        self.state.set_rip(rip);
        let mut kept = bits::VM | bits::IOPL | bits::VIF | bits::VIP;
        if bytes == 2 {
            kept |= 0xffff_0000;
        }
        let old = self.state.rflags();
        self.state.flags.set_rflags(old & kept | rflags & !kept);
        self.state.nmi_blocked = 0;
        self.update_mode();
        Ok(())
    }

    /// IRETD at privilege level 0 with VM set in the flags that it pops.
    pub(super) fn return_to_vm86(&mut self) -> Result<(), Abort> {
        let mut frame = [0u32; FRAME_WORDS];
        for (n, word) in frame.iter_mut().enumerate() {
            *word = self.peek::<u32>(4 * n as u64)?;
        }
        let [eip, cs, eflags, esp, ss, es, ds, fs, gs] = frame;
        if eip > 0xffff {
            return self.general_protection();
        }
        self.state.flags.set_rflags(eflags as u64);
        self.state.cpl = 3;
        self.state.gpr[gpr::RSP] = esp as u64;
        self.state.set_rip(eip as u64);
        let selectors = [
            (seg::CS, cs),
            (seg::SS, ss),
            (seg::ES, es),
            (seg::DS, ds),
            (seg::FS, fs),
            (seg::GS, gs),
        ];
        for (register, selector) in selectors {
            self.load_segment_real(register, selector as u16);
        }
        self.state.nmi_blocked = 0;
        self.update_mode();
        Ok(())
    }
}
