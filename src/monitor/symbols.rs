//! `monitor symbols`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{Command, Scope};
use crate::guest::{AtPosition, symbol_file};

pub static COMMAND: Command = Command {
    name: "symbols",
    usage: "symbols",
    summary: "write the symbols and types of a Linux guest's kernel into a file for GDB",
    manual: "Finds the kernel's own symbol table and types in its memory and writes them, at their run-time\n\
             addresses, into a file in the server's directory for temporary files, whose name is the last line\n\
             of the answer: load it with `symbol-file NAME`. A later call of the same server replaces it.\n\
             With gdb-scripts/retrovisor.py loaded, `rv symbols` does both.\n",
    examples: &["symbols"],
    run,
    ..Command::PLAIN
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    // No name is taken: whoever can connect must not be able to write just anywhere.
    if !args.is_empty() {
        return COMMAND.misused();
    }
    let made = symbol_file::find(&AtPosition(&*scope.debuggee)).map_err(|why| why.to_string())?;
    let path = std::env::temp_dir().join(format!("retrovisor-{}.sym", std::process::id()));
    write(&path, &made.elf).map_err(|why| format!("{}: {why}", path.display()))?;
    Ok(format!("{}\n{}\n", made.summary, path.display()))
}

/// Writes a file of its own and renames it: nobody's link is followed, and GDB never sees half a file.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial: PathBuf = path.with_extension("sym-partial");
    match fs::remove_file(&partial) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&partial)?;
    file.write_all(bytes)?;
    fs::rename(&partial, path)
}
