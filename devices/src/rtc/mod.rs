//! The real-time clock and its CMOS RAM (Motorola MC146818A data sheet, ADI1026; century and memory-size bytes as
//! in the IBM PC AT Technical Reference, "CMOS RAM", and as SeaBIOS and QEMU have them).
//!
//! Modelled: time and calendar in BCD and binary, 12 and 24 hours, SET and the divider reset, update in progress,
//! periodic, alarm and update-ended interrupts on IRQ8, 128 bytes of RAM.
//!
//! Deliberately not: daylight saving (its bit is stored), the square-wave output, and the update cycle's length:
//! an update takes no time, but is announced 244 µs ahead by UIP as on the chip.
//!
//! The time is the configured epoch plus guest time. Nothing is done per second: flags are worked out when asked.

mod calendar;

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Device, Effects, ensure};
use crate::map::{IRQ_RTC, NS_PER_S, PCI_HOLE};
use calendar::{DAY_S, Date};

/// Registers as the board numbers them: the index port and the data port.
pub(crate) const INDEX: u16 = 0;
pub(crate) const DATA: u16 = 1;

const RAM_BYTES: usize = 128;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: usize = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: usize = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: usize = 0x05;
const DAY_OF_WEEK: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
pub(crate) const CENTURY: u8 = 0x32;
/// Registers that show the time, in the order of [`Rtc::encode`].
const TIME: [u8; 8] = [
    SECONDS,
    MINUTES,
    HOURS,
    DAY_OF_WEEK,
    DAY,
    MONTH,
    YEAR,
    CENTURY,
];

const A_UIP: u8 = 0x80;
/// Divider bits 110 and 111 hold the divider chain in reset.
const A_DIVIDER_RESET: u8 = 0x60;
const A_RATE: u8 = 0x0f;
const B_SET: u8 = 0x80;
/// The three enables of B have the places of the three flags of C.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const FLAGS: u8 = PERIODIC | ALARM | UPDATE;
const B_BINARY: u8 = 0x04;
const B_24_HOURS: u8 = 0x02;
const C_IRQF: u8 = 0x80;
const D_VALID: u8 = 0x80;
const HOUR_PM: u8 = 0x80;
const ALARM_ANY: u8 = 0xc0;

const UIP_AHEAD_NS: i64 = 244_000;
const SECOND_NS: i64 = NS_PER_S as i64;
/// The oscillator that the periodic rates are powers of two of.
const CRYSTAL_HZ: u32 = 32_768;

/// The saved state of the clock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcState {
    index: u8,
    a: u8,
    b: u8,
    /// The flags of register C, without IRQF.
    flags: u8,
    /// RAM, alarms, and the time registers while the clock stands still.
    ram: Vec<u8>,
    /// While it runs: it was `base_s` seconds after 1970 at `base_ns`, and seconds begin in steps from there. While
    /// it is SET, `base_ns` keeps the phase of the divider chain.
    base_s: i64,
    base_ns: i64,
    /// What the day of the week is ahead of the calendar's: a guest may set it as it likes.
    day_of_week_offset: u8,
    /// The time up to which the flags are worked out.
    settled_ns: i64,
    /// The level that IRQ8 was last driven to.
    line: bool,
}

/// The clock.
pub(crate) struct Rtc {
    s: RtcState,
}

/// Guest time as the signed number that differences are made of. It never wraps: 2^63 ns are 292 years.
fn signed(now_ns: u64) -> i64 {
    i64::try_from(now_ns).unwrap_or(i64::MAX)
}

