//! `monitor kernel`.

use super::{Command, Scope};
use crate::guest::AtPosition;
use crate::guest::linux::Kernel;

pub static COMMAND: Command = Command {
    name: "kernel",
    usage: "kernel [--offset]",
    summary: "which Linux kernel the guest runs, and how far KASLR has moved it",
    manual: "Found in the guest's memory at the position. With --offset only the distance of KASLR, for scripts:\n\
             a vmlinux with debug information is loaded by `symbol-file -o OFFSET vmlinux`, which\n\
             `rv vmlinux FILE` does.\n",
    examples: &["kernel", "kernel --offset"],
    words: &["--offset"],
    run,
    ..Command::PLAIN
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let only_offset = match args {
        [] => false,
        ["--offset"] => true,
        _ => return COMMAND.misused(),
    };
    let kernel = Kernel::find(&AtPosition(&*scope.debuggee)).map_err(|why| why.to_string())?;
    let offset = kernel.kaslr_offset().unwrap_or(0);
    if only_offset {
        return Ok(format!("{offset:#x}"));
    }
    Ok(format!(
        "{}\nKASLR offset {offset:#x}, {} symbols\n",
        kernel.banner.trim_end(),
        kernel.symbols.len()
    ))
}
