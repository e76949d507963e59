//! The timeline: the one part that goes backward.
//!
//! The engine only ever runs forward. Going back is: restore the nearest checkpoint, run forward, and, where
//! something is looked for, search. Breakpoints belong here and are never inside a checkpoint.

pub mod api;
pub mod bookmarks;
pub mod cache;
mod debuggee;
pub mod pass;
pub mod questions;
pub mod search;
pub mod summary;
pub mod traveller;
pub mod view;

use crate::cpu::run::Exit;
use crate::cpu::stops as cpu_stops;
use crate::tick::Tick;
use crate::trace::Recording;
use api::{Answers, Direction, Question, Stop, StopReason, Stops, WatchKind};
use bookmarks::Bookmarks;
use cache::CacheOptions;
use checkpoints::Store;
use pass::FirstPass;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use summary::Summaries;
use traveller::{TravelError, Traveller};

/// Machines that search at the same time: each has RAM of its own.
const SEARCHERS: usize = 2;
/// Checkpoints on the trail behind the position that are kept at most.
const TRAIL_MAX: usize = 96;
/// The last checkpoint of a trail is no farther from the position than this: a millisecond of replay.
const TRAIL_NEAREST: Tick = 1 << 14;

/// A recording, at a position.
pub struct Timeline {
    recording: Arc<Recording>,
    store: Arc<Store>,
    summaries: Summaries,
    pass: FirstPass,
    /// Machines that search; the first one stands at the position.
    travellers: Vec<Traveller>,
    /// Ticks of the trail's checkpoints, oldest first.
    trail: VecDeque<Tick>,
    bookmarks: Bookmarks,
    cache: CacheOptions,
    /// What there is to say about the cache, for people.
    notes: Vec<String>,
}

/// How a recording is opened.
#[derive(Clone, Debug, Default)]
pub struct Opening {
    /// Where its cache is.
    pub cache: CacheOptions,
    /// Where to begin: at the last position at or before this tick that is known without running there.
    pub near: Tick,
}

/// All that stands on one store of checkpoints.
struct Parts {
    store: Arc<Store>,
    summaries: Summaries,
    pass: FirstPass,
    traveller: Traveller,
}

impl Timeline {
    /// Opens a recording at its start, without a cache, and starts the first pass through it.
    pub fn open(recording: Arc<Recording>) -> Result<Timeline, TravelError> {
        Timeline::open_with(recording, &Opening::default())
    }

    /// Opens a recording with its cache, and starts the first pass through what that does not know.
    pub fn open_with(
        recording: Arc<Recording>,
        opening: &Opening,
    ) -> Result<Timeline, TravelError> {
        let mut notes = Vec::new();
        let parts = Parts::open(&recording, &opening.cache, opening.near, &mut notes)?;
        let bookmarks = Bookmarks::beside(recording.path(), recording.config().identity.0);
        Ok(Timeline {
            recording,
            store: parts.store,
            pass: parts.pass,
            summaries: parts.summaries,
            travellers: vec![parts.traveller],
            trail: VecDeque::new(),
            bookmarks,
            cache: opening.cache.clone(),
            notes,
        })
    }

    /// What there is to say about the cache since the last call: a line each.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// Does something; where it turns out on the way that the cache is damaged, it is made anew, and the thing is done
    /// from the same position once more.
    fn healing<T>(
        &mut self,
        interrupt: &AtomicBool,
        mut action: impl FnMut(&mut Timeline) -> Result<T, TravelError>,
    ) -> Result<T, TravelError> {
        let here = self.travellers[0].tick();
        if self.pass.progress().damaged {
            self.start_anew(here, interrupt)?;
        }
        match action(self) {
            Err(error) if cache::is_damage(&error) => {
                log::warn!("{error}; the cache is made anew");
                self.start_anew(here, interrupt)?;
                action(self)
            }
            result => result,
        }
    }

    /// Throws all checkpoints away, the cache too, and goes to a position.
    fn start_anew(&mut self, here: Tick, interrupt: &AtomicBool) -> Result<(), TravelError> {
        let parts = Parts::anew(&self.recording, &self.cache, &self.store)?;
        self.trail.clear();
        self.pass = parts.pass;
        self.store = parts.store;
        self.summaries = parts.summaries;
        self.travellers = vec![parts.traveller];
        self.go_unhealed(here, interrupt)
    }

    /// The recording.
    pub fn recording(&self) -> &Arc<Recording> {
        &self.recording
    }

    /// The first pass.
    pub fn pass(&self) -> &FirstPass {
        &self.pass
    }