impl Rtc {
    /// As firmware leaves it: running, BCD, 24 hours, memory sizes filled in.
    pub fn new(epoch_s: u64, ram_bytes: u64, cpus: usize) -> Rtc {
        let mut ram = vec![0; RAM_BYTES];
        let below = ram_bytes.min(PCI_HOLE.start);
        let above = ram_bytes - below;
        let kib_above_1m = (below.saturating_sub(1 << 20) >> 10).min(0xffff);
        let units_above_16m = (below.saturating_sub(16 << 20) >> 16).min(0xffff);
        for (at, value, bytes) in [
            (0x15, 640, 2),
            (0x17, kib_above_1m, 2),
            (0x30, kib_above_1m, 2),
            (0x34, units_above_16m, 2),
            (0x5b, above >> 16, 3),
            (0x5f, cpus as u64 - 1, 1),
        ] {
            ram[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        }
        // The year 9999 is the last that the registers can show.
        let base_s = epoch_s.min(253_402_300_799) as i64;
        let s = RtcState {
            index: 0,
            a: 0x26,
            b: B_24_HOURS,
            flags: 0,
            ram,
            base_s,
            base_ns: 0,
            day_of_week_offset: 0,
            settled_ns: 0,
            line: false,
        };
        Rtc { s }
    }

    fn divider_in_reset(&self) -> bool {
        self.s.a & A_DIVIDER_RESET == A_DIVIDER_RESET
    }

    fn running(&self) -> bool {
        self.s.b & B_SET == 0 && !self.divider_in_reset()
    }

    /// Whole seconds of the divider chain since `base_ns`.
    fn seconds_since_base(&self, ns: i64) -> i64 {
        ns.saturating_sub(self.s.base_ns).div_euclid(SECOND_NS)
    }

    fn time_s(&self, ns: i64) -> i64 {
        self.s.base_s.saturating_add(self.seconds_since_base(ns))
    }

    /// Guest time at which the clock begins to show `time_s`.
    fn ns_of_time(&self, time_s: i64) -> i64 {
        self.s.base_ns.saturating_add(
            time_s
                .saturating_sub(self.s.base_s)
                .saturating_mul(SECOND_NS),
        )
    }

    /// The periodic rate, or `None` when it is switched off (data sheet, table 5).
    fn periodic_hz(&self) -> Option<u32> {
        match self.s.a & A_RATE {
            _ if self.divider_in_reset() => None,
            0 => None,
            rate @ (1 | 2) => Some(CRYSTAL_HZ >> (rate + 6)),
            rate => Some(CRYSTAL_HZ >> (rate - 1)),
        }
    }

    /// Periods of the periodic interrupt since the divider chain's base: an exact fraction.
    fn periods(&self, ns: i64, hz: u32) -> i64 {
        let elapsed = i128::from(ns) - i128::from(self.s.base_ns);
        (elapsed * i128::from(hz)).div_euclid(i128::from(SECOND_NS)) as i64
    }

    /// Works the flags out up to now and drives the line.
    fn settle(&mut self, now_ns: u64, out: &mut Effects) {
        let now = signed(now_ns);
        let then = self.s.settled_ns;
        if now > then {
            if let Some(hz) = self.periodic_hz()
                && self.periods(now, hz) > self.periods(then, hz)
            {
                self.s.flags |= PERIODIC;
            }
            if self.running() && self.time_s(now) > self.time_s(then) {
                self.s.flags |= UPDATE;
                let alarm_due = self.s.flags & ALARM == 0
                    && self
                        .alarm_after(self.time_s(then))
                        .is_some_and(|at| at <= self.time_s(now));
                if alarm_due {
                    self.s.flags |= ALARM;
                }
            }
            self.s.settled_ns = now;
        }
        self.drive(out);
    }

    fn drive(&mut self, out: &mut Effects) {
        let line = self.s.flags & self.s.b & FLAGS != 0;
        if line != self.s.line {
            self.s.line = line;
            out.line(IRQ_RTC, line);
        }
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value as u8;
        if self.s.b & B_BINARY != 0 {
            value
        } else {
            ((value / 10) << 4) | (value % 10)
        }
    }

    fn decode(&self, byte: u8) -> i64 {
        if self.s.b & B_BINARY != 0 {
            byte.into()
        } else {
            i64::from(byte >> 4) * 10 + i64::from(byte & 15)
        }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.s.b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
        self.encode(twelve) | if hour >= 12 { HOUR_PM } else { 0 }
    }

    fn decode_hour(&self, byte: u8) -> i64 {
        if self.s.b & B_24_HOURS != 0 {
            return self.decode(byte);
        }
        self.decode(byte & !HOUR_PM) % 12 + if byte & HOUR_PM != 0 { 12 } else { 0 }
    }

    /// The time registers, in the order of [`TIME`].
    fn time_registers(&self, time_s: i64) -> [u8; 8] {
        let date = Date::from_epoch(time_s);
        // 1970-01-01 was a Thursday, and Sunday is 1.
        let day_of_week =
            (time_s.div_euclid(DAY_S) + 4 + i64::from(self.s.day_of_week_offset)).rem_euclid(7);
        [
            self.encode(date.second_of_day % 60),
            self.encode(date.second_of_day / 60 % 60),
            self.encode_hour(date.second_of_day / 3600),
            self.encode(day_of_week + 1),
            self.encode(date.day),
            self.encode(date.month),
            self.encode(date.year.rem_euclid(100)),
            self.encode(date.year.div_euclid(100).rem_euclid(100)),
        ]
    }

    /// The clock stops: what it shows stays in its registers.
    fn stop(&mut self, now: i64) {
        let registers = self.time_registers(self.time_s(now));
        for (reg, value) in TIME.into_iter().zip(registers) {
            self.s.ram[usize::from(reg)] = value;
        }
    }

    /// The clock starts from what is in its registers. Values that no clock shows are brought into range.
    fn start(&mut self, now: i64) {
        let reg = |reg: u8| self.s.ram[usize::from(reg)];
        let (hour, minute) = (
            self.decode_hour(reg(HOURS)).min(23),
            self.decode(reg(MINUTES)).min(59),
        );
        let date = Date {
            year: self.decode(reg(CENTURY)).min(99) * 100 + self.decode(reg(YEAR)).min(99),
            month: self.decode(reg(MONTH)).clamp(1, 12),
            day: self.decode(reg(DAY)).clamp(1, 31),
            second_of_day: hour * 3600 + minute * 60 + self.decode(reg(SECONDS)).min(59),
        };
        let time_s = date.to_epoch();
        let day_of_week = self.decode(reg(DAY_OF_WEEK)).clamp(1, 7) - 1;
        self.s.day_of_week_offset =
            (day_of_week - (time_s.div_euclid(DAY_S) + 4)).rem_euclid(7) as u8;
        self.s.base_ns += self.seconds_since_base(now) * SECOND_NS;
        self.s.base_s = time_s;
    }

    /// The first time after `time_s` at which the alarm goes off; `None` for an alarm that never does.
    fn alarm_after(&self, time_s: i64) -> Option<i64> {
        let wanted = |at: usize, decode: &dyn Fn(u8) -> i64| {
            let byte = self.s.ram[at];
            (byte < ALARM_ANY).then(|| decode(byte))
        };
        let hour_byte = self.s.ram[HOURS_ALARM];
        let hour = (hour_byte < ALARM_ANY).then(|| self.decode_hour(hour_byte));
        let minute = wanted(MINUTES_ALARM, &|byte| self.decode(byte));
        let second = wanted(SECONDS_ALARM, &|byte| self.decode(byte));
        let candidates = |wanted: Option<i64>, end: i64| {
            (0..end).filter(move |&v| wanted.is_none_or(|w| w == v))
        };
        for day in 0..=1 {
            let midnight = (time_s.div_euclid(DAY_S) + day) * DAY_S;
            for hour in candidates(hour, 24) {
                let hour_s = midnight + hour * 3600;
                for minute_s in candidates(minute, 60).map(|minute| hour_s + minute * 60) {
                    // Whole minutes that are over need no look at their seconds.
                    if minute_s + 59 > time_s
                        && let Some(second) =
                            candidates(second, 60).find(|second| minute_s + second > time_s)
                    {
                        return Some(minute_s + second);
                    }
                }
            }
        }
        None
    }

    fn read_data(&mut self, now: i64, out: &mut Effects) -> u8 {
        let index = self.s.index;
        match index {
            REG_A => {
                let ahead = now.saturating_sub(self.s.base_ns).rem_euclid(SECOND_NS)
                    >= SECOND_NS - UIP_AHEAD_NS;
                self.s.a | if self.running() && ahead { A_UIP } else { 0 }
            }
            REG_B => self.s.b,
            REG_C => {
                let flags = self.s.flags
                    | if self.s.flags & self.s.b != 0 {
                        C_IRQF
                    } else {
                        0
                    };
                self.s.flags = 0;
                self.drive(out);
                flags
            }
            REG_D => D_VALID,
            _ => match TIME.iter().position(|&reg| reg == index) {
                Some(at) if self.running() => self.time_registers(self.time_s(now))[at],
                _ => self.s.ram[usize::from(index)],
            },
        }
    }

    fn write_data(&mut self, now: i64, value: u8) {
        let index = self.s.index;
        match index {
            REG_A => {
                let (was_running, was_reset) = (self.running(), self.divider_in_reset());
                if was_running {
                    self.stop(now);
                }
                self.s.a = value & !A_UIP;
                if was_reset && !self.divider_in_reset() {
                    // The first update comes half a second after the divider is let go (data sheet, "DV").
                    self.s.base_ns = now - SECOND_NS / 2;
                }
                if self.running() {
                    self.start(now);
                }
            }
            REG_B => {
                // What stands in the registers is not converted when the coding changes.
                let was_running = self.running();
                let set = value & B_SET != 0;
                if was_running && set {
                    self.stop(now);
                }
                self.s.b = if set { value & !UPDATE } else { value };
                if !was_running && self.running() {
                    self.start(now);
                }
            }
            REG_C | REG_D => {}
            _ if TIME.contains(&index) && self.running() => {
                self.stop(now);
                self.s.ram[usize::from(index)] = value;
                self.start(now);
            }
            _ => self.s.ram[usize::from(index)] = value,
        }
    }
}

impl Device for Rtc {
    type State = RtcState;

