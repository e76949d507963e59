//! `monitor timeline`: the recording as a strip of text.

use std::fmt::Write as _;

use super::{Command, Completes, Scope, number, seconds, share, who};
use crate::tick::Tick;

pub static COMMAND: Command = Command {
    name: "timeline",
    usage: "timeline [ADDR]",
    summary: "the recording as a strip: the position, bookmarks, and hits of an address",
    manual: "^ is the position, letters are bookmarks (their names follow), and with an address # is where the\n\
             instruction there was executed.\n",
    examples: &["timeline", "timeline 0x401000"],
    completes: Completes::Code,
    searches: true,
    run,
    ..Command::PLAIN
};

const COLUMNS: usize = 72;
/// Bookmarks that get letters.
const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
/// Hits that are told of at each end; those between are counted only.
const HITS_MAX: usize = 50_000;

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let addr = match args {
        [] => None,
        [addr] => {
            let bad = || format!("\"{addr}\" is no address: 0x... or decimal");
            Some(number(addr).ok_or_else(bad)?)
        }
        _ => return COMMAND.misused(),
    };
    let (start, end) = (scope.debuggee.start(), scope.debuggee.end());
    let column = |tick: Tick| {
        let done = u128::from(tick.saturating_sub(start)) * COLUMNS as u128;
        ((done / u128::from((end - start).max(1))) as usize).min(COLUMNS - 1)
    };
    let mut text = String::new();
    let mut strip = vec!['-'; COLUMNS];
    if let Some(addr) = addr {
        let hits = who::hits_of(scope, addr, HITS_MAX)?;
        for found in hits.first.iter().chain(&hits.last) {
            strip[column(found.tick)] = '#';
        }
        let told = (hits.first.len() + hits.last.len()) as u64;
        let _ = write!(text, "# {} hits of {addr:#x}", hits.count);
        if hits.count > told {
            let _ = write!(text, " (the first and the last {HITS_MAX} are drawn)");
        }
        text.push('\n');
    }
    let mut marks = vec![' '; COLUMNS];
    let mut legend = String::new();
    let mut bookmarks: Vec<(Tick, String)> = scope
        .debuggee
        .bookmarks()
        .all()?
        .iter()
        .map(|(name, &tick)| (tick, name.clone()))
        .collect();
    bookmarks.sort_unstable();
    for ((tick, name), letter) in bookmarks.iter().zip(LETTERS.chars()) {
        marks[column(*tick)] = letter;
        let share = share(&*scope.debuggee, *tick);
        let _ = writeln!(legend, "{letter} tick {tick} ({share}) {name}");
    }
    if bookmarks.len() > LETTERS.len() {
        let more = bookmarks.len() - LETTERS.len();
        let _ = writeln!(legend, "  and {more} more: `bookmark` lists them");
    }
    let here = scope.debuggee.position();
    let mut below = vec![' '; COLUMNS];
    below[column(here)] = '^';
    let line = |row: &[char]| row.iter().collect::<String>();
    let bookmark_row = line(&marks);
    if !bookmarks.is_empty() {
        let _ = writeln!(text, " {}", bookmark_row.trim_end());
    }
    let _ = writeln!(text, "[{}]", line(&strip));
    let _ = writeln!(text, " {}", line(&below).trim_end());
    let share = share(&*scope.debuggee, here);
    let time = seconds(scope.debuggee.guest_time());
    let _ = writeln!(text, "^ tick {here} ({share}, {time}) of {start} to {end}");
    Ok(text + &legend)
}
