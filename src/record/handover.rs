//! What one engine hands over to the next: a machine at rest, and its live devices.

use super::live::Live;
use crate::cpu::state::activity;
use crate::machine::Machine;

/// A guest between two phases of its run. All pages of its RAM that are not zero are dirty.
pub struct Handover {
    /// RAM and processor.
    pub machine: Machine,
    /// Devices, clock and console, at the machine's tick.
    pub live: Live,
}

impl Handover {
    /// Makes this the tick 0 of what follows.
    pub fn rebase(&mut self) {
        let now = self.machine.tick();
        self.live.rebase(now);
        self.machine.cpu.set_tick(0);
    }

    /// Runs on in the engine to where nothing is half done inside of the processor, which KVM's state could not say:
    /// a few instructions at most. Or to the end of the run.
    pub fn settle(&mut self) {
        while self.is_half_done() && self.live.end().is_none() {
            let now = self.machine.tick();
            self.machine.run(&mut self.live, now + 1, true);
        }
    }

    fn is_half_done(&self) -> bool {
        let state = &self.machine.cpu.state;
        let goes_on = matches!(state.activity, activity::RUNNING | activity::HALTED);
        goes_on && state.shadow | state.pending_trap | state.nmi_pending != 0
    }
}
