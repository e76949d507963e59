//! The packet filter: which packets this server takes, and what becomes of each.
//!
//! One feature is one file with a [`Feature`] and one line in [`FEATURES`]. A packet goes to the longest prefix that
//! any feature names; its handler answers it or writes it anew for gdbstub, so that gdbstub never sees what it could
//! not parse. A packet that no feature names gets the empty answer, which means "not supported".

mod breakpoints;
mod catch_syscalls;
mod checksum;
mod farewell;
mod handshake;
mod memory;
mod monitor;
mod osdata;
mod physical_memory;
mod registers;
mod resume;
mod search;
mod stop_query;
mod thread_table;
mod threads;

use crate::gdb::context::Context;
use crate::gdb::syntax;

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This is the answer, escaped where need be.
    Reply(Vec<u8>),
    /// gdbstub answers this packet, and the answer gets a tail.
    Stub {
        /// The packet, well-formed.
        packet: Vec<u8>,
        /// Added to the last reply.
        append: Vec<u8>,
    },
    /// A monitor command is run; its text is sent before the answer.
    Monitor(String),
    /// OK, and no acknowledgements from here on.
    StopAcknowledging,
    /// The session ends after this answer, if any.
    Farewell(Option<Vec<u8>>),
}

impl Answer {
    fn text(text: impl AsRef<[u8]>) -> Self {
        Answer::Reply(text.as_ref().to_vec())
    }

    fn error(text: &str) -> Self {
        Answer::Reply(syntax::error(text))
    }

    /// The packet is broken.
    fn malformed() -> Self {
        Self::error("malformed packet")
    }

    /// The packet is not supported.
    fn empty() -> Self {
        Answer::Reply(Vec::new())
    }

    fn stub(packet: impl AsRef<[u8]>) -> Self {
        Answer::Stub {
            packet: packet.as_ref().to_vec(),
            append: Vec::new(),
        }
    }

    /// A part of an object that is read by qXfer, from `offset` on, at most `length` bytes.
    fn part(object: &[u8], offset: u64, length: u64) -> Self {
        let clamp = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(object.len());
        let (from, to) = (clamp(offset), clamp(offset.saturating_add(length)));
        let mut reply = vec![if to == object.len() { b'l' } else { b'm' }];
        syntax::push_escaped(&mut reply, &object[from..to]);
        Answer::Reply(reply)
    }
}

/// Takes what follows the prefix.
type Handler = fn(&mut Context<'_>, &[u8]) -> Answer;

/// A part of the protocol.
pub struct Feature {
    /// What the reply to qSupported says of it beyond what gdbstub says, with semicolons between.
    pub supported: &'static str,
    /// Prefixes of packets, and who answers them.
    pub packets: &'static [(&'static str, Handler)],
}

/// Everything that this server can do.
pub static FEATURES: &[&Feature] = &[
    &handshake::FEATURE,
    &stop_query::FEATURE,
    &threads::FEATURE,
    &thread_table::FEATURE,
    &registers::FEATURE,
    &memory::FEATURE,
    &physical_memory::FEATURE,
    &search::FEATURE,
    &checksum::FEATURE,
    &breakpoints::FEATURE,
    &resume::FEATURE,
    &catch_syscalls::FEATURE,
    &osdata::FEATURE,
    &monitor::FEATURE,
    &farewell::FEATURE,
];

/// Decides about a packet.
pub fn answer(context: &mut Context<'_>, packet: &[u8]) -> Answer {
    let best = FEATURES
        .iter()
        .flat_map(|feature| feature.packets)
        .filter(|(prefix, _)| packet.starts_with(prefix.as_bytes()))
        .max_by_key(|(prefix, _)| prefix.len());
    match best {
        Some((prefix, handler)) => handler(context, &packet[prefix.len()..]),
        None => Answer::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_prefix_belongs_to_two() {
        let mut all: Vec<&str> = FEATURES
            .iter()
            .flat_map(|f| f.packets)
            .map(|(p, _)| *p)
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
