//! What a replay says when it differs from its recording: a value, reported once.

use crate::tick::Tick;
use std::fmt;

/// The first difference between a replay and its recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// Where it was noticed.
    pub tick: Tick,
    /// What the recording says, in words.
    pub recorded: String,
    /// What the replay did, in words.
    pub replayed: String,
    /// The last events before it.
    pub last_events: Vec<String>,
    /// The instructions around the position, where they are known.
    pub instructions: Vec<String>,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the replay diverges at tick {}: the recording has {}, the replay has {}",
            self.tick, self.recorded, self.replayed
        )?;
        if !self.last_events.is_empty() {
            write!(f, "\nlast events:")?;
            for event in &self.last_events {
                write!(f, "\n  {event}")?;
            }
        }
        if !self.instructions.is_empty() {
            write!(f, "\ninstructions here:")?;
            for instruction in &self.instructions {
                write!(f, "\n  {instruction}")?;
            }
        }
        Ok(())
    }
}
