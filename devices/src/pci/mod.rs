//! The PCI bus: configuration mechanism 1 (PCI Local Bus Specification 2.2, 3.2.2.3.2), a host bridge and an ISA
//! bridge.
//!
//! Modelled: the address and data ports with all access sizes, absent devices (all ones), the configuration headers
//! of an Intel 82441FX host bridge (data sheet 290549-001, section 3.2) and an 82371SB ISA bridge (data sheet
//! 290550-002, section 2.2): identity, the writable command bits, and the chipset's own registers as bytes that read
//! back.
//!
//! Deliberately not: the chipset's own registers do nothing (no shadow RAM, no SMRAM, no PIRQ routing: no device on
//! this bus has an interrupt), and there are no base addresses to move.

use serde::{Deserialize, Serialize};

use crate::device::{BadState, Device, Effects, ensure};

/// Registers as the board numbers them: 0 to 3 is CONFIG_ADDRESS, 4 to 7 CONFIG_DATA.
pub(crate) const ADDRESS: u16 = 0;
const DATA_FIRST: u16 = 4;

const ADDRESS_ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function, and the register without its two low bits.
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;
const CONFIG_BYTES: usize = 256;

/// What is on the bus: a row per function.
struct Function {
    device: u8,
    /// Identity and fixed values: offset and bytes.
    fixed: &'static [(u8, &'static [u8])],
    /// Bytes that keep what is written, from and to, with the bits that do.
    writable: &'static [(u8, u8, u8)],
}

const FUNCTIONS: [Function; 2] = [
    Function {
        device: 0,
        fixed: &[
            (0x00, &[0x86, 0x80, 0x37, 0x12]), // 8086:1237
            (0x04, &[0x06, 0x00]),             // memory and bus master, always on
            (0x06, &[0x80, 0x02]),             // fast back-to-back, medium DEVSEL
            (0x08, &[0x02, 0x00, 0x00, 0x06]), // revision 2, host bridge
        ],
        writable: &[
            (0x04, 0x04, 0x40), // parity error response
            (0x05, 0x05, 0x01), // SERR# enable
            (0x0d, 0x0d, 0xf8), // latency timer
            (0x50, 0x71, 0xff), // PMC: paths, arbitration, PAM, DRAM rows
            (0x72, 0x72, 0x7f), // SMRAM control
            (0x90, 0x93, 0xff), // error and ROM control
        ],
    },
    Function {
        device: 1,
        fixed: &[
            (0x00, &[0x86, 0x80, 0x00, 0x70]), // 8086:7000
            (0x04, &[0x07, 0x00]),             // I/O, memory and bus master, always on
            (0x06, &[0x00, 0x02]),             // medium DEVSEL
            (0x08, &[0x00, 0x00, 0x01, 0x06]), // ISA bridge
            (0x4c, &[0x4d]),                   // ISA I/O recovery
            (0x4e, &[0x03, 0x00]),             // X-bus chip selects
            (0x60, &[0x80, 0x80, 0x80, 0x80]), // PIRQ A to D: not routed
            (0x69, &[0x02]),                   // top of memory
        ],
        writable: &[
            (0x05, 0x05, 0x01), // SERR# enable
            (0x4c, 0x4c, 0xff),
            (0x4e, 0x4f, 0xff),
            (0x60, 0x63, 0x8f),
            (0x69, 0x6a, 0xff),
            (0x82, 0x82, 0x0f), // deterministic latency: Linux sets passive release here
        ],
    },
];

/// The saved state of the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciState {
    address: u32,
    /// Configuration space of each function.
    config: Vec<Vec<u8>>,
}

/// The bus.
pub(crate) struct Pci {
    s: PciState,
}

impl Pci {
    /// As firmware leaves it.
    pub fn new() -> Pci {
        let config = FUNCTIONS
            .iter()
            .map(|function| {
                let mut config = vec![0; CONFIG_BYTES];
                for &(offset, bytes) in function.fixed {
                    let at = usize::from(offset);
                    config[at..at + bytes.len()].copy_from_slice(bytes);
                }
                config
            })
            .collect();
        Pci {
            s: PciState { address: 0, config },
        }
    }

    /// The function that the address register selects, as an index into the table.
    fn selected(&self) -> Option<usize> {
        let address = self.s.address;
        let bus_and_function = address & (0xff << 16 | 7 << 8);
        let device = (address >> 11 & 31) as u8;
        let enabled = address & ADDRESS_ENABLE != 0 && bus_and_function == 0;
        FUNCTIONS
            .iter()
            .position(|function| enabled && function.device == device)
    }

    /// The offsets in configuration space that an access to the data port is for.
    fn offsets(&self, reg: u16, size: u8) -> std::ops::Range<usize> {
        let at = (self.s.address & 0xfc) as usize + usize::from(reg - DATA_FIRST);
        at..at + usize::from(size)
    }
}

