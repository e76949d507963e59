//! `retrovisor FILE`: serves a recording to GDB.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::arguments::{CacheArguments, DEFAULT_ADDRESS, Place, ServeArguments};
use super::gdb_hint;
use super::output::{self, shell_word, thousands};
use super::progress::Progress;
use crate::gdb::Server;
use crate::tick::Tick;
use crate::timeline::pass::{self, Watcher};
use crate::timeline::traveller::TravelError;
use crate::timeline::{Opening, Timeline};
use crate::trace::Recording;

/// How often the first pass is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Serves until a signal comes.
pub fn run(file: &Path, arguments: &ServeArguments, cache: &CacheArguments) -> Result<ExitCode> {
    let recording = super::open(file)?;
    if let Some(Place::Tick(tick)) = arguments.at
        && tick > recording.last_tick()
    {
        bail!(
            "--at {tick}: the recording ends at tick {}",
            recording.last_tick()
        );
    }
    // An address that cannot be had is known at once. But nobody listens before there is something to say: a GDB that
    // is refused tries again for 15 seconds, one that gets no answer is out of step with us after two.
    let wanted = arguments.gdb.as_deref().unwrap_or(DEFAULT_ADDRESS);
    drop(Server::bind(wanted)?);
    let quit = quit_on_signals()?;
    let kernel = recording.config().kernel.clone();
    let place = arguments.at.unwrap_or(Place::Start);
    let mut timeline = open(recording, cache, place)?;
    go_to(&mut timeline, place, &quit)?;
    if quit.load(Ordering::Relaxed) {
        return Ok(ExitCode::SUCCESS);
    }
    let server = Server::bind(wanted)?;
    let address = server.address()?;
    output::result(&format!(
        "serving {} at {address}: tick {} of {}\nnext: {}\n",
        shell_word(&file.display().to_string()),
        thousands(timeline.machine().tick()),
        thousands(timeline.recording().last_tick()),
        gdb_hint::command(&kernel, &address)
    ))?;
    serve(&server, &mut timeline, &quit)?;
    output::note("the server has ended");
    Ok(ExitCode::SUCCESS)
}

/// Opens a recording's timeline with its cache, near a place.
pub fn open(recording: Arc<Recording>, cache: &CacheArguments, place: Place) -> Result<Timeline> {
    let name = recording.path().display().to_string();
    let opening = Opening {
        cache: cache.options(),
        near: place.tick(recording.last_tick()),
    };
    let mut timeline = Timeline::open_with(recording, &opening).context(name)?;
    timeline
        .take_notes()
        .iter()
        .for_each(|note| output::note(note));
    Ok(timeline)
}

/// Serves until `quit` is set; shows how far the first pass is meanwhile, and what it found.
pub fn serve(server: &Server, timeline: &mut Timeline, quit: &AtomicBool) -> Result<()> {
    let watcher = timeline.pass().watcher();
    let end = timeline.recording().last_tick();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = || quit.load(Ordering::Relaxed) || over.load(Ordering::Relaxed);
        scope.spawn(move || {
            watch(&watcher, end, end, stop);
            report(&watcher.progress());
        });
        let served = server.serve(timeline, quit).context("the server's socket");
        over.store(true, Ordering::Relaxed);
        served
    })
}

/// Goes to where serving shall begin; for that the first pass has to come there.
pub fn go_to(timeline: &mut Timeline, place: Place, quit: &AtomicBool) -> Result<()> {
    let end = timeline.recording().last_tick();
    let target = place.tick(end);
    if target == timeline.machine().tick() {
        return Ok(());
    }
    let watcher = timeline.pass().watcher();
    watch(&watcher, target, end, || quit.load(Ordering::Relaxed));
    match timeline.go(target, quit) {
        Ok(()) | Err(TravelError::Interrupted) => Ok(()),
        Err(TravelError::Diverged(what)) => {
            // What is before the difference can be looked at all the same.
            output::note(&what);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Shows the first pass until it has come to a tick, is over, or `stop` says so.
fn watch(watcher: &Watcher, target: Tick, end: Tick, stop: impl Fn() -> bool) {
    let mut bar = None;
    loop {
        let progress = watcher.progress();
        if progress.finished || progress.reached >= target || stop() {
            return;
        }
        let bar = bar.get_or_insert_with(|| Progress::towards(end, "first pass"));
        bar.set(
            progress.reached,
            format!("tick {}", thousands(progress.reached)),
        );
        thread::sleep(LOOK);
    }
}

/// Says what went wrong in a pass, if it did.
fn report(progress: &pass::Progress) {
    if let Some(divergence) = &progress.divergence {
        output::note(&divergence.to_string());
    }
    if let Some(failure) = &progress.failure {
        output::note(&format!("the first pass has failed: {failure}"));
    }
    log::info!(
        "first pass: {} ticks in {:.1} s",
        progress.reached,
        progress.elapsed.as_secs_f64()
    );
}

/// A flag that SIGINT, SIGTERM and SIGHUP set.
pub fn quit_on_signals() -> Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let quit = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, quit.clone()).context("cannot catch signals")?;
    }
    Ok(quit)
}
