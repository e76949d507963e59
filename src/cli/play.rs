//! `retrovisor play`: replays a recording and shows the console as it was.

use anyhow::{Result, bail};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use super::info::end_text;
use super::output::{self, thousands};
use super::progress::Progress;
use crate::machine::Exit;
use crate::replay::Replayer;

/// Ticks between two looks at what the guest printed: a few hundredths of a second.
const SLICE: u64 = 1 << 21;

/// Plays it.
pub fn run(file: &Path) -> Result<ExitCode> {
    let recording = super::open(file)?;
    let mut replayer = Replayer::new(&recording)?;
    replayer.world.collect_console();
    let mut out = io::stdout().lock();
    // On one terminal a bar would run through the guest's lines.
    let progress = if out.is_terminal() {
        Progress::hidden()
    } else {
        Progress::towards(replayer.end(), "replaying")
    };
    loop {
        let digest = replayer.next_digest();
        let exit = replayer.run(digest.min(replayer.tick() + SLICE), false);
        let now = replayer.tick();
        let shown = replayer.world.take_console();
        out.write_all(&shown)?;
        out.flush()?;
        if now == digest || now >= replayer.end() {
            // Gives the divergence, too, if there was one before.
            if let Err(divergence) = replayer.check_digest() {
                bail!("{}: {divergence}", file.display());
            }
        }
        if let Some(divergence) = replayer.world.diverged() {
            bail!("{}: {divergence}", file.display());
        }
        if exit == Exit::Ended && now < replayer.end() {
            bail!(
                "{}: the replay comes to an end at tick {now}, the recording at tick {}",
                file.display(),
                replayer.end()
            );
        }
        if now >= replayer.end() {
            break;
        }
        progress.set(now, format!("tick {}", thousands(now)));
    }
    drop(progress);
    output::note(&format!(
        "{} ticks; {}",
        thousands(replayer.end()),
        end_text(&recording)
    ));
    Ok(ExitCode::SUCCESS)
}
