//! The recordings of a run as files: their names, and what is said when they begin and end.

use anyhow::Result;
use std::path::{Path, PathBuf};

use super::fill::CacheKeeper;
use super::output::{self, shell_word, thousands};
use super::progress::Progress;
use super::record::{random_identity, resolve, summary, unix_seconds};
use crate::record::console::release_signals;
use crate::record::emulated::Outcome;
use crate::record::keeper::Keeper;
use crate::record::moment::Came;
use crate::record::phases::{Position, RunError, Take, TakeEnd, Takes};
use crate::tick::GuestNs;
use crate::timeline::cache::CacheOptions;

/// Recordings that go to files: the first to the one that the user named, the others beside it.
pub struct FileTakes {
    first: PathBuf,
    begun: u32,
    cache: CacheOptions,
    /// The console is on this terminal.
    quiet: bool,
    /// What is shown, and whether of a recording.
    progress: Option<(bool, Progress)>,
    /// Guest time when the recording that is made began.
    since_ns: GuestNs,
    made: Vec<Made>,
}

/// A recording that has ended.
struct Made {
    path: PathBuf,
    outcome: Outcome,
    untimed: bool,
    said: bool,
}

impl FileTakes {
    /// The first recording goes to `first`.
    pub fn new(first: &Path, cache: &CacheOptions, quiet: bool) -> FileTakes {
        FileTakes {
            first: first.into(),
            begun: 0,
            cache: cache.clone(),
            quiet,
            progress: None,
            since_ns: 0,
            made: Vec::new(),
        }
    }

    /// The file of the next recording. Nobody has named any but the first: they replace nothing.
    fn next_path(&mut self) -> PathBuf {
        loop {
            self.begun += 1;
            let path = numbered(&self.first, self.begun);
            if self.begun == 1 || !path.exists() {
                return path;
            }
        }
    }

    /// A line for the user, away from what the guest has left on the terminal.
    fn say(&self, line: &str) {
        if self.quiet {
            // If standard output is gone the recording goes on.
            let _ = output::result("\r\n");
        }
        output::note(line);
    }

    /// The run is over: finds the ticks of what has none yet, and says what there is.
    pub fn finish(mut self) -> Result<()> {
        self.progress = None;
        if self.quiet {
            // The guest may have left the cursor anywhere.
            output::result("\n")?;
        }
        let mut failed = None;
        for made in &mut self.made {
            if made.untimed {
                // Whoever does not want to wait for the ticks leaves that to the next command.
                release_signals();
                match resolve(&made.path) {
                    Ok(found) => {
                        made.outcome.ticks = found.ticks;
                        made.outcome.events = found.events;
                        made.outcome.bytes =
                            std::fs::metadata(&made.path).map_or(found.bytes, |m| m.len());
                    }
                    Err(error) => {
                        failed.get_or_insert(error);
                        continue;
                    }
                }
            }
            if !made.said {
                output::note(&summary(&made.path, &made.outcome));
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some(last) = self.made.last() {
            output::note(&format!(
                "next: retrovisor {} --at end",
                shell_word(&last.path.display().to_string())
            ));
        }
        Ok(())
    }
}

/// `boot.rvr`, `boot-2.rvr`, `boot-3.rvr`.
fn numbered(first: &Path, number: u32) -> PathBuf {
    if number <= 1 {
        return first.into();
    }
    let stem = first.file_stem().unwrap_or_default().to_string_lossy();
    let name = match first.extension() {
        Some(extension) => format!("{stem}-{number}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{number}"),
    };
    first.with_file_name(name)
}

impl Takes for FileTakes {
    fn begin(&mut self, guest_ns: GuestNs, came: Option<&Came>) -> Result<Take, RunError> {
        self.progress = None;
        self.since_ns = guest_ns;
        let path = self.next_path();
        if let Some(came) = came {
            self.say(&format!(
                "{}: recording begins at {:.3} s of guest time: {came}",
                path.display(),
                guest_ns as f64 / 1e9
            ));
        }
        Ok(Take {
            path,
            identity: random_identity().map_err(|error| RunError::NoTake(error.to_string()))?,
            created_unix_s: unix_seconds(),
        })
    }

    fn keeper(&mut self) -> Box<dyn Keeper> {
        Box::new(CacheKeeper::new(&self.cache))
    }

    fn progress(&mut self, position: Position) {
        if self.quiet {
            return;
        }
        let shown = match &self.progress {
            Some((recorded, progress)) if *recorded == position.recorded => progress,
            _ => {
                let what = if position.recorded {
                    "recording"
                } else {
                    "running"
                };
                &self
                    .progress
                    .insert((position.recorded, Progress::open_ended(what)))
                    .1
            }
        };
        let mut text = format!("{:.1} s of guest time", position.guest_ns as f64 / 1e9);
        if let Some(ticks) = position.ticks {
            text += &format!(", {} million ticks", thousands(ticks / 1_000_000));
        }
        if position.recorded {
            text += &format!(", {:.1} MB", position.bytes as f64 / 1e6);
        }
        shown.set(position.ticks.unwrap_or(position.guest_ns), text);
    }

    fn end(&mut self, take: &Take, end: TakeEnd) {
        self.progress = None;
        let TakeEnd {
            mut outcome,
            untimed,
            runs_on,
        } = end;
        // What is said is how long it is.
        outcome.guest_ns = outcome.guest_ns.saturating_sub(self.since_ns);
        if runs_on && untimed {
            let name = take.path.display();
            self.say(&format!(
                "{name}: recording ended; the machine runs on, and the ticks are found when it has ended"
            ));
        } else if runs_on {
            self.say(&format!(
                "{}; the machine runs on",
                summary(&take.path, &outcome)
            ));
        }
        self.made.push(Made {
            path: take.path.clone(),
            outcome,
            untimed,
            said: runs_on && !untimed,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |first: &str, n| numbered(Path::new(first), n).display().to_string();
        assert_eq!(name("a/boot.rvr", 1), "a/boot.rvr");
        assert_eq!(name("a/boot.rvr", 2), "a/boot-2.rvr");
        assert_eq!(name("a.b/boot", 12), "a.b/boot-12");
    }
}
