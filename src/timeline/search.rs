//! Searching backwards: interval by interval from the position to the start, the last hit before here.

use super::api::{StopReason, WatchKind};
use super::traveller::{TravelError, Traveller};
use crate::cpu::run::Exit;
use crate::cpu::stops;
use crate::tick::Tick;
use checkpoints::Store;
use std::sync::atomic::AtomicBool;

/// A stop that was found: the position to go to, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The position: a breakpoint's instruction comes next; a watchpoint's access comes next.
    pub tick: Tick,
    /// Which stop.
    pub reason: StopReason,
}

/// What a watchpoint's hit is called to a debugger.
pub fn watch_reason(hit: &stops::WatchHit) -> StopReason {
    let kind = match hit.watchpoint.kind {
        stops::WatchKind::Write => WatchKind::Write,
        stops::WatchKind::Read => WatchKind::Read,
        stops::WatchKind::Access => WatchKind::Access,
    };
    StopReason::Watchpoint {
        addr: hit.watchpoint.address,
        kind,
    }
}

/// The last hit in the positions from `from` (a checkpoint) up to but not including `until`.
fn last_in_interval(
    traveller: &mut Traveller,
    from: Tick,
    until: Tick,
    interrupt: &AtomicBool,
) -> Result<Option<Hit>, TravelError> {
    traveller.restore(from)?;
    let mut last = None;
    let mut pass = false;
    while traveller.tick() < until {
        match traveller.run(until, pass, interrupt)? {
            Exit::Breakpoint => {
                let addr = traveller.replayer().machine.cpu.linear_rip();
                last = Some(Hit {
                    tick: traveller.tick(),
                    reason: StopReason::Breakpoint { addr },
                });
                pass = true;
            }
            Exit::Watchpoint(hit) => {
                // The position is behind the access; just before it is one tick earlier.
                last = Some(Hit {
                    tick: traveller.tick() - 1,
                    reason: watch_reason(&hit),
                });
                pass = false;
            }
            _ => break,
        }
    }
    Ok(last)
}

/// The last hit of the traveller's stops before a position.
pub fn last_before(
    traveller: &mut Traveller,
    store: &Store,
    position: Tick,
    interrupt: &AtomicBool,
) -> Result<Option<Hit>, TravelError> {
    let mut until = position;
    while until > 0 {
        let from = store.nearest(until - 1).unwrap_or(0);
        if let Some(hit) = last_in_interval(traveller, from, until, interrupt)? {
            return Ok(Some(hit));
        }
        until = from;
    }
    Ok(None)
}
