//! Packets on the wire: `$body#checksum`, acknowledgements, and the interrupt byte (GDB manual, E.1).
//!
//! A [`Deframer`] takes bytes as they arrive, in pieces of any size, and never keeps more than one packet.

/// Longest packet taken, frame included; announced to GDB as PacketSize.
pub const PACKET_BYTES_MAX: usize = 0x20000;
/// `$`, `#` and two digits.
const FRAME_BYTES: usize = 4;

/// Something that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A packet's body, checksum right, escapes still in it.
    Packet(Vec<u8>),
    /// A packet whose checksum is wrong.
    Corrupt,
    /// A packet longer than [`PACKET_BYTES_MAX`]; it was dropped.
    TooLong,
    /// `-`: the last packet sent is wanted again.
    Resend,
    /// 0x03 outside a packet: the user's Ctrl-C.
    Interrupt,
}

enum State {
    Between,
    Body,
    Skipping,
    Checksum { first: Option<u8>, skipped: bool },
}

/// Cuts a stream of bytes into [`Event`]s. Bytes between packets that mean nothing are ignored.
pub struct Deframer {
    state: State,
    body: Vec<u8>,
}

impl Default for Deframer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deframer {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self {
            state: State::Between,
            body: Vec::new(),
        }
    }

    /// Takes one byte.
    pub fn push(&mut self, byte: u8) -> Option<Event> {
        match self.state {
            State::Between => match byte {
                b'$' => self.begin(),
                b'-' => return Some(Event::Resend),
                0x03 => return Some(Event::Interrupt),
                _ => {}
            },
            // A `$` is escaped in data: a bare one starts a packet anew after a broken one.
            State::Body | State::Skipping if byte == b'$' => self.begin(),
            State::Body if byte == b'#' => {
                self.state = State::Checksum {
                    first: None,
                    skipped: false,
                }
            }
            State::Body if self.body.len() == PACKET_BYTES_MAX - FRAME_BYTES => {
                self.body = Vec::new();
                self.state = State::Skipping;
            }
            State::Body => self.body.push(byte),
            State::Skipping if byte == b'#' => {
                self.state = State::Checksum {
                    first: None,
                    skipped: true,
                }
            }
            State::Skipping => {}
            State::Checksum {
                first: None,
                skipped,
            } => {
                self.state = State::Checksum {
                    first: Some(byte),
                    skipped,
                };
            }
            State::Checksum {
                first: Some(first),
                skipped,
            } => {
                self.state = State::Between;
                if skipped {
                    return Some(Event::TooLong);
                }
                let body = std::mem::take(&mut self.body);
                let sent = super::syntax::bytes(&[first, byte]).map(|b| b[0]);
                let right = sent == Some(checksum(&body));
                return Some(if right {
                    Event::Packet(body)
                } else {
                    Event::Corrupt
                });
            }
        }
        None
    }

    fn begin(&mut self) {
        self.body.clear();
        self.state = State::Body;
    }
}

fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, &c| sum.wrapping_add(c))
}

/// Puts a frame around a body that is escaped already.
pub fn frame(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + FRAME_BYTES);
    out.push(b'$');
    out.extend_from_slice(body);
    out.push(b'#');
    super::syntax::push_hex(&mut out, &[checksum(body)]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8]) -> Vec<Event> {
        let mut deframer = Deframer::new();
        stream.iter().filter_map(|&b| deframer.push(b)).collect()
    }

    #[test]
    fn what_is_framed_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut body = Vec::new();
        crate::gdb::syntax::push_escaped(&mut body, &all);
        assert_eq!(events(&frame(&body)), [Event::Packet(body)]);
    }

    #[test]
    fn broken_packets_are_told_apart() {
        assert_eq!(events(b"+$g#67"), [Event::Packet(b"g".to_vec())]);
        assert_eq!(
            events(b"$g#68$g#zz$g#67"),
            [Event::Corrupt, Event::Corrupt, Event::Packet(b"g".to_vec())]
        );
        assert_eq!(events(b"$half$g#67"), [Event::Packet(b"g".to_vec())]);
        assert_eq!(events(b"\x03-"), [Event::Interrupt, Event::Resend]);
        assert_eq!(events(b"$\x03#03"), [Event::Packet(b"\x03".to_vec())]);
    }

    #[test]
    fn an_oversized_packet_is_dropped_and_the_next_one_taken() {
        let longest = vec![b'm'; PACKET_BYTES_MAX - FRAME_BYTES];
        assert_eq!(events(&frame(&longest)), [Event::Packet(longest.clone())]);
        let mut stream = frame(&[longest, b"m".to_vec()].concat());
        stream.extend_from_slice(b"$g#67");
        assert_eq!(
            events(&stream),
            [Event::TooLong, Event::Packet(b"g".to_vec())]
        );
    }
}
