//! The commands behind GDB's `monitor`: one file each, and one line in [`COMMANDS`], of which the help and the
//! bindings in gdb-scripts are made.
//!
//! A command answers with text. What goes wrong is text too, beginning with "error: ".

mod help;
mod info;
mod ps;
mod seek;
mod symbols;
mod when;

use crate::tick::Tick;
use crate::timeline::api::Debuggee;

/// What a command may look at and change.
pub struct Scope<'a> {
    /// The recording.
    pub debuggee: &'a mut dyn Debuggee,
    /// Where the next resumption is to go instead.
    pub armed: &'a mut Option<Tick>,
}

/// A command.
pub struct Command {
    /// As it is typed.
    pub name: &'static str,
    /// Name and arguments.
    pub usage: &'static str,
    /// One line.
    pub summary: &'static str,
    /// All that there is to say, several lines.
    pub manual: &'static str,
    /// The command takes effect when the machine is resumed next: a script has to `continue` after it.
    pub resumes: bool,
    /// Does it.
    pub run: fn(&mut Scope<'_>, &[&str]) -> Result<String, String>,
}

/// All commands, in the order of the help.
pub static COMMANDS: &[&Command] = &[
    &help::COMMAND,
    &info::COMMAND,
    &when::COMMAND,
    &seek::COMMAND,
    &ps::COMMAND,
    &symbols::COMMAND,
];

/// The longest command line taken, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// Runs a command line. A name may be shortened as long as it is clear which is meant; an empty line asks for help.
pub fn run(scope: &mut Scope<'_>, line: &str) -> String {
    let result = if line.len() > LINE_BYTES_MAX {
        Err("this line is too long".to_string())
    } else {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.split_first() {
            None => (help::COMMAND.run)(scope, &[]),
            Some((name, args)) => find(name).and_then(|command| (command.run)(scope, args)),
        }
    };
    let mut text = match result {
        Ok(text) => text,
        Err(why) => format!("error: {why}"),
    };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

/// The command of this name, or the only one that begins so.
fn find(name: &str) -> Result<&'static Command, String> {
    if let Some(command) = COMMANDS.iter().find(|command| command.name == name) {
        return Ok(command);
    }
    let matching: Vec<_> = COMMANDS
        .iter()
        .filter(|command| command.name.starts_with(name))
        .collect();
    match matching[..] {
        [command] => Ok(command),
        [] => Err(format!(
            "no command is called \"{name}\"; `monitor help` lists them"
        )),
        _ => {
            let names: Vec<_> = matching.iter().map(|command| command.name).collect();
            Err(format!("\"{name}\" can be {}", names.join(" or ")))
        }
    }
}

/// The share of the recording before a tick, as "12.34 %".
fn share(debuggee: &dyn Debuggee, tick: Tick) -> String {
    let length = debuggee.end().saturating_sub(debuggee.start());
    if length == 0 {
        return "100.00 %".into();
    }
    let done = tick.saturating_sub(debuggee.start());
    let hundredths = u128::from(done) * 10_000 / u128::from(length);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// Guest time in seconds.
fn seconds(ns: crate::tick::GuestNs) -> String {
    format!("{}.{:09} s", ns / 1_000_000_000, ns % 1_000_000_000)
}
