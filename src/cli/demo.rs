//! `retrovisor demo`: records a guest that goes wrong, serves the recording, and shows the GDB session that finds
//! out why.

use crate::record::emulated::Processor;
use crate::record::live::Random;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::arguments::{DEFAULT_ADDRESS, DemoArguments, Place};
use super::demo_linux;
use super::output::{self, shell_word};
use super::record::{random_identity, record_with_progress, summary, unix_seconds};
use super::serve;
use crate::demo::own_kernel;
use crate::gdb::Server;
use crate::record::console::{Console, OutputOnly, catch_signals};
use crate::record::emulated::Plan;
use crate::timeline::Timeline;
use crate::timeline::cache::CacheOptions;
use crate::trace::{EndReason, Recording};

/// The guest's clock: the same every time, so that the demonstration is.
pub const RTC: u64 = 1_767_225_600;
/// GDB's commands beyond those of the server.
const BINDINGS: [(&str, &str); 2] = [
    (
        "retrovisor.py",
        include_str!("../../gdb-scripts/retrovisor.py"),
    ),
    (
        "retrovisor_commands.py",
        include_str!("../../gdb-scripts/retrovisor_commands.py"),
    ),
];

/// GDB's commands, given what `target remote` takes.
pub type Session = Box<dyn Fn(&str) -> Vec<String>>;

/// A recording, and how to look at it.
pub struct Scene {
    /// The recording.
    pub recording: PathBuf,
    /// The file with the guest's symbols.
    pub symbols: PathBuf,
    /// What to type.
    pub session: Session,
    /// What GDB has to say after its `reverse-continue` if it has found the culprit.
    pub proof: Vec<String>,
    /// What it is about.
    pub story: &'static str,
}

/// Demonstrates.
pub fn run(arguments: &DemoArguments) -> Result<ExitCode> {
    // An address that was asked for and cannot be had is known before the work.
    let server = bind(arguments)?;
    fs::create_dir_all(&arguments.dir)
        .with_context(|| format!("{}: cannot be made", arguments.dir.display()))?;
    // GDB resolves relative names against a directory of its own.
    let directory = arguments
        .dir
        .canonicalize()
        .with_context(|| format!("{}", arguments.dir.display()))?;
    catch_signals().context("cannot catch signals")?;
    let cache = arguments.cache.options();
    let scene = if arguments.linux {
        demo_linux::record(&directory, &cache)?
    } else {
        record_own_kernel(&directory, &cache)?
    };
    let Some(scene) = scene else {
        return Ok(ExitCode::FAILURE);
    };
    for (name, text) in BINDINGS {
        fs::write(directory.join(name), text)
            .with_context(|| format!("{}: cannot be written to", directory.display()))?;
    }
    let quit = serve::quit_on_signals()?;
    let mut timeline = serve::open(
        Arc::new(Recording::open(&scene.recording)?),
        &arguments.cache,
        Place::End,
    )?;
    serve::go_to(&mut timeline, Place::End, &quit)?;
    if quit.load(Ordering::Relaxed) {
        return Ok(ExitCode::FAILURE);
    }
    show(arguments, &directory, &scene, &server, &mut timeline, &quit)
}

