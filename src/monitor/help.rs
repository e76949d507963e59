//! `monitor help`.

use std::fmt::Write as _;

use super::{COMMANDS, Command, Completes, Scope, find};

pub static COMMAND: Command = Command {
    name: "help",
    usage: "help [COMMAND | --json]",
    summary: "list the commands, or explain one",
    manual: "Without an argument: one line for each command.\n\
             With a command's name: all there is to say about it.\n\
             With --json: all of it as JSON, for scripts.\n",
    examples: &["help", "help seek"],
    words: &["--json"],
    completes: Completes::Command,
    run,
    ..Command::PLAIN
};

fn run(_: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    match args {
        [] => {
            let width = COMMANDS
                .iter()
                .map(|command| command.usage.len())
                .max()
                .unwrap_or(0);
            let mut text =
                String::from("retrovisor's commands (monitor help COMMAND says more):\n");
            for command in COMMANDS {
                let _ = writeln!(text, "  {:width$}  {}", command.usage, command.summary);
            }
            Ok(text)
        }
        ["--json"] => Ok(json()),
        [name] => {
            let command = find(name)?;
            let mut text = format!(
                "usage: monitor {}\n{}\n\n{}\nexamples:\n",
                command.usage, command.summary, command.manual
            );
            for example in command.examples {
                let _ = writeln!(text, "  monitor {example}");
            }
            Ok(text)
        }
        _ => COMMAND.misused(),
    }
}

fn json() -> String {
    let all: Vec<_> = COMMANDS
        .iter()
        .map(|command| {
            serde_json::json!({
                "name": command.name,
                "usage": command.usage,
                "summary": command.summary,
                "manual": command.manual,
                "examples": command.examples,
                "words": command.words,
                "completes": command.completes.name(),
                "resumes": command.resumes,
                "searches": command.searches,
            })
        })
        .collect();
    serde_json::Value::Array(all).to_string()
}
