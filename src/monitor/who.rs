//! `monitor last-write`, `writes`, `first-exec`, `hits`: questions answered straight from history.

use std::fmt::Write as _;

use super::{Armed, Command, Completes, Scope, number, place};
use crate::tick::Tick;
use crate::timeline::api::{Answers, Found, Question, Stops, Want, WatchKind, Watchpoint};

/// Lines of a table from its begin, and from its end, unless the user wants more.
const LINES: usize = 20;
/// What the user can want.
const LINES_MAX: u64 = 100_000;
/// Bytes where only an address is given.
const LENGTH: u64 = 8;
/// A longer range is a mistake.
const LENGTH_MAX: u64 = 1 << 30;

pub static LAST_WRITE: Command = Command {
    name: "last-write",
    usage: "last-write ADDR[,LENGTH] [--go] [between A B]",
    summary: "who wrote these bytes last, before here",
    manual: "The last store into LENGTH bytes (8) from ADDR on, before the position: its tick, the instruction,\n\
             what the bytes were and what they became. A store of the same value counts, too.\n\
             With --go the next `continue` goes there: the store is the next instruction then.\n",
    examples: &[
        "last-write 0xffffffff82e12340",
        "last-write 0xffffffff82e12340,4 --go",
        "last-write 0x404000,1 between 10% here",
    ],
    words: &["--go", "between"],
    completes: Completes::Data,
    searches: true,
    run: last_write,
    ..Command::PLAIN
};

pub static WRITES: Command = Command {
    name: "writes",
    usage: "writes ADDR[,LENGTH] [--lines N] [between A B]",
    summary: "all stores into these bytes, as a table: tick, instruction, old and new content",
    manual: "All of history unless limited by `between`. Of a long list the first and the last 20 lines (or N)\n\
             are shown, and all are counted. Stores are seen by linear address: what a process writes at the\n\
             same address is in the list, too.\n",
    examples: &[
        "writes 0x404000,4",
        "writes 0x404000,4 --lines 100 between start here",
    ],
    words: &["--lines", "between"],
    completes: Completes::Data,
    searches: true,
    run: writes,
    ..Command::PLAIN
};

pub static FIRST_EXEC: Command = Command {
    name: "first-exec",
    usage: "first-exec ADDR [--go] [between A B]",
    summary: "when the instruction at an address was executed for the first time",
    manual: "All of history unless limited by `between`. With --go the next `continue` goes there.\n",
    examples: &[
        "first-exec 0xffffffff81001000",
        "first-exec 0x401000 --go between here end",
    ],
    words: &["--go", "between"],
    completes: Completes::Code,
    searches: true,
    run: first_exec,
    ..Command::PLAIN
};

pub static HITS: Command = Command {
    name: "hits",
    usage: "hits ADDR [--lines N] [between A B]",
    summary: "all ticks at which the instruction at an address was executed, and how many",
    manual: "All of history unless limited by `between`. Of a long list the first and the last 20 lines (or N)\n\
             are shown, and all are counted.\n",
    examples: &["hits 0x401000", "hits 0x401000 --lines 5 between 25% 50%"],
    words: &["--lines", "between"],
    completes: Completes::Code,
    searches: true,
    run: hits,
    ..Command::PLAIN
};

/// What was typed, taken apart.
struct Asked {
    addr: u64,
    length: u64,
    go: bool,
    lines: usize,
    range: Option<(Tick, Tick)>,
}

impl Asked {
    fn of(command: &Command, scope: &mut Scope<'_>, args: &[&str]) -> Result<Asked, String> {
        let (mut words, range) = place::between(scope, args)?;
        let mut asked = Asked {
            addr: 0,
            length: LENGTH,
            go: false,
            lines: LINES,
            range,
        };
        let Some((what, rest)) = words.split_first() else {
            return command.misused();
        };
        words = rest;
        let (addr, length) = what.split_once(',').unwrap_or((what, ""));
        let bad = || format!("\"{what}\" is no address: 0x... or decimal");
        asked.addr = number(addr).ok_or_else(bad)?;
        if !length.is_empty() {
            asked.length = number(length)
                .filter(|n| (1..=LENGTH_MAX).contains(n))
                .ok_or_else(|| format!("\"{length}\" is no length in bytes"))?;
        }
        while let Some((word, rest)) = words.split_first() {
            words = rest;
            match (*word, words) {
                ("--go", _) if command.words.contains(word) => asked.go = true,
                ("--lines", [count, rest @ ..]) if command.words.contains(word) => {
                    let count = number(count).filter(|n| (1..=LINES_MAX).contains(n));
                    asked.lines = count.ok_or("--lines takes a number")? as usize;
                    words = rest;
                }
                _ => return command.misused(),
            }
        }
        Ok(asked)
    }

