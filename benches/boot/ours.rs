//! What this program does as a child of itself: one run of our engine.

use crate::{Failure, Options};
use retrovisor::cpu::cpuid::Processor;
use retrovisor::gdb::Server;
use retrovisor::record::console::OutputOnly;
use retrovisor::record::emulated::{Plan, record, run_unrecorded};
use retrovisor::record::live::Random;
use retrovisor::replay::Replayer;
use retrovisor::timeline::Timeline;
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
    /// The recording replayed, every digest checked.
    Verify,
    /// The recording served to GDB, as the command line does it.
    Serve,
}

impl Mode {
    /// As on the command line and in the results.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Unrecorded => "unrecorded",
            Mode::Record => "record",
            Mode::Verify => "verify",
            Mode::Serve => "serve",
        }
    }
}

/// Does it. Prints the length in ticks when done, or, when serving, the address as soon as it listens.
pub fn run(mode: Mode, options: &Options) -> Result<(), Failure> {
    let recording = options.recording.as_deref().ok_or("no --recording")?;
    let ticks = match mode {
        Mode::Unrecorded | Mode::Record => boot(mode, options, recording)?,
        Mode::Verify => verify(options, recording)?,
        Mode::Serve => return serve(recording),
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
        identity: [0; 16],
    };
    let console = Box::new(OutputOnly::new(Some(console(options)?)));
    let outcome = match mode {
        Mode::Record => record(&plan, recording, console, |_, _, _| {})?,
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

fn serve(recording: &Path) -> Result<(), Failure> {
    let recording = Arc::new(Recording::open(recording)?);
    let server = Server::bind("127.0.0.1:0")?;
    println!("{}", server.address()?);
    let mut timeline = Timeline::open(recording)?;
    // The parent ends the process.
    server.serve(&mut timeline, &AtomicBool::new(false))?;
    Ok(())
}
