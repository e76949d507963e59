//! One GDB's conversation, without sockets: events in, bytes out.
//!
//! Every packet gets exactly one answer (a resumption's comes when the machine stops, perhaps after console output).
//! Nothing that arrives ends a session but GDB's own farewell or the loss of the transport.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::gdb::context::Context;
use crate::gdb::features::{self, Answer};
use crate::gdb::framing::{Event, PACKET_BYTES_MAX, frame};
use crate::gdb::run;
use crate::gdb::stub::{Refused, State, Stub};
use crate::gdb::syntax;
use crate::monitor;
use crate::timeline::api::Debuggee;

/// Text in one packet.
const TEXT_BYTES_MAX: usize = PACKET_BYTES_MAX / 4;

/// Whether a session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next event, please.
    On,
    /// GDB has detached or killed.
    Over,
}

/// A conversation.
pub struct Session<'d> {
    context: Context<'d>,
    stub: Stub<'d>,
    /// Each packet is acknowledged, until GDB asks for it no more.
    acknowledge: bool,
    /// For GDB's `-`.
    last_sent: Vec<u8>,
}

impl<'d> Session<'d> {
    /// Starts a conversation about a recording, where it stands.
    pub fn new(debuggee: &'d mut dyn Debuggee) -> Self {
        Self {
            context: Context::new(debuggee),
            stub: Stub::default(),
            acknowledge: true,
            last_sent: Vec::new(),
        }
    }

    /// Takes an event and writes what it calls for. `interrupt` is set by whoever hears the user's Ctrl-C while this
    /// runs. Fails only when `wire` does.
    pub fn event(
        &mut self,
        event: Event,
        wire: &mut dyn Write,
        interrupt: &AtomicBool,
    ) -> io::Result<Flow> {
        match event {
            Event::Packet(body) => {
                if self.acknowledge {
                    wire.write_all(b"+")?;
                    wire.flush()?;
                }
                self.packet(&body, wire, interrupt)
            }
            Event::Corrupt if self.acknowledge => {
                wire.write_all(b"-")?;
                wire.flush()?;
                Ok(Flow::On)
            }
            // Without acknowledgements nobody would send it again.
            Event::Corrupt => self.send(wire, syntax::error("wrong checksum")),
            Event::TooLong => {
                if self.acknowledge {
                    wire.write_all(b"+")?;
                }
                self.send(wire, syntax::error("packet too long"))
            }
            Event::Resend if self.acknowledge => {
                wire.write_all(&self.last_sent)?;
                wire.flush()?;
                Ok(Flow::On)
            }
            // An interrupt while nothing runs has come too late.
            Event::Resend | Event::Interrupt => Ok(Flow::On),
        }
    }

    fn send(&mut self, wire: &mut dyn Write, body: Vec<u8>) -> io::Result<Flow> {
        log::trace!("-> {}", String::from_utf8_lossy(&body));
        self.last_sent = frame(&body);
        wire.write_all(&self.last_sent)?;
        wire.flush()?;
        Ok(Flow::On)
    }

    fn packet(
        &mut self,
        body: &[u8],
        wire: &mut dyn Write,
        interrupt: &AtomicBool,
    ) -> io::Result<Flow> {
        log::trace!("<- {}", String::from_utf8_lossy(body));
        match features::answer(&mut self.context, body) {
            Answer::Reply(reply) => self.send(wire, reply),
            Answer::Monitor(line) => self.monitor(&line, wire, interrupt),
            Answer::StopAcknowledging => {
                // The answer is still acknowledged by GDB, the next packet no more by us.
                self.acknowledge = false;
                self.send(wire, b"OK".to_vec())
            }
            Answer::Farewell(reply) => {
                if let Some(reply) = reply {
                    self.send(wire, reply)?;
                }
                Ok(Flow::Over)
            }
            Answer::Stub { packet, append } => {
                let outcome = self.stub.packet(&mut self.context, &packet);
                self.deliver(outcome, &append, wire, interrupt)
            }
        }
    }

    /// Runs a monitor command: its text goes out in packets of a length that GDB takes.
    fn monitor(
        &mut self,
        line: &str,
        wire: &mut dyn Write,
        interrupt: &AtomicBool,
    ) -> io::Result<Flow> {
        let mut scope = monitor::Scope {
            debuggee: self.context.debuggee,
            settings: &mut self.context.settings,
            interrupt,
        };
        let text = monitor::run(&mut scope, line);
        for part in text.as_bytes().chunks(TEXT_BYTES_MAX) {
            let mut body = b"O".to_vec();
            syntax::push_hex(&mut body, part);
            self.send(wire, body)?;
        }
        self.send(wire, b"OK".to_vec())
    }

    /// Sends what the stub has answered; if it wants the machine to run, runs it.
    fn deliver(
        &mut self,
        outcome: Result<(Vec<Vec<u8>>, State), Refused>,
        append: &[u8],
        wire: &mut dyn Write,
        interrupt: &AtomicBool,
    ) -> io::Result<Flow> {
        let (mut replies, state) = match outcome {
            Ok(outcome) => outcome,
            Err(Refused(why)) => {
                log::warn!("packet refused: {why}");
                return self.send(wire, syntax::error("this packet makes no sense here"));
            }
        };
        if let Some(last) = replies.last_mut() {
            last.extend_from_slice(append);
        }
        for reply in replies {
            self.send(wire, reply)?;
        }
        match state {
            State::Idle => Ok(Flow::On),
            State::Over => Ok(Flow::Over),
            State::Running => self.run(wire, interrupt),
        }
    }

    fn run(&mut self, wire: &mut dyn Write, interrupt: &AtomicBool) -> io::Result<Flow> {
        let Some(plan) = self.context.plan.take() else {
            return self.send(wire, syntax::error("nothing to run"));
        };
        let mut broken = None;
        let halt = run::carry_out(&mut self.context, plan, interrupt, &mut |text| {
            let mut body = b"O".to_vec();
            syntax::push_hex(&mut body, text);
            self.last_sent = frame(&body);
            let sent = wire.write_all(&self.last_sent).and_then(|()| wire.flush());
            if let Err(error) = sent {
                // Nobody is there any more to see the rest.
                interrupt.store(true, Ordering::Relaxed);
                broken = Some(error);
            }
        });
        if let Some(error) = broken {
            return Err(error);
        }
        let outcome = self.stub.report(&mut self.context, &halt);
        self.deliver(outcome, b"", wire, interrupt)
    }
}
