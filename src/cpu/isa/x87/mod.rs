//! The x87 floating-point unit.
pub mod registers;
