//! Reads a recording: an index of its frames is made when it is opened, payloads are read when they are asked for.
//!
//! The file is read with `pread` and never mapped: a file that is cut while it is open is an error and not a signal.
//! Whatever the bytes are, the answer is what was recorded or an error. A damaged or missing tail is cut off and
//! reported; damage before it is an error where it is met.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::tick::Tick;

use super::config::{self, MachineConfig};
use super::cursor::Cursor;
use super::end::End;
use super::error::Error;
use super::events::{Event, KINDS};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use super::{PAGE_BYTES, batch, limits, ram};

/// The end of the file cannot be used, or there is no end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Torn {
    /// Bytes from the start of the file that are good.
    pub valid_bytes: u64,
    /// Bytes after them, which are left out.
    pub lost_bytes: u64,
    /// Why, in words.
    pub why: String,
}

/// The starting state of the processors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Version of what the bytes mean.
    pub version: u32,
    /// The state.
    pub bytes: Vec<u8>,
}

/// A frame of events, as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFrame {
    /// Position of its first event.
    pub first_position: u64,
    /// Number of its events.
    pub events: u32,
    /// Tick of its first event, or the mark where there is none.
    pub first_tick: Tick,
    /// All events before this tick are in this frame or an earlier one.
    pub mark: Tick,
}

/// Which frames may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum Stage {
    Start,
    Running,
    Ended,
}

/// A frame's header and where it is in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub offset: u64,
    pub header: FrameHeader,
    /// After this frame.
    stage: Stage,
}

/// A recording that is open. Threads share it (`Arc`), each with its own [`Cursor`].
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    file: File,
    version: u32,
    config: MachineConfig,
    len: u64,
    /// Every frame that counts, in the order of the file.
    pub(super) places: Vec<Place>,
    /// Those with events: what users see of them, and their index in `places`.
    event_frames: Vec<EventFrame>,
    event_places: Vec<usize>,
    end: Option<End>,
    torn: Option<Torn>,
    /// Frames decoded last, the latest first.
    cache: Mutex<Vec<(usize, Arc<[Event]>)>>,
}

