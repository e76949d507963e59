//! The time-stamp counter of a guest, where it is held still: see `scaled.rs`.
//!
//! What the guest reads changes only where it is known where the processor stands: at an access, or where something
//! was placed. There it goes on to the live world's time, which is an event. A guest that makes no accesses is placed
//! now and then for this.

use super::Session;
use crate::cpu::world::World;
use crate::record::kvm::error::KvmError;
use crate::record::kvm::scaled::Scaled;
use crate::record::kvm::vm::Vm;
use crate::tick::Tick;
use std::time::{Duration, Instant};

/// In a guest that makes no accesses the counter goes on this often.
const PERIOD: Duration = Duration::from_millis(5);
/// RAM is looked at this often at least: RDTSC is no access, and nothing else bounds what finding ticks has to keep.
pub(super) const LIST_PERIOD_MAX: Duration = Duration::from_millis(20);

/// What a session knows of the counter that it holds.
pub struct Held {
    scaled: Scaled,
    /// When it went on last.
    moved: Instant,
    /// It changed by itself: whether the guest has seen that should be known soon.
    changed: bool,
}

impl Held {
    /// The counter of a machine, which is made slow.
    pub fn new(vm: &mut Vm) -> Result<Held, KvmError> {
        Ok(Held {
            scaled: Scaled::new(vm)?,
            moved: Instant::now(),
            changed: false,
        })
    }
}

impl Session {
    /// The counter goes on if it is known where the processor stands. Nobody asks where nothing is recorded.
    pub(super) fn move_counter(&mut self, now: Tick) {
        let Some(held) = &mut self.held else {
            return;
        };
        if self.position_known || !self.journal.records() {
            let value = self.journal.live.tsc(now, 0);
            self.journal.set_counter(value);
            held.moved = Instant::now();
            held.changed = false;
        }
    }

    /// Whether the guest should be placed, for its counter to go on.
    pub(super) fn counter_is_due(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.changed || held.moved.elapsed() >= PERIOD)
    }

    /// Kicks the guest after so long at most, and makes it read what it shall read until then.
    pub(super) fn kick_in(&mut self, longest: Duration) -> Result<(), KvmError> {
        let (Some(held), Some(counter)) = (&mut self.held, self.journal.counter()) else {
            self.vm.kick_in(longest);
            return Ok(());
        };
        let value = counter.wrapping_add(self.machine.cpu.state.tsc_adjust);
        if !held.scaled.kick_in(&mut self.vm, value, longest)? {
            self.count("counter_unsteady");
        }
        Ok(())
    }

    /// The guest has run: counts if its counter did not stand still. It need not have read it; if it did, finding ticks
    /// says so at the next state that is recorded.
    pub(super) fn check_counter(&mut self) -> Result<(), KvmError> {
        if let Some(held) = &mut self.held
            && !held.scaled.is_held(&mut self.vm)?
        {
            held.changed = true;
            self.count("counter_changed");
        }
        Ok(())
    }
}
