//! The world of a replay: the log answers, and what arrived arrives again at its tick.

use super::divergence::Divergence;
use crate::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use crate::machine::outputs::{OUTPUT_MMIO, OUTPUT_MSR, OUTPUT_TPR, OutputHash};
use crate::tick::{NS_PER_TICK, Tick};
use crate::trace::{Class, Cursor, Digest, Recording, What};
use devices::ConsoleTap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Events before a divergence that its report names.
const LAST_EVENTS: u64 = 8;

/// The task priority register of the local APIC, where it is after reset.
const LAPIC_TASK_PRIORITY: u64 = devices::map::LAPIC_BASE + 0x80;

/// Where a log world stands: plain data, part of every checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPosition {
    /// Index of the next event.
    pub event: u64,
    /// TSC minus ticks times [`NS_PER_TICK`].
    pub tsc_offset: u64,
    /// Hash of all that went out.
    pub outputs: u64,
    /// The serial line as seen from outside.
    pub console: ConsoleTap,
    /// The task priority (CR8) that the guest has set.
    pub task_priority: u8,
}

/// Answers from the log of a recording.
pub struct LogWorld {
    cursor: Cursor,
    /// Runs ahead of `cursor` to the next arrival.
    ahead: Cursor,
    /// Tick of the arrival that `ahead` has found; `Tick::MAX` if there is none.
    arrival: Tick,
    tsc_offset: u64,
    outputs: OutputHash,
    console: ConsoleTap,
    task_priority: u8,
    /// Bytes that reached the serial line, if somebody wants them.
    shown: Option<Vec<u8>>,
    diverged: Option<Box<Divergence>>,
    end: Tick,
    checks: bool,
}

impl LogWorld {
    /// The world at the start of a recording.
    pub fn new(recording: &Arc<Recording>) -> LogWorld {
        let start = recording.config().start.clone().unwrap_or_default();
        let mut world = LogWorld {
            cursor: recording.cursor(),
            ahead: recording.cursor(),
            arrival: 0,
            tsc_offset: start.guest_ns,
            outputs: OutputHash::default(),
            console: ConsoleTap::resume(start.serial_divisor, start.serial_loopback),
            task_priority: start.task_priority,
            shown: None,
            diverged: None,
            end: recording.last_tick(),
            checks: true,
        };
        world.find_arrival();
        world
    }

    /// Where it stands.
    pub fn position(&self) -> LogPosition {
        LogPosition {
            event: self.cursor.position(),
            tsc_offset: self.tsc_offset,
            outputs: self.outputs.0,
            console: self.console,
            task_priority: self.task_priority,
        }
    }

    /// The task priority (CR8) that the guest has set, by CR8 or in the local APIC.
    pub fn task_priority(&self) -> u8 {
        self.task_priority
    }

    /// The last event before tick `now`, where the machine is, that is more than a note.
    pub fn last_event(&self, now: Tick) -> Option<(Tick, String)> {
        let mut cursor = self.cursor.recording().cursor();
        let mut position = self.cursor.position();
        while position > 0 {
            position -= 1;
            cursor.seek(position);
            let event = cursor.peek().ok()??;
            // One of this very tick was taken over already if the machine was about to execute it.
            let check_or_note = matches!(event.what.kind().class(), Class::Note | Class::Check);
            if event.tick < now && !check_or_note {
                return Some((event.tick, event.what.to_string()));
            }
        }
        None
    }

    /// Goes to where it once stood.
    pub fn seek(&mut self, position: &LogPosition) {
        self.cursor.seek(position.event);
        self.tsc_offset = position.tsc_offset;
        self.outputs = OutputHash(position.outputs);
        self.console = position.console;
        self.task_priority = position.task_priority;
        self.diverged = None;
        self.find_arrival();
    }

    /// Whether digests in the log are left for the caller to take (the default) or skipped.
    pub fn check_digests(&mut self, on: bool) {
        self.checks = on;
    }

