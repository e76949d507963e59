//! `monitor break-in`: stops that count in one process only.

use super::{Command, Process, Scope, number};
use crate::guest::AtPosition;
use crate::guest::linux::running::Running;
use crate::guest::linux::{Kernel, tasks};

pub static COMMAND: Command = Command {
    name: "break-in",
    usage: "break-in [PID | --off]",
    summary: "let breakpoints, watchpoints and catches stop only while a process runs",
    manual: "A hit counts when the running task is one of the process's, in kernel or in user mode, in both\n\
             directions. The number is that of the process (see `ps`), whatever it executes. Process\n\
             switches are caught all the same. Without an argument: what is set.\n",
    examples: &["break-in", "break-in --off"],
    words: &["--off"],
    run,
    ..Command::PLAIN
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    match args {
        [] => Ok(match &scope.settings.only {
            Some(process) => format!("stops count in process {} only", process.pid),
            None => "stops count in all processes".into(),
        }),
        ["--off"] => {
            scope.settings.only = None;
            Ok("stops count in all processes".into())
        }
        [pid] => {
            let pid = number(pid)
                .and_then(|pid| u32::try_from(pid).ok())
                .ok_or_else(|| format!("\"{pid}\" is no process number"))?;
            let guest = AtPosition(&*scope.debuggee);
            let kernel = Kernel::find(&guest).map_err(|why| why.to_string())?;
            let types = kernel.types().map_err(|why| why.to_string())?;
            let cpu = scope.debuggee.current_cpu();
            let running =
                Running::of(&guest, &kernel, &types, cpu).map_err(|why| why.to_string())?;
            // It may have ended by now, or not have begun: that is no mistake.
            let here = tasks::list(&guest, &kernel, &types)
                .is_ok_and(|all| all.iter().any(|task| task.pid == pid));
            scope.settings.only = Some(Process { pid, running });
            let where_ = if here {
                ""
            } else {
                " (which does not exist at this position)"
            };
            Ok(format!("stops count in process {pid} only{where_}"))
        }
        _ => COMMAND.misused(),
    }
}
