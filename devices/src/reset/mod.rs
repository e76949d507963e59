//! The two reset ports of the chipset: the reset control register at 0xcf9 (Intel 82371SB data sheet, 2.5.9
//! "RC") and system control port A at 0x92 (IBM PS/2 Hardware Interface Technical Reference, "System Control
//! Port A").
//!
//! Deliberately not: the A20 gate masks nothing (address line 20 is always there; its bit reads as written), and
//! there is no difference between a hard and a soft reset: both end the run.

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Device, Effects, Power, ResetBy};

/// Registers as the board numbers them.
pub(crate) const PORT_92: u16 = 0;
pub(crate) const PORT_CF9: u16 = 1;

const PORT_92_RESET: u8 = 1 << 0;
const PORT_92_A20: u8 = 1 << 1;
const CF9_RESET_CPU: u8 = 1 << 2;
const CF9_HARD: u8 = 1 << 1;

/// The saved state of both ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetState {
    port_92: u8,
    port_cf9: u8,
}

/// The reset ports.
pub(crate) struct Reset {
    s: ResetState,
}

impl Reset {
    /// As firmware leaves them: address line 20 is on.
    pub fn new() -> Reset {
        Reset {
            s: ResetState {
                port_92: PORT_92_A20,
                port_cf9: 0,
            },
        }
    }
}

impl Device for Reset {
    type State = ResetState;

    fn read(&mut self, _now_ns: u64, reg: u16, _size: u8, _out: &mut Effects) -> u32 {
        u32::from(if reg == PORT_92 {
            self.s.port_92
        } else {
            self.s.port_cf9
        })
    }

    /// A reset happens when its bit goes from 0 to 1.
    fn write(&mut self, _now_ns: u64, reg: u16, _size: u8, value: u32, out: &mut Effects) {
        let value = value as u8;
        if reg == PORT_92 {
            if value & !self.s.port_92 & PORT_92_RESET != 0 {
                out.end(Power::Reset {
                    by: ResetBy::Port92,
                });
            }
            self.s.port_92 = value & (PORT_92_A20 | PORT_92_RESET);
        } else {
            if value & !self.s.port_cf9 & CF9_RESET_CPU != 0 {
                out.end(Power::Reset {
                    by: ResetBy::ResetControl,
                });
            }
            self.s.port_cf9 = value & (CF9_HARD | CF9_RESET_CPU);
        }
    }

    fn save(&self) -> ResetState {
        let Reset { s } = self;
        *s
    }

    fn restore(&mut self, state: &ResetState) -> Result<(), BadState> {
        self.s = *state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(writes: &[(u16, u32)]) -> Option<Power> {
        let (mut reset, mut out) = (Reset::new(), Effects::default());
        for &(reg, value) in writes {
            reset.write(0, reg, 1, value, &mut out);
        }
        out.power
    }

    #[test]
    fn rising_bits_reset() {
        assert_eq!(
            ends(&[(PORT_CF9, 2), (PORT_CF9, 6)]),
            Some(Power::Reset {
                by: ResetBy::ResetControl
            })
        );
        assert_eq!(
            ends(&[(PORT_92, 3)]),
            Some(Power::Reset {
                by: ResetBy::Port92
            })
        );
        assert_eq!(ends(&[(PORT_CF9, 2), (PORT_92, 2), (PORT_92, 0)]), None);
    }

    #[test]
    fn a20_reads_as_written() {
        let (mut reset, mut out) = (Reset::new(), Effects::default());
        assert_eq!(reset.read(0, PORT_92, 1, &mut out), 2);
        reset.write(0, PORT_92, 1, 0, &mut out);
        assert_eq!(reset.read(0, PORT_92, 1, &mut out), 0);
    }
}
