//! The first pass: runs through a recording once, checks its digests, and leaves a checkpoint at each.
//!
//! It runs on a thread of its own, so that a debugger can already work in the part that is done.

use super::summary::{Summaries, Summary};
use super::traveller::TravelError;
use crate::replay::{Divergence, Replayer};
use crate::tick::Tick;
use crate::trace::Recording;
use checkpoints::Store;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How far the pass has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Checkpoints exist up to this tick.
    pub reached: Tick,
    /// It is over.
    pub finished: bool,
    /// It found a difference.
    pub divergence: Option<Box<Divergence>>,
    /// It could not go on.
    pub failure: Option<String>,
    /// How long it took so far.
    pub elapsed: Duration,
}

struct Shared {
    progress: Mutex<Progress>,
    moved: Condvar,
    stop: AtomicBool,
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

/// A running (or finished) first pass. Dropping it ends the thread.
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
            progress: Mutex::new(Progress::default()),
            moved: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let thread = {
            let (recording, store, shared) = (recording.clone(), store.clone(), shared.clone());
            let summaries = summaries.clone();
            std::thread::Builder::new()
                .name("first pass".into())
                .spawn(move || {
                    let failure = pass(&recording, &store, &summaries, &shared).err();
                    let mut progress = shared.progress.lock();
                    progress.failure = failure.map(|error| error.to_string());
                    progress.finished = true;
                    shared.moved.notify_all();
                })?
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

    /// Waits until checkpoints reach a tick, the pass is over, or `give_up` says so.
    pub fn wait_for(&self, tick: Tick, give_up: impl Fn() -> bool) -> Progress {
        let mut progress = self.shared.progress.lock();
        while progress.reached < tick && !progress.finished && !give_up() {
            self.shared
                .moved
                .wait_for(&mut progress, Duration::from_millis(20));
        }
        progress.clone()
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

fn pass(
    recording: &Arc<Recording>,
    store: &Store,
    summaries: &Summaries,
    shared: &Shared,
) -> Result<(), TravelError> {
    let started = Instant::now();
    let mut replayer = Replayer::new(recording)?;
    let mut base = 0;
    replayer.machine.cpu.take_notes();
    while replayer.tick() < replayer.end() && !shared.stop.load(Ordering::Relaxed) {
        let digest = match replayer.run_to_digest() {
            Ok(digest) => digest,
            Err(divergence) => {
                shared.progress.lock().divergence = Some(Box::new(divergence));
                break;
            }
        };
        let tick = replayer.tick();
        let memory = &replayer.machine.cpu.memory;
        let pages = digest
            .changed
            .iter()
            .map(|&page| (page as u64, memory.page(page as usize)));
        let pin = store.pin(base);
        store.add(tick, Some(base), replayer.save(), pages)?;
        drop(pin);
        if let Some(touched) = replayer.machine.cpu.take_notes() {
            summaries.add(base, tick, Summary::of(*touched));
        }
        base = tick;
        let mut progress = shared.progress.lock();
        progress.reached = tick;
        progress.elapsed = started.elapsed();
        shared.moved.notify_all();
    }
    Ok(())
}
