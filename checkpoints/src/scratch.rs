//! The scratch file: compressed chunks that memory has no room for.
//!
//! It has no name: it is unlinked as soon as it is open, so that nothing of it is left whatever ends the process.
//! Space is reused when nobody can be reading it any more: an [`Extent`] gives itself back when its last owner,
//! be it the store or a reader in the middle of its read, lets go of it.

use crate::Error;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Debug)]
pub(crate) struct Scratch {
    file: File,
    path: PathBuf,
    space: Mutex<Space>,
    /// Set when a write failed: from then on nothing is written any more, reads go on.
    failed: AtomicBool,
}

/// A piece of the scratch file.
#[derive(Debug)]
pub(crate) struct Extent {
    scratch: Arc<Scratch>,
    pub offset: u64,
    pub bytes: u32,
}

/// What of the file is free: by offset, neighbours joined.
#[derive(Debug, Default)]
struct Space {
    end: u64,
    free: BTreeMap<u64, u64>,
}

impl Space {
    /// The first hole that is large enough, or new space at the end.
    fn take(&mut self, bytes: u64) -> u64 {
        let hole = self
            .free
            .iter()
            .find(|(_, length)| **length >= bytes)
            .map(|(&at, &length)| (at, length));
        let Some((offset, length)) = hole else {
            let offset = self.end;
            self.end += bytes;
            return offset;
        };
        self.free.remove(&offset);
        if length > bytes {
            self.free.insert(offset + bytes, length - bytes);
        }
        offset
    }

    fn give_back(&mut self, mut offset: u64, mut bytes: u64) {
        if let Some((&at, &length)) = self.free.range(..offset).next_back()
            && at + length == offset
        {
            self.free.remove(&at);
            offset = at;
            bytes += length;
        }
        if let Some(length) = self.free.remove(&(offset + bytes)) {
            bytes += length;
        }
        if offset + bytes == self.end {
            self.end = offset;
        } else {
            self.free.insert(offset, bytes);
        }
    }
}

impl Scratch {
    /// Makes the file at `path`, where nothing may be yet, and unlinks it.
    pub fn create(path: &Path) -> Result<Arc<Scratch>, Error> {
        let failed = |source| Error::Io {
            path: path.to_path_buf(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed)?;
        std::fs::remove_file(path).map_err(failed)?;
        let space = Mutex::new(Space::default());
        Ok(Arc::new(Scratch {
            file,
            path: path.to_path_buf(),
            space,
            failed: AtomicBool::new(false),
        }))
    }

    /// Whether chunks can still be written.
    pub fn is_writable(&self) -> bool {
        !self.failed.load(Ordering::Relaxed)
    }

    /// Writes a chunk. None if that is not possible, now or ever again: said once in the log.
    pub fn write(self: &Arc<Scratch>, chunk: &[u8]) -> Option<Arc<Extent>> {
        let bytes = u32::try_from(chunk.len()).ok()?;
        if !self.is_writable() {
            return None;
        }
        let offset = self.space.lock().take(u64::from(bytes));
        let extent = Arc::new(Extent {
            scratch: Arc::clone(self),
            offset,
            bytes,
        });
        match self.file.write_all_at(chunk, offset) {
            Ok(()) => Some(extent),
            Err(error) => {
                if !self.failed.swap(true, Ordering::Relaxed) {
                    log::warn!(
                        "{}: {error}; checkpoints stay in memory from here on",
                        self.path.display()
                    );
                }
                None
            }
        }
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        let space = self.space.lock();
        space.end - space.free.values().sum::<u64>()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Extent {
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut chunk = vec![0; self.bytes as usize];
        self.scratch.file.read_exact_at(&mut chunk, self.offset)?;
        Ok(chunk)
    }

    pub fn path(&self) -> &Path {
        self.scratch.path()
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        self.scratch
            .space
            .lock()
            .give_back(self.offset, u64::from(self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_joined_and_reused() {
        let mut space = Space::default();
        let [a, b, c, d] = [10, 20, 30, 40].map(|bytes| space.take(bytes));
        assert_eq!([a, b, c, d], [0, 10, 30, 60]);
        space.give_back(a, 10);
        space.give_back(c, 30);
        space.give_back(b, 20);
        assert_eq!(space.free.iter().collect::<Vec<_>>(), [(&0, &60)]);
        assert_eq!(space.take(25), 0);
        assert_eq!(space.take(36), 100);
        space.give_back(100, 36);
        space.give_back(d, 40);
        assert_eq!((space.end, space.free.len()), (25, 0));
    }

    #[test]
    fn the_file_has_no_name_and_what_exists_is_not_touched() {
        let path = std::env::temp_dir().join(format!("checkpoints-scratch-{}", std::process::id()));
        let scratch = Scratch::create(&path).unwrap();
        assert!(!path.exists());
        let extent = scratch.write(b"chunk").unwrap();
        assert_eq!(extent.read().unwrap(), b"chunk");
        assert_eq!(scratch.used_bytes(), 5);
        drop(extent);
        assert_eq!(scratch.used_bytes(), 0);
        std::fs::write(&path, b"precious").unwrap();
        assert!(matches!(Scratch::create(&path), Err(Error::Io { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_written_is_given_up() {
        let name = format!("checkpoints-scratch-full-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut scratch = Scratch::create(&path).unwrap();
        let kept = scratch.write(b"before").unwrap();
        // As a full disk would: from now on every write fails.
        std::fs::write(&path, b"").unwrap();
        drop(kept);
        Arc::get_mut(&mut scratch).unwrap().file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(scratch.write(b"after").is_none());
        assert!(!scratch.is_writable());
        assert_eq!(scratch.used_bytes(), 0);
    }
}
