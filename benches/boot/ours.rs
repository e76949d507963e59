//! What this program does as a child of itself: one run of our engine.

use crate::{Failure, Options};
use retrovisor::cli::fill::CacheKeeper;
use retrovisor::cpu::cpuid::Processor;
use retrovisor::gdb::Server;
use retrovisor::record::console::OutputOnly;
use retrovisor::record::emulated::{Plan, record, record_kept, run_unrecorded};
use retrovisor::record::live::Random;
use retrovisor::replay::Replayer;
use retrovisor::timeline::cache::CacheOptions;
use retrovisor::timeline::{Opening, Timeline};
use retrovisor::trace::{EndReason, Recording};
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// The guest in the engine, nothing recorded.
    Unrecorded,
    /// The guest, recorded.
    Record,
    /// The guest, recorded, and the cache of checkpoints filled on the way.
    Kept,
    /// The recording replayed, every digest checked.
    Verify,
    /// The first pass over the recording: a replay that fills the cache.
    Pass,
    /// The recording served to GDB from its start, without a cache.
    Serve,
    /// The recording served to GDB from its end, with the cache that its recorder has filled.
    ServeKept,
}

impl Mode {
    /// As on the command line and in the results.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Unrecorded => "unrecorded",
            Mode::Record => "record",
            Mode::Kept => "record+cache",
            Mode::Verify => "verify",
            Mode::Pass => "first pass",
            Mode::Serve => "serve",
            Mode::ServeKept => "serve-kept",
        }
    }

    /// As the child's argument.
    pub fn argument(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self);
        value.map_or_else(String::new, |value| value.get_name().to_string())
    }

    /// Whether the guest's words are heard in the run.
    pub fn speaks(self) -> bool {
        self != Mode::Pass
    }
}

/// Does it. Prints the length in ticks when done, or, when serving, the address as soon as it listens.
pub fn run(mode: Mode, options: &Options) -> Result<(), Failure> {
    let recording = options.recording.as_deref().ok_or("no --recording")?;
    let ticks = match mode {
        Mode::Unrecorded | Mode::Record | Mode::Kept => boot(mode, options, recording)?,
        Mode::Verify => verify(options, recording)?,
        Mode::Pass => pass(recording)?,
        Mode::Serve => return serve(recording, Opening::default()),
        Mode::ServeKept => return serve(recording, kept()),
    };
    println!("{ticks}");
    Ok(())
}

fn console(options: &Options) -> Result<File, Failure> {
    let path = options.console.as_deref().ok_or("no --console")?;
    Ok(File::create(path)?)
}

fn boot(mode: Mode, options: &Options, recording: &Path) -> Result<u64, Failure> {
    let kernel = fs::read(options.kernel.as_deref().ok_or("no --kernel")?)?;
    let initrd = fs::read(options.initrd.as_deref().ok_or("no --initrd")?)?;
    let plan = Plan {
        kernel: &kernel,
        kernel_name: "kernel".to_string(),
        initrd: Some(&initrd),
        initrd_name: Some("initrd".to_string()),
        cmdline: options.append.clone(),
        ram_bytes: options.memory << 20,
        cpu: Processor::default(),
        protocol: None,
        ticks_max: None,
        guest_ns_max: None,
        // Any day will do; the same one in every run.
        rtc_epoch_s: 1_700_000_000,
        created_unix_s: 0,
        random: Random::Seeded(1),
        // Its own, so that no other recording's cache is taken for its.
        identity: fastrand::u128(..).to_le_bytes(),
    };
    let console = Box::new(OutputOnly::new(Some(console(options)?)));
    let outcome = match mode {
        Mode::Record => record(&plan, recording, console, |_, _, _| {})?,
        Mode::Kept => {
            let mut keeper = CacheKeeper::new(&CacheOptions::beside());
            record_kept(&plan, recording, console, &mut keeper, |_, _, _| {})?
        }
        _ => run_unrecorded(&plan, console)?,
    };
    match outcome.reason {
        EndReason::PowerOff => Ok(outcome.ticks),
        other => Err(format!("the guest ended with: {other}").into()),
    }
}

fn verify(options: &Options, recording: &Path) -> Result<u64, Failure> {
    let recording = Arc::new(Recording::open(recording)?);
    let mut console = console(options)?;
    let mut replayer = Replayer::new(&recording)?;
    replayer.world.collect_console();
    while replayer.tick() < replayer.end() {
        replayer
            .run_to_digest()
            .map_err(|divergence| divergence.to_string())?;
        console.write_all(&replayer.world.take_console())?;
    }
    Ok(replayer.end())
}

/// Opened from the end, with the cache.
fn kept() -> Opening {
    Opening {
        cache: CacheOptions::beside(),
        near: u64::MAX,
    }
}

/// The whole pass; what a former one has left is thrown away.
fn pass(recording: &Path) -> Result<u64, Failure> {
    let recording = Arc::new(Recording::open(recording)?);
    let options = CacheOptions::beside();
    if let Some(file) = options.file(recording.path(), recording.config())
        && file.exists()
    {
        fs::remove_file(file)?;
    }
    let opening = Opening {
        cache: options,
        near: 0,
    };
    let timeline = Timeline::open_with(recording.clone(), &opening)?;
    timeline.pass().wait_for(u64::MAX, || false);
    let progress = timeline.pass().progress();
    if progress.reached != recording.last_tick() {
        return Err(format!("the pass has not come to the end: {progress:?}").into());
    }
    Ok(progress.ran)
}

fn serve(recording: &Path, opening: Opening) -> Result<(), Failure> {
    let recording = Arc::new(Recording::open(recording)?);
    let server = Server::bind("127.0.0.1:0")?;
    let last = recording.last_tick();
    let mut timeline = Timeline::open_with(recording, &opening)?;
    if opening.near > 0 {
        timeline.go(last, &AtomicBool::new(false))?;
    }
    println!("{}", server.address()?);
    // The parent ends the process.
    server.serve(&mut timeline, &AtomicBool::new(false))?;
    Ok(())
}
