//! From an untimed recording to one of ticks: the engine runs it, and finds the tick of everything that came by itself.
//!
//! An interrupt stands in an untimed recording with the access after which it came and the state at which it came. The
//! engine runs from that access with a breakpoint at that RIP, and compares at each hit (`search.rs`). From equal
//! states all that follows is equal, so the first place where *everything* is equal is right even where the processor
//! really stood at a later one. Registers alone may be equal too early, while memory still changes: then a check that
//! comes later fails (registers at the next access, or the hashes of changed pages), and the resolver goes back to the
//! last proven point, keeps all places but the last, and takes the next one for that: a search by depth.
//!
//! The hashes of changed pages prove a point: registers and RAM are those of the real machine, so that nothing before
//! it is ever asked again.

mod base;
#[cfg(test)]
mod counter_tests;
mod search;
#[cfg(test)]
mod tests;
mod world;

use super::divergence::Divergence;
use super::replayer::{ReplayError, disassemble};
use crate::cpu::run::Exit;
use crate::cpu::state::State;
use crate::cpu::world::Interrupt;
use crate::machine::{Machine, STATE_VERSION, compare, model_from_leaves};
use crate::tick::{NS_PER_TICK, Tick};
use crate::trace::{
    Digest, End, EndReason, Error as TraceError, Event, PageList, Recording, What, Writer,
};
use base::{Base, Mark};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;
use world::{JournalWorld, Position};

/// Places that are tried without getting any further before a recording is given up.
const TRIES_MAX: u64 = 200_000;
/// Between two events of a recording there is no more than this: the recorder stops a guest that does nothing.
const TICKS_MOST: u64 = 8 << 30;

/// Why an untimed recording cannot be resolved.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// As for any replay.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// Somebody else works at the file.
    #[error("{}: is still being recorded, or another process is finding its ticks; wait for that", .0.display())]
    Busy(PathBuf),
    /// The engine does something else than the processor did.
    #[error("{0}")]
    Diverged(Box<Divergence>),
}

impl From<TraceError> for ResolveError {
    fn from(error: TraceError) -> Self {
        ReplayError::from(error).into()
    }
}

impl From<crate::machine::StateError> for ResolveError {
    fn from(error: crate::machine::StateError) -> Self {
        ReplayError::from(error).into()
    }
}

/// How resolving went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Length in ticks.
    pub ticks: Tick,
    /// Events written.
    pub events: u64,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Places where something came by itself and had to be searched.
    pub placed: u64,
    /// States that were compared for them.
    pub candidates: u64,
    /// Places that were found to be wrong later.
    pub wrong: u64,
    /// Pages in which only marks in page tables differed.
    pub marks: u64,
}

/// A difference on the way; whether it is one is known when all other places were tried.
struct Failure {
    event: u64,
    divergence: Divergence,
}

/// Where something came by itself, as far as is known, and the way back to it.
struct Place {
    tick: Tick,
    mark: Option<Mark>,
    /// The log before the event that says so.
    world: Position,
    made: usize,
    digested: Option<Tick>,
}

/// Why a run stopped.
#[derive(PartialEq, Eq)]
enum Stop {
    /// At the tick that was asked for.
    Tick,
    /// Behind the access that was asked for, or at a difference.
    Access,
    /// At the breakpoint.
    Breakpoint,
}

/// The end of a stretch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stretch {
    /// A proven point.
    Proven,
    /// The events are used up.
    Over,
}

/// What makes ticks of an untimed recording.
struct Resolver {
    recording: Arc<Recording>,
    machine: Machine,
    world: JournalWorld,
    base: Base,
    base_world: Position,
    writer: Writer,
    digest_distance: Tick,
    /// The last digest, so that none is made twice.
    digested: Option<Tick>,
    base_digested: Option<Tick>,
    found: Resolved,
}

/// Resolves `recording` into a new file at `path`. `progress` hears how much of the events is
/// done, from 0 to 1.
pub fn resolve(
    recording: &Arc<Recording>,
    path: &Path,
    mut progress: impl FnMut(f64),
) -> Result<Resolved, ResolveError> {
    let mut resolver = Resolver::new(recording, path)?;
    loop {
        let stretch = resolver.stretch()?;
        resolver.commit()?;
        let total = recording.events().max(1);
        progress(resolver.world.event() as f64 / total as f64);
        if stretch == Stretch::Over {
            return resolver.finish();
        }
    }
}