impl Recording {
    /// Opens a recording and indexes it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let failed = |source| Error::Open {
            path: path.into(),
            source,
        };
        let there = fs::metadata(path).map_err(failed)?;
        if there.is_dir() {
            return Err(Error::Directory { path: path.into() });
        }
        if !there.is_file() {
            return Err(Error::NotAFile { path: path.into() });
        }
        let file = File::open(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        let (version, config, start) = config::read_header(path, len, |offset, count| {
            read_at(path, &file, offset, count)
        })?;
        let mut recording = Self {
            path: path.into(),
            file,
            version,
            config,
            len,
            places: Vec::new(),
            event_frames: Vec::new(),
            event_places: Vec::new(),
            end: None,
            torn: None,
            cache: Mutex::new(Vec::new()),
        };
        recording.index(start)?;
        Ok(recording)
    }

    /// Finds the frames, the first of which starts at `offset`, and the end.
    fn index(&mut self, start: u64) -> Result<(), Error> {
        let mut offset = start;
        let mut why = None;
        while offset < self.len && why.is_none() {
            match self.next_place(offset)? {
                Ok(place) => {
                    offset = place.after();
                    self.places.push(place);
                }
                Err(what) => why = Some(what),
            }
        }
        why = self.read_end(why)?;
        let torn_here = why.is_some();
        // Without an end, the last frame may be one that the disk never got whole.
        while torn_here && let Some(&last) = self.places.last() {
            let stored = self.read(last.payload_offset(), last.header.stored_bytes as usize)?;
            if last.sound(&stored, self.config.identity.seed()) {
                break;
            }
            self.places.pop();
            why = Some("the last frame was not written whole".into());
        }
        let valid_bytes = self.places.last().map_or(start, Place::after);
        self.torn = why.map(|why| Torn {
            valid_bytes,
            lost_bytes: self.len - valid_bytes,
            why,
        });
        if !self
            .places
            .iter()
            .any(|place| place.header.kind == Some(FrameKind::State))
        {
            let why = self
                .torn
                .as_ref()
                .map_or_else(|| "there is no state".into(), |torn| torn.why.clone());
            return Err(Error::NoStart {
                path: self.path.clone(),
                valid: valid_bytes,
                len: self.len,
                why,
            });
        }
        for (index, place) in self.places.iter().enumerate() {
            let FrameHeader {
                kind,
                items,
                first_tick,
                mark,
                first_event,
                ..
            } = place.header;
            if kind == Some(FrameKind::Events) {
                self.event_frames.push(EventFrame {
                    first_position: first_event,
                    events: items,
                    first_tick,
                    mark,
                });
                self.event_places.push(index);
            }
        }
        Ok(())
    }

    /// The frame at `offset`, or in words why none can be used there.
    fn next_place(&self, offset: u64) -> Result<Result<Place, String>, Error> {
        let left = self.len - offset;
        let cut = |what: &str| Ok(Err(format!("the file ends within {what}")));
        if left < FRAME_HEADER_BYTES as u64 {
            return cut("a frame's header");
        }
        let bytes = self.read(offset, FRAME_HEADER_BYTES)?;
        let Ok(bytes) = <&[u8; FRAME_HEADER_BYTES]>::try_from(bytes.as_slice()) else {
            return cut("a frame's header");
        };
        let header = match FrameHeader::decode(bytes, self.config.identity.seed()) {
            Ok(header) => header,
            Err(what) => return Ok(Err(what)),
        };
        let place = match Place::following(self.places.last(), offset, header) {
            Ok(place) => place,
            Err(what) => return Ok(Err(what)),
        };
        if place.after() > self.len {
            return cut("a frame");
        }
        Ok(Ok(place))
    }

    /// Reads the end frame, if the last one is that. Gives why the recording is torn, if it is.
    fn read_end(&mut self, why: Option<String>) -> Result<Option<String>, Error> {
        let last = self.places.last().copied();
        let Some(place) = last.filter(|place| place.header.kind == Some(FrameKind::End)) else {
            let no_end = "it has no end: its recorder was killed or is still running";
            return Ok(Some(why.unwrap_or_else(|| no_end.into())));
        };
        let end = self
            .stored(&place)
            .map(|stored| place.header.payload(&stored, self.config.identity.seed()))?
            .and_then(|payload| {
                rmp_serde::from_slice::<End>(&payload).map_err(|error| error.to_string())
            })
            .and_then(|end| {
                if end.tick == place.header.mark {
                    Ok(end)
                } else {
                    Err("its tick is wrong".into())
                }
            });
        match end {
            Ok(end) => {
                self.end = Some(end);
                Ok(why)
            }
            Err(what) => {
                self.places.pop();
                Ok(Some(format!("the end frame is damaged ({what})")))
            }
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// The file's format version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The machine that was recorded.
    pub fn config(&self) -> &MachineConfig {
        &self.config
    }

    /// What is wrong with the end of the file: the recorder was killed, or bytes are damaged.
    pub fn torn(&self) -> Option<&Torn> {
        self.torn.as_ref()
    }

    /// How it ended; `None` where the end is missing.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Length of the recording: the tick before which replay stops. Where the end is missing, the last mark.
    pub fn last_tick(&self) -> Tick {
        self.places.last().map_or(0, |place| place.header.mark)
    }

    /// Number of events.
    pub fn events(&self) -> u64 {
        self.event_frames
            .last()
            .map_or(0, |frame| frame.first_position + u64::from(frame.events))
    }

    /// The frames of events, in order.
    pub fn event_frames(&self) -> &[EventFrame] {
        &self.event_frames
    }

    /// Gives every page of the starting RAM that is not zero to `put`: page number (guest-physical address / 4096)
    /// and content. `put` says whether there is RAM at that page.
    pub fn ram(&self, mut put: impl FnMut(u64, &[u8; PAGE_BYTES]) -> bool) -> Result<(), Error> {
        // Each page is there at most once, so that a file cannot keep us busy with writing the same ones.
        let mut left = self.config.ram_bytes / PAGE_BYTES as u64;
        for place in self
            .places
            .iter()
            .filter(|place| place.header.kind == Some(FrameKind::Ram))
        {
            let payload = self.payload(place)?;
            let before = left;
            let mut bounded = |number: u64, content: &[u8; PAGE_BYTES]| {
                let fits = left > 0;
                left = left.saturating_sub(1);
                fits && put(number, content)
            };
            ram::decode(&payload, &mut bounded).map_err(|what| self.damaged(place, what))?;
            let (pages, expected) = (before - left, u64::from(place.header.items));
            if pages != expected {
                let what =
                    format!("the frame has {pages} pages, not {expected} as its header says");
                return Err(self.damaged(place, what));
            }
        }
        Ok(())
    }

    /// The starting state of the processors.
    pub fn state(&self) -> Result<State, Error> {
        let place = self
            .places
            .iter()
            .find(|place| place.header.kind == Some(FrameKind::State));
        let place = place.expect("a recording without a state is not opened");
        let payload = self.payload(place)?;
        let (version, bytes) = rmp_serde::from_slice::<(u32, serde_bytes::ByteBuf)>(&payload)
            .map_err(|error| {
                self.damaged(
                    place,
                    format!("the starting state makes no sense ({error})"),
                )
            })?;
        Ok(State {
            version,
            bytes: bytes.into_vec(),
        })
    }

    /// A cursor at the first event.
    pub fn cursor(self: &Arc<Self>) -> Cursor {
        Cursor::new(Arc::clone(self))
    }

    /// The events of frame `index` of [`Self::event_frames`].
    ///
    /// # Panics
    /// Where there is no such frame.
    pub fn frame_events(&self, index: usize) -> Result<Arc<[Event]>, Error> {
        let lock = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut cache = lock();
            if let Some(at) = cache.iter().position(|cached| cached.0 == index) {
                cache[..=at].rotate_right(1);
                return Ok(Arc::clone(&cache[0].1));
            }
        }
        // Without the lock: threads decode at the same time, rarely the same frame.
        let events: Arc<[Event]> = self.decode_frame(index)?.into();
        let mut cache = lock();
        cache.truncate(limits::CACHED_FRAMES - 1);
        cache.insert(0, (index, Arc::clone(&events)));
        Ok(events)
    }

    fn decode_frame(&self, index: usize) -> Result<Vec<Event>, Error> {
        let place = &self.places[self.event_places[index]];
        let header = &place.header;
        let expected = batch::Expected {
            events: header.items as usize,
            first_tick: header.first_tick,
            mark: header.mark,
            cpus: self.config.cpus,
        };
        batch::decode(&self.payload(place)?, expected).map_err(|what| self.damaged(place, what))
    }

    /// Index of the frame that has the event at `position`.
    pub fn frame_of(&self, position: u64) -> Option<usize> {
        let after = |frame: &EventFrame| frame.first_position + u64::from(frame.events);
        let index = self
            .event_frames
            .partition_point(|frame| after(frame) <= position);
        (index < self.event_frames.len()).then_some(index)
    }

    /// Position of the first event of tick `tick` or later; the number of events where there is none.
    pub fn position_at(&self, tick: Tick) -> Result<u64, Error> {
        // Events of the mark's own tick may be in the frame and in later ones: the first frame that can have them.
        let mut index = self.event_frames.partition_point(|frame| frame.mark < tick);
        while index < self.event_frames.len() {
            let inside = self
                .frame_events(index)?
                .partition_point(|event| event.tick < tick);
            let frame = &self.event_frames[index];
            if inside < frame.events as usize {
                return Ok(frame.first_position + inside as u64);
            }
            index += 1;
        }
        Ok(self.events())
    }

    /// How many events of each kind there are, in the order of [`KINDS`]. Reads the whole recording but its RAM.
    pub fn count_by_kind(&self) -> Result<[u64; KINDS.len()], Error> {
        let mut counts = [0; KINDS.len()];
        for index in 0..self.event_frames.len() {
            // Past the cache: it belongs to those who replay.
            for event in self.decode_frame(index)? {
                counts[event.what.kind().index()] += 1;
            }
        }
        Ok(counts)
    }

    fn payload(&self, place: &Place) -> Result<Vec<u8>, Error> {
        let stored = self.stored(place)?;
        let payload = place.header.payload(&stored, self.config.identity.seed());
        payload.map_err(|what| self.damaged(place, what))
    }

    fn stored(&self, place: &Place) -> Result<Vec<u8>, Error> {
        self.read(place.payload_offset(), place.header.stored_bytes as usize)
    }

    fn read(&self, offset: u64, count: usize) -> Result<Vec<u8>, Error> {
        read_at(&self.path, &self.file, offset, count)
    }

    fn damaged(&self, place: &Place, what: String) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            offset: place.offset,
            what,
        }
    }
}

