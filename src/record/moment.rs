//! A moment of a run that the user names beforehand: where a recording begins or ends.
//!
//! What the guest prints and where it writes are seen by the live world (`Watch`); which instruction it comes to is the
//! engine's business (`Moment::Address`), and where a symbol is that of `phases` (`Moment::Symbol`).

use crate::tick::GuestNs;
use std::fmt;

/// A moment of the user's choice, the first of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// This text has come over the serial line. The moment is right behind the instruction that sent its last byte.
    Console(Vec<u8>),
    /// The instruction at this linear address comes next.
    Address {
        /// Where.
        linear: u64,
        /// Its name, if the user gave one.
        name: Option<String>,
    },
    /// The function of this name comes next, in a kernel that has to be found in RAM first, by looking there now and
    /// then. Before it is used it is made a [`Moment::Address`].
    Symbol(String),
    /// The guest has written to this port, with one access that begins there.
    Port {
        /// Which.
        port: u16,
        /// And this value, in the access's width.
        value: Option<u32>,
    },
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Moment::Console(text) => write!(f, "the console said «{}»", shown(text)),
            Moment::Address { linear, name: None } => write!(f, "execution came to {linear:#x}"),
            Moment::Address {
                linear,
                name: Some(name),
            } => write!(f, "execution came to {name} ({linear:#x})"),
            Moment::Symbol(name) => write!(f, "execution came to {name}"),
            Moment::Port { port, value: None } => {
                write!(f, "the guest wrote to port {port:#x}")
            }
            Moment::Port {
                port,
                value: Some(value),
            } => write!(f, "the guest wrote {value:#x} to port {port:#x}"),
        }
    }
}

/// Text as a terminal may see it.
fn shown(text: &[u8]) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(text).chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// What the user asks for at the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A recording shall begin.
    Begin,
    /// The recording shall end; the machine runs on.
    End,
}

/// Why a phase of a run is over while the machine is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Came {
    /// The user asked for it.
    Asked,
    /// The moment has come.
    Moment(Moment),
    /// It is time to look at the machine.
    Look,
}

impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Came::Asked => f.write_str("the user asked for it"),
            Came::Moment(moment) => moment.fmt(f),
            Came::Look => f.write_str("it was time to look"),
        }
    }
}

/// What a phase of a run waits for, and whether it has come.
#[derive(Debug, Default)]
pub struct Watch {
    key: Option<Key>,
    moment: Option<Moment>,
    look_ns: Option<GuestNs>,
    /// The last bytes of the console that may be the beginning of the text.
    tail: Vec<u8>,
    came: Option<Came>,
}

impl Watch {
    /// Waits for a key and for a moment.
    pub fn new(key: Option<Key>, moment: Option<Moment>) -> Watch {
        Watch {
            key,
            moment,
            ..Watch::default()
        }
    }

    /// Waits for a guest time, too, a millisecond more or less.
    pub fn until(self, look_ns: Option<GuestNs>) -> Watch {
        Watch { look_ns, ..self }
    }

    /// The address that the engine has to look for.
    pub fn address(&self) -> Option<u64> {
        match self.moment {
            Some(Moment::Address { linear, .. }) => Some(linear),
            _ => None,
        }
    }

    /// What has come.
    pub fn came(&self) -> Option<&Came> {
        self.came.as_ref()
    }

    /// The user asked for something.
    pub fn asked(&mut self, key: Key) {
        if self.key == Some(key) {
            self.came.get_or_insert(Came::Asked);
        }
    }

    /// Guest time is this.
    pub fn passed(&mut self, now_ns: GuestNs) {
        if self.look_ns.is_some_and(|look_ns| now_ns >= look_ns) {
            self.came.get_or_insert(Came::Look);
        }
    }

    /// The instruction at the address comes next.
    pub fn reached(&mut self) {
        if let Some(moment) = &self.moment {
            self.came.get_or_insert(Came::Moment(moment.clone()));
        }
    }

    /// The guest has sent bytes over the serial line.
    pub fn heard(&mut self, bytes: &[u8]) {
        let Some(Moment::Console(text)) = &self.moment else {
            return;
        };
        self.tail.extend_from_slice(bytes);
        if memchr::memmem::find(&self.tail, text).is_some() {
            self.reached();
        }
        let rest = self.tail.len().min(text_tail(&self.moment));
        self.tail.drain(..self.tail.len() - rest);
    }

    /// The guest has written to a port.
    pub fn wrote(&mut self, port: u16, size: u8, value: u32) {
        let Some(Moment::Port {
            port: wanted,
            value: what,
        }) = self.moment
        else {
            return;
        };
        let mask = match size {
            1 => 0xff,
            2 => 0xffff,
            _ => u32::MAX,
        };
        if port == wanted && what.is_none_or(|what| what == value & mask) {
            self.reached();
        }
    }
}

/// Bytes of the console to be remembered: all of the text but its last.
fn text_tail(moment: &Option<Moment>) -> usize {
    match moment {
        Some(Moment::Console(text)) => text.len().saturating_sub(1),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &str) -> Watch {
        Watch::new(None, Some(Moment::Console(text.into())))
    }

    #[test]
    fn a_text_is_heard_in_pieces_and_within_others() {
        let mut watch = console("login:");
        for byte in b"the loglogin" {
            watch.heard(&[*byte]);
            assert_eq!(watch.came(), None);
        }
        watch.heard(b": ");
        assert!(matches!(watch.came(), Some(Came::Moment(_))));
        let mut watch = console("aab");
        watch.heard(b"aa");
        watch.heard(b"ab");
        assert!(watch.came().is_some());
        let mut watch = console("x");
        watch.heard(b"abc");
        assert!(watch.came().is_none() && watch.tail.is_empty());
    }

    #[test]
    fn a_port_is_written_in_its_width() {
        let port = |value| Watch::new(None, Some(Moment::Port { port: 0x80, value }));
        let mut watch = port(Some(0x12));
        watch.wrote(0x80, 2, 0x112);
        watch.wrote(0x81, 1, 0x12);
        assert_eq!(watch.came(), None);
        watch.wrote(0x80, 1, 0xff12);
        assert!(watch.came().is_some());
        let mut watch = port(None);
        watch.wrote(0x80, 4, 7);
        assert!(watch.came().is_some());
    }

    #[test]
    fn only_the_key_that_makes_sense_counts() {
        let mut watch = Watch::new(Some(Key::End), None);
        watch.asked(Key::Begin);
        assert_eq!(watch.came(), None);
        watch.asked(Key::End);
        watch.reached();
        assert_eq!(watch.came(), Some(&Came::Asked));
    }

    #[test]
    fn words_for_people_have_no_control_characters() {
        let moment = Moment::Console(b"a\x1b[2J\n".to_vec());
        assert!(!moment.to_string().contains(char::is_control));
    }
}
