//! What the engine executes in the processor's place, on its state.

use super::Session;
use crate::cpu::state::activity;
use crate::record::kvm::entries::{Entered, Instruction};
use crate::record::kvm::error::KvmError;
use crate::record::kvm::vm::Left;
use std::time::Instant;

impl Session {
    /// At a breakpoint: the moment that somebody waits for, an instruction that was replaced, or the first instruction
    /// of a handler. There, the guest's own exceptions go on; what KVM made one of by mistake is taken back and done.
    pub(super) fn at_breakpoint(&mut self) -> Result<(), KvmError> {
        self.look()?;
        if self.vm.is_at_moment(self.machine.cpu.linear_rip()) {
            self.journal.live.watch().reached();
            return Ok(());
        }
        let cpu = &mut self.machine.cpu;
        let Entered::For(undone) = self.vm.entered(&cpu.state, &cpu.memory) else {
            self.count("exceptions_looked_at");
            return self.execute();
        };
        cpu.state = undone.before;
        cpu.state_changed();
        self.count(match undone.what {
            Instruction::SystemCall => "system_calls",
            Instruction::Interrupt => "interrupt_instructions",
            Instruction::Cpuid => "cpuid_instructions",
        });
        if undone.what != Instruction::SystemCall {
            self.clobbered(&undone.written);
            return self.execute();
        }
        // RCX and R11 before are lost: the state behind it is what it can be known by.
        let now = self.clock.now();
        self.position_known = false;
        self.machine.cpu.set_tick(now);
        self.machine.run(&mut self.journal, now + 1, true);
        self.clobbered(&undone.written);
        self.vm.load(&self.machine.cpu.state, self.task_priority)
    }

    /// Writes down that words of RAM are other than the guest made them, where the engine's processor stands.
    fn clobbered(&mut self, written: &[(u64, u64)]) {
        let stand = self.stand_of(&self.machine.cpu.state);
        self.journal.stand(stand);
        let mut words = written.iter().peekable();
        while let Some(&(gpa, word)) = words.next() {
            let mut bytes = word.to_le_bytes().to_vec();
            while let Some(&(_, word)) = words.next_if(|next| next.0 == gpa + bytes.len() as u64) {
                bytes.extend_from_slice(&word.to_le_bytes());
            }
            self.journal.written(gpa, &bytes);
        }
        self.at_access = false;
        self.position_known = true;
        self.placed = Instant::now();
    }

    /// An instruction that KVM cannot execute.
    pub(super) fn execute_one(&mut self) -> Result<(), KvmError> {
        self.look()?;
        self.count("executed_by_the_engine");
        self.execute()
    }

    /// The engine executes an instruction on the state that it has seen, and the processor gets what comes of it. INT3
    /// of ours is the instruction that it stands for.
    pub(super) fn execute(&mut self) -> Result<(), KvmError> {
        let cpu = &mut self.machine.cpu;
        let replaced = cpu.probe(cpu.linear_rip());
        let Some(gpa) = replaced.filter(|&gpa| self.replaced.stands_at(&cpu.memory, gpa)) else {
            return self.execute_there();
        };
        self.replaced.give_back(&mut cpu.memory, gpa);
        self.count("replaced_executed");
        let done = self.execute_there();
        self.replaced.put(&mut self.machine.cpu.memory, gpa);
        done
    }

    fn execute_there(&mut self) -> Result<(), KvmError> {
        let now = self.clock.now();
        let before = self.journal.accesses();
        self.at_access = false;
        self.position_known = false;
        self.machine.cpu.set_tick(now);
        self.machine.run(&mut self.journal, now + 1, true);
        match self.machine.cpu.state.activity {
            activity::SHUTDOWN => {
                self.shut_down = true;
                self.at_access = true;
                return Ok(());
            }
            activity::HALTED => {
                self.machine.cpu.state.activity = activity::RUNNING;
                self.vm.load(&self.machine.cpu.state, self.task_priority)?;
                return self.answer_without_data(Left::Halt);
            }
            _ => {}
        }
        self.vm.load(&self.machine.cpu.state, self.task_priority)?;
        self.after_access(before)
    }
}