    /// What the checkpoints take.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The machine at the position, to look at.
    pub fn machine(&self) -> &crate::machine::Machine {
        &self.travellers[0].replayer().machine
    }

    /// Goes to a tick.
    pub fn go(&mut self, tick: Tick, interrupt: &AtomicBool) -> Result<(), TravelError> {
        self.healing(interrupt, |timeline| timeline.go_unhealed(tick, interrupt))
    }

    fn go_unhealed(&mut self, tick: Tick, interrupt: &AtomicBool) -> Result<(), TravelError> {
        let tick = tick.min(self.travellers[0].end());
        let interrupted = || interrupt.load(std::sync::atomic::Ordering::Relaxed);
        // Where the pass has not been yet it is as quick as anybody.
        let distance = self.recording.config().digest_distance_ticks.max(1);
        if self.travellers[0].tick() > tick
            || tick - self.travellers[0].tick() > distance.saturating_mul(2)
        {
            self.pass.wait_for(tick, interrupted);
        }
        let mut made = Vec::new();
        let result = self.travellers[0]
            .go_with_trail(tick, TRAIL_NEAREST, interrupt, |tick| made.push(tick));
        self.trail.extend(made);
        while self.trail.len() > TRAIL_MAX {
            if let Some(oldest) = self.trail.pop_front()
                && oldest % distance != 0
            {
                self.store.remove(oldest);
            }
        }
        result
    }

    /// Runs forward to the next stop.
    fn run_forward(&mut self, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        self.healing(interrupt, |timeline| {
            timeline.search_forward(stops, interrupt)
        })
        .unwrap_or_else(|error| stop(reason_of(error)))
    }

    /// Intervals whose summary excludes all stops are jumped over.
    fn search_forward(
        &mut self,
        stops: &Stops,
        interrupt: &AtomicBool,
    ) -> Result<Stop, TravelError> {
        let end = self.travellers[0].end();
        let mut pass_breakpoint = true;
        self.travellers[0].set_debugger_stops(stops, Direction::Forward);
        while self.travellers[0].tick() < end {
            let here = self.travellers[0].tick();
            let from = search::next_candidate(&self.store, &self.summaries, stops, here, end);
            // A jump of less than an interval costs more than running.
            if from > here && self.store.nearest(from) == Some(from) {
                self.travellers[0].go(from, interrupt)?;
                pass_breakpoint = false;
                continue;
            }
            let until = self.store.next_after(here).unwrap_or(end).min(end);
            match self.travellers[0].run(until, pass_breakpoint, interrupt)? {
                Exit::Breakpoint => {
                    let addr = self.machine().cpu.linear_rip();
                    return Ok(stop(StopReason::Breakpoint { addr }));
                }
                Exit::Watchpoint(hit) => return Ok(stop(search::watch_reason(&hit))),
                Exit::Event(event) => return Ok(stop(StopReason::Event(event))),
                _ => pass_breakpoint = false,
            }
        }
        Ok(stop(StopReason::HistoryEnd))
    }

    /// Runs backward to the last stop before the position.
    fn run_backward(&mut self, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        let here = self.travellers[0].tick();
        if stops.is_empty() || here == 0 {
            return match self.go(0, interrupt) {
                Ok(()) => stop(StopReason::HistoryStart),
                Err(error) => stop(reason_of(error)),
            };
        }
        let found = self.healing(interrupt, |timeline| {
            timeline.search_backward(stops, here, interrupt)
        });
        let (target, reason) = match found {
            Ok(Some(hit)) => (hit.tick, hit.reason),
            Ok(None) => (0, StopReason::HistoryStart),
            // What was found is thrown away: the position stays where the search was.
            Err(error) => return stop(reason_of(error)),
        };
        match self.go(target, interrupt) {
            Ok(()) => stop(reason),
            Err(error) => stop(reason_of(error)),
        }
    }

    /// A second machine, once the first pass has given back its own: the two fit what the server may take.
    fn gather_searchers(&mut self, interrupt: &AtomicBool) -> Result<(), TravelError> {
        let interrupted = || interrupt.load(std::sync::atomic::Ordering::Relaxed);
        self.pass.wait_for_summaries(interrupted);
        if self.travellers.len() < SEARCHERS && self.pass.progress().finished {
            self.travellers
                .push(Traveller::blank(&self.recording, &self.store)?);
        }
        Ok(())
    }

