//! `monitor modules`.

use std::fmt::Write as _;

use super::{Command, Scope};
use crate::guest::AtPosition;
use crate::guest::linux::{Kernel, modules};

pub static COMMAND: Command = Command {
    name: "modules",
    usage: "modules [--sections NAME]",
    summary: "the loaded modules of a Linux guest, and where they are",
    manual: "Read in the guest's memory at the position. With --sections all sections of a module and their\n\
             addresses, for scripts: `rv load-module NAME FILE` gives GDB a module's symbols.\n",
    examples: &["modules"],
    words: &["--sections"],
    run,
    ..Command::PLAIN
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let wanted = match args {
        [] => None,
        ["--sections", name] => Some(name.replace('-', "_")),
        _ => return COMMAND.misused(),
    };
    let guest = AtPosition(&*scope.debuggee);
    let kernel = Kernel::find(&guest).map_err(|why| why.to_string())?;
    let types = kernel.types().map_err(|why| why.to_string())?;
    let all = modules::list(&guest, &kernel, &types).map_err(|why| why.to_string())?;
    let mut text = String::new();
    if let Some(wanted) = wanted {
        let module = all
            .iter()
            .find(|module| module.name == wanted)
            .ok_or_else(|| format!("no module {wanted} is loaded here"))?;
        if module.sections.is_empty() {
            let _ = writeln!(text, ".text {:#x}", module.text);
        }
        for (name, address) in &module.sections {
            let _ = writeln!(text, "{name} {address:#x}");
        }
        return Ok(text);
    }
    if all.is_empty() {
        return Ok("no modules are loaded here".into());
    }
    text.push_str("CODE              BYTES     MODULE            NAME\n");
    for module in &all {
        let _ = writeln!(
            text,
            "{:16x}  {:8}  {:16x}  {}",
            module.text, module.text_bytes, module.address, module.name
        );
    }
    Ok(text)
}
