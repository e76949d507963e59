//! One counter of the 8254 (data sheet, "Mode Definitions" and figures 15 to 20).
//!
//! Time is in clocks of the counter since power-on. A count written during clock t is in the counting element from
//! clock t + 1 on, as the data sheet's waveforms show it.

use serde::{Deserialize, Serialize};

/// No clock of a real run comes near this; states beyond it are refused.
pub(super) const CLOCK_MAX: i64 = 1 << 60;

/// Which bytes of the count go through the counter's one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Access {
    Low,
    High,
    Both,
}

/// The counting element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// A control word, and no count (or no trigger) since.
    Idle,
    /// The element held `count` at clock `start`, and counts.
    Counting { start: i64, count: i64 },
    /// The gate holds it at this value.
    Held { value: i64 },
}

/// A count that takes over at a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Next {
    at: i64,
    count: i64,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    mode: u8,
    bcd: bool,
    access: Access,
    gate: bool,
    phase: Phase,
    /// The count register: what is loaded next, 1 to 65536. 0 before anything was written.
    count: i64,
    /// Modes 2 and 3: a count that takes over at the end of the period (or half of it).
    next: Option<Next>,
    /// Modes 0, 1, 4 and 5: what happens once has happened.
    fired: bool,
    /// Modes 1 and 5: a count was written and waits for the gate's edge.
    waits: bool,
    /// The low byte of a count of which the high byte is still to come.
    low_written: Option<u8>,
    /// The low byte has been read and the high byte comes next.
    high_next: bool,
    latched_count: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    pub fn new(gate: bool) -> Counter {
        Counter {
            mode: 0,
            bcd: false,
            access: Access::Both,
            gate,
            phase: Phase::Idle,
            count: 0,
            next: None,
            fired: false,
            waits: false,
            low_written: None,
            high_next: false,
            latched_count: None,
            latched_status: None,
        }
    }

    /// A control word.
    pub fn set_mode(&mut self, access: Access, mode: u8, bcd: bool) {
        *self = Counter {
            mode,
            bcd,
            access,
            ..Counter::new(self.gate)
        };
    }

    fn modulus(&self) -> i64 {
        if self.bcd { 10_000 } else { 65_536 }
    }

    /// The clocks that OUT is high in a period of mode 3.
    fn high_half(count: i64) -> i64 {
        (count + 1) / 2
    }

    /// Brings counter to `clock`: what happens once happens, periods that are over are left behind.
    pub fn settle(&mut self, clock: i64) {
        let Phase::Counting {
            mut start,
            mut count,
        } = self.phase
        else {
            return;
        };
        if clock < start {
            return;
        }
        match self.mode {
            0 | 1 => self.fired |= clock >= start + count,
            2 | 3 => {
                if let Some(next) = self.next.filter(|next| clock >= next.at) {
                    // Taken over at the end of the high half, the low half is the new count's.
                    let in_half = next.at < start + count;
                    start = if in_half {
                        next.at - Self::high_half(next.count)
                    } else {
                        next.at
                    };
                    count = next.count;
                    self.next = None;
                }
                start += (clock - start) / count * count;
                self.phase = Phase::Counting { start, count };
            }
            _ => self.fired |= clock > start + count,
        }
    }

    /// OUT.
    pub fn out(&self, clock: i64) -> bool {
        let (start, count) = match self.phase {
            Phase::Counting { start, count } => (start, count),
            Phase::Idle | Phase::Held { .. } if self.mode == 0 => return self.fired,
            Phase::Idle | Phase::Held { .. } => return true,
        };
        let elapsed = clock - start;
        match self.mode {
            0 => self.fired || elapsed >= count,
            1 => self.fired || elapsed < 0 || elapsed >= count,
            2 => elapsed < 0 || elapsed % count != count - 1,
            3 => elapsed < 0 || elapsed % count < Self::high_half(count),
            _ => self.fired || elapsed != count,
        }
    }

    /// The first clock after `clock` at which OUT changes by itself. The counter is settled at `clock`.
    pub fn next_change(&self, clock: i64) -> Option<i64> {
        let Phase::Counting { start, count } = self.phase else {
            return None;
        };
        let period = start + (clock - start).max(0) / count.max(1) * count;
        let candidates = match self.mode {
            0 if !self.fired => [start + count, 0],
            1 if !self.fired => [start, start + count],
            4 | 5 if !self.fired => [start + count, start + count + 1],
            2 => [period + count - 1, period + count],
            3 => [period + Self::high_half(count), period + count],
            _ => return None,
        };
        candidates.into_iter().find(|&at| at > clock)
    }

    /// The counting element's value, 0 to 65535, before BCD coding.
    fn value(&self, clock: i64) -> i64 {
        let value = match self.phase {
            Phase::Idle => self.count,
            Phase::Held { value } => value,
            Phase::Counting { start, count } => {
                let elapsed = (clock - start).max(0);
                match self.mode {
                    2 => count - elapsed % count,
                    3 => {
                        let (at, high) = (elapsed % count, Self::high_half(count));
                        let even = count & !1;
                        even - 2 * if at < high { at } else { at - high }
                    }
                    _ => count - elapsed,
                }
            }
        };
        value.rem_euclid(self.modulus())
    }

    fn visible(&self, clock: i64) -> u16 {
        let value = self.value(clock);
        if !self.bcd {
            return value as u16;
        }
        [1000, 100, 10, 1]
            .iter()
            .fold(0, |bcd, unit| bcd << 4 | (value / unit % 10) as u16)
    }

    pub fn latch_count(&mut self, clock: i64) {
        // A second latch command before the first is read is ignored.
        if self.latched_count.is_none() {
            self.latched_count = Some(self.visible(clock));
        }
    }

    /// The status byte (figure 12).
    pub fn latch_status(&mut self, clock: i64) {
        if self.latched_status.is_some() {
            return;
        }
        let null = match self.phase {
            Phase::Idle => true,
            Phase::Counting { start, .. } => clock < start || self.next.is_some() || self.waits,
            Phase::Held { .. } => self.next.is_some(),
        };
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        let out = u8::from(self.out(clock));
        self.latched_status = Some(
            out << 7 | u8::from(null) << 6 | access << 4 | self.mode << 1 | u8::from(self.bcd),
        );
    }

    pub fn read(&mut self, clock: i64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self
            .latched_count
            .unwrap_or_else(|| self.visible(clock))
            .to_le_bytes();
        let high_now = match self.access {
            Access::Low => false,
            Access::High => true,
            Access::Both => {
                self.high_next = !self.high_next;
                !self.high_next
            }
        };
        if !self.high_next {
            self.latched_count = None;
        }
        if high_now { high } else { low }
    }

    pub fn write(&mut self, clock: i64, byte: u8) {
        let count = match self.access {
            Access::Low => u16::from(byte),
            Access::High => u16::from(byte) << 8,
            Access::Both => match self.low_written.take() {
                Some(low) => u16::from_le_bytes([low, byte]),
                None => {
                    self.low_written = Some(byte);
                    // The first byte of a new count stops mode 0 and drops OUT.
                    if self.mode == 0 {
                        self.fired = false;
                        self.phase = Phase::Idle;
                    }
                    return;
                }
            },
        };
        self.load(clock, count);
    }

    /// A whole count has been written.
    pub fn load(&mut self, clock: i64, written: u16) {
        let count = if self.bcd {
            (0..4).rev().fold(0, |count, digit| {
                count * 10 + i64::from(written >> (4 * digit) & 15)
            })
        } else {
            i64::from(written)
        };
        let mut count = if count == 0 { self.modulus() } else { count };
        if matches!(self.mode, 2 | 3) {
            // A count of 1 is illegal there (table "Minimum and Maximum Initial Counts").
            count = count.max(2);
        }
        self.count = count;
        let start = clock + 1;
        match self.mode {
            1 | 5 => self.waits = true,
            2 | 3 => match self.phase {
                Phase::Counting { start, count: old } if clock >= start => {
                    let high = Self::high_half(old);
                    let in_high = self.mode == 3 && clock - start < high;
                    self.next = Some(Next {
                        at: start + if in_high { high } else { old },
                        count,
                    });
                }
                _ if self.gate => self.phase = Phase::Counting { start, count },
                _ => self.phase = Phase::Held { value: count },
            },
            _ => {
                self.fired = false;
                self.phase = if self.gate {
                    Phase::Counting { start, count }
                } else {
                    Phase::Held { value: count }
                };
            }
        }
    }

    /// GATE (table "Gate Pin Operations Summary").
    pub fn set_gate(&mut self, clock: i64, gate: bool) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        match (self.mode, gate) {
            (0 | 4, true) => {
                if let Phase::Held { value } = self.phase {
                    self.phase = Phase::Counting {
                        start: clock,
                        count: value,
                    };
                }
            }
            (1 | 2 | 3 | 5, true) if self.count != 0 => {
                self.phase = Phase::Counting {
                    start: clock + 1,
                    count: self.count,
                };
                self.next = None;
                self.fired = false;
                self.waits = false;
            }
            (0 | 2 | 3 | 4, false) => {
                if let Phase::Counting { .. } = self.phase {
                    self.phase = Phase::Held {
                        value: self.value(clock),
                    };
                }
            }
            _ => {}
        }
    }

    /// Whether a saved counter is one that could have been.
    pub fn is_sound(&self) -> bool {
        let least = if matches!(self.mode, 2 | 3) { 2 } else { 0 };
        let in_range = |count: i64| (least..=65_536).contains(&count);
        let phase = match self.phase {
            Phase::Idle => true,
            Phase::Held { value } => (0..=65_536).contains(&value),
            Phase::Counting { start, count } => {
                in_range(count) && (-65_536..=CLOCK_MAX).contains(&start)
            }
        };
        let next = |next: Next| in_range(next.count) && (0..=CLOCK_MAX).contains(&next.at);
        self.mode <= 5 && phase && (0..=65_536).contains(&self.count) && self.next.is_none_or(next)
    }
}
