//! The recorder: a world around a live one that writes down every answer and every arrival.

use super::keeper::Standing;
use super::live::Live;
use crate::cpu::world::{Dma, Interrupt, Pending, Wait, World};
use crate::machine::StateDigest;
use crate::machine::outputs::{OUTPUT_MMIO, OUTPUT_MSR, OUTPUT_TPR, OutputHash};
use crate::tick::{GuestNs, NS_PER_TICK, Tick};
use crate::trace::{Digest, End, EndReason, Error, Event, What, Writer};
use devices::ConsoleTap;
use std::time::{Duration, Instant};

/// Writes a recording of what the live world does.
pub struct Recorder {
    /// The devices.
    pub live: Live,
    writer: Writer,
    outputs: OutputHash,
    /// The serial line and the task priority as a replay sees them.
    console: ConsoleTap,
    task_priority: u8,
    failure: Option<Error>,
    flushed: Instant,
}

/// The task priority register of the local APIC, where it is after reset.
const LAPIC_TASK_PRIORITY: u64 = devices::map::LAPIC_BASE + 0x80;

/// How often the file is brought up to date.
const FLUSH_PERIOD: Duration = Duration::from_millis(200);

impl Recorder {
    /// Records into a writer that already has RAM and state.
    pub fn new(mut live: Live, writer: Writer) -> Recorder {
        Recorder {
            console: live.console_tap(),
            task_priority: live.task_priority(),
            live,
            writer,
            outputs: OutputHash::default(),
            failure: None,
            flushed: Instant::now(),
        }
    }

