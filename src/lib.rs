//! retrovisor: records the run of a whole x86-64 machine and lets GDB travel through it. See ARCHITECTURE.md.

pub mod cpu;
pub mod memory;
pub mod demo;
pub mod machine;
pub mod record;
pub mod replay;
pub mod tick;
pub mod trace;
