//! The first pass: runs through what the cache does not know of a recording, checks its digests, and leaves a
//! checkpoint and a summary at each.
//!
//! It runs on threads of its own, so that a debugger can already work in the part that is done. Without a cache it
//! is one run from the start to the end. Where checkpoints exist whose intervals are not summarised (a cache that
//! was damaged, or cut off), it is run from all of them at the same time.

use super::cache;
use super::summary::{Summaries, Summary};
use super::traveller::{TravelError, Traveller};
use crate::replay::Divergence;
use crate::tick::Tick;
use crate::trace::Recording;
use checkpoints::Store;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// RAM of the pass's machines together, in bytes, unless one alone takes more.
const WORKER_RAM: u64 = 512 << 20;

/// How far the pass has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Up to this tick everything is known: checkpoints and summaries.
    pub reached: Tick,
    /// It is over.
    pub finished: bool,
    /// Ticks that were run: the others were known from the cache.
    pub ran: Tick,
    /// It found a difference.
    pub divergence: Option<Box<Divergence>>,
    /// It could not go on.
    pub failure: Option<String>,
    /// The cache has not what it should have.
    pub damaged: bool,
    /// How long it took so far.
    pub elapsed: Duration,
}

/// A stretch to be run through: from a checkpoint to the next that exists, or the end.
type Job = (Tick, Tick);

struct Shared {
    recording: Arc<Recording>,
    store: Arc<Store>,
    summaries: Summaries,
    progress: Mutex<Progress>,
    moved: Condvar,
    /// What the cache knows has been taken over.
    loaded: AtomicBool,
    stop: AtomicBool,
    jobs: Mutex<VecDeque<Job>>,
}

/// Looks at a first pass, from any thread.
#[derive(Clone)]
pub struct Watcher {
    shared: Arc<Shared>,
}

impl Watcher {
    /// How far the pass is.
    pub fn progress(&self) -> Progress {
        self.shared.progress.lock().clone()
    }
}

/// A running (or finished) first pass. Dropping it ends the threads.
pub struct FirstPass {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl FirstPass {
    /// Starts the pass.
    pub fn start(
        recording: &Arc<Recording>,
        store: &Arc<Store>,
        summaries: &Summaries,
    ) -> std::io::Result<FirstPass> {
        let shared = Arc::new(Shared {
            recording: recording.clone(),
            store: store.clone(),
            summaries: summaries.clone(),
            progress: Mutex::new(Progress::default()),
            moved: Condvar::new(),
            loaded: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            jobs: Mutex::default(),
        });
        let thread = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("first pass".into())
                .spawn(move || shared.pass())?
        };
        Ok(FirstPass {
            shared,
            thread: Some(thread),
        })
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.shared.progress.lock().clone()
    }

    /// For those who look at it while others travel.
    pub fn watcher(&self) -> Watcher {
        Watcher {
            shared: self.shared.clone(),
        }
    }

    /// Waits until what can be known of a tick is known (the checkpoint at or before it where digests are taken), the
    /// pass is over, or `give_up` says so.
    pub fn wait_for(&self, tick: Tick, give_up: impl Fn() -> bool) {
        let tick = tick / self.shared.distance() * self.shared.distance();
        let there = || self.shared.store.nearest(tick) == Some(tick);
        self.wait(give_up, |progress| progress.finished || there());
    }

    /// Waits until the summaries of the cache are there.
    pub fn wait_for_summaries(&self, give_up: impl Fn() -> bool) {
        self.wait(give_up, |progress| {
            progress.finished || self.shared.loaded.load(Ordering::Relaxed)
        });
    }

    fn wait(&self, give_up: impl Fn() -> bool, done: impl Fn(&Progress) -> bool) {
        let mut progress = self.shared.progress.lock();
        while !done(&progress) && !give_up() {
            self.shared
                .moved
                .wait_for(&mut progress, Duration::from_millis(20));
        }
    }
}

impl Drop for FirstPass {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn distance(&self) -> Tick {
        self.recording.config().digest_distance_ticks.max(1)
    }

    /// The whole pass, on the thread that is made for it.
    fn pass(self: &Arc<Shared>) {
        let started = Instant::now();
        cache::read_summaries(&self.store, &self.summaries, self.recording.last_tick());
        self.loaded.store(true, Ordering::Relaxed);
        let jobs = self.missing();
        let workers = self.workers(jobs.len());
        *self.jobs.lock() = jobs.into();
        self.move_on(started);
        std::thread::scope(|scope| {
            for number in 1..workers {
                let started = std::thread::Builder::new()
                    .name(format!("first pass {number}"))
                    .spawn_scoped(scope, move || self.work(started));
                if let Err(error) = started {
                    log::debug!("no thread more for the first pass: {error}");
                }
            }
            self.work(started);
        });
        let whole = !self.stop.load(Ordering::Relaxed);
        {
            let mut progress = self.progress.lock();
            progress.finished = true;
            self.moved.notify_all();
        }
        if whole {
            self.store.finish_cache();
        }
    }

    /// The stretches that are not known.
    fn missing(&self) -> Vec<Job> {
        let known = self.store.ticks();
        let summarised = |from, until| self.summaries.has(from, until);
        missing(
            &known,
            self.distance(),
            self.recording.last_tick(),
            summarised,
        )
    }

