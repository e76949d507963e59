//! `monitor ps`.

use std::fmt::Write as _;

use super::{Command, Scope, number};
use crate::guest::linux::{Kernel, tasks};
use crate::guest::{AtPosition, Guest};

pub static COMMAND: Command = Command {
    name: "ps",
    usage: "ps [--code PID]",
    summary: "the processes of a Linux guest here, and which one runs",
    manual: "Reads the task list in the guest's memory, by what its kernel itself says of its types (BTF); no\n\
             symbol file is needed. The star marks the task that the processor runs; it can be a thread, which\n\
             is shown by itself. PGD is the linear address of the process's top page table, TASK that of its\n\
             struct task_struct: p *(struct task_struct *)TASK after `rv symbols`. --code gives the address\n\
             of a process's program, for scripts.\n",
    examples: &["ps"],
    words: &["--code"],
    run,
    ..Command::PLAIN
};

/// More lines are of use to nobody at GDB's prompt.
const LINES_MAX: usize = 5000;

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let code_of = match args {
        [] => None,
        ["--code", pid] => Some(number(pid).ok_or_else(|| format!("\"{pid}\" is no process"))?),
        _ => return COMMAND.misused(),
    };
    let guest = AtPosition(&*scope.debuggee);
    let kernel = Kernel::find(&guest).map_err(|why| why.to_string())?;
    let types = kernel.types().map_err(|why| why.to_string())?;
    let mut all = tasks::list(&guest, &kernel, &types).map_err(|why| why.to_string())?;
    if let Some(pid) = code_of {
        let start = all
            .iter()
            .find(|task| u64::from(task.pid) == pid)
            .filter(|task| task.mm != 0)
            .and_then(|task| {
                let offset = types.offset("mm_struct", &["start_code"]).ok()?;
                kernel.space.read_u64(&guest, task.mm.wrapping_add(offset))
            });
        return start
            .map(|start| format!("{start:#x}"))
            .ok_or_else(|| format!("no process {pid} with a program exists here"));
    }
    let running: Vec<u64> = (0..guest.cpus())
        .filter_map(|cpu| tasks::current(&guest, &kernel, &types, cpu).ok())
        .collect();
    for &address in &running {
        if !all.iter().any(|task| task.address == address)
            && let Ok(task) = tasks::at(&guest, &kernel, &types, address)
        {
            all.push(task);
        }
    }
    let mut text =
        String::from("    PID   PPID S THREADS PGD              TASK             NAME\n");
    for task in all.iter().take(LINES_MAX) {
        let mark = if running.contains(&task.address) {
            '*'
        } else {
            ' '
        };
        let pgd = task.pgd.map_or("-".to_string(), |pgd| format!("{pgd:x}"));
        // Threads of the kernel are shown as `ps` shows them.
        let name = match task.mm {
            0 => format!("[{}]", task.name),
            _ => task.name.clone(),
        };
        let _ = writeln!(
            text,
            "{mark}{:6} {:6} {} {:7} {pgd:16} {:16x} {name}",
            task.pid, task.parent, task.state, task.threads, task.address
        );
    }
    if all.len() > LINES_MAX {
        let _ = writeln!(text, "... and {} more", all.len() - LINES_MAX);
    }
    Ok(text)
}
