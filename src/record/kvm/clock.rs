//! Guest time under KVM: the host's, while the guest runs.
//!
//! What the guest halts through is skipped or slept by the live world as in the emulator, and does not count here. A
//! host on which KVM executes the guest's kernel by software makes a machine a hundred times slower than its clocks
//! suggest; there, guest time passes slower by as much, so that the guest does not drown in timer interrupts.

use crate::tick::{NS_PER_TICK, Tick};
use std::time::{Duration, Instant};

/// A stopwatch whose unit is the live world's tick.
pub struct HostClock {
    ran: Duration,
    since: Instant,
    slowdown: u32,
}

impl HostClock {
    /// A running clock at 0; guest time passes `slowdown` times as slow as the host's.
    pub fn new(slowdown: u32) -> HostClock {
        HostClock {
            ran: Duration::ZERO,
            since: Instant::now(),
            slowdown: slowdown.max(1),
        }
    }

    /// The live world's tick now.
    pub fn now(&self) -> Tick {
        let ns = (self.ran + self.since.elapsed()).as_nanos() as u64;
        ns / u64::from(self.slowdown) / NS_PER_TICK
    }

    /// How long the host needs for so many of these ticks.
    pub fn host_time(&self, ticks: Tick) -> Duration {
        Duration::from_nanos(
            ticks
                .saturating_mul(NS_PER_TICK)
                .saturating_mul(self.slowdown.into()),
        )
    }

    /// Does something while the clock stands.
    pub fn stopped<T>(&mut self, act: impl FnOnce() -> T) -> T {
        self.ran += self.since.elapsed();
        let answer = act();
        self.since = Instant::now();
        answer
    }
}
