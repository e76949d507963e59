//! The timeline: the one part that goes backward.
//!
//! The engine only ever runs forward. Going back is: restore the nearest checkpoint, run forward, and, where
//! something is looked for, search. Breakpoints belong here and are never inside a checkpoint.

pub mod api;
pub mod bookmarks;
mod debuggee;
pub mod pass;
pub mod questions;
pub mod search;
pub mod summary;
pub mod traveller;
mod view;

use crate::cpu::run::Exit;
use crate::cpu::stops as cpu_stops;
use crate::tick::Tick;
use crate::trace::Recording;
use api::{Answers, Direction, Question, Stop, StopReason, Stops, WatchKind};
use bookmarks::Bookmarks;
use checkpoints::{Config, Store};
use pass::FirstPass;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use summary::Summaries;
use traveller::{TravelError, Traveller};

/// Memory for checkpoints: with one guest of its own for the first pass, a server of a 256 MiB guest stays within
/// guest RAM plus 512 MiB.
const CHECKPOINT_MEMORY: u64 = 192 << 20;
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
}

impl Timeline {
    /// Opens a recording at its start, and starts the first pass through it.
    pub fn open(recording: Arc<Recording>) -> Result<Timeline, TravelError> {
        let store = Arc::new(Store::new(&Config {
            memory_budget_bytes: CHECKPOINT_MEMORY,
            spill: Some(scratch_path()),
            ..Config::default()
        })?);
        let travellers = vec![Traveller::new(&recording, &store)?];
        let summaries = Summaries::default();
        let pass = FirstPass::start(&recording, &store, &summaries).map_err(|error| {
            crate::replay::ReplayError::Unsupported(format!(
                "no thread for the first pass: {error}"
            ))
        })?;
        let bookmarks = Bookmarks::beside(recording.path(), recording.config().identity.0);
        Ok(Timeline {
            recording,
            store,
            pass,
            summaries,
            travellers,
            trail: VecDeque::new(),
            bookmarks,
        })
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
        let tick = tick.min(self.travellers[0].end());
        let interrupted = || interrupt.load(std::sync::atomic::Ordering::Relaxed);
        // Where the pass has not been yet it is as quick as anybody.
        let distance = self.recording.config().digest_distance_ticks.max(1);
        if self.travellers[0].tick() > tick || tick - self.travellers[0].tick() > 2 * distance {
            self.pass.wait_for(tick / distance * distance, interrupted);
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

    /// Runs forward to the next stop. Intervals whose summary excludes all stops are jumped over.
    fn run_forward(&mut self, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        let end = self.travellers[0].end();
        let mut pass_breakpoint = true;
        self.travellers[0].set_debugger_stops(stops, Direction::Forward);
        while self.travellers[0].tick() < end {
            let here = self.travellers[0].tick();
            let from = search::next_candidate(&self.store, &self.summaries, stops, here, end);
            // A jump of less than an interval costs more than running.
            if from > here && self.store.nearest(from) == Some(from) {
                if let Err(error) = self.travellers[0].go(from, interrupt) {
                    return stop(reason_of(error));
                }
                pass_breakpoint = false;
                continue;
            }
            let until = self.store.next_after(here).unwrap_or(end).min(end);
            match self.travellers[0].run(until, pass_breakpoint, interrupt) {
                Ok(Exit::Breakpoint) => {
                    let addr = self.machine().cpu.linear_rip();
                    return stop(StopReason::Breakpoint { addr });
                }
                Ok(Exit::Watchpoint(hit)) => return stop(search::watch_reason(&hit)),
                Ok(Exit::Event(event)) => return stop(StopReason::Event(event)),
                Ok(_) => pass_breakpoint = false,
                Err(error) => return stop(reason_of(error)),
            }
        }
        stop(StopReason::HistoryEnd)
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
        let found = self.search_backward(stops, here, interrupt);
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
    fn gather_searchers(&mut self) -> Result<(), TravelError> {
        if self.travellers.len() < SEARCHERS && self.pass.progress().finished {
            self.travellers
                .push(Traveller::new(&self.recording, &self.store)?);
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
        self.gather_searchers()?;
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
        self.gather_searchers()?;
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

/// A place for the scratch file, which loses its name as soon as it is open.
fn scratch_path() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!(
        "retrovisor-{}-{number}.scratch",
        std::process::id()
    ))
}
