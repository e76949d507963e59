//! retrovisor: records the run of a whole x86-64 machine and lets GDB travel through it. See ARCHITECTURE.md.

pub mod cli;
pub mod cpu;
pub mod demo;
pub mod gdb;
pub mod guest;
pub mod machine;
pub mod memory;
pub mod monitor;
pub mod record;
pub mod replay;
pub mod tick;
pub mod timeline;
pub mod trace;
