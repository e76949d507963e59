//! The commands behind GDB's `monitor`: one file for each or for a family, and one line in [`COMMANDS`], of which the
//! help and the bindings in gdb-scripts are made.
//!
//! A command answers with text. What goes wrong is text too, beginning with "error: ".

mod bookmark;
mod break_in;
pub mod catch;
mod events;
mod help;
mod info;
mod kernel;
mod later;
mod modules;
mod place;
mod ps;
mod read_process;
mod seek;
mod symbols;
mod timeline;
mod watch_if;
mod when;
mod who;

use crate::guest::linux::running::Running;
use crate::guest::paging::AddressSpace;
use crate::tick::Tick;
use crate::timeline::api::{Debuggee, WatchKind};
use std::sync::atomic::AtomicBool;

/// What the next resumption does instead of resuming.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Armed {
    /// Goes to a tick.
    Seek(Tick),
    /// Runs a command line, whose text is kept in [`Settings::answer`]: in a resumption GDB hears Ctrl-C.
    Ask(String),
}

/// A condition of a watchpoint, which the protocol has no words for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchCondition {
    /// The watchpoint's address.
    pub addr: u64,
    /// The watchpoint's kind.
    pub kind: WatchKind,
    /// Agent-expression bytecode.
    pub code: Vec<u8>,
}

/// A process that stops are limited to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// How to see who runs.
    pub running: Running,
}

/// What commands have set in a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// What the next resumption does instead.
    pub armed: Option<Armed>,
    /// What an armed command has said.
    pub answer: Option<String>,
    /// Events to stop at.
    pub catches: catch::Catches,
    /// The process that stops are limited to.
    pub only: Option<Process>,
    /// Whose memory GDB reads: a process's number and address space. `None`: the processor's.
    pub space: Option<(u32, AddressSpace)>,
    /// Conditions of watchpoints.
    pub watch_conditions: Vec<WatchCondition>,
}

/// What a command may look at and change.
pub struct Scope<'a> {
    /// The recording.
    pub debuggee: &'a mut dyn Debuggee,
    /// The session's settings.
    pub settings: &'a mut Settings,
    /// Set when the user has had enough.
    pub interrupt: &'a AtomicBool,
}

/// What follows a command's name, for completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    /// Nothing that could be completed, but for the words of the table.
    Words,
    /// Something in memory: a variable, an expression with an address.
    Data,
    /// A place in the code: a function, an address.
    Code,
    /// A bookmark.
    Bookmark,
    /// A monitor command.
    Command,
}

impl Completes {
    fn name(self) -> &'static str {
        match self {
            Completes::Words => "words",
            Completes::Data => "data",
            Completes::Code => "code",
            Completes::Bookmark => "bookmark",
            Completes::Command => "command",
        }
    }
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
    /// Command lines that make sense.
    pub examples: &'static [&'static str],
    /// Words that can follow the name.
    pub words: &'static [&'static str],
    /// What else can.
    pub completes: Completes,
    /// The command takes effect when the machine is resumed next: a script has to `continue` after it.
    pub resumes: bool,
    /// The command can take long: a script lets the next resumption run it, in which Ctrl-C is heard.
    pub searches: bool,
    /// Does it.
    pub run: fn(&mut Scope<'_>, &[&str]) -> Result<String, String>,
}

impl Command {
    /// A command of which a table entry says only what is special.
    const PLAIN: Command = Command {
        name: "",
        usage: "",
        summary: "",
        manual: "",
        examples: &[],
        words: &[],
        completes: Completes::Words,
        resumes: false,
        searches: false,
        run: |_, _| Ok(String::new()),
    };

    /// The error of whoever types it wrongly.
    fn misused<T>(&self) -> Result<T, String> {
        Err(format!("usage: monitor {}", self.usage))
    }
}

/// All commands, in the order of the help.
pub static COMMANDS: &[&Command] = &[
    &help::COMMAND,
    &info::COMMAND,
    &when::COMMAND,
    &seek::COMMAND,
    &who::LAST_WRITE,
    &who::WRITES,
    &who::FIRST_EXEC,
    &who::HITS,
    &events::COMMAND,
    &timeline::COMMAND,
    &bookmark::BOOKMARK,
    &bookmark::GOTO,
    &catch::COMMAND,
    &watch_if::COMMAND,
    &kernel::COMMAND,
    &ps::COMMAND,
    &modules::COMMAND,
    &break_in::COMMAND,
    &read_process::READ,
    &read_process::SPACE,
    &symbols::COMMAND,
    &later::ASK,
    &later::ANSWER,
];

/// The longest command line taken, in bytes.
const LINE_BYTES_MAX: usize = 16384;

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

/// A number as people and GDB write it: decimal or hexadecimal, with _ or , inside.
fn number(text: &str) -> Option<u64> {
    let text: String = text.chars().filter(|c| !matches!(c, '_' | ',')).collect();
    match text.strip_prefix("0x") {
        Some(hex) => digits(hex, 16),
        None => digits(&text, 10),
    }
}

/// Digits only: no sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    if text.is_empty() || !text.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for command in COMMANDS {
            let name = command.name;
            assert!(command.usage.starts_with(name), "{name}: usage");
            assert!(
                !command.summary.ends_with('.') && !command.summary.is_empty(),
                "{name}"
            );
            assert!(command.manual.ends_with('\n'), "{name}: manual");
            assert!(
                command.manual.lines().all(|line| line.len() <= 110),
                "{name}: width"
            );
            assert!(!command.examples.is_empty(), "{name}: examples");
            for example in command.examples {
                let first = example.split(' ').next();
                assert_eq!(first, Some(name), "{name}: {example}");
            }
            let same = COMMANDS.iter().filter(|other| other.name == name);
            assert_eq!(same.count(), 1, "{name}");
        }
    }
}
