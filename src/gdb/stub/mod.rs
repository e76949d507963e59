//! The one place that knows the gdbstub crate: packets go in, replies come out.
//!
//! gdbstub ends a session at any packet that it cannot parse, writes into a connection of its own and wants to be
//! in a certain state. So it is given an in-memory connection and only packets that the features have checked and
//! written anew. Should it refuse one all the same, it is replaced by a fresh one: it holds nothing that the session
//! does not hold too. The acknowledgement mode is the session's business; inside, there are none.

mod arch;
mod target;

use gdbstub::common::{Signal, Tid};
use gdbstub::conn::Connection;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::breakpoints::WatchKind as StubWatchKind;
use gdbstub::target::ext::catch_syscalls::CatchSyscallPosition;

use crate::gdb::breakpoints::Kind;
use crate::gdb::context::Context;
use crate::gdb::framing::{self, Deframer, Event, PACKET_BYTES_MAX};
use crate::gdb::registers;
use crate::gdb::run::Halt;
use crate::timeline::api::{self, StopReason, WatchKind};

use arch::Register;

/// What the stub expects next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// A packet.
    Idle,
    /// That the plan in the context is carried out and its end reported.
    Running,
    /// Nothing: GDB has taken its leave.
    Over,
}

/// The refusal of a packet; the stub is as new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

type Machine<'d> = GdbStubStateMachine<'static, Context<'d>, Pipe>;

/// The in-memory connection.
struct Pipe(Vec<u8>);

impl Connection for Pipe {
    type Error = std::convert::Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Self::Error> {
        self.0.push(byte);
        Ok(())
    }

    fn write_all(&mut self, buf: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(buf);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// gdbstub's half of a session.
#[derive(Default)]
pub struct Stub<'d> {
    /// `None`: a fresh one is made at the next packet.
    machine: Option<Machine<'d>>,
}

impl<'d> Stub<'d> {
    /// Hands over a packet. The replies are bodies, escaped as they came.
    pub fn packet(
        &mut self,
        context: &mut Context<'d>,
        body: &[u8],
    ) -> Result<(Vec<Vec<u8>>, State), Refused> {
        let mut machine = match self.machine.take() {
            Some(machine) => machine,
            None => fresh(context)?,
        };
        for byte in framing::frame(body) {
            machine = pump(machine, context, byte)?;
        }
        let (machine, replies, state) = drain(machine);
        self.machine = machine;
        Ok((replies, state))
    }

    /// Reports the end of the run that the last packet began.
    pub fn report(
        &mut self,
        context: &mut Context<'d>,
        halt: &Halt,
    ) -> Result<(Vec<Vec<u8>>, State), Refused> {
        let Some(Machine::Running(running)) = self.machine.take() else {
            return Err(Refused("a stop without a run".into()));
        };
        let reason = stop_reason(context, halt);
        let registers = context.debuggee.registers(halt.cpu());
        let values = registers::EXPEDITED.map(|i| (i, registers::ROWS[i].bytes(&registers)));
        let mut expedited = values
            .iter()
            .map(|(i, bytes)| (Register(*i), bytes.as_slice()));
        let machine = running
            .report_stop_with_regs(context, reason, &mut expedited)
            .map_err(|e| Refused(e.to_string()))?;
        let (machine, replies, state) = drain(machine);
        self.machine = machine;
        Ok((replies, state))
    }
}

/// A stub that knows what has been negotiated, without acknowledgements.
fn fresh<'d>(context: &mut Context<'d>) -> Result<Machine<'d>, Refused> {
    let stub = GdbStub::builder(Pipe(Vec::new()))
        .packet_buffer_size(PACKET_BYTES_MAX)
        .build()
        .map_err(|e| Refused(e.to_string()))?;
    let mut machine = stub
        .run_state_machine(context)
        .map_err(|e| Refused(e.to_string()))?;
    let features: &[u8] = if context.multiprocess {
        b"multiprocess+"
    } else {
        b"multiprocess-"
    };
    let hello = [
        framing::frame(b"QStartNoAckMode"),
        framing::frame(&[b"qSupported:", features].concat()),
    ];
    for byte in hello.concat() {
        machine = pump(machine, context, byte)?;
    }
    let (machine, _, _) = drain(machine);
    machine.ok_or_else(|| Refused("gdbstub hung up at once".into()))
}

