//! The world around live devices that writes an untimed recording: answers in their order, and what arrives with the
//! state at which it does.
//!
//! The "tick" of an event is the number of accesses before it (see the head of `trace`). The `now` of the calls is the
//! live world's clock, in ticks of its own that have nothing to do with instructions.

use crate::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use crate::record::live::Live;
use crate::tick::Tick;
use crate::trace::EndReason;
use crate::trace::{End, Error, Event, PageList, Stand, What, Writer};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often the file is brought up to date.
const FLUSH_PERIOD: Duration = Duration::from_millis(200);

/// Writes down what the live world does.
pub struct Journal {
    /// The devices.
    pub live: Live,
    /// `None`: the run is not recorded.
    writer: Option<Writer>,
    accesses: u64,
    /// What the guest's time-stamp counter reads, where it is held: no access then.
    counter: Option<u64>,
    failure: Option<Error>,
    flushed: Instant,
}

impl Journal {
    /// Writes into a file that already has RAM and state; or nothing at all.
    pub fn new(live: Live, writer: Option<Writer>) -> Journal {
        Journal {
            live,
            writer,
            accesses: 0,
            counter: None,
            failure: None,
            flushed: Instant::now(),
        }
    }

    /// Whether anything is written.
    pub fn records(&self) -> bool {
        self.writer.is_some()
    }

    fn push(&mut self, what: What) {
        let Some(writer) = &mut self.writer else {
            return;
        };
        if self.failure.is_some() {
            return;
        }
        let event = Event {
            tick: self.accesses,
            cpu: 0,
            what,
        };
        if let Err(error) = writer.push(&event) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: Error) {
        self.live.finish(EndReason::WriteFailed(error.to_string()));
        self.failure = Some(error);
    }

    /// Writes the answer of an access.
    fn answer(&mut self, what: What) {
        self.push(what);
        self.accesses += 1;
    }

    /// Accesses so far.
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// An access without an answer: HLT, or the end by a triple fault.
    pub fn count_access(&mut self) {
        self.accesses += 1;
    }

    /// The registers after the access before.
    pub fn check(&mut self, registers: u64) {
        // Half of the bits tell as much and take half of the room.
        self.push(What::Check {
            registers: registers & 0xffff_ffff,
        });
    }

    /// What follows happens at this state.
    pub fn stand(&mut self, stand: Stand) {
        self.push(What::Stand(Box::new(stand)));
    }

    /// What arrives here, and the guest's time.
    pub fn arrival(&mut self, what: What, now: Tick) {
        let guest_ns = self.live.guest_ns(now);
        self.push(What::Clock {
            tsc_offset: guest_ns,
        });
        self.push(what);
    }

    /// What the guest's time-stamp counter reads, where it is held.
    pub fn counter(&self) -> Option<u64> {
        self.counter
    }

    /// From here on it reads this.
    pub fn set_counter(&mut self, value: u64) {
        if self.counter != Some(value) {
            self.counter = Some(value);
            self.push(What::Counter { value });
        }
    }

    /// Something that is not the guest wrote to RAM here.
    pub fn written(&mut self, gpa: u64, bytes: &[u8]) {
        self.push(What::Dma {
            gpa,
            bytes: bytes.into(),
        });
    }

    /// What RAM and processor are like here.
    pub fn pages(&mut self, list: &PageList) {
        for bytes in list.encode() {
            self.push(What::Pages { bytes });
        }
    }

    /// What the user typed since the last call.
    pub fn note_typed(&mut self) {
        let typed = self.live.take_typed();
        if !typed.is_empty() {
            self.push(What::ConsoleInput {
                bytes: typed.into_boxed_slice(),
            });
        }
    }

    /// Brings the file up to date if that was not done for a while; gives whether it was.
    pub fn flush_if_due(&mut self) -> bool {
        if self.flushed.elapsed() < FLUSH_PERIOD {
            return false;
        }
        self.flushed = Instant::now();
        if self.failure.is_none()
            && let Some(writer) = &mut self.writer
            && let Err(error) = writer.flush(self.accesses)
        {
            self.fail(error);
        }
        true
    }

    /// The live world, of a run that is not recorded.
    pub fn into_live(self) -> Live {
        self.live
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::bytes)
    }

    /// Writes the end, and gives the live world back. Or the first failure to write, if there was one.
    pub fn finish(
        self,
        reason: EndReason,
        guest_ns: u64,
        wall_ms: u64,
        statistics: BTreeMap<String, u64>,
    ) -> Result<Live, Error> {
        let end = End {
            tick: self.accesses,
            reason,
            guest_ns: Some(guest_ns),
            wall_ms,
            statistics,
        };
        let finished = self.writer.map_or(Ok(()), |mut writer| writer.finish(&end));
        self.failure.map_or(finished, Err).map(|()| self.live)
    }
}

impl World for Journal {
    fn pio_read(&mut self, now: Tick, cpu: usize, port: u16, size: u8) -> u32 {
        let value = self.live.pio_read(now, cpu, port, size);
        self.answer(What::PioRead { port, size, value });
        value
    }

    fn pio_write(&mut self, now: Tick, cpu: usize, port: u16, size: u8, value: u32) {
        self.accesses += 1;
        self.live.pio_write(now, cpu, port, size, value);
    }

    fn mmio_read(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8) -> u64 {
        let value = self.live.mmio_read(now, cpu, gpa, size);
        self.answer(What::MmioRead { gpa, size, value });
        value
    }

    fn mmio_write(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8, value: u64) {
        self.accesses += 1;
        self.live.mmio_write(now, cpu, gpa, size, value);
    }

    fn msr_read(&mut self, now: Tick, cpu: usize, msr: u32) -> Option<u64> {
        let value = self.live.msr_read(now, cpu, msr);
        self.answer(What::MsrRead { msr, value });
        value
    }

    fn msr_write(&mut self, now: Tick, cpu: usize, msr: u32, value: u64) -> bool {
        let ok = self.live.msr_write(now, cpu, msr, value);
        self.answer(What::MsrWrite { msr, ok });
        ok
    }

    fn tsc(&mut self, now: Tick, cpu: usize) -> u64 {
        if let Some(value) = self.counter {
            return value;
        }
        let value = self.live.tsc(now, cpu);
        self.answer(What::Tsc { value });
        value
    }

    fn random(&mut self, now: Tick, cpu: usize) -> u64 {
        let value = self.live.random(now, cpu);
        self.answer(What::Random { value });
        value
    }

    // CR8 does not leave the guest: the resolver knows what was written there.
    fn tpr_read(&mut self, now: Tick, cpu: usize) -> u64 {
        self.live.tpr_read(now, cpu)
    }

    fn tpr_write(&mut self, now: Tick, cpu: usize, value: u64) {
        self.live.tpr_write(now, cpu, value);
    }

    // Where the engine executes one instruction for KVM nothing arrives.
    fn next_stop(&mut self, _now: Tick) -> Tick {
        Tick::MAX
    }

    fn poll(&mut self, _now: Tick, _cpu: usize, _dma: &mut Vec<Dma>) -> Pending {
        Pending::default()
    }

    fn interrupt(&mut self, _now: Tick, _cpu: usize, _maskable: bool) -> Option<Interrupt> {
        None
    }

    fn wait(&mut self, _now: Tick, _cpu: usize, _interruptible: bool) -> Wait {
        Wait::Again
    }

    fn ended(&mut self, _now: Tick) -> bool {
        false
    }

    fn shutdown(&mut self, now: Tick, cpu: usize, why: &str) {
        self.accesses += 1;
        self.live.shutdown(now, cpu, why);
    }
}
