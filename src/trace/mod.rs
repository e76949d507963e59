//! The recording file, `.rvr`: what crossed the line around processors and RAM, in order.
//!
//! Knows no processor and no device: state is opaque bytes, events are numbers with a tick.
//!
//! ```text
//! file    = prefix, configuration, frame*
//! prefix  = 56 bytes, the same for ever: magic, format version, writer's version, lengths, checksums
//! frame   = 64 bytes of header (kind, lengths, ticks, checksums), zstd(MessagePack)
//! order   = RAM frames, one state frame, event frames, one end frame
//! ```
//!
//! A frame is written with one write, so that the file is valid up to its last whole frame at any moment. Each
//! event frame carries a **mark**: all that crossed the line before that tick is in this frame or earlier, so that
//! a recording without an end frame (its recorder was killed) is replayed up to the last mark.
//!
//! A recording made on hardware is **untimed** until it is resolved: nobody counted instructions. The "tick" of its
//! events is the number of accesses (port, MMIO, filtered MSR, HLT) that were made before, and what came by itself is
//! placed by a [`Stand`]. `replay/resolve` makes a recording of ticks of it.
//!
//! What is derived from a recording (checkpoints, indexes) is never in it.

mod batch;
mod columns;
mod config;
mod cursor;
mod end;
mod error;
mod events;
mod frame;
pub mod limits;
mod pages;
mod ram;
mod reader;
mod statistics;
mod writer;

pub use config::{Accel, CpuidLeaf, Identity, MachineConfig, Start};
pub use cursor::Cursor;
pub use end::{End, EndReason};
pub use error::Error;
pub use events::{Class, Digest, Event, KINDS, Kind, Stand, What};
pub use frame::FrameKind;
pub use pages::{PAGE_LINES, PageHash, PageList};
pub use reader::{EventFrame, Recording, State, Torn};
pub use statistics::{FrameBytes, Statistics};
pub use writer::{Writer, check_place};

/// Version of the file format of recordings that are told by ticks. Any change of what the bytes mean makes it one
/// higher; the test `a_change_of_the_format_needs_a_new_version` holds this.
pub const TRACE_VERSION: u32 = 1;

/// Version of the format of untimed recordings ([`MachineConfig::untimed`]): event kinds that only they have.
pub const TRACE_VERSION_UNTIMED: u32 = 2;

/// Version of the format of recordings that begin in the middle of a run ([`MachineConfig::start`]), timed or not: who
/// does not know that field would get the guest's clock wrong.
pub const TRACE_VERSION_STARTED: u32 = 3;

/// Version of the format of untimed recordings that tell what RDTSC reads between accesses
/// ([`MachineConfig::counter`]), from the middle of a run or not: an event kind that only they have.
pub const TRACE_VERSION_COUNTER: u32 = 4;

/// The newest version that can be read.
pub const TRACE_VERSION_NEWEST: u32 = TRACE_VERSION_COUNTER;

/// The oldest version that can still be read.
pub const TRACE_VERSION_OLDEST: u32 = 1;

/// Size of a RAM page in bytes, the unit in which RAM is stored.
pub const PAGE_BYTES: usize = 4096;
