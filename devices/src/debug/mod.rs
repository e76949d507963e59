//! Ports for people who debug: the exit port of QEMU's `isa-debug-exit` device (QEMU, `hw/misc/debugexit.c`) and
//! the power-on self-test code at port 0x80 (IBM PC AT Technical Reference, "POST").
//!
//! Modelled: a write to the exit port ends the machine with its value. The last code of port 0x80 is kept for who
//! looks at the saved state; the port itself cannot be read.

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Device, Effects, Power};

/// Registers as the board numbers them: port 0x80, and the four ports of the exit device.
pub(crate) const POST: u16 = 0;
pub(crate) const EXIT: u16 = 1;

/// The saved state of the ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugState {
    post: u8,
}

/// The debug ports.
#[derive(Default)]
pub(crate) struct Debug {
    s: DebugState,
}

impl Device for Debug {
    type State = DebugState;

    fn read(&mut self, _now_ns: u64, reg: u16, _size: u8, _out: &mut Effects) -> u32 {
        if reg == POST { 0xff } else { 0 }
    }

    fn write(&mut self, _now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        match reg {
            POST => self.s.post = value as u8,
            _ => out.end(Power::DebugExit(value)),
        }
    }

    fn save(&self) -> DebugState {
        let Debug { s } = self;
        *s
    }

    fn restore(&mut self, state: &DebugState) -> Result<(), BadState> {
        self.s = *state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_qemus() {
        let (mut debug, mut out) = (Debug::default(), Effects::default());
        debug.write(0, POST, 1, 0x42, &mut out);
        assert_eq!(out.power, None);
        debug.write(0, EXIT, 4, 0x10, &mut out);
        assert_eq!(out.power, Some(Power::DebugExit(0x10)));
        assert_eq!(Power::DebugExit(0x10).debug_exit_status(), Some(33));
        assert_eq!(
            Power::DebugExit(u32::MAX).debug_exit_status(),
            Some(u32::MAX)
        );
    }
}
