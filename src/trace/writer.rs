//! Writes a recording while it is made.
//!
//! A frame goes to the file with one write. When the system refuses (disk full), a part that was written is cut off
//! again, so that the file ends with a whole frame; from then on the writer takes nothing more and says why.
//! Nothing is synced to the disk before the end: what is guarded against is the recorder being killed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::tick::Tick;

use super::config::{MAGIC, MachineConfig};
use super::end::{End, EndReason};
use super::error::Error;
use super::events::{Event, What};
use super::frame::{FRAME_HEADER_BYTES, FrameHeader, FrameKind};
use super::{PAGE_BYTES, batch, limits, ram};

/// For RAM: hundreds of megabytes before the guest's first instruction. Kernel images are compressed already.
const RAM_LEVEL: i32 = 1;
/// For events: little data, kept for long.
const EVENT_LEVEL: i32 = 6;

/// Where the bytes go. Apart from files there are the failing ones of the tests.
pub(super) trait Sink: Send {
    /// Writes all of `bytes` at the end. After an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts off what is beyond `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Waits until the disk has it.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sink for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes) // opened for appending: always at the end
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// How far the file is.
#[derive(Clone, Debug)]
enum Stage {
    /// RAM may come, then the state.
    Start,
    /// Events come.
    Running,
    /// The end is written.
    Finished,
    /// The system refused a write.
    Failed {
        kind: io::ErrorKind,
        what: String,
        kept: String,
    },
}

/// Writes one recording.
pub struct Writer {
    sink: Box<dyn Sink>,
    path: PathBuf,
    seed: u64,
    cpus: u16,
    stage: Stage,
    events: batch::Encoder,
    compressor: zstd::bulk::Compressor<'static>,
    sequence: u32,
    /// Length of the file: all of it whole frames.
    bytes: u64,
    /// Events in the file.
    written: u64,
    /// The last frame's mark.
    mark: Tick,
    /// No event may come before this tick.
    latest: Tick,
}

impl Writer {
    /// Creates the file and writes its header. A recording that is there already is replaced (who has it open keeps
    /// the old one); any other file is refused. One without ticks is locked while it is written.
    pub fn create(path: impl AsRef<Path>, config: &MachineConfig) -> Result<Self, Error> {
        let path = path.as_ref();
        // What is impossible is found before an old recording is lost.
        let header = encode_header(path, config)?;
        let file = create_file(path)?;
        if config.untimed {
            // Whoever would find its ticks sees that it is still being made. Not every file system knows of locks.
            let _ = file.try_lock();
        }
        Self::start(Box::new(file), path, config, &header)
    }

    fn start(
        sink: Box<dyn Sink>,
        path: &Path,
        config: &MachineConfig,
        header: &[u8],
    ) -> Result<Self, Error> {
        let compressor =
            zstd::bulk::Compressor::new(EVENT_LEVEL).map_err(|source| Error::Open {
                path: path.into(),
                source,
            })?;
        let mut writer = Self {
            sink,
            path: path.into(),
            seed: config.identity.seed(),
            cpus: config.cpus,
            stage: Stage::Start,
            events: batch::Encoder::default(),
            compressor,
            sequence: 0,
            bytes: 0,
            written: 0,
            mark: 0,
            latest: 0,
        };
        writer.append(header)?;
        Ok(writer)
    }

