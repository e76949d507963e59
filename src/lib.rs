//! retrovisor: records the run of a whole x86-64 machine and lets GDB travel through it. See ARCHITECTURE.md.

pub mod gdb;
pub mod monitor;
pub mod tick;
pub mod timeline;