impl Place {
    fn payload_offset(&self) -> u64 {
        self.offset + FRAME_HEADER_BYTES as u64
    }

    fn after(&self) -> u64 {
        self.payload_offset() + u64::from(self.header.stored_bytes)
    }

    fn sound(&self, stored: &[u8], seed: u64) -> bool {
        stored.len() == self.header.stored_bytes as usize
            && xxh3_64_with_seed(stored, seed) == self.header.payload_sum
    }

    /// The frame, if it is the one to come after `before`. The error says in words what is wrong.
    fn following(before: Option<&Self>, offset: u64, header: FrameHeader) -> Result<Self, String> {
        let (sequence, events, mark, stage) = before.map_or((0, 0, 0, Stage::Start), |before| {
            let FrameHeader {
                sequence,
                first_event,
                items,
                mark,
                ..
            } = before.header;
            let events = if before.header.kind == Some(FrameKind::Events) {
                items
            } else {
                0
            };
            (
                u64::from(sequence) + 1,
                first_event.saturating_add(u64::from(events)),
                mark,
                before.stage,
            )
        });
        if u64::from(header.sequence) != sequence || header.first_event != events {
            return Err(format!(
                "frame {} with event {} stands where frame {sequence} with event {events} belongs",
                header.sequence, header.first_event
            ));
        }
        if header.first_tick < mark || header.mark < header.first_tick {
            return Err(format!(
                "a frame of ticks {} to {} after tick {mark}",
                header.first_tick, header.mark
            ));
        }
        let stage = match (stage, header.kind) {
            (Stage::Start, Some(FrameKind::Ram)) => Stage::Start,
            (Stage::Start, Some(FrameKind::State)) | (Stage::Running, Some(FrameKind::Events)) => {
                Stage::Running
            }
            (Stage::Running, Some(FrameKind::End)) => Stage::Ended,
            (Stage::Start | Stage::Running, None) => stage,
            (Stage::Ended, _) => return Err("more bytes after the end".into()),
            (_, Some(kind)) => {
                return Err(format!("a frame of kind {kind:?} does not belong there"));
            }
        };
        Ok(Self {
            offset,
            header,
            stage,
        })
    }
}

/// Reads up to `count` bytes: fewer only where the file ends.
fn read_at(path: &Path, file: &File, offset: u64, count: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; count];
    let mut filled = 0;
    while filled < count {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                return Err(Error::Read {
                    path: path.into(),
                    offset,
                    source,
                });
            }
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}
