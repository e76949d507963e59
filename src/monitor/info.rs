//! `monitor info`.

use std::fmt::Write as _;

use super::{Command, Scope, seconds};

pub static COMMAND: Command = Command {
    name: "info",
    usage: "info",
    summary: "what was recorded: machine, length, events, how it ended",
    manual: "Shows the machine, the length of the recording in ticks (one instruction, one iteration of a\n\
             repeated string instruction or one delivered interrupt each), its events by kind, its size\n\
             and why it ended.\n",
    examples: &["info"],
    run,
    ..Command::PLAIN
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    if !args.is_empty() {
        return COMMAND.misused();
    }
    let debuggee = &scope.debuggee;
    let what = debuggee.describe();
    let mut rows = what.machine;
    rows.push(("processors".into(), debuggee.cpus().to_string()));
    let (start, end) = (debuggee.start(), debuggee.end());
    rows.push((
        "ticks".into(),
        format!("{} ({start} to {end})", end.saturating_sub(start)),
    ));
    rows.push(("bytes".into(), what.bytes.to_string()));
    rows.push(("digests".into(), what.digests.to_string()));
    rows.push(("end".into(), what.end));
    rows.push((
        "events".into(),
        what.events.iter().map(|(_, n)| n).sum::<u64>().to_string(),
    ));
    rows.extend(
        what.events
            .into_iter()
            .map(|(kind, n)| (format!("  {kind}"), n.to_string())),
    );
    rows.push((
        "position".into(),
        format!(
            "{}, {}",
            debuggee.position(),
            seconds(debuggee.guest_time())
        ),
    ));
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:width$}  {value}");
    }
    Ok(text)
}
