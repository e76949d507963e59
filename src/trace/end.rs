//! How a recording ended.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tick::{GuestNs, Tick};

/// Why recording ended. Stored by name, so that variants can be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The guest switched the machine off.
    PowerOff,
    /// The guest reset the machine; by which device.
    Reset(String),
    /// The processor shut down: an exception during the delivery of a double fault.
    TripleFault(String),
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u32),
    /// The recorder was asked to end by a signal, named as in `SIGTERM`.
    Signal(String),
    /// A limit that the user gave was reached.
    Limit(String),
    /// The user ended it at the console.
    UserQuit,
    /// The guest halted with nothing that could ever wake it.
    Halted,
    /// The recording could not be written any further (disk full, for one).
    WriteFailed(String),
    /// The engine met something that it cannot execute.
    Unsupported(String),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest switched the machine off"),
            Self::Reset(by) => write!(f, "the guest reset the machine ({})", printable(by)),
            Self::TripleFault(why) => write!(f, "triple fault: {}", printable(why)),
            Self::DebugExit(value) => {
                write!(f, "the guest wrote {value:#x} to the debug-exit port")
            }
            Self::Signal(name) => write!(f, "the recorder was ended by {}", printable(name)),
            Self::Limit(what) => write!(f, "limit reached: {}", printable(what)),
            Self::UserQuit => f.write_str("the user ended it at the console"),
            Self::Halted => f.write_str("the guest halted with nothing that could wake it"),
            Self::WriteFailed(why) => write!(
                f,
                "the recording could not be written any further: {}",
                printable(why)
            ),
            Self::Unsupported(what) => {
                write!(f, "the engine cannot execute this: {}", printable(what))
            }
        }
    }
}

/// Text from a file as it may go to a terminal: control characters are escaped.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
    }
    out
}

/// What the recorder knew when it ended. The last frame of a whole recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Length of the recording: the tick that would have come next.
    pub tick: Tick,
    /// Why it ended.
    pub reason: EndReason,
    /// Guest time at the end: ticks and sleep. `None` where the end came too late to be recorded at its tick.
    pub guest_ns: Option<GuestNs>,
    /// How long recording took on the host, in milliseconds.
    pub wall_ms: u64,
    /// How recording on hardware and resolving went: counts by name, for people. Empty for the engine.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub statistics: BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_never_sends_control_characters_to_the_terminal() {
        let reason = EndReason::TripleFault("a\x1b[2Jb\r\n".into());
        assert_eq!(reason.to_string(), "triple fault: a\\u{1b}[2Jb\\r\\n");
    }
}
