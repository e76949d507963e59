//! The events: everything that crosses the line around processors and RAM inwards, and the checks between.
//!
//! The one home of an event kind is its row in [`KINDS`]: its number in files (never used again for something
//! else), its name, its class, who writes and who consumes it. Its payload is its variant of [`What`]; the codec
//! (`batch.rs`) matches exhaustively, so that a new kind does not compile before it has an encoding.

use std::fmt;

use crate::tick::Tick;

/// Something that crossed the line at `tick`, for processor `cpu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The tick being executed: the machine's state before this tick is where the event is met.
    pub tick: Tick,
    /// Index of the processor.
    pub cpu: u8,
    /// What it was.
    pub what: What,
}

/// What crossed the line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The answer to IN, zero-extended; `size` in bytes.
    PioRead {
        /// The port.
        port: u16,
        /// 1, 2 or 4 bytes.
        size: u8,
        /// What the device answered.
        value: u32,
    },
    /// The answer to a load from guest-physical memory that is not RAM, zero-extended.
    MmioRead {
        /// Guest-physical address.
        gpa: u64,
        /// 1, 2, 4 or 8 bytes.
        size: u8,
        /// What the device answered.
        value: u64,
    },
    /// The answer to RDMSR of a register that lives outside. `None`: #GP.
    MsrRead {
        /// The register.
        msr: u32,
        /// Its value.
        value: Option<u64>,
    },
    /// Whether WRMSR of a register that lives outside was taken. `false`: #GP.
    MsrWrite {
        /// The register.
        msr: u32,
        /// Whether the value was accepted.
        ok: bool,
    },
    /// A read of the time-stamp counter that cannot be derived from the tick.
    Tsc {
        /// Before the processor's own TSC_ADJUST.
        value: u64,
    },
    /// RDRAND or RDSEED.
    Random {
        /// The 64 bits.
        value: u64,
    },
    /// MOV from CR8.
    TprRead {
        /// The task priority, 0 to 15.
        value: u64,
    },
    /// From this tick on the time-stamp counter is ticks times nanoseconds a tick plus this (wrapping).
    Clock {
        /// Time that was slept through, in counts.
        tsc_offset: u64,
    },
    /// A maskable interrupt is delivered instead of an instruction.
    Interrupt {
        /// Its vector.
        vector: u8,
    },
    /// A non-maskable interrupt is delivered instead of an instruction.
    Nmi,
    /// A device writes to guest-physical memory, before the instruction of this tick.
    Dma {
        /// Guest-physical address of the first byte.
        gpa: u64,
        /// What is written there.
        bytes: Box<[u8]>,
    },
    /// INIT arrives at the processor.
    Init,
    /// A start-up IPI arrives at the processor.
    Sipi {
        /// The page at which the processor starts.
        vector: u8,
    },
    /// From this tick on another processor runs.
    Switch {
        /// Index of the processor that runs now.
        to: u8,
    },
    /// What the user typed. An annotation: the guest gets it through the device's port.
    ConsoleInput {
        /// The bytes.
        bytes: Box<[u8]>,
    },
    /// What the machine must be like before this tick.
    Digest(Box<Digest>),
    /// Untimed recordings only: a hash of the general registers after the access before.
    Check {
        /// How it is made is the machine's business.
        registers: u64,
    },
    /// Untimed recordings only: the state at which what follows happens.
    Stand(Box<Stand>),
    /// Untimed recordings only: what RAM and processor are like here; the bytes are [`super::PageList`].
    Pages {
        /// See there.
        bytes: Box<[u8]>,
    },
    /// Untimed recordings only: from here on the time-stamp counter reads this, and reading it is no access.
    Counter {
        /// Before the processor's own TSC_ADJUST.
        value: u64,
    },
}

/// Where a processor stands that ran without anybody counting its instructions: a state instead of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stand {
    /// RIP.
    pub rip: u64,
    /// RIP as a linear address.
    pub linear: u64,
    /// What of RFLAGS no processor leaves undefined.
    pub flags: u64,
    /// The general registers in the order of their encoding. As they are, because they are compared with what many
    /// millions of states have.
    pub general: [u64; 16],
    /// Hash of the x87 and SSE registers.
    pub vector: u64,
    /// Host nanoseconds since the processor was last known to stand at an access: bounds the search.
    pub elapsed_ns: u64,
}

