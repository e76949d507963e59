//! `monitor seek`.
//!
//! GDB keeps registers, frames and memory between commands and a `monitor` command cannot tell it that they changed.
//! So a seek is only armed here, and the next resumption carries it out: GDB then sees an ordinary stop.

use super::{Armed, Command, Completes, Scope, place, share};

pub static COMMAND: Command = Command {
    name: "seek",
    usage: "seek TICK | BOOKMARK | start | end | +TICKS | -TICKS | SHARE%",
    summary: "go to a position in the recording (with the next `continue`)",
    manual: "seek 81204551   to a tick (0x..., 81_204_551 and 81,204,551 are understood too)\n\
             seek start      to the first tick\n\
             seek end        to the last one, where the crash is\n\
             seek +1000      1000 ticks further on\n\
             seek -1000      1000 ticks back\n\
             seek 12.5%      to a share of the recording\n\
             seek panic      to a bookmark\n\
             \n\
             The seek happens when the machine is resumed next: type `continue`. That one does not run\n\
             the machine, it stops at once at the new position. With gdb-scripts/retrovisor.py loaded,\n\
             `rv seek ...` does both.\n",
    examples: &["seek end", "seek -1000", "seek 12.5%"],
    words: &["start", "end"],
    completes: Completes::Bookmark,
    resumes: true,
    run,
    ..Command::PLAIN
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let [place] = args else {
        return COMMAND.misused();
    };
    let tick = place::parse(scope, place)?;
    scope.settings.armed = Some(Armed::Seek(tick));
    let share = share(&*scope.debuggee, tick);
    Ok(format!(
        "to tick {tick} ({share}): type `continue` to go there"
    ))
}
