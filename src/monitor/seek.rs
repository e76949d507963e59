//! `monitor seek`.
//!
//! GDB keeps registers, frames and memory between commands and a `monitor` command cannot tell it that they changed.
//! So a seek is only armed here, and the next resumption carries it out: GDB then sees an ordinary stop.

use super::{Command, Scope, share};
use crate::tick::Tick;
use crate::timeline::api::Debuggee;

pub static COMMAND: Command = Command {
    name: "seek",
    usage: "seek TICK | start | end | +TICKS | -TICKS | SHARE%",
    summary: "go to a position in the recording (with the next `continue`)",
    manual: "seek 81204551   to a tick (0x..., 81_204_551 and 81,204,551 are understood too)\n\
             seek start      to the first tick\n\
             seek end        to the last one, where the crash is\n\
             seek +1000      1000 ticks further on\n\
             seek -1000      1000 ticks back\n\
             seek 12.5%      to a share of the recording\n\
             \n\
             The seek happens when the machine is resumed next: type `continue`. That one does not run\n\
             the machine, it stops at once at the new position. With gdb-scripts/retrovisor.py loaded,\n\
             `rv seek ...` does both.\n",
    resumes: true,
    run,
};

fn run(scope: &mut Scope<'_>, args: &[&str]) -> Result<String, String> {
    let [place] = args else {
        return Err(format!("usage: monitor {}", COMMAND.usage));
    };
    let (start, end) = (scope.debuggee.start(), scope.debuggee.end());
    let tick = parse(place, &*scope.debuggee)
        .ok_or_else(|| format!("\"{place}\" is no place in a recording: `monitor help seek`"))?;
    let tick = u64::try_from(tick)
        .ok()
        .filter(|tick| (start..=end).contains(tick))
        .ok_or_else(|| {
            format!("tick {tick} is not in the recording, which goes from {start} to {end}")
        })?;
    *scope.armed = Some(tick);
    let share = share(&*scope.debuggee, tick);
    Ok(format!(
        "to tick {tick} ({share}): type `continue` to go there"
    ))
}

/// The tick that is meant, which may lie outside the recording.
fn parse(place: &str, debuggee: &dyn Debuggee) -> Option<i128> {
    let (start, end) = (debuggee.start(), debuggee.end());
    match place {
        "start" => return Some(start.into()),
        "end" => return Some(end.into()),
        _ => {}
    }
    if let Some(distance) = place.strip_prefix('+') {
        return Some(i128::from(debuggee.position()) + i128::from(number(distance)?));
    }
    if let Some(distance) = place.strip_prefix('-') {
        return Some(i128::from(debuggee.position()) - i128::from(number(distance)?));
    }
    if let Some(share) = place.strip_suffix('%') {
        let (whole, fraction) = share.split_once('.').unwrap_or((share, "0"));
        let length = i128::from(end.saturating_sub(start));
        let scale = 10i128.checked_pow(u32::try_from(fraction.len()).ok().filter(|&n| n <= 12)?)?;
        let parts = i128::from(digits(whole, 10)?) * scale + i128::from(digits(fraction, 10)?);
        return Some(i128::from(start) + length.checked_mul(parts)? / (100 * scale));
    }
    number(place).map(i128::from)
}

/// A count of ticks, decimal or hexadecimal.
fn number(text: &str) -> Option<Tick> {
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
