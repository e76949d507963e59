//! `monitor ask` and `monitor answer`: how scripts run commands that take long.
//!
//! While GDB waits for the answer of a `monitor` command it does not pass Ctrl-C on; while it waits for a resumed
//! machine to stop it does. So a script has the command run by a resumption and fetches what it said.

use super::{Armed, Command, Completes, Scope, find};

pub static ASK: Command = Command {
    name: "ask",
    usage: "ask COMMAND...",
    summary: "let the next `continue` run a command, so that Ctrl-C ends it",
    manual: "For scripts: the machine does not move (unless the command goes somewhere, as `last-write --go`\n\
             does); `monitor answer` gives what the command said.\n",
    examples: &["ask hits 0x401000"],
    completes: Completes::Command,
    resumes: true,
    run: ask,
    ..Command::PLAIN
};

pub static ANSWER: Command = Command {
    name: "answer",
    usage: "answer",
    summary: "what the command of `ask` said",
    manual: "For scripts.\n",
    examples: &["answer"],
    run: answer,
    ..Command::PLAIN
};

fn ask(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let Some(name) = args.first() else {
        return ASK.misused();
    };
    let command = find(name)?;
    if std::ptr::eq(command, &ASK) || std::ptr::eq(command, &ANSWER) {
        return Err(format!("{} cannot be asked", command.name));
    }
    scope.settings.answer = None;
    scope.settings.armed = Some(Armed::Ask(args.join(" ")));
    Ok("type `continue`, then `monitor answer`".into())
}

fn answer(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    if !args.is_empty() {
        return ANSWER.misused();
    }
    scope
        .settings
        .answer
        .take()
        .ok_or_else(|| "nothing was asked".into())
}
