//! Replay: a world made of a recording's log, and the machine that runs in it.

pub mod divergence;
pub mod replayer;
pub mod resolve;
pub mod world;

pub use divergence::Divergence;
pub use replayer::{ReplayError, Replayer, encode_checkpoint};
pub use world::LogPosition;
