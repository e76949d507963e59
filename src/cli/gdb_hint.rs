//! How GDB is to be started for a recording.

use std::io::Read;
use std::path::Path;

use super::output::shell_word;

/// The bindings, relative to the project's directory.
const SCRIPT: &str = "gdb-scripts/retrovisor.py";

/// A shell command that starts GDB on a server; the kernel's own file has the symbols if it is an ELF file.
pub fn command(kernel: &str, remote: &str) -> String {
    let mut words = vec!["gdb".to_string()];
    let class = elf_class(Path::new(kernel));
    if class.is_some() {
        words.push(shell_word(kernel));
    }
    // A 32-bit file would make GDB refuse the description of a 64-bit machine.
    if class == Some(1) {
        words.push("-ex 'set architecture i386:x86-64'".into());
    }
    words.push(format!(
        "-ex {}",
        shell_word(&format!("target remote {remote}"))
    ));
    if Path::new(SCRIPT).exists() {
        words.push(format!("-ex {}", shell_word(&format!("source {SCRIPT}"))));
    }
    words.join(" ")
}

/// 1 for a 32-bit ELF file, 2 for a 64-bit one, nothing for anything else.
fn elf_class(path: &Path) -> Option<u8> {
    let mut head = [0; 5];
    std::fs::File::open(path).ok()?.read_exact(&mut head).ok()?;
    head.starts_with(b"\x7fELF").then_some(head[4])
}
