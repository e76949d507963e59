//! `retrovisor symbols`: the kernel's symbols and types, found in the RAM of a recording, as an ELF file for GDB.

use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use super::arguments::{Place, SymbolArguments};
use super::output;
use crate::guest::AtPosition;
use crate::guest::linux::Kernel;
use crate::guest::symbol_file;
use crate::timeline::api::Debuggee;

/// Writes the file.
pub fn run(arguments: &SymbolArguments) -> Result<ExitCode> {
    let recording = super::open(&arguments.file)?;
    let place = arguments.at.unwrap_or(Place::End);
    let tick = place.tick(recording.last_tick());
    let mut timeline = super::serve::open(recording, &arguments.cache, place)?;
    timeline
        .seek(tick, &AtomicBool::new(false))
        .map_err(anyhow::Error::msg)?;
    let kernel = Kernel::find(&AtPosition(&timeline))?;
    // A kernel without BTF still has names.
    let types = kernel.types();
    if let Err(why) = &types {
        output::note(&format!("symbols without types: {why}"));
    }
    let file = symbol_file::make(&kernel, types.as_ref().ok())?;
    let path = arguments
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from("vmlinux.sym"));
    fs::write(&path, &file).with_context(|| format!("{}: cannot be written", path.display()))?;
    output::result(&format!(
        "{}: {} bytes, {}\nnext: gdb {} -ex 'target remote 127.0.0.1:1234'\n",
        path.display(),
        file.len(),
        kernel.version().trim(),
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
