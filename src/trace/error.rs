//! What can be wrong with a recording file: one line each, with the file, the place, what was found, what to do.

use std::io;
use std::path::PathBuf;

/// An error of reading or writing a recording.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or created.
    #[error("{}: cannot open the recording: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path names a directory.
    #[error("{}: is a directory; name the recording file (.rvr) in it", path.display())]
    Directory {
        /// The path.
        path: PathBuf,
    },
    /// The path names a device, a pipe or a socket.
    #[error("{}: is not a regular file; a recording is read from a file on disk", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file has no bytes.
    #[error("{}: the file is empty; its recorder was stopped before it wrote anything: record again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{}: is not a retrovisor recording (it starts with {found}); name a file made with --record",
        path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: String,
    },
    /// The file ends within the header.
    #[error("{}: the header is cut off at byte {have} of {need}; nothing can be replayed: record again or copy the \
        file again", path.display())]
    HeaderCut {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        have: u64,
        /// Length of the whole header in bytes.
        need: u64,
    },
    /// The header's bytes are not what was written.
    #[error("{}: the header is damaged at byte {offset}: {what}; copy the file again", path.display())]
    HeaderDamaged {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from the start.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// A format that this program does not read.
    #[error("{}: has format {version} and was written by retrovisor {program}; this is retrovisor {}, which reads \
        formats {oldest} to {newest}: open it with retrovisor {program}{}", path.display(),
        env!("CARGO_PKG_VERSION"),
        if version > newest { " or later" } else { "" })]
    Version {
        /// The file.
        path: PathBuf,
        /// The file's format.
        version: u32,
        /// Version of the program that wrote it.
        program: String,
        /// The oldest format that this program reads.
        oldest: u32,
        /// The newest format that this program reads.
        newest: u32,
    },
    /// The file ends, or is damaged, before the starting state is complete.
    #[error("{}: only {valid} of {len} bytes can be used ({why}), and they do not hold the whole starting state; \
        nothing can be replayed: record again or copy the file again", path.display())]
    NoStart {
        /// The file.
        path: PathBuf,
        /// Bytes that are good.
        valid: u64,
        /// Length of the file in bytes.
        len: u64,
        /// Why the rest is not.
        why: String,
    },
    /// A frame's bytes are not what was written.
    #[error("{}: damaged at byte {offset}: {what}; copy the file again, or replay only what is before", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the frame starts, in bytes from the start of the file.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// The system could not read the file.
    #[error("{}: cannot read the recording at byte {offset}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from the start.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file to record to exists and is something else.
    #[error("{}: exists and is not a recording; it is not overwritten: choose another name or delete it first",
        path.display())]
    WouldOverwrite {
        /// The file.
        path: PathBuf,
    },
    /// The system could not write the file (disk full, for one). What was written before is kept.
    #[error("{}: cannot write the recording at byte {offset}: {source}; {kept}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from the start: the length of what is whole.
        offset: u64,
        /// What the system said.
        source: io::Error,
        /// What is in the file now, in words.
        kept: String,
    },
    /// The recorder used the writer wrongly; nothing was written.
    #[error("{}: the recorder {what}", path.display())]
    Misuse {
        /// The file.
        path: PathBuf,
        /// What it did.
        what: String,
    },
}
