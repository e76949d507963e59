//! `monitor when`.

use std::fmt::Write as _;

use super::{Armed, Command, Scope, seconds, share};

pub static COMMAND: Command = Command {
    name: "when",
    usage: "when",
    summary: "where we are: tick, share of the recording, guest time, mode, last event",
    manual: "A tick names exactly one state of the machine: the same number is the same state for everybody\n\
             who has the recording. `monitor seek TICK` goes back to it.\n",
    examples: &["when"],
    run,
    ..Command::PLAIN
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    if !args.is_empty() {
        return COMMAND.misused();
    }
    let debuggee = &*scope.debuggee;
    let here = debuggee.position();
    let mut text = String::new();
    let _ = writeln!(
        text,
        "tick {here} of {} to {}",
        debuggee.start(),
        debuggee.end()
    );
    let _ = writeln!(text, "share {}", share(debuggee, here));
    let _ = writeln!(text, "guest time {}", seconds(debuggee.guest_time()));
    for cpu in 0..debuggee.cpus() {
        let next = if cpu == debuggee.current_cpu() {
            " (runs next)"
        } else {
            ""
        };
        let _ = writeln!(text, "cpu{cpu} mode {}{next}", debuggee.mode(cpu));
    }
    match debuggee.last_event() {
        Some((tick, event)) => {
            let _ = writeln!(text, "last event at tick {tick}: {event}");
        }
        None => text.push_str("no event so far\n"),
    }
    match &scope.settings.armed {
        Some(Armed::Seek(tick)) => {
            let _ = writeln!(text, "a seek to tick {tick} waits for `continue`");
        }
        Some(Armed::Ask(line)) => {
            let _ = writeln!(text, "`{line}` waits for `continue`");
        }
        None => {}
    }
    Ok(text)
}
