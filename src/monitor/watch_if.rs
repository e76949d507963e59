//! `monitor watch-if`: conditions of watchpoints, which GDB never sends.

use super::{Command, Scope, WatchCondition, number};
use crate::timeline::api::WatchKind;

pub static COMMAND: Command = Command {
    name: "watch-if",
    usage: "watch-if [write|read|access ADDR BYTECODE | --delete [ADDR]]",
    summary: "give a watchpoint a condition that the server evaluates (for `rv watch`)",
    manual: "For scripts: ADDR is that of a watchpoint of GDB's, BYTECODE an agent expression in hex, which is\n\
             evaluated just after the access, in both directions; the watchpoint stops where it is not zero.\n\
             `rv watch EXPRESSION if CONDITION` makes all of it. --delete takes conditions away.\n",
    examples: &[
        "watch-if write 0x404000 220027",
        "watch-if --delete",
        "watch-if",
    ],
    words: &["write", "read", "access", "--delete"],
    run,
    ..Command::PLAIN
};

const COUNT_MAX: usize = 100;
const CODE_BYTES_MAX: usize = 4096;

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let conditions = &mut scope.settings.watch_conditions;
    match args {
        [] => Ok(format!("{} conditions", conditions.len())),
        ["--delete"] => {
            conditions.clear();
            Ok("no watchpoint has a condition any more".into())
        }
        ["--delete", addr] => {
            let wanted = number(addr).ok_or_else(|| format!("\"{addr}\" is no address"))?;
            conditions.retain(|one| one.addr != wanted);
            Ok(format!("no watchpoint at {wanted:#x} has a condition"))
        }
        [kind, addr, code] => {
            let kind = match *kind {
                "write" => WatchKind::Write,
                "read" => WatchKind::Read,
                "access" => WatchKind::Access,
                _ => return COMMAND.misused(),
            };
            let addr = number(addr).ok_or_else(|| format!("\"{addr}\" is no address"))?;
            let code = bytes(code)
                .filter(|code| (1..=CODE_BYTES_MAX).contains(&code.len()))
                .ok_or("the bytecode is not in hex, or too long")?;
            conditions.retain(|one| (one.addr, one.kind) != (addr, kind));
            if conditions.len() >= COUNT_MAX {
                return Err(format!("there are {COUNT_MAX} conditions already"));
            }
            conditions.push(WatchCondition { addr, kind, code });
            Ok(format!("a watchpoint at {addr:#x} has a condition"))
        }
        _ => COMMAND.misused(),
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(
        digits
            .chunks_exact(2)
            .map(|two| two[0] << 4 | two[1])
            .collect(),
    )
}
