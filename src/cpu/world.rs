//! The line around processors and RAM: everything that crosses it inwards comes through this one trait.
//!
//! Live devices, the recorder that wraps them, and the log of a recording stand behind it. The processor does
//! not know which one it has. All times are arguments: an implementation is asked at a tick and answers for it.

use crate::tick::Tick;

/// What a halted machine does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// An interrupt is pending now (guest time may have been moved on to it); ask `interrupt` again.
    Wake,
    /// Nothing yet, and the caller wants to look around (a user's interrupt, a wall-clock poll): ask again.
    Again,
    /// The run is over: nothing can ever wake the machine, or somebody ended it.
    Ended,
}

/// An interrupt to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Maskable, with the vector that the interrupt controller gave in its acknowledge cycle.
    Vector(u8),
    /// Non-maskable (vector 2).
    Nmi,
}

/// What waits to interrupt a processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// A maskable interrupt, above the task priority.
    pub interrupt: bool,
    /// A non-maskable one.
    pub nmi: bool,
}

/// Bytes that a device wrote to guest-physical memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dma {
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// What is written there.
    pub bytes: Vec<u8>,
}

/// The outside of the line. `cpu` is the index of the processor that asks; `now` the tick being executed.
pub trait World {
    /// IN: `size` is 1, 2 or 4 bytes; the value is zero-extended.
    fn pio_read(&mut self, now: Tick, cpu: usize, port: u16, size: u8) -> u32;
    /// OUT.
    fn pio_write(&mut self, now: Tick, cpu: usize, port: u16, size: u8, value: u32);
    /// A load from guest-physical memory that is not RAM: `size` is 1, 2, 4 or 8, never crossing 8 bytes.
    fn mmio_read(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8) -> u64;
    /// A store to guest-physical memory that is not RAM.
    fn mmio_write(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8, value: u64);
    /// RDMSR of a register that lives outside (IA32_APIC_BASE, IA32_TSC_DEADLINE, x2APIC). `None`: #GP.
    fn msr_read(&mut self, now: Tick, cpu: usize, msr: u32) -> Option<u64>;
    /// WRMSR of such a register. `false`: #GP.
    fn msr_write(&mut self, now: Tick, cpu: usize, msr: u32, value: u64) -> bool;
    /// The time-stamp counter, before the processor's own TSC_ADJUST.
    fn tsc(&mut self, now: Tick, cpu: usize) -> u64;
    /// RDRAND and RDSEED.
    fn random(&mut self, now: Tick, cpu: usize) -> u64;
    /// MOV from CR8: the task priority, 0 to 15.
    fn tpr_read(&mut self, now: Tick, cpu: usize) -> u64;
    /// MOV to CR8.
    fn tpr_write(&mut self, now: Tick, cpu: usize, value: u64);

    /// The first tick after `now` at which the world wants `poll` to be called. The run loop also calls it
    /// after every access above.
    fn next_stop(&mut self, now: Tick) -> Tick;
    /// Brings the outside up to `now` and says what waits for `cpu`. DMA that lands now is pushed to `dma`, and is
    /// in RAM before the next instruction.
    fn poll(&mut self, now: Tick, cpu: usize, dma: &mut Vec<Dma>) -> Pending;
    /// The acknowledge cycle, called only when `poll` said that something waits which the processor can take now;
    /// `maskable` tells whether it can take a maskable interrupt. `None` when it was withdrawn meanwhile (or,
    /// where the world is a log, does not happen here).
    fn interrupt(&mut self, now: Tick, cpu: usize, maskable: bool) -> Option<Interrupt>;
    /// The processor has executed HLT and nothing is pending that it can take. `interruptible` tells whether a
    /// maskable interrupt could wake it.
    fn wait(&mut self, now: Tick, cpu: usize, interruptible: bool) -> Wait;
    /// Whether the run is over at `now` (power-off, reset, end of the log, divergence). Asked after every
    /// access and every `poll`.
    fn ended(&mut self, now: Tick) -> bool;
    /// The processor itself asks for a reset: triple fault, with the reason in words.
    fn shutdown(&mut self, now: Tick, cpu: usize, why: &str);
}
