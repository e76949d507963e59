//! The timeline: the one part that goes backward.
//!
//! The engine only ever runs forward. Going back is: restore the nearest checkpoint, run forward, and, where
//! something is looked for, search. Breakpoints belong here and are never inside a checkpoint.

pub mod api;
mod debuggee;
pub mod pass;
pub mod search;
pub mod traveller;
mod view;

use crate::cpu::stops as cpu_stops;
use crate::tick::Tick;
use crate::trace::Recording;
use api::{Direction, Stop, StopReason, Stops, WatchKind};
use checkpoints::{Config, Store};
use pass::FirstPass;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use traveller::{TravelError, Traveller};

/// Memory for checkpoints: with one guest of its own for the first pass, a server of a 256 MiB guest stays within
/// guest RAM plus 512 MiB.
const CHECKPOINT_MEMORY: u64 = 192 << 20;
/// Checkpoints on the trail behind the position that are kept at most.
const TRAIL_MAX: usize = 96;
/// The last checkpoint of a trail is no farther from the position than this: a millisecond of replay.
const TRAIL_NEAREST: Tick = 1 << 14;

/// A recording, at a position.
pub struct Timeline {
    recording: Arc<Recording>,
    store: Arc<Store>,
    pass: FirstPass,
    traveller: Traveller,
    /// Ticks of the trail's checkpoints, oldest first.
    trail: VecDeque<Tick>,
}

impl Timeline {
    /// Opens a recording at its start, and starts the first pass through it.
    pub fn open(recording: Arc<Recording>) -> Result<Timeline, TravelError> {
        let store = Arc::new(Store::new(&Config {
            memory_budget_bytes: CHECKPOINT_MEMORY,
            spill: Some(scratch_path()),
            ..Config::default()
        })?);
        let traveller = Traveller::new(&recording, &store)?;
        let pass = FirstPass::start(&recording, &store).map_err(|error| {
            crate::replay::ReplayError::Unsupported(format!(
                "no thread for the first pass: {error}"
            ))
        })?;
        Ok(Timeline {
            recording,
            store,
            pass,
            traveller,
            trail: VecDeque::new(),
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
        &self.traveller.replayer().machine
    }

    /// Goes to a tick.
    pub fn go(&mut self, tick: Tick, interrupt: &AtomicBool) -> Result<(), TravelError> {
        let tick = tick.min(self.traveller.end());
        let interrupted = || interrupt.load(std::sync::atomic::Ordering::Relaxed);
        // Where the pass has not been yet it is as quick as anybody.
        let distance = self.recording.config().digest_distance_ticks.max(1);
        if self.traveller.tick() > tick || tick - self.traveller.tick() > 2 * distance {
            self.pass.wait_for(tick / distance * distance, interrupted);
        }
        let mut made = Vec::new();
        let result = self
            .traveller
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
        if self.traveller.tick() >= self.traveller.end() {
            return stop(StopReason::HistoryEnd);
        }
        self.traveller.set_debugger_stops(stops, Direction::Forward);
        let end = self.traveller.end();
        match self.traveller.run(end, true, interrupt) {
            Ok(crate::cpu::run::Exit::Breakpoint) => {
                let addr = self.machine().cpu.linear_rip();
                stop(StopReason::Breakpoint { addr })
            }
            Ok(crate::cpu::run::Exit::Watchpoint(hit)) => stop(search::watch_reason(&hit)),
            Ok(_) => stop(StopReason::HistoryEnd),
            Err(error) => stop(reason_of(error)),
        }
    }

    /// Runs backward to the last stop before the position.
    fn run_backward(&mut self, stops: &Stops, interrupt: &AtomicBool) -> Stop {
        let here = self.traveller.tick();
        if stops.is_empty() || here == 0 {
            return match self.go(0, interrupt) {
                Ok(()) => stop(StopReason::HistoryStart),
                Err(error) => stop(reason_of(error)),
            };
        }
        self.traveller
            .set_debugger_stops(stops, Direction::Backward);
        let found = search::last_before(&mut self.traveller, &self.store, here, interrupt);
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