    /// Answers a question; all machines look for it, and the first one comes back to the position.
    fn answer(
        &mut self,
        question: &Question,
        interrupt: &AtomicBool,
    ) -> Result<Answers, TravelError> {
        let here = self.travellers[0].tick();
        let interrupted = || interrupt.load(std::sync::atomic::Ordering::Relaxed);
        self.pass.wait_for(question.until, interrupted);
        self.gather_searchers(interrupt)?;
        for traveller in &mut self.travellers {
            traveller.set_debugger_stops(&question.stops, Direction::Forward);
        }
        let distance = self.recording.config().digest_distance_ticks.max(1);
        let answers = questions::ask(
            &mut self.travellers,
            &self.store,
            &self.summaries,
            question,
            distance,
            interrupt,
        );
        self.travellers[0].go(here, &AtomicBool::new(false))?;
        answers
    }

    fn search_backward(
        &mut self,
        stops: &Stops,
        here: Tick,
        interrupt: &AtomicBool,
    ) -> Result<Option<search::Hit>, TravelError> {
        self.gather_searchers(interrupt)?;
        for traveller in &mut self.travellers {
            traveller.set_debugger_stops(stops, Direction::Backward);
        }
        // The foreground's machine takes part: it is put where the answer is afterwards anyway.
        let (store, summaries) = (&self.store, &self.summaries);
        search::last_before(
            &mut self.travellers,
            store,
            summaries,
            stops,
            here,
            interrupt,
        )
    }
}

/// A stop of the only processor.
fn stop(reason: StopReason) -> Stop {
    Stop { reason, cpu: 0 }
}

fn reason_of(error: TravelError) -> StopReason {
    match error {
        TravelError::Interrupted => StopReason::Interrupted,
        other => StopReason::Divergence(other.to_string()),
    }
}

/// A debugger's stops as the engine wants them.
fn engine_stops(stops: &Stops) -> cpu_stops::Stops {
    let watchpoints = stops.watchpoints.iter().map(|w| cpu_stops::Watchpoint {
        address: w.addr,
        length: w.len,
        kind: match w.kind {
            WatchKind::Write => cpu_stops::WatchKind::Write,
            WatchKind::Read => cpu_stops::WatchKind::Read,
            WatchKind::Access => cpu_stops::WatchKind::Access,
        },
    });
    cpu_stops::Stops::new(stops.breakpoints.iter().copied(), watchpoints)
        .with_events(stops.events.clone())
}

impl Parts {
    /// Opens what the cache has; a cache that turns out to be damaged at once is made anew.
    fn open(
        recording: &Arc<Recording>,
        options: &CacheOptions,
        near: Tick,
        notes: &mut Vec<String>,
    ) -> Result<Parts, TravelError> {
        let opened = cache::open(options, recording.path(), recording.config())?;
        notes.extend(opened.note);
        let store = Arc::new(opened.store);
        let traveller = match Parts::place(recording, &store, near) {
            Err(error) if cache::is_damage(&error) => {
                notes.push(format!("{error}; the cache is made anew"));
                return Parts::anew(recording, options, &store);
            }
            placed => placed?,
        };
        Parts::start(recording, store, traveller)
    }

    /// Begins again without what a damaged cache has.
    fn anew(
        recording: &Arc<Recording>,
        options: &CacheOptions,
        damaged: &Store,
    ) -> Result<Parts, TravelError> {
        damaged.abandon_cache();
        let open = |options| cache::open(options, recording.path(), recording.config());
        let mut store = open(options)?.store;
        if store.nearest(Tick::MAX).is_some() {
            // Another process writes it, and has to find out for itself.
            store = open(&CacheOptions::default())?.store;
        }
        let store = Arc::new(store);
        let traveller = Traveller::new(recording, &store)?;
        Parts::start(recording, store, traveller)
    }

    /// A machine at the last checkpoint at or before a tick; at the start if there is none.
    fn place(
        recording: &Arc<Recording>,
        store: &Arc<Store>,
        near: Tick,
    ) -> Result<Traveller, TravelError> {
        if store.nearest(0).is_none() {
            return Traveller::new(recording, store);
        }
        let mut traveller = Traveller::blank(recording, store)?;
        let near = near.min(recording.last_tick());
        traveller.restore(store.nearest(near).unwrap_or(0))?;
        Ok(traveller)
    }

    fn start(
        recording: &Arc<Recording>,
        store: Arc<Store>,
        traveller: Traveller,
    ) -> Result<Parts, TravelError> {
        let summaries = Summaries::default();
        let pass = FirstPass::start(recording, &store, &summaries).map_err(|error| {
            crate::replay::ReplayError::Unsupported(format!(
                "no thread for the first pass: {error}"
            ))
        })?;
        Ok(Parts {
            store,
            summaries,
            pass,
            traveller,
        })
    }
}
