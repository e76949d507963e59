//! Recording: running with something real outside the line, and writing down what crosses it.

pub mod console;
pub mod emulated;
pub mod keeper;
pub mod kvm;
pub mod live;
pub mod recorder;
