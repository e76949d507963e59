//! The machine: RAM, processors and a `World`, made into something that runs.
//!
//! One processor for now; what a machine consists of is asked through `cpus()`, and positions are ticks of the
//! whole machine.

pub mod boot;
pub mod compare;
mod digest;
mod entry;
pub mod outputs;

pub use digest::StateDigest;

use crate::cpu::Cpu;
use crate::cpu::cpuid::{CpuModel, Leaf};
pub use crate::cpu::run::Exit;
use crate::cpu::state::State;
use crate::cpu::stops::Stops;
use crate::cpu::world::World;
use crate::memory::{Memory, MemoryError, PAGE_BYTES};
use crate::tick::Tick;
use bytemuck::Zeroable;
use thiserror::Error;

/// Version of what [`Machine::save`] gives; changes with the layout of [`State`], and when the processor comes to
/// behave differently in what existing recordings do (2: EFLAGS.RF).
pub const STATE_VERSION: u32 = 2;

/// Why a saved state cannot be loaded.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum StateError {
    /// Made by a version of the program with another processor state.
    #[error(
        "the processor state has version {found}, this program has {STATE_VERSION}: use the program version that recorded it"
    )]
    Version {
        /// What the state says.
        found: u32,
    },
    /// Not as long as it must be.
    #[error(
        "the processor state is {found} bytes long, it must be {expected}: the recording is damaged"
    )]
    Length {
        /// What there is.
        found: usize,
        /// What there should be.
        expected: usize,
    },
    /// A field has a value that no processor can have.
    #[error("the processor state is damaged: {0}")]
    Impossible(&'static str),
}

/// A stretch of code in a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Linear address of its first instruction.
    pub address: u64,
    /// Guest-physical address of that; all of it is in one piece.
    pub gpa: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A machine that can run.
pub struct Machine {
    /// Its processor, with the RAM.
    pub cpu: Box<Cpu>,
}

impl Machine {
    /// A machine after reset, with empty RAM.
    pub fn new(ram_bytes: u64, model: CpuModel) -> Result<Machine, MemoryError> {
        Ok(Machine {
            cpu: Cpu::new(Memory::new(ram_bytes)?, model),
        })
    }

    /// Number of processors.
    pub fn cpus(&self) -> usize {
        1
    }

    /// Puts a kernel into RAM and the processor at its entry.
    pub fn load(&mut self, image: &boot::Image) {
        for (gpa, bytes) in &image.pages {
            self.cpu.memory.write(*gpa, bytes);
        }
        entry::enter(&mut self.cpu.state, &image.entry);
        self.cpu.state_changed();
    }

    /// The position: ticks that have happened.
    pub fn tick(&self) -> Tick {
        self.cpu.tick()
    }

    /// Runs until a tick, exactly, or until something stops it. See [`Cpu::run`].
    pub fn run(&mut self, world: &mut dyn World, until: Tick, pass_breakpoint: bool) -> Exit {
        self.cpu.run(world, until, pass_breakpoint)
    }

    /// Replaces what a debugger wants to stop at.
    pub fn set_stops(&mut self, stops: Stops) {
        self.cpu.set_stops(stops);
    }

    /// The state of all processors, without RAM, in one canonical form.
    pub fn save(&self) -> Vec<u8> {
        bytemuck::bytes_of(&self.cpu.state.canonical()).to_vec()
    }

    /// Takes over a saved state at a tick. RAM is the caller's business; everything derived is dropped.
    pub fn restore(&mut self, tick: Tick, version: u32, bytes: &[u8]) -> Result<(), StateError> {
        if version != STATE_VERSION {
            return Err(StateError::Version { found: version });
        }
        let expected = size_of::<State>();
        if bytes.len() != expected {
            return Err(StateError::Length {
                found: bytes.len(),
                expected,
            });
        }
        let mut state = State::zeroed();
        bytemuck::bytes_of_mut(&mut state).copy_from_slice(bytes);
        state.check().map_err(StateError::Impossible)?;
        self.cpu.state = state;
        self.cpu.set_tick(tick);
        self.cpu.state_changed();
        Ok(())
    }

    /// The state a digest is made of: registers, and the pages written since the last call.
    pub fn digest(&mut self) -> StateDigest {
        let registers = digest::of_registers(&self.save());
        let mut pages = self.cpu.take_dirty();
        pages.sort_unstable();
        let hash = digest::of_pages(&self.cpu.memory, &pages);
        StateDigest {
            registers,
            pages: hash,
            changed: pages,
        }
    }

    /// A hash of all RAM: for tests, and for comparing two machines.
    pub fn hash_ram(&self) -> u128 {
        let pages: Vec<u32> = (0..self.cpu.memory.pages() as u32).collect();
        digest::of_pages(&self.cpu.memory, &pages)
    }

    /// Replaces a page of RAM from outside; decoded code made from it is dropped.
    pub fn replace_page(&mut self, page: usize, bytes: &[u8; PAGE_BYTES]) {
        self.cpu.page_replaced(page);
        let gpa = self.cpu.memory.page_address(page);
        self.cpu.memory.write(gpa, bytes);
    }
}

/// A processor model as it is written into recordings.
pub fn model_from_leaves(leaves: impl Iterator<Item = (u32, u32, [u32; 4])>) -> CpuModel {
    let leaves = leaves
        .map(|(leaf, subleaf, registers)| Leaf {
            leaf,
            subleaf,
            registers,
        })
        .collect();
    CpuModel { leaves }
}
