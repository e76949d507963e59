//! Hears what a guest says on COM1 without a serial port: for a replay, where port writes are known and no
//! device exists.

use serde::{Deserialize, Serialize};

use super::regs::{DATA, LCR, LCR_DLAB, MCR, MCR_LOOP};
use crate::map::COM1;

/// Follows the port writes of a guest and picks out the bytes that reach the serial line.
///
/// Two bits decide where a write to the data register goes: LCR.DLAB (to the divisor) and MCR loopback (back
/// to the receiver). Both start clear, as the port itself does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsoleTap {
    dlab: bool,
    looped: bool,
}

/// The bytes of one port write that reached the serial line: at most the access's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapBytes {
    bytes: [u8; 4],
    len: usize,
}

impl std::ops::Deref for TapBytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl ConsoleTap {
    /// A tap on a board that has just been switched on.
    pub fn new() -> ConsoleTap {
        ConsoleTap::default()
    }

    /// A tap on a board that has been running: LCR.DLAB and MCR loopback as they are there.
    pub fn resume(dlab: bool, looped: bool) -> ConsoleTap {
        ConsoleTap { dlab, looped }
    }

    /// LCR.DLAB: what goes to the data register is the divisor.
    pub fn dlab(&self) -> bool {
        self.dlab
    }

    /// MCR loopback: what is sent comes back to the receiver.
    pub fn looped(&self) -> bool {
        self.looped
    }

    /// The guest wrote `value` of `size` bytes to `port`. The ISA bus splits what is wider than a byte into
    /// ascending ports, exactly as the board does.
    pub fn write(&mut self, port: u16, size: u8, value: u32) -> TapBytes {
        let mut sent = TapBytes::default();
        for (i, byte) in value
            .to_le_bytes()
            .into_iter()
            .enumerate()
            .take(usize::from(size))
        {
            let Some(reg) = port
                .checked_add(i as u16)
                .and_then(|at| at.checked_sub(COM1))
            else {
                continue;
            };
            match reg {
                DATA if !self.dlab && !self.looped => {
                    sent.bytes[sent.len] = byte;
                    sent.len += 1;
                }
                LCR => self.dlab = byte & LCR_DLAB != 0,
                MCR => self.looped = byte & MCR_LOOP != 0,
                _ => {}
            }
        }
        sent
    }
}