    fn push(&mut self, tick: Tick, cpu: usize, what: What) {
        if self.failure.is_some() {
            return;
        }
        if let Err(error) = self.writer.push(&Event {
            tick,
            cpu: cpu as u8,
            what,
        }) {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: Error) {
        self.live.finish(EndReason::WriteFailed(error.to_string()));
        self.failure = Some(error);
    }

    fn note_clock(&mut self, now: Tick, cpu: usize) {
        if let Some(tsc_offset) = self.live.take_clock_change() {
            self.push(now, cpu, What::Clock { tsc_offset });
        }
    }

    /// Writes a digest of the state before tick `now`.
    pub fn digest(&mut self, now: Tick, state: &StateDigest) {
        let outputs = self.outputs.0;
        self.push(
            now,
            0,
            What::Digest(Box::new(Digest {
                registers: state.registers,
                pages: state.pages,
                outputs,
            })),
        );
    }

    /// Where the recording stands at tick `now`, where the machine is.
    pub fn standing(&self, now: Tick) -> Standing {
        Standing {
            events: self.writer.events(),
            tsc_offset: self
                .live
                .guest_ns(now)
                .wrapping_sub(now.wrapping_mul(NS_PER_TICK)),
            outputs: self.outputs.0,
            console: self.console,
            task_priority: self.task_priority,
        }
    }

    /// Brings the file up to date if that was not done for a while.
    pub fn flush_if_due(&mut self, executed_to: Tick) -> bool {
        let due = self.flushed.elapsed() >= FLUSH_PERIOD;
        if due {
            self.flush(executed_to);
            self.flushed = Instant::now();
        }
        due
    }

    /// Puts what was recorded so far into the file.
    pub fn flush(&mut self, executed_to: Tick) {
        if self.failure.is_none()
            && let Err(error) = self.writer.flush(executed_to)
        {
            self.fail(error);
        }
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Events recorded.
    pub fn events(&self) -> u64 {
        self.writer.events()
    }

    /// Writes the end, and gives the live world back. Or the first failure to write, if there was one.
    pub fn finish(
        mut self,
        tick: Tick,
        reason: EndReason,
        guest_ns: GuestNs,
        wall_ms: u64,
    ) -> Result<Live, Error> {
        let end = End {
            tick,
            reason,
            guest_ns: Some(guest_ns),
            wall_ms,
            statistics: Default::default(),
        };
        let finished = self.writer.finish(&end);
        match self.failure {
            Some(error) => Err(error),
            None => finished.map(|()| self.live),
        }
    }
}

impl World for Recorder {
    fn pio_read(&mut self, now: Tick, cpu: usize, port: u16, size: u8) -> u32 {
        let value = self.live.pio_read(now, cpu, port, size);
        self.push(now, cpu, What::PioRead { port, size, value });
        value
    }

    fn pio_write(&mut self, now: Tick, cpu: usize, port: u16, size: u8, value: u32) {
        self.outputs.add(port as u64, size, value as u64);
        self.console.write(port, size, value);
        self.live.pio_write(now, cpu, port, size, value);
    }

    fn mmio_read(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8) -> u64 {
        let value = self.live.mmio_read(now, cpu, gpa, size);
        self.push(now, cpu, What::MmioRead { gpa, size, value });
        value
    }

    fn mmio_write(&mut self, now: Tick, cpu: usize, gpa: u64, size: u8, value: u64) {
        self.outputs.add(OUTPUT_MMIO | gpa, size, value);
        if gpa == LAPIC_TASK_PRIORITY {
            self.task_priority = (value >> 4) as u8 & 15;
        }
        self.live.mmio_write(now, cpu, gpa, size, value);
    }

    fn msr_read(&mut self, now: Tick, cpu: usize, msr: u32) -> Option<u64> {
        let value = self.live.msr_read(now, cpu, msr);
        self.push(now, cpu, What::MsrRead { msr, value });
        value
    }

    fn msr_write(&mut self, now: Tick, cpu: usize, msr: u32, value: u64) -> bool {
        self.outputs.add(OUTPUT_MSR | msr as u64, 8, value);
        let ok = self.live.msr_write(now, cpu, msr, value);
        self.push(now, cpu, What::MsrWrite { msr, ok });
        ok
    }

    fn tsc(&mut self, now: Tick, cpu: usize) -> u64 {
        // A function of the tick and the last `Clock`: nothing to write.
        self.live.tsc(now, cpu)
    }

    fn random(&mut self, now: Tick, cpu: usize) -> u64 {
        let value = self.live.random(now, cpu);
        self.push(now, cpu, What::Random { value });
        value
    }

    fn tpr_read(&mut self, now: Tick, cpu: usize) -> u64 {
        let value = self.live.tpr_read(now, cpu);
        self.push(now, cpu, What::TprRead { value });
        value
    }

    fn tpr_write(&mut self, now: Tick, cpu: usize, value: u64) {
        self.outputs.add(OUTPUT_TPR, 1, value);
        self.task_priority = value as u8 & 15;
        self.live.tpr_write(now, cpu, value);
    }

    fn next_stop(&mut self, now: Tick) -> Tick {
        self.live.next_stop(now)
    }

    fn poll(&mut self, now: Tick, cpu: usize, dma: &mut Vec<Dma>) -> Pending {
        let pending = self.live.poll(now, cpu, dma);
        for write in dma.iter() {
            let bytes = write.bytes.clone().into_boxed_slice();
            self.push(
                now,
                cpu,
                What::Dma {
                    gpa: write.gpa,
                    bytes,
                },
            );
        }
        let typed = self.live.take_typed();
        if !typed.is_empty() {
            self.push(
                now,
                cpu,
                What::ConsoleInput {
                    bytes: typed.into_boxed_slice(),
                },
            );
        }
        pending
    }

    fn interrupt(&mut self, now: Tick, cpu: usize, maskable: bool) -> Option<Interrupt> {
        let interrupt = self.live.interrupt(now, cpu, maskable)?;
        let what = match interrupt {
            Interrupt::Vector(vector) => What::Interrupt { vector },
            Interrupt::Nmi => What::Nmi,
        };
        self.push(now, cpu, what);
        Some(interrupt)
    }

    fn wait(&mut self, now: Tick, cpu: usize, interruptible: bool) -> Wait {
        let wait = self.live.wait(now, cpu, interruptible);
        self.note_clock(now, cpu);
        // A guest that sleeps most of the time does not come back to the recorder's loop for long.
        self.flush_if_due(now);
        wait
    }

    fn ended(&mut self, now: Tick) -> bool {
        self.live.ended(now)
    }

    fn shutdown(&mut self, now: Tick, cpu: usize, why: &str) {
        self.live.shutdown(now, cpu, why);
    }
}