fn pump<'d>(
    machine: Machine<'d>,
    context: &mut Context<'d>,
    byte: u8,
) -> Result<Machine<'d>, Refused> {
    match machine {
        Machine::Idle(idle) => idle.incoming_data(context, byte),
        Machine::Running(running) => running.incoming_data(context, byte),
        other => Ok(other),
    }
    .map_err(|e| Refused(e.to_string()))
}

/// Takes out what the machine has written, and says where it stands.
fn drain(mut machine: Machine<'_>) -> (Option<Machine<'_>>, Vec<Vec<u8>>, State) {
    let (pipe, state) = match &mut machine {
        Machine::Idle(m) => (m.borrow_conn(), State::Idle),
        Machine::Running(m) => (m.borrow_conn(), State::Running),
        // The interrupt byte is never passed on.
        Machine::CtrlCInterrupt(m) => (m.borrow_conn(), State::Over),
        Machine::Disconnected(m) => (m.borrow_conn(), State::Over),
    };
    let mut deframer = Deframer::new();
    let replies = std::mem::take(&mut pipe.0)
        .into_iter()
        .filter_map(|byte| match deframer.push(byte) {
            Some(Event::Packet(body)) => Some(body),
            _ => None,
        })
        .collect();
    let machine = (state != State::Over).then_some(machine);
    (machine, replies, state)
}

/// The thread id of a processor.
fn tid(cpu: usize) -> Tid {
    Tid::MIN.saturating_add(cpu)
}

fn stop_reason(context: &Context<'_>, halt: &Halt) -> MultiThreadStopReason<u64> {
    let tid = tid(halt.cpu());
    let signal = |signal| MultiThreadStopReason::SignalWithThread { tid, signal };
    let stop = match halt {
        Halt::Stopped(stop) => stop,
        // Signal 0 makes GDB stop whatever it was doing, and say no more than that the thread stopped.
        Halt::Arrived { .. } => return signal(Signal::SIGZERO),
    };
    match stop.reason {
        StopReason::Stepped => signal(Signal::SIGTRAP),
        StopReason::Interrupted => signal(Signal::SIGINT),
        StopReason::Divergence(_) => signal(Signal::SIGZERO),
        StopReason::Breakpoint { addr } => match context.breakpoints.kind_at(addr) {
            Some(Kind::Hardware) => MultiThreadStopReason::HwBreak(tid),
            _ => MultiThreadStopReason::SwBreak(tid),
        },
        StopReason::Watchpoint { addr, kind } => {
            let kind = match kind {
                WatchKind::Write => StubWatchKind::Write,
                WatchKind::Read => StubWatchKind::Read,
                WatchKind::Access => StubWatchKind::ReadWrite,
            };
            MultiThreadStopReason::Watch { tid, kind, addr }
        }
        StopReason::Event(event) => match context.call {
            Some(number) => MultiThreadStopReason::CatchSyscall {
                tid: Some(tid),
                number,
                position: match event {
                    api::Event::SystemCall { .. } => CatchSyscallPosition::Entry,
                    _ => CatchSyscallPosition::Return,
                },
            },
            // GDB was told in words what it is.
            None => signal(Signal::SIGZERO),
        },
        StopReason::HistoryStart => MultiThreadStopReason::ReplayLog {
            tid: Some(tid),
            pos: ReplayLogPosition::Begin,
        },
        StopReason::HistoryEnd => MultiThreadStopReason::ReplayLog {
            tid: Some(tid),
            pos: ReplayLogPosition::End,
        },
    }
}
