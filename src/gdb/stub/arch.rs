//! The architecture as gdbstub wants it, made of the table in [`crate::gdb::registers`].
//!
//! gdbstub_arch's x86-64 has no segment bases and no control registers; its layout of the common part is the oracle
//! of the table's test.

use std::num::NonZeroUsize;

use gdbstub::arch::{Arch, RegId};

use crate::gdb::registers::{self, ROWS};
use crate::timeline::api;

/// x86-64 with system registers.
pub enum X86 {}

impl Arch for X86 {
    type Usize = u64;
    type Registers = RegisterFile;
    type BreakpointKind = usize;
    type RegId = Register;

    fn target_description_xml() -> Option<&'static str> {
        Some(registers::target_xml())
    }
}

/// A row of the table, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(pub usize);

impl RegId for Register {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let row = ROWS.get(id)?;
        Some((Register(id), NonZeroUsize::new(row.bits / 8)))
    }

    fn to_raw_id(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// What `g` reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RegisterFile(pub api::Registers);

impl gdbstub::arch::Registers for RegisterFile {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.0.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for byte in registers::all_bytes(&self.0) {
            write_byte(Some(byte));
        }
    }

    fn gdb_deserialize(&mut self, _bytes: &[u8]) -> Result<(), ()> {
        // A recording cannot be written to; the registers feature refuses `G` before it comes here.
        Err(())
    }
}
