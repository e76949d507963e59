//! The cache beside a recording: checkpoints and the caller's sections in one file that can be deleted at any time.
//!
//! The file is appended to while checkpoints are made and is good up to its last whole frame at any moment; when
//! the cache is finished, a directory at its end spares the next opening the walk through all frames. Contents of
//! pages stay in the file and are read when they are wanted, each chunk compared with its checksum.
//!
//! One process writes: it holds an advisory lock. Others use what they found when they opened it. A file that is
//! of no use is replaced (renamed over), never overwritten: who has the old one open keeps it.

mod frame;
mod load;
mod record;

pub(crate) use load::Loader;
pub(crate) use record::{CheckpointRecord, ChunkRecord, ContentRecord};

use crate::Error;
use frame::{Frame, HEADER_BYTES, Header, Kind};
use parking_lot::Mutex;
use record::{DirectoryRecord, SectionRecord};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Where the cache is, and what it must belong to.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// The file.
    pub path: PathBuf,
    /// Names the recording, and whatever else the checkpoints depend on. Opaque.
    pub identity: [u8; 32],
    /// Nothing is written beyond this size in bytes.
    pub bytes_max: u64,
}

/// What was found where the cache is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// No file, or an empty one.
    Nothing,
    /// A finished cache: all of it is used.
    Whole,
    /// A cache that ends with a whole frame but was not finished: its writer is at work, or was stopped. All of it
    /// is used.
    Unfinished,
    /// A cache that is cut or damaged: what comes before byte `at` is used.
    Torn {
        /// Where the good part ends, in bytes.
        at: u64,
    },
    /// A cache of another recording or of another version of the format, or one without a good header: none of it is
    /// used.
    Stale,
    /// Something that is no cache. It is left alone: nothing is read or written.
    Foreign,
}

/// What became of opening a cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Opened {
    /// What was there.
    pub found: Found,
    /// Whether this store writes to the cache: not if another process does, or if the file cannot be written.
    pub writable: bool,
}

/// The file, and what has to be known to go on writing it.
#[derive(Debug)]
pub(crate) struct Cache {
    file: File,
    path: PathBuf,
    bytes_max: u64,
    sections: Mutex<BTreeMap<String, Frame>>,
    /// None: nothing is written, or no more.
    writer: Mutex<Option<Writer>>,
}

#[derive(Debug)]
pub(crate) struct Writer {
    /// Where the next frame goes.
    end: u64,
    /// Where checkpoints and sections are.
    frames: Vec<u64>,
    /// The file ends with a tail.
    finished: bool,
    /// It has its greatest size: no checkpoints any more.
    full: bool,
    /// Numbers for what comes next.
    pub chunks: u32,
    pub contents: u32,
}

impl Cache {
    /// Opens the cache, or begins one. None if there is none to read or write.
    pub fn open(config: &CacheConfig) -> (Option<(Cache, Loader)>, Opened) {
        let (file, locked) = match open_and_lock(&config.path) {
            Ok(Some(opened)) => opened,
            Ok(None) => return begin(config, Found::Nothing),
            Err(error) => {
                log::warn!(
                    "{}: {error}; going on without a cache",
                    config.path.display()
                );
                return (
                    None,
                    Opened {
                        found: Found::Nothing,
                        writable: false,
                    },
                );
            }
        };
        match Cache::read(config, file, locked) {
            Ok(Ok((cache, loader, found))) => (
                Some((cache, loader)),
                Opened {
                    found,
                    writable: locked,
                },
            ),
            Ok(Err(Found::Foreign)) => {
                log::warn!(
                    "{}: is no cache; going on without one",
                    config.path.display()
                );
                (
                    None,
                    Opened {
                        found: Found::Foreign,
                        writable: false,
                    },
                )
            }
            Ok(Err(found)) if locked => begin(config, found),
            Ok(Err(found)) => (
                None,
                Opened {
                    found,
                    writable: false,
                },
            ),
            Err(error) => {
                log::warn!(
                    "{}: {error}; going on without a cache",
                    config.path.display()
                );
                (
                    None,
                    Opened {
                        found: Found::Torn { at: 0 },
                        writable: false,
                    },
                )
            }
        }
    }

