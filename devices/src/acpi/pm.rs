//! The ACPI fixed hardware (ACPI Specification 4.0a, sections 4.7.2 and 4.7.3): PM1a event and control blocks, and the
//! power management timer.
//!
//! Modelled: status and enable bits of timer, global lock and power button with the SCI, power-off through SLP_TYP
//! and SLP_EN, the 24-bit timer. The machine is always in ACPI mode: there is no SMI command port to leave it with.
//!
//! Deliberately not: sleep states other than S5, general-purpose events, bus master status.

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::device::{BadState, Device, Effects, Power, ensure};
use crate::map::{IRQ_SCI, PM_TIMER_HZ};

/// SLP_TYP of the state S5, as the `_S5` object says.
pub(super) const SLP_TYP_S5: u8 = 5;

const TIMER: u16 = 1 << 0;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
/// The events that exist. They have the same places in status and enable.
const EVENTS: u16 = TIMER | GLOBAL | POWER_BUTTON;

const SCI_ENABLED: u16 = 1 << 0;
const SLP_ENABLE: u16 = 1 << 13;
/// BM_RLD and SLP_TYP; SCI_EN is fixed, and GBL_RLS and SLP_EN read 0.
const CONTROL_WRITABLE: u16 = 1 << 1 | 7 << 10;

const CLOCK: Clock = Clock { hz: PM_TIMER_HZ };
/// The timer has 24 bits; its event comes when the highest one changes.
const TIMER_MASK: u64 = 0xff_ffff;
const TIMER_HALF: u64 = 0x80_0000;

/// The saved state of the fixed hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PmState {
    status: u16,
    enable: u16,
    control: u16,
    /// The count of the timer up to which its status is worked out.
    settled: u64,
    /// The level that the SCI was last driven to.
    line: bool,
}

/// The fixed hardware.
pub(crate) struct Pm {
    s: PmState,
}

impl Pm {
    /// As firmware leaves it.
    pub fn new() -> Pm {
        Pm {
            s: PmState {
                status: 0,
                enable: 0,
                control: 0,
                settled: 0,
                line: false,
            },
        }
    }

    /// Somebody presses the power button.
    pub fn press_power_button(&mut self, out: &mut Effects) {
        self.s.status |= POWER_BUTTON;
        self.drive(out);
    }

    fn settle(&mut self, now_ns: u64, out: &mut Effects) {
        let count = CLOCK.ticks_at(now_ns);
        if count / TIMER_HALF != self.s.settled / TIMER_HALF {
            self.s.status |= TIMER;
        }
        self.s.settled = count;
        self.drive(out);
    }

    fn drive(&mut self, out: &mut Effects) {
        let line = self.s.status & self.s.enable & EVENTS != 0;
        if line != self.s.line {
            self.s.line = line;
            out.line(IRQ_SCI, line);
        }
    }

    fn write_control(&mut self, value: u16, out: &mut Effects) {
        self.s.control = value & CONTROL_WRITABLE;
        if value & SLP_ENABLE != 0 && value >> 10 & 7 == u16::from(SLP_TYP_S5) {
            out.end(Power::PowerOff);
        }
    }
}

/// Replaces one byte of a register.
fn with_byte(register: u16, high: bool, byte: u8) -> u16 {
    let [low_byte, high_byte] = register.to_le_bytes();
    u16::from_le_bytes(if high {
        [low_byte, byte]
    } else {
        [byte, high_byte]
    })
}

impl Device for Pm {
    type State = PmState;

    fn read(&mut self, now_ns: u64, reg: u16, size: u8, out: &mut Effects) -> u32 {
        self.settle(now_ns, out);
        let s = &self.s;
        let timer = s.settled & TIMER_MASK;
        let event = u64::from(s.status) | u64::from(s.enable) << 16;
        let control = u64::from(s.control | SCI_ENABLED);
        // The block as it lies in I/O space: 4 bytes of events, 2 of control and 2 of nothing, 4 of timer.
        let block = u128::from(event | control << 32) | u128::from(timer) << 64;
        (block >> (8 * u32::from(reg & 15))) as u32
            & (u32::MAX >> (32 - 8 * u32::from(size.clamp(1, 4))))
    }

