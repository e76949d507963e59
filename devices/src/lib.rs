//! The devices of the machine, and the board that wires them together.
//!
//! A [`Board`] is an x86 PC without processors and RAM. It is plain data: deterministic, saveable at any moment, and
//! without any notion of a host. Guest time comes in with every call, in nanoseconds since power-on, and only ever
//! grows; nothing happens between calls. What the board wants to do by itself, and when, it says in
//! [`Board::next_deadline_ns`].

#![warn(missing_docs)]

pub mod acpi;
mod board;
mod clock;
#[cfg(test)]
mod contract;
mod debug;
mod device;
mod i8042;
mod ioapic;
mod lapic;
pub mod map;
mod pci;
mod pic;
mod pit;
mod reset;
mod rtc;
mod serial;

pub use board::{Board, BoardConfig, BoardState, Ipi};
pub use device::{BadState, Power, ResetBy};
pub use serial::{ConsoleTap, TapBytes};