    /// Collects what reaches the serial line from now on.
    pub fn collect_console(&mut self) {
        self.shown = Some(Vec::new());
    }

    /// What was collected since the last call.
    pub fn take_console(&mut self) -> Vec<u8> {
        self.shown.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The first difference, if there was one.
    pub fn diverged(&self) -> Option<&Divergence> {
        self.diverged.as_deref()
    }

    /// Guest time at a tick up to which the clock is settled.
    fn guest_ns(&self, now: Tick) -> u64 {
        now.wrapping_mul(NS_PER_TICK).wrapping_add(self.tsc_offset)
    }

    /// Guest time at tick `now`, where the machine is: a function of the tick, whether the log was asked there or not.
    pub fn guest_time(&self, now: Tick) -> u64 {
        let mut offset = self.tsc_offset;
        let mut cursor = self.cursor.clone();
        while let Ok(Some(event)) = cursor.next()
            && event.tick <= now
        {
            if let What::Clock { tsc_offset } = event.what {
                offset = tsc_offset;
            }
        }
        now.wrapping_mul(NS_PER_TICK).wrapping_add(offset)
    }

    /// Guest time at tick `now`, which is not before any tick that the log was asked for. As [`Self::guest_time`], and
    /// quicker.
    pub fn time_at(&mut self, now: Tick) -> u64 {
        self.settle(now);
        self.guest_ns(now)
    }

    /// Hash of all that went out.
    pub fn outputs(&self) -> u64 {
        self.outputs.0
    }

    /// The digest that the log has before tick `now`, if it is the next event.
    pub fn take_digest(&mut self, now: Tick) -> Option<Digest> {
        // Who ends asleep has moved the clock before.
        self.settle(now);
        let digest = match self.peek() {
            Some((tick, What::Digest(digest))) if tick == now => **digest,
            _ => return None,
        };
        self.advance();
        Some(digest)
    }

    /// Notes a difference, the first of which counts.
    pub fn diverge(&mut self, tick: Tick, recorded: String, replayed: String) {
        if self.diverged.is_none() {
            self.diverged = Some(Box::new(Divergence {
                tick,
                recorded,
                replayed,
                last_events: self.last_events(LAST_EVENTS),
                instructions: Vec::new(),
            }));
        }
    }

    /// The last events before the position, in words.
    pub fn last_events(&self, count: u64) -> Vec<String> {
        let mut cursor = self.cursor.recording().cursor();
        let position = self.cursor.position();
        cursor.seek(position.saturating_sub(count));
        let mut lines = Vec::new();
        while cursor.position() < position {
            match cursor.next() {
                Ok(Some(event)) => lines.push(event.to_string()),
                _ => break,
            }
        }
        lines
    }

    /// Adds the instructions at the place of a divergence to its report.
    pub fn explain(&mut self, instructions: Vec<String>) {
        if let Some(divergence) = &mut self.diverged {
            divergence.instructions = instructions;
        }
    }

    /// Moves `ahead` to the next arrival at or behind the cursor.
    fn find_arrival(&mut self) {
        self.ahead.seek(self.cursor.position());
        self.arrival = Tick::MAX;
        loop {
            match self.ahead.peek() {
                Ok(Some(event)) if event.what.kind().class() == Class::Arrival => {
                    self.arrival = event.tick;
                    return;
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            }
            if self.ahead.next().is_err() {
                return;
            }
        }
    }

    /// The next event that is no mere note (nor a digest, where they are not checked).
    fn peek(&mut self) -> Option<(Tick, &What)> {
        loop {
            match self.cursor.peek() {
                Ok(Some(event)) if event.what.kind().class() == Class::Note => {}
                Ok(Some(event)) if !self.checks && event.what.kind().class() == Class::Check => {}
                Ok(Some(_)) => break,
                Ok(None) => return None,
                Err(error) => {
                    let error = error.to_string();
                    let now = self.end;
                    self.diverge(now, error, "nothing to go by".to_string());
                    return None;
                }
            }
            self.advance();
        }
        match self.cursor.peek() {
            Ok(Some(event)) => Some((event.tick, &event.what)),
            _ => None,
        }
    }

    /// Goes past the next event.
    fn advance(&mut self) {
        let mut arrived = false;
        if let Ok(Some(event)) = self.cursor.next() {
            arrived = event.what.kind().class() == Class::Arrival;
        }
        if arrived {
            self.find_arrival();
        }
    }

    /// Takes over changes of the clock that happen up to `now`.
    fn settle(&mut self, now: Tick) {
        while let Some((tick, &What::Clock { tsc_offset })) = self.peek()
            && tick <= now
        {
            self.tsc_offset = tsc_offset;
            self.advance();
        }
    }

    /// An answer from the log: the next event must be at this tick and fit.
    fn answer<T>(
        &mut self,
        now: Tick,
        asked: impl Fn() -> String,
        fit: impl Fn(&What) -> Option<T>,
    ) -> Option<T> {
        self.settle(now);
        let found = match self.peek() {
            Some((tick, what)) if tick == now => match fit(what) {
                Some(value) => Ok(value),
                None => Err(format!("{what:?} at this tick")),
            },
            Some((tick, what)) => Err(format!("{what:?} at tick {tick} as its next event")),
            None => Err("no more events".to_string()),
        };
        match found {
            Ok(value) => {
                self.advance();
                Some(value)
            }
            Err(recorded) => {
                self.diverge(now, recorded, asked());
                None
            }
        }
    }
}

impl World for LogWorld {
    fn pio_read(&mut self, now: Tick, _cpu: usize, port: u16, size: u8) -> u32 {
        let asked = || format!("IN from port {port:#x}, {size} bytes");
        self.answer(now, asked, |what| match *what {
            What::PioRead {
                port: p,
                size: s,
                value,
            } if p == port && s == size => Some(value),
            _ => None,
        })
        .unwrap_or(u32::MAX)
    }

    fn pio_write(&mut self, _now: Tick, _cpu: usize, port: u16, size: u8, value: u32) {
        self.outputs.add(port as u64, size, value as u64);
        let bytes = self.console.write(port, size, value);
        if let Some(shown) = &mut self.shown {
            shown.extend_from_slice(&bytes);
        }
    }

    fn mmio_read(&mut self, now: Tick, _cpu: usize, gpa: u64, size: u8) -> u64 {
        let asked = || format!("a load of {size} bytes from {gpa:#x}");
        self.answer(now, asked, |what| match *what {
            What::MmioRead {
                gpa: g,
                size: s,
                value,
            } if g == gpa && s == size => Some(value),
            _ => None,
        })
        .unwrap_or(u64::MAX)
    }

    fn mmio_write(&mut self, _now: Tick, _cpu: usize, gpa: u64, size: u8, value: u64) {
        self.outputs.add(OUTPUT_MMIO | gpa, size, value);
        if gpa == LAPIC_TASK_PRIORITY {
            self.task_priority = (value >> 4) as u8 & 15;
        }
    }

    fn msr_read(&mut self, now: Tick, _cpu: usize, msr: u32) -> Option<u64> {
        let asked = || format!("RDMSR of {msr:#x}");
        self.answer(now, asked, |what| match *what {
            What::MsrRead { msr: m, value } if m == msr => Some(value),
            _ => None,
        })
        .flatten()
    }

    fn msr_write(&mut self, now: Tick, _cpu: usize, msr: u32, value: u64) -> bool {
        self.outputs.add(OUTPUT_MSR | msr as u64, 8, value);
        let asked = || format!("WRMSR of {msr:#x}");
        self.answer(now, asked, |what| match *what {
            What::MsrWrite { msr: m, ok } if m == msr => Some(ok),
            _ => None,
        })
        .unwrap_or(false)
    }

    fn tsc(&mut self, now: Tick, _cpu: usize) -> u64 {
        self.settle(now);
        if let Some((tick, &What::Tsc { value })) = self.peek()
            && tick == now
        {
            self.advance();
            return value;
        }
        self.guest_ns(now)
    }

    fn random(&mut self, now: Tick, _cpu: usize) -> u64 {
        self.answer(
            now,
            || "RDRAND or RDSEED".to_string(),
            |what| match *what {
                What::Random { value } => Some(value),
                _ => None,
            },
        )
        .unwrap_or(0)
    }

    fn tpr_read(&mut self, now: Tick, _cpu: usize) -> u64 {
        self.answer(
            now,
            || "MOV from CR8".to_string(),
            |what| match *what {
                What::TprRead { value } => Some(value),
                _ => None,
            },
        )
        .unwrap_or(0)
    }

    fn tpr_write(&mut self, _now: Tick, _cpu: usize, value: u64) {
        self.outputs.add(OUTPUT_TPR, 1, value);
        self.task_priority = value as u8 & 15;
    }

    fn next_stop(&mut self, now: Tick) -> Tick {
        // A clock change needs no stop: it is taken over when somebody looks.
        self.settle(now);
        self.arrival.min(self.end).max(now + 1)
    }

    fn poll(&mut self, now: Tick, _cpu: usize, dma: &mut Vec<Dma>) -> Pending {
        self.settle(now);
        if self.arrival < now {
            let recorded = format!("an event that arrives at tick {}", self.arrival);
            self.diverge(now, recorded, "come past it".to_string());
            return Pending::default();
        }
        if self.arrival > now {
            return Pending::default();
        }
        loop {
            let taken = match self.peek() {
                Some((tick, What::Dma { gpa, bytes })) if tick == now => Dma {
                    gpa: *gpa,
                    bytes: bytes.to_vec(),
                },
                Some((tick, What::Interrupt { .. })) if tick == now => {
                    return Pending {
                        interrupt: true,
                        nmi: false,
                    };
                }
                Some((tick, What::Nmi)) if tick == now => {
                    return Pending {
                        interrupt: false,
                        nmi: true,
                    };
                }
                _ => return Pending::default(),
            };
            dma.push(taken);
            self.advance();
        }
    }

    fn interrupt(&mut self, now: Tick, _cpu: usize, _maskable: bool) -> Option<Interrupt> {
        let interrupt = match self.peek() {
            Some((tick, &What::Interrupt { vector })) if tick == now => Interrupt::Vector(vector),
            Some((tick, What::Nmi)) if tick == now => Interrupt::Nmi,
            _ => return None,
        };
        self.advance();
        Some(interrupt)
    }

    fn wait(&mut self, now: Tick, _cpu: usize, _interruptible: bool) -> Wait {
        self.settle(now);
        let over = now >= self.end;
        match self.peek() {
            Some((tick, What::Interrupt { .. } | What::Nmi)) if tick == now => Wait::Wake,
            Some((tick, What::Dma { .. })) if tick == now => Wait::Wake,
            _ if over => Wait::Ended,
            other => {
                let recorded = match other {
                    Some((tick, what)) => format!("{what:?} at tick {tick} as its next event"),
                    None => "no more events".to_string(),
                };
                self.diverge(
                    now,
                    recorded,
                    "a processor that waits for an interrupt".to_string(),
                );
                Wait::Ended
            }
        }
    }

    fn ended(&mut self, now: Tick) -> bool {
        now >= self.end || self.diverged.is_some()
    }

    fn shutdown(&mut self, now: Tick, _cpu: usize, why: &str) {
        // The recording ends with the tick after this.
        if now + 1 < self.end {
            self.diverge(now, "a machine that runs on".to_string(), why.to_string());
        }
    }
}
