//! `monitor read-process` and `monitor space`: memory of a process that does not run, through its own page tables.

use std::fmt::Write as _;

use super::{Command, Scope, number};
use crate::guest::AtPosition;
use crate::guest::linux::{Kernel, tasks};
use crate::guest::paging::AddressSpace;

pub static READ: Command = Command {
    name: "read-process",
    usage: "read-process PID ADDR LENGTH",
    summary: "show memory of a process, through its own page table",
    manual: "As bytes and characters. What is not in RAM (swapped out, or never touched) is not shown.\n\
             `space PID` lets GDB's own commands look into a process.\n",
    examples: &["read-process 1 0x400000 64"],
    run: read,
    ..Command::PLAIN
};

pub static SPACE: Command = Command {
    name: "space",
    usage: "space [PID | --current]",
    summary: "let GDB read the memory of a process, whoever runs",
    manual: "From here on x, print and find read through the page table of the process, kernel memory\n\
             included, until `space --current`; it stays the page table that the process has now: after an\n\
             exec say it again. GDB may remember what it has read before: `maint flush dcache` makes it\n\
             forget, which `rv space` does by itself.\n",
    examples: &["space", "space --current"],
    words: &["--current"],
    run: space,
    ..Command::PLAIN
};

const LENGTH_MAX: u64 = 65_536;

/// The address space of a process that exists here.
fn space_of(scope: &Scope<'_>, pid: &str) -> Result<(u32, AddressSpace), String> {
    let pid = number(pid)
        .and_then(|pid| u32::try_from(pid).ok())
        .ok_or_else(|| format!("\"{pid}\" is no process number"))?;
    let guest = AtPosition(&*scope.debuggee);
    let kernel = Kernel::find(&guest).map_err(|why| why.to_string())?;
    let types = kernel.types().map_err(|why| why.to_string())?;
    let all = tasks::list(&guest, &kernel, &types).map_err(|why| why.to_string())?;
    let task = all
        .iter()
        .find(|task| task.pid == pid)
        .ok_or_else(|| format!("there is no process {pid} here"))?;
    let table = task.pgd.ok_or_else(|| {
        format!("process {pid} is a thread of the kernel: it has no memory of its own")
    })?;
    let (root, _) = kernel
        .space
        .translate(&guest, table)
        .ok_or_else(|| format!("the page table of process {pid} is not mapped"))?;
    let space = AddressSpace {
        root,
        ..kernel.space
    };
    Ok((pid, space))
}

fn read(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let [pid, addr, length] = args else {
        return READ.misused();
    };
    let addr = number(addr).ok_or_else(|| format!("\"{addr}\" is no address"))?;
    let length = number(length)
        .filter(|n| (1..=LENGTH_MAX).contains(n))
        .ok_or_else(|| format!("a length is 1 to {LENGTH_MAX} bytes"))?;
    let (_, space) = space_of(scope, pid)?;
    let mut bytes = vec![0; length as usize];
    let read = space.read(&AtPosition(&*scope.debuggee), addr, &mut bytes);
    bytes.truncate(read);
    let mut text = String::new();
    for (line, row) in bytes.chunks(16).enumerate() {
        let at = addr.wrapping_add(16 * line as u64);
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown: String = row
            .iter()
            .map(|&byte| {
                if (b' '..=b'~').contains(&byte) {
                    byte as char
                } else {
                    '.'
                }
            })
            .collect();
        let _ = writeln!(text, "{at:#018x}  {:47}  {shown}", hex.join(" "));
    }
    if (read as u64) < length {
        let at = addr.wrapping_add(read as u64);
        let _ = writeln!(text, "{at:#018x}  is not mapped to RAM");
    }
    Ok(text)
}

fn space(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    match args {
        [] => Ok(match scope.settings.space {
            Some((pid, _)) => format!("GDB reads the memory of process {pid}"),
            None => "GDB reads what the processor sees".into(),
        }),
        ["--current"] => {
            scope.settings.space = None;
            Ok("GDB reads what the processor sees".into())
        }
        [pid] => {
            let found = space_of(scope, pid)?;
            scope.settings.space = Some(found);
            Ok(format!("GDB reads the memory of process {}", found.0))
        }
        _ => SPACE.misused(),
    }
}
