//! The 8254 programmable interval timer (Intel 8254 data sheet, order number 231164-005) and system control port B,
//! port 0x61, which holds the gate of counter 2 (Intel 82371SB data sheet, 2.5.6 "NSC").
//!
//! Modelled: all three counters in all six modes, binary and BCD, counter latch and read-back commands, the two-byte
//! flip-flops, gates, null count. Counter 0 drives IRQ0, counter 2 shows in port 0x61. A counter is a function of the
//! time since it was loaded: nothing is done per clock, and nothing drifts.
//!
//! Deliberately not: the sound of the speaker, and parity and channel-check errors in port 0x61.

mod counter;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::device::{BadState, Device, Effects, ensure};
use crate::map::{IRQ_PIT, PIT_HZ};
use counter::{Access, Counter};

/// Registers as the board numbers them: the three counters, the control word, and port 0x61.
pub(crate) const CONTROL: u16 = 3;
pub(crate) const PORT_B: u16 = 4;

const PORT_B_GATE2: u8 = 1 << 0;
const PORT_B_WRITABLE: u8 = 0x0f;
const PORT_B_REFRESH: u8 = 1 << 4;
const PORT_B_OUT2: u8 = 1 << 5;
/// The memory refresh request toggles every 18 clocks (15 µs).
const REFRESH_CLOCKS: i64 = 18;

const READ_BACK: u8 = 3;
const READ_BACK_NO_COUNT: u8 = 1 << 5;
const READ_BACK_NO_STATUS: u8 = 1 << 4;

const CLOCK: Clock = Clock { hz: PIT_HZ };

/// The saved state of the timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PitState {
    counters: [Counter; 3],
    port_b: u8,
    /// The clock up to which counter 0's output was carried to IRQ0.
    settled: i64,
    /// The level that IRQ0 was last driven to.
    line: bool,
}

/// The timer.
pub(crate) struct Pit {
    s: PitState,
}

/// Clocks since power-on. They stay far from the limits of the type: 2^64 ns are 2^55 clocks.
fn clocks(now_ns: u64) -> i64 {
    CLOCK.ticks_at(now_ns) as i64
}

impl Pit {
    /// As firmware leaves it: counter 0 at 18.2 Hz, counter 1 refreshing, counter 2 silent.
    pub fn new() -> Pit {
        let mut counters = [Counter::new(true), Counter::new(true), Counter::new(false)];
        counters[0].set_mode(Access::Both, 3, false);
        counters[0].load(0, 0);
        counters[1].set_mode(Access::Low, 2, false);
        counters[1].load(0, 18);
        counters[2].set_mode(Access::Both, 3, false);
        let line = counters[0].out(0);
        Pit {
            s: PitState {
                counters,
                port_b: 0,
                settled: 0,
                line,
            },
        }
    }

    /// The level of IRQ0 at power-on, which is no edge.
    pub fn line(&self) -> bool {
        self.s.line
    }

    /// Carries what counter 0's output did since the last time to IRQ0. However often it rose, it is one edge:
    /// nobody has listened in between.
    fn settle(&mut self, clock: i64, out: &mut Effects) {
        let s = &mut self.s;
        let changed = s.counters[0]
            .next_change(s.settled)
            .is_some_and(|at| at <= clock);
        for counter in &mut s.counters {
            counter.settle(clock);
        }
        s.settled = s.settled.max(clock);
        let level = s.counters[0].out(clock);
        if level == s.line && changed {
            out.line(IRQ_PIT, !level);
        }
        if level != s.line || changed {
            out.line(IRQ_PIT, level);
        }
        s.line = level;
    }

    /// A programmed change of counter 0's output.
    fn drive(&mut self, clock: i64, out: &mut Effects) {
        let level = self.s.counters[0].out(clock);
        if level != self.s.line {
            self.s.line = level;
            out.line(IRQ_PIT, level);
        }
    }

    fn write_control(&mut self, clock: i64, value: u8) {
        let select = value >> 6;
        if select == READ_BACK {
            for (i, counter) in self.s.counters.iter_mut().enumerate() {
                if value & (2 << i) != 0 {
                    if value & READ_BACK_NO_COUNT == 0 {
                        counter.latch_count(clock);
                    }
                    if value & READ_BACK_NO_STATUS == 0 {
                        counter.latch_status(clock);
                    }
                }
            }
            return;
        }
        let counter = &mut self.s.counters[usize::from(select)];
        let access = match value >> 4 & 3 {
            0 => return counter.latch_count(clock),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        // Bit 2 of the mode does not count for modes 2 and 3 (figure 7).
        let mode = match value >> 1 & 7 {
            mode @ (6 | 7) => mode & 3,
            mode => mode,
        };
        counter.set_mode(access, mode, value & 1 != 0);
    }

    fn read_port_b(&self, clock: i64) -> u8 {
        let mut value = self.s.port_b;
        if (clock / REFRESH_CLOCKS) & 1 != 0 {
            value |= PORT_B_REFRESH;
        }
        if self.s.counters[2].out(clock) {
            value |= PORT_B_OUT2;
        }
        value
    }
}

impl Device for Pit {
    type State = PitState;

    fn read(&mut self, now_ns: u64, reg: u16, _size: u8, out: &mut Effects) -> u32 {
        let clock = clocks(now_ns);
        self.settle(clock, out);
        let value = match reg {
            0..=2 => self.s.counters[usize::from(reg)].read(clock),
            PORT_B => self.read_port_b(clock),
            // The control word cannot be read.
            _ => 0xff,
        };
        value.into()
    }

    fn write(&mut self, now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        let clock = clocks(now_ns);
        self.settle(clock, out);
        let value = value as u8;
        match reg {
            0..=2 => self.s.counters[usize::from(reg)].write(clock, value),
            CONTROL => self.write_control(clock, value),
            PORT_B => {
                self.s.port_b = value & PORT_B_WRITABLE;
                self.s.counters[2].set_gate(clock, value & PORT_B_GATE2 != 0);
            }
            _ => {}
        }
        self.drive(clock, out);
    }

    fn advance(&mut self, now_ns: u64, out: &mut Effects) {
        self.settle(clocks(now_ns), out);
    }

    fn deadline_ns(&self) -> Option<u64> {
        let change = self.s.counters[0].next_change(self.s.settled)?;
        Some(CLOCK.ns_of(change as u64))
    }

    fn save(&self) -> PitState {
        let Pit { s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &PitState) -> Result<(), BadState> {
        let PitState {
            counters,
            port_b: _,
            settled,
            line: _,
        } = state;
        ensure(
            counters.iter().all(Counter::is_sound),
            "PIT",
            "a count or a time out of range",
        )?;
        ensure(
            (0..=counter::CLOCK_MAX).contains(settled),
            "PIT",
            "a time out of range",
        )?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