impl Device for Pci {
    type State = PciState;

    fn read(&mut self, _now_ns: u64, reg: u16, size: u8, _out: &mut Effects) -> u32 {
        if reg < DATA_FIRST {
            // Only as a whole: the bytes in between belong to other devices (0xcf9).
            return if reg == ADDRESS && size == 4 {
                self.s.address
            } else {
                u32::MAX
            };
        }
        let Some(bytes) = self
            .selected()
            .and_then(|at| self.s.config[at].get(self.offsets(reg, size)))
        else {
            return u32::MAX;
        };
        bytes
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u32::from(byte))
    }

    fn write(&mut self, _now_ns: u64, reg: u16, size: u8, value: u32, _out: &mut Effects) {
        if reg < DATA_FIRST {
            if reg == ADDRESS && size == 4 {
                self.s.address = value & ADDRESS_WRITABLE;
            }
            return;
        }
        let Some(at) = self.selected() else { return };
        for (offset, byte) in self.offsets(reg, size).zip(value.to_le_bytes()) {
            let mask = FUNCTIONS[at]
                .writable
                .iter()
                .find(|(first, last, _)| {
                    (usize::from(*first)..=usize::from(*last)).contains(&offset)
                })
                .map_or(0, |(_, _, mask)| *mask);
            if let Some(kept) = self.s.config[at].get_mut(offset) {
                *kept = *kept & !mask | byte & mask;
            }
        }
    }

    fn save(&self) -> PciState {
        let Pci { s } = self;
        s.clone()
    }

    fn restore(&mut self, state: &PciState) -> Result<(), BadState> {
        let PciState { address: _, config } = state;
        let sizes_fit =
            config.len() == FUNCTIONS.len() && config.iter().all(|c| c.len() == CONFIG_BYTES);
        ensure(sizes_fit, "PCI bus", "configuration space of another size")?;
        self.s = state.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(pci: &mut Pci, device: u32, offset: u32) {
        pci.write(
            0,
            ADDRESS,
            4,
            ADDRESS_ENABLE | device << 11 | offset,
            &mut Effects::default(),
        );
    }
    fn r(pci: &mut Pci, reg: u16, size: u8) -> u32 {
        pci.read(0, reg, size, &mut Effects::default())
    }
    fn w(pci: &mut Pci, reg: u16, size: u8, value: u32) {
        pci.write(0, reg, size, value, &mut Effects::default());
    }

    #[test]
    fn linux_finds_mechanism_1_and_two_bridges() {
        let mut pci = Pci::new();
        w(&mut pci, ADDRESS, 4, 0x8000_0000);
        assert_eq!(r(&mut pci, ADDRESS, 4), 0x8000_0000);
        let found: Vec<_> = (0..32)
            .filter_map(|device| {
                select(&mut pci, device, 0);
                Some((device, r(&mut pci, 4, 4))).filter(|(_, id)| *id != u32::MAX)
            })
            .collect();
        assert_eq!(found, [(0, 0x1237_8086), (1, 0x7000_8086)]);
        select(&mut pci, 1, 8);
        assert_eq!((r(&mut pci, 6, 2), r(&mut pci, 7, 1)), (0x0601, 0x06));
    }

    #[test]
    fn nothing_answers_elsewhere_or_unasked() {
        let mut pci = Pci::new();
        w(&mut pci, ADDRESS, 4, 0x0000_0000);
        assert_eq!(r(&mut pci, 4, 4), u32::MAX, "not enabled");
        w(&mut pci, ADDRESS, 4, 0x8001_0000);
        assert_eq!(r(&mut pci, 4, 4), u32::MAX, "bus 1");
        w(&mut pci, ADDRESS, 4, 0x8000_0100);
        assert_eq!(r(&mut pci, 4, 4), u32::MAX, "function 1");
        w(&mut pci, ADDRESS, 2, 0x1234);
        assert_eq!(
            r(&mut pci, ADDRESS, 4),
            0x8000_0100,
            "the address is written as a whole"
        );
    }

    #[test]
    fn only_what_is_writable_changes() {
        let mut pci = Pci::new();
        for offset in (0..0x100).step_by(4) {
            select(&mut pci, 0, offset);
            w(&mut pci, 4, 4, u32::MAX);
        }
        select(&mut pci, 0, 0);
        assert_eq!(r(&mut pci, 4, 4), 0x1237_8086);
        select(&mut pci, 0, 4);
        assert_eq!(r(&mut pci, 4, 4), 0x0280_0146);
        select(&mut pci, 0, 0x10);
        assert_eq!(r(&mut pci, 4, 4), 0, "no base addresses");
        select(&mut pci, 1, 0x82);
        w(&mut pci, 6, 1, 0x02);
        assert_eq!(r(&mut pci, 6, 1), 0x02);
    }
}
