//! What a device is, and what it may do to the rest of the board.
//!
//! A device is plain data. It is given the guest time with every access, answers at once, and writes what it
//! does to the outside (its interrupt line, messages on the APIC bus, bytes for the console) into [`Effects`],
//! which the board then carries to where it belongs. No device holds a callback, a lock or a host handle.

use std::collections::VecDeque;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a saved state cannot be this device's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("saved state of the {device}: {what}")]
pub struct BadState {
    /// The device that refused it.
    pub device: &'static str,
    /// What is wrong with it.
    pub what: &'static str,
}

/// Checks one thing about a saved state.
pub(crate) fn ensure(good: bool, device: &'static str, what: &'static str) -> Result<(), BadState> {
    if good {
        Ok(())
    } else {
        Err(BadState { device, what })
    }
}

/// A device on the board.
///
/// Registers are numbered by the device: for a device at I/O ports, the offset into its range as its module
/// says. `now_ns` is guest time in nanoseconds since power-on and never goes back.
pub(crate) trait Device {
    /// Everything that a restored device needs to go on as if nothing had happened.
    type State: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug;

    /// The guest reads a register. Devices of byte-wide registers are only asked for single bytes.
    fn read(&mut self, now_ns: u64, reg: u16, size: u8, out: &mut Effects) -> u32;
    /// The guest writes a register.
    fn write(&mut self, now_ns: u64, reg: u16, size: u8, value: u32, out: &mut Effects);
    /// Brings the device up to `now_ns`: timers that ran out meanwhile take effect, each once.
    fn advance(&mut self, _now_ns: u64, _out: &mut Effects) {}
    /// The earliest time at which `advance` would change an interrupt line by itself.
    fn deadline_ns(&self) -> Option<u64> {
        None
    }
    /// The state, without changing anything.
    fn save(&self) -> Self::State;
    /// Takes a state over. Has no effects: lines stay as the receivers of the lines saved them.
    fn restore(&mut self, state: &Self::State) -> Result<(), BadState>;
}

/// Why the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum Power {
    /// The guest switched the power off (ACPI S5).
    PowerOff,
    /// The guest asked for a reset.
    Reset {
        /// Through which device.
        by: ResetBy,
    },
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
}

/// The ways to reset a PC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub enum ResetBy {
    /// The reset line of the keyboard controller.
    KeyboardController,
    /// The reset control register at port 0xcf9 (which is also the ACPI reset register).
    ResetControl,
    /// Bit 0 of port 0x92.
    Port92,
}

impl std::fmt::Display for ResetBy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            ResetBy::KeyboardController => "keyboard controller",
            ResetBy::ResetControl => "reset control register 0xcf9",
            ResetBy::Port92 => "port 0x92",
        })
    }
}

impl Power {
    /// The exit status that QEMU's `isa-debug-exit` would give: the value doubled, plus one. `None` for an end
    /// that is not a debug exit.
    pub fn debug_exit_status(self) -> Option<u32> {
        match self {
            Power::DebugExit(value) => Some((value << 1) | 1),
            Power::PowerOff | Power::Reset { .. } => None,
        }
    }
}

/// Whom an interrupt message is for (Intel SDM volume 3, 11.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// The local APIC with this ID; 0xff is all of them.
    Physical(u8),
    /// All local APICs whose logical address matches.
    Logical(u8),
    /// The processor with this index.
    Cpu(usize),
    All,
    AllBut(usize),
}

/// What a message on the APIC bus does where it arrives (Intel SDM volume 3, 11.5.1 and 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Fixed,
    LowestPriority,
    Nmi,
    Init,
    Startup,
}

impl Delivery {
    /// Decodes the three-bit field that ICR, LVT and the redirection table share. SMI is left out: the board has no
    /// system management mode. ExtINT is no message: it is the line between the PIC and LINT0.
    pub fn from_bits(bits: u32) -> Option<Delivery> {
        match bits & 7 {
            0 => Some(Delivery::Fixed),
            1 => Some(Delivery::LowestPriority),
            4 => Some(Delivery::Nmi),
            5 => Some(Delivery::Init),
            6 => Some(Delivery::Startup),
            _ => None,
        }
    }
}

/// An interrupt on its way to local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub to: Destination,
    pub delivery: Delivery,
    pub vector: u8,
    /// Level-triggered: the end of the interrupt is announced to the IO-APIC.
    pub level: bool,
}

/// What devices did. The board empties all but the console and the power after every access.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Changes of ISA interrupt lines, in order: a line that falls and rises within one access is an edge.
    pub lines: VecDeque<(u8, bool)>,
    /// Interrupt messages.
    pub messages: VecDeque<Message>,
    /// Vectors of level-triggered interrupts that a processor has finished.
    pub eois: Vec<u8>,
    /// Bytes sent over the serial line, until the board's owner takes them.
    pub console: Vec<u8>,
    /// The end of the machine, until the board's owner takes it. The first one wins.
    pub power: Option<Power>,
}

impl Effects {
    /// Drives an ISA interrupt line.
    pub fn line(&mut self, irq: u8, level: bool) {
        self.lines.push_back((irq, level));
    }

    /// Ends the machine.
    pub fn end(&mut self, power: Power) {
        self.power.get_or_insert(power);
    }

    /// Whether there is nothing to carry anywhere.
    pub fn is_quiet(&self) -> bool {
        self.lines.is_empty() && self.messages.is_empty() && self.eois.is_empty()
    }
}
