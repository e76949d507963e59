//! A symbol file for GDB, made of what the guest's kernel carries: an ELF file with all of its symbols at their
//! run-time addresses, and its types as DWARF.
//!
//! There is no code and no data in it: sections have addresses and sizes only (as in a separate debug file), and GDB
//! reads memory from the target. There is no line table, for the kernel has none.

mod dwarf;
mod elf;
mod variables;

use super::linux::Kernel;
use super::linux::btf::Types;
use super::{Guest, GuestError};

/// A symbol file.
pub struct SymbolFile {
    /// Its bytes.
    pub elf: Vec<u8>,
    /// What is in it, in one line.
    pub summary: String,
}

/// Finds the kernel of a guest and makes its symbol file; without types where the kernel has none.
pub fn find(guest: &dyn Guest) -> Result<SymbolFile, GuestError> {
    let kernel = Kernel::find(guest)?;
    let types = kernel.types();
    let types_in_words = match &types {
        // `void` is none of the kernel's.
        Ok(types) => format!("{} types", types.all().len() - 1),
        Err(why) => format!("no types ({why})"),
    };
    Ok(SymbolFile {
        elf: make(&kernel, types.as_ref().ok())?,
        summary: format!(
            "Linux {}, KASLR offset {:#x}, {} symbols, {types_in_words}",
            kernel.version(),
            kernel.kaslr_offset().unwrap_or(0),
            kernel.symbols.len(),
        ),
    })
}

/// Makes the file of a kernel that was found.
pub fn make(kernel: &Kernel, types: Option<&Types>) -> Result<Vec<u8>, GuestError> {
    let debug = match types {
        Some(types) => dwarf::sections(kernel, types)?,
        None => Vec::new(),
    };
    elf::write(kernel, &debug)
}