impl Stand {
    /// Bytes in a file.
    pub const BYTES: usize = 168;

    /// As it stands in a file.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        let words = [self.rip, self.linear, self.flags];
        let words = words.into_iter().chain(self.general);
        let words = words.chain([self.vector, self.elapsed_ns]);
        for (to, word) in out.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// The inverse of `to_bytes`.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let word =
            |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().expect("eight bytes"));
        Self {
            rip: word(0),
            linear: word(1),
            flags: word(2),
            general: std::array::from_fn(|n| word(3 + n)),
            vector: word(19),
            elapsed_ns: word(20),
        }
    }
}

/// Hashes of a machine's state. How they are made is the machine's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest {
    /// Of the registers of all processors.
    pub registers: u128,
    /// Of the pages changed since the last digest.
    pub pages: u128,
    /// Of what went out since the last digest: port and MMIO writes.
    pub outputs: u64,
}

/// How replay meets an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An answer: an instruction asked for it.
    Answer,
    /// Comes by itself, at its tick.
    Arrival,
    /// Compared with the machine; a difference is a divergence.
    Check,
    /// Changes nothing; for people.
    Note,
}

/// Kind of an event; its number is the one in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs)] // described at their variants of `What`
pub enum Kind {
    PioRead = 1,
    MmioRead = 2,
    MsrRead = 3,
    MsrWrite = 4,
    Tsc = 5,
    Random = 6,
    TprRead = 7,
    Clock = 8,
    Interrupt = 9,
    Nmi = 10,
    Dma = 11,
    Init = 12,
    Sipi = 13,
    Switch = 14,
    ConsoleInput = 15,
    Digest = 16,
    Check = 17,
    Stand = 18,
    Pages = 19,
    Counter = 20,
}

/// A row of the table of events: kind, name in `info` and JSON, class, who writes it, who consumes it.
pub type KindRow = (Kind, &'static str, Class, &'static str, &'static str);

/// All kinds of event, in the order of their numbers, from 1.
#[rustfmt::skip]
pub const KINDS: [KindRow; 20] = [
    (Kind::PioRead, "pio_read", Class::Answer, "recorder, at IN", "replay, at IN"),
    (Kind::MmioRead, "mmio_read", Class::Answer, "recorder, at a load beside RAM", "replay, at that load"),
    (Kind::MsrRead, "msr_read", Class::Answer, "recorder, at RDMSR", "replay, at RDMSR"),
    (Kind::MsrWrite, "msr_write", Class::Answer, "recorder, at WRMSR", "replay, at WRMSR"),
    (Kind::Tsc, "tsc", Class::Answer, "recorder on hardware, at RDTSC", "replay, at RDTSC"),
    (Kind::Random, "random", Class::Answer, "recorder, at RDRAND and RDSEED", "replay, at these"),
    (Kind::TprRead, "tpr_read", Class::Answer, "recorder, at MOV from CR8", "replay, at that MOV"),
    (Kind::Clock, "clock", Class::Arrival, "emulating recorder, after sleep", "replay, for RDTSC"),
    (Kind::Interrupt, "interrupt", Class::Arrival, "recorder, at the acknowledge cycle", "replay, at the tick"),
    (Kind::Nmi, "nmi", Class::Arrival, "recorder, at its delivery", "replay, at the tick"),
    (Kind::Dma, "dma", Class::Arrival, "recorder, when a device writes RAM", "replay, before the tick"),
    (Kind::Init, "init", Class::Arrival, "recorder of several processors", "replay, at the tick"),
    (Kind::Sipi, "sipi", Class::Arrival, "recorder of several processors", "replay, at the tick"),
    (Kind::Switch, "switch", Class::Arrival, "recorder of several processors", "replay, before the tick"),
    (Kind::ConsoleInput, "console_input", Class::Note, "recorder, when the user types", "people"),
    (Kind::Digest, "digest", Class::Check, "recorder, at the digest distance", "replay, before the tick"),
    (Kind::Check, "check", Class::Check, "recorder on hardware, after accesses", "resolving"),
    (Kind::Stand, "stand", Class::Check, "recorder on hardware, before what arrives", "resolving"),
    (Kind::Pages, "pages", Class::Check, "recorder on hardware, periodically", "resolving"),
    (Kind::Counter, "counter", Class::Arrival, "recorder on hardware that scales it", "resolving, for RDTSC"),
];

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        KINDS
            .get(usize::from(number).checked_sub(1)?)
            .map(|row| row.0)
    }

    /// Index of its row in [`KINDS`].
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Its name, as in `info` and JSON.
    pub fn name(self) -> &'static str {
        KINDS[self.index()].1
    }

    /// How replay meets it.
    pub fn class(self) -> Class {
        KINDS[self.index()].2
    }
}