    /// Reads what is there; the inner error says why it is of no use.
    fn read(
        config: &CacheConfig,
        file: File,
        locked: bool,
    ) -> io::Result<Result<(Cache, Loader, Found), Found>> {
        let file_bytes = file.metadata()?.len();
        if file_bytes == 0 {
            return Ok(Err(Found::Nothing));
        }
        match frame::read_header(&file, file_bytes)? {
            Header::Foreign => return Ok(Err(Found::Foreign)),
            Header::Other { version } => {
                log::info!("{}: of version {version}", config.path.display());
                return Ok(Err(Found::Stale));
            }
            Header::Cache { identity } if identity != config.identity => {
                return Ok(Err(Found::Stale));
            }
            Header::Cache { .. } => {}
        }
        let read = load::read(&file, file_bytes)?;
        if locked && read.end < file_bytes {
            file.set_len(read.end)?;
        }
        let writer = Writer {
            end: read.end,
            frames: read.frames,
            finished: read.found == Found::Whole,
            full: false,
            chunks: read.loader.chunks() as u32,
            contents: read.loader.contents() as u32,
        };
        let cache = Cache {
            file,
            path: config.path.clone(),
            bytes_max: config.bytes_max,
            sections: Mutex::new(read.sections),
            writer: Mutex::new(locked.then_some(writer)),
        };
        Ok(Ok((cache, read.loader, read.found)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether checkpoints can still be written.
    pub fn takes_checkpoints(&self) -> bool {
        self.writer
            .lock()
            .as_ref()
            .is_some_and(|writer| !writer.full)
    }

    /// Bytes of the file, as far as this store wrote or used it.
    pub fn used_bytes(&self) -> u64 {
        self.writer.lock().as_ref().map_or(0, |writer| writer.end)
    }

    /// Reads the payload of a chunk, unchecked.
    pub fn read_chunk(&self, offset: u64, bytes: u32) -> io::Result<Vec<u8>> {
        let mut chunk = vec![0; bytes as usize];
        self.file.read_exact_at(&mut chunk, offset)?;
        Ok(chunk)
    }

    /// Does something with the writer. None if nothing is (or can be) written, now or ever again: said once in the log.
    pub fn write<T>(&self, action: impl FnOnce(&Cache, &mut Writer) -> io::Result<T>) -> Option<T> {
        let mut guard = self.writer.lock();
        let writer = guard.as_mut()?;
        let error = match action(self, writer) {
            Ok(done) => return Some(done),
            Err(error) => error,
        };
        // What was written in part is cut off; where even that fails, its checksums tell.
        if let Err(error) = self.file.set_len(writer.end) {
            log::debug!("{}: {error}", self.path.display());
        }
        if error.kind() != io::ErrorKind::QuotaExceeded {
            log::warn!(
                "{}: {error}; nothing more goes into the cache",
                self.path.display()
            );
            *guard = None;
        } else if !writer.full {
            log::info!(
                "{}: {error}: no more checkpoints go into it",
                self.path.display()
            );
            writer.full = true;
        }
        None
    }

    /// Appends a frame; answers where its payload is.
    pub fn append(&self, writer: &mut Writer, kind: Kind, payload: &[u8]) -> io::Result<Frame> {
        let head = frame::head(kind, writer.end, payload);
        let start = writer.end + head.len() as u64;
        let frame = Frame {
            kind,
            payload: start,
            bytes: payload.len() as u64,
            sum: xxh3_64(payload),
        };
        let vouches = matches!(kind, Kind::Directory | Kind::Tail);
        if frame.end() > self.bytes_max && !vouches {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "it has its greatest size",
            ));
        }
        self.file.write_all_at(&head, writer.end)?;
        self.file.write_all_at(payload, start)?;
        if matches!(kind, Kind::Checkpoint | Kind::Section) {
            writer.frames.push(writer.end);
        }
        writer.finished = false;
        writer.end = frame.end();
        Ok(frame)
    }

    pub fn append_chunk(&self, writer: &mut Writer, chunk: &[u8]) -> io::Result<u64> {
        Ok(self.append(writer, Kind::Chunk, chunk)?.payload)
    }

    pub fn append_checkpoint(
        &self,
        writer: &mut Writer,
        record: &CheckpointRecord,
    ) -> io::Result<()> {
        self.append(writer, Kind::Checkpoint, &record::encode(record)?)
            .map(|_| ())
    }

    /// Writes a section; one of the same name that is there already no longer counts. False if nothing is written.
    pub fn put_section(&self, name: &str, bytes: &[u8]) -> bool {
        let section = SectionRecord {
            name: name.to_owned(),
            bytes: bytes.to_vec(),
        };
        let written = self
            .write(|cache, writer| cache.append(writer, Kind::Section, &record::encode(&section)?));
        if let Some(frame) = written {
            self.sections.lock().insert(section.name, frame);
        }
        written.is_some()
    }

    /// Reads a section. None if there is none.
    pub fn section(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(frame) = self.sections.lock().get(name).copied() else {
            return Ok(None);
        };
        let failed = |source| Error::Io {
            path: self.path.clone(),
            source,
        };
        let payload = frame::payload(&self.file, &frame).map_err(failed)?;
        let section = payload.and_then(|payload| record::decode::<SectionRecord>(&payload));
        match section {
            Some(section) => Ok(Some(section.bytes)),
            None => Err(Error::Damaged {
                path: self.path.clone(),
                offset: frame.payload,
            }),
        }
    }

    /// The names of the sections, in order.
    pub fn section_names(&self) -> Vec<String> {
        self.sections.lock().keys().cloned().collect()
    }

    /// Has no store use the file any more: it turned out to be damaged. What is open stays readable as far as it is
    /// good.
    pub fn abandon(&self) {
        if self.writer.lock().take().is_none() {
            return;
        }
        // Only what is still this very file: it is locked, so nobody else replaces it between here and there.
        let same = self
            .file
            .metadata()
            .and_then(|own| Ok(same_file(&own, &std::fs::metadata(&self.path)?)));
        if same.is_ok_and(|same| same)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("{}: {error}", self.path.display());
        }
    }

