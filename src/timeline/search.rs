//! Searching backwards: interval by interval from the position to the start, the last hit before here.

use super::api::{StopReason, Stops};
use super::summary::Summaries;
use super::traveller::{TravelError, Traveller};
use super::view;
use crate::cpu::run::Exit;
use crate::cpu::stops;
use crate::tick::Tick;
use checkpoints::Store;
use std::sync::atomic::{AtomicBool, Ordering};

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
    StopReason::Watchpoint {
        addr: hit.watchpoint.address,
        kind: view::watch_kind(hit.watchpoint.kind),
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
            Exit::Event(event) => {
                last = Some(Hit {
                    tick: traveller.tick() - 1,
                    reason: StopReason::Event(event),
                });
                pass = false;
            }
            _ => break,
        }
    }
    Ok(last)
}

/// An interval to be searched: from a checkpoint up to but not including a tick.
type Interval = (Tick, Tick);

/// The next intervals, going back from `until`, that can hold a hit: at most `count`. Gives also how far back was
/// looked.
fn candidates(
    store: &Store,
    summaries: &Summaries,
    stops: &Stops,
    mut until: Tick,
    count: usize,
) -> (Vec<Interval>, Tick) {
    let mut found = Vec::new();
    while until > 0 && found.len() < count {
        let from = store.nearest(until - 1).unwrap_or(0);
        if summaries.may_hit(from, until, stops) {
            found.push((from, until));
        }
        until = from;
    }
    (found, until)
}

/// Searches some intervals, newest first, at the same time; the newest hit wins.
fn newest_hit(
    travellers: &mut [Traveller],
    intervals: &[Interval],
    interrupt: &AtomicBool,
) -> Result<Option<Hit>, TravelError> {
    if let ([traveller, ..], [(from, until)]) = (&mut *travellers, intervals) {
        return last_in_interval(traveller, *from, *until, interrupt);
    }
    // Older intervals are given up as soon as a newer one has a hit.
    let cancel: Vec<AtomicBool> = intervals.iter().map(|_| AtomicBool::new(false)).collect();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = travellers
            .iter_mut()
            .zip(intervals)
            .enumerate()
            .map(|(n, (traveller, &(from, until)))| {
                let cancel = &cancel;
                scope.spawn(move || {
                    let result = last_in_interval(traveller, from, until, &cancel[n]);
                    if !matches!(result, Ok(None)) {
                        cancel[n + 1..]
                            .iter()
                            .for_each(|flag| flag.store(true, Ordering::Relaxed));
                    }
                    result
                })
            })
            .collect();
        // The user's interrupt reaches everybody.
        while !threads.iter().all(|thread| thread.is_finished()) {
            if interrupt.load(Ordering::Relaxed) {
                cancel
                    .iter()
                    .for_each(|flag| flag.store(true, Ordering::Relaxed));
            }
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect::<Vec<_>>()
    });
    for result in results {
        if let Some(hit) = result? {
            return Ok(Some(hit));
        }
    }
    Ok(None)
}

/// The last hit of the travellers' stops before a position. Intervals whose summary excludes all stops are not run;
/// the others are searched by all travellers at once.
pub fn last_before(
    travellers: &mut [Traveller],
    store: &Store,
    summaries: &Summaries,
    stops: &Stops,
    position: Tick,
    interrupt: &AtomicBool,
) -> Result<Option<Hit>, TravelError> {
    let mut until = position;
    // The nearest interval alone: where the last hit mostly is.
    let mut at_once = 1;
    while until > 0 {
        let (intervals, looked) = candidates(store, summaries, stops, until, at_once);
        if !intervals.is_empty()
            && let Some(hit) = newest_hit(travellers, &intervals, interrupt)?
        {
            return Ok(Some(hit));
        }
        until = looked;
        at_once = travellers.len();
    }
    Ok(None)
}

/// The first tick at or after `from` from which a forward run has to look for stops: the start of an interval that can
/// hold a hit, or the end.
pub fn next_candidate(
    store: &Store,
    summaries: &Summaries,
    stops: &Stops,
    from: Tick,
    end: Tick,
) -> Tick {
    let mut start = from;
    while start < end {
        let next = store.next_after(start).unwrap_or(end).min(end);
        if summaries.may_hit(start, next, stops) {
            return start;
        }
        start = next;
    }
    end
}