    fn write(&mut self, now_ns: u64, reg: u16, size: u8, value: u32, out: &mut Effects) {
        self.settle(now_ns, out);
        for (reg, byte) in (reg..).zip(value.to_le_bytes()).take(usize::from(size)) {
            let high = reg & 1 != 0;
            match reg / 2 {
                0 => self.s.status &= !with_byte(0, high, byte),
                1 => self.s.enable = with_byte(self.s.enable, high, byte) & EVENTS,
                2 => self.write_control(with_byte(self.s.control, high, byte), out),
                // The timer cannot be written.
                _ => {}
            }
        }
        self.drive(out);
    }

    fn advance(&mut self, now_ns: u64, out: &mut Effects) {
        self.settle(now_ns, out);
    }

    fn deadline_ns(&self) -> Option<u64> {
        let waiting = self.s.enable & !self.s.status & TIMER != 0 && !self.s.line;
        waiting.then(|| {
            CLOCK.ns_of(
                (self.s.settled / TIMER_HALF)
                    .saturating_add(1)
                    .saturating_mul(TIMER_HALF),
            )
        })
    }

    fn save(&self) -> PmState {
        let Pm { s } = self;
        *s
    }

    fn restore(&mut self, state: &PmState) -> Result<(), BadState> {
        let possible = state.status & !EVENTS == 0 && state.enable & !EVENTS == 0;
        ensure(
            possible && state.control & !CONTROL_WRITABLE == 0,
            "ACPI hardware",
            "bits that it does not have",
        )?;
        self.s = *state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::NS_PER_S;

    fn r(pm: &mut Pm, now_ns: u64, reg: u16, bytes: u16, out: &mut Effects) -> u32 {
        (0..bytes).fold(0, |value, i| {
            value | pm.read(now_ns, reg + i, 1, out) << (8 * i)
        })
    }
    fn w16(pm: &mut Pm, reg: u16, value: u16, out: &mut Effects) {
        for (i, byte) in value.to_le_bytes().into_iter().enumerate() {
            pm.write(0, reg + i as u16, 1, byte.into(), out);
        }
    }

    #[test]
    fn the_timer_runs_at_its_exact_rate_and_wraps_at_24_bits() {
        let (mut pm, mut out) = (Pm::new(), Effects::default());
        assert_eq!(r(&mut pm, NS_PER_S, 8, 4, &mut out), 3_579_545);
        let hour_ns = 3600 * NS_PER_S;
        assert_eq!(
            r(&mut pm, hour_ns, 8, 4, &mut out),
            (3600 * 3_579_545 % (1u64 << 24)) as u32
        );
    }

    #[test]
    fn timer_event_comes_when_the_highest_bit_changes() {
        let (mut pm, mut out) = (Pm::new(), Effects::default());
        assert_eq!(pm.deadline_ns(), None);
        w16(&mut pm, 2, TIMER, &mut out);
        let at = pm.deadline_ns().expect("enabled");
        assert_eq!(at, 2_343_484_438);
        pm.advance(at - 1, &mut out);
        assert!(out.lines.is_empty());
        pm.advance(at, &mut out);
        assert_eq!(out.lines, [(IRQ_SCI, true)]);
        assert_eq!(pm.deadline_ns(), None);
        pm.write(at, 0, 1, TIMER.into(), &mut out);
        assert_eq!(out.lines, [(IRQ_SCI, true), (IRQ_SCI, false)]);
        assert_eq!(r(&mut pm, at, 0, 2, &mut out), 0);
    }

    #[test]
    fn acpi_is_on_and_s5_switches_off() {
        let (mut pm, mut out) = (Pm::new(), Effects::default());
        assert_eq!(r(&mut pm, 0, 4, 2, &mut out), 1);
        w16(&mut pm, 4, SLP_ENABLE, &mut out);
        w16(&mut pm, 4, u16::from(SLP_TYP_S5) << 10, &mut out);
        assert_eq!(out.power, None);
        assert_eq!(r(&mut pm, 0, 4, 2, &mut out), 0x1401);
        w16(
            &mut pm,
            4,
            u16::from(SLP_TYP_S5) << 10 | SLP_ENABLE,
            &mut out,
        );
        assert_eq!(out.power, Some(Power::PowerOff));
    }

    #[test]
    fn the_power_button_asks_through_the_sci() {
        let (mut pm, mut out) = (Pm::new(), Effects::default());
        pm.press_power_button(&mut out);
        assert!(out.lines.is_empty());
        w16(&mut pm, 2, POWER_BUTTON, &mut out);
        w16(&mut pm, 0, POWER_BUTTON, &mut out);
        assert_eq!(out.lines, [(IRQ_SCI, true), (IRQ_SCI, false)]);
    }
}
