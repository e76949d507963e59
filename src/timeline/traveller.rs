//! A machine that can be put at any tick of a recording: the nearest checkpoint, and forward from there.
//!
//! Restoring costs what differs between where the machine is and where it goes, not the size of RAM: the pages
//! written since the checkpoint it came from are known, and the store knows which differ between two checkpoints.

use super::api::{self, Conditions, Direction};
use super::view;
use crate::cpu::events::Event;
use crate::cpu::run::Exit;
use crate::cpu::stops::{Stops, WatchHit};
use crate::replay::{ReplayError, Replayer};
use crate::tick::Tick;
use crate::trace::Recording;
use checkpoints::{Pin, Store};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// A run looks for an interrupt this often: some ten milliseconds.
const SLICE: Tick = 1 << 20;

/// Why a tick cannot be reached.
#[derive(Debug, Error)]
pub enum TravelError {
    /// The user interrupted it.
    #[error("interrupted")]
    Interrupted,
    /// The replay differs from the recording.
    #[error("{0}")]
    Diverged(String),
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] checkpoints::Error),
    /// The replay cannot be set up.
    #[error(transparent)]
    Replay(#[from] ReplayError),
}

/// What RAM was before the pages that are dirty became so.
enum Base {
    /// All zero: a new machine, which stands nowhere yet.
    Zero,
    /// As at a checkpoint.
    At(Pin),
    /// Anything.
    Unknown,
}

/// Keeps a checkpoint that has to be there.
fn pin(store: &Store, tick: Tick) -> Result<Pin, checkpoints::Error> {
    store
        .pin(tick)
        .ok_or(checkpoints::Error::NoCheckpoint(tick))
}

/// A replaying machine with checkpoints to go back to.
pub struct Traveller {
    replayer: Replayer,
    store: Arc<Store>,
    /// What RAM was when `dirty` began to be counted.
    base: Base,
    /// Which hits of breakpoints end a run, and which way the debugger thinks it goes.
    conditions: (Conditions, Direction),
}

impl Traveller {
    /// A machine at the start of a recording, whose checkpoint 0 is made if it is missing.
    pub fn new(recording: &Arc<Recording>, store: &Arc<Store>) -> Result<Traveller, TravelError> {
        let mut replayer = Replayer::new(recording)?;
        if store.nearest(0).is_none() {
            let memory = &replayer.machine.cpu.memory;
            let pages = replayer.start_pages().iter();
            store.add(
                0,
                None,
                replayer.save(),
                pages.map(|&page| (u64::from(page), memory.page(page as usize))),
            )?;
            store.persist(0)?;
        }
        replayer.machine.cpu.take_dirty();
        let base = Base::At(pin(store, 0)?);
        Ok(Traveller::with(replayer, store, base))
    }

    /// A machine that stands nowhere yet: to be put at a checkpoint of the store. Costs nothing.
    pub fn blank(recording: &Arc<Recording>, store: &Arc<Store>) -> Result<Traveller, TravelError> {
        Ok(Traveller::with(
            Replayer::blank(recording)?,
            store,
            Base::Zero,
        ))
    }

    fn with(mut replayer: Replayer, store: &Arc<Store>, base: Base) -> Traveller {
        // Positions between digests are reached without the pages that they are made of.
        replayer.world.check_digests(false);
        Traveller {
            replayer,
            store: store.clone(),
            base,
            conditions: (Conditions::default(), Direction::Forward),
        }
    }

    /// The checkpoint at which it stands, if it does.
    pub fn stands_at(&self) -> Option<Tick> {
        self.base_tick().filter(|&tick| tick == self.tick())
    }

    /// The checkpoint that RAM differs from by what is dirty.
    fn base_tick(&self) -> Option<Tick> {
        match &self.base {
            Base::At(pin) => Some(pin.tick()),
            Base::Zero | Base::Unknown => None,
        }
    }

    /// The replay, to look at.
    pub fn replayer(&self) -> &Replayer {
        &self.replayer
    }

    /// The replay, to run by other means than `run_to`.
    pub fn replayer_mut(&mut self) -> &mut Replayer {
        &mut self.replayer
    }

    /// The position.
    pub fn tick(&self) -> Tick {
        self.replayer.tick()
    }

    /// The last tick of the recording.
    pub fn end(&self) -> Tick {
        self.replayer.end()
    }

    /// Puts the machine at a checkpoint.
    pub fn restore(&mut self, tick: Tick) -> Result<(), TravelError> {
        let pin = pin(&self.store, tick)?;
        let state = self
            .store
            .state(tick)
            .ok_or(checkpoints::Error::NoCheckpoint(tick))?;
        let dirty = self.replayer.machine.cpu.take_dirty();
        let mut pages: Vec<u64> = match &self.base {
            Base::At(base) => {
                let mut pages = self.store.changed_between(base.tick(), tick)?;
                pages.extend(dirty.iter().map(|&page| page as u64));
                pages
            }
            Base::Zero => self.store.pages_at(tick)?,
            Base::Unknown => (0..self.replayer.machine.cpu.memory.pages() as u64).collect(),
        };
        pages.sort_unstable();
        pages.dedup();
        // Until all pages are there, RAM holds anything.
        self.base = Base::Unknown;
        let machine = &mut self.replayer.machine;
        self.store.read_pages(tick, &pages, |page, _, content| {
            // What is the same stays, with the code decoded from it.
            if machine.cpu.memory.page(page as usize) != content {
                machine.replace_page(page as usize, content);
            }
        })?;
        self.replayer.restore(tick, &state)?;
        self.replayer.machine.cpu.take_dirty();
        self.base = Base::At(pin);
        Ok(())
    }

