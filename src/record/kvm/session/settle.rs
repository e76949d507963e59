//! What is different about a vCPU that stands between two steps of an instruction, or behind a fault of the host.
//!
//! - RFLAGS.RF, which an interrupt pushes. The engine has it set between the iterations of a repeated string
//!   instruction and behind an IRET that says so. In a vCPU it may be left over from a page fault of the host's, and
//!   may be lost.
//! - KVM's emulator ends a repeated string instruction in two steps: after the last iteration the count is 0 and RIP is
//!   still there. The engine knows no such state.

use super::Session;
use crate::cpu::flags::bits;
use crate::record::kvm::error::KvmError;

impl Session {
    /// Makes RFLAGS.RF what it is in the engine. Where that is not known, the engine executes the next instruction:
    /// what the flag is behind it depends on nothing else. Whether an interrupt can be taken is to be asked afterwards.
    /// Nobody compares what is not recorded.
    pub(super) fn settle(&mut self) -> Result<(), KvmError> {
        if !self.journal.records() {
            return self.vm.change_regs(|regs| regs.rflags &= !bits::RF);
        }
        if self.halted || self.at_access {
            if self.vm.regs()?.rflags & bits::RF == 0 {
                return Ok(());
            }
            self.look()?;
            // Behind a whole instruction it is clear.
            if self.halted || self.machine.cpu.repeated().is_none() {
                return self.vm.change_regs(|regs| regs.rflags &= !bits::RF);
            }
        } else {
            self.look()?;
        }
        if self.journal.live.watch().address() == Some(self.machine.cpu.linear_rip()) {
            // Whoever waits for this instruction wants to see it first.
            self.journal.live.watch().reached();
            return Ok(());
        }
        self.count("executed_before_delivery");
        self.execute()
    }

    /// Goes past a repeated string instruction whose last iteration was made. Right `behind` an access that is INS or
    /// OUTS only: another one may be about to begin, with nothing to do.
    pub(super) fn leave_finished_repeat(&mut self, behind: bool) -> Result<(), KvmError> {
        let regs = self.vm.regs()?;
        if regs.rcx & 0xffff != 0 || behind && regs.rflags & bits::RF == 0 {
            return Ok(());
        }
        self.look()?;
        match self.machine.cpu.repeated() {
            Some(repeated)
                if regs.rcx & repeated.counts == 0 && (repeated.accesses_ports || !behind) =>
            {
                self.vm.change_regs(|regs| {
                    regs.rip = regs.rip.wrapping_add(repeated.bytes);
                    regs.rflags &= !bits::RF;
                })
            }
            _ => Ok(()),
        }
    }

    /// Lets the engine see what the processor is like.
    pub(super) fn look(&mut self) -> Result<(), KvmError> {
        let cpu = &mut self.machine.cpu;
        let mut state = cpu.state;
        self.vm.store(&cpu.memory, &mut state)?;
        cpu.state = state;
        // Whatever was derived from RAM is out of date.
        cpu.forget_code();
        cpu.state_changed();
        Ok(())
    }
}