/// Resolves the untimed recording at `path`, which the result replaces. If another process has done that meanwhile, its
/// result is as good.
pub fn resolve_in_place(path: &Path, progress: impl FnMut(f64)) -> Result<Resolved, ResolveError> {
    let failed = |source| TraceError::Open {
        path: path.into(),
        source,
    };
    // One at a time, and not while it is recorded. Not every file system knows of locks.
    let locked = File::open(path).map_err(failed)?;
    if let Err(TryLockError::WouldBlock) = locked.try_lock() {
        return Err(ResolveError::Busy(path.into()));
    }
    let recording = Arc::new(Recording::open(path)?);
    if !recording.config().untimed {
        return Ok(Resolved {
            ticks: recording.last_tick(),
            events: recording.events(),
            bytes: recording.bytes(),
            ..Resolved::default()
        });
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".resolving");
    let beside = PathBuf::from(beside);
    let done = resolve(&recording, &beside, progress).and_then(|found| {
        if !is_same(&locked, path) {
            return Err(ResolveError::Busy(path.into()));
        }
        let renamed = std::fs::rename(&beside, path).map_err(failed);
        renamed.map(|()| found).map_err(Into::into)
    });
    if done.is_err() {
        // Half a file is of no use; the untimed one stays.
        let _ = std::fs::remove_file(&beside);
    }
    done
}