    /// Makes a checkpoint of the position, unless there is one.
    pub fn make_checkpoint(&mut self) -> Result<(), TravelError> {
        if self.base_tick().is_none_or(|base| base == self.tick()) {
            return Ok(());
        }
        let dirty = self.replayer.machine.cpu.take_dirty();
        self.add_checkpoint(&dirty)
    }

    /// Makes a checkpoint of the position, where `changed` are the pages that differ from the last one.
    pub fn add_checkpoint(&mut self, changed: &[u32]) -> Result<(), TravelError> {
        let tick = self.tick();
        let Some(base) = self.base_tick() else {
            return Ok(());
        };
        let memory = &self.replayer.machine.cpu.memory;
        let pages = changed
            .iter()
            .map(|&page| (u64::from(page), memory.page(page as usize)));
        self.store
            .add(tick, Some(base), self.replayer.save(), pages)?;
        self.base = Base::At(pin(&self.store, tick)?);
        Ok(())
    }

    /// Runs forward until a tick or a stop, looking at `interrupt` all the time.
    pub fn run(
        &mut self,
        until: Tick,
        pass_breakpoint: bool,
        interrupt: &AtomicBool,
    ) -> Result<Exit, TravelError> {
        let mut pass = pass_breakpoint;
        loop {
            // Where there are many stops nobody comes past the check of a longer run.
            if interrupt.load(Ordering::Relaxed) {
                return Err(TravelError::Interrupted);
            }
            let slice = until.min(self.tick() + SLICE);
            let exit = self.replayer.run(slice, std::mem::take(&mut pass));
            if let Some(divergence) = self.replayer.world.diverged() {
                return Err(TravelError::Diverged(divergence.to_string()));
            }
            match exit {
                Exit::Tick | Exit::Idle | Exit::Ended if self.tick() >= until => {
                    return Ok(Exit::Tick);
                }
                Exit::Ended => return Ok(Exit::Ended),
                // A hit that does not count: on, past the instruction.
                Exit::Breakpoint if !self.breakpoint_counts() => pass = true,
                Exit::Watchpoint(hit) if !self.watchpoint_counts(&hit) => {}
                Exit::Event(event) if !self.event_counts(&event) => {}
                Exit::Breakpoint | Exit::Watchpoint(_) | Exit::Event(_) => return Ok(exit),
                Exit::Tick | Exit::Idle => {}
            }
        }
    }

    /// Puts the machine at the last checkpoint at or before a tick, unless going on from where it is is nearer.
    pub fn approach(&mut self, tick: Tick) -> Result<(), TravelError> {
        let here = self.tick();
        let nearest = self.store.nearest(tick).unwrap_or(0);
        if self.base_tick().is_some() && here <= tick && here >= nearest {
            return Ok(());
        }
        self.restore(nearest)
    }

    /// Goes to a tick; nothing stops it but `interrupt`.
    pub fn go(&mut self, tick: Tick, interrupt: &AtomicBool) -> Result<(), TravelError> {
        self.approach(tick)?;
        self.replayer.machine.cpu.ignore_stops(true);
        let result = self.run(tick, true, interrupt);
        self.replayer.machine.cpu.ignore_stops(false);
        result.map(|_| ())
    }

    /// Goes to a tick and leaves checkpoints on the way, at distances from it that halve: whoever steps back from
    /// here, again and again, finds one close by.
    pub fn go_with_trail(
        &mut self,
        tick: Tick,
        nearest_ticks: Tick,
        interrupt: &AtomicBool,
        mut made: impl FnMut(Tick),
    ) -> Result<(), TravelError> {
        self.approach(tick)?;
        let mut distance = tick - self.tick();
        while distance > nearest_ticks {
            distance /= 2;
            self.go(tick - distance, interrupt)?;
            self.make_checkpoint()?;
            made(tick - distance);
        }
        self.go(tick, interrupt)
    }

    fn breakpoint_counts(&self) -> bool {
        let (conditions, direction) = &self.conditions;
        let Some(condition) = &conditions.0 else {
            return true;
        };
        let addr = self.replayer.machine.cpu.linear_rip();
        condition.holds(addr, *direction, &mut view::Here::new(&self.replayer))
    }

    fn watchpoint_counts(&self, hit: &WatchHit) -> bool {
        let Some(condition) = &self.conditions.0.0 else {
            return true;
        };
        let watched = (
            hit.watchpoint.address,
            view::watch_kind(hit.watchpoint.kind),
        );
        condition.watch_holds(watched, &mut view::Here::new(&self.replayer))
    }

    fn event_counts(&self, event: &Event) -> bool {
        let Some(condition) = &self.conditions.0.0 else {
            return true;
        };
        condition.event_holds(event, &mut view::Here::new(&self.replayer))
    }

    /// Sets what `run` stops at, all hits of breakpoints included.
    pub fn set_stops(&mut self, stops: Stops) {
        self.replayer.machine.set_stops(stops);
        self.conditions.0 = Conditions::default();
    }

    /// Sets what `run` stops at when a debugger runs in a direction (which for the engine is forward, always).
    pub fn set_debugger_stops(&mut self, stops: &api::Stops, direction: Direction) {
        self.set_stops(super::engine_stops(stops));
        self.conditions = (stops.conditions.clone(), direction);
    }
}
