//! Questions about all of history: every hit of some stops, the first ones, or the last ones, with what was written.
//!
//! Intervals whose summary excludes all stops are left out, the others are run by all machines at the same time, in
//! the order in which their hits are wanted. What is kept of an interval has a bound, however many hits it has.

use super::api::{Answers, FOUND_BYTES_MAX, Found, Question, StopReason, Want, WatchKind};
use super::search;
use super::summary::Summaries;
use super::traveller::{TravelError, Traveller};
use super::view;
use crate::cpu::run::Exit;
use crate::cpu::stops::WatchHit;
use crate::tick::Tick;
use crate::trace::{Class, Recording};
use checkpoints::Store;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Ticks from the first to behind the last.
type Interval = (Tick, Tick);

/// What an interval has to tell.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    first: Vec<Found>,
    /// May overlap with `first`.
    last: VecDeque<Found>,
}

/// How many hits of an interval, or of all of them, are kept.
#[derive(Clone, Copy)]
struct Kept {
    first: usize,
    last: usize,
    /// No more than so many are of interest.
    enough: u64,
}

impl Kept {
    fn of(want: Want) -> Kept {
        match want {
            Want::First(n) => Kept {
                first: n,
                last: 0,
                enough: n as u64,
            },
            Want::Last(n) => Kept {
                first: 0,
                last: n,
                enough: n as u64,
            },
            Want::All { first, last } => Kept {
                first,
                last,
                enough: u64::MAX,
            },
        }
    }
}

impl Tally {
    fn add(&mut self, kept: Kept, found: Found) {
        self.count += 1;
        if kept.last > 0 {
            if self.last.len() == kept.last {
                self.last.pop_front();
            }
            self.last.push_back(found.clone());
        }
        if self.first.len() < kept.first {
            self.first.push(found);
        }
    }
}

/// The intervals that can hold a hit, in order; those that touch are joined up to a length.
fn candidates(
    store: &Store,
    summaries: &Summaries,
    question: &Question,
    joined_ticks_max: Tick,
) -> Vec<Interval> {
    let mut found: Vec<Interval> = Vec::new();
    let mut at = question.from;
    while at < question.until {
        let next = store
            .next_after(at)
            .unwrap_or(question.until)
            .min(question.until);
        if summaries.may_hit(at, next, &question.stops) {
            match found.last_mut() {
                Some(last) if last.1 == at && next - last.0 <= joined_ticks_max => last.1 = next,
                _ => found.push((at, next)),
            }
        }
        at = next;
    }
    found
}

/// Runs an interval and tells of its hits.
fn visit(
    traveller: &mut Traveller,
    (from, until): Interval,
    want: Want,
    interrupt: &AtomicBool,
) -> Result<Tally, TravelError> {
    let kept = Kept::of(want);
    let mut tally = Tally::default();
    traveller.go(from, interrupt)?;
    let mut pass = false;
    while traveller.tick() < until {
        let exit = traveller.run(until, pass, interrupt)?;
        pass = exit == Exit::Breakpoint;
        let Some(found) = found(traveller, exit) else {
            if matches!(exit, Exit::Watchpoint(_)) {
                continue;
            }
            break;
        };
        tally.add(kept, found);
        if matches!(want, Want::First(_)) && tally.count >= kept.enough {
            break;
        }
    }
    Ok(tally)
}

/// What a traveller has just met. `None`: nothing, or an access that came to nothing.
fn found(traveller: &mut Traveller, exit: Exit) -> Option<Found> {
    let here = traveller.tick();
    let cpu = &traveller.replayer().machine.cpu;
    let (tick, rip, reason) = match exit {
        Exit::Breakpoint => {
            let addr = cpu.linear_rip();
            (here, addr, StopReason::Breakpoint { addr })
        }
        Exit::Watchpoint(hit) => (here - 1, hit.rip, search::watch_reason(&hit)),
        Exit::Event(event) => (here - 1, cpu.event_rip(), StopReason::Event(event)),
        _ => return None,
    };
    let (before, after) = match exit {
        Exit::Watchpoint(hit) => contents(traveller, &hit)?,
        _ => (Vec::new(), Vec::new()),
    };
    Some(Found {
        tick,
        time: traveller.replayer_mut().world.time_at(tick),
        rip,
        reason,
        before,
        after,
    })
}

/// The watched bytes before and after an access; `None` where it faulted and changed nothing.
fn contents(traveller: &Traveller, hit: &WatchHit) -> Option<(Vec<u8>, Vec<u8>)> {
    let cpu = &traveller.replayer().machine.cpu;
    let length = hit.watchpoint.length.min(FOUND_BYTES_MAX as u64) as usize;
    let before = cpu.watched_before()[..length].to_vec();
    let mut after = vec![0; length];
    view::read_virtual(cpu, hit.watchpoint.address, &mut after);
    let came_to_nothing = cpu.has_faulted()
        && before == after
        && view::watch_kind(hit.watchpoint.kind) == WatchKind::Write;
    (!came_to_nothing).then_some((before, after))
}

/// What the machines share: intervals in the order in which they are wanted, and what was found in them.
struct Board<'a> {
    intervals: &'a [Interval],
    state: Mutex<State>,
    /// Nobody needs to go on.
    cancel: AtomicBool,
}

struct State {
    next: usize,
    done: Vec<Option<Tally>>,
    /// All that was asked for is there.
    complete: bool,
    failure: Option<TravelError>,
}

