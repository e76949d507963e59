//! Time inside the machine.
//!
//! One **tick** is one retired instruction, or one iteration of a REP string instruction, or one delivery of
//! an interrupt or exception. Ticks count over all processors of the machine, from 0 at the first instruction
//! of the recording: a tick names exactly one state of the machine, the one *before* that tick happens.
//!
//! **Guest time** (nanoseconds since power-on, as the devices see it) is derived from the tick: each tick
//! lasts [`NS_PER_TICK`], and time that the machine sleeps through (HLT) is added without any tick passing.

/// A position in the run of a machine: the number of ticks that happened before it.
pub type Tick = u64;

/// Guest time in nanoseconds.
pub type GuestNs = u64;

/// Length of a tick in guest nanoseconds. 8 ns make a machine of 125 million instructions a second: about
/// what the engine reaches, so that guest time and the wall clock run at about the same speed.
pub const NS_PER_TICK: u64 = 8;

/// The guest's time-stamp counter runs at 1 GHz: one count a nanosecond.
pub const TSC_HZ: u64 = 1_000_000_000;