    /// How many run at the same time: as many as there is something to do for, cores for, and memory.
    fn workers(&self, jobs: usize) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let ram = self.recording.config().ram_bytes.max(1);
        let fit = usize::try_from(WORKER_RAM / ram).unwrap_or(1);
        jobs.min(cores).min(fit).max(1)
    }

    /// Works off jobs until none is left.
    fn work(&self, started: Instant) {
        if let Err(error) = self.work_off(started) {
            self.stop.store(true, Ordering::Relaxed);
            let mut progress = self.progress.lock();
            progress.damaged |= cache::is_damage(&error);
            progress.failure.get_or_insert(error.to_string());
        }
    }

    fn work_off(&self, started: Instant) -> Result<(), TravelError> {
        let mut traveller = None;
        loop {
            let Some(job) = self.jobs.lock().pop_front() else {
                return Ok(());
            };
            let traveller = match &mut traveller {
                Some(traveller) => traveller,
                None => {
                    let new = Traveller::blank(&self.recording, &self.store)?;
                    traveller.insert(new)
                }
            };
            self.run_through(traveller, job, started)?;
        }
    }

    fn run_through(
        &self,
        traveller: &mut Traveller,
        (from, until): Job,
        started: Instant,
    ) -> Result<(), TravelError> {
        if traveller.stands_at() != Some(from) {
            traveller.restore(from)?;
        }
        let replayer = traveller.replayer_mut();
        replayer.world.check_digests(true);
        // Kept when the recording was shorter and did not have the digest of this very tick yet.
        while replayer.world.take_digest(from).is_some() {}
        replayer.machine.cpu.take_notes();
        let mut base = from;
        while base < until {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let digest = match traveller.replayer_mut().run_to_digest() {
                Ok(digest) => digest,
                Err(divergence) => {
                    self.stop.store(true, Ordering::Relaxed);
                    let mut progress = self.progress.lock();
                    let known = progress.divergence.as_ref();
                    if known.is_none_or(|known| divergence.tick < known.tick) {
                        progress.divergence = Some(Box::new(divergence));
                    }
                    return Ok(());
                }
            };
            let tick = traveller.tick();
            traveller.add_checkpoint(&digest.changed)?;
            self.store.persist(tick)?;
            let notes = traveller.replayer_mut().machine.cpu.take_notes();
            if let Some(touched) = notes {
                let summary = Summary::of(*touched);
                cache::write_summary(&self.store, base, tick, &summary);
                self.summaries.add(base, tick, summary);
            }
            self.progress.lock().ran += tick - base;
            base = tick;
            self.move_on(started);
        }
        Ok(())
    }

    /// Tells everybody how far it is.
    fn move_on(&self, started: Instant) {
        let mut progress = self.progress.lock();
        let (end, distance) = (self.recording.last_tick(), self.distance());
        while progress.reached < end {
            let next = next_digest(progress.reached, distance, end);
            if !self.summaries.has(progress.reached, next) || self.store.nearest(next) != Some(next)
            {
                break;
            }
            progress.reached = next;
        }
        progress.elapsed = started.elapsed();
        self.moved.notify_all();
    }
}

fn next_digest(tick: Tick, distance: Tick, end: Tick) -> Tick {
    (tick / distance + 1).saturating_mul(distance).min(end)
}

/// The stretches of a recording that have to be run: `known` are the ticks of checkpoints, ascending from 0, and
/// `summarised` says of an interval between two digests whether its summary is known. Each stretch begins at a
/// checkpoint and goes to the next one.
fn missing(
    known: &[Tick],
    distance: Tick,
    end: Tick,
    summarised: impl Fn(Tick, Tick) -> bool,
) -> Vec<Job> {
    let is_digest = |tick: &Tick| tick.is_multiple_of(distance) && *tick < end;
    let starts: Vec<Tick> = known.iter().copied().filter(is_digest).collect();
    let ends = starts.iter().copied().skip(1).chain([end]);
    let has_end = known.contains(&end);
    starts
        .iter()
        .copied()
        .zip(ends)
        .filter(|&(from, until)| {
            let one = next_digest(from, distance, end) == until;
            !(one && summarised(from, until) && (until < end || has_end))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_begins_at_checkpoints() {
        let all = |_, _| true;
        let none = |_, _| false;
        assert_eq!(missing(&[0], 10, 35, none), [(0, 35)]);
        assert_eq!(missing(&[0], 10, 0, none), []);
        // Those of a trail, and beyond the end, are nothing to go by.
        assert_eq!(
            missing(&[0, 7, 10, 33, 35, 40], 10, 35, none),
            [(0, 10), (10, 35)]
        );
        assert_eq!(missing(&[0, 10, 20, 30, 35], 10, 35, all), []);
        assert_eq!(missing(&[0, 10, 20, 30], 10, 35, all), [(30, 35)]);
        // Without its checkpoint in the middle, a stretch is run though its halves are summarised.
        assert_eq!(missing(&[0, 20, 30, 35], 10, 35, all), [(0, 20)]);
        let but_second = |from, _| from != 10;
        assert_eq!(
            missing(&[0, 10, 20, 30, 35], 10, 35, but_second),
            [(10, 20)]
        );
        // An end that was in the middle of an interval when the recording was shorter.
        let shorter = |from, until| until != 35 && from < 30;
        assert_eq!(missing(&[0, 10, 20, 25, 30], 10, 35, shorter), [(30, 35)]);
    }
}