    /// Marks what is there as all there is to be, and has the system write it to the disk. False if nothing is written.
    pub fn finish(&self) -> bool {
        let written = self.write(|cache, writer| {
            if writer.finished {
                return Ok(());
            }
            let directory = record::encode(&DirectoryRecord {
                frames: writer.frames.clone(),
            })?;
            let at = writer.end;
            cache.append(writer, Kind::Directory, &directory)?;
            // The disk must not have the tail before it has what the tail vouches for.
            cache.file.sync_data()?;
            cache.append(writer, Kind::Tail, &at.to_le_bytes())?;
            writer.finished = true;
            cache.file.sync_data()
        });
        written.is_some()
    }
}

/// Opens the file, and takes its lock if that is free and the file can be written. None: there is no file.
fn open_and_lock(path: &Path) -> io::Result<Option<(File, bool)>> {
    loop {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let (file, writable) = match opened {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(_) => (File::open(path)?, false),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no file"));
        }
        let locked = writable
            && match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(error)) => {
                    log::debug!("{}: cannot be locked: {error}", path.display());
                    false
                }
            };
        // Between opening and locking another process may have put a new file there.
        match std::fs::metadata(path) {
            Ok(now) if same_file(&file.metadata()?, &now) => return Ok(Some((file, locked))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

fn same_file(one: &std::fs::Metadata, other: &std::fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Puts a new cache where none of use is.
fn begin(config: &CacheConfig, found: Found) -> (Option<(Cache, Loader)>, Opened) {
    match create(config, found == Found::Nothing) {
        Ok(cache) => (
            Some((cache, Loader::default())),
            Opened {
                found,
                writable: true,
            },
        ),
        Err(error) => {
            log::warn!(
                "{}: {error}; going on without a cache",
                config.path.display()
            );
            (
                None,
                Opened {
                    found,
                    writable: false,
                },
            )
        }
    }
}

fn create(config: &CacheConfig, nothing_there: bool) -> io::Result<Cache> {
    let mut name = config.path.as_os_str().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let new = PathBuf::from(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&new)?;
    let made = (|| {
        file.try_lock().map_err(io::Error::from)?;
        file.write_all_at(&frame::header(&config.identity), 0)?;
        // An empty file is as good as none; anything else that turned up meanwhile is another process's.
        let empty = || std::fs::metadata(&config.path).is_ok_and(|there| there.len() == 0);
        if nothing_there && !empty() {
            std::fs::hard_link(&new, &config.path)
        } else {
            std::fs::rename(&new, &config.path)
        }
    })();
    // After a rename there is nothing to remove.
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        log::debug!("{}: {error}", new.display());
    }
    made?;
    let writer = Writer {
        end: HEADER_BYTES,
        frames: Vec::new(),
        finished: false,
        full: false,
        chunks: 0,
        contents: 0,
    };
    Ok(Cache {
        file,
        path: config.path.clone(),
        bytes_max: config.bytes_max,
        sections: Mutex::new(BTreeMap::new()),
        writer: Mutex::new(Some(writer)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_written_is_given_up() {
        let name = format!("checkpoints-cache-full-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let config = CacheConfig {
            path: path.clone(),
            identity: [1; 32],
            bytes_max: u64::MAX,
        };
        let (mut cache, _) = Cache::open(&config).0.unwrap();
        assert!(cache.put_section("before", b"kept"));
        // As a full disk would: from now on every write fails.
        cache.file = File::open(&path).unwrap();
        assert!(cache.takes_checkpoints());
        assert!(!cache.put_section("after", b"lost"));
        assert!(!cache.takes_checkpoints());
        assert!(!cache.finish());
        assert_eq!(cache.section("before").unwrap().unwrap(), b"kept");
        assert_eq!(cache.section("after").unwrap(), None);
        drop(cache);
        let (cache, opened) = Cache::open(&config);
        assert_eq!(
            opened,
            Opened {
                found: Found::Unfinished,
                writable: true
            }
        );
        let (cache, _) = cache.unwrap();
        assert_eq!(cache.section_names(), ["before"]);
        std::fs::remove_file(&path).unwrap();
    }
}
