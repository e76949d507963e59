//! The boot benchmark: a Debian kernel to a busybox `md5sum` and power-off, in retrovisor and in QEMU, side by side.
//!
//! `cargo bench --bench boot` (`-- --help` for the options); what is compared and how: README.md beside this file.
//! Every measured run is a process of its own, so that its processor time and peak memory can be told apart.

mod child;
mod conditions;
mod gdb_mi;
mod latency;
mod ours;
mod packets;
mod qemu;
mod qemu_reverse;
mod qmp;
mod report;
mod samples;

use clap::Parser;
use report::Results;
use retrovisor::demo::initramfs::BENCHMARK_INIT;
use retrovisor::demo::{debian_kernel, initramfs};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What goes wrong here is told to people and ends the benchmark.
type Failure = Box<dyn Error>;

/// Boots Debian in retrovisor and in QEMU, recording and replaying, and compares.
#[derive(Parser, Debug)]
#[command(name = "boot")]
struct Options {
    /// How often everything is run; the runs of all competitors are interleaved
    #[arg(long, env = "BENCH_REPETITIONS", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Random positions at which the latency of reverse-stepi is measured
    #[arg(long, default_value_t = 100)]
    positions: usize,
    /// Seed of the random positions
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Guest RAM in MiB
    #[arg(long, default_value_t = 256)]
    memory: u64,
    /// A bzImage instead of Debian's newest cloud kernel
    #[arg(long, requires = "initrd")]
    kernel: Option<PathBuf>,
    /// The initramfs that goes with --kernel; it must power the machine off
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, default_value = "console=ttyS0")]
    append: String,
    /// Leave QEMU out
    #[arg(long)]
    no_qemu: bool,
    /// Leave GDB out: no latencies, no memory of the server
    #[arg(long)]
    no_gdb: bool,
    /// Also measure reverse-stepi in QEMU, late in the boot (several slow replays)
    #[arg(long)]
    qemu_reverse: bool,
    /// Print the results as JSON to standard output, and the table to standard error
    #[arg(long)]
    json: bool,
    /// Exit with status 1 when a goal is missed or something was skipped
    #[arg(long)]
    check: bool,
    /// Cargo passes this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// One run in this process: what the benchmark starts itself as
    #[arg(long, hide = true, value_enum)]
    child: Option<ours::Mode>,
    /// The recording that the child writes or reads
    #[arg(long, hide = true)]
    recording: Option<PathBuf>,
    /// Where the child's guest prints to
    #[arg(long, hide = true)]
    console: Option<PathBuf>,
}

/// The guest that everybody boots.
struct Guest {
    kernel: PathBuf,
    initrd: PathBuf,
    append: String,
    memory_mib: u64,
    /// For people.
    name: String,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.child {
        Some(mode) => ours::run(mode, &options).map(|()| true),
        None => benchmark(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("boot: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs everything and prints it. Gives whether all that `--check` asks for holds.
fn benchmark(options: &Options) -> Result<bool, Failure> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boot");
    fs::create_dir_all(&scratch)?;
    let guest = guest(options, &scratch)?;
    let mut results = Results::new(&guest);
    let qemu = match options.no_qemu {
        true => None,
        false => results.or_skip("QEMU", qemu::Qemu::find(&guest, &scratch)),
    };
    if let Some(qemu) = &qemu {
        results.competitor(&qemu.version);
    }
    let recording = scratch.join("boot.rvr");
    for repetition in 1..=options.repetitions {
        note(&format!(
            "repetition {repetition} of {}",
            options.repetitions
        ));
        round(&guest, qemu.as_ref(), &scratch, &recording, &mut results)?;
    }
    results.recording(&recording)?;
    if !options.no_gdb
        && let Some(gdb) = results.or_skip("latencies and memory of the server", gdb_mi::find())
    {
        note("latencies, through GDB");
        latency::measure(&gdb, &guest, &recording, options, &mut results)?;
        if options.qemu_reverse
            && let Some(qemu) = &qemu
        {
            note("reverse-stepi in QEMU");
            qemu_reverse::measure(qemu, &gdb, &scratch, &mut results)?;
        }
    }
    if options.json {
        eprint!("{}", results.table());
        println!("{}", serde_json::to_string_pretty(&results.json())?);
    } else {
        print!("{}", results.table());
    }
    Ok(!options.check || results.all_met())
}

/// One run of every kind. They take turns, so that a change in the machine's load hits all alike.
fn round(
    guest: &Guest,
    qemu: Option<&qemu::Qemu>,
    scratch: &Path,
    recording: &Path,
    results: &mut Results,
) -> Result<(), Failure> {
    use ours::Mode;
    use qemu::Mode as Theirs;
    let pairs = [
        (Some(Theirs::Plain), Mode::Unrecorded),
        (Some(Theirs::Record), Mode::Record),
        (None, Mode::Kept),
        (Some(Theirs::Replay), Mode::Verify),
        (None, Mode::Pass),
    ];
    for (theirs, ours) in pairs {
        if let (Some(theirs), Some(qemu)) = (theirs, qemu) {
            let run = qemu.run(theirs)?;
            note(&format!("  QEMU {:<18} {run}", theirs.name()));
            results.add(theirs.name(), true, run)?;
        }
        // A recording of its own, so that the pass does not find its cache.
        let file = match ours {
            Mode::Kept => &recording.with_file_name("kept.rvr"),
            _ => recording,
        };
        let run = child::ours(ours, guest, scratch, file)?;
        note(&format!("  retrovisor {:<12} {run}", ours.name()));
        results.add(ours.name(), false, run)?;
    }
    Ok(())
}

/// The kernel and the initramfs: given, or Debian's newest with the benchmark's own init.
fn guest(options: &Options, scratch: &Path) -> Result<Guest, Failure> {
    if let (Some(kernel), Some(initrd)) = (&options.kernel, &options.initrd) {
        return Ok(Guest {
            kernel: kernel.clone(),
            initrd: initrd.clone(),
            append: options.append.clone(),
            memory_mib: options.memory,
            name: kernel.display().to_string(),
        });
    }
    let found = debian_kernel(scratch, &mut |what| note(what))?;
    let initrd = scratch.join("initramfs.cpio");
    fs::write(
        &initrd,
        initramfs(&fs::read(&found.busybox)?, BENCHMARK_INIT, &[]),
    )?;
    Ok(Guest {
        kernel: found.bzimage,
        initrd,
        append: options.append.clone(),
        memory_mib: options.memory,
        name: format!("Debian {}", found.version),
    })
}

/// Progress, for people.
fn note(text: &str) {
    eprintln!("boot: {text}");
}
