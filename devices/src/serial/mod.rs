//! COM1: a 16550A serial port (National Semiconductor PC16550D data sheet, June 1995, section 8 "Registers").
//!
//! Modelled: all registers, the FIFOs with trigger levels and character timeout, the five interrupt sources
//! and their order, loopback with the modem lines crossed, and the PC's wiring of INTR through OUT2 (IBM PC AT
//! Technical Reference, "Serial/Parallel Adapter"), which loopback cuts off.
//!
//! Deliberately not: the time that a byte takes on the wire (a byte written to THR has left in the same
//! instant, and THRE is set again), parity, framing and break errors (the line is perfect), and DMA mode.
//! The baud rate only decides how long the character timeout is.

mod regs;
mod tap;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

pub use tap::{ConsoleTap, TapBytes};

use crate::device::{BadState, Device, Effects, ensure};
use crate::map::NS_PER_S;
use regs::*;

/// Depth of both FIFOs.
const FIFO_BYTES: usize = 16;
/// Input clock of the baud rate generator; the divisor's output is 16 times the baud rate (section 8.3).
const CRYSTAL_HZ: u64 = 1_843_200;
/// The far end of the cable is there, ready and has its carrier on.
const MODEM_LINES: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

/// The saved state of a serial port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    rx: VecDeque<u8>,
    overrun: bool,
    /// The THRE interrupt: raised when THR runs empty, cleared by reading it in IIR or by writing THR.
    thre_pending: bool,
    /// The four delta bits of MSR.
    msr_delta: u8,
    /// When a character last came in or was read: the character timeout counts from here.
    rx_activity_ns: u64,
    timeout_pending: bool,
    /// The level that INTR was last driven to.
    line: bool,
}

/// A 16550A.
pub(crate) struct Serial {
    irq: u8,
    s: SerialState,
}

impl Serial {
    /// As firmware leaves it: 9600 baud, 8 bits, no parity, everything off.
    pub fn new(irq: u8) -> Serial {
        let s = SerialState {
            ier: 0,
            fcr: 0,
            lcr: LCR_WORD_LENGTH,
            mcr: 0,
            scr: 0,
            divisor: 12,
            rx: VecDeque::with_capacity(FIFO_BYTES),
            overrun: false,
            thre_pending: false,
            msr_delta: 0,
            rx_activity_ns: 0,
            timeout_pending: false,
            line: false,
        };
        Serial { irq, s }
    }

    /// Characters arrive from the far end; as many are taken as there is room for. In loopback the line is cut
    /// off, and the sender keeps them.
    pub fn receive(&mut self, now_ns: u64, bytes: &[u8], out: &mut Effects) -> usize {
        if self.looped() {
            return 0;
        }
        let taken = bytes
            .len()
            .min(self.capacity().saturating_sub(self.s.rx.len()));
        if taken > 0 {
            self.s.rx.extend(&bytes[..taken]);
            self.s.rx_activity_ns = now_ns;
            self.drive(out);
        }
        taken
    }

    /// A tap that follows the port's writes from here on.
    pub fn tap(&self) -> ConsoleTap {
        ConsoleTap::resume(self.s.lcr & LCR_DLAB != 0, self.looped())
    }

    fn looped(&self) -> bool {
        self.s.mcr & MCR_LOOP != 0
    }

    fn fifo_enabled(&self) -> bool {
        self.s.fcr & FCR_ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo_enabled() { FIFO_BYTES } else { 1 }
    }

    /// Characters in the FIFO that raise "received data available" (FCR bits 6 and 7).
    fn trigger(&self) -> usize {
        if self.fifo_enabled() {
            [1, 4, 8, 14][usize::from((self.s.fcr & FCR_TRIGGER) >> 6)]
        } else {
            1
        }
    }

    /// Four characters' time at the programmed rate and frame (section 8.11). A divisor of 0 divides by 65536.
    fn timeout_ns(&self) -> u64 {
        let lcr = self.s.lcr;
        let frame_bits = 1 // start
            + 5 + u64::from(lcr & LCR_WORD_LENGTH)
            + u64::from(lcr & LCR_PARITY != 0)
            + if lcr & LCR_STOP != 0 { 2 } else { 1 };
        let divisor = if self.s.divisor == 0 {
            65536
        } else {
            u64::from(self.s.divisor)
        };
        (4 * frame_bits * 16 * divisor * NS_PER_S).div_ceil(CRYSTAL_HZ)
    }

    /// Whether the character timeout is running, and until when.
    fn timeout_at_ns(&self) -> Option<u64> {
        let running = self.fifo_enabled() && !self.s.rx.is_empty() && !self.s.timeout_pending;
        running.then(|| self.s.rx_activity_ns.saturating_add(self.timeout_ns()))
    }

