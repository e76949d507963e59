//! What can go wrong with a checkpoint.

use crate::Tick;
use std::path::PathBuf;

/// Why the store could not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no checkpoint at this tick: it never was, or it has been removed.
    #[error("there is no checkpoint at tick {0}")]
    NoCheckpoint(Tick),
    /// A checkpoint was to be added at a tick that does not come after the one it is described by.
    #[error("a checkpoint at tick {tick} cannot be described by what changed since tick {since}")]
    Order {
        /// Where the checkpoint was to be.
        tick: Tick,
        /// The checkpoint that the pages were told to differ from.
        since: Tick,
    },
    /// The file that pages were written to cannot be made, read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was read back from a file is not what was written to it.
    #[error("{}: damaged at byte {offset}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged piece starts, in bytes.
        offset: u64,
    },
}