    /// Writes the starting RAM: `numbers` are the page numbers (guest-physical address / 4096) of all RAM that
    /// is not known to be zero, each once, and `read` copies a page; it is called twice for some. Zero pages take
    /// no room.
    pub fn ram(
        &mut self,
        numbers: impl IntoIterator<Item = u64>,
        mut read: impl FnMut(u64, &mut [u8; PAGE_BYTES]),
    ) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Start) {
            return Err(self.refusal("gave RAM after the starting state"));
        }
        let mut page = Box::new([0; PAGE_BYTES]);
        let mut groups = ram::Groups::default();
        for number in numbers {
            read(number, &mut page);
            groups.add(number, &page);
        }
        self.compressor
            .set_compression_level(RAM_LEVEL)
            .map_err(|error| self.failure(0, &error))?;
        let mut frame = ram::Encoder::default();
        for group in groups.into_groups() {
            if !frame.fits(group.len()) {
                self.ram_frame(&mut frame)?;
            }
            read(group[0], &mut page);
            frame.push(&group, &page);
        }
        if !frame.is_empty() {
            self.ram_frame(&mut frame)?;
        }
        self.compressor
            .set_compression_level(EVENT_LEVEL)
            .map_err(|error| self.failure(0, &error))
    }

    fn ram_frame(&mut self, frame: &mut ram::Encoder) -> Result<(), Error> {
        let pages = frame.pages();
        let payload = frame.take();
        self.frame(FrameKind::Ram, &payload, pages as u32, 0, 0)
    }

    /// Writes the starting state of the processors: opaque bytes, and the version of what they mean. Events may
    /// come from then on.
    pub fn state(&mut self, version: u32, bytes: &[u8]) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Start) {
            return Err(self.refusal("gave the starting state twice"));
        }
        if bytes.len() > limits::STATE_BYTES_MAX {
            let what = format!(
                "gave a state of {} bytes, more than {}",
                bytes.len(),
                limits::STATE_BYTES_MAX
            );
            return Err(self.refusal(&what));
        }
        let payload = rmp_serde::to_vec(&(version, serde_bytes::Bytes::new(bytes)))
            .expect("byte strings in memory are always encoded");
        self.frame(FrameKind::State, &payload, 0, 0, 0)?;
        self.stage = Stage::Running;
        Ok(())
    }

    /// Adds an event; ticks never go back. It is in the file when its frame is full, or after `flush`.
    #[inline]
    pub fn push(&mut self, event: &Event) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Running)
            || event.tick < self.latest
            || u16::from(event.cpu) >= self.cpus
        {
            return Err(self.refused_event(event));
        }
        if let What::Dma { bytes, .. } | What::ConsoleInput { bytes } = &event.what
            && bytes.len() > limits::BLOB_BYTES_MAX
        {
            return self.push_parts(event);
        }
        self.latest = event.tick;
        self.events.push(event);
        if self.events.full() {
            self.event_frame(event.tick)
        } else {
            Ok(())
        }
    }

    /// Adds an event with more bytes than one may have, as several.
    #[cold]
    fn push_parts(&mut self, event: &Event) -> Result<(), Error> {
        let (What::Dma { bytes, .. } | What::ConsoleInput { bytes }) = &event.what else {
            return Ok(());
        };
        for (index, part) in bytes.chunks(limits::BLOB_BYTES_MAX).enumerate() {
            let offset = (index * limits::BLOB_BYTES_MAX) as u64;
            let what = match event.what {
                What::Dma { gpa, .. } => What::Dma {
                    gpa: gpa.wrapping_add(offset),
                    bytes: part.into(),
                },
                _ => What::ConsoleInput { bytes: part.into() },
            };
            self.push(&Event { what, ..*event })?;
        }
        Ok(())
    }

    #[cold]
    fn refused_event(&self, event: &Event) -> Error {
        if matches!(self.stage, Stage::Start) {
            self.refusal("gave an event before the starting state")
        } else if event.tick < self.latest {
            self.refusal(&format!(
                "gave an event of tick {} after tick {}",
                event.tick, self.latest
            ))
        } else {
            self.refusal(&format!(
                "gave an event of processor {}, where there are {}",
                event.cpu, self.cpus
            ))
        }
    }

    /// Writes what was pushed, and the mark that every event before tick `executed_to` is there: if the recorder
    /// is killed afterwards, the recording is replayed up to that tick. To be called several times a second.
    pub fn flush(&mut self, executed_to: Tick) -> Result<(), Error> {
        if !matches!(self.stage, Stage::Running) {
            return Err(self.refusal("flushed what is not running"));
        }
        if executed_to < self.latest {
            return Err(self.refusal(&format!(
                "flushed up to tick {executed_to} after tick {}",
                self.latest
            )));
        }
        if self.events.count() == 0 && executed_to == self.mark {
            return Ok(());
        }
        self.event_frame(executed_to)
    }

    fn event_frame(&mut self, mark: Tick) -> Result<(), Error> {
        let count = self.events.count();
        let first_tick = if count == 0 {
            mark
        } else {
            self.events.first_tick()
        };
        let payload = self.events.take();
        self.frame(FrameKind::Events, &payload, count as u32, first_tick, mark)?;
        self.written += count as u64;
        self.mark = mark;
        self.latest = mark;
        Ok(())
    }

    /// Writes what is left and the end, and waits until the disk has it. After a failed write, an end is written
    /// that says so (cutting off the part of a frame may have made room), and the failure is returned.
    pub fn finish(&mut self, end: &End) -> Result<(), Error> {
        if let Stage::Failed { .. } = self.stage {
            let failure = self.refusal("");
            self.finish_failed(end);
            return Err(failure);
        }
        if end.tick < self.latest {
            return Err(self.refusal(&format!(
                "ended at tick {} after tick {}",
                end.tick, self.latest
            )));
        }
        if let Err(failure) = self.flush(end.tick) {
            self.finish_failed(end);
            return Err(failure);
        }
        self.end_frame(end)?;
        self.sink.sync().map_err(|error| self.failure(0, &error))?;
        self.stage = Stage::Finished;
        Ok(())
    }

    fn finish_failed(&mut self, end: &End) {
        let Stage::Failed { what, .. } = &self.stage else {
            return;
        };
        let reason = EndReason::WriteFailed(what.clone());
        // Best effort: a second failure leaves a file without an end, which says as much when it is opened.
        if self.mark > 0 || self.written > 0 {
            let _ = self.end_frame(&End {
                tick: self.mark,
                reason,
                guest_ns: None,
                wall_ms: end.wall_ms,
                statistics: end.statistics.clone(),
            });
        }
    }

    fn end_frame(&mut self, end: &End) -> Result<(), Error> {
        let payload = rmp_serde::to_vec_named(end).expect("plain data in memory is always encoded");
        self.frame(FrameKind::End, &payload, 0, end.tick, end.tick)
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Events that were taken.
    pub fn events(&self) -> u64 {
        self.written + self.events.count() as u64
    }

    fn frame(
        &mut self,
        kind: FrameKind,
        payload: &[u8],
        items: u32,
        first_tick: Tick,
        mark: Tick,
    ) -> Result<(), Error> {
        let mut frame =
            vec![0; FRAME_HEADER_BYTES + zstd::zstd_safe::compress_bound(payload.len())];
        let stored = self
            .compressor
            .compress_to_buffer(payload, &mut frame[FRAME_HEADER_BYTES..])
            .map_err(|error| self.failure(0, &error))?;
        frame.truncate(FRAME_HEADER_BYTES + stored);
        let header = FrameHeader {
            kind: Some(kind),
            sequence: self.sequence,
            stored_bytes: stored as u32,
            raw_bytes: payload.len() as u32,
            items,
            first_tick,
            mark,
            first_event: self.written,
            payload_sum: xxh3_64_with_seed(&frame[FRAME_HEADER_BYTES..], self.seed),
        };
        frame[..FRAME_HEADER_BYTES].copy_from_slice(&header.encode(self.seed));
        self.append(&frame)?;
        self.sequence += 1;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self.sink.append(bytes) {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(error) => Err(self.failure(bytes.len(), &error)),
        }
    }

    /// A write of `len` bytes failed: cuts off what may have been written, and takes nothing more.
    fn failure(&mut self, len: usize, error: &io::Error) -> Error {
        let cut = if len == 0 {
            Ok(())
        } else {
            self.sink.truncate(self.bytes)
        };
        let kept = match (&self.stage, cut) {
            (Stage::Start, _) => "nothing that could be replayed was written before".into(),
            (_, Ok(())) => format!(
                "what was recorded up to tick {} is kept and can be replayed",
                self.mark
            ),
            (_, Err(cut)) => format!(
                "what was recorded up to tick {} is kept and can be replayed; a part of a frame after it could not be \
                 cut off ({cut}) and is left out when the file is opened",
                self.mark
            ),
        };
        if !matches!(self.stage, Stage::Failed { .. }) {
            self.stage = Stage::Failed {
                kind: error.kind(),
                what: error.to_string(),
                kept,
            };
        }
        self.refusal("")
    }

    /// Why nothing is taken: the failure that came before, or else `what` the caller did.
    fn refusal(&self, what: &str) -> Error {
        let path = self.path.clone();
        match &self.stage {
            Stage::Failed { kind, what, kept } => {
                let source = io::Error::new(*kind, what.clone());
                Error::Write {
                    path,
                    offset: self.bytes,
                    source,
                    kept: kept.clone(),
                }
            }
            Stage::Finished => Error::Misuse {
                path,
                what: "went on after the end".into(),
            },
            Stage::Start | Stage::Running => Error::Misuse {
                path,
                what: what.into(),
            },
        }
    }
}

