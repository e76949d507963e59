//! A symbol file for GDB, made of what the guest's kernel carries: an ELF file with all of its symbols at their
//! run-time addresses, and its types as DWARF.
//!
//! There is no code and no data in it: sections have addresses and sizes only (as in a separate debug file), and GDB
//! reads memory from the target. There is no line table, for the kernel has none.

mod dwarf;
mod elf;
mod variables;

use super::GuestError;
use super::linux::Kernel;
use super::linux::btf::Types;

/// Makes the file; without types where the kernel has none.
pub fn make(kernel: &Kernel, types: Option<&Types>) -> Result<Vec<u8>, GuestError> {
    let debug = match types {
        Some(types) => dwarf::sections(kernel, types)?,
        None => Vec::new(),
    };
    elf::write(kernel, &debug)
}
