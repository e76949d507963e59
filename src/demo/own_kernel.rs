//! The demo kernel (src/demo/kernel), as build.rs made it, with its source: everything that GDB needs.
//!
//! What is wrong with it, for those who maintain it: `Recorder::note` (recorder.rs) first checks that the next slot is
//! within the ring and then claims a slot, atomically, but another. When the timer interrupts a task between the two
//! while one slot is left, the interrupt's own event takes that slot, and the task writes its event one place behind
//! the ring: into `KERNEL.ledger.issued`, which is set once and read again when the books are closed, tens of
//! millions of instructions later.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The ELF file, with its debug information.
pub const ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/demo-kernel"));

/// Where the sources lie according to the debug information.
pub const SOURCE_PREFIX: &str = "/retrovisor/demo-kernel";

/// The sources: file names and texts.
pub const SOURCES: &[(&str, &str)] = &[
    ("bank.rs", include_str!("kernel/bank.rs")),
    ("boot.rs", include_str!("kernel/boot.rs")),
    ("console.rs", include_str!("kernel/console.rs")),
    ("interrupts.rs", include_str!("kernel/interrupts.rs")),
    ("main.rs", include_str!("kernel/main.rs")),
    ("memory.rs", include_str!("kernel/memory.rs")),
    ("recorder.rs", include_str!("kernel/recorder.rs")),
    ("scheduler.rs", include_str!("kernel/scheduler.rs")),
];

/// What the bug overwrites, as GDB names it.
pub const VICTIM: &str = "demo_kernel::KERNEL.ledger.issued";

/// The line that overwrites it: file and text.
pub const CULPRIT: (&str, &str) = ("recorder.rs", "unsafe { *slot = event };");

/// RAM that the kernel is content with, in bytes.
pub const RAM_BYTES: u64 = 32 << 20;

/// The kernel's exit status once it has found its books wrong (`isa-debug-exit` with the value 0x10).
pub const EXIT_STATUS: u8 = 0x10 << 1 | 1;

/// The number of the [`CULPRIT`]'s line in its file, from 1.
pub fn culprit_line() -> Option<usize> {
    let (_, text) = SOURCES.iter().find(|(name, _)| *name == CULPRIT.0)?;
    text.lines()
        .position(|line| line.trim() == CULPRIT.1)
        .map(|index| index + 1)
}

/// Files of the kernel, written for GDB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub elf: PathBuf,
    /// What GDB is to be told with `set substitute-path` in place of [`SOURCE_PREFIX`].
    pub sources: PathBuf,
}

/// Writes `demo-kernel` and its sources into `directory`, which is made if it is not there.
pub fn write_to(directory: &Path) -> io::Result<Written> {
    let written = Written {
        elf: directory.join("demo-kernel"),
        sources: directory.join("demo-kernel-src"),
    };
    fs::create_dir_all(&written.sources)?;
    fs::write(&written.elf, ELF)?;
    for (name, text) in SOURCES {
        fs::write(written.sources.join(name), text)?;
    }
    Ok(written)
}

/// The GDB commands that find the culprit from the end of a recording, one a line: `remote` is what `target remote`
/// takes. The files are named as `written` says.
pub fn gdb_session(written: &Written, remote: &str) -> Vec<String> {
    let sources = written
        .sources
        .display()
        .to_string()
        .replace('\\', "\\\\")
        .replace('"', "\\\"");
    vec![
        format!("set substitute-path {SOURCE_PREFIX} \"{sources}\""),
        format!("target remote {remote}"),
        "backtrace".to_string(),
        format!("watch {VICTIM}"),
        "reverse-continue".to_string(),
        "backtrace".to_string(),
        "info locals".to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::boot::{Entry, Layout, Protocol, load};

    #[test]
    fn it_is_a_kernel_that_the_loader_takes() {
        let layout = Layout {
            ram_bytes: RAM_BYTES,
            acpi_rsdp: 0,
            protocol: None,
        };
        let image = load(ELF, None, "", &layout).unwrap();
        assert_eq!(image.protocol, Protocol::Pvh);
        assert!(
            matches!(image.entry, Entry::Protected32 { eip: 0x20_0000, .. }),
            "{:?}",
            image.entry
        );
    }

    #[test]
    fn all_its_sources_are_here_and_the_culprit_is_one_line_of_them() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/demo/kernel");
        let mut there: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".rs"))
            .collect();
        there.sort();
        assert_eq!(
            there,
            SOURCES
                .iter()
                .map(|(name, _)| name.to_string())
                .collect::<Vec<_>>()
        );
        assert!(culprit_line().is_some());
    }

    #[test]
    fn no_path_of_the_building_machine_is_in_it() {
        let here = env!("CARGO_MANIFEST_DIR").as_bytes();
        assert!(!ELF.windows(here.len()).any(|bytes| bytes == here));
        let prefix = SOURCE_PREFIX.as_bytes();
        assert!(ELF.windows(prefix.len()).any(|bytes| bytes == prefix));
    }

    #[test]
    fn gdb_finds_its_shared_state_by_name() {
        use object::LittleEndian as Le;
        use object::read::elf::{FileHeader, Sym};
        let header = object::elf::FileHeader64::<Le>::parse(ELF).unwrap();
        let symbols = header
            .sections(Le, ELF)
            .unwrap()
            .symbols(Le, ELF, object::elf::SHT_SYMTAB)
            .unwrap();
        let kernel = symbols
            .iter()
            .find(|symbol| symbol.name(Le, symbols.strings()) == Ok(b"KERNEL"));
        assert!(
            kernel.is_some_and(|symbol| symbol.st_size(Le) > 0),
            "GDB finds KERNEL by its name"
        );
    }
}