impl What {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::PioRead { .. } => Kind::PioRead,
            Self::MmioRead { .. } => Kind::MmioRead,
            Self::MsrRead { .. } => Kind::MsrRead,
            Self::MsrWrite { .. } => Kind::MsrWrite,
            Self::Tsc { .. } => Kind::Tsc,
            Self::Random { .. } => Kind::Random,
            Self::TprRead { .. } => Kind::TprRead,
            Self::Clock { .. } => Kind::Clock,
            Self::Interrupt { .. } => Kind::Interrupt,
            Self::Nmi => Kind::Nmi,
            Self::Dma { .. } => Kind::Dma,
            Self::Init => Kind::Init,
            Self::Sipi { .. } => Kind::Sipi,
            Self::Switch { .. } => Kind::Switch,
            Self::ConsoleInput { .. } => Kind::ConsoleInput,
            Self::Digest(_) => Kind::Digest,
            Self::Check { .. } => Kind::Check,
            Self::Stand(_) => Kind::Stand,
            Self::Pages { .. } => Kind::Pages,
            Self::Counter { .. } => Kind::Counter,
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PioRead { port, size, value } => {
                write!(f, "read of port {port:#x} ({size} bytes) = {value:#x}")
            }
            Self::MmioRead { gpa, size, value } => {
                write!(f, "read of MMIO {gpa:#x} ({size} bytes) = {value:#x}")
            }
            Self::MsrRead {
                msr,
                value: Some(value),
            } => write!(f, "RDMSR {msr:#x} = {value:#x}"),
            Self::MsrRead { msr, value: None } => write!(f, "RDMSR {msr:#x} refused"),
            Self::MsrWrite { msr, ok: true } => write!(f, "WRMSR {msr:#x} taken"),
            Self::MsrWrite { msr, ok: false } => write!(f, "WRMSR {msr:#x} refused"),
            Self::Tsc { value } => write!(f, "time-stamp counter = {value}"),
            Self::Random { value } => write!(f, "random number = {value:#x}"),
            Self::TprRead { value } => write!(f, "task priority = {value}"),
            Self::Clock { tsc_offset } => {
                write!(f, "time-stamp counter ahead of the ticks by {tsc_offset}")
            }
            Self::Interrupt { vector } => write!(f, "interrupt {vector:#x}"),
            Self::Nmi => f.write_str("non-maskable interrupt"),
            Self::Dma { gpa, bytes } => write!(f, "DMA of {} bytes to {gpa:#x}", bytes.len()),
            Self::Init => f.write_str("INIT"),
            Self::Sipi { vector } => write!(f, "start-up IPI to page {vector:#x}"),
            Self::Switch { to } => write!(f, "processor {to} runs"),
            Self::ConsoleInput { bytes } => write!(f, "console input \"{}\"", bytes.escape_ascii()),
            Self::Digest(digest) => write!(
                f,
                "digest registers {:032x} pages {:032x} outputs {:016x}",
                digest.registers, digest.pages, digest.outputs
            ),
            Self::Check { registers } => write!(f, "registers {registers:016x}"),
            Self::Stand(stand) => write!(f, "a state with RIP {:#x}", stand.rip),
            Self::Pages { bytes } => write!(f, "hashes of pages, {} bytes", bytes.len()),
            Self::Counter { value } => write!(f, "time-stamp counter stands at {value}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tick {} cpu {}: {}", self.tick, self.cpu, self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_numbers() {
        for (index, row) in KINDS.iter().enumerate() {
            assert_eq!(row.0 as usize, index + 1);
            assert_eq!(row.0.index(), index);
            assert_eq!(Kind::from_number(row.0 as u8), Some(row.0));
        }
        assert_eq!(Kind::from_number(0), None);
        assert_eq!(Kind::from_number(KINDS.len() as u8 + 1), None);
    }

    #[test]
    fn an_event_stays_small() {
        assert!(size_of::<Event>() <= 48);
    }
}
