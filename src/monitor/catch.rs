//! `monitor catch`: stops at what happens to a processor, in both directions.

use std::fmt::Write as _;

use super::{Command, Scope, number};
use crate::timeline::api::{Event, EventSet};

pub static COMMAND: Command = Command {
    name: "catch",
    usage: "catch [KIND [NUMBER...] | --delete [NUMBER]]",
    summary: "stop at interrupts, exceptions, system calls, control-register or MSR writes, process switches",
    manual: "catch                           lists what is caught\n\
             catch interrupt [VECTOR...]     interrupts from outside, all or these vectors\n\
             catch exception [VECTOR...]     exceptions and INT n: 14 is the page fault, 13 #GP, 6 #UD\n\
             catch syscall [NUMBER...]       system calls as they begin\n\
             catch cr [REGISTER...]          MOV to control registers, and LMSW: 0, 2, 3, 4, 8\n\
             catch msr [MSR...]              WRMSR\n\
             catch process                   another page-table root in CR3: another process\n\
             catch --delete [NUMBER]         takes one away, or all\n\
             \n\
             Both `continue` and `reverse-continue` stop there: going forward just after it (in the\n\
             handler), going backward just before it. What was caught is printed. GDB's own\n\
             `catch syscall` works, too, and tells of returns as well.\n",
    examples: &[
        "catch exception 14 13",
        "catch syscall 59",
        "catch msr 0xc0000102",
        "catch",
        "catch --delete",
    ],
    words: &[
        "interrupt",
        "exception",
        "syscall",
        "cr",
        "msr",
        "process",
        "--delete",
    ],
    run,
    ..Command::PLAIN
};

/// More than anybody sets.
const COUNT_MAX: usize = 1000;

/// One of a session's catches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catch {
    number: u32,
    words: String,
    events: EventSet,
}

/// A session's catches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catches {
    all: Vec<Catch>,
    last: u32,
}

impl Catches {
    /// All events that are caught.
    pub fn events(&self) -> EventSet {
        let mut events = EventSet::default();
        self.all.iter().for_each(|one| events.extend(&one.events));
        events
    }

    /// Whether an event is caught, and by which.
    pub fn catching(&self, event: &Event) -> Option<u32> {
        let found = self.all.iter().find(|one| one.events.has(event));
        found.map(|one| one.number)
    }
}

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let catches = &mut scope.settings.catches;
    match args {
        [] => Ok(list(catches)),
        ["--delete"] => {
            catches.all.clear();
            Ok("nothing is caught any more".into())
        }
        ["--delete", which] => {
            let index = number(which)
                .and_then(|n| {
                    catches
                        .all
                        .iter()
                        .position(|one| u64::from(one.number) == n)
                })
                .ok_or_else(|| format!("there is no catch {which}"))?;
            let gone = catches.all.remove(index);
            Ok(format!("catch {} ({}) is gone", gone.number, gone.words))
        }
        [kind, numbers @ ..] => {
            if catches.all.len() >= COUNT_MAX {
                return Err(format!("there are {COUNT_MAX} catches already"));
            }
            let events = events(kind, numbers)?;
            catches.last += 1;
            let one = Catch {
                number: catches.last,
                words: args.join(" "),
                events,
            };
            let text = format!("catch {}: {}", one.number, one.words);
            catches.all.push(one);
            Ok(text)
        }
    }
}

fn list(catches: &Catches) -> String {
    if catches.all.is_empty() {
        return "nothing is caught: `monitor help catch`".into();
    }
    let mut text = String::new();
    for one in &catches.all {
        let _ = writeln!(text, "{:3}  {}", one.number, one.words);
    }
    text
}

/// What a line of the user's means.
fn events(kind: &str, words: &[&str]) -> Result<EventSet, String> {
    let mut events = EventSet::default();
    let mut numbers = Vec::new();
    let most = match kind {
        "interrupt" | "exception" => 255,
        "syscall" => 1023,
        "cr" => 8,
        "msr" => u64::from(u32::MAX),
        "process" => 0,
        _ => {
            return Err(format!(
                "\"{kind}\" cannot be caught; these can: interrupt exception syscall cr msr process"
            ));
        }
    };
    for word in words {
        let value = number(word).filter(|&n| n <= most && kind != "process");
        let hint = match kind {
            "syscall" => " (GDB's own `catch syscall` knows their names)",
            "process" => ": all switches are caught, and `break-in PID` chooses a process",
            _ => "",
        };
        numbers.push(value.ok_or_else(|| format!("\"{word}\" is no {kind} number{hint}"))?);
    }
    let all = numbers.is_empty();
    match kind {
        "interrupt" if all => events.interrupts = [!0; 4],
        "exception" if all => events.exceptions = [!0; 4],
        "syscall" if all => events.add_all_calls(),
        "cr" if all => events.controls = !0,
        "msr" if all => events.all_msrs = true,
        "process" => events.spaces = true,
        _ => {}
    }
    for number in numbers {
        let vector = number as u8;
        events.add(&match kind {
            "interrupt" => Event::Interrupt { vector },
            "exception" => Event::Exception {
                vector,
                code: None,
                address: 0,
            },
            "syscall" => Event::SystemCall { number, wide: true },
            "cr" => Event::Control {
                register: vector,
                value: 0,
            },
            _ => Event::Msr {
                msr: number as u32,
                value: 0,
            },
        });
    }
    Ok(events)
}