    fn ask(&self, scope: &mut Scope<'_>, stops: Stops, want: Want) -> Result<Answers, String> {
        let whole = (scope.debuggee.start(), scope.debuggee.end());
        let (from, until) = self.range.unwrap_or(whole);
        let question = Question {
            stops,
            from,
            until,
            want,
        };
        scope.debuggee.ask(&question, scope.interrupt)
    }

    fn written(&self) -> Stops {
        Stops {
            watchpoints: vec![Watchpoint {
                addr: self.addr,
                len: self.length,
                kind: WatchKind::Write,
            }],
            ..Stops::default()
        }
    }

    fn executed(&self) -> Stops {
        Stops {
            breakpoints: vec![self.addr],
            ..Stops::default()
        }
    }

    /// Says where the one hit is, and arms the way there.
    fn one(&self, scope: &mut Scope<'_>, found: &Found, what: &str) -> String {
        let mut text = place::tell(&*scope.debuggee, found.tick, found.time);
        let _ = writeln!(text, ": {what}");
        if self.go {
            scope.settings.armed = Some(Armed::Seek(found.tick));
            text.push_str("type `continue` to go there\n");
        }
        text
    }
}

fn last_write(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let mut asked = Asked::of(&LAST_WRITE, scope, args)?;
    let here = scope.debuggee.position();
    asked.range.get_or_insert((scope.debuggee.start(), here));
    let answers = asked.ask(scope, asked.written(), Want::Last(1))?;
    let Some(found) = answers.last.last() else {
        return Ok("nobody wrote there\n".into());
    };
    let what = written(found, asked.length);
    let what = format!("pc {:#x} {what}", found.rip);
    Ok(asked.one(scope, found, &what))
}

fn written(found: &Found, length: u64) -> String {
    format!(
        "{} -> {}",
        place::value(&found.before, length),
        place::value(&found.after, length)
    )
}

fn writes(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let asked = Asked::of(&WRITES, scope, args)?;
    let stops = asked.written();
    let (length, name) = (asked.length, "write");
    list(
        scope,
        &asked,
        stops,
        name,
        "PC                  OLD -> NEW",
        |found| format!("{:#018x}  {}", found.rip, written(found, length)),
    )
}

fn first_exec(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let asked = Asked::of(&FIRST_EXEC, scope, args)?;
    let answers = asked.ask(scope, asked.executed(), Want::First(1))?;
    match answers.first.first() {
        Some(found) => Ok(asked.one(scope, found, &format!("{:#x} is executed", found.rip))),
        None => Ok(format!("{:#x} is never executed\n", asked.addr)),
    }
}

fn hits(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let asked = Asked::of(&HITS, scope, args)?;
    let stops = asked.executed();
    list(scope, &asked, stops, "hit", "", |_| String::new())
}

/// All hits as a table, shortened in the middle.
fn list(
    scope: &mut Scope<'_>,
    asked: &Asked,
    stops: Stops,
    name: &str,
    heading: &str,
    tell: impl Fn(&Found) -> String,
) -> Result<String, String> {
    let want = Want::All {
        first: asked.lines,
        last: asked.lines,
    };
    let answers = asked.ask(scope, stops, want)?;
    let plural = if answers.count == 1 { "" } else { "s" };
    let mut text = format!("{} {name}{plural}\n", answers.count);
    if answers.count > 0 {
        let told = (answers.first.len() + answers.last.len()) as u64;
        let table = place::table(
            &*scope.debuggee,
            (&answers.first, &answers.last),
            answers.count - told,
            heading,
            tell,
        );
        // Where nothing stands in the last column nothing is to follow.
        for line in table.lines() {
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    Ok(text)
}

/// Hits of an instruction, for the strip of `timeline`: all counted, so many of the first and the last told.
pub fn hits_of(scope: &mut Scope<'_>, addr: u64, told: usize) -> Result<Answers, String> {
    let question = Question {
        stops: Stops {
            breakpoints: vec![addr],
            ..Stops::default()
        },
        from: scope.debuggee.start(),
        until: scope.debuggee.end(),
        want: Want::All {
            first: told,
            last: told,
        },
    };
    scope.debuggee.ask(&question, scope.interrupt)
}
