//! The command line: one file a command. What goes wrong is one line on standard error and an exit status that is
//! not 0; results go to standard output, everything else to standard error.

pub mod arguments;
mod demo;
mod demo_linux;
pub mod fill;
mod gdb_hint;
mod info;
mod output;
mod play;
mod progress;
mod record;
mod serve;
mod symbols;
mod takes;
mod verify;
mod when;

use anyhow::{Context, Result};
use arguments::{Command, CommandLine};
use clap::Parser;
use clap::error::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use crate::trace::Recording;

/// Exit status of a command line that makes no sense.
const USAGE: u8 = 2;

/// Does what the process's arguments ask for.
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    start_logging(line.verbose);
    match dispatch(line) {
        Ok(status) => status,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&output::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(line: CommandLine) -> Result<ExitCode> {
    match line.command {
        Some(Command::Info(arguments)) => info::run(&arguments),
        Some(Command::Verify(arguments)) => verify::run(&arguments),
        Some(Command::Play { file }) => play::run(&file),
        Some(Command::Symbols(arguments)) => symbols::run(&arguments),
        Some(Command::Demo(arguments)) => demo::run(&arguments),
        None if line.record.record.is_some() => record::run(&line.record, &line.cache),
        None => match &line.serve.file {
            Some(file) => serve::run(file, &line.serve, &line.cache),
            None => {
                output::complain(
                    "nothing to do: give a recording to serve, --record FILE --kernel IMAGE, or a command \
                     (retrovisor --help)",
                );
                Ok(ExitCode::from(USAGE))
            }
        },
    }
}

/// Help and version are shown as clap has them; an error becomes one line.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // Whoever closes the pipe has read enough.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    // What comes after the first empty line is usage.
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let line: Vec<&str> = lines.map(str::trim).collect();
    let line = line.join(" ");
    let message = line.strip_prefix("error: ").unwrap_or(&line);
    output::complain(&format!("{message} (more: retrovisor --help)"));
    ExitCode::from(USAGE)
}

/// `-v` for what happens, `-vv` for more, `-vvv` for every packet; without it warnings. `RUST_LOG` is heard, too.
fn start_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format(|buffer, record| {
            use std::io::Write;
            write!(
                buffer,
                "retrovisor: {}: {}{}",
                record.level().as_str().to_lowercase(),
                record.args(),
                output::line_end()
            )
        })
        .target(env_logger::Target::Pipe(Box::new(progress::AboveBars)))
        .init();
}

/// Opens a recording for a replay, and says in one line what is missing of it.
fn open(path: &Path) -> Result<Arc<Recording>> {
    let mut recording = Recording::open(path)?;
    if recording.config().untimed {
        output::note(&format!(
            "{}: its recorder did not get to finding the ticks of its events; that is done now",
            path.display()
        ));
        record::resolve(path)?;
        recording = Recording::open(path)?;
    }
    say_if_torn(path, &recording);
    Ok(Arc::new(recording))
}

/// The same without finding ticks.
fn open_as_it_is(path: &Path) -> Result<Arc<Recording>> {
    let recording = Recording::open(path)?;
    say_if_torn(path, &recording);
    Ok(Arc::new(recording))
}

fn say_if_torn(path: &Path, recording: &Recording) {
    if let Some(torn) = recording.torn() {
        let unit = if recording.config().untimed {
            "access"
        } else {
            "tick"
        };
        output::note(&format!(
            "{}: is not whole ({}); it is used up to {unit} {}",
            path.display(),
            torn.why,
            recording.last_tick()
        ));
    }
}

/// Reads a file that the user named.
fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}: cannot read {what}", path.display()))
}
