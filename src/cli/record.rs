//! `retrovisor --record`: runs a guest and writes down what happens to it.

use crate::record::emulated::Processor;
use crate::record::live::Random;
use anyhow::{Context, Result, anyhow, bail};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::arguments::{
    Accel, CacheArguments, ConsoleTarget, CpuLevel, CpuVendor, RecordArguments, Size,
};
use super::fill::CacheKeeper;
use super::output::{self, thousands};
use super::progress::Progress;
use super::takes::FileTakes;
use super::when;
use crate::guest::code::functions;
use crate::record::console::{Console, OutputOnly, Stdio, catch_signals};
use crate::record::emulated::{self, Outcome, Plan, RecordError};
use crate::record::kvm::Host;
use crate::record::phases::{self, Engine, From, Schedule};
use crate::replay::resolve::{Resolved, resolve_in_place};
use crate::timeline::cache::CacheOptions;
use crate::trace::{EndReason, check_place};

/// RAM unless told otherwise.
const DEFAULT_MEMORY: Size = Size(256 << 20);

/// Records.
pub fn run(arguments: &RecordArguments, cache: &CacheArguments) -> Result<ExitCode> {
    let (Some(file), Some(kernel)) = (&arguments.record, &arguments.kernel) else {
        bail!("--record FILE needs --kernel IMAGE");
    };
    let accel = arguments.accel.unwrap_or(Accel::Emulate);
    let before = arguments.accel_before.unwrap_or(accel);
    let mut host = match (accel, before) {
        (Accel::Emulate, Accel::Emulate) => None,
        (Accel::Kvm, _) => Some(Host::open().context("--accel kvm")?),
        (_, Accel::Kvm) => Some(Host::open().context("--accel-before kvm")?),
    };
    if accel == Accel::Kvm && arguments.ticks.is_some() {
        bail!(
            "--ticks N does not go with --accel kvm, where nobody counts while it runs: use --for SECONDS"
        );
    }
    let image = super::read(kernel, "the kernel image")?;
    if let Some(host) = &mut host {
        let image = image.clone();
        host.set_code(move |machine| functions(machine, &image));
        host.set_note(output::note);
    }
    let initrd = arguments
        .initrd
        .as_ref()
        .map(|path| super::read(path, "the initrd"))
        .transpose()?;
    let plan = plan(arguments, kernel, &image, initrd.as_deref())?;
    // What is wrong is found before an old recording is replaced and the terminal is touched.
    emulated::prepare(&plan).map_err(|error| match error {
        RecordError::Boot(error) => anyhow!("{}: {error}", kernel.display()),
        other => other.into(),
    })?;
    let engine = |accel| match (accel, &host) {
        (Accel::Kvm, Some(host)) => Engine::Kvm(host),
        _ => Engine::Emulator,
    };
    let target = arguments.console.clone().unwrap_or(ConsoleTarget::Stdio);
    let schedule = Schedule {
        recorded: engine(accel),
        unrecorded: engine(before),
        from: when::from(arguments.record_from.as_ref(), &image)?,
        until: when::until(arguments.record_until.as_ref(), &image)?,
        find: Some(&when::find),
    };
    check_files(file, &target)?;
    check_place(file)?;
    catch_signals().context("cannot catch signals")?;
    // Bars and a console do not share a terminal.
    let quiet = target == ConsoleTarget::Stdio && io::stdout().is_terminal();
    let console = open_console(&target)?;
    if schedule.from == From::Asked && !console.is_interactive() {
        bail!("--record-from key: there is no terminal on which Ctrl-A r could be typed");
    }
    if let Some(host) = &host {
        output::note(&host.line());
    }
    let mut takes = FileTakes::new(file, &cache.options(), quiet);
    // The machine's RAM is not needed for what follows.
    let ended = phases::run(&plan, &schedule, console, &mut takes)
        .map(|ended| (ended.reason, ended.recordings));
    // What was recorded before something went wrong is kept all the same.
    let finished = takes.finish();
    let (reason, recordings) = ended?;
    finished?;
    if recordings == 0 {
        bail!(
            "nothing was recorded: {}, {}",
            reason,
            when::not_yet(&schedule.from)
        );
    }
    Ok(ExitCode::from(exit_status(&reason)))
}

