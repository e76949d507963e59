//! Agent expressions: the bytecode in which GDB sends conditions of breakpoints and the texts of `dprintf`, so that
//! they are evaluated here (GDB manual, appendix "The GDB Agent Expression Mechanism").
//!
//! Whoever sends them is not trusted: [`Program::new`] decodes everything, checks every jump and the height of the
//! stack at every instruction, and [`Program::run`] ends after a bounded number of steps.
//!
//! Not supported, because GDB's compiler for expressions never emits them: floating point. Trace state variables
//! (`getv`, `setv`, `tracev`) are missing too, since there is no tracing to set them; instructions that collect trace
//! data do nothing, as the manual demands outside of a tracepoint.

mod decode;
mod print;
mod run;
#[cfg(test)]
mod tests;

pub use decode::Program;

use thiserror::Error;

/// Entries on the stack at most: GDB's own expressions stay far below.
const STACK_MAX: usize = 64;
/// Steps after which an expression is given up. Loops are possible, though GDB writes none.
const STEPS_MAX: u32 = 20_000;
/// Bytes that one run of an expression prints at most.
const PRINTED_BYTES_MAX: usize = 16 << 10;

/// What an expression looks at.
pub trait Subject {
    /// A register by its number in the target description; `None`: no such register, or wider than 64 bits.
    fn register(&mut self, number: usize) -> Option<u64>;
    /// Fills `out` from a virtual address on; gives how many bytes could be read.
    fn read(&mut self, addr: u64, out: &mut [u8]) -> usize;
}

/// Why bytecode is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// An instruction or its operand is not there.
    #[error("the expression is cut short at byte {0}")]
    CutShort(usize),
    /// An instruction that does not exist.
    #[error("byte {1:#04x} at {0} is no instruction")]
    Unknown(usize, u8),
    /// See the head of this module.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// A jump into an instruction or out of the expression.
    #[error("a jump to byte {0}, where no instruction begins")]
    Jump(usize),
    /// An instruction takes more than there is, or the stack grows without bound.
    #[error("the stack has a wrong height at byte {0}")]
    Stack(usize),
    /// A size that the instruction cannot have.
    #[error("a size of {1} bits at byte {0}")]
    Width(usize, u8),
    /// The format of a `printf`.
    #[error("format: {0}")]
    Format(String),
}

/// Why an expression has no value here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// Division by zero.
    #[error("division by zero")]
    Division,
    /// Memory that is not mapped.
    #[error("cannot access memory at address {0:#x}")]
    Memory(u64),
    /// A register that does not exist or has no integer value.
    #[error("register number {0} has no value")]
    Register(usize),
    /// Too long.
    #[error("the expression takes too many steps")]
    Steps,
}
