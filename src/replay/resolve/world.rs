//! The world of an untimed recording: answers in their order, and nothing arrives but what the resolver arms.
//!
//! Accesses are counted as the recorder counted them. Whoever runs the machine says how many there may be: behind the
//! instruction of the last one the run is over, exactly.

use crate::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use crate::machine::outputs::{OUTPUT_MMIO, OUTPUT_MSR, OUTPUT_TPR, OutputHash};
use crate::tick::Tick;
use crate::trace::{Class, Cursor, Event, PageList, Recording, What};
use std::sync::Arc;

/// Where the local APIC's task priority register is after reset.
const LAPIC_TASK_PRIORITY: u64 = devices::map::LAPIC_BASE + 0x80;

/// Where RDTSC is no access nothing else bounds how many events a guest makes. The recorder looks at RAM every fiftieth
/// of a second at least, in which a processor executes no more RDTSCs than this.
const TIMED_MAX: usize = 1 << 23;

/// A difference, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// What the recording says.
    pub recorded: String,
    /// What the engine does.
    pub replayed: String,
}

/// Where the world stands: plain data.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    event: u64,
    accesses: u64,
    outputs: OutputHash,
    task_priority: u8,
    counter: Option<u64>,
}

/// Answers from an untimed recording, and events with ticks for what was answered.
pub struct JournalWorld {
    cursor: Cursor,
    accesses: u64,
    /// The run is over when so many accesses were made.
    target: u64,
    /// What arrives at the next tick.
    armed: Option<Interrupt>,
    outputs: OutputHash,
    task_priority: u8,
    /// What the time-stamp counter reads, if the recorder has set it.
    counter: Option<u64>,
    /// The tick at which HLT was counted as an access.
    halted_at: Option<Tick>,
    mismatch: Option<Mismatch>,
    /// What was met, with ticks.
    timed: Vec<Event>,
    /// There may be so many of them for RDTSC to add one.
    timed_max: usize,
}

impl JournalWorld {
    /// The world at the start of a recording.
    pub fn new(recording: &Arc<Recording>) -> JournalWorld {
        JournalWorld {
            cursor: recording.cursor(),
            accesses: 0,
            target: 0,
            armed: None,
            outputs: OutputHash::default(),
            task_priority: recording
                .config()
                .start
                .as_ref()
                .map_or(0, |start| start.task_priority),
            counter: None,
            halted_at: None,
            mismatch: None,
            timed: Vec::new(),
            timed_max: TIMED_MAX,
        }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position {
            event: self.cursor.position(),
            accesses: self.accesses,
            outputs: self.outputs,
            task_priority: self.task_priority,
            counter: self.counter,
        }
    }

    /// How many events were made since they were taken.
    pub fn made(&self) -> usize {
        self.timed.len()
    }

    /// Goes to where it once stood, when it had made so many events.
    pub fn seek(&mut self, position: &Position, made: usize) {
        self.cursor.seek(position.event);
        self.accesses = position.accesses;
        self.outputs = position.outputs;
        self.task_priority = position.task_priority;
        self.counter = position.counter;
        self.armed = None;
        self.halted_at = None;
        self.mismatch = None;
        self.timed.truncate(made);
    }

    /// Index of the next event.
    pub fn event(&self) -> u64 {
        self.cursor.position()
    }

    /// Accesses so far.
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// Hash of all that went out.
    pub fn outputs(&self) -> u64 {
        self.outputs.0
    }

    /// How many accesses there may be.
    pub fn set_target(&mut self, accesses: u64) {
        self.target = accesses;
    }

    /// From here on the time-stamp counter reads this.
    pub fn set_counter(&mut self, value: u64) {
        self.counter = Some(value);
    }

    /// Between two looks at RAM there are no more than so many events.
    #[cfg(test)]
    pub fn set_timed_max(&mut self, events: usize) {
        self.timed_max = events;
    }

    /// Lets an interrupt arrive at the tick where the machine is.
    pub fn arm(&mut self, interrupt: Interrupt) {
        self.armed = Some(interrupt);
    }

    /// Whether it has not arrived yet.
    pub fn is_armed(&self) -> bool {
        self.armed.is_some()
    }

    /// The first difference since the last `seek`.
    pub fn mismatch(&self) -> Option<&Mismatch> {
        self.mismatch.as_ref()
    }

    /// Notes a difference.
    pub fn fail(&mut self, recorded: String, replayed: String) {
        self.mismatch.get_or_insert(Mismatch { recorded, replayed });
    }

    /// The next event that is no answer, from the position on, and whether there is any. Goes past nothing.
    pub fn next_control(&self) -> Result<Option<Event>, crate::trace::Error> {
        let mut cursor = self.cursor.clone();
        while let Some(event) = cursor.next()? {
            if event.what.kind().class() != Class::Answer {
                return Ok(Some(event.clone()));
            }
        }
        Ok(None)
    }