/// What the arguments ask for.
fn plan<'a>(
    arguments: &RecordArguments,
    kernel: &Path,
    image: &'a [u8],
    initrd: Option<&'a [u8]>,
) -> Result<Plan<'a>> {
    let now = unix_seconds();
    Ok(Plan {
        kernel: image,
        kernel_name: kernel.display().to_string(),
        initrd,
        initrd_name: arguments.initrd.as_ref().map(|p| p.display().to_string()),
        cmdline: arguments.append.clone().unwrap_or_default(),
        cpu: Processor {
            level: arguments.cpu.unwrap_or(CpuLevel::V3).into(),
            vendor: arguments.cpu_vendor.unwrap_or(CpuVendor::Intel).into(),
        },
        ram_bytes: arguments.memory.unwrap_or(DEFAULT_MEMORY).0,
        protocol: arguments.protocol.map(Into::into),
        ticks_max: arguments.ticks,
        guest_ns_max: arguments.for_seconds.map(|seconds| seconds.0),
        rtc_epoch_s: arguments.rtc.unwrap_or(now),
        created_unix_s: now,
        random: Random::System,
        identity: random_identity()?,
    })
}

/// Records, and shows how far it is unless asked to be quiet.
pub fn record_with_progress(
    plan: &Plan,
    file: &Path,
    console: Box<dyn Console>,
    cache: &CacheOptions,
    quiet: bool,
) -> Result<Outcome, emulated::RecordError> {
    let progress = if quiet {
        Progress::hidden()
    } else {
        Progress::open_ended("recording")
    };
    let mut keeper = CacheKeeper::new(cache);
    let show = |tick, guest_ns, bytes| {
        progress.set(
            tick,
            format!(
                "{:.1} s of guest time, {} million ticks, {:.1} MB",
                guest_ns as f64 / 1e9,
                thousands(tick / 1_000_000),
                bytes as f64 / 1e6
            ),
        );
    };
    emulated::record_kept(plan, file, console, &mut keeper, show)
}

/// Finds the ticks of an untimed recording, which is replaced by what comes of it.
pub fn resolve(file: &Path) -> Result<Resolved> {
    const PARTS: u64 = 1000;
    let progress = Progress::towards(PARTS, "finding ticks");
    resolve_in_place(file, |done| {
        progress.set((done * PARTS as f64) as u64, String::new());
    })
    .with_context(|| format!("{}: cannot be replayed", file.display()))
}

/// One line about a recording that was made.
pub fn summary(file: &Path, outcome: &Outcome) -> String {
    format!(
        "{}: {} ticks, {:.3} s of guest time, {} events, {} bytes, in {:.1} s; {}",
        file.display(),
        thousands(outcome.ticks),
        outcome.guest_ns as f64 / 1e9,
        thousands(outcome.events),
        thousands(outcome.bytes),
        outcome.wall.as_secs_f64(),
        outcome.reason
    )
}

/// The recorder's exit status: 0, or what the guest asked for by the debug-exit port, as QEMU makes it.
pub fn exit_status(reason: &EndReason) -> u8 {
    match reason {
        EndReason::DebugExit(value) => (value << 1 | 1) as u8,
        // The recording is good up to there, but it is not what was asked for.
        EndReason::Unsupported(_) | EndReason::WriteFailed(_) => 1,
        _ => 0,
    }
}

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

/// What tells a recording from all others.
pub fn random_identity() -> Result<[u8; 16]> {
    let mut identity = [0; 16];
    getrandom::fill(&mut identity).context("the system gives no random numbers")?;
    Ok(identity)
}

/// The console and the recording must not be one file.
fn check_files(file: &Path, target: &ConsoleTarget) -> Result<()> {
    if let ConsoleTarget::File(console) = target {
        let same = |a: &PathBuf| a.canonicalize().unwrap_or_else(|_| a.clone());
        if same(console) == same(&file.to_path_buf()) {
            bail!(
                "{}: the console and the recording cannot be the same file",
                file.display()
            );
        }
    }
    Ok(())
}

fn open_console(target: &ConsoleTarget) -> Result<Box<dyn Console>> {
    Ok(match target {
        ConsoleTarget::Stdio => {
            let stdio = Stdio::new().context("cannot use standard input as the console")?;
            if stdio.is_interactive() {
                output::note(
                    "Ctrl-A x ends the machine, Ctrl-A e the recording; Ctrl-A h shows help",
                );
            }
            Box::new(stdio)
        }
        ConsoleTarget::None => Box::new(OutputOnly::new(None)),
        ConsoleTarget::File(path) => {
            let file = File::create(path)
                .with_context(|| format!("{}: cannot write the console there", path.display()))?;
            Box::new(OutputOnly::new(Some(file)))
        }
    })
}
