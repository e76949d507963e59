//! The timer of the local APIC (Intel SDM volume 3, 11.5.4): one-shot, periodic, TSC deadline.
//!
//! The counter is a function of the time since it was loaded. The divider starts anew with every load.

use serde::{Deserialize, Serialize};

use super::regs::{LVT_TIMER_DEADLINE, LVT_TIMER_MODE, LVT_TIMER_PERIODIC};
use crate::map::APIC_TIMER_PERIOD_NS;

/// The saved state of a timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Timer {
    pub initial: u32,
    /// The divide configuration register as written.
    pub divide: u8,
    /// The counter held `count` at `base_ns`, and counts.
    base_ns: u64,
    count: u32,
    running: bool,
    /// IA32_TSC_DEADLINE: 0 is disarmed.
    pub tsc_deadline: u64,
}

impl Timer {
    pub fn new() -> Timer {
        Timer::default()
    }

    /// Length of a count: bits 0, 1 and 3 of the divide register give 2, 4, … 128, and 1 last.
    fn unit_ns(&self) -> u64 {
        let code = (self.divide & 3) | (self.divide >> 1 & 4);
        APIC_TIMER_PERIOD_NS << ((code + 1) & 7)
    }

    fn expiry_ns(&self) -> u64 {
        self.base_ns
            .saturating_add(u64::from(self.count) * self.unit_ns())
    }

    /// The time at which the timer runs out next, in the mode that the LVT entry says.
    pub fn deadline_ns(&self, lvt: u32) -> Option<u64> {
        if lvt & LVT_TIMER_MODE == LVT_TIMER_DEADLINE {
            return (self.tsc_deadline != 0).then_some(self.tsc_deadline);
        }
        self.running.then(|| self.expiry_ns())
    }

    /// Brings the timer up to `now_ns`: whether it ran out meanwhile, however often.
    pub fn settle(&mut self, now_ns: u64, lvt: u32) -> bool {
        let Some(expiry_ns) = self.deadline_ns(lvt).filter(|&at| at <= now_ns) else {
            return false;
        };
        match lvt & LVT_TIMER_MODE {
            LVT_TIMER_DEADLINE => self.tsc_deadline = 0,
            LVT_TIMER_PERIODIC if self.initial != 0 => {
                let period_ns = u64::from(self.initial) * self.unit_ns();
                self.base_ns = expiry_ns + (now_ns - expiry_ns) / period_ns * period_ns;
                self.count = self.initial;
            }
            _ => self.running = false,
        }
        true
    }

    /// The current count register. The timer is settled.
    pub fn current(&self, now_ns: u64, lvt: u32) -> u32 {
        if !self.running || lvt & LVT_TIMER_MODE == LVT_TIMER_DEADLINE {
            return 0;
        }
        let elapsed = now_ns.saturating_sub(self.base_ns) / self.unit_ns();
        u64::from(self.count).saturating_sub(elapsed) as u32
    }

    /// A write to the initial count register; 0 stops the timer.
    pub fn start(&mut self, now_ns: u64, initial: u32) {
        self.initial = initial;
        self.count = initial;
        self.base_ns = now_ns;
        self.running = initial != 0;
    }

    /// A write to the divide configuration register: the count goes on from where it is, at the new speed.
    pub fn set_divide(&mut self, now_ns: u64, divide: u8, lvt: u32) {
        if self.running {
            self.count = self.current(now_ns, lvt);
            self.base_ns = now_ns;
        }
        self.divide = divide;
    }

    /// The LVT entry is written. Between one-shot and periodic the count goes on; a change to or from TSC
    /// deadline disarms both (11.5.4.1).
    pub fn change_mode(&mut self, before: u32, after: u32) {
        let deadline = |lvt: u32| lvt & LVT_TIMER_MODE == LVT_TIMER_DEADLINE;
        if deadline(before) != deadline(after) {
            self.running = false;
            self.initial = 0;
            self.tsc_deadline = 0;
        }
    }
}