    fn read(&mut self, now_ns: u64, reg: u16, _size: u8, out: &mut Effects) -> u32 {
        self.settle(now_ns, out);
        match reg {
            DATA => self.read_data(signed(now_ns), out).into(),
            // The index cannot be read.
            _ => 0xff,
        }
    }

    fn write(&mut self, now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        self.settle(now_ns, out);
        match reg {
            // Bit 7 masks NMI, of which the board has no source but processors.
            INDEX => self.s.index = value as u8 & 0x7f,
            DATA => self.write_data(signed(now_ns), value as u8),
            _ => {}
        }
        self.drive(out);
    }

    fn advance(&mut self, now_ns: u64, out: &mut Effects) {
        self.settle(now_ns, out);
    }

    fn deadline_ns(&self) -> Option<u64> {
        let s = &self.s;
        if s.line {
            return None;
        }
        let waiting = s.b & !s.flags;
        let periodic = self
            .periodic_hz()
            .filter(|_| waiting & PERIODIC != 0)
            .map(|hz| {
                let next = i128::from(self.periods(s.settled_ns, hz)) + 1;
                let hz = i128::from(hz);
                let after_base = (next * i128::from(SECOND_NS) + hz - 1).div_euclid(hz);
                i64::try_from(after_base + i128::from(s.base_ns)).unwrap_or(i64::MAX)
            });
        let now_s = self.time_s(s.settled_ns);
        let running = self.running();
        let update = (running && waiting & UPDATE != 0).then(|| self.ns_of_time(now_s + 1));
        let alarm = (running && waiting & ALARM != 0)
            .then(|| self.alarm_after(now_s))
            .flatten()
            .map(|at| self.ns_of_time(at));
        [periodic, update, alarm]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(0) as u64)
    }

    fn save(&self) -> RtcState {
        let Rtc { s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &RtcState) -> Result<(), BadState> {
        const DEVICE: &str = "real-time clock";
        ensure(
            state.ram.len() == RAM_BYTES && state.index < 128,
            DEVICE,
            "RAM of another size",
        )?;
        ensure(
            state.day_of_week_offset < 7,
            DEVICE,
            "a day of the week out of range",
        )?;
        ensure(state.settled_ns >= 0, DEVICE, "a time out of range")?;
        // Years 0 to 9999, and a base that is no later than half a second before the time of the state.
        let years = -62_167_219_200 - DAY_S..=253_402_300_799 + 31 * DAY_S;
        ensure(years.contains(&state.base_s), DEVICE, "a time out of range")?;
        ensure(
            (-SECOND_NS..=state.settled_ns).contains(&state.base_ns),
            DEVICE,
            "a time out of range",
        )?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
