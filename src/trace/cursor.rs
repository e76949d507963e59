//! A position in the events of a recording. Many cursors stand in one recording, each in its own thread.

use std::sync::Arc;

use super::error::Error;
use super::events::Event;
use super::reader::Recording;

/// Reads events in order, from any position.
#[derive(Clone, Debug)]
pub struct Cursor {
    recording: Arc<Recording>,
    position: u64,
    /// The frame it stands in, or stood in last, and the position of its first event.
    frame: Arc<[Event]>,
    first: u64,
}

impl Cursor {
    pub(super) fn new(recording: Arc<Recording>) -> Self {
        Self {
            recording,
            position: 0,
            frame: Arc::default(),
            first: 0,
        }
    }

    /// Number of events before it: a checkpoint keeps this and nothing else.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The recording it stands in.
    pub fn recording(&self) -> &Arc<Recording> {
        &self.recording
    }

    /// Moves to a position. Beyond the last event there is nothing to read.
    pub fn seek(&mut self, position: u64) {
        self.position = position;
    }

    /// Index of the event in the frame at hand; out of its range where another frame is needed.
    #[inline]
    fn index(&self) -> usize {
        usize::try_from(self.position.wrapping_sub(self.first)).unwrap_or(usize::MAX)
    }

    /// The event it stands before; `None` after the last one.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<&Event>, Error> {
        if self.index() >= self.frame.len() {
            self.load()?;
        }
        Ok(self.frame.get(self.index()))
    }

    /// Reads the event and goes past it; `None` after the last one.
    #[inline]
    #[allow(clippy::should_implement_trait)] // the answer borrows from the cursor, which no `Iterator` can
    pub fn next(&mut self) -> Result<Option<&Event>, Error> {
        if self.index() >= self.frame.len() {
            self.load()?;
        }
        let event = self.frame.get(self.index());
        self.position += u64::from(event.is_some());
        Ok(event)
    }

    #[cold]
    fn load(&mut self) -> Result<(), Error> {
        if let Some(index) = self.recording.frame_of(self.position) {
            self.frame = self.recording.frame_events(index)?;
            self.first = self.recording.event_frames()[index].first_position;
        }
        Ok(())
    }
}
