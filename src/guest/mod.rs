//! What the guest is: the kernel that runs in it, found in its RAM alone.
//!
//! Nothing here needs a file of the guest's: what a kernel must carry along to work and to report its own crashes
//! (version banner, kallsyms, BTF, task list) is read where it stands. This module knows a machine only through
//! [`Guest`]. Whatever it reads was written by the guest and may be hostile: every loop and every allocation has a
//! bound that does not depend on what is read.

pub mod code;
pub mod linux;
pub mod paging;
pub mod symbol_file;

use crate::machine::Machine;
use crate::timeline::api::{Debuggee, Registers, Scene};
use crate::timeline::view::registers_of;
use thiserror::Error;

/// RAM, to look at.
pub trait Physical {
    /// Reads RAM from a guest-physical address on; gives the number of bytes before the first that is not RAM.
    fn read_physical(&self, address: u64, out: &mut [u8]) -> usize;
}

/// A machine that stands still, to look at.
pub trait Guest: Physical {
    /// Registers of a processor.
    fn registers(&self, cpu: usize) -> Registers;
    /// Number of processors, at least 1.
    fn cpus(&self) -> usize;
    /// The processor that runs next.
    fn current_cpu(&self) -> usize;
}

/// A recording at its position, as a guest.
pub struct AtPosition<'a>(pub &'a dyn Debuggee);

/// A machine that is no recording (yet), as a guest.
pub struct OfMachine<'a>(pub &'a Machine);

impl Physical for OfMachine<'_> {
    fn read_physical(&self, address: u64, out: &mut [u8]) -> usize {
        self.0.cpu.memory.read(address, out)
    }
}

impl Guest for OfMachine<'_> {
    fn registers(&self, _cpu: usize) -> Registers {
        registers_of(&self.0.cpu.state)
    }

    fn cpus(&self) -> usize {
        1
    }

    fn current_cpu(&self) -> usize {
        0
    }
}

impl Physical for AtPosition<'_> {
    fn read_physical(&self, address: u64, out: &mut [u8]) -> usize {
        self.0.read_physical(address, out)
    }
}

/// What a condition looks at, as RAM.
pub struct InScene<'a>(pub &'a dyn Scene);

impl Physical for InScene<'_> {
    fn read_physical(&self, address: u64, out: &mut [u8]) -> usize {
        self.0.read_physical(address, out)
    }
}

impl Guest for AtPosition<'_> {
    fn registers(&self, cpu: usize) -> Registers {
        self.0.registers(cpu)
    }

    fn cpus(&self) -> usize {
        self.0.cpus()
    }

    fn current_cpu(&self) -> usize {
        self.0.current_cpu()
    }
}

/// Why something is not found in a guest.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GuestError {
    /// The processor does not translate addresses as a running 64-bit kernel does.
    #[error("no 64-bit kernel runs here yet: the processor has no 4-level paging on")]
    NotLongMode,
    /// Nothing is mapped where Linux lives.
    #[error("no Linux kernel is mapped here (too early in the boot, or another system)")]
    NoKernel,
    /// A table that should be in the kernel's memory is not.
    #[error("the kernel's {0} is not in its memory at this position")]
    Missing(&'static str),
    /// It is there and makes no sense.
    #[error("the kernel's {0} is damaged or of a kind that this program does not know: {1}")]
    Damaged(&'static str, &'static str),
    /// A symbol or a field that is needed.
    #[error("the kernel has no {0}")]
    NoSuch(String),
    /// The symbol file cannot be made.
    #[error("cannot write symbols: {0}")]
    Writing(String),
}
