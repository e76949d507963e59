//! The IO-APIC (Intel 82093AA data sheet, order number 290566-001, section 3.2 "IOAPIC Registers").
//!
//! Modelled: the index and data window, 24 redirection entries, edge and level pins, remote IRR and the end of
//! interrupt that local APICs announce, fixed, lowest-priority, NMI and INIT delivery.
//!
//! Deliberately not: the pin polarity bit acts on nothing (every pin of the board is wired so that whatever
//! polarity the guest has been told is right), SMI, ExtINT (the PIC reaches the processor through LINT0), and
//! the arbitration ID of the serial bus.

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Delivery, Destination, Device, Effects, Message, ensure};

/// Register offsets in the IO-APIC's page.
pub(crate) const IOREGSEL: u16 = 0x00;
pub(crate) const IOWIN: u16 = 0x10;

/// Input pins.
pub(crate) const PINS: usize = 24;

const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
const FIRST_ENTRY: u8 = 0x10;
const LAST_ENTRY: u8 = FIRST_ENTRY + 2 * PINS as u8 - 1;
/// Version 0x11, and the index of the last entry.
const VERSION_VALUE: u32 = 0x11 | (PINS as u32 - 1) << 16;

const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery status (bit 12) always reads idle, and remote IRR is read-only.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The saved state of the IO-APIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoapicState {
    select: u8,
    id: u8,
    entries: [u64; PINS],
    /// Levels of the pins, a bit each.
    lines: u32,
}

/// The IO-APIC.
pub(crate) struct Ioapic {
    s: IoapicState,
}

impl Ioapic {
    /// After reset: all pins masked.
    pub fn new() -> Ioapic {
        Ioapic {
            s: IoapicState {
                select: 0,
                id: 0,
                entries: [MASKED; PINS],
                lines: 0,
            },
        }
    }

    /// Whether the pin can interrupt anybody.
    pub fn is_unmasked(&self, pin: usize) -> bool {
        self.s
            .entries
            .get(pin)
            .is_some_and(|entry| entry & MASKED == 0)
    }

    /// A pin changes. An edge at a masked pin is lost, as on the chip.
    pub fn set_line(&mut self, pin: usize, level: bool, out: &mut Effects) {
        if pin >= PINS || (self.s.lines >> pin & 1 != 0) == level {
            return;
        }
        self.s.lines ^= 1 << pin;
        let entry = self.s.entries[pin];
        if entry & LEVEL != 0 {
            self.serve_level(pin, out);
        } else if level && entry & MASKED == 0 {
            send(entry, out);
        }
    }

    /// Local APICs have finished a level-triggered interrupt of this vector: pins that are still up ask again.
    pub fn end_of_interrupt(&mut self, vector: u8, out: &mut Effects) {
        for pin in 0..PINS {
            let entry = &mut self.s.entries[pin];
            if *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.serve_level(pin, out);
            }
        }
    }

    /// A level-triggered pin asks once, and then not until the end of interrupt.
    fn serve_level(&mut self, pin: usize, out: &mut Effects) {
        let entry = &mut self.s.entries[pin];
        let up = self.s.lines >> pin & 1 != 0;
        if up && *entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL {
            send(*entry, out);
            // Only fixed and lowest-priority interrupts come to an end that is announced.
            if matches!(*entry >> 8 & 7, 0 | 1) {
                *entry |= REMOTE_IRR;
            }
        }
    }

    fn read_window(&self) -> u32 {
        match self.s.select {
            ID | ARBITRATION => u32::from(self.s.id) << 24,
            VERSION => VERSION_VALUE,
            select @ FIRST_ENTRY..=LAST_ENTRY => {
                let entry = self.s.entries[usize::from((select - FIRST_ENTRY) / 2)];
                if select & 1 == 0 {
                    entry as u32
                } else {
                    (entry >> 32) as u32
                }
            }
            _ => 0,
        }
    }

    fn write_window(&mut self, value: u32, out: &mut Effects) {
        match self.s.select {
            ID => self.s.id = (value >> 24) as u8 & 0xf,
            select @ FIRST_ENTRY..=LAST_ENTRY => {
                let pin = usize::from((select - FIRST_ENTRY) / 2);
                let old = self.s.entries[pin];
                let written = if select & 1 == 0 {
                    old & !0xffff_ffff | u64::from(value)
                } else {
                    old & 0xffff_ffff | u64::from(value) << 32
                };
                let mut entry = written & WRITABLE | old & REMOTE_IRR;
                // An edge-triggered entry has no remote IRR. Linux clears a stuck one by changing the mode.
                if entry & LEVEL == 0 {
                    entry &= !REMOTE_IRR;
                }
                self.s.entries[pin] = entry;
                self.serve_level(pin, out);
            }
            _ => {}
        }
    }
}

fn send(entry: u64, out: &mut Effects) {
    let id = (entry >> 56) as u8;
    let to = if entry & LOGICAL != 0 {
        Destination::Logical(id)
    } else {
        Destination::Physical(id)
    };
    match Delivery::from_bits((entry >> 8) as u32) {
        None | Some(Delivery::Startup) => {}
        Some(delivery) => {
            out.messages.push_back(Message {
                to,
                delivery,
                vector: entry as u8,
                level: entry & LEVEL != 0,
            });
        }
    }
}

impl Device for Ioapic {
    type State = IoapicState;

    fn read(&mut self, _now_ns: u64, reg: u16, _size: u8, _out: &mut Effects) -> u32 {
        match reg {
            IOREGSEL => self.s.select.into(),
            IOWIN => self.read_window(),
            _ => 0,
        }
    }

    fn write(&mut self, _now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        match reg {
            IOREGSEL => self.s.select = value as u8,
            IOWIN => self.write_window(value, out),
            _ => {}
        }
    }

    fn save(&self) -> IoapicState {
        let Ioapic { s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &IoapicState) -> Result<(), BadState> {
        let IoapicState {
            select: _,
            id,
            entries,
            lines,
        } = state;
        ensure(
            *id < 16 && lines >> PINS == 0,
            "IO-APIC",
            "an ID or a pin out of range",
        )?;
        let possible = WRITABLE | REMOTE_IRR;
        ensure(
            entries.iter().all(|entry| entry & !possible == 0),
            "IO-APIC",
            "reserved bits in an entry",
        )?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