    /// The interrupt that IIR shows: the enabled source of the highest priority (section 8.6, table III).
    fn source(&self) -> u8 {
        let s = &self.s;
        if s.ier & IER_LINE != 0 && s.overrun {
            IIR_LINE
        } else if s.ier & IER_RDA != 0 && s.rx.len() >= self.trigger() {
            IIR_RDA
        } else if s.ier & IER_RDA != 0 && s.timeout_pending {
            IIR_TIMEOUT
        } else if s.ier & IER_THRE != 0 && s.thre_pending {
            IIR_THRE
        } else if s.ier & IER_MODEM != 0 && s.msr_delta != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn drive(&mut self, out: &mut Effects) {
        let wired = self.s.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        let line = wired && self.source() != IIR_NONE;
        if line != self.s.line {
            self.s.line = line;
            out.line(self.irq, line);
        }
    }

    fn lsr(&self) -> u8 {
        let mut lsr = LSR_THRE | LSR_TEMT;
        if !self.s.rx.is_empty() {
            lsr |= LSR_DR;
        }
        if self.s.overrun {
            lsr |= LSR_OE;
        }
        lsr
    }

    /// The modem lines: the far end's, or in loopback our own outputs crossed over (section 8.7).
    fn modem_lines(&self) -> u8 {
        if !self.looped() {
            return MODEM_LINES;
        }
        [
            (MCR_RTS, MSR_CTS),
            (MCR_DTR, MSR_DSR),
            (MCR_OUT1, MSR_RI),
            (MCR_OUT2, MSR_DCD),
        ]
        .iter()
        .filter(|(output, _)| self.s.mcr & output != 0)
        .fold(0, |lines, (_, input)| lines | input)
    }

    fn read_data(&mut self, now_ns: u64) -> u8 {
        let byte = self.s.rx.pop_front().unwrap_or(0);
        self.s.rx_activity_ns = now_ns;
        self.s.timeout_pending = false;
        byte
    }

    fn transmit(&mut self, now_ns: u64, byte: u8, out: &mut Effects) {
        // The write clears the THRE interrupt, and the byte's leaving raises it again: an edge on the line.
        self.s.thre_pending = false;
        self.drive(out);
        if !self.looped() {
            out.console.push(byte);
        } else if self.s.rx.len() < self.capacity() {
            self.s.rx.push_back(byte);
            self.s.rx_activity_ns = now_ns;
        } else {
            self.s.overrun = true;
        }
        self.s.thre_pending = true;
    }

    fn write_fcr(&mut self, now_ns: u64, value: u8) {
        let toggled = (value ^ self.s.fcr) & FCR_ENABLE != 0;
        if toggled || value & FCR_CLEAR_RX != 0 {
            self.s.rx.clear();
            self.s.timeout_pending = false;
            self.s.rx_activity_ns = now_ns;
        }
        self.s.fcr = if value & FCR_ENABLE != 0 {
            value & FCR_STORED
        } else {
            0
        };
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_lines();
        self.s.mcr = value & MCR_WRITABLE;
        let after = self.modem_lines();
        let changed = (before ^ after) & !MSR_RI;
        self.s.msr_delta |= changed >> 4;
        if before & !after & MSR_RI != 0 {
            self.s.msr_delta |= MSR_TERI;
        }
    }
}

impl Device for Serial {
    type State = SerialState;

    fn read(&mut self, now_ns: u64, reg: u16, _size: u8, out: &mut Effects) -> u32 {
        let dlab = self.s.lcr & LCR_DLAB != 0;
        let [divisor_low, divisor_high] = self.s.divisor.to_le_bytes();
        let value = match reg {
            DATA if dlab => divisor_low,
            DATA => self.read_data(now_ns),
            IER if dlab => divisor_high,
            IER => self.s.ier,
            IIR_FCR => {
                let source = self.source();
                if source == IIR_THRE {
                    self.s.thre_pending = false;
                }
                if self.fifo_enabled() {
                    source | IIR_FIFO
                } else {
                    source
                }
            }
            LCR => self.s.lcr,
            MCR => self.s.mcr,
            LSR => {
                let lsr = self.lsr();
                self.s.overrun = false;
                lsr
            }
            MSR => {
                let msr = self.modem_lines() | self.s.msr_delta;
                self.s.msr_delta = 0;
                msr
            }
            SCR => self.s.scr,
            _ => 0xff,
        };
        self.drive(out);
        value.into()
    }

    fn write(&mut self, now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        let value = value as u8;
        let dlab = self.s.lcr & LCR_DLAB != 0;
        let [divisor_low, divisor_high] = self.s.divisor.to_le_bytes();
        match reg {
            DATA if dlab => self.s.divisor = u16::from_le_bytes([value, divisor_high]),
            DATA => self.transmit(now_ns, value, out),
            IER if dlab => self.s.divisor = u16::from_le_bytes([divisor_low, value]),
            IER => {
                // Enabling the THRE interrupt while THR is empty, which it always is, raises it.
                if value & !self.s.ier & IER_THRE != 0 {
                    self.s.thre_pending = true;
                }
                self.s.ier = value & IER_WRITABLE;
            }
            IIR_FCR => self.write_fcr(now_ns, value),
            LCR => self.s.lcr = value,
            MCR => self.write_mcr(value),
            SCR => self.s.scr = value,
            // LSR is for reading only (section 8.4: writing is for factory testing); so is MSR here.
            _ => {}
        }
        self.drive(out);
    }

    fn advance(&mut self, now_ns: u64, out: &mut Effects) {
        if self.timeout_at_ns().is_some_and(|at| at <= now_ns) {
            self.s.timeout_pending = true;
            self.drive(out);
        }
    }

    fn deadline_ns(&self) -> Option<u64> {
        // Without the interrupt enabled, or with the line already up, nobody sees the timeout come.
        let seen = self.s.ier & IER_RDA != 0 && !self.s.line;
        self.timeout_at_ns().filter(|_| seen)
    }

    fn save(&self) -> SerialState {
        let Serial { irq: _, s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &SerialState) -> Result<(), BadState> {
        ensure(
            state.rx.len() <= FIFO_BYTES,
            "serial port",
            "more characters than the FIFO holds",
        )?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
