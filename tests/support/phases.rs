//! Runs that are recorded in parts: from a moment on, several times, by one engine after the other.

use retrovisor::cli::fill::CacheKeeper;
use retrovisor::record::console::{Command, Console};
use retrovisor::record::emulated::Plan;
use retrovisor::record::keeper::Keeper;
use retrovisor::record::moment::{Came, Key, Moment};
use retrovisor::record::phases::{
    self, Ended, Engine, From, Position, RunError, Schedule, Take, TakeEnd, Takes,
};
use retrovisor::timeline::cache::CacheOptions;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::recording::Script;

/// What a user does, when this text has come since what was done before; or after so many looks at the console.
#[derive(Clone, Debug)]
pub enum Cue {
    Heard(&'static str),
    Looks(u32),
}

/// A console at which somebody presses keys, too. As [`Script`] it knows no host time.
pub struct Conducted {
    script: Script,
    heard: Arc<Mutex<Vec<u8>>>,
    /// Bytes that were heard when the last key was pressed.
    since: usize,
    looks: u32,
    cues: VecDeque<(Cue, Key)>,
}

impl Conducted {
    /// Types these bytes, and presses these keys. The second value is what the guest sends.
    pub fn new(typed: &[u8], cues: &[(Cue, Key)]) -> (Conducted, Arc<Mutex<Vec<u8>>>) {
        let (script, heard) = Script::new(typed);
        let conducted = Conducted {
            script,
            heard: heard.clone(),
            since: 0,
            looks: 0,
            cues: cues.iter().cloned().collect(),
        };
        (conducted, heard)
    }
}

impl Console for Conducted {
    fn output(&mut self, bytes: &[u8]) {
        self.script.output(bytes);
    }
    fn poll(&mut self) -> Option<Command> {
        self.looks += 1;
        let heard = self.heard.lock().unwrap();
        let new = String::from_utf8_lossy(&heard[self.since..]).into_owned();
        let due = self.cues.front().is_some_and(|(cue, _)| match cue {
            Cue::Heard(text) => new.contains(text),
            Cue::Looks(looks) => self.looks >= *looks,
        });
        if due && let Some((_, key)) = self.cues.pop_front() {
            self.since = heard.len();
            self.looks = 0;
            return Some(Command::Recording(key));
        }
        drop(heard);
        self.script.poll()
    }
    fn input(&mut self) -> &[u8] {
        self.script.input()
    }
    fn consume(&mut self, bytes: usize) {
        self.script.consume(bytes);
    }
    fn is_interactive(&self) -> bool {
        false
    }
    fn input_ended(&self) -> bool {
        self.script.input_ended() && self.cues.is_empty()
    }
    fn wait(&mut self, at_most: Duration) {
        self.script.wait(at_most);
    }
}

/// A recording of a run.
#[derive(Clone, Debug)]
pub struct Part {
    pub path: PathBuf,
    /// What the guest had sent when it began, in bytes; and when it ended.
    pub console: (usize, usize),
    pub began: Option<Came>,
    pub end: Option<TakeEnd>,
}

/// Keeps recordings in a directory, and hears the console.
struct Parts {
    directory: PathBuf,
    heard: Arc<Mutex<Vec<u8>>>,
    made: Vec<Part>,
}

impl Takes for Parts {
    fn begin(&mut self, _guest_ns: u64, came: Option<&Came>) -> Result<Take, RunError> {
        let number = self.made.len() as u8 + 1;
        let path = self.directory.join(format!("part-{number}.rvr"));
        let heard = self.heard.lock().unwrap().len();
        self.made.push(Part {
            path: path.clone(),
            console: (heard, heard),
            began: came.cloned(),
            end: None,
        });
        Ok(Take {
            path,
            identity: [number; 16],
            created_unix_s: 1_700_000_000,
        })
    }
    fn keeper(&mut self) -> Box<dyn Keeper> {
        Box::new(CacheKeeper::new(&CacheOptions::beside()))
    }
    fn progress(&mut self, _position: Position) {}
    fn end(&mut self, _take: &Take, end: TakeEnd) {
        let heard = self.heard.lock().unwrap().len();
        let part = self.made.last_mut().unwrap();
        part.console.1 = heard;
        part.end = Some(end);
    }
}

/// What came of a run.
pub struct Parted {
    pub ended: Ended,
    pub parts: Vec<Part>,
    pub console: Vec<u8>,
}

impl Parted {
    /// What the guest sent during a part.
    pub fn heard(&self, part: usize) -> String {
        let (from, to) = self.parts[part].console;
        String::from_utf8_lossy(&self.console[from..to]).into_owned()
    }
}

/// Runs a plan in parts. `engines` runs what is recorded, and what is not.
pub fn run(
    plan: &Plan,
    engines: (Engine, Engine),
    (from, until): (From, Option<Moment>),
    (typed, cues): (&[u8], &[(Cue, Key)]),
    directory: &Path,
) -> Parted {
    let (console, heard) = Conducted::new(typed, cues);
    let mut parts = Parts {
        directory: directory.into(),
        heard: heard.clone(),
        made: Vec::new(),
    };
    let schedule = Schedule {
        recorded: engines.0,
        unrecorded: engines.1,
        from,
        until,
        find: None,
    };
    let ended = phases::run(plan, &schedule, Box::new(console), &mut parts)
        .unwrap_or_else(|error| panic!("{}: {error}", plan.kernel_name));
    let console = heard.lock().unwrap().clone();
    Parted {
        ended,
        parts: parts.made,
        console,
    }
}