/// Serves, and starts GDB or says how.
fn show(
    arguments: &DemoArguments,
    directory: &Path,
    scene: &Scene,
    server: &Server,
    timeline: &mut Timeline,
    quit: &Arc<AtomicBool>,
) -> Result<ExitCode> {
    let address = server.address()?;
    let session = (scene.session)(&address);
    let script = directory.join("session.gdb");
    let bindings = directory.join("retrovisor.py");
    fs::write(&script, script_text(scene, &session, &bindings))
        .with_context(|| format!("{}: cannot be written", script.display()))?;
    let command = format!(
        "gdb -q -x {} {}",
        shell_word(&script.display().to_string()),
        shell_word(&scene.symbols.display().to_string())
    );
    let mut text = format!("\n{}\n\nThe session in GDB:\n", scene.story);
    for line in &session {
        text += &format!("    (gdb) {line}\n");
    }
    text += &format!(
        "\nserving {} at {address}, at its end\nnext: {command}\n",
        shell_word(&scene.recording.display().to_string())
    );
    output::result(&text)?;

    let gdb = find_gdb();
    let interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    match (gdb, arguments.check) {
        (Some(gdb), true) => check(&gdb, &script, scene, server, timeline, quit),
        (None, true) => bail!("no gdb on this machine (package gdb)"),
        (Some(gdb), false) if interactive && !arguments.no_gdb => {
            talk(&gdb, &script, scene, server, timeline)?;
            output::note(&format!(
                "next: retrovisor {} --at end",
                shell_word(&scene.recording.display().to_string())
            ));
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            output::note("Ctrl-C ends the server");
            serve::serve(server, timeline, quit)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// The session as a file for GDB: each command is shown before it is carried out.
fn script_text(scene: &Scene, session: &[String], bindings: &Path) -> String {
    let mut text = format!(
        "# {}\nset pagination off\nset confirm off\nset trace-commands on\n",
        scene.story.replace('\n', "\n# ")
    );
    for line in session {
        text += line;
        text.push('\n');
    }
    text += "set trace-commands off\nset pagination on\n";
    // Last, because a GDB without Python stops here. `source` takes its argument as it stands.
    text += &format!("source {}\n", bindings.display());
    text
}

/// A GDB that starts: `$GDB`, else `gdb`, else `gdb-multiarch`.
fn find_gdb() -> Option<PathBuf> {
    let named = std::env::var_os("GDB").map(PathBuf::from);
    named
        .into_iter()
        .chain(["gdb".into(), "gdb-multiarch".into()])
        .find(|program| {
            Command::new(program)
                .args(["-nx", "-batch", "-ex", "set architecture i386:x86-64"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        })
}

/// GDB on this terminal, with the session; then the user goes on.
fn talk(
    gdb: &Path,
    script: &Path,
    scene: &Scene,
    server: &Server,
    timeline: &mut Timeline,
) -> Result<()> {
    let mut child = Command::new(gdb)
        .arg("-q")
        .arg("-x")
        .arg(script)
        .arg(&scene.symbols)
        .spawn()
        .with_context(|| format!("cannot start {}", gdb.display()))?;
    // Ctrl-C at this terminal is GDB's; the server ends when GDB does.
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            let _ = child.wait();
            over.store(true, Ordering::Relaxed);
        });
        server.serve(timeline, over)
    })
    .context("the server's socket")
}

/// GDB with nobody there: shows what it says, and whether it found the culprit.
fn check(
    gdb: &Path,
    script: &Path,
    scene: &Scene,
    server: &Server,
    timeline: &mut Timeline,
    quit: &Arc<AtomicBool>,
) -> Result<ExitCode> {
    let child = Command::new(gdb)
        .args(["-nx", "-q", "-batch", "-x"])
        .arg(script)
        .arg(&scene.symbols)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", gdb.display()))?;
    let (said, served) = std::thread::scope(|scope| {
        let quit_when_over = quit.clone();
        let waiter = scope.spawn(move || {
            let output = child.wait_with_output();
            quit_when_over.store(true, Ordering::Relaxed);
            output
        });
        let served = server.serve(timeline, quit);
        (waiter.join(), served)
    });
    served.context("the server's socket")?;
    let said = match said {
        Ok(output) => output.context("cannot read what GDB says")?,
        Err(_) => bail!("cannot read what GDB says"),
    };
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    output::result(&text)?;
    io::stderr().write_all(&said.stderr)?;
    let after = text
        .split_once("+reverse-continue")
        .map_or("", |(_, after)| after);
    let missing: Vec<&String> = scene
        .proof
        .iter()
        .filter(|proof| !after.contains(proof.as_str()))
        .collect();
    if missing.is_empty() {
        output::result("\ncheck: GDB has found the culprit\n")?;
        Ok(ExitCode::SUCCESS)
    } else {
        bail!("check: GDB has not found the culprit: it does not say {missing:?}");
    }
}

/// The address asked for, or the usual one, or, where that is taken, any.
fn bind(arguments: &DemoArguments) -> Result<Server> {
    match &arguments.gdb {
        Some(address) => Ok(Server::bind(address)?),
        None => Server::bind(DEFAULT_ADDRESS)
            .or_else(|_| Server::bind("127.0.0.1:0"))
            .map_err(Into::into),
    }
}

/// Records the small kernel.
fn record_own_kernel(directory: &Path, cache: &CacheOptions) -> Result<Option<Scene>> {
    let written = own_kernel::write_to(directory)
        .with_context(|| format!("{}: cannot be written to", directory.display()))?;
    let recording = directory.join("demo.rvr");
    let plan = Plan {
        kernel: own_kernel::ELF,
        kernel_name: written.elf.display().to_string(),
        initrd: None,
        initrd_name: None,
        cmdline: String::new(),
        ram_bytes: own_kernel::RAM_BYTES,
        cpu: Processor::default(),
        protocol: None,
        ticks_max: None,
        guest_ns_max: None,
        rtc_epoch_s: RTC,
        created_unix_s: unix_seconds(),
        random: Random::System,
        identity: random_identity()?,
    };
    if !record(&plan, &recording, cache)? {
        return Ok(None);
    }
    let line = own_kernel::culprit_line().context("the demo kernel has no culprit")?;
    let (file, text) = own_kernel::CULPRIT;
    Ok(Some(Scene {
        recording,
        symbols: written.elf.clone(),
        session: Box::new(move |remote| own_kernel::gdb_session(&written, remote)),
        proof: vec![
            format!("{file}:{line}\n"),
            format!("{line}\t        {text}\n"),
        ],
        story: "The bank's books do not balance, though every transfer was right. Somebody has overwritten\n\
                `issued`, long ago. Watch it and run backwards: the last write is the culprit.",
    }))
}

/// Records, with the guest's console on standard output.
fn record(plan: &Plan, file: &Path, cache: &CacheOptions) -> Result<bool> {
    record_with(plan, file, console_on_stdout()?, cache)
}

/// A console that shows the guest's output on standard output.
pub fn console_on_stdout() -> Result<Box<dyn Console>> {
    let out = io::stdout()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot use standard output as the console")?;
    Ok(Box::new(OutputOnly::new(Some(File::from(out)))))
}

/// Records. `false`: the user did not want to wait for the end.
pub fn record_with(
    plan: &Plan,
    file: &Path,
    console: Box<dyn Console>,
    cache: &CacheOptions,
) -> Result<bool> {
    let outcome = record_with_progress(plan, file, console, cache, io::stdout().is_terminal())?;
    output::note(&summary(file, &outcome));
    Ok(!matches!(outcome.reason, EndReason::Signal(_)))
}
