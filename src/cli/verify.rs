//! `retrovisor verify`: replays a recording whole and checks every digest.

use anyhow::Result;
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

use super::arguments::FileArguments;
use super::info::end_text;
use super::output::{self, thousands};
use super::progress::Progress;
use crate::replay::{Divergence, Replayer};
use crate::tick::Tick;
use crate::trace::Statistics;

/// The JSON object.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    #[serde(flatten)]
    statistics: &'a Statistics,
    end_text: String,
    /// Where the replay differs, if it does.
    diverged_at: Option<Tick>,
    /// How, in words.
    divergence: Option<String>,
    seconds: f64,
    ticks_per_second: f64,
}

/// Replays and checks.
pub fn run(arguments: &FileArguments) -> Result<ExitCode> {
    let recording = super::open(&arguments.file)?;
    let statistics = recording.statistics()?;
    let mut replayer = Replayer::new(&recording)?;
    let started = Instant::now();
    let divergence = replay(&mut replayer);
    let seconds = started.elapsed().as_secs_f64();
    let ticks = replayer.tick();
    let ticks_per_second = ticks as f64 / seconds.max(1e-9);
    if arguments.json {
        let report = Report {
            file: arguments.file.display().to_string(),
            statistics: &statistics,
            end_text: end_text(&recording),
            diverged_at: divergence.as_ref().map(|d| d.tick),
            divergence: divergence.as_ref().map(Divergence::to_string),
            seconds,
            ticks_per_second,
        };
        output::result(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        let name = arguments.file.display();
        let text = match &divergence {
            None => format!(
                "{name}: good: {} ticks, {} digests, {} events, {:.1} million ticks a second\n",
                thousands(ticks),
                thousands(statistics.digests),
                thousands(statistics.events_total),
                ticks_per_second / 1e6
            ),
            Some(divergence) => format!("{name}: {divergence}\n"),
        };
        output::result(&text)?;
    }
    Ok(ExitCode::from(u8::from(divergence.is_some())))
}

/// Runs to the end, or to the first difference.
fn replay(replayer: &mut Replayer) -> Option<Divergence> {
    let progress = Progress::towards(replayer.end(), "replaying");
    loop {
        if let Err(divergence) = replayer.run_to_digest() {
            return Some(divergence);
        }
        let now = replayer.tick();
        progress.set(now, format!("tick {}", thousands(now)));
        if now >= replayer.end() {
            return None;
        }
    }
}
