//! The tables, one file an instruction group.

mod control;
mod debug;
mod external;
mod far;
mod flags;
mod interrupts;
mod io;
mod iret;
mod memory;
mod query;
mod segments;
mod syscall;
mod system;
mod tasks;
mod vm86;

/// All of them, by name.
pub const ALL: &[(&str, &str)] = &[
    ("segments", segments::CASES),
    ("memory", memory::CASES),
    ("far", far::CASES),
    ("iret", iret::CASES),
    ("interrupts", interrupts::CASES),
    ("external", external::CASES),
    ("tasks", tasks::CASES),
    ("vm86", vm86::CASES),
    ("system", system::CASES),
    ("control", control::CASES),
    ("debug", debug::CASES),
    ("query", query::CASES),
    ("flags", flags::CASES),
    ("io", io::CASES),
    ("syscall", syscall::CASES),
];