/// Whether a path still leads to a file.
fn is_same(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

impl Resolver {
    fn new(recording: &Arc<Recording>, path: &Path) -> Result<Resolver, ResolveError> {
        let config = recording.config();
        if config.cpus != 1 || config.ns_per_tick != NS_PER_TICK {
            let what = format!(
                "the recording has {} processors and ticks of {} ns; this version resolves one, and {NS_PER_TICK} ns",
                config.cpus, config.ns_per_tick
            );
            return Err(ReplayError::Unsupported(what).into());
        }
        let leaves = config.cpuid.iter();
        let model =
            model_from_leaves(leaves.map(|l| (l.leaf, l.subleaf, [l.eax, l.ebx, l.ecx, l.edx])));
        let mut machine = Machine::new(config.ram_bytes, model).map_err(ReplayError::from)?;
        let memory = &mut machine.cpu.memory;
        recording.ram(|number, page| memory.write(number << 12, page) == page.len())?;
        let state = recording.state()?;
        machine.restore(0, state.version, &state.bytes)?;
        let mut timed = config.clone();
        timed.untimed = false;
        timed.counter = false;
        let mut writer = Writer::create(path, &timed)?;
        let memory = &machine.cpu.memory;
        let numbers: Vec<u64> = (0..memory.pages())
            .map(|page| memory.page_address(page) >> 12)
            .collect();
        writer.ram(numbers, |number, out| {
            memory.read(number << 12, out);
        })?;
        writer.state(STATE_VERSION, &machine.save())?;
        let base = Base::new(&mut machine).map_err(ReplayError::from)?;
        let world = JournalWorld::new(recording);
        Ok(Resolver {
            recording: recording.clone(),
            base_world: world.position(),
            machine,
            world,
            base,
            writer,
            digest_distance: config.digest_distance_ticks.max(1),
            digested: None,
            base_digested: None,
            found: Resolved::default(),
        })
    }

    /// Goes back to the last proven point, or to a mark since.
    fn go_back(&mut self, mark: Option<&Place>) -> Result<(), ResolveError> {
        let Some((place, mark)) = mark.and_then(|place| Some((place, place.mark.as_ref()?))) else {
            self.base.restore(&mut self.machine)?;
            self.world.seek(&self.base_world, 0);
            self.digested = self.base_digested;
            return Ok(());
        };
        self.base.restore_mark(&mut self.machine, mark)?;
        self.world.seek(&place.world, place.made);
        self.digested = place.digested;
        Ok(())
    }

    /// Runs to the next proven point (or the end), with as many tries as it takes.
    fn stretch(&mut self) -> Result<Stretch, ResolveError> {
        let mut places: Vec<Place> = Vec::new();
        let mut floor = 0;
        let mut first = 0;
        let mut furthest: Option<Failure> = None;
        let mut tries = 0;
        while tries < TRIES_MAX {
            let kept = places.len();
            let failure = match self.attempt(&mut places, first, kept, floor)? {
                Ok(stretch) => {
                    self.found.placed += places.len() as u64;
                    return Ok(stretch);
                }
                Err(failure) => failure,
            };
            if furthest.as_ref().is_none_or(|f| f.event < failure.event) {
                furthest = Some(failure);
                tries = 0;
            }
            tries += 1;
            let Some(wrong) = places.pop() else {
                break;
            };
            log::debug!("the place at tick {} is wrong", wrong.tick);
            self.found.wrong += 1;
            floor = wrong.tick + 1;
            first = if wrong.mark.is_some() {
                places.len()
            } else {
                0
            };
            self.go_back(Some(&wrong))?;
        }
        let failure = furthest.expect("whoever comes here has failed");
        Err(ResolveError::Diverged(Box::new(failure.divergence)))
    }

    /// One try, from where the machine stands before place `first`: the first `kept` places are known, the one after
    /// them is searched from `floor` on, further ones freely.
    fn attempt(
        &mut self,
        places: &mut Vec<Place>,
        first: usize,
        kept: usize,
        floor: Tick,
    ) -> Result<Result<Stretch, Failure>, ResolveError> {
        let mut next = first;
        loop {
            let Some(control) = self.world.next_control()? else {
                // Answers without the check that follows them belong to an instruction that was not completed.
                return Ok(Ok(Stretch::Over));
            };
            let step = self.reach(control.tick).and_then(|()| {
                let What::Stand(stand) = &control.what else {
                    return self.control(&control);
                };
                let world = self.world.position();
                self.world.pass_control();
                let known = places.get(next).map(|place| place.tick);
                let floor = if next == kept { floor } else { 0 };
                self.place(stand, known, floor)?;
                if known.is_none() {
                    places.push(Place {
                        tick: self.machine.tick(),
                        mark: self.base.mark(&self.machine),
                        world,
                        made: self.world.made(),
                        digested: self.digested,
                    });
                }
                next += 1;
                Ok(false)
            });
            match step {
                Err(failure) => return Ok(Err(failure)),
                Ok(true) => return Ok(Ok(Stretch::Proven)),
                Ok(false) => {}
            }
        }
    }

    /// Runs behind access `accesses`.
    fn reach(&mut self, accesses: u64) -> Result<(), Failure> {
        self.world.set_target(accesses);
        let last = self.machine.tick().saturating_add(TICKS_MOST);
        while self.world.accesses() < accesses {
            let before = self.world.accesses();
            let stop = self.go(last)?;
            if self.world.mismatch().is_some() {
                return Err(self.failure());
            }
            if stop == Stop::Tick || self.world.accesses() == before {
                let replayed = match stop {
                    Stop::Tick => format!("none for {TICKS_MOST} ticks"),
                    _ => "a processor that waits".to_string(),
                };
                self.world.fail(format!("access {accesses}"), replayed);
                return Err(self.failure());
            }
        }
        if self.world.accesses() > accesses || self.world.mismatch().is_some() {
            self.world.fail(
                format!("{accesses} accesses before its next event"),
                format!("{} accesses", self.world.accesses()),
            );
            return Err(self.failure());
        }
        Ok(())
    }

    /// Runs to a tick or to what stops it; digests on the way are made where they belong.
    fn go(&mut self, until: Tick) -> Result<Stop, Failure> {
        let mut pass = true;
        loop {
            let now = self.machine.tick();
            let border = (now / self.digest_distance + 1).saturating_mul(self.digest_distance);
            let exit = self.machine.run(&mut self.world, until.min(border), pass);
            let now = self.machine.tick();
            if now == border {
                self.digest();
                pass = false;
            }
            match exit {
                Exit::Breakpoint => return Ok(Stop::Breakpoint),
                Exit::Ended | Exit::Idle => return Ok(Stop::Access),
                Exit::Tick if now >= until => return Ok(Stop::Tick),
                Exit::Tick => pass = false,
                Exit::Watchpoint(_) | Exit::Event(_) => {}
            }
        }
    }

    /// Adds a digest of the machine here, once a tick.
    fn digest(&mut self) {
        let now = self.machine.tick();
        if self.digested == Some(now) {
            return;
        }
        self.digested = Some(now);
        self.base.note_dirty(&self.machine);
        let state = self.machine.digest();
        let outputs = self.world.outputs();
        self.world.push(
            now,
            What::Digest(Box::new(Digest {
                registers: state.registers,
                pages: state.pages,
                outputs,
            })),
        );
    }

    /// Does what an event says that is no answer. Gives whether the machine's state is proven now.
    fn control(&mut self, control: &Event) -> Result<bool, Failure> {
        self.world.pass_control();
        let now = self.machine.tick();
        match &control.what {
            What::Check { registers } => {
                let ours = compare::general_hash_of(&self.machine.cpu.state) & 0xffff_ffff;
                if ours != *registers {
                    self.world.fail(
                        format!("other registers after access {}", control.tick),
                        format!("RIP {:#x}", self.machine.cpu.state.rip()),
                    );
                }
            }
            What::Clock {
                tsc_offset: guest_ns,
            } => {
                let tsc_offset = guest_ns.wrapping_sub(now.wrapping_mul(NS_PER_TICK));
                self.world.push(now, What::Clock { tsc_offset });
            }
            What::Interrupt { vector } => self.deliver(Interrupt::Vector(*vector))?,
            What::Nmi => self.deliver(Interrupt::Nmi)?,
            What::Dma { gpa, bytes } => {
                self.machine.cpu.dma_write(*gpa, bytes);
                self.world.push(now, control.what.clone());
            }
            What::Pages { bytes } => {
                self.prove(bytes)?;
                return Ok(true);
            }
            What::Counter { value } => self.world.set_counter(*value),
            What::Stand(_) => {}
            note @ What::ConsoleInput { .. } => self.world.push(now, note.clone()),
            other => self
                .world
                .fail(other.to_string(), "no use for it".to_string()),
        }
        match self.world.mismatch() {
            Some(_) => Err(self.failure()),
            None => Ok(false),
        }
    }

    /// Lets an interrupt be taken at the tick where the machine is.
    fn deliver(&mut self, interrupt: Interrupt) -> Result<(), Failure> {
        self.world.arm(interrupt);
        self.world.set_target(u64::MAX);
        let now = self.machine.tick();
        self.go(now + 1)?;
        if self.world.is_armed() {
            self.world.fail(
                format!("{interrupt:?} delivered here"),
                "a processor that cannot take it".to_string(),
            );
        }
        match self.world.mismatch() {
            Some(_) => Err(self.failure()),
            None => Ok(()),
        }
    }

    /// Compares RAM and processor with what the recorder saw; long lists go on in the next events.
    fn prove(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let mut list = PageList::default();
        let mut more = list.add(bytes);
        while more == Some(true) {
            more = match self.world.next_control() {
                Ok(Some(Event {
                    what: What::Pages { bytes },
                    ..
                })) => {
                    self.world.pass_control();
                    list.add(&bytes)
                }
                _ => None,
            };
        }
        let mut differing = Vec::new();
        match more {
            None => differing.push("a list of pages that makes no sense".to_string()),
            Some(_) => match self.base.compare(&self.machine, &list) {
                Ok(marks) => self.found.marks += marks,
                Err(refusal) => differing.push(refusal.what),
            },
        }
        if list.state.len() == size_of::<State>() {
            let recorded: State = bytemuck::pod_read_unaligned(&list.state);
            differing.extend(compare::differences(&recorded, &self.machine.cpu.state));
        } else if !list.state.is_empty() {
            differing.push("a processor state of another version".to_string());
        }
        if differing.is_empty() {
            return Ok(());
        }
        self.world.fail(
            format!("another state here: {}", differing.join(", ")),
            "its own".to_string(),
        );
        Err(self.failure())
    }

    fn divergence(&self, recorded: String, replayed: String) -> Divergence {
        let timed = self.recording.cursor();
        let mut cursor = timed;
        let event = self.world.event();
        cursor.seek(event.saturating_sub(8));
        let mut last_events = Vec::new();
        while cursor.position() < event {
            match cursor.next() {
                Ok(Some(event)) => {
                    last_events.push(format!("access {}: {}", event.tick, event.what))
                }
                _ => break,
            }
        }
        Divergence {
            tick: self.machine.tick(),
            recorded,
            replayed,
            last_events,
            instructions: disassemble(&self.machine),
        }
    }

    fn failure_of(&self, divergence: Divergence) -> Failure {
        Failure {
            event: self.world.event(),
            divergence,
        }
    }

    /// The difference that the world noted.
    fn failure(&self) -> Failure {
        let mismatch = self.world.mismatch().cloned().unwrap_or(world::Mismatch {
            recorded: "something else".to_string(),
            replayed: "this".to_string(),
        });
        self.failure_of(self.divergence(mismatch.recorded, mismatch.replayed))
    }

    /// What was found is written, and never asked again.
    fn commit(&mut self) -> Result<(), ResolveError> {
        for event in self.world.take_timed() {
            self.writer.push(&event)?;
        }
        self.base.advance(&self.machine);
        self.base_world = self.world.position();
        self.base_digested = self.digested;
        Ok(())
    }

    fn finish(mut self) -> Result<Resolved, ResolveError> {
        let ticks = self.machine.tick();
        self.digest();
        for event in self.world.take_timed() {
            self.writer.push(&event)?;
        }
        let mut end = self.recording.end().cloned().unwrap_or(End {
            tick: 0,
            reason: EndReason::WriteFailed("the recorder was killed".to_string()),
            guest_ns: None,
            wall_ms: 0,
            statistics: BTreeMap::new(),
        });
        end.tick = ticks;
        for (name, count) in [
            ("resolved_places", self.found.placed),
            ("resolved_candidates", self.found.candidates),
            ("resolved_wrong", self.found.wrong),
            ("resolved_marked_pages", self.found.marks),
        ] {
            end.statistics.insert(name.to_string(), count);
        }
        self.writer.finish(&end)?;
        self.found.ticks = ticks;
        self.found.events = self.writer.events();
        self.found.bytes = self.writer.bytes();
        Ok(self.found)
    }
}
