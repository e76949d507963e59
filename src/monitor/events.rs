//! `monitor events`: what happened around here, out of the recording and out of the run.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use super::{Command, Scope, number, share};
use crate::tick::Tick;
use crate::timeline::api::{EventSet, Found, Question, StopReason, Stops, Want};

pub static COMMAND: Command = Command {
    name: "events",
    usage: "events [COUNT]",
    summary: "interrupts, exceptions, system calls and I/O around here",
    manual: "COUNT (10) events before the position and as many after it: what came from outside (interrupts,\n\
             answers of devices, clock) as it was recorded, and exceptions and system calls as the run has\n\
             them, in the order of their ticks.\n",
    examples: &["events", "events 30"],
    searches: true,
    run,
    ..Command::PLAIN
};

const COUNT: u64 = 10;
const COUNT_MAX: u64 = 10_000;

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let count = match args {
        [] => COUNT,
        [count] => number(count)
            .filter(|n| (1..=COUNT_MAX).contains(n))
            .ok_or_else(|| format!("a count is 1 to {COUNT_MAX}"))?,
        _ => return COMMAND.misused(),
    } as usize;
    let here = scope.debuggee.position();
    let mut all = scope.debuggee.recorded_events(count, count);
    // What happens farther away than all that is recorded nearby would not be shown.
    let before = all.iter().filter(|event| event.0 < here).count();
    let (start, end) = (scope.debuggee.start(), scope.debuggee.end());
    let first = if before == count { all[0].0 } else { start };
    let last = match all.last() {
        Some(event) if all.len() - before == count => event.0 + 1,
        _ => end,
    };
    all.extend(happened(scope, (first, here), Want::Last(count))?);
    all.extend(happened(scope, (here, last), Want::First(count))?);
    all.sort_by_key(|event| event.0);
    let middle = all.partition_point(|event| event.0 < here);
    let shown = &all[middle.saturating_sub(count)..(middle + count).min(all.len())];
    if shown.is_empty() {
        return Ok("no events".into());
    }
    let mut text = String::new();
    let mut told = false;
    for (tick, what) in shown {
        if *tick >= here && !told {
            told = true;
            let _ = writeln!(
                text,
                "--- here: tick {here} ({}) ---",
                share(&*scope.debuggee, here)
            );
        }
        let _ = writeln!(text, "{tick:14}  {what}");
    }
    if !told {
        let _ = writeln!(
            text,
            "--- here: tick {here} ({}) ---",
            share(&*scope.debuggee, here)
        );
    }
    Ok(text)
}

/// Exceptions and system calls.
fn happened(
    scope: &mut Scope<'_>,
    (from, until): (Tick, Tick),
    want: Want,
) -> Result<Vec<(Tick, String)>, String> {
    if from >= until || scope.interrupt.load(Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let mut events = EventSet {
        exceptions: [!0; 4],
        ..EventSet::default()
    };
    events.add_all_calls();
    let question = Question {
        stops: Stops {
            events,
            ..Stops::default()
        },
        from,
        until,
        want,
    };
    let answers = scope.debuggee.ask(&question, scope.interrupt)?;
    let line = |found: &Found| match &found.reason {
        StopReason::Event(event) => (found.tick, format!("{event} at {:#x}", found.rip)),
        other => (found.tick, format!("{other:?}")),
    };
    Ok(answers
        .first
        .iter()
        .chain(&answers.last)
        .map(line)
        .collect())
}