impl Drop for Writer {
    /// A recorder that gives up without an end still leaves what it had.
    fn drop(&mut self) {
        if matches!(self.stage, Stage::Running) && self.events.count() > 0 {
            let _ = self.event_frame(self.latest);
        }
    }
}

fn encode_header(path: &Path, config: &MachineConfig) -> Result<Vec<u8>, Error> {
    let refused = |what| Error::Misuse {
        path: path.into(),
        what: format!("described {what}"),
    };
    config.encode().map_err(refused)
}

/// What lies where a recording shall be.
enum There {
    /// Nothing.
    Nothing,
    /// A recording, whose file it is (behind links).
    Recording(PathBuf),
    /// A device such as /dev/null: nothing to protect.
    Device,
}

fn what_is_there(path: &Path) -> Result<There, Error> {
    let failed = |source| Error::Open {
        path: path.into(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
        Err(error) => Err(failed(error)),
        Ok(there) if there.is_dir() => Err(Error::Directory { path: path.into() }),
        Ok(there) if there.is_file() => {
            let mut start = Vec::new();
            File::open(path)
                .and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut start))
                .map_err(failed)?;
            if !MAGIC.starts_with(&start) {
                return Err(Error::WouldOverwrite { path: path.into() });
            }
            fs::canonicalize(path).map(There::Recording).map_err(failed)
        }
        Ok(_) => Ok(There::Device),
    }
}

/// Whether [`Writer::create`] would refuse to replace what is there, found out without touching it.
pub fn check_place(path: &Path) -> Result<(), Error> {
    let there = what_is_there(path)?;
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    match fs::metadata(parent) {
        Err(source) if matches!(there, There::Nothing) => Err(Error::Open {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

fn create_file(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Open {
        path: path.into(),
        source,
    };
    let mut options = OpenOptions::new();
    options.append(true);
    match what_is_there(path)? {
        There::Nothing => options.create_new(true).open(path).map_err(failed),
        There::Recording(target) => {
            // Removed and not emptied: who replays the old recording keeps it. Through links, to the file itself.
            fs::remove_file(&target).map_err(failed)?;
            options.create_new(true).open(&target).map_err(failed)
        }
        There::Device => options.open(path).map_err(failed),
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
