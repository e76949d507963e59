//! The machine: RAM, processors and a `World`, made into something that runs.

pub mod boot;