impl Board<'_> {
    /// One machine's work.
    fn work(&self, traveller: &mut Traveller, want: Want) {
        loop {
            let number = {
                let mut state = self.state.lock();
                if self.cancel.load(Ordering::Relaxed) || state.next >= self.intervals.len() {
                    return;
                }
                state.next += 1;
                state.next - 1
            };
            let result = visit(traveller, self.intervals[number], want, &self.cancel);
            let mut state = self.state.lock();
            match result {
                Ok(tally) => state.done[number] = Some(tally),
                Err(TravelError::Interrupted) => return,
                Err(error) => {
                    self.cancel.store(true, Ordering::Relaxed);
                    state.failure.get_or_insert(error);
                    return;
                }
            }
            // Hits count only behind intervals that are all done.
            let all = state.done.iter().map_while(|tally| tally.as_ref());
            let (done, count) = all.fold((0, 0), |(n, count), tally| (n + 1, count + tally.count));
            if done == self.intervals.len() || count >= Kept::of(want).enough {
                state.complete = true;
                self.cancel.store(true, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// Answers a question with machines whose stops are set.
pub fn ask(
    travellers: &mut [Traveller],
    store: &Store,
    summaries: &Summaries,
    question: &Question,
    joined_ticks_max: Tick,
    interrupt: &AtomicBool,
) -> Result<Answers, TravelError> {
    let mut intervals = candidates(store, summaries, question, joined_ticks_max);
    let backward = matches!(question.want, Want::Last(_));
    if backward {
        intervals.reverse();
    }
    let board = Board {
        intervals: &intervals,
        state: Mutex::new(State {
            next: 0,
            done: intervals.iter().map(|_| None).collect(),
            complete: intervals.is_empty(),
            failure: None,
        }),
        cancel: AtomicBool::new(false),
    };
    std::thread::scope(|scope| {
        let board = &board;
        let threads: Vec<_> = travellers
            .iter_mut()
            .take(intervals.len())
            .map(|traveller| scope.spawn(move || board.work(traveller, question.want)))
            .collect();
        // The user's interrupt reaches everybody.
        while !threads.iter().all(|thread| thread.is_finished()) {
            if interrupt.load(Ordering::Relaxed) {
                board.cancel.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    let state = board.state.into_inner();
    if let Some(failure) = state.failure {
        return Err(failure);
    }
    if !state.complete {
        return Err(TravelError::Interrupted);
    }
    let mut tallies: Vec<Tally> = state.done.into_iter().map_while(|tally| tally).collect();
    if backward {
        tallies.reverse();
    }
    Ok(together(tallies, Kept::of(question.want)))
}

/// Tallies of intervals in order, made one.
fn together(tallies: Vec<Tally>, kept: Kept) -> Answers {
    let mut all = Tally::default();
    for tally in tallies {
        all.count += tally.count;
        let room = kept.first - all.first.len();
        all.first.extend(tally.first.into_iter().take(room));
        all.last.extend(tally.last);
        let extra = all.last.len().saturating_sub(kept.last);
        all.last.drain(..extra);
    }
    if let Some(told) = all.first.last().map(|found| found.tick) {
        all.last.retain(|found| found.tick > told);
    }
    Answers {
        count: match kept.enough {
            u64::MAX => all.count,
            _ => (all.first.len() + all.last.len()) as u64,
        },
        first: all.first,
        last: all.last.into(),
    }
}

/// Recorded events around a tick, in words: those before it, and those from it on.
pub fn recorded(
    recording: &Arc<Recording>,
    tick: Tick,
    before: usize,
    after: usize,
) -> Vec<(Tick, String)> {
    let Ok(middle) = recording.position_at(tick) else {
        return Vec::new();
    };
    let mut cursor = recording.cursor();
    let mut lines = VecDeque::new();
    let mut at = middle;
    while at > 0 && lines.len() < before {
        at -= 1;
        cursor.seek(at);
        let Ok(Some(event)) = cursor.peek() else {
            break;
        };
        if event.what.kind().class() != Class::Check {
            lines.push_front((event.tick, event.what.to_string()));
        }
    }
    cursor.seek(middle);
    let mut told = 0;
    while told < after {
        let Ok(Some(event)) = cursor.next() else {
            break;
        };
        if event.what.kind().class() != Class::Check {
            lines.push_back((event.tick, event.what.to_string()));
            told += 1;
        }
    }
    lines.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tick: Tick) -> Found {
        Found {
            tick,
            time: tick,
            rip: 0,
            reason: StopReason::Breakpoint { addr: 0 },
            before: Vec::new(),
            after: Vec::new(),
        }
    }

    /// Whatever intervals a list of hits is cut into, the same are told.
    #[test]
    fn what_is_told_does_not_depend_on_the_intervals() {
        for hits in 0..12u64 {
            for cut in 0..=hits {
                for want in [
                    Want::First(3),
                    Want::Last(3),
                    Want::All { first: 2, last: 3 },
                ] {
                    let kept = Kept::of(want);
                    let mut tallies = vec![Tally::default(), Tally::default()];
                    for tick in 0..hits {
                        tallies[usize::from(tick >= cut)].add(kept, found(tick));
                    }
                    let answers = together(tallies, kept);
                    let told = |all: &[Found]| all.iter().map(|f| f.tick).collect::<Vec<_>>();
                    let (first, last, count) = match want {
                        Want::First(n) => (hits.min(n as u64), 0, hits.min(n as u64)),
                        Want::Last(n) => (0, hits.min(n as u64), hits.min(n as u64)),
                        Want::All { first, last } => {
                            let first = hits.min(first as u64);
                            (first, (hits - first).min(last as u64), hits)
                        }
                    };
                    assert_eq!(told(&answers.first), (0..first).collect::<Vec<_>>());
                    assert_eq!(told(&answers.last), (hits - last..hits).collect::<Vec<_>>());
                    assert_eq!(answers.count, count);
                }
            }
        }
    }
}
