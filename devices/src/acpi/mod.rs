//! ACPI: the fixed hardware, and the tables that tell a guest of the whole board.

mod aml;
pub(crate) mod pm;
mod tables;

pub use tables::tables;
