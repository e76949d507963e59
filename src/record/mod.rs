//! Recording: running with something real outside the line, and writing down what crosses it.

pub mod console;
pub mod emulated;
mod handover;
pub mod keeper;
pub mod kvm;
pub mod live;
pub mod moment;
pub mod phases;
pub mod recorder;
