//! Places in a recording as users write them, and how lists of ticks are shown.

use std::fmt::Write as _;

use super::{Scope, digits, number, seconds, share};
use crate::tick::{GuestNs, Tick};
use crate::timeline::api::{Debuggee, FOUND_BYTES_MAX, Found};

/// The tick that is meant, which must be in the recording.
pub fn parse(scope: &mut Scope<'_>, place: &str) -> Result<Tick, String> {
    let (start, end) = (scope.debuggee.start(), scope.debuggee.end());
    let tick = match number_of(place, &*scope.debuggee) {
        Some(tick) => tick,
        None => match scope.debuggee.bookmarks().get(place) {
            Ok(tick) => tick.into(),
            Err(_) => {
                return Err(format!(
                    "\"{place}\" is no place in a recording: `monitor help seek`"
                ));
            }
        },
    };
    u64::try_from(tick)
        .ok()
        .filter(|tick| (start..=end).contains(tick))
        .ok_or_else(|| {
            format!("tick {tick} is not in the recording, which goes from {start} to {end}")
        })
}

/// The tick that is meant, which may lie outside the recording; `None` for what may be a bookmark.
fn number_of(place: &str, debuggee: &dyn Debuggee) -> Option<i128> {
    let (start, end) = (debuggee.start(), debuggee.end());
    match place {
        "start" => return Some(start.into()),
        "end" => return Some(end.into()),
        "here" => return Some(debuggee.position().into()),
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

/// Two ticks, if somebody gave them.
type Between = Option<(Tick, Tick)>;

/// Takes `between A B` off the end of a command's words; without it the range is all of history.
pub fn between<'a, 'w>(
    scope: &mut Scope<'_>,
    words: &'w [&'a str],
) -> Result<(&'w [&'a str], Between), String> {
    match words {
        [rest @ .., "between", a, b] => {
            let (a, b) = (parse(scope, a)?, parse(scope, b)?);
            if a > b {
                return Err(format!("between {a} and {b} there is nothing"));
            }
            Ok((rest, Some((a, b))))
        }
        _ if words.contains(&"between") => Err("`between` takes two places".into()),
        _ => Ok((words, None)),
    }
}

/// Where a tick is, for people: "tick 1234 (12.34 %, 0.123456789 s)".
pub fn tell(debuggee: &dyn Debuggee, tick: Tick, time: GuestNs) -> String {
    format!("tick {tick} ({}, {})", share(debuggee, tick), seconds(time))
}

/// Bytes as a number where they are one, else one by one.
pub fn value(bytes: &[u8], length: u64) -> String {
    match bytes.len() {
        1 | 2 | 4 | 8 if length == bytes.len() as u64 => {
            let value = bytes.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
            format!("{value:#x}")
        }
        _ => {
            let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            if length > FOUND_BYTES_MAX as u64 {
                text.push_str("...");
            }
            text
        }
    }
}

/// A list of hits as a table; `rest` columns of each come from `tell`.
pub fn table(
    debuggee: &dyn Debuggee,
    (first, last): (&[Found], &[Found]),
    left_out: u64,
    heading: &str,
    tell: impl Fn(&Found) -> String,
) -> String {
    let mut text = format!(
        "{:>14}  {:>8}  {:>16}  {heading}\n",
        "TICK", "SHARE", "GUEST TIME"
    );
    let mut line = |found: &Found| {
        let share = share(debuggee, found.tick);
        let _ = writeln!(
            text,
            "{:14}  {share:>8}  {:>16}  {}",
            found.tick,
            seconds(found.time),
            tell(found)
        );
    };
    first.iter().for_each(&mut line);
    if left_out > 0 {
        let _ = writeln!(text, "{:>14}  ({left_out} more)", "...");
    }
    let mut line = |found: &Found| {
        let share = share(debuggee, found.tick);
        let _ = writeln!(
            text,
            "{:14}  {share:>8}  {:>16}  {}",
            found.tick,
            seconds(found.time),
            tell(found)
        );
    };
    last.iter().for_each(&mut line);
    text
}