    /// The list of pages that is the next event that is no answer, if it is one and makes sense.
    pub fn next_list(&self) -> Option<PageList> {
        let mut cursor = self.cursor.clone();
        let mut list = PageList::default();
        loop {
            let Ok(Some(Event {
                what: What::Pages { bytes },
                ..
            })) = cursor.next()
            else {
                return None;
            };
            if !list.add(bytes)? {
                return Some(list);
            }
        }
    }

    /// Goes past the event at the position, which must not be an answer.
    pub fn pass_control(&mut self) {
        match self.cursor.peek() {
            Ok(Some(event)) if event.what.kind().class() == Class::Answer => {
                let recorded = format!("{} at access {}", event.what, event.tick);
                self.fail(recorded, "come past it".to_string());
            }
            _ => {
                let _ = self.cursor.next();
            }
        }
    }

    /// Adds an event of a tick.
    pub fn push(&mut self, tick: Tick, what: What) {
        self.timed.push(Event { tick, cpu: 0, what });
    }

    /// The events with ticks since the last call.
    pub fn take_timed(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.timed)
    }

    /// The answer to an access; `None` where the recording has another.
    fn answer<T>(
        &mut self,
        now: Tick,
        asked: impl Fn() -> String,
        fit: impl Fn(&What) -> Option<T>,
    ) -> Option<T> {
        let accesses = self.accesses;
        let found = match self.cursor.peek() {
            Ok(Some(event)) if event.tick == accesses => match fit(&event.what) {
                Some(value) => Ok((value, event.what.clone())),
                None => Err(event.what.to_string()),
            },
            Ok(Some(event)) => Err(format!("{} after access {}", event.what, event.tick)),
            Ok(None) => Err("no more events".to_string()),
            Err(error) => Err(error.to_string()),
        };
        self.accesses += 1;
        match found {
            Ok((value, what)) => {
                let _ = self.cursor.next();
                self.push(now, what);
                Some(value)
            }
            Err(recorded) => {
                self.fail(recorded, asked());
                None
            }
        }
    }
}

impl World for JournalWorld {
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
        self.accesses += 1;
        self.outputs.add(port as u64, size, value as u64);
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
        self.accesses += 1;
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
        if let Some(value) = self.counter {
            if self.timed.len() < self.timed_max {
                self.push(now, What::Tsc { value });
            } else {
                let recorded = "a look at RAM within so many events".to_string();
                self.fail(recorded, format!("{} events without one", self.timed_max));
            }
            return value;
        }
        let asked =
            || "a read of the time-stamp counter, which the recorder did not see".to_string();
        self.answer(now, asked, |what| match *what {
            What::Tsc { value } => Some(value),
            _ => None,
        })
        .unwrap_or(0)
    }

    fn random(&mut self, now: Tick, _cpu: usize) -> u64 {
        let asked = || "RDRAND or RDSEED, which were hidden from the guest".to_string();
        self.answer(now, asked, |what| match *what {
            What::Random { value } => Some(value),
            _ => None,
        })
        .unwrap_or(0)
    }

    fn tpr_read(&mut self, now: Tick, _cpu: usize) -> u64 {
        let value = u64::from(self.task_priority);
        self.push(now, What::TprRead { value });
        value
    }

    fn tpr_write(&mut self, _now: Tick, _cpu: usize, value: u64) {
        self.outputs.add(OUTPUT_TPR, 1, value);
        self.task_priority = value as u8 & 15;
    }

    fn next_stop(&mut self, _now: Tick) -> Tick {
        Tick::MAX
    }

    fn poll(&mut self, _now: Tick, _cpu: usize, _dma: &mut Vec<Dma>) -> Pending {
        Pending {
            interrupt: matches!(self.armed, Some(Interrupt::Vector(_))),
            nmi: self.armed == Some(Interrupt::Nmi),
        }
    }

    fn interrupt(&mut self, now: Tick, _cpu: usize, _maskable: bool) -> Option<Interrupt> {
        let interrupt = self.armed.take()?;
        let what = match interrupt {
            Interrupt::Vector(vector) => What::Interrupt { vector },
            Interrupt::Nmi => What::Nmi,
        };
        self.push(now, what);
        Some(interrupt)
    }

    fn wait(&mut self, now: Tick, _cpu: usize, _interruptible: bool) -> Wait {
        // HLT is an access; it is made once, however often the caller looks.
        if self.halted_at != Some(now) {
            self.halted_at = Some(now);
            self.accesses += 1;
        }
        Wait::Again
    }

    fn ended(&mut self, _now: Tick) -> bool {
        self.accesses >= self.target || self.mismatch.is_some()
    }

    fn shutdown(&mut self, _now: Tick, _cpu: usize, _why: &str) {
        self.accesses += 1;
    }
}
